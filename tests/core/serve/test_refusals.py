"""Every refusal is one line of the log and one word to the plugins, whoever made it."""

from collections.abc import Iterator
from typing import Any

import pytest
from litestar import Request, get, post
from litestar.testing import TestClient
from structlog.testing import capture_logs

from mlxserve.serve.app import build_app
from mlxserve.serve.refusals import RefusalLog, field_of
from mlxserve_hookspecs import (
    Credentials,
    EngineStatus,
    GenerationRequest,
    RequestError,
    Services,
    hookimpl,
)

from .conftest import FakeService, Made

WRONG = RequestError(
    status=400,
    message="`messages[3].content` is 'hunter2'",
    param="messages[3].content",
    code="bad",
)


class Strict:
    """A plugin with a route for each kind of refusal."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request

    @hookimpl
    def authenticate(self, credentials: Credentials) -> RequestError:
        del credentials
        return RequestError(status=401, message="no", code="invalid_api_key")

    @hookimpl
    def admit(self, request: GenerationRequest, status: EngineStatus) -> RequestError:
        del request, status
        return RequestError(status=429, message="later", code="full", retry_after=1)

    @hookimpl
    def routes(self, services: Services) -> list[Any]:
        @get("/key")
        async def key() -> None:
            services.admission.authenticate(Credentials(headers={}, path="/key"))

        @get("/place")
        async def place() -> None:
            services.admission.admit(self.request)

        @post("/wrong")
        async def wrong(request: Request[Any, Any, Any]) -> None:
            await request.json()
            raise WRONG

        @get("/ended")
        async def ended() -> None:
            raise RequestError(status=503, message="out of memory", told=True)

        @get("/loading")
        async def loading() -> str:
            return services.engine.card.id

        @get("/bug")
        async def bug() -> None:
            raise RequestError(status=500, message="a bug")

        return [key, place, wrong, ended, loading, bug]


class Hearing:
    """Hears of refusals."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, str, str]] = []

    @hookimpl
    def request_refused(self, status: int, code: str, field: str) -> None:
        self.heard.append((status, code, field))


@pytest.fixture
def hearing() -> Hearing:
    return Hearing()


@pytest.fixture
def client(
    make_resolved: Made, service: FakeService, hearing: Hearing, request_of_one: GenerationRequest
) -> Iterator[TestClient[Any]]:
    app = build_app(make_resolved(Strict(request_of_one), hearing, RefusalLog()), service)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


REFUSALS: dict[str, tuple[str, str, dict[str, Any] | None, tuple[int, str, str]]] = {
    "no key": ("GET", "/key", None, (401, "invalid_api_key", "")),
    "no place": ("GET", "/place", None, (429, "full", "")),
    "a field": ("POST", "/wrong", {}, (400, "bad", "messages[].content")),
    "a path": ("GET", "/nowhere", None, (404, "not_found", "")),
    "a method": ("POST", "/key", {}, (405, "method_not_allowed", "")),
    "a body": ("POST", "/wrong", {"a": "x" * 2000}, (413, "request_too_large", "")),
    "no model yet": ("GET", "/loading", None, (503, "server_error", "")),
}


@pytest.mark.parametrize(("method", "path", "body", "told"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_logged_and_told_once(
    client: TestClient[Any],
    hearing: Hearing,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    told: tuple[int, str, str],
) -> None:
    with capture_logs() as logs:
        assert client.request(method, path, json=body).status_code == told[0]
    assert hearing.heard == [told]
    (line,) = (log for log in logs if log["event"] == "request refused")
    assert (line["status"], line["reason"], line.get("field", "")) == told
    assert "hunter2" not in repr(line)


@pytest.mark.parametrize("path", ["/ended", "/bug"])
def test_what_is_told_elsewhere_is_not_told_again(
    client: TestClient[Any], hearing: Hearing, path: str
) -> None:
    assert client.get(path).status_code >= 500
    assert hearing.heard == []


FIELDS: dict[str, tuple[RequestError, str]] = {
    "none": (RequestError(status=400, message=""), ""),
    "an index": (RequestError(status=400, message="", param="a[12].b[0]"), "a[].b[]"),
    "a key of an object": (RequestError(status=400, message="", param="a[...]"), "a[]"),
    "a client's own word": (RequestError(status=400, message="", param="My Secret"), "other"),
    "a long word": (RequestError(status=400, message="", param="a" * 99), "other"),
    "an unknown field": (
        RequestError(status=400, message="", param="secret", code="unknown_parameter"), "other",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("error", "name"), FIELDS.values(), ids=FIELDS)
def test_a_field_is_told_without_what_the_client_made_up(error: RequestError, name: str) -> None:
    assert field_of(error) == name
