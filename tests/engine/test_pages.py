"""A codec that reads its own pages sees every row's length and table, and must be right."""

from typing import Any

import mlx.core as mx
import pytest
from attrs import define, field

from mlxserve.batch.plan import PoolLimits, plan_kv
from mlxserve.testing import KvCodecContract
from mlxserve.testing.suites import suite
from mlxserve_hookspecs import Array, KvCodec, KvSide, PlaneSpec, hookimpl
from mlxserve_plugins.ngram import Ngram, NgramOptions

from .harness import bench, failures_of, plain, prompt, request
from .speculating import always
from .tiny import shared_model

LENGTHS = (33, 5, 90)
TOKENS = 12


def model_of(name: str) -> Any:
    return shared_model(name, seed=3)


@define(eq=False)
class Halves:
    """A plugin and its codec: each side in two planes, halves of a head; attends by the book.

    Attributes:
        fault: What is wrong with it: nothing, ``length`` (it forgets the newest token), ``raises``.
        asked: Widths of the passes that it attended for.
        gathered: Widths of those that were gathered for it.
    """

    fault: str = ""
    pages: bool = True
    name: str = "halves"
    words: None = None
    asked: list[int] = field(factory=list)
    gathered: list[int] = field(factory=list)

    @hookimpl
    def make_kv_codec(self) -> KvCodec:
        return self

    def planes(self, side: KvSide) -> tuple[PlaneSpec, ...]:
        return (PlaneSpec(side.width // 2, side.dtype),) * 2

    def encode(self, x: Array, side: str) -> tuple[Array, ...]:
        return tuple(mx.split(x, 2, axis=-1))

    def decode(self, planes: Any, side: str) -> Array:
        return mx.concatenate(list(planes), axis=-1)

    def attend(self, queries: Any, keys: Any, values: Any, **how: Any) -> Array:
        self.gathered.append(queries.shape[2])
        k, v = self.decode(keys, "keys"), self.decode(values, "values")
        return mx.fast.scaled_dot_product_attention(queries, k, v, **how)

    def attend_pages(
        self,
        queries: Any,
        plane: Any,
        table: Any,
        lengths: Any,
        *,
        block_size: int,
        scale: float,
        window: int | None,
        keep: int,
        sinks: Any,
    ) -> Array:
        if self.fault == "raises":
            raise RuntimeError("no such kernel")
        rows, heads, width, _ = queries.shape
        self.asked.append(width)
        slots = table[..., None] * block_size + mx.arange(block_size)
        words = mx.take(plane, slots.reshape(rows, -1), axis=0).transpose(0, 2, 1, 3)
        first_k, first_v, second_k, second_v = mx.split(words, 4, axis=-1)
        k, v = (
            mx.repeat(mx.concatenate(list(both), axis=-1), heads // words.shape[1], axis=1)
            for both in ((first_k, second_k), (first_v, second_v))
        )
        scores = (queries * scale) @ k.swapaxes(-1, -2)
        at = mx.arange(scores.shape[-1])
        mine = lengths[:, None, None, None] + mx.arange(width)[:, None]
        seen = at < mine if self.fault == "length" else at <= mine
        if window is not None:
            seen = seen & ((at > mine - window) | (at < keep))
        scores = mx.where(seen, scores, mx.finfo(scores.dtype).min)
        if sinks is not None:
            column = mx.broadcast_to(sinks[None, :, None, None], (rows, heads, width, 1))
            scores = mx.concatenate([scores, column], axis=-1)
        weights = mx.softmax(scores, axis=-1, precise=True)
        return weights[..., : at.size] @ v


TestHalves = suite(KvCodecContract, Halves)


def how_of(name: str, codec: Halves, **changes: Any) -> str:
    limits = PoolLimits(blocks=256, block_size=16, live=4, prefilling=1, chunk=64)
    options: dict[str, Any] = {"compiled": True, "attention": "auto"}
    plan = plan_kv(model_of(name), lambda _k, _v: codec, limits, **(options | changes))
    return f"{plan.how}; {'; '.join(plan.notes)}"


@pytest.mark.parametrize(
    ("name", "drafting"),
    [
        ("llama", False),
        ("llama", True),
        ("gemma3_text", True),
        ("gpt_oss", True),
        ("qwen3_next", False),
    ],
    ids=["llama", "drafts", "windows, drafts", "sinks, drafts", "recurrent"],
)
def test_replies_are_those_of_the_model_whatever_reads_the_pages(name: str, drafting: bool) -> None:
    codec = Halves()
    more = (always(), Ngram(NgramOptions())) if drafting else ()
    it = bench(model_of(name), codec, *more, compiled=True)
    proved = len(codec.asked)
    for length in LENGTHS:
        it.submit(request(str(length), prompt(length), TOKENS))
        it.step(2)
    it.run()
    for length in LENGTHS:
        wanted = plain(model_of(name), prompt(length), TOKENS)
        assert it.replies.tokens(str(length)) == wanted
    assert len(codec.asked) > proved  # each pass is traced once: served, too
    assert max(codec.asked) <= 8
    assert failures_of(it) == {}


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({}, True),
        ({"compiled": False}, False),
        ({"compiled": False, "attention": "kernel"}, True),
        ({"attention": "gather"}, False),
    ],
    ids=["compiled", "in place", "kernel", "gather"],
)
def test_the_plan_says_who_reads(changes: dict[str, Any], asked: bool) -> None:
    codec = Halves()
    assert ("by kernel" in how_of("llama", codec, **changes)) is asked
    assert bool(codec.asked) is asked
    assert "this device has none" not in how_of("llama", codec, **changes)


def test_a_codec_without_pages_is_gathered_for() -> None:
    codec = Halves(pages=False)
    assert "by kernel" not in how_of("llama", codec)
    assert not codec.asked


def test_pages_that_are_read_wrong_are_found_out_at_the_start() -> None:
    codec = Halves("length")
    found = how_of("llama", codec)
    assert "by kernel attention is off" in found
    assert "gathered, compiled" in found


def test_a_kernel_that_raises_costs_its_speed_only() -> None:
    codec = Halves("raises")
    it = bench(model_of("llama"), codec, compiled=True)
    it.submit(request("33", prompt(33), TOKENS))
    it.run()
    assert it.replies.tokens("33") == plain(model_of("llama"), prompt(33), TOKENS)
    assert 1 in codec.gathered
    assert failures_of(it)["plugin-0", "make_kv_codec"] > 0
