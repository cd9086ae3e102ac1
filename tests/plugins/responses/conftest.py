import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import httpx
import pytest
from attrs import define, field, frozen
from litestar import Litestar
from openai import OpenAI

from mlxserve.serve.errors import make_handlers
from mlxserve_hookspecs import Markup, OutputParser, Services, TextCodec
from mlxserve_plugins.responses import Responses, ResponsesOptions
from mlxserve_plugins.tools import Tools

from ..live import listening
from ..openai.fake_engine import FakeAdmission, FakeEngine, FakeText

KEEPALIVE = 0.1
MOST_BYTES = 100_000
STORE_SIZE = 8


class MarkedText(FakeText):
    """Marks thinking and calls as many models do."""

    markup = Markup(
        think_start="<think>",
        think_end="</think>",
        tool_start="<tool_call>",
        tool_end="</tool_call>",
    )


@define(eq=False)
class Stage:
    """What the server under test stands on; a test sets it up anew."""

    engine: FakeEngine
    admission: FakeAdmission
    adjusted: list[tuple[str, str, str]] = field(factory=list)

    def adjust(self, surface: str, field: str, how: str) -> None:
        self.adjusted.append((surface, field, how))


@frozen
class Running:
    """A live server."""

    url: str
    stage: Stage


class Delegate:
    """Hands everything on to the stage's part of that name, whichever it is now."""

    def __init__(self, stage: Stage, part: str) -> None:
        self._stage, self._part = stage, part

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(self._stage, self._part), name)


def make_parser(
    text: TextCodec,
    tools: Sequence[Mapping[str, Any]] | None,
    reasoning: bool,
    forced: bool = False,
) -> OutputParser | None:
    return Tools().make_output_parser(text, tools, reasoning, forced)


def build_app(stage: Stage) -> Litestar:
    services = Services(
        engine=Delegate(stage, "engine"),
        admission=Delegate(stage, "admission"),
        settings=lambda: [("openai", "sse_keepalive_s", KEEPALIVE, "default")],
        plugins=("responses",),
        clear_cache=dict,
        cache_stats=dict,
        make_parser=make_parser,
        tell_adjusted=stage.adjust,
    )
    plugin = Responses(ResponsesOptions(store_size=STORE_SIZE))
    return Litestar(
        list(plugin.routes(services)),
        exception_handlers=make_handlers(lambda *_: None),
        request_max_body_size=MOST_BYTES,
        logging_config=None,
    )


def new_engine() -> FakeEngine:
    engine = FakeEngine(text_codec=MarkedText())
    engine.limits = type(engine.limits)(max_prompt_tokens=2000, max_model_len=4000)
    return engine


@pytest.fixture(scope="package")
def running() -> Iterator[Running]:
    """Serve on a free port for all tests of this folder."""
    stage = Stage(new_engine(), FakeAdmission())
    with listening(build_app(stage)) as url:
        yield Running(url, stage)


@pytest.fixture
def engine(running: Running) -> FakeEngine:
    """Return a fresh engine, and let everybody in."""
    running.stage.engine = new_engine()
    running.stage.admission = FakeAdmission()
    running.stage.adjusted.clear()
    return running.stage.engine


@pytest.fixture
def admission(engine: FakeEngine, running: Running) -> FakeAdmission:
    """Return who decides about requests."""
    return running.stage.admission


@pytest.fixture(scope="package")
def clients(running: Running) -> Iterator[tuple[httpx.Client, OpenAI]]:
    """Return both clients, made once: certificates take their time to load."""
    with (
        httpx.Client(base_url=running.url, timeout=10) as http,
        OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0, timeout=10) as sdk,
    ):
        yield http, sdk


@pytest.fixture
def http(engine: FakeEngine, clients: tuple[httpx.Client, OpenAI]) -> httpx.Client:
    """Return a bare HTTP client."""
    return clients[0]


@pytest.fixture
def sdk(engine: FakeEngine, clients: tuple[httpx.Client, OpenAI]) -> OpenAI:
    """Return OpenAI's own client."""
    return clients[1]


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Return a function that waits for what another thread does."""

    def wait(holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + 5
        while not holds():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.005)

    return wait
