"""The contract of routes, and the route as a client of the installed server sees it."""

from collections.abc import Callable

import pytest
from mlxserve_hello import Hello

from mlxserve.testing import Call, RoutesContract, ServerProcess


class TestHello(RoutesContract):
    public = True

    @pytest.fixture
    def plugin(self) -> Hello:
        return Hello()

    @pytest.fixture
    def call(self) -> Call:
        return Call("GET", "/hello")


def test_installed_server_greets(process_of: Callable[..., ServerProcess]) -> None:
    server = process_of("--plugins", "hello")
    assert server.get("/hello").json() == {"hello": "tiny"}
