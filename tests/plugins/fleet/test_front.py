"""The front passes on what one model is asked, byte for byte, and answers for all itself."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from attrs import define, field
from prometheus_client.parser import text_string_to_metric_families

from mlxserve_plugins.auth import Auth, AuthOptions
from mlxserve_plugins.fleet.command import Server, listen
from mlxserve_plugins.fleet.figures import exposition
from mlxserve_plugins.fleet.file import FleetFile, ModelTable
from mlxserve_plugins.fleet.front import Front
from mlxserve_plugins.fleet.keeper import Keeper
from mlxserve_plugins.fleet.models import Model

PARTS = (b": odd\r\n\r\n", b"data: \xff\xfe{", b"}\n\n", b"data: [DONE]\n\n")
ASKED = {"model": "far", "stream": True, "messages": [], "unknown": [1.0, None]}


@define
class Upstream:
    """A server elsewhere, which notes what it is sent.

    Attributes:
        url: Where it is.
        heads: Request lines and headers.
        bodies: What followed them.
        stall: Whether it says nothing after the first part.
        breaks: Whether it goes away after the first part.
        left: Set when its client has gone.
    """

    url: str = ""
    heads: list[str] = field(factory=list)
    bodies: list[bytes] = field(factory=list)
    stall: bool = False
    breaks: bool = False
    left: asyncio.Event = field(factory=asyncio.Event)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        self.heads.append(head)
        length = next((li for li in head.splitlines() if li.startswith("content-length")), ":0")
        self.bodies.append(await reader.readexactly(int(length.partition(":")[2])))
        writer.write(
            b"HTTP/1.1 201 Fine\r\nContent-Type: text/event-stream\r\nX-Odd: yes\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        for part in PARTS:
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            await writer.drain()
            if self.breaks:
                return
            if self.stall:
                with suppress(ConnectionError):
                    await reader.read()
                self.left.set()
                return
        writer.write(b"0\r\n\r\n")
        await writer.drain()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    found = Upstream()
    server = await asyncio.start_server(found.answer, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield found
    server.close()


@asynccontextmanager
async def fronted(file: FleetFile, keys: Path | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """Run a front; yield a client of it."""
    listener, keeper = listen("127.0.0.1", 0), Keeper(file)
    front = Front(keeper, Auth(AuthOptions(api_key_file=keys)))
    server = Server(uvicorn.Config(front, log_config=None, lifespan="off"))
    running = asyncio.create_task(server.serve([listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            yield client
    finally:
        server.should_exit = True
        await running
        await keeper.stop()
        await front.client.aclose()


def one(url: str, **more: Any) -> FleetFile:
    return FleetFile(models={"far": ModelTable(url=url, **more)})


async def test_a_stream_and_its_headers_pass_through_unchanged(upstream: Upstream) -> None:
    body = json.dumps(ASKED, indent=3).encode()
    headers = {"x-api-key": "mine", "te": "trailers", "user-agent": "own", "accept": "x/y"}
    async with fronted(one(f"{upstream.url}/v1/")) as client:
        request = httpx.Request(
            "POST", client.base_url.join("/v1/chat/completions?a=%20b"),
            content=body, headers=headers,
        )  # fmt: skip
        answer = await client.send(request)
    assert (answer.status_code, answer.content) == (201, b"".join(PARTS))
    assert answer.headers["x-odd"] == "yes"
    assert upstream.bodies == [body]
    assert upstream.heads[0].startswith("post /v1/chat/completions?a=%20b http/1.1\r\n")
    lines = set(upstream.heads[0].split("\r\n"))
    assert {
        "x-api-key: mine",
        "user-agent: own",
        "accept: x/y",
        "accept-encoding: identity",
    } <= lines
    assert "te: trailers" not in lines


async def test_a_server_elsewhere_is_asked_by_its_own_name_of_the_model(upstream: Upstream) -> None:
    async with fronted(one(upstream.url, model="its/name")) as client:
        await client.post("/v1/responses", json=ASKED)
    assert json.loads(upstream.bodies[0]) == {**ASKED, "model": "its/name"}


async def test_a_client_that_leaves_is_known_to_the_model(upstream: Upstream) -> None:
    upstream.stall = True
    async with fronted(one(upstream.url)) as client:
        async with client.stream("POST", "/v1/completions", json=ASKED) as answer:
            assert (await anext(answer.aiter_raw())) == PARTS[0]
            assert not upstream.left.is_set()
        await asyncio.wait_for(upstream.left.wait(), 10)


async def test_a_server_that_breaks_off_ends_its_stream_with_an_error(upstream: Upstream) -> None:
    upstream.breaks = True
    async with fronted(one(upstream.url)) as client:
        answer = await client.post("/v1/messages", json=ASKED)
        assert answer.content.startswith(PARTS[0] + b"event: error\ndata: {")
        answer = await client.post("/v1/responses", json=ASKED)
        event = json.loads(answer.content.removeprefix(PARTS[0]).split(b"data: ")[1])
        assert event["type"] == "error"
        answer = await client.post("/v1/completions", json=ASKED)
        assert b'data: {"error":{' in answer.content
        assert answer.content.endswith(b"data: [DONE]\n\n")


async def test_a_server_that_is_not_there_is_a_503_and_shown_as_failed() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
    async with fronted(one(f"http://127.0.0.1:{port}")) as client:
        answer = await client.post("/v1/completions", json=ASKED)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["code"] == "model_unavailable"
        listed = (await client.get("/v1/models")).json()["data"][0]
        assert (listed["id"], listed["state"]) == ("far", "failed")
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/livez")).status_code == 200


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("/v1/chat/completions", lambda body: body["error"]["code"]),
        ("/v1/embeddings", lambda body: body["error"]["code"]),
        ("/v1/messages", lambda body: (body["type"], body["error"]["type"])),
        ("/v1/messages/count_tokens", lambda body: (body["type"], body["error"]["type"])),
        ("/api/chat", lambda body: type(body["error"])),
    ],
)
async def test_an_unknown_model_is_a_404_in_the_surfaces_shape(path: str, read: Any) -> None:
    async with fronted(one("http://127.0.0.1:9")) as client:
        answer = await client.post(path, json={"model": "other"})
        assert answer.status_code == 404
        assert read(answer.json()) in ("model_not_found", ("error", "not_found_error"), str)
        assert "this server has far" in answer.text


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "no JSON"),
        (b'{"model": 3}', 400, "the body is wrong"),
        (b"{}", 400, "name a model"),
        (b"x" * 101, 413, "larger"),
    ],
)
async def test_a_bad_request_is_refused(body: bytes, status: int, said: str) -> None:
    file = FleetFile(models={"far": ModelTable(url="http://127.0.0.1:9")}, max_request_bytes=100)
    async with fronted(file) as client:
        answer = await client.post("/v1/completions", content=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


async def test_the_default_is_asked_where_no_model_is_named(upstream: Upstream) -> None:
    tables = {"far": ModelTable(url=upstream.url), "other": ModelTable(url="http://127.0.0.1:9")}
    async with fronted(FleetFile(models=tables, default="far")) as client:
        answer = await client.post("/tokenize", json={"prompt": "a"})
    assert answer.status_code == 201
    assert json.loads(upstream.bodies[0]) == {"prompt": "a"}


async def test_keys_are_asked_for_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("me:secret")
    file = FleetFile(models={"near": ModelTable(model=str(tmp_path))})
    async with fronted(file, tmp_path / "keys") as client:
        answer = await client.post("/v1/messages", json={"model": "near"})
        assert (answer.status_code, answer.json()["type"]) == (401, "error")
        assert (await client.get("/v1/models")).status_code == 401
        assert (await client.get("/readyz")).status_code == 200
        mine = {"authorization": "Bearer secret"}
        listed = (await client.get("/v1/models", headers=mine)).json()["data"]
    assert [(entry["id"], entry["state"]) for entry in listed] == [("near", "unloaded")]


def test_figures_of_all_servers_are_one_page_with_a_label() -> None:
    text = (
        '# HELP x_total sum\n# TYPE x_total counter\nx_total{kind="k"} %d\n'
        "# HELP h times\n# TYPE h histogram\n"
        'h_bucket{le="1.0"} 1\nh_bucket{le="+Inf"} 2\nh_sum 3\nh_count 2\n'
    )
    models = [Model(name, ModelTable(model=name), loads=2) for name in "ab"]
    page = exposition(models, {"a": text % 1, "b": text % 2}).decode()
    assert page.count("# TYPE x_total counter") == page.count("# TYPE h histogram") == 1
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert found["x_total", (("kind", "k"), ("model", "b"))] == 2
    assert found["h_bucket", (("le", "+Inf"), ("model", "a"))] == 2
    assert found["mlxserve_fleet_loads_total", (("model", "a"),)] == 2
    assert found["mlxserve_fleet_model_state", (("model", "a"), ("state", "unloaded"))] == 1
