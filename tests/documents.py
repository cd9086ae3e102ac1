"""The documents of the repository, what is set as code in them, and the plugins they speak of."""

import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from mlxserve.cli.selection import CORE
from mlxserve.loading import PRESETS_GROUP, Installed
from mlxserve.settings import RESERVED, Section, options_class
from mlxserve_hookspecs import PROJECT
from mlxserve_plugins import DEFAULT

ROOT: Final = Path(__file__).parent.parent
EXAMPLES: Final = ROOT / "examples"
DOCUMENTS: Final = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for pattern in ("*.md", "docs/*.md", "examples/**/*.md")
    for path in sorted(ROOT.glob(pattern))
}
README, CONTRIBUTING = DOCUMENTS["README.md"], DOCUMENTS["CONTRIBUTING.md"]
PYPROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())
POINTS: Final = PYPROJECT["project"]["entry-points"]
PLUGINS: Final = {name: EntryPoint(name, to, PROJECT) for name, to in POINTS[PROJECT].items()}
PRESETS: Final = [EntryPoint(name, to, PRESETS_GROUP) for name, to in POINTS[PRESETS_GROUP].items()]
INSTALLED: Final = Installed(PLUGINS, default=DEFAULT, presets=tuple(PRESETS))
PROSE: Final = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


@frozen
class Fence:
    """One fenced block.

    Attributes:
        language: As it is marked.
        title: The file that it is, or is quoted from; empty if it is none.
        text: What is in it.
    """

    language: str
    title: str
    text: str


def fences(document: str) -> list[Fence]:
    found = re.findall(
        r'^ *```(\w*)(?: title="([^"]+)")?\n(.*?)^ *```$', document, re.MULTILINE | re.DOTALL
    )
    return [Fence(language, title, textwrap.dedent(text)) for language, title, text in found]


def texts(document: str, language: str) -> list[str]:
    return [fence.text for fence in fences(document) if fence.language == language]


def spans(document: str) -> list[str]:
    """Return what is set as code within prose."""
    return re.findall(r"`([^`\n]+)`", PROSE.sub("", document))


def links(document: str) -> list[str]:
    """Return where a document leads to, but for other hosts."""
    prose = PROSE.sub("", document)
    found = re.findall(r"\]\(([^)\s]+)\)|^\[[^\]\n]+\]: (\S+)$", prose, re.MULTILINE)
    return [link for pair in found for link in pair if link and "://" not in link]


def table(document: str, first: str) -> list[list[str]]:
    """Return the rows of the table whose first heading is ``first``."""
    after = document.split(f"\n| {first} |", 1)[1].splitlines()[2:]
    rows = []
    for line in after:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def shell_lines(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a shell block, without variables and redirections."""
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(re.sub(r" > \S+", "", line), comments=True), "&&"]:
            if word not in ("&&", "|", ";"):
                words += [word] if words or not re.match(r"[A-Z_]+=", word) else []
            elif words:
                yield words
                words = []


def section_of(name: str, installed: Installed = INSTALLED) -> Section | None:
    options = options_class(installed.load(name))
    return Section(name, options) if options else None


def example_points() -> dict[str, EntryPoint]:
    """Return the entry points of the packages in ``examples/`` by name."""
    found: dict[str, EntryPoint] = {}
    for path in sorted(EXAMPLES.glob("*/pyproject.toml")):
        announced: dict[str, Any] = tomllib.loads(path.read_text())["project"]["entry-points"]
        found |= {name: EntryPoint(name, to, PROJECT) for name, to in announced[PROJECT].items()}
    return found


SECTIONS: Final = [*CORE, *filter(None, (section_of(name) for name in PLUGINS))]
FLAGS: Final = RESERVED.union(*(section.flags for section in SECTIONS))
