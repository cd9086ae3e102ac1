"""The pool: every layer's planes, the blocks they are made of, and the rows that have them."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Final

import mlx.core as mx
from attrs import define, field, frozen

from mlxserve.pool.blocks import Blocks
from mlxserve.pool.layout import AttentionLeaf, Layout
from mlxserve.pool.planes import Arrangement, LeafCodec, LeafData
from mlxserve.pool.table import Row, Table

GROWTH: Final = 2
"""A pool that is too small grows by this factor: few copies, little waste."""


@frozen(eq=False)
class Shape:
    """How a model's layers are held.

    Attributes:
        layout: The layers.
        codecs: One per leaf; ``None`` for recurrent ones.
        groups: Each leaf's group; 0 for recurrent ones.
        arrangement: How planes lie.
    """

    layout: Layout
    codecs: Sequence[LeafCodec | None]
    groups: Sequence[int]
    arrangement: Arrangement


@frozen(eq=False)
class Group:
    """Layers that see the same tokens: their blocks are numbered together.

    Attributes:
        window: Tokens that a query sees, itself included; ``None`` is all.
        keep: First tokens that a window never loses sight of.
        leaves: Its layers' places in the layout.
        blocks: Who uses which block.
    """

    window: int | None
    keep: int
    leaves: tuple[int, ...]
    blocks: Blocks


@define(eq=False)
class Pool:
    """Rows in blocks: the layout of every model whose caches are understood.

    Joining, leaving, growing and taking rejected tokens back copy and move nothing; a row's
    blocks may be others' too. Planes grow as blocks are taken, up to the budget.

    Attributes:
        shape: How the model's layers are held.
        groups: Its attention layers by window, those that see all tokens first.
        size: Tokens per block.
        chunk: Most tokens that a row takes in one pass.
        first: Blocks that planes begin with; they grow as blocks are taken.
        reclaim: Asked to free blocks of a group: what is unused may go down a tier.
        rows: The decoding rows, by place in the batch.
        data: What each leaf holds: planes, or the batch's recurrent state.
        copied: Bytes of KV that were copied to grow planes or to fork.
    """

    shape: Shape
    groups: tuple[Group, ...]
    size: int
    chunk: int = 1 << 30
    first: int = 64
    reclaim: Callable[[int, int], None] = lambda _group, _blocks: None
    rows: list[Row] = field(factory=list)
    data: list[LeafData] = field(factory=list)
    copied: int = 0
    _held: list[int] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Make all planes anew; rows are to be closed or to start from zero."""
        self._held = [0] * len(self.groups)
        self.data = self._no_state()
        for group in self.groups:
            group.blocks.forget_all()

    # -- rows ------------------------------------------------------------------------------------

    def open(self) -> Row:
        """Return a row without blocks."""
        row = Row(tuple(Table(group.blocks, self.size) for group in self.groups))
        row.state = self._no_state()
        return row

    def room(self, row: Row, tokens: int, ahead: int = 0) -> bool:
        """Take blocks; unused ones give way.

        Layers with a window are given a chunk at a time: what lies behind it they give back.
        """
        if tokens <= row.capacity:
            return True
        needs = [
            table.missing(tokens if g.window is None else min(tokens, row.length + self.chunk))
            for g, table in zip(self.groups, row.tables, strict=True)
        ]
        for number, (group, need) in enumerate(zip(self.groups, needs, strict=True)):
            if need > group.blocks.free:
                self.reclaim(number, need - group.blocks.free)
            if need > group.blocks.free:
                return False
        for number, (table, need) in enumerate(zip(row.tables, needs, strict=True)):
            if need:
                # Only where runs are read in place does it matter that blocks follow each other.
                table.grow(need, -(-ahead // self.size) if self.shape.arrangement.axis else 0)
                self.reach(number, max(table.numbers[-need:]) + 1)
        return True

    def join(self, row: Row) -> None:
        """Give the row the next place in the batch."""
        row.slot = len(self.rows)
        self.rows.append(row)
        if self.recurrent:
            self._put_state(row)

    def fork(self, row: Row) -> Row | None:
        """Share the row's full blocks; copy the one that both would write to."""
        twin = self.open()
        full = row.length // self.size
        for mine, theirs in zip(twin.tables, row.tables, strict=True):
            mine.adopt(theirs.numbers[:full], min(theirs.given_back, full))
            mine.blocks.share(mine.live)
        twin.length = row.length
        if not self.room(twin, row.length + 1):
            self.close(twin)
            return None
        for group, mine, theirs in zip(self.groups, twin.tables, row.tables, strict=True):
            if row.length % self.size:
                self._copy_block(group, theirs.numbers[full], mine.numbers[full])
        twin.state = list(row.state)
        return twin

    def close(self, row: Row, *, keep: bool = True) -> None:
        """Take the row out of the batch and give its blocks back."""
        if row.slot is not None:
            self._leave(row)
        for number, table in enumerate(row.tables):
            if not keep:
                table.blocks.unname(n for n in table.live if table.blocks.alone(n))
            if table.close():
                self.reclaim(number, 0)
        row.state = []

    def trim(self, row: Row) -> None:
        """Give blocks back that lie behind a window."""
        for number, (group, table) in enumerate(zip(self.groups, row.tables, strict=True)):
            if group.window is not None and not group.keep:
                behind = max(row.length - group.window + 1, 0) // self.size
                if table.give_back(min(behind, len(table.numbers))):
                    self.reclaim(number, 0)

    @property
    def recurrent(self) -> bool:
        """Whether any layer keeps state."""
        return self.shape.layout.recurrent

    def take(self, number: int, count: int) -> list[int]:
        """Take free blocks of a group for what will be written to them."""
        taken = self.groups[number].blocks.take(count)
        self.reach(number, max(taken, default=0) + 1)
        return taken

    def token_bytes(self, group: Group) -> int:
        """Return the bytes of one token in a group's layers."""
        total = 0
        for leaf in group.leaves:
            codec = self.shape.codecs[leaf]
            assert codec is not None
            total += sum(prod(s) * t.size for s, t in self.shape.arrangement.shapes(codec, 1))
        return total

    def used(self) -> int:
        """Count the blocks of the first group: a token's most."""
        return self.groups[0].blocks.used if self.groups else 0

    # -- planes ----------------------------------------------------------------------------------

    def reach(self, number: int, blocks: int) -> None:
        """Let a group's planes have at least so many blocks."""
        held, group = self._held[number], self.groups[number]
        if blocks <= held:
            return
        more = min(max(blocks, held * GROWTH, self.first), group.blocks.count + 1)
        for leaf in group.leaves:  # layer by layer: one old plane beside its new one
            codec = self.shape.codecs[leaf]
            assert codec is not None
            shapes = self.shape.arrangement.shapes(codec, (more - held) * self.size)
            new = [mx.zeros(shape, dtype) for shape, dtype in shapes]
            old: Any = self.data[leaf]
            if old:
                self.copied += sum(a.nbytes for a in old)
                axis = self.shape.arrangement.axis
                pairs = zip(old, new, strict=True)
                new = [mx.concatenate([a, b], axis=axis) for a, b in pairs]
            self.data[leaf] = tuple(new)
            del old
            mx.eval(new)
        self._held[number] = more

    def _copy_block(self, group: Group, source: int, target: int) -> None:
        a, b = (slice(n * self.size, (n + 1) * self.size) for n in (source, target))
        for leaf in group.leaves:
            planes: Any = self.data[leaf]
            for plane in planes:
                if self.shape.arrangement.axis:
                    plane[:, b] = plane[:, a]
                else:
                    plane[b] = plane[a]
                self.copied += plane.nbytes * self.size // plane.shape[self.shape.arrangement.axis]

    # -- recurrent state -------------------------------------------------------------------------

    def _no_state(self) -> list[LeafData]:
        return [
            () if isinstance(leaf, AttentionLeaf) else (None,) * leaf.size
            for leaf in self.shape.layout.leaves
        ]

    def states(self, data: Sequence[LeafData] | None = None) -> list[LeafData]:
        """Return the recurrent leaves' arrays; attention leaves are left out."""
        pairs = zip(data or self.data, self.shape.layout.leaves, strict=True)
        return [() if isinstance(leaf, AttentionLeaf) else d for d, leaf in pairs]

    def put_states(self, states: Sequence[LeafData]) -> None:
        """Replace the batch's recurrent arrays."""
        pairs = zip(self.data, states, self.shape.layout.leaves, strict=True)
        self.data = [d if isinstance(leaf, AttentionLeaf) else s for d, s, leaf in pairs]

    def with_state(self, rows: Sequence[Row]) -> list[LeafData]:
        """Return what a pass over rows outside the batch works on."""
        if not self.recurrent:
            return self.data
        states: Any = rows[0].state if len(rows) == 1 else stack([r.state for r in rows])
        pairs = zip(self.data, states, self.shape.layout.leaves, strict=True)
        return [d if isinstance(leaf, AttentionLeaf) else s for d, s, leaf in pairs]

    def merged(self, batch: Sequence[LeafData]) -> list[LeafData]:
        """Return the planes of now with the batch's own states."""
        if not self.recurrent:
            return self.data
        pairs = zip(self.data, batch, self.shape.layout.leaves, strict=True)
        return [now if isinstance(leaf, AttentionLeaf) else s for now, s, leaf in pairs]

    @staticmethod
    def cut_state(data: Sequence[LeafData], at: int) -> list[Any]:
        """Return one row of the leaves' arrays."""
        return [tuple(None if a is None else a[at : at + 1] for a in state) for state in data]

    def _put_state(self, row: Row) -> None:
        """Append the row's state to the batch's."""
        states = self.states()
        mine: Any = row.state
        joined = [_append(held, new, row.slot or 0) for held, new in zip(states, mine, strict=True)]
        self.put_states(joined)
        row.state = []

    def state_of(self, row: Row) -> tuple[mx.array, ...]:
        """Return lazy copies of a row's recurrent arrays, leaf after leaf."""
        state: Any = row.state if row.slot is None else self.cut_state(self.states(), row.slot)
        return tuple(mx.contiguous(a) for leaf in state for a in leaf if a is not None)

    def set_state(self, row: Row, state: Sequence[mx.array]) -> None:
        """Give a row that has not joined what ``state_of`` returned."""
        left = iter(state)
        row.state = [
            () if isinstance(leaf, AttentionLeaf) else tuple(next(left) for _ in range(leaf.size))
            for leaf in self.shape.layout.leaves
        ]

    def _leave(self, row: Row) -> None:
        """Let the last row of the batch take this one's place."""
        slot, last = row.slot, len(self.rows) - 1
        assert slot is not None
        if self.recurrent:
            order = [n if n != slot else last for n in range(last)]
            index = mx.array(order, mx.int32)
            states: Any = self.states()
            self.put_states(
                [tuple(None if a is None or not order else a[index] for a in s) for s in states]
            )
        self.rows[slot] = self.rows[last]
        self.rows[slot].slot = slot
        self.rows.pop()
        row.slot = None


def _append(held: Any, new: Any, rows: int) -> tuple[mx.array | None, ...]:
    """Return a leaf's arrays with one row more; arrays may not be there yet."""
    found: list[mx.array | None] = []
    for mine, theirs in zip(held, new, strict=True):
        one, other = mine, theirs
        if (one is None and other is None) or not rows:
            found.append(other)
            continue
        if one is None:
            one = mx.zeros((rows, *other.shape[1:]), other.dtype)
        if other is None:
            other = mx.zeros((1, *one.shape[1:]), one.dtype)
        found.append(_concatenated([one, other]))
    return tuple(found)


def stack(states: Sequence[Any]) -> list[Any]:
    """Return one leaf after the other with all rows' arrays."""
    joined = []
    for leaf in zip(*states, strict=True):
        arrays: list[mx.array | None] = []
        for parts in zip(*leaf, strict=True):
            there = [p for p in parts if p is not None]
            if not there:
                arrays.append(None)
                continue
            zero = mx.zeros_like(there[0])
            arrays.append(_concatenated([zero if p is None else p for p in parts]))
        joined.append(tuple(arrays))
    return joined


def _concatenated(rows: Sequence[mx.array]) -> mx.array:
    """Join rows' states; a history of fewer tokens is one of more that begins with zeros."""
    longest = max((row.shape[1] for row in rows if row.ndim > 1), default=0)
    return mx.concatenate([_longer(row, longest) for row in rows])


def _longer(row: mx.array, longest: int) -> mx.array:
    short = longest - row.shape[1] if row.ndim > 1 else 0
    return row if not short else mx.pad(row, [(0, 0), (short, 0), *[(0, 0)] * (row.ndim - 2)])
