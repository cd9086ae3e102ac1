"""The contract of HTTP routes: an API surface, a page, a health check."""

from collections.abc import Iterator
from typing import Any

import pytest
from attrs import evolve, frozen

from mlxserve.engine.service import EngineService
from mlxserve.loading import register
from mlxserve.testing.contracts.base import Contract
from mlxserve.testing.engines import RunningEngine
from mlxserve.testing.servers import RunningServer, serving_app
from mlxserve_hookspecs import Credentials, RequestError, hookimpl
from mlxserve_hookspecs.serving import configure_app, routes

BODIES = ("", "{", "[]", "5", "null", '"text"', "{}", '{"model": []}', "[" * 2000, '{"a": NaN}')


@frozen
class Call:
    """A request that a route answers.

    Attributes:
        method: The HTTP method.
        path: The path.
        body: JSON; ``None`` is no body.
    """

    method: str
    path: str
    body: Any = None


class Nobody:
    """A plugin that refuses everybody."""

    @hookimpl(tryfirst=True)
    def authenticate(self, credentials: Credentials) -> RequestError:
        """Refuse."""
        del credentials
        return RequestError(status=401, message="nobody is welcome in this test")


class RoutesContract(Contract):
    """Of ``routes``: it answers, says when it cannot, and asks who is there.

    Override ``call``.

    Attributes:
        public: Whether strangers are answered too, as a health check does.
    """

    hooks = (routes, configure_app)
    public = False

    @pytest.fixture
    def call(self) -> Call:
        """Return a request that is answered with a status below 300; its model is ``tiny``."""
        raise NotImplementedError("override the fixture `call`")

    @pytest.fixture
    def server(self, plugin: object, reference_engine: RunningEngine) -> Iterator[RunningServer]:
        """Return a server of the plugin's routes and no others."""
        resolved = evolve(reference_engine.resolved, plugins=register({"plugin": plugin}))
        engine = reference_engine
        with serving_app(resolved, engine.service, engine.loop) as server:
            yield server

    @pytest.fixture
    def loading(self, plugin: object, reference_engine: RunningEngine) -> Iterator[RunningServer]:
        """Return a server whose model is not there yet."""
        resolved = evolve(reference_engine.resolved, plugins=register({"plugin": plugin}))
        service = EngineService(resolved)
        with serving_app(resolved, service, reference_engine.loop) as server:
            yield server

    @pytest.fixture
    def guarded(self, plugin: object, reference_engine: RunningEngine) -> Iterator[RunningServer]:
        """Return a server that refuses everybody."""
        plugins = register({"nobody": Nobody(), "plugin": plugin})
        resolved = evolve(reference_engine.resolved, plugins=plugins)
        engine = reference_engine
        with serving_app(resolved, engine.service, engine.loop) as server:
            yield server

    def test_route_answers(self, server: RunningServer, call: Call) -> None:
        """The request is answered."""
        answered = send(server, call)
        assert answered.status_code < 300, answered.text

    def test_loading_is_said(self, loading: RunningServer, call: Call) -> None:
        """While the model loads the answer is 503 with ``Retry-After``, or needs no engine."""
        answered = send(loading, call)
        assert answered.status_code < 400 or answered.status_code == 503, answered.text
        if answered.status_code == 503 and not self.public:
            assert "retry-after" in answered.headers

    def test_strangers_are_refused(self, guarded: RunningServer, call: Call) -> None:
        """Who may not is refused with 401, unless the route is ``public``."""
        answered = send(guarded, call)
        assert (answered.status_code < 300) if self.public else (answered.status_code == 401)

    def test_bad_bodies_are_refused(self, server: RunningServer, call: Call) -> None:
        """A body that is no JSON, or not what is meant, is the client's mistake: never a 500."""
        if call.body is None:
            pytest.skip("the route takes no body")
        for body in BODIES:
            headers = {"content-type": "application/json"}
            answered = server.call(call.method, call.path, content=body, headers=headers)
            assert answered.status_code < 500, f"{body[:20]!r}: {answered.text}"

    def test_errors_are_json(self, server: RunningServer, call: Call) -> None:
        """A body that cannot be read is answered with 400 and JSON."""
        if call.body is None:
            pytest.skip("the route takes no body")
        headers = {"content-type": "application/json"}
        answered = server.call(call.method, call.path, content="{", headers=headers)
        assert answered.status_code == 400
        assert isinstance(answered.json(), dict)


def send(server: RunningServer, call: Call) -> Any:
    """Return the answer to ``call``."""
    return server.call(call.method, call.path, **({} if call.body is None else {"json": call.body}))
