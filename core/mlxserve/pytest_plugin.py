"""Fixtures for who writes plugins; pytest finds them wherever mlxserve is installed.

This module imports pytest and nothing else: whoever uses no fixture of it pays for none.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mlxserve.testing.engines import RunningEngine
    from mlxserve.testing.processes import ServerProcess
    from mlxserve.testing.servers import RunningServer

if "mlxserve.testing" not in sys.modules:  # else pytest runs within pytest
    pytest.register_assert_rewrite("mlxserve.testing")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a llama of two layers in float32 that speaks noise, and its text."""
    from mlxserve.testing.models import write_model

    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def reference_engine(tiny_model: Path) -> "Iterator[RunningEngine]":
    """Return an engine of the tiny model with the default set of plugins and no other."""
    from mlxserve.testing.engines import running_engine

    with running_engine((), tiny_model) as engine:
        yield engine


@pytest.fixture
def engine_of(tiny_model: Path) -> "Iterator[Callable[..., RunningEngine]]":
    """Return ``engine_of(*plugins, words=())``: an engine in this process.

    The given plugin objects are asked before the default set; ``words`` are those of
    ``mlxserve run``. The engine serves the tiny model and ends with the test.
    """
    from mlxserve.testing.engines import running_engine

    with ExitStack() as stack:

        def start(*plugins: object, words: tuple[str, ...] = ()) -> "RunningEngine":
            return stack.enter_context(running_engine(plugins, tiny_model, words))

        yield start


@pytest.fixture
def server_of(tiny_model: Path) -> "Iterator[Callable[..., RunningServer]]":
    """Return ``server_of(*plugins, words=())``: the same over HTTP, on a free port of this host."""
    from mlxserve.testing.servers import running_server

    with ExitStack() as stack:

        def start(*plugins: object, words: tuple[str, ...] = ()) -> "RunningServer":
            return stack.enter_context(running_server(plugins, tiny_model, words))

        yield start


@pytest.fixture
def process_of(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> "Iterator[Callable[..., ServerProcess]]":
    """Return ``process_of(*words)``: ``mlxserve run`` with installed plugins, a process of its own.

    It serves the tiny model on a free port unless ``words`` say otherwise, and ends with the test.
    """
    from mlxserve.testing.engines import without_tiers
    from mlxserve.testing.processes import LOOPBACK, serving

    with ExitStack() as stack:

        def start(*words: str) -> "ServerProcess":
            flags = (*LOOPBACK, "--model", str(tiny_model), *without_tiers(words), *words)
            return stack.enter_context(serving(tmp_path_factory.mktemp("server"), *flags))

        yield start
