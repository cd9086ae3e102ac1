"""An API surface of somebody else's, made of what is public: `surface`, `guarding`, hookspecs."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, ClassVar

import pytest
from litestar import Litestar, Request, Response, post
from litestar.config.app import AppConfig
from litestar.params import Body
from litestar.testing import TestClient
from msgspec import Struct

from mlxserve.serve.errors import make_handlers
from mlxserve_hookspecs import (
    GenerationEvent,
    GenerationRequest,
    Route,
    SamplingParams,
    Services,
    StopConditions,
    hookimpl,
)
from mlxserve_plugins.guarding import guard
from mlxserve_plugins.surface.checks import check_model
from mlxserve_plugins.surface.errors import shape_errors
from mlxserve_plugins.surface.fields import Table, harmless, honoured
from mlxserve_plugins.surface.limits import reply_tokens
from mlxserve_plugins.surface.merging import merge
from mlxserve_plugins.surface.notes import Desk
from mlxserve_plugins.surface.transport import EventStream, JsonBody, notes_of

from ..openai.fake_engine import KEY, FakeAdmission, FakeEngine


class Say(Struct, kw_only=True):
    TABLE: ClassVar[Table] = Table.of("say", honoured("model", "words", "most"), harmless("mood"))
    words: list[str]
    model: str | None = None
    most: int | None = None


class SayPlugin:
    """Adds ``/say``: continues several texts side by side, as server-sent events."""

    @hookimpl
    def routes(self, services: Services) -> Sequence[Route]:
        desk = Desk("say", services.tell_adjusted)

        def asked(body: Say, at: int, most: int) -> AsyncIterator[Sequence[GenerationEvent]]:
            request = GenerationRequest(
                id=f"say-{at}",
                prompt=tuple(services.engine.text.encode(body.words[at])),
                sampling=SamplingParams(temperature=0.0),
                stop=StopConditions(max_tokens=most),
            )
            services.admission.admit(request)
            return services.engine.generate(request)

        async def lines(body: Say, most: int) -> AsyncGenerator[bytes, None]:
            starts = [lambda at=at: asked(body, at, most) for at in range(len(body.words))]
            async with aclosing(merge(starts)) as batches:
                async for batch in batches:
                    for event in batch[1] if batch else ():
                        said = json.dumps({"at": batch[0] if batch else 0, "text": event.text})
                        yield f"data: {said}\n\n".encode()

        @post("/say", guards=[guard(services)], dto=JsonBody[Say], status_code=200)
        async def say(
            data: Annotated[Say, Body()], request: Request[Any, Any, Any]
        ) -> Response[Any]:
            notes = notes_of(request)
            desk.check_unknown(notes.taken)
            check_model(data.model, services.engine.card, notes)
            limits, longest = services.engine.card.limits, max(map(len, data.words))
            where = {"name": "most", "where": "words"}
            most = reply_tokens(data.most, limits, longest, notes=notes, **where)
            desk.file(notes.taken, "a client")
            return EventStream(b": here it comes\n\n", lines(data, most))

        return [say]

    @hookimpl
    def configure_app(self, config: AppConfig) -> None:
        shape_errors(config, "/say", lambda status, error: {"no": status, "why": error["message"]})


@pytest.fixture
def adjusted() -> list[tuple[str, str, str]]:
    return []


@pytest.fixture
def http(adjusted: list[tuple[str, str, str]]) -> Iterator[TestClient[Litestar]]:
    plugin = SayPlugin()
    services = Services(
        engine=FakeEngine(),
        admission=FakeAdmission(locked=True),
        settings=list,
        plugins=("say",),
        clear_cache=dict,
        cache_stats=dict,
        make_parser=lambda *_: None,
        tell_adjusted=lambda *words: adjusted.append(words),
    )
    config = AppConfig(
        route_handlers=list(plugin.routes(services)),
        exception_handlers=make_handlers(lambda *_: None),
        request_max_body_size=100_000,
        logging_config=None,
    )
    plugin.configure_app(config)
    with TestClient(Litestar.from_config(config)) as client:
        yield client


def said(http: TestClient[Litestar], body: Mapping[str, Any], key: str = KEY) -> Any:
    return http.post("/say", json=body, headers={"Authorization": f"Bearer {key}"})


def test_it_streams_several_replies_and_says_what_it_did_not_take_by_its_word(
    http: TestClient[Litestar], adjusted: list[tuple[str, str, str]]
) -> None:
    answer = said(http, {"words": ["a", "b"], "most": 9000, "mood": "good", "odd": 1})
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line[:5] == "data:"]
    for at in range(2):
        assert "".join(e["text"] for e in events if e["at"] == at) == "Hello, world"
    assert {("say", "unknown", "ignored"), ("say", "most", "clamped")} <= set(adjusted)


@pytest.mark.parametrize(
    ("status", "body", "key"),
    [
        (400, {"words": "no list"}, KEY),
        (404, {"words": ["a"], "model": "another"}, KEY),
        (401, {"words": ["a"]}, "wrong"),
        (405, None, KEY),
    ],
    ids=["a body", "a model", "a key", "a method"],
)
def test_every_error_of_its_path_has_its_shape(
    http: TestClient[Litestar], status: int, body: Any, key: str
) -> None:
    answer = http.get("/say") if body is None else said(http, body, key)
    assert answer.status_code == status
    assert set(answer.json()) == {"no", "why"}
    assert answer.json()["no"] == status


def test_errors_of_other_paths_keep_the_servers_shape(http: TestClient[Litestar]) -> None:
    assert http.get("/saying").json()["error"]["code"] == "not_found"
