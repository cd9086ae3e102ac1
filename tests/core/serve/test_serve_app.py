import json
import re
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version
from typing import Any

import pytest
import structlog
from litestar import Controller, Router, get
from litestar.config.app import AppConfig
from litestar.response import Stream
from litestar.testing import TestClient

from mlxserve.hooks import failures
from mlxserve.serve.app import build_app, services_of
from mlxserve.serve.description import page_of
from mlxserve_hookspecs import (
    Credentials,
    EngineStatus,
    GenerationRequest,
    Identity,
    OutputDelta,
    PluginError,
    RequestError,
    hookimpl,
)

from .conftest import FakeService, Made, Pages


@pytest.fixture
def client(make_resolved: Made, service: FakeService) -> Iterator[TestClient[Any]]:
    service.loaded.set()
    app = build_app(make_resolved(Pages()), service)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_the_plugins_routes_are_served(client: TestClient[Any]) -> None:
    assert client.get("/card").text == "tiny's model"


def test_before_the_model_is_there_the_answer_is_come_back_later(
    client: TestClient[Any], service: FakeService
) -> None:
    service.loaded.clear()
    answer = client.get("/card")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["error"]["message"] == "the model is still loading"


@pytest.mark.parametrize("path", ["/nowhere", "/v1/nowhere", "/v1"])
def test_an_unknown_path_is_a_json_error(client: TestClient[Any], path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": f"there is no {path} on this server",
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found",
    }


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/chat/completions"), ("POST", "/card")])
def test_a_wrong_method_names_the_right_one(
    client: TestClient[Any], method: str, path: str
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == 405
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "method_not_allowed")
    assert answer.headers["allow"].split(",")[0] in error["message"]


def test_a_body_beyond_the_limit_is_refused(client: TestClient[Any]) -> None:
    fits = client.post("/v1/chat/completions", json={"a": "x" * 900})
    assert fits.status_code == 200
    answer = client.post("/v1/chat/completions", json={"a": "x" * 1000})
    assert answer.status_code == 413
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "request_too_large")


def test_a_body_without_a_length_is_bounded_too(client: TestClient[Any]) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"a": "'
        yield b"x" * 2000
        yield b'"}'

    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/chat/completions", content=pieces(), headers=headers)
    assert answer.status_code == 413


def test_a_bug_is_logged_and_not_told(client: TestClient[Any]) -> None:
    with structlog.testing.capture_logs() as logs:
        answer = client.get("/broken")
    assert answer.status_code == 500
    assert "broke" not in answer.text
    assert answer.json()["error"]["type"] == "server_error"
    (entry,) = logs
    assert (entry["event"], entry["path"]) == ("request failed", "/broken")
    assert isinstance(entry["exc_info"], RuntimeError)
    assert entry["culprit"].startswith("plugin 'plugin-")


def test_the_interface_is_described(client: TestClient[Any]) -> None:
    described = json.loads(client.get("/schema/openapi.json").text)
    assert described["info"] == {"title": "mlxserve", "version": version("mlxserve")}
    assert "/v1/chat/completions" in described["paths"]


@pytest.mark.parametrize("path", ["/schema", "/schema/"])
def test_the_page_of_the_interface_loads_nothing_and_runs_nothing(
    client: TestClient[Any], path: str
) -> None:
    page = client.get(path)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "/v1/chat/completions" in page.text
    assert re.findall(r"<script|<link|<img|//|\bon\w+=", page.text) == []


def test_the_page_of_the_interface_is_text() -> None:
    schema = {
        "info": {"title": "<t>", "version": "1"},
        "paths": {
            "/<x>": {
                "post": {
                    "description": "Do <b>. More",
                    "requestBody": {"content": {"j": {"schema": {"$ref": "#/c/s/a_B"}}}},
                    "parameters": [{"name": "q", "in": "query", "description": "<i>"}],
                    "responses": {"200": {"description": "fine"}},
                }
            }
        },
        "components": {
            "schemas": {
                "a_B": {
                    "required": ["n"],
                    "properties": {
                        "n": {"oneOf": [{"type": "integer"}, {"type": "null"}]},
                        "m": {"type": "array", "items": {"$ref": "#/c/s/a_C"}},
                    },
                }
            }
        },
    }
    page = page_of(schema)
    assert re.findall(r"<(?:t|x|i)>", page) == []
    assert "<code>n</code><td>integer or null, required" in page
    assert "<code>m</code><td>list of C" in page
    assert "in query" in page


@pytest.mark.parametrize("path", ["/schema", "/schema/openapi.json", "/schema/nothing"])
def test_the_description_needs_a_key_where_routes_do(
    make_resolved: Made, service: FakeService, path: str
) -> None:
    with TestClient(build_app(make_resolved(Pages(), Doorkeeper()), service)) as client:
        assert client.get(path).status_code == 401
        answer = client.get(path, headers={"Authorization": "Bearer right"})
        assert answer.status_code == (404 if path.endswith("nothing") else 200)


def test_a_plugin_may_change_the_application(make_resolved: Made, service: FakeService) -> None:
    class Teapot:
        @hookimpl
        def configure_app(self, config: AppConfig) -> None:
            assert config.route_handlers  # after the routes
            config.exception_handlers[404] = lambda *_: _teapot()

    with TestClient(build_app(make_resolved(Pages(), Teapot()), service)) as client:
        assert client.get("/nowhere").status_code == 418


def _teapot() -> Any:
    from litestar import Response

    return Response(b"", status_code=418)


def test_a_plugin_that_fails_to_add_routes_is_named(
    make_resolved: Made, service: FakeService
) -> None:
    class Broken:
        @hookimpl
        def routes(self) -> list[Any]:
            raise ZeroDivisionError

    with pytest.raises(PluginError, match="plugin-0"):
        build_app(make_resolved(Broken()), service)


class Doorkeeper:
    """Knows one key, and takes nobody while the engine drains."""

    def __init__(self) -> None:
        self.told: list[object] = []

    @hookimpl
    def authenticate(self, credentials: Credentials) -> Identity | RequestError:
        if credentials.headers.get("authorization") == "Bearer right":
            return Identity("ann")
        return RequestError(status=401, message="no such key", code="invalid_api_key")

    @hookimpl
    def admit(self, status: EngineStatus) -> RequestError | None:
        return RequestError(status=503, message="later", retry_after=3) if status.draining else None

    @hookimpl
    def request_received(self, request: GenerationRequest) -> None:
        self.told.append(request.id)

    @hookimpl
    def request_refused(self, status: int, code: str) -> None:
        self.told.append((status, code))


def test_admission_is_the_plugins_and_they_hear_how_it_ended(
    make_resolved: Made, service: FakeService, request_of_one: GenerationRequest
) -> None:
    door = Doorkeeper()
    admission = services_of(make_resolved(door), service).admission
    right = Credentials(headers={"authorization": "Bearer right"}, path="/")
    assert admission.authenticate(right) == Identity("ann")
    with pytest.raises(RequestError, match="no such key"):
        admission.authenticate(Credentials(headers={}, path="/"))
    admission.admit(request_of_one)
    service.draining = True
    with pytest.raises(RequestError, match="later"):
        admission.admit(request_of_one)
    assert door.told == [(401, "invalid_api_key"), "req-1", (503, "")]


def test_a_refusal_that_is_handed_out_again_keeps_no_trace(
    make_resolved: Made, service: FakeService
) -> None:
    refusal = RequestError(status=401, message="no")

    class Curt:
        @hookimpl
        def authenticate(self) -> RequestError:
            return refusal

    admission = services_of(make_resolved(Curt()), service).admission
    with pytest.raises(RequestError, match="no"):
        admission.authenticate(Credentials(headers={}, path="/"))
    assert refusal.__traceback__ is None


def test_without_a_doorkeeper_everybody_gets_in(
    make_resolved: Made, service: FakeService, request_of_one: GenerationRequest
) -> None:
    admission = services_of(make_resolved(), service).admission
    assert admission.authenticate(Credentials(headers={}, path="/")) == Identity()
    admission.admit(request_of_one)


def test_a_doorkeeper_that_fails_lets_nobody_in(make_resolved: Made, service: FakeService) -> None:
    class Ill:
        @hookimpl
        def authenticate(self) -> Identity:
            raise ZeroDivisionError

    admission = services_of(make_resolved(Ill()), service).admission
    with pytest.raises(PluginError, match="plugin-0"):
        admission.authenticate(Credentials(headers={}, path="/"))


def test_routes_reach_settings_caches_and_parsers(
    make_resolved: Made, service: FakeService
) -> None:
    class Shouting:
        def feed(self, text: str) -> OutputDelta:
            return OutputDelta(content=text.upper())

        def finish(self) -> OutputDelta:
            return OutputDelta()

    class Parsing:
        @hookimpl
        def make_output_parser(self, tools: object) -> Shouting | None:
            return Shouting() if tools else None

    services = services_of(make_resolved(Parsing()), service)
    codec: Any = None
    parser = services.make_parser(codec, [{"type": "function"}], False)
    assert parser is not None
    assert parser.feed("a").content == "A"
    assert services.make_parser(codec, None, False) is None
    assert services.clear_cache() == {"ram": 3}
    assert services.cache_stats() == {"ram": {"held": 3.0}}
    assert list(services.settings()) == [("server", "port", 0, "default")]
    assert services.plugins == ("plugin-0",)


KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
    503: "server_error",
}


@pytest.mark.parametrize(("status", "kind"), KINDS.items())
def test_a_refusal_has_its_type_and_its_headers_on_any_path(
    make_resolved: Made, service: FakeService, status: int, kind: str
) -> None:
    class Refusing:
        @hookimpl
        def routes(self) -> list[Any]:
            @get("/refused")
            async def refused() -> None:
                raise RequestError(
                    status=status, message="no", param="p", code="c", retry_after=0.2
                )

            return [refused]

    with TestClient(build_app(make_resolved(Refusing()), service)) as client:
        answer = client.get("/refused")
    assert answer.status_code == status
    assert answer.json() == {"error": {"message": "no", "type": kind, "param": "p", "code": "c"}}
    assert answer.headers["retry-after"] == "1"
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


@pytest.mark.parametrize("kind", ["function", "controller", "router"])
def test_a_route_that_fails_counts_for_its_plugin(
    make_resolved: Made, service: FakeService, kind: str
) -> None:
    @get("/bad", sync_to_thread=False)
    def bad() -> None:
        raise ZeroDivisionError

    class Bad(Controller):
        path = "/in"

        @get("/bad", sync_to_thread=False)
        def bad(self) -> None:
            raise ZeroDivisionError

    route, path = {
        "function": (bad, "/bad"),
        "controller": (Bad, "/in/bad"),
        "router": (Router("/in", route_handlers=[bad]), "/in/bad"),
    }[kind]

    class Adds:
        @hookimpl
        def routes(self) -> list[Any]:
            return [route]

    resolved = make_resolved(Adds())
    with TestClient(build_app(resolved, service), raise_server_exceptions=False) as client:
        with structlog.testing.capture_logs() as logs:
            assert client.get(path).status_code == 500
        assert client.get("/none").status_code == 404
    assert [log["culprit"] for log in logs] == ["plugin 'plugin-0' (an unnamed distribution)"]
    assert failures(resolved.plugins) == {("plugin-0", "routes"): 1}


def test_a_stream_that_breaks_off_counts_for_its_plugin(
    make_resolved: Made, service: FakeService
) -> None:
    async def half() -> AsyncIterator[str]:
        yield "half"
        raise ZeroDivisionError

    class Adds:
        @hookimpl
        def routes(self) -> list[Any]:
            @get("/half", sync_to_thread=False)
            def stream() -> Stream:
                return Stream(half)

            return [stream]

    resolved = make_resolved(Adds())
    with TestClient(build_app(resolved, service), raise_server_exceptions=False) as client:
        with structlog.testing.capture_logs() as logs:
            client.get("/half")
        assert client.get("/none").status_code == 404
    (log,) = logs
    assert (log["event"], log["culprit"]) == (
        "a stream broke off",
        "plugin 'plugin-0' (an unnamed distribution)",
    )
    assert failures(resolved.plugins) == {("plugin-0", "routes"): 1}


def test_plugins_that_fail_are_counted_where_routes_can_see_it(
    make_resolved: Made, service: FakeService, request_of_one: GenerationRequest
) -> None:
    class Deaf:
        @hookimpl
        def request_received(self) -> None:
            raise ZeroDivisionError

    services = services_of(make_resolved(Deaf()), service)
    assert services.hook_errors() == {}
    with structlog.testing.capture_logs():
        services.admission.admit(request_of_one)
    assert services.hook_errors() == {("plugin-0", "request_received"): 1}
