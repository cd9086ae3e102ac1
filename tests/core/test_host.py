import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from attrs import define, frozen

from mlxserve.cli.host import Host
from mlxserve_hookspecs import MlxserveError, ModelSource, Progress, hookimpl, option

from ..conftest import World


@frozen
class ShelfOptions:
    """Where models are."""

    shelf: str = option("shelf", "folder of folders", flag="--shelf")


@define
class Shelf:
    """Finds models, and notes when it was prepared."""

    options: ShelfOptions

    @hookimpl
    def preparing(self) -> None:
        PREPARED.append(self.options.shelf)

    @hookimpl
    def resolve_model(self, reference: str, progress: Progress) -> ModelSource | None:
        del progress
        if not reference.startswith("shelf:"):
            return None
        folder = Path(self.options.shelf, reference.removeprefix("shelf:"))
        return ModelSource(folder=folder, identity="x")


PREPARED: list[str] = []
LOGGED: list[object] = []


@pytest.fixture
def host(world: World, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Return a host that leaves this process's logging as it is, and notes where it would go."""

    def note(_: object, stream: object) -> None:
        LOGGED.append(stream)

    monkeypatch.setattr("mlxserve.serve.logging.configure_logging", note)
    PREPARED.clear()
    LOGGED.clear()
    world.add("a-shelf", {"shelf": Shelf})
    return Host(world.installed, {"MLXSERVE_PLUGINS": "shelf"})


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (("--model", "shelf:one"), "shelf/one"),
        (("--model", "shelf:one", "--shelf", "other"), "other/one"),
    ],
    ids=["as by default", "as the plugin's flag says"],
)
def test_the_folder_is_the_one_that_run_would_load(
    host: Host, words: Sequence[str], folder: str
) -> None:
    assert host.model_folder(words) == Path(folder)


def test_the_process_is_prepared_once(host: Host) -> None:
    host.model_folder(("--model", "shelf:one"))
    host.model_folder(("--model", "shelf:two", "--shelf", "other"))
    assert PREPARED == ["shelf"]


def test_logs_leave_standard_output_to_the_command(host: Host) -> None:
    host.model_folder(("--model", "shelf:one"))
    assert [sys.stderr] == LOGGED


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "nowhere"), "--model 'nowhere' is not a hub id"),
        (("--nonsense",), "unknown flag"),
    ],
)
def test_a_mistake_is_one_line(host: Host, words: Sequence[str], message: str) -> None:
    with pytest.raises(MlxserveError, match=message) as caught:
        host.model_folder(words)
    assert "\n" not in str(caught.value)
