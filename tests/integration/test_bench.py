"""What measures servers, on real ones."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .live import environment


def bench(*words: str) -> dict[str, Any]:
    """Run ``mlxserve bench`` and return what it found."""
    command = [sys.executable, "-m", "mlxserve", "bench", *words[:1], "--json", *words[1:]]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(), check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def model(tiny_folder: Path) -> tuple[str, ...]:
    return "--", "--model", str(tiny_folder), "--no-ssd"


def test_engine_measures_steps_of_every_shape(model: tuple[str, ...]) -> None:
    shapes = ("--rows", "1,4", "--context", "64,256", "--width", "1,2", "--steps", "3")
    found = bench("engine", *shapes, *model)
    seen = {(row["rows"], row["context"], row["width"]) for row in found["rows"]}
    assert seen == {(r, c, w) for r in (1, 4) for c in (64, 256) for w in (1, 2)}
    assert all(0 < row["step_ms"] <= row["worst_ms"] for row in found["rows"])
    assert all(row["operations"] > 10 for row in found["rows"])
    assert {len(row["seconds"]) for row in found["raw"]} == {3}
    # More of either is more to read.
    bounds = {(row["rows"], row["context"]): row["bound_ms"] for row in found["rows"]}
    assert bounds[1, 64] < bounds[4, 64] < bounds[4, 256]


def test_compare_runs_mlx_lm_s_server_on_the_same_weights(model: tuple[str, ...]) -> None:
    sizes = ("--pairs", "1", "--requests", "1", "--prompt-tokens", "16", "--max-tokens", "8")
    found = bench("compare", "--scenarios", "single", "--processes", "1", *sizes, *model)
    assert {row["against"] for row in found["rows"]} == {"mlx_lm.server"}
    assert {row["refused"] for row in found["rows"]} == {"0 / 0 of 1"}
    ours, other = found["raw"]
    assert (ours["server"], other["server"]) == ("mlxserve", "mlx_lm.server")
    assert ours["tokens"] > 0
    assert other["tokens"] > 0


def test_quality_finds_plain_kv_equal_to_itself_and_fewer_bits_further_away(
    model: tuple[str, ...],
) -> None:
    sizes = ("--tokens", "512", "--window", "128", "--replies", "2", "--reply-tokens", "8")
    found = bench("quality", *sizes, "--bits", "8,4", *model, "--kv-group-size", "32")
    plain, eight, four = found["rows"]
    assert plain["kl"] == pytest.approx(0.0, abs=1e-6)
    assert plain["change_%"] == pytest.approx(0.0, abs=1e-4)
    assert plain["kl"] < eight["kl"] < four["kl"]


def test_soak_starts_a_server_and_finds_nothing_wrong(tiny_folder: Path) -> None:
    time = ("--minutes", "0.1", "--warmup-s", "0", "--sample-s", "0.2", "--clients", "4")
    found = bench("soak", *time, "--", "--model", str(tiny_folder))
    figures = {row["figure"]: row for row in found["also"]}
    assert {"memory_MB", "used_blocks", "cached_blocks"} <= figures.keys()
    assert figures["cached_blocks"]["most"] > 0
