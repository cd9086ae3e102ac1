"""How one attention layer's keys and values lie in its planes: packed for kernels, or apart."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import mlx.core as mx
from attrs import field, frozen

from mlxserve_hookspecs import KvCodec, KvSide, PlaneSpec

Planes: TypeAlias = tuple[mx.array, ...]
"""One layer's arrays."""

State: TypeAlias = tuple[mx.array | None, ...]
"""One recurrent layer's arrays ``[rows, ...]``; ``None`` before the first token."""

LeafData: TypeAlias = Planes | State
"""What one leaf of the layout holds."""

Codes: TypeAlias = tuple[mx.array, ...]
"""What a codec makes of one side: ``[rows, heads, tokens, width]`` each."""


class Kernel(Protocol):
    """Reads and writes one layer's plane on the device; see ``attention.ragged``."""

    def attend(
        self,
        queries: mx.array,
        plane: mx.array,
        table: mx.array,
        starts: mx.array,
        *,
        scale: float,
        window: int | None = None,
        keep: int = 0,
        sinks: mx.array | None = None,
    ) -> mx.array:
        """Return attention's output ``[rows, heads, width, value_width]``."""

    def pack(self, keys: mx.array, values: mx.array) -> mx.array:
        """Return the words of new tokens, ``[rows, width, kv_heads, words]``."""


@frozen
class LeafCodec:
    """A layer's codec, what it is told of the layer, and what reads its plane on the device.

    Attributes:
        codec: The codec.
        keys: What it is told.
        values: Likewise.
        kernel: The core's kernel, where it knows the codec's words.
        pages: Whether the codec's own kernel is asked.
    """

    codec: KvCodec
    keys: KvSide
    values: KvSide
    kernel: Kernel | None = None
    pages: bool = False
    key_specs: tuple[PlaneSpec, ...] = field(init=False)
    value_specs: tuple[PlaneSpec, ...] = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "key_specs", self.codec.planes(self.keys))
        object.__setattr__(self, "value_specs", self.codec.planes(self.values))

    def encode(self, keys: mx.array, values: mx.array) -> tuple[Codes, Codes]:
        """Return both sides' codes."""
        return self.codec.encode(keys, "keys"), self.codec.encode(values, "values")

    def decode(self, keys: Codes, values: Codes) -> tuple[mx.array, mx.array]:
        """Return both sides ``[rows, heads, tokens, width]``."""
        return self.codec.decode(keys, "keys"), self.codec.decode(values, "values")


class Arrangement(Protocol):
    """Where codes lie. Lazy graphs only; a slot is one token's place."""

    def shapes(self, leaf: LeafCodec, slots: int) -> list[tuple[tuple[int, ...], mx.Dtype]]:
        """Return shape and dtype of each of a layer's planes."""

    @property
    def axis(self) -> int:
        """The axis of the slots."""

    def write(
        self,
        planes: Planes,
        where: mx.array,
        keys: mx.array,
        values: mx.array,
        leaf: LeafCodec,
        chosen: mx.array | None,
    ) -> Planes:
        """Put new tokens ``[rows, heads, width, ...]`` at the slots ``where`` ``[n]`` int32.

        ``chosen`` ``[n]`` are those of the ``rows * width`` tokens that are written; ``None``: all.
        """

    def read(self, planes: Planes, leaf: LeafCodec) -> tuple[Codes, Codes]:
        """Return codes ``[1, heads, n, width]`` of planes that were cut to ``n`` slots."""


class Apart:
    """Each of a codec's arrays for itself, ``[heads, slots, width]``: for a CPU.

    There a run of slots is read in place: products take a head's tokens one after the other.
    """

    axis = 1

    def shapes(self, leaf: LeafCodec, slots: int) -> list[tuple[tuple[int, ...], mx.Dtype]]:
        """Return keys' planes, then values'."""
        sides = ((leaf.keys, leaf.key_specs), (leaf.values, leaf.value_specs))
        return [
            ((side.heads, slots, spec.width), spec.dtype) for side, specs in sides for spec in specs
        ]

    def write(
        self,
        planes: Planes,
        where: mx.array,
        keys: mx.array,
        values: mx.array,
        leaf: LeafCodec,
        chosen: mx.array | None,
    ) -> Planes:
        """Scatter once for each plane."""
        codes = leaf.encode(keys, values)
        for plane, code in zip(planes, (*codes[0], *codes[1]), strict=True):
            if code.size:
                rows, heads, width, _ = code.shape
                flat = code.transpose(1, 0, 2, 3) if rows > 1 else code
                flat = flat.reshape(heads, rows * width, -1)
                plane[:, where] = flat if chosen is None else flat[:, chosen]
        return planes

    def read(self, planes: Planes, leaf: LeafCodec) -> tuple[Codes, Codes]:
        """Add the axis of rows."""
        cut = tuple(plane[None] for plane in planes)
        count = len(leaf.key_specs)
        return cut[:count], cut[count:]


class Joined:
    """One plane ``[slots, heads, words]``: a step of a layer is one scatter, and one read.

    Words are the first codes of keys and of values, then what else the keys have (scales,
    biases), then what else the values have.
    """

    axis = 0

    def shapes(self, leaf: LeafCodec, slots: int) -> list[tuple[tuple[int, ...], mx.Dtype]]:
        """Return the one plane."""
        dtype = word_of(leaf)
        runs = _runs([spec for spec, _ in _ordered(leaf)])
        sizes = [sum(spec.width for spec in run) * run[0].dtype.size for run in runs]
        words = sum(-(-size // dtype.size) for size in sizes)
        return [((slots, leaf.keys.heads, words), dtype)]

    def write(
        self,
        planes: Planes,
        where: mx.array,
        keys: mx.array,
        values: mx.array,
        leaf: LeafCodec,
        chosen: mx.array | None,
    ) -> Planes:
        """Pack, by one kernel if there is one, and scatter."""
        (plane,) = planes
        if leaf.kernel is not None:
            words = leaf.kernel.pack(keys, values)
        else:
            words = self.pack(leaf.encode(keys, values), leaf)
        words = words.reshape(-1, *plane.shape[1:])
        plane[where] = words if chosen is None else words[chosen]
        return planes

    def pack(self, codes: tuple[Codes, Codes], leaf: LeafCodec) -> mx.array:
        """Return ``[rows, width, heads, words]`` of codes ``[rows, heads, width, ...]``."""
        (k, *ks), (v, *vs) = codes
        specs = [spec for spec, _ in _ordered(leaf)]
        words = _packed([k, v, *ks, *vs], specs, word_of(leaf))
        joined = words[0] if len(words) == 1 else mx.concatenate(words, axis=-1)
        return joined.transpose(0, 2, 1, 3)

    def read(self, planes: Planes, leaf: LeafCodec) -> tuple[Codes, Codes]:
        """Cut the words of ``[..., heads, words]`` apart: codes ``[..., heads, width]``.

        The axes before the heads stay where they are.
        """
        (words,) = planes
        at, found = 0, list[mx.array]()
        for run in _runs([spec for spec, _ in _ordered(leaf)]):
            size = sum(spec.width for spec in run) * run[0].dtype.size
            count = -(-size // words.dtype.size)
            part = words if count == words.shape[-1] else words[..., at : at + count]
            at += count
            part = part if run[0].dtype == words.dtype else part.view(run[0].dtype)
            cuts = [sum(spec.width for spec in run[: n + 1]) for n in range(len(run))]
            found += mx.split(part, cuts, axis=-1)[: len(run)]
        k, v, *rest = found
        more = len(leaf.key_specs) - 1
        return (k, *rest[:more]), (v, *rest[more:])


def word_of(leaf: LeafCodec) -> mx.Dtype:
    """Return what a layer's words are: its codes' own dtype, or 32 bits of anything."""
    kinds = {spec.dtype for spec, _ in _ordered(leaf)}
    return kinds.pop() if len(kinds) == 1 else mx.uint32


def _ordered(leaf: LeafCodec) -> list[tuple[PlaneSpec, KvSide]]:
    keys = [(spec, leaf.keys) for spec in leaf.key_specs]
    values = [(spec, leaf.values) for spec in leaf.value_specs]
    return [keys[0], values[0], *keys[1:], *values[1:]]


def _runs(specs: Sequence[PlaneSpec]) -> list[list[PlaneSpec]]:
    """Put neighbours of one dtype together: they are padded to a word together."""
    runs: list[list[PlaneSpec]] = []
    for spec in specs:
        if runs and runs[-1][0].dtype == spec.dtype:
            runs[-1].append(spec)
        else:
            runs.append([spec])
    return runs


def _packed(parts: list[mx.array], specs: Sequence[PlaneSpec], dtype: mx.Dtype) -> list[mx.array]:
    at, found = 0, []
    for run in _runs(specs):
        mine = parts[at : at + len(run)]
        at += len(run)
        found.append(_words(mine[0] if len(run) == 1 else mx.concatenate(mine, axis=-1), dtype))
    return found


def _words(part: mx.array, dtype: mx.Dtype) -> mx.array:
    if part.dtype == dtype:
        return part
    short = -(part.shape[-1] * part.dtype.size) % dtype.size // part.dtype.size
    if short:
        part = mx.pad(part, [(0, 0)] * (part.ndim - 1) + [(0, short)])
    return part.view(dtype)
