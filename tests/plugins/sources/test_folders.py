import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlxserve_plugins.folders import (
    cache_home,
    intact,
    locked,
    remembered_sha256,
    replaced,
    sha256_of,
)

FACTS = {"source": "x"}


def make(target: Path, text: str = "content") -> None:
    with locked(target), replaced(target, FACTS) as made:
        (made / "file").write_text(text)


def test_cache_follows_the_desktop_standard(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_home() == tmp_path / "mlxserve"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_home() == Path.home() / ".cache" / "mlxserve"


def test_folder_made_is_intact_until_a_file_changes(tmp_path: Path) -> None:
    target = tmp_path / "it"
    assert not intact(target, FACTS)
    make(target)
    assert intact(target, FACTS)
    assert not intact(target, {"source": "y"})
    (target / "file").write_text("CONTENT")
    assert not intact(target, FACTS)
    (target / "file").write_text("content")
    assert intact(target, FACTS)
    (target / "file").unlink()
    assert not intact(target, FACTS)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"facts": {"source": "x"}}'])
def test_broken_manifest_is_not_believed(tmp_path: Path, text: str) -> None:
    make(tmp_path / "it")
    (tmp_path / "it" / "manifest.json").write_text(text)
    assert not intact(tmp_path / "it", FACTS)


def test_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "it"
    make(target)

    def fail() -> None:
        with replaced(target, FACTS) as made:
            (made / "file").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert intact(target, FACTS)
    assert {path.name for path in tmp_path.iterdir()} == {"it", ".it.lock"}


def test_new_folder_takes_the_place_of_the_old(tmp_path: Path) -> None:
    make(tmp_path / "it", "old")
    make(tmp_path / "it", "new")
    assert (tmp_path / "it" / "file").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"it", ".it.lock"}


KILLED = """
import os, signal, sys
from pathlib import Path
from mlxserve_plugins.folders import locked, replaced
target = Path(sys.argv[1])
with locked(target), replaced(target, {}) as made:
    (made / "file").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_process_leaves_no_lock_and_its_rest_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "it"
    done = subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False)
    assert done.returncode == -9
    assert not target.exists()
    assert list(tmp_path.glob(".it.making-*"))
    make(target)
    assert intact(target, FACTS)
    assert {path.name for path in tmp_path.iterdir()} == {"it", ".it.lock"}


def test_second_process_waits_for_the_first_and_says_so(tmp_path: Path) -> None:
    target, order, said = tmp_path / "it", list[str](), threading.Event()

    def second() -> None:
        with locked(target, said.set):
            order.append("second")

    with locked(target):
        thread = threading.Thread(target=second)
        thread.start()
        assert said.wait(5)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_hash_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file, memory, reads = tmp_path / "file", tmp_path / "memory", list[str]()

    def tell(what: str, done: int, total: int | None) -> None:
        assert done == total
        reads.append(what)

    file.write_text("one")
    assert remembered_sha256(file, memory, tell) == sha256_of(file)
    assert remembered_sha256(file, memory, tell) == sha256_of(file)
    assert reads == ["checking file"]
    file.write_text("other")
    assert remembered_sha256(file, memory, tell) == sha256_of(file)
    assert reads == ["checking file"] * 2
