"""What a start has proved, the next one believes; other code, codec or model is proved anew."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from mlxserve.batch import proven
from mlxserve.batch.plan import plan_kv
from mlxserve.batch.proof import mismatch
from mlxserve.batch.proven import Memory, written_in
from mlxserve.engine.build import codec_maker, pool_limits
from mlxserve.loading import register
from mlxserve_hookspecs import KvSide, hookimpl
from mlxserve_hookspecs.verdicts import Verdicts
from mlxserve_plugins.kv_quant import AffineCodec, KvQuant, KvQuantOptions

from .harness import capacity
from .tiny import tiny_model


def planned(folder: Path, name: str = "llama", bits: Any = 16, identity: str = "tiny") -> Any:
    quant = KvQuant(KvQuantOptions(bits=bits, attention="dequantize"))
    memory = Memory(identity, Verdicts("plans", folder))
    return plan_kv(
        tiny_model(name),
        codec_maker(register({"kv-quant": quant})),
        pool_limits(capacity()),
        compiled=False,
        memory=memory,
    )


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []

    def counted(*arguments: Any) -> Any:
        made.append("proof")
        return mismatch(*arguments)

    monkeypatch.setattr("mlxserve.batch.plan.mismatch", counted)
    return made


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "nemotron-like", "deepseek_v3"])
def test_the_second_start_has_the_first_ones_plan_and_proves_nothing(
    name: str, tmp_path: Path, proofs: list[str]
) -> None:
    name = "mamba2" if name == "nemotron-like" else name
    first = planned(tmp_path, name)
    count = len(proofs)
    assert count > 0
    second = planned(tmp_path, name)
    assert len(proofs) == count
    assert (second.how, second.notes, second.codecs) == (first.how, first.notes, first.codecs)
    assert second.store.ways == first.store.ways
    assert second.store.drafts_fit == first.store.drafts_fit


@pytest.mark.parametrize("change", ["codec", "identity", "code", "damage"])
def test_what_is_not_the_same_is_proved_anew(
    change: str, tmp_path: Path, proofs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(tmp_path)
    count = len(proofs)
    if change == "code":
        monkeypatch.setattr(proven, "_code", lambda: "other")
    if change == "damage":
        (tmp_path / "plans.json").write_text("[")
    planned(
        tmp_path,
        bits=8 if change == "codec" else 16,
        identity="other" if change == "identity" else "tiny",
    )
    assert len(proofs) > count


def test_a_plugin_whose_file_has_changed_is_proved_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mended_codec.py"
    path.write_text(
        "from mlxserve_plugins.kv_quant import AffineCodec\nclass Own(AffineCodec): ..."
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("mended_codec").Own(4, 64, mx.float32, True)
    maker = codec_maker(register({"own": SimpleNamespace(make_kv_codec=hookimpl(lambda: own))}))
    side = KvSide(layer=0, side="keys", heads=2, width=64, dtype=mx.float32)
    seen = maker(side, side)
    before = written_in([seen])
    assert before == written_in([own]) == written_in([own, seen])
    assert before != written_in([AffineCodec(4, 64, mx.float32, dequantize=True)])
    path.write_text(f"{path.read_text()}  # mended")
    assert written_in([seen]) != before
