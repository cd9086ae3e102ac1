"""A server without an engine: a fake service, and plugins made of functions."""

import asyncio
import logging
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest
import structlog
from attrs import define, field
from litestar import Request, get, post

from mlxserve.loading import register
from mlxserve.options import LoggingOptions, ServerOptions
from mlxserve.resolved import Resolved, SettingRow
from mlxserve_hookspecs import (
    EngineStatus,
    GenerationEvent,
    GenerationRequest,
    Limits,
    ModelCard,
    RequestError,
    SamplingParams,
    Services,
    StopConditions,
    TextCodec,
    hookimpl,
)

CARD = ModelCard(
    id="tiny's model", created=7, vocab_size=8, limits=Limits(), has_chat_template=True
)


@define(eq=False)
class FakeService:
    """Stands for the engine: loads when told to, drains at once."""

    failure: BaseException | None = None
    loaded: threading.Event = field(factory=threading.Event)
    calls: list[str] = field(factory=list)
    draining: bool = False
    drain_waits_for: threading.Event | None = None
    at_start: Callable[["FakeService"], None] = lambda service: service.loaded.set()

    @property
    def client(self) -> "FakeService":
        return self

    @property
    def status(self) -> EngineStatus:
        return EngineStatus(ready=self.loaded.is_set(), draining=self.draining)

    @property
    def card(self) -> ModelCard:
        if not self.loaded.is_set():
            raise RequestError(status=503, message="the model is still loading", retry_after=1.5)
        return CARD

    @property
    def text(self) -> TextCodec:
        raise NotImplementedError

    def generate(self, request: GenerationRequest) -> AsyncIterator[Sequence[GenerationEvent]]:
        raise NotImplementedError

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        assert loop.is_running()
        self.calls.append("attach")

    def start(self) -> None:
        self.calls.append("start")
        self.at_start(self)

    def drain(self, timeout: float) -> bool:
        self.calls.append(f"drain {timeout:g}")
        self.draining = True
        return self.drain_waits_for is None or self.drain_waits_for.wait(20)

    def stop(self) -> None:
        self.calls.append("stop")

    def clear_cache(self) -> dict[str, int]:
        return {"ram": 3}

    def cache_stats(self) -> dict[str, dict[str, float]]:
        return {"ram": {"held": 3.0}}


class Pages:
    """A plugin that serves a few pages."""

    @hookimpl
    def routes(self, services: Services) -> list[Any]:
        @get("/card")
        async def card() -> str:
            return services.engine.card.id

        @post("/v1/chat/completions", status_code=200)
        async def chat(request: Request[Any, Any, Any]) -> dict[str, Any]:
            return {"heard": await request.json()}

        @get("/broken")
        async def broken() -> str:
            secret = "sk-very-secret"
            raise RuntimeError(f"it broke with {len(secret)} letters")

        return [card, chat, broken]


Made = Callable[..., Resolved]


@pytest.fixture
def make_resolved() -> Made:
    """Return settings of a run with the given plugins."""

    def make(*plugins: object, max_request_bytes: int = 1000) -> Resolved:
        named = {f"plugin-{index}": plugin for index, plugin in enumerate(plugins)}
        return Resolved(
            plugins=register(named),
            names=tuple(named),
            server=ServerOptions(
                host="127.0.0.1", port=0, max_request_bytes=max_request_bytes, shutdown_timeout_s=4
            ),
            logging=LoggingOptions(log_format="json"),
            rows=(SettingRow("server", "port", 0, "default"),),
            argv=("run", "--port", "0"),
        )

    return make


@pytest.fixture
def service() -> FakeService:
    """An engine that loads at once."""
    return FakeService()


@pytest.fixture
def request_of_one() -> GenerationRequest:
    """A request whose prompt nobody should see."""
    return GenerationRequest(
        id="req-1",
        prompt=(31337, 31338),
        sampling=SamplingParams(),
        stop=StopConditions(max_tokens=5, strings=("sk-stop",)),
    )


@pytest.fixture
def tidy_logging() -> Iterator[None]:
    """Put the process's logging back as it was."""
    root = logging.getLogger()
    handlers, level, shown = root.handlers[:], root.level, warnings.showwarning
    yield
    logging.captureWarnings(capture=False)
    warnings.showwarning = shown
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
