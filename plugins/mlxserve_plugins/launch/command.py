"""``mlxserve launch``: ask the server what it serves, set an agent up for it, start it."""

import json
import os
import shlex
import shutil
import sys
import urllib.error
import urllib.request
from argparse import REMAINDER, ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from attrs import evolve

from mlxserve_hookspecs import MlxserveError, SettingError
from mlxserve_plugins.launch.recipes import KEY, RECIPES, MakeRecipe, Recipe, Target

OWN: Final = "words"
URL: Final = "http://127.0.0.1:8000"
FOLDER: Final = Path("~/.cache/mlxserve/launch")
PATIENCE_S: Final = 10.0
LONGEST_REPLY: Final = 32_000
SHARE: Final = 4
"""A reply may have one part in this many of the context."""

PLACEHOLDER: Final = "none"


class LaunchError(MlxserveError):
    """The agent cannot be started."""


class _Flags(ArgumentParser):
    """Reads what follows the agent's name."""

    def error(self, message: str) -> NoReturn:
        """Raise ``SettingError``, as the command line's own parser does."""
        raise SettingError(f"{message.removeprefix('argument ')}; words for the agent follow --")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the command's flags, so that they beat the server's of the same names."""
    about = f"one of {', '.join(RECIPES)}; what follows -- is for the agent itself"
    parser.add_argument(OWN, nargs=REMAINDER, metavar="AGENT [FLAGS] [-- WORDS]", help=about)
    _add_flags(parser)


def run(arguments: Namespace, key: str | None) -> int:
    """Start the agent, or print a script that does.

    Args:
        arguments: What was typed.
        key: The server's key, if it asks for one.

    Raises:
        SettingError: There is no such agent.
        LaunchError: No server answers, or the agent is not installed.
    """
    name, own, words = _split(getattr(arguments, OWN))
    parser = _Flags("mlxserve launch", add_help=False, allow_abbrev=False)
    _add_flags(parser)
    parser.parse_args(own, namespace=arguments)
    make, install = RECIPES[name]
    folder = Path(arguments.folder).expanduser() / name
    target = target_of(arguments, folder, key or PLACEHOLDER)
    if arguments.print:
        sys.stdout.write(script_of(make, target, words))
        return 0
    return _start(make(target), folder, words, install)


def target_of(flags: Namespace, folder: Path, key: str) -> Target:
    """Return what the server serves, as far as the flags do not say it.

    Raises:
        LaunchError: It does not answer, or serves no such model.
    """
    url = flags.url.rstrip("/").removesuffix("/v1")
    served = _served(url, key)
    model = flags.model or served[0]["id"]
    about = next((one for one in served if one["id"] == model), None)
    if about is None:
        known = ", ".join(one["id"] for one in served)
        raise LaunchError(f"{url} does not serve {model!r}; it serves {known}")
    context = flags.context or about.get("max_model_len")
    output = None if context is None else flags.output or min(LONGEST_REPLY, context // SHARE)
    return Target(url=url, key=key, model=model, context=context, output=output, folder=folder)


def script_of(make: MakeRecipe, target: Target, words: Sequence[str]) -> str:
    """Return a shell script that does what the command would do; the key stays a variable."""
    marker = "MLXSERVE-KEY-HERE"
    recipe = make(evolve(target, key=marker))
    shown = f"${{{KEY}:-{PLACEHOLDER}}}"

    def quoted(text: str) -> str:
        return shown.join(shlex.quote(part) if part else "" for part in text.split(marker)) or "''"

    lines = []
    for name, text in recipe.files.items():
        path = target.folder / name
        lines.append(f"mkdir -p {shlex.quote(str(path.parent))}")
        body = "".join(_escaped(part) + shown for part in text.split(marker))
        lines.append(f"cat > {shlex.quote(str(path))} <<END\n{body.removesuffix(shown)}END")
    lines += [f"export {name}={quoted(value)}" for name, value in recipe.variables.items()]
    lines.append("exec " + " ".join(quoted(word) for word in (*recipe.command, *words)))
    return "\n".join(lines) + "\n"


def write_files(recipe: Recipe, folder: Path) -> None:
    """Write a recipe's files; they may hold a key, so that only their owner reads them."""
    for name, text in recipe.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.write_text(text, "utf-8")


def _start(recipe: Recipe, folder: Path, words: Sequence[str], install: str) -> NoReturn:
    """Become the agent."""
    program = shutil.which(recipe.command[0])
    if program is None:
        raise LaunchError(f"{recipe.command[0]} is not installed: {install}")
    write_files(recipe, folder)
    os.execve(program, [*recipe.command, *words], {**os.environ, **recipe.variables})


def _served(url: str, key: str) -> list[dict[str, Any]]:
    request = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            found = json.load(answer)["data"]
            return [{**one, "id": str(one["id"])} for one in found]
    except urllib.error.HTTPError as error:
        advice = f"; set ${KEY}" if error.code in (401, 403) else ""
        raise LaunchError(f"{url} answers with status {error.code}{advice}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        advice = "start one with mlxserve run --preset agent --model MODEL, or name it with --url"
        raise LaunchError(f"no server of models answers at {url}: {advice}") from error


def _add_flags(parser: ArgumentParser) -> None:
    flags: dict[str, dict[str, Any]] = {
        "--url": {"default": URL, "help": f"the server's address (default: {URL})"},
        "--model": {"help": "the model's name (default: the first that the server lists)"},
        "--context": {"type": int, "help": "tokens of prompt and reply (default: the model's)"},
        "--output": {"type": int, "help": "tokens of a reply (default: a quarter of them)"},
        "--folder": {"default": str(FOLDER), "help": f"for files (default: {FOLDER})"},
        "--print": {"action": "store_true", "help": "print a shell script, and start nothing"},
    }
    for flag, how in flags.items():
        parser.add_argument(flag, **how)


def _split(words: Sequence[str]) -> tuple[str, Sequence[str], Sequence[str]]:
    """Return the agent's name, the command's flags, and the agent's own words."""
    if not words or words[0] not in RECIPES:
        known = ", ".join(RECIPES)
        what = f"unknown agent {words[0]!r}" if words else "no agent is named"
        raise SettingError(f"{what}: mlxserve launch knows {known}")
    name, *rest = words
    if "--" not in rest:
        return name, rest, ()
    at = rest.index("--")
    return name, rest[:at], rest[at + 1 :]


def _escaped(text: str) -> str:
    """Return a text as it stands in a here document whose variables are filled in."""
    return text.replace("\\", "\\\\").replace("$", "\\$").replace("`", "\\`")
