"""``mlxserve plugins check`` and ``plugins --trace``: each runs in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from mlxserve_hookspecs import PROJECT, PluginError

VARIABLE: Final = "MLXSERVE_TESTING_CHECK"
SUITES: Final = ("--pyargs", "mlxserve.testing.checked")
QUIET: Final = (
    "--noconftest",  # that of the folder where the command is typed is about something else
    "-p",
    "no:cacheprovider",
    "-p",
    "no:asyncio",
    "--no-header",
    "-v",
    "--tb=short",
    "-rs",
)
FLAGS: Final = "flags of mlxserve run: the plugins' options, after --"


def add_check(parser: ArgumentParser) -> None:
    """Add what ``plugins check`` takes."""
    parser.add_argument("distribution", help="its name, as pip knows it")
    parser.add_argument("flags", nargs="*", help=FLAGS)


def add_trace(parser: ArgumentParser) -> None:
    """Add what ``plugins --trace`` takes."""
    parser.add_argument("flags", nargs="*", help=FLAGS)


def check(arguments: Namespace) -> int:
    """Run the contracts; return 0 if all hold.

    Raises:
        PluginError: There is no such distribution, it has no plugins, or pytest is missing.
    """
    if find_spec("pytest") is None:
        raise PluginError("plugins check runs pytest: pip install pytest")
    asked = {"names": plugins_of(arguments.distribution), "words": arguments.flags}
    # What the plugins write goes to a folder that is deleted: caches of the user are left alone.
    with tempfile.TemporaryDirectory(prefix="mlxserve-check-") as folder:
        ini = Path(folder) / "pytest.ini"
        ini.write_text("[pytest]\n", "utf-8")
        env = {**os.environ, "XDG_CACHE_HOME": folder, VARIABLE: json.dumps(asked)}
        return _run("pytest", "-c", str(ini), "--rootdir", folder, *QUIET, *SUITES, env=env)


def trace(arguments: Namespace) -> int:
    """Print each hook call of a start, a chat and an end; return 0 if there was a start.

    Raises:
        PluginError: pytest is missing.
    """
    if find_spec("pytest") is None:
        raise PluginError("plugins --trace needs pytest: pip install pytest")
    return _run("mlxserve.testing.trace", *arguments.flags, env=os.environ)


def plugins_of(name: str) -> list[str]:
    """Return the names of a distribution's plugins.

    Raises:
        PluginError: There is no such distribution, or it announces none.
    """
    try:
        points = distribution(name).entry_points
    except PackageNotFoundError as error:
        raise PluginError(f"no distribution {name!r} is installed; pip list names those") from error
    found = [point.name for point in points if point.group == PROJECT]
    if not found:
        raise PluginError(f"{name} announces no plugins: it has no entry points of {PROJECT!r}")
    return found


def _run(module: str, *words: str, env: Mapping[str, str]) -> int:
    return subprocess.run([sys.executable, "-m", module, *words], env=env, check=False).returncode
