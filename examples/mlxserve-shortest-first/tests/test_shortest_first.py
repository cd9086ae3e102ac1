"""The contract, the policy alone, and the plugin as an installed server sees it."""

import json
import subprocess
import sys
from typing import Any

import pytest
from mlxserve_shortest_first import ShortestFirst, ShortestFirstOptions, ShortestFirstPolicy

from mlxserve.testing import SchedulingPolicyContract
from mlxserve.testing.contracts.scheduling import candidate
from mlxserve_hookspecs import Load, SchedulingPolicy


class TestShortestFirst(SchedulingPolicyContract):
    @pytest.fixture
    def plugin(self) -> ShortestFirst:
        return ShortestFirst(ShortestFirstOptions())


def policy(aging: float = 100.0) -> SchedulingPolicy:
    return ShortestFirst(ShortestFirstOptions(aging=aging)).make_policy()


def plugin_named(name: str, *flags: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "mlxserve", "plugins", "--json", *flags]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    return next(row for row in json.loads(listed.stdout) if row["name"] == name)


def test_shortest_prompt_goes_first() -> None:
    long, short = candidate("long", tokens=900), candidate("short", arrived=1.0)
    assert policy().order([long, short], now=2.0) == [short, long]


def test_waiting_makes_up_for_length() -> None:
    long, short = candidate("long", tokens=900), candidate("short", arrived=10.0)
    assert policy(aging=100.0).order([short, long], now=10.0) == [long, short]
    assert policy(aging=0.0).order([long, short], now=10.0) == [short, long]


def test_equals_go_in_the_order_of_arrival() -> None:
    early, late = candidate("early", arrived=1.0), candidate("late", arrived=2.0)
    assert policy(aging=0.0).order([late, early], now=3.0) == [early, late]


def test_victim_has_most_work_left() -> None:
    running = [candidate("short", tokens=1), candidate("long", tokens=50)]
    assert policy().victim(running, now=0.0) == running[1]
    assert policy().victim([], now=0.0) is None


def test_prefill_is_small_beside_decoding_rows() -> None:
    alone = Load(decoding=0, prefilling=1, waiting=0, chunk_alone=64, chunk_shared=8)
    beside = Load(decoding=1, prefilling=1, waiting=0, chunk_alone=64, chunk_shared=8)
    assert ShortestFirstPolicy(0.0).prefill_tokens(alone) == 64
    assert ShortestFirstPolicy(0.0).prefill_tokens(beside) == 8


def test_server_runs_this_plugin_in_place_of_its_own() -> None:
    row = plugin_named("fcfs")
    assert row["distribution"] == "mlxserve-shortest-first"
    assert row["replaces_builtin"]
    assert row["active"]
    assert row["hooks"] == ["make_policy"]
    assert [option["flags"] for option in row["options"]] == [["--shortest-first-aging"]]


def test_server_reads_its_option() -> None:
    command = [sys.executable, "-m", "mlxserve", "config", "--json", "--shortest-first-aging", "7"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads(printed.stdout)["settings"]
    assert {
        "section": "fcfs",
        "name": "aging",
        "value": 7.0,
        "origin": "--shortest-first-aging",
    } in rows
