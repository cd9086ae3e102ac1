"""Byte order marks at the beginning of a model's text files, which the libraries stumble over."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

MARK: Final = b"\xef\xbb\xbf"
TEXTS: Final = frozenset((".json", ".jinja", ".txt"))


def marked(folder: Path) -> list[Path]:
    """Return the files of ``folder`` that begin with a byte order mark."""
    texts = (path for path in folder.iterdir() if path.suffix.lower() in TEXTS)
    return sorted(path for path in texts if path.is_file() and _begins_with_mark(path))


@contextmanager
def unmarked(folder: Path) -> Iterator[Path]:
    """Yield ``folder`` or, where files have marks, a folder of links with clean copies of those."""
    found = {path.name for path in marked(folder)} if folder.is_dir() else set()
    if not found:
        yield folder
        return
    with TemporaryDirectory(prefix="mlxserve-") as made:
        for path in folder.iterdir():
            clean = Path(made) / path.name
            if path.name in found:
                clean.write_bytes(path.read_bytes().removeprefix(MARK))
            else:
                clean.symlink_to(path.resolve())
        yield Path(made)


def _begins_with_mark(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MARK)) == MARK
