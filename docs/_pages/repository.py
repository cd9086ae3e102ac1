"""Links from ``docs/`` into the repository lead to pages of the files that they name.

A hook of mkdocs. Within the pages as on the repository's host, a link to a Markdown file shows it,
and a link to any other file shows its text; ``test_x.py#test_name`` leads to that function. A
paragraph that is nothing but a link to a section of README or CONTRIBUTING becomes that section.
"""

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = "docs/"
PAGES: Final = "repository/"
"""Where pages of the repository's files go, below ``docs/``."""

LINK: Final = re.compile(r"(\]\(|^\[[^\]\n]+\]: )([^)\s]+)", re.MULTILINE)
"""An inline link, or where a reference leads; the second group is the target."""

FENCE: Final = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
INCLUDED: Final = re.compile(r"^\[[^\]]+\]\(([^)#\s]+\.md)#([\w-]+)\)$", re.MULTILINE)
FOREIGN: Final = re.compile(
    r"""<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=["']?(?:https?:)?//[^>]*>"""
)
LANGUAGES: Final = {".py": "python", ".toml": "toml", ".json": "json", ".yaml": "yaml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file of the repository that a page leads to, and so on."""
    waiting = [file.src_uri for file in files.documentation_pages()]
    texts = {uri: files.src_uris[uri].content_string for uri in waiting}
    texts |= {uri: page_text(uri) for uri in _of_nav(config.nav)}
    waiting = [*texts]
    while waiting:
        source = waiting.pop()
        for target in targets(texts[source], source):
            if target not in texts:
                texts[target] = page_text(target)
                waiting.append(target)
    for uri, text in texts.items():
        if uri.startswith(PAGES):
            level = InclusionLevel.NOT_IN_NAV  # most are reached by links only
            files.append(File.generated(config, uri, content=text, inclusion=level))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Include sections, and point links at pages."""
    return rewritten(included(markdown, page.file.src_uri), page.file.src_uri)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Refuse a page that loads something from another host."""
    if foreign := FOREIGN.findall(output):
        raise PluginError(f"{page.file.src_uri} loads from another host: {foreign}")
    return output


def _of_nav(nav: Any) -> Iterator[str]:
    if isinstance(nav, (list, dict)):
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _of_nav(entry)
    elif nav.startswith(PAGES):
        yield nav


def place(uri: str) -> str:
    """Return where a page's source lies in the repository."""
    if not uri.startswith(PAGES):
        return DOCS + uri
    path = uri.removeprefix(PAGES)
    return path if (ROOT / path).is_file() else path.removesuffix(".md")


def target(link: str, source: str) -> str | None:
    """Return the page that a link of page ``source`` leads to; ``None`` if it stays as it is.

    Raises:
        PluginError: It leads to nothing.
    """
    path, _, _ = link.partition("#")
    if not path or "://" in path or path.startswith("mailto:"):
        return None
    found = posixpath.normpath(posixpath.join(posixpath.dirname(place(source)), path))
    if found.startswith(DOCS):
        return found.removeprefix(DOCS)
    if (ROOT / found / "README.md").is_file():
        found = posixpath.join(found, "README.md")
    if not (ROOT / found).is_file():
        raise PluginError(f"{source}: {link} leads to no file of the repository")
    return PAGES + (found if found.endswith(".md") else f"{found}.md")


def targets(markdown: str, source: str) -> set[str]:
    """Return the pages of repository files that a page leads to."""
    links = LINK.findall(FENCE.sub("", included(markdown, source)))
    found = {target(link, source) for _, link in links}
    return {page for page in found if page and page.startswith(PAGES)}


def rewritten(markdown: str, source: str) -> str:
    """Return a page's text with its links as mkdocs reads them."""

    def led(match: "re.Match[str]") -> str:
        page = target(match[2], source)
        if page is None:
            return match[0]
        _, mark, fragment = match[2].partition("#")
        leads = posixpath.relpath(page, posixpath.dirname(source) or ".")
        return f"{match[1]}{leads}{mark}{fragment}"

    parts = FENCE.split(markdown)
    return "".join(part if index % 2 else LINK.sub(led, part) for index, part in enumerate(parts))


def included(markdown: str, source: str) -> str:
    """Return a page's text with the sections that it only names; their links are this page's."""

    def section(match: "re.Match[str]") -> str:
        page = target(match[1], source)
        if page is None or not page.startswith(PAGES):
            return match[0]
        there = place(page)
        here = posixpath.dirname(place(source))
        body = section_of((ROOT / there).read_text("utf-8"), match[2])

        def moved(link: "re.Match[str]") -> str:
            path, mark, fragment = link[2].partition("#")
            if "://" in path:
                return link[0]
            full = posixpath.join(posixpath.dirname(there), path) if path else there
            return f"{link[1]}{posixpath.relpath(full, here)}{mark}{fragment}"

        return LINK.sub(moved, body)

    return INCLUDED.sub(section, markdown)


def section_of(text: str, anchor: str) -> str:
    """Return what stands below the heading of that anchor, up to the next heading of its level.

    Raises:
        PluginError: There is no such heading.
    """
    prose = FENCE.sub(lambda match: match[0].replace("\n#", "\n\0"), text)
    for heading in re.finditer(r"^(#+) (.+)$", prose, re.MULTILINE):
        words = re.sub(r"[^\w\s-]", "", heading[2]).strip().lower().replace(" ", "-")
        if words == anchor:
            rest = prose[heading.end() :]
            end = re.search(rf"^#{{1,{len(heading[1])}}} ", rest, re.MULTILINE)
            return (rest[: end.start()] if end else rest).replace("\0", "#").strip()
    raise PluginError(f"no heading #{anchor}")


def page_text(uri: str) -> str:
    """Return the Markdown of a repository file's page."""
    path = place(uri)
    text = (ROOT / path).read_text("utf-8")
    if path.endswith(".md"):
        return text
    if path.endswith(".py"):
        return f"# {path}\n\n" + "\n".join(_python(text))
    return f"# {path}\n\n{_fenced(text, LANGUAGES.get(PurePosixPath(path).suffix, ''))}"


def _python(text: str) -> Iterator[str]:
    """Yield a module's text, with a heading before each function and class."""
    lines = text.splitlines()
    at = 0
    for node in ast.parse(text).body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        begin = min([node.lineno, *(mark.lineno for mark in node.decorator_list)]) - 1
        yield from _piece(lines[at:begin])
        yield f"## {node.name}\n"
        yield from _piece(lines[begin : node.end_lineno])
        at = node.end_lineno or at
    yield from _piece(lines[at:])


def _piece(lines: list[str]) -> Iterator[str]:
    if any(lines):
        yield _fenced("\n".join(lines).strip("\n"), "python")


def _fenced(text: str, language: str) -> str:
    ticks = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`{3,}", text)), 0)
    return f"{ticks}{language}\n{text}\n{ticks}\n"
