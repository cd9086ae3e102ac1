"""``mlxserve doctor``: gather what is set, look at each area, print a line for each finding."""

import json
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import asdict

from mlxserve_plugins.doctor import looking
from mlxserve_plugins.doctor.looking import Finding

OWN: Final = ("model", "host", "port", "ssd-cache-dir")
"""Flags of ``mlxserve run`` that this command takes itself."""

PATIENCE_S: Final = 120.0


def add_arguments(parser: ArgumentParser) -> None:
    """Add what ``doctor`` takes."""
    for name in OWN:
        parser.add_argument(f"--{name}", help="as for mlxserve run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("flags", nargs="*", help="more flags of mlxserve run, after --")


def run(arguments: Namespace) -> int:
    """Print what was found; return 1 if something keeps the server from starting, else 0."""
    own = [(name, getattr(arguments, name.replace("-", "_"))) for name in OWN]
    words = [word for name, value in own if value for word in (f"--{name}", value)]
    findings = list(examine([*words, *arguments.flags]))
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=2) + "\n")
    else:
        sys.stdout.write("".join(f"{line_of(finding)}\n" for finding in findings))
    return int(any(finding.state == "problem" for finding in findings))


def examine(words: Sequence[str]) -> Iterable[Finding]:
    """Yield what is to be said of this machine and of ``mlxserve run`` with ``words``."""
    yield from looking.machine()
    yield from looking.backend()
    status, printed, complaint = ask("config", words)
    if status:
        yield Finding("settings", "problem", complaint, "mend that first: the rest depends on it")
        return
    settings = by_name(json.loads(printed)["settings"])
    yield Finding("settings", "ok", "every setting has a value that it can have")
    yield from looking.model(str(settings["model", "model"]))
    yield from looking.memory(str(settings["model", "model"]))
    yield from looking.port(str(settings["server", "host"]), int(settings["server", "port"]))
    folder = settings.get(("ssd-tier", "cache_dir"))
    if folder is not None:
        yield from looking.disk(str(folder), float(settings["ssd-tier", "min_free_gb"]))
    status, printed, complaint = ask("plugins", words)
    yield from looking.plugins(json.loads(printed) if status == 0 else [], complaint)


def ask(command: str, words: Sequence[str]) -> tuple[int, str, str]:
    """Return status, output and last complaint of ``mlxserve COMMAND --json`` with ``words``."""
    line = [sys.executable, "-m", "mlxserve", command, "--json", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    said = done.stderr.strip().rpartition("\n")[2].removeprefix("mlxserve: ")
    return done.returncode, done.stdout, said


def by_name(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Any]:
    """Return settings by section and name."""
    return {(row["section"], row["name"]): row["value"] for row in rows}


def line_of(finding: Finding) -> str:
    """Return a finding as a line."""
    remedy = f": {finding.remedy}" if finding.remedy else ""
    return f"{finding.state:<8} {finding.area:<9} {finding.what}{remedy}"
