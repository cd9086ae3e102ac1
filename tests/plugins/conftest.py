from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from .scripted import MakeStage, ScriptedService, Stage, stage_of


@pytest.fixture
def make_stage() -> Iterator[MakeStage]:
    """Return a function that serves plugins over a scripted engine."""
    with ExitStack() as stack:

        def make(*plugins: object, **settings: object) -> Stage:
            stage = stage_of(plugins, settings, ScriptedService())
            stack.enter_context(stage.http)
            return stage

        yield make
