"""The contract of a KV codec."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
from attrs import evolve
from pluggy import PluginManager

from mlxserve.testing.contracts.base import PROMPT, Contract, answer, is_word
from mlxserve.testing.engines import RunningEngine
from mlxserve_hookspecs import Array, KvCodec, KvSide, Side, WordFormat
from mlxserve_hookspecs.quantization import make_kv_codec

ROWS, TOKENS, QUERY_HEADS = 2, 7, 4
BLOCK = 16
SIDES: tuple[Side, ...] = ("keys", "values")


class KvCodecContract(Contract):
    """Of ``make_kv_codec``: planes hold tokens apart, and attention reads them as decoded.

    Attributes:
        tolerance: Most root mean square error of a value, as a share of the values' own.
    """

    hooks = (make_kv_codec,)
    tolerance = 0.35

    @pytest.fixture
    def side(self) -> KvSide:
        """Return a layer's keys that the codec takes; its values are alike."""
        import mlx.core as mx

        return KvSide(layer=0, side="keys", heads=2, width=64, dtype=mx.float32)

    @pytest.fixture
    def codec(self, manager: PluginManager, side: KvSide) -> KvCodec:
        """Return the layer's codec."""
        return answer(manager, make_kv_codec, keys=side, values=evolve(side, side="values"))

    @pytest.fixture
    def x(self, side: KvSide) -> Array:
        """Return keys or values ``[rows, heads, tokens, width]``."""
        import mlx.core as mx

        shape = (ROWS, side.heads, TOKENS, side.width)
        return mx.random.normal(shape, key=mx.random.key(1)).astype(side.dtype)

    def test_name_is_a_word(self, codec: KvCodec) -> None:
        """``name`` is one word: it is part of every block's hash."""
        assert is_word(codec.name)

    def test_name_follows_from_the_layer(self, manager: PluginManager, side: KvSide) -> None:
        """The same layer has the same name at the next start: its blocks are found again."""
        made = [
            answer(manager, make_kv_codec, keys=side, values=evolve(side, side="values"))
            for _ in range(2)
        ]
        assert made[0].name == made[1].name

    @pytest.mark.parametrize("which", SIDES)
    def test_encode_makes_the_planes_it_says(
        self, codec: KvCodec, side: KvSide, x: Array, which: Side
    ) -> None:
        """``encode`` makes ``[rows, heads, tokens, plane.width]`` of each plane's dtype."""
        specs = codec.planes(evolve(side, side=which))
        made = [(plane.shape, plane.dtype) for plane in codec.encode(x, which)]
        wanted = [((ROWS, side.heads, TOKENS, spec.width), spec.dtype) for spec in specs]
        assert made == wanted

    @pytest.mark.parametrize("which", SIDES)
    def test_tokens_are_encoded_one_by_one(self, codec: KvCodec, x: Array, which: Side) -> None:
        """A token's planes do not depend on the tokens and rows beside it."""
        import mlx.core as mx

        whole = codec.encode(x, which)
        for at in range(TOKENS):
            alone = codec.encode(x[1:, :, at : at + 1], which)
            for one, all_ in zip(alone, whole, strict=True):
                assert mx.array_equal(one, all_[1:, :, at : at + 1]), f"token {at}"

    @pytest.mark.parametrize("which", SIDES)
    def test_decode_undoes_encode(self, codec: KvCodec, x: Array, which: Side) -> None:
        """``decode`` returns the shape and dtype that were encoded, nearly the same values."""
        import mlx.core as mx

        back = codec.decode(codec.encode(x, which), which)
        assert (back.shape, back.dtype) == (x.shape, x.dtype)
        error: Any = mx.sqrt(((back - x) ** 2).mean() / (x**2).mean()).item()
        assert error <= self.tolerance

    @pytest.mark.parametrize("sinks", [False, True], ids=["no sinks", "sinks"])
    @pytest.mark.parametrize("mask", ["none", "causal", "booleans"])
    @pytest.mark.parametrize("tokens", [1, 3], ids=["decode", "several tokens"])
    def test_attention_reads_what_decode_returns(
        self, codec: KvCodec, side: KvSide, x: Array, tokens: int, mask: str, sinks: bool
    ) -> None:
        """``attend`` is attention over the decoded planes, for every mask, with sinks too."""
        import mlx.core as mx

        shape = (ROWS, QUERY_HEADS, tokens, side.width)
        queries = mx.random.normal(shape, key=mx.random.key(2)).astype(side.dtype)
        held = [codec.encode(x * (1 + at), which) for at, which in enumerate(SIDES)]
        seen = mx.arange(TOKENS)[None, None, None] <= mx.array([3, 6])[:, None, None, None]
        masks: dict[str, Array | Literal["causal"] | None] = {
            "none": None,
            "causal": "causal",
            "booleans": seen,
        }
        logits = mx.array([0.5, -1.0, 2.0, 0.0]) if sinks else None
        scale = side.width**-0.5
        got = codec.attend(queries, held[0], held[1], scale=scale, mask=masks[mask], sinks=logits)
        decoded = [codec.decode(p, which) for p, which in zip(held, SIDES, strict=True)]
        wanted = attention(queries, decoded, scale, masks[mask], logits)
        assert got.shape == wanted.shape
        assert mx.allclose(got, wanted, rtol=1e-3, atol=1e-3)

    def test_words_are_what_kernels_read(self, codec: KvCodec, x: Array) -> None:
        """``words`` is ``None``, or says truly how both sides lie in their planes."""
        import mlx.core as mx

        words = codec.words
        if words is None:
            return
        assert isinstance(words, WordFormat)
        for which in SIDES:
            planes = codec.encode(x, which)
            wanted: Sequence[Any] = (
                (x,) if words.plain else mx.quantize(x, words.group_size, words.bits)
            )
            assert len(planes) == len(wanted)
            assert all(mx.array_equal(a, b) for a, b in zip(planes, wanted, strict=True))

    @pytest.mark.parametrize("sinks", [False, True], ids=["no sinks", "sinks"])
    @pytest.mark.parametrize("window", [None, 4], ids=["all is seen", "a window"])
    @pytest.mark.parametrize("new", [1, 3], ids=["decode", "several tokens"])
    def test_pages_are_read_as_attend_reads(
        self, codec: KvCodec, side: KvSide, new: int, window: int | None, sinks: bool
    ) -> None:
        """``attend_pages``, if there is one, gives what ``attend`` gives of the gathered tokens."""
        import mlx.core as mx

        paged: Any = codec
        if not getattr(paged, "pages", False):
            return
        queries = mx.random.normal((2, QUERY_HEADS, new, side.width), key=mx.random.key(3))
        queries = queries.astype(side.dtype)
        logits = mx.array([0.5, -1.0, 2.0, 0.0]) if sinks else None
        plane, table, lengths, attend = held_in_pages(codec, side, new, window)
        scale = side.width**-0.5
        got = paged.attend_pages(
            queries, plane, table, lengths,
            block_size=BLOCK, scale=scale, window=window, keep=0, sinks=logits,
        )  # fmt: skip
        if got is not None:
            wanted = attend(queries, scale, logits)
            assert got.shape == wanted.shape
            assert mx.allclose(got, wanted, rtol=1e-3, atol=1e-3)

    def test_engine_serves_with_it(
        self, plugin: object, codec: KvCodec, engine_of: Callable[..., RunningEngine]
    ) -> None:
        """The engine holds KV as it says; a prompt found in the cache has the same reply again."""
        engine = engine_of(plugin)
        assert any(f" {codec.name} in " in line for line in engine.client.card.layout)
        first, again = engine.reply(PROMPT), engine.reply(PROMPT)
        assert len(first.tokens) == 8
        assert again.tokens == first.tokens
        assert again.finish.usage.cached_tokens > 0
        assert engine.plugin_errors == {}


def held_in_pages(
    codec: KvCodec, side: KvSide, new: int, window: int | None
) -> tuple[Array, Array, Array, Callable[[Array, float, Array | None], Array]]:
    """Return a plane, tables and lengths of two rows, and attention over what they have."""
    import mlx.core as mx

    from mlxserve.attention.readers import TableReader
    from mlxserve.pool.layout import AttentionLeaf
    from mlxserve.pool.planes import Joined, LeafCodec

    leaf, joined = LeafCodec(codec, side, evolve(side, side="values")), Joined()
    ((shape, dtype),) = joined.shapes(leaf, 5 * BLOCK)
    planes: tuple[Array, ...] = (mx.zeros(shape, dtype),)
    table, starts = mx.array([[3, 0], [4, 1]]), (3, 20)
    for row, start in enumerate(starts):
        shown = (1, side.heads, start + new, side.width)
        keys, values = (
            mx.random.normal(shown, key=mx.random.key(10 * row + at)).astype(side.dtype)
            for at in (1, 2)
        )
        at = mx.arange(start + new)
        where = table[row][at // BLOCK] * BLOCK + at % BLOCK
        planes = joined.write(planes, where, keys, values, leaf, None)
    lengths = mx.array(starts)
    reader = TableReader(table, lengths, new, BLOCK, joined, 2 * BLOCK)

    def attend(queries: Array, scale: float, sinks: Array | None) -> Array:
        return reader.attend(planes, leaf, AttentionLeaf(window), queries, scale, sinks)

    return planes[0], table, lengths, attend


def attention(
    queries: Array, held: Sequence[Array], scale: float, mask: Any, sinks: Array | None
) -> Array:
    """Return attention's output in float32, by the book."""
    import mlx.core as mx

    groups = queries.shape[1] // held[0].shape[1]
    keys, values = (mx.repeat(side.astype(mx.float32), groups, axis=1) for side in held)
    scores = (queries.astype(mx.float32) * scale) @ keys.swapaxes(-1, -2)
    if isinstance(mask, str):
        many, length = queries.shape[2], keys.shape[2]
        mask = mx.arange(length)[None] <= (length - many + mx.arange(many))[:, None]
    if mask is not None:
        scores = mx.where(mask, scores, -mx.inf)
    if sinks is not None:
        column = mx.broadcast_to(sinks[None, :, None, None], (*scores.shape[:3], 1))
        scores = mx.concatenate([scores, column], axis=-1)
    weights = mx.softmax(scores, axis=-1)[..., : keys.shape[2]]
    return (weights @ values).astype(queries.dtype)
