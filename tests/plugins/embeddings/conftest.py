from collections.abc import Iterator

import httpx
import pytest
from litestar import Litestar
from openai import OpenAI

from mlxserve.serve.errors import make_handlers
from mlxserve_hookspecs import Limits, Services
from mlxserve_plugins.embeddings import Embeddings
from mlxserve_plugins.rerank import Rerank

from ..live import listening
from ..openai.conftest import Delegate, Running, Stage
from ..openai.fake_engine import FakeAdmission, FakeEngine


def build_app(stage: Stage) -> Litestar:
    services = Services(
        engine=Delegate(stage, "engine"),
        admission=Delegate(stage, "admission"),
        settings=list,
        plugins=("embeddings", "rerank"),
        clear_cache=dict,
        cache_stats=dict,
        make_parser=lambda *_: None,
        tell_adjusted=stage.adjust,
    )
    return Litestar(
        [*Embeddings().routes(services), *Rerank().routes(services)],
        exception_handlers=make_handlers(stage.refuse),
        request_max_body_size=4_000_000,
        logging_config=None,
    )


@pytest.fixture(scope="package")
def running() -> Iterator[Running]:
    """Serve on a free port for all tests of this folder."""
    stage = Stage(FakeEngine(), FakeAdmission())
    with listening(build_app(stage)) as url:
        yield Running(url, stage)


@pytest.fixture
def stage(running: Running) -> Stage:
    """Return what the server stands on, set up anew."""
    running.stage.engine = FakeEngine(limits=Limits(max_prompt_tokens=200, max_kv_tokens=100))
    running.stage.admission = FakeAdmission()
    running.stage.refused.clear()
    running.stage.adjusted.clear()
    return running.stage


@pytest.fixture
def engine(stage: Stage) -> FakeEngine:
    """Return its engine."""
    return stage.engine


@pytest.fixture(scope="package")
def clients(running: Running) -> Iterator[tuple[httpx.Client, OpenAI]]:
    """Return both clients, made once: certificates take their time to load."""
    with (
        httpx.Client(base_url=running.url, timeout=10) as http,
        OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0, timeout=10) as sdk,
    ):
        yield http, sdk


@pytest.fixture
def http(stage: Stage, clients: tuple[httpx.Client, OpenAI]) -> httpx.Client:
    """Return a bare HTTP client."""
    return clients[0]


@pytest.fixture
def sdk(stage: Stage, clients: tuple[httpx.Client, OpenAI]) -> OpenAI:
    """Return OpenAI's own client."""
    return clients[1]
