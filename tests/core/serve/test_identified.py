"""Each request has a name, in its answer and in its log lines."""

import re
from typing import Annotated, Any

import httpx
import pytest
from litestar import get
from litestar.params import Parameter
from structlog.contextvars import get_contextvars

from mlxserve.serve.app import build_app
from mlxserve_hookspecs import hookimpl

from .conftest import FakeService, Made, Pages

NEW = re.compile(r"req_[0-9a-f]{24}")


@pytest.fixture
def http(make_resolved: Made, service: FakeService) -> httpx.AsyncClient:
    app = build_app(make_resolved(Pages()), service)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://here")


@pytest.mark.parametrize("path", ["/card", "/nowhere", "/broken"])
async def test_every_answer_names_its_request(http: httpx.AsyncClient, path: str) -> None:
    names = [(await http.get(path)).headers["x-request-id"] for _ in range(2)]
    assert all(NEW.fullmatch(name) for name in names)
    assert names[0] != names[1]


async def test_a_clients_own_name_comes_back(http: httpx.AsyncClient) -> None:
    answer = await http.get("/nowhere", headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize("name", ["", "two words", "x" * 129, "h\u00e9"], ids=repr)
async def test_what_is_no_name_is_replaced(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.get("/card", headers=[(b"X-Request-Id", name.encode())])
    assert NEW.fullmatch(answer.headers["x-request-id"])


async def test_log_lines_of_a_request_can_be_found_by_its_name(
    make_resolved: Made, service: FakeService
) -> None:
    seen: list[dict[str, Any]] = []

    class Noting:
        @hookimpl
        def routes(self) -> list[Any]:
            @get("/{rest:path}")
            async def note(rest: Annotated[str, Parameter()]) -> str:
                seen.append(get_contextvars())
                return rest

            return [note]

    app = build_app(make_resolved(Noting()), service)
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as http:
        await http.get(f"/{'a' * 100}?secret=1", headers={"X-Request-Id": "mine"})
    assert seen == [{"request_id": "mine", "method": "GET", "path": f"/{'a' * 63}"}]
    assert get_contextvars() == {}
