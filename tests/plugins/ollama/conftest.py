from collections.abc import Iterator

import httpx
import pytest
from litestar import Litestar
from litestar.config.app import AppConfig
from ollama import Client

from mlxserve.serve.errors import make_handlers
from mlxserve_hookspecs import Limits, Services
from mlxserve_plugins.ollama import Ollama

from ..anthropic.conftest import Delegate, Running, Stage, parse
from ..live import listening
from ..openai.fake_engine import FakeAdmission, FakeEngine


def build_app(stage: Stage) -> Litestar:
    plugin = Ollama()
    services = Services(
        engine=Delegate(stage, "engine"),
        admission=Delegate(stage, "admission"),
        settings=list,
        plugins=("ollama",),
        clear_cache=dict,
        cache_stats=dict,
        make_parser=lambda *args: parse(*args) if stage.parse else None,
        tell_adjusted=stage.adjust,
    )
    config = AppConfig(
        route_handlers=list(plugin.routes(services)),
        exception_handlers=make_handlers(stage.refuse),
        request_max_body_size=400_000,
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
    """Return a fresh engine, and let everybody in; replies are read for thinking and calls."""
    running.stage.engine = FakeEngine(limits=Limits(max_prompt_tokens=2000, max_model_len=2048))
    running.stage.admission = FakeAdmission()
    running.stage.parse = True
    running.stage.adjusted.clear()
    return running.stage.engine


@pytest.fixture
def http(engine: FakeEngine, running: Running) -> Iterator[httpx.Client]:
    """Return a bare HTTP client."""
    with httpx.Client(base_url=running.url, timeout=10) as found:
        yield found


@pytest.fixture
def sdk(engine: FakeEngine, running: Running) -> Iterator[Client]:
    """Return Ollama's own client."""
    with Client(host=running.url, timeout=10) as found:
        yield found
