"""A kernel is tried in a process of its own, once; what hangs or aborts there costs speed only."""

import sys
from pathlib import Path

import pytest

from mlxserve.attention import trial
from mlxserve.attention.kernels import Kernels
from mlxserve.attention.trial import Case, verdict
from mlxserve.pool.codec import PlainCodec
from mlxserve.pool.planes import LeafCodec
from mlxserve_hookspecs import KvSide
from mlxserve_hookspecs.verdicts import Verdicts

CASE = Case(
    bits=0,
    group_size=64,
    heads=4,
    kv_heads=2,
    key_width=64,
    value_width=64,
    dtype="float32",
    block_size=16,
    dialect="metal",
)


def python(text: str, log: Path) -> list[str]:
    counted = f"open({str(log)!r}, 'a').write('x'); {text}"
    return [sys.executable, "-c", f"import os, sys, time; {counted}"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("pass", None),
        ("sys.exit('it is off by 3')", "it is off by 3"),
        ("os.abort()", "status -6"),
        ("time.sleep(60)", "longer than"),
    ],
    ids=["right", "wrong", "aborts", "hangs"],
)
def test_the_verdict_is_kept_for_the_next_start(
    text: str, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "SECONDS", 1.0)
    log, memory = tmp_path / "log", Verdicts("kernels", tmp_path)
    for _ in range(2):
        found = verdict(CASE, python(text, log), memory)
        assert found is None if reason is None else reason in (found or "")
    assert log.read_text() == "x"


def test_a_kernel_that_this_machine_cannot_run_is_found_out_by_the_real_trial(
    tmp_path: Path,
) -> None:
    assert verdict(CASE, memory=Verdicts("kernels", tmp_path)) is not None


def test_a_layer_whose_kernel_failed_is_served_without_and_the_plan_says_why() -> None:
    notes: list[str] = []
    kernels = Kernels("metal", 16, 2, notes, verdict=lambda _case: "it hung")
    import mlx.core as mx

    keys, values = (
        KvSide(layer=0, side=side, heads=2, width=64, dtype=mx.float32)
        for side in ("keys", "values")
    )
    assert kernels.of(LeafCodec(PlainCodec(), keys, values)) is None
    assert kernels.of(LeafCodec(PlainCodec(), keys, values)) is None
    assert notes == ["no kernel for heads of 64: it hung"]
