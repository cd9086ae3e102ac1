"""Hidden states of rows, from the passes that ran them to the proposers that asked for them."""

from collections import deque
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Items
from types import MappingProxyType
from typing import Final, TypeAlias

import mlx.core as mx
from attrs import define, evolve, field, frozen

from mlxserve.batch.runner import Runner
from mlxserve.batch.sequence import Sequence
from mlxserve.batch.store import Chunk, RowStore, States
from mlxserve.model.taps import tap
from mlxserve_hookspecs import DraftRequest, HiddenStateProposer


@frozen(eq=False)
class Piece:
    """The first tokens of one row in a pass.

    Attributes:
        states: The pass's, of the layers that are wanted.
        slot: The row.
        count: How many.
    """

    states: States
    slot: int
    count: int

    def cut(self) -> mx.array:
        """Return ``[count, layers, size]``, lazy."""
        return mx.stack([each[self.slot, : self.count] for each in self.states], axis=1)


@define(eq=False)
class Run:
    """Pieces of one sequence that follow each other.

    Attributes:
        end: Tokens of the sequence up to the last of them.
        count: Tokens in the pieces.
    """

    end: int
    count: int = 0
    pieces: deque[Piece] = field(factory=deque)

    def add(self, piece: Piece, most: int) -> None:
        """Append a piece, and let go of the oldest that are not needed for ``most`` tokens."""
        self.pieces.append(piece)
        self.end += piece.count
        self.count += piece.count
        while self.count - self.pieces[0].count >= most:
            self.count -= self.pieces.popleft().count


@define(eq=False)
class Sight:
    """What one proposer sees, and has not been shown yet. Engine thread.

    Attributes:
        places: Its layers among those that are watched.
        most: Tokens that it wants at most.
    """

    places: tuple[int, ...]
    most: int
    _runs: dict[int, Run] = field(factory=dict)

    def prefilled(
        self, together: Items[tuple[Sequence, Chunk]], before: Items[int], states: States
    ) -> list[mx.array]:
        """Take a prompt's chunks; return what must be evaluated with them."""
        ends: list[mx.array] = []
        for slot, (sequence, chunk) in enumerate(together):
            count = min(len(chunk.tokens), self.most)
            first = len(chunk.tokens) - count
            mine = [each[slot : slot + 1, first : first + count] for each in self._of(states)]
            ends += mine
            self._add(sequence.uid, before[slot] + first, Piece(tuple(mine), 0, count))
        return ends

    def ran(
        self,
        slots: Items[Sequence | None],
        starts: Items[int],
        counts: Items[int],
        states: States,
    ) -> None:
        """Take the first ``counts`` tokens of each row, of which there were ``starts`` before."""
        mine = self._of(states)
        for slot, sequence in enumerate(slots):
            if sequence is not None:
                self._add(sequence.uid, starts[slot], Piece(mine, slot, counts[slot]))

    def shown(self, requests: Iterable[DraftRequest]) -> list[DraftRequest]:
        """Return requests with the states that have come, and let go of those."""
        found = []
        for request in requests:
            run = self._runs.pop(request.uid, None)
            fits = run is not None and run.end == len(request.tokens) - 1
            found.append(evolve(request, hidden=self._joined(run)) if run and fits else request)
        return found

    def fork(self, uid: int, twin: int) -> None:
        """Let a sequence that goes on from where another is have what that has."""
        if (run := self._runs.get(uid)) is not None:
            self._runs[twin] = Run(run.end, run.count, deque(run.pieces))

    def forget(self, uids: Iterable[int]) -> None:
        """Let go of finished sequences' states."""
        for uid in uids:
            self._runs.pop(uid, None)

    def _add(self, uid: int, start: int, piece: Piece) -> None:
        run = self._runs.get(uid)
        if run is None or run.end != start:  # a row that began anew, or went on from a cache
            run = self._runs[uid] = Run(start)
        run.add(piece, self.most)

    def _of(self, states: States) -> States:
        return tuple(states[at] for at in self.places)

    def _joined(self, run: Run) -> mx.array:
        parts = [piece.cut() for piece in run.pieces]
        whole = parts[0] if len(parts) == 1 else mx.concatenate(parts)
        return whole[-self.most :]


Sights: TypeAlias = Mapping[int, Sight]
"""Of the proposers that asked, by their place in the order."""

NOTHING: Final[Sights] = MappingProxyType({})
"""What is seen where nobody looks."""


def sights_of(proposers: Items[HiddenStateProposer], store: RowStore) -> Sights:
    """Put taps where proposers want to look; none where nothing can be drafted anyway.

    Raises:
        ModelError: The model cannot be watched there.
    """
    asked = {at: proposer.hidden_states() for at, proposer in enumerate(proposers)}
    wishes = {at: wish for at, wish in asked.items() if wish is not None and wish.layers}
    if not wishes or not isinstance(store, Runner) or not store.drafts_fit:
        return NOTHING
    layers = [layer for wish in wishes.values() for layer in wish.layers]
    taps = tap(store.model, layers)
    store.watch(taps)
    last = taps.layers[-1]
    return {
        at: Sight(
            tuple(taps.layers.index(last if layer == -1 else layer) for layer in wish.layers),
            max(wish.most, 1),
        )
        for at, wish in wishes.items()
    }
