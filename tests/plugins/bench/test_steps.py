import json
from pathlib import Path

import pytest

from mlxserve_hookspecs import EngineFacts, StepCost
from mlxserve_plugins.bench.steps import EngineFlags, Shape, copy_bandwidth, engine, row

from .fake_engine import FakeHost
from .test_bench import bench

FACTS = EngineFacts(model="m", codec="plain", weight_bytes=8 * 10**9, kv_token_bytes=10**5)


@pytest.fixture(autouse=True)
def _bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxserve_plugins.bench.steps.copy_bandwidth", lambda: 1e12)


def test_the_bound_is_weights_and_kv_read_once() -> None:
    found = row(FACTS, Shape(rows=32, context=1000, width=1), StepCost(seconds=(0.02,)), 2e12)
    assert found["bound_ms"] == pytest.approx((8e9 + 32 * 1000 * 1e5) / 2e12 * 1e3)
    assert found["x_bound"] == pytest.approx(20.0 / found["bound_ms"])
    assert found["tokens/s"] == pytest.approx(32 / 0.02)


def test_a_wider_step_makes_more_tokens_of_the_same_reading() -> None:
    narrow = row(FACTS, Shape(rows=4, context=10, width=1), StepCost(seconds=(0.02,)), 1e12)
    wide = row(FACTS, Shape(rows=4, context=10, width=4), StepCost(seconds=(0.02,)), 1e12)
    assert wide["tokens/s"] == 4 * narrow["tokens/s"]
    assert wide["bound_ms"] == narrow["bound_ms"]


def test_every_shape_runs_on_an_engine_of_every_codec() -> None:
    host = FakeHost()
    flags = EngineFlags(rows=(1, 4), context=(128, 256), width=(1, 2), codecs=(16, 8), steps=5)
    report = engine(flags, ("--model", "m"), host)
    assert host.asked == [("--model", "m", "--kv-bits", bits) for bits in ("16", "8")]
    assert all(one.closed for one in host.engines)
    assert len(report.rows) == 2 * 2 * 2 * 2
    shapes = {(r["codec"], r["rows"], r["context"], r["width"]) for r in report.rows}
    assert len(shapes) == 16
    assert {r["step_ms"] for r in report.rows if (r["rows"], r["width"]) == (4, 2)} == {8.0}
    assert {r["worst_ms"] for r in report.rows if (r["rows"], r["width"]) == (4, 2)} == {16.0}
    assert {r["operations"] for r in report.rows} == {101, 102}
    assert len(report.raw[0]["seconds"]) == 5
    assert {len(lines) for plot in report.plots for lines in plot.lines.values()} == {2}


def test_without_codecs_the_engine_is_as_the_flags_say() -> None:
    host = FakeHost()
    engine(EngineFlags(rows=(1,), context=(8,)), ("--kv-bits", "4"), host)
    assert host.asked == [("--kv-bits", "4")]


def test_a_shape_that_does_not_fit_is_left_out_and_said() -> None:
    report = engine(EngineFlags(rows=(1, 64), context=(4096,)), ("--model", "m"), FakeHost())
    assert [r["rows"] for r in report.rows] == [1]
    assert "left out: 64 rows of 4096: so many tokens do not fit" in report.notes


def test_a_trace_while_steps_are_timed_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    engine(EngineFlags(rows=(1,), context=(7,)), ("--model", "m"), FakeHost())
    assert "1 traces while 1 rows of 7 were timed" in capsys.readouterr().err


def test_the_command_writes_what_it_ran_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("engine", "--rows", "1,2", "--context", "8", "--output", str(tmp_path), "--name", "a")
    assert bench(*words, "--", "--preset", "demo", host=FakeHost()) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["about"]["benchmark"] == "engine"
    assert found["about"]["command"].endswith("-- --preset demo")
    assert {"date", "machine", "versions"} <= found["about"].keys()
    assert "x_bound" in capsys.readouterr().out


def test_bandwidth_counts_reading_and_writing_of_the_best_copy() -> None:
    ticks = iter(
        float(tick) for at in range(8) for tick in (10 * at, 10 * at + (1 if at == 3 else 2))
    )
    assert copy_bandwidth(4096, lambda: next(ticks)) == 2 * 4096
