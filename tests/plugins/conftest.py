from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import structlog
from structlog.dev import ConsoleRenderer, plain_traceback

from .scripted import MakeStage, ScriptedService, Stage, stage_of


@pytest.fixture(scope="package", autouse=True)
def plain_tracebacks() -> Iterator[None]:
    """Log exceptions without their frames' locals, which rich takes a second to draw.

    Meanwhile a server under test answers nobody, for it shares its event loop with the log.
    """
    *before, _ = structlog.get_config()["processors"]
    structlog.configure(processors=[*before, ConsoleRenderer(exception_formatter=plain_traceback)])
    yield
    structlog.reset_defaults()


@pytest.fixture
def make_stage() -> Iterator[MakeStage]:
    """Return a function that serves plugins over a scripted engine."""
    with ExitStack() as stack:

        def make(*plugins: object, **settings: object) -> Stage:
            stage = stage_of(plugins, settings, ScriptedService())
            stack.enter_context(stage.http)
            return stage

        yield make
