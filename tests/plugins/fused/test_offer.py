"""What is offered, and that the core holds it to the logits from before."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.nn.layers.linear import Linear
from tests.core.ranks.table import AtTable, Table
from tests.engine.tiny import tiny_model

from mlxserve.batch import adapting
from mlxserve.batch.adapting import adapt
from mlxserve_hookspecs.verdicts import Verdicts
from mlxserve_plugins.fused import FusedLayers, FusedLayersOptions
from mlxserve_plugins.fused.kernels import Few, what
from mlxserve_plugins.fused.layers import Fused


class Change:
    """Scales the norm before the head, by a factor."""

    def __init__(self, model: Any, factor: float) -> None:
        self.name, self.model, self.factor, self.applied = "change", model, factor, 0

    def apply(self) -> str:
        self.model.model.norm.weight = self.model.model.norm.weight * self.factor
        self.applied += 1
        return "changed"

    def undo(self) -> None:
        self.model.model.norm.weight = self.model.model.norm.weight / self.factor
        self.applied -= 1


@pytest.mark.parametrize(("factor", "stays"), [(1.0, True), (1.5, False)])
def test_a_change_of_the_logits_is_undone_and_said(
    factor: float, stays: bool, tmp_path: Path
) -> None:
    model = tiny_model("llama")
    change, memory = Change(model, factor), Verdicts("adaptations", tmp_path)
    (line,) = adapt(model, [change], "weights", memory)
    assert (change.applied, line == "changed") == (int(stays), stays)
    assert stays or "logits differ" in line
    (again,) = adapt(model, [change], "weights", memory)
    assert again == line
    assert len(memory.known()) == 1


def test_a_change_that_raises_is_off(tmp_path: Path) -> None:
    model = tiny_model("llama")
    change = Change(model, 1.0)
    change.apply = lambda: 1 // 0  # type: ignore[method-assign, assignment, return-value]
    (line,) = adapt(model, [change], "weights", Verdicts("adaptations", tmp_path))
    assert "ZeroDivisionError" in line
    assert not Verdicts("adaptations", tmp_path).known()  # it may have been the device's fault


def test_ranks_apply_what_all_of_them_found_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rank offers more, remembers more, and finds one offer wrong: none of that parts them."""
    judged: list[tuple[int, str]] = []

    def fault(rank: Any, offer: Any) -> str | None:
        judged.append((rank, offer.name))
        return "logits differ" if (rank, offer.name) == (1, "b") else None

    monkeypatch.setattr(adapting, "_fault", fault)

    def run(at: AtTable) -> list[str]:
        model, memory = tiny_model("llama"), Verdicts("adaptations", tmp_path / str(at.rank))
        names = "abc" if at.rank == 0 else "ab"
        changes = [Change(model, 1.0) for _ in names]
        for change, name in zip(changes, names, strict=True):
            change.name = name
        rank: Any = at.rank
        if at.rank == 0:  # known here only
            memory.put(adapting._question("weights", changes[0]), None)
        return list(adapt(rank, changes, "weights", memory, at))

    with ThreadPoolExecutor(2) as pool:
        table = Table()
        each = [pool.submit(run, AtTable(table=table, rank=rank)) for rank in range(2)]
        one, other = (future.result(30) for future in each)
    assert one == ["changed", "fallback: b is off: another rank does without it"]
    assert other == ["changed", "fallback: b is off: logits differ"]
    assert sorted(judged) == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]


@pytest.mark.parametrize("asked", ["auto", "kernels", "off"])
def test_nothing_is_offered_on_a_cpu(asked: Any) -> None:
    assert FusedLayers(FusedLayersOptions(asked)).adapt_model(tiny_model("llama")) is None


def test_what_is_slower_stays_with_mlx() -> None:
    layer = Linear(64, 32, bias=False)
    layer.weight = layer.weight.astype(mx.bfloat16)
    x = mx.ones((3, 1, 64), mx.bfloat16)

    def build(_source: Any) -> Any:
        raise AssertionError("no kernel was to be made")

    plain = layer(x)
    Fused(Few(build, frozenset({what("product", 3, layer.weight)})), layer).apply()
    assert mx.array_equal(layer(x), plain)
    with pytest.raises(AssertionError):
        layer(x[:1])
