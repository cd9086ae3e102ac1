import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from anthropic import Anthropic as Client
from attrs import define, field, frozen
from litestar import Litestar
from litestar.config.app import AppConfig

from mlxserve.serve.errors import make_handlers
from mlxserve_hookspecs import Limits, Markup, OutputParser, Services
from mlxserve_plugins.anthropic import Anthropic
from mlxserve_plugins.tools.choosing import form_of

from ..live import listening
from ..openai.fake_engine import FakeAdmission, FakeEngine

KEEPALIVE = 0.1
MOST_BYTES = 400_000
MARKUP = Markup(
    think_start="<think>",
    think_end="</think>",
    tool_start="<call>",
    tool_end="</call>",
)


def parse(text: object, tools: Any, reasoning: bool, forced: bool = False) -> OutputParser:
    """Return a parser of replies with thinking and calls."""
    made: OutputParser = form_of(MARKUP).parser(MARKUP, tools, reasoning=reasoning, forced=forced)
    return made


@define(eq=False)
class Stage:
    """What the server under test stands on; a test sets it up anew."""

    engine: FakeEngine
    admission: FakeAdmission
    parse: bool = False
    refused: list[tuple[int, str, str]] = field(factory=list)
    adjusted: list[tuple[str, str, str]] = field(factory=list)

    def refuse(self, status: int, code: str, name: str) -> None:
        self.refused.append((status, code, name))

    def adjust(self, surface: str, name: str, how: str) -> None:
        self.adjusted.append((surface, name, how))


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


def build_app(stage: Stage) -> Litestar:
    plugin = Anthropic()
    services = Services(
        engine=Delegate(stage, "engine"),
        admission=Delegate(stage, "admission"),
        settings=lambda: [("openai", "sse_keepalive_s", KEEPALIVE, "a test")],
        plugins=("anthropic",),
        clear_cache=dict,
        cache_stats=dict,
        tell_adjusted=stage.adjust,
        make_parser=lambda *args: parse(*args) if stage.parse else None,
    )
    config = AppConfig(
        route_handlers=list(plugin.routes(services)),
        exception_handlers=make_handlers(stage.refuse),
        request_max_body_size=MOST_BYTES,
        logging_config=None,
    )
    plugin.configure_app(config)
    return Litestar.from_config(config)


@pytest.fixture(scope="package")
def running() -> Iterator[Running]:
    """Serve on a free port for all tests of this folder."""
    stage = Stage(FakeEngine(), FakeAdmission())
    with listening(build_app(stage)) as url:
        yield Running(url, stage)


@pytest.fixture
def engine(running: Running) -> FakeEngine:
    """Return a fresh engine, and let everybody in."""
    limits = Limits(max_prompt_tokens=2000, max_model_len=2048, max_generation_tokens=1024)
    running.stage.engine = FakeEngine(limits=limits)
    running.stage.admission = FakeAdmission()
    running.stage.parse = False
    running.stage.refused.clear()
    running.stage.adjusted.clear()
    return running.stage.engine


@pytest.fixture
def admission(engine: FakeEngine, running: Running) -> FakeAdmission:
    """Return who decides about requests."""
    return running.stage.admission


@pytest.fixture
def parsing(engine: FakeEngine, running: Running) -> None:
    """Read replies with a parser."""
    running.stage.parse = True


@pytest.fixture(scope="package")
def clients(running: Running) -> Iterator[tuple[httpx.Client, Client]]:
    """Return both clients, made once: certificates take their time to load."""
    with (
        httpx.Client(base_url=running.url, timeout=10) as http,
        Client(base_url=running.url, api_key="none", max_retries=0, timeout=10) as sdk,
    ):
        yield http, sdk


@pytest.fixture
def http(engine: FakeEngine, clients: tuple[httpx.Client, Client]) -> httpx.Client:
    """Return a bare HTTP client."""
    return clients[0]


@pytest.fixture
def sdk(engine: FakeEngine, clients: tuple[httpx.Client, Client]) -> Client:
    """Return Anthropic's own client."""
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
