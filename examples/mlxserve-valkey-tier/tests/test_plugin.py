"""The plugin as the server sees it once pip has installed it, and what its README says of it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlxserve_valkey_tier.totals import NAMES

README = (Path(__file__).parents[1] / "README.md").read_text()


def mlxserve(*words: str) -> Any:
    command = [sys.executable, "-m", "mlxserve", *words, "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_server_finds_it_and_its_readme_lists_its_options() -> None:
    (row,) = (each for each in mlxserve("plugins") if each["name"] == "valkey-tier")
    assert row["distribution"] == "mlxserve-valkey-tier"
    assert row["hooks"] == ["make_cache_tier"]
    assert not row["active"], "it runs for those who ask for it"
    flags = [flag for option in row["options"] for flag in option["flags"]]
    assert re.findall(r"^\| `(--[a-z-]+)` \|", README, re.MULTILINE) == flags


def test_password_is_not_shown() -> None:
    words = ("--plugins", "valkey-tier", "--valkey-url", "valkey://:hush@cache.local")
    rows = mlxserve("config", *words, "--valkey-secret", "hush")["settings"]
    mine = {row["name"]: row["value"] for row in rows if row["section"] == "valkey-tier"}
    assert mine["timeout_ms"] == 500
    assert "hush" not in json.dumps(rows)


def test_figures_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"`((?:dropped|torn)_\w+)`", README))
    assert named
    assert named <= set(NAMES)
