import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from attrs import define, field, frozen
from litestar import Litestar
from openai import OpenAI

from mlxserve.serve.errors import make_handlers
from mlxserve_hookspecs import Services
from mlxserve_plugins.openai import OpenAi, OpenAiOptions

from ..live import listening
from .fake_engine import FakeAdmission, FakeEngine, MarkupParser

KEEPALIVE = 0.1
MOST_BYTES = 40_000


@define(eq=False)
class Stage:
    """What the server under test stands on; a test sets it up anew."""

    engine: FakeEngine
    admission: FakeAdmission
    parse: bool = False
    refused: list[tuple[int, str, str]] = field(factory=list)
    adjusted: list[tuple[str, str, str]] = field(factory=list)

    def refuse(self, status: int, code: str, field: str) -> None:
        """Hear of a refusal, as plugins do."""
        self.refused.append((status, code, field))

    def adjust(self, surface: str, field: str, how: str) -> None:
        """Hear what a request is served without, as plugins do."""
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


def build_app(stage: Stage) -> Litestar:
    plugin = OpenAi(OpenAiOptions(sse_keepalive_s=KEEPALIVE))
    services = Services(
        engine=Delegate(stage, "engine"),
        admission=Delegate(stage, "admission"),
        settings=list,
        plugins=("openai",),
        clear_cache=dict,
        cache_stats=dict,
        make_parser=lambda *_: MarkupParser() if stage.parse else None,
        tell_adjusted=stage.adjust,
    )

    return Litestar(
        list(plugin.routes(services)),
        exception_handlers=make_handlers(stage.refuse),
        request_max_body_size=MOST_BYTES,
        logging_config=None,
    )


@pytest.fixture(scope="package")
def running() -> Iterator[Running]:
    """Serve on a free port for all tests of this folder."""
    stage = Stage(FakeEngine(), FakeAdmission())
    with listening(build_app(stage)) as url:
        yield Running(url, stage)


@pytest.fixture
def engine(running: Running) -> FakeEngine:
    """Return a fresh engine, and let everybody in."""
    running.stage.engine = FakeEngine()
    running.stage.admission = FakeAdmission()
    running.stage.parse = False
    running.stage.refused.clear()
    running.stage.adjusted.clear()
    return running.stage.engine


@pytest.fixture
def stage(engine: FakeEngine, running: Running) -> Stage:
    """Return what the server stands on, and what was told."""
    return running.stage


@pytest.fixture
def admission(engine: FakeEngine, running: Running) -> FakeAdmission:
    """Return who decides about requests."""
    return running.stage.admission


@pytest.fixture
def parsing(engine: FakeEngine, running: Running) -> None:
    """Read replies with a parser."""
    running.stage.parse = True


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
