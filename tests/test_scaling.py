"""The arithmetic of ``docs/scaling.md``: its code runs, makes its table, and fits the engine."""

import re
from pathlib import Path
from typing import Any

import pytest

from mlxserve_hookspecs import CacheLayout, hookimpl
from mlxserve_plugins.kv_quant import KvQuant, KvQuantOptions
from mlxserve_plugins.prefix_cache import PrefixCache

from .engine.harness import bench
from .engine.tiny import tiny_model

DOCUMENT = (Path(__file__).parent.parent / "docs" / "scaling.md").read_text()
GROUP = 64
FLOAT32 = 4


def code() -> dict[str, Any]:
    """Run the document's code; return what it defines."""
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    names: dict[str, Any] = {"__name__": "scaling"}
    exec(compile(block, "docs/scaling.md", "exec", dont_inherit=True), names)
    return names


class Spy:
    """Learns what blocks look like, and keeps none."""

    def __init__(self) -> None:
        self.seen: list[CacheLayout] = []

    @hookimpl
    def make_cache_tier(self, layout: CacheLayout) -> None:
        self.seen.append(layout)


def measured(name: str, bits: Any) -> float:
    """Return the bytes of a token in the engine's own blocks."""
    spy, quant = Spy(), KvQuant(KvQuantOptions(bits=bits, attention="dequantize"))
    bench(tiny_model(name), quant, PrefixCache(), spy)
    (layout,) = spy.seen
    return sum(array.nbytes for array in layout.arrays) / layout.block_size


def test_table_is_what_the_code_makes() -> None:
    assert code()["table"]() in DOCUMENT


def test_prose_says_what_the_code_says() -> None:
    names = code()
    (call, tokens) = re.findall(r"`(worth_from\(.*?\))`, ([\d.]+) tokens", DOCUMENT)[0]
    assert f"{eval(call, names):.1f}" == tokens
    each = names["bytes_per_token"](names["MODELS"][1].values, 8)
    assert str(int(each)) in call.replace("_", "")
    assert f"{100 * 8000 * each / 1e9:.0f} GB" in DOCUMENT.replace("\n", " ")


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize(
    ("name", "values"),
    [("llama", 2 * 2 * 2 * 64), ("deepseek_v3", 2 * (64 + 64))],
    ids=["keys and values", "latent"],
)
def test_bytes_per_token_are_the_engines(name: str, values: int, bits: int) -> None:
    formula = code()["bytes_per_token"](values, bits, GROUP, FLOAT32)
    assert measured(name, bits) == formula


def test_fetching_never_pays_beyond_the_break_even_rate() -> None:
    names = code()
    each, rate = 78_336.0, 300e6
    most = names["worth_below"](each, rate)
    assert names["worth_from"](most * 1.01, each, rate, 0.001) is None
    from_there = names["worth_from"](most / 2, each, rate, 0.001)
    assert from_there / (most / 2) == pytest.approx(0.001 + from_there * each / rate)
