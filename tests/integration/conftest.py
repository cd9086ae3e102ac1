"""Real servers: one with the demo model, one tiny, and as many more as a test needs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import pytest
from openai import OpenAI

from mlxserve.testing.models import write_model

from .live import LOOPBACK, LiveServer, serving

Serve: TypeAlias = Callable[..., LiveServer]
LIMITS = (
    "--max-concurrent-requests", "64", "--max-queue-size", "128", "--max-batch-size", "16",
    "--max-prompt-tokens", "4096", "--max-request-bytes", "200000",
    "--max-generation-tokens", "3000",
)  # fmt: skip


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Return a server of the demo model, as the README starts it."""
    folder = tmp_path_factory.mktemp("demo")
    words = ("--preset", "demo", "--port", "0")
    with serving(folder, *words, "--ssd-cache-dir", str(folder / "kv")) as server:
        yield server


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model that speaks noise, and starts quickly."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Return a server of that model with limits to run into."""
    folder = tmp_path_factory.mktemp("tiny")
    words = ("--model", str(tiny_folder), "--served-model-name", "tiny", "--no-ssd")
    with serving(folder, *LOOPBACK, *words, *LIMITS) as server:
        yield server


@pytest.fixture
def serve(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Return a function that serves the tiny model with more flags, for one test."""
    with ExitStack() as stack:

        def start(*words: str) -> LiveServer:
            folder = tmp_path_factory.mktemp("server")
            if "--ssd-cache-dir" not in words:
                words = (*words, "--no-ssd")
            flags = (*LOOPBACK, "--model", str(tiny_folder), *words)
            return stack.enter_context(serving(folder, *flags))

        yield start


@pytest.fixture(scope="session")
def client(demo: LiveServer) -> Iterator[OpenAI]:
    """Return OpenAI's own client of the demo; it does not try again by itself."""
    with OpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0, timeout=120) as found:
        yield found
