"""What proposers are lent: parts of the served model, and second models on rows of their own."""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from typing import Any

import mlx.core as mx
from attrs import define, field, frozen

from mlxserve.batch.plan import PoolLimits, plan_kv
from mlxserve.batch.runner import Runner
from mlxserve.batch.store import Chunk
from mlxserve.model.backbone import Backbone, backbone_of
from mlxserve.model.causal import CausalModel
from mlxserve.model.finding import find
from mlxserve.model.load import LoadedModel, load
from mlxserve.options import ModelOptions
from mlxserve.pool.table import Row
from mlxserve.resolved import Resolved
from mlxserve_hookspecs import DraftRequest, HostedModel, ModelError, Progress, TextCodec

LONGEST = 1 << 15
"""Tokens that one of its rows can have at most."""

BEHIND = 8
"""Tokens that a row may lag behind and still catch up in the batch; beyond, it starts anew."""


@define(eq=False)
class Served:
    """Parts of the served model that are lent to proposers; found when they are first asked for."""

    model: CausalModel
    _backbone: Backbone | None = None

    def embed(self, tokens: mx.array) -> mx.array:
        """Return embeddings ``[..., size]`` of tokens ``[...]``.

        Raises:
            ModelError: The model has no one table.
        """
        tables = [part for _, part in self.model.named_modules() if hasattr(part, "as_linear")]
        if len(tables) != 1:
            raise ModelError(f"the served model has {len(tables)} tables of embeddings, not one")
        found: mx.array = tables[0](tokens)
        return found

    def logits(self, states: mx.array) -> mx.array:
        """Return logits ``[..., vocab]`` of states ``[..., size]`` after the last norm.

        Raises:
            ModelError: The model has no head that alone makes them.
        """
        if self._backbone is None:
            self._backbone = backbone_of(self.model)
        head = None if self._backbone is None else self._backbone.head
        if head is None:
            raise ModelError("the served model does more to its logits than its head does")
        return head(states)


@frozen
class Host:
    """Implements ``ModelHost``: second models come through the same plugins as the first.

    Attributes:
        served: Parts of the first.
        compiled: Whether second models' passes are.
    """

    resolved: Resolved
    served: Served
    text: TextCodec
    progress: Progress
    compiled: bool

    def embed(self, tokens: mx.array) -> mx.array:
        """Return the served model's embeddings."""
        return self.served.embed(tokens)

    def logits(self, states: mx.array) -> mx.array:
        """Return the served model's logits."""
        return self.served.logits(states)

    def load(self, reference: str) -> HostedModel:
        """Load a model and lay out its rows, in plain KV."""
        options = ModelOptions(model=reference, dtype=self.resolved.model.dtype)
        plugins = self.resolved.plugins
        model = load(plugins, options, find(plugins, reference, self.progress))
        return hosted(model, compiled=self.compiled)


def hosted(model: LoadedModel, *, compiled: bool) -> "Hosted":
    """Return ``model`` ready to continue sequences.

    Raises:
        ModelError: Its layers cannot take tokens back, as wrong guesses demand.
    """
    longest = min(model.max_len or LONGEST, LONGEST)
    limits = PoolLimits(
        blocks=1 << 16, block_size=16, live=1 << 12, prefilling=1, chunk=1 << 12, longest=longest
    )
    plan = plan_kv(model.model, lambda _keys, _values: None, limits, compiled=compiled)
    store = plan.store
    if not isinstance(store, Runner) or store.pool.recurrent:
        raise ModelError(f"{model.name} cannot draft: its layers cannot take tokens back")
    logits = model.model(mx.array([[0]]), cache=None)
    return Hosted(store, model.text, logits.shape[-1])


@define(eq=False)
class Held:
    """One sequence's row.

    Attributes:
        row: Its KV.
        base: Where in the sequence the row begins.
        tokens: What the row holds: the sequence from ``base`` on, then guesses.
    """

    row: Row
    base: int
    tokens: list[int]


@define(eq=False)
class Hosted:
    """Implements ``HostedModel``. Its memory comes on top of the served model's budget."""

    store: Runner
    text: TextCodec
    vocab_size: int
    _held: dict[int, Held] = field(factory=dict)

    def continue_greedily(
        self, batch: Items[DraftRequest], context: int
    ) -> Mapping[int, tuple[int, ...]]:
        """Catch up with the sequences, then run a chain of greedy steps over all rows."""
        missing = {r.uid: self._missing(r, context) for r in batch}
        steps = max(r.room for r in batch)
        width = max(len(tokens) for tokens in missing.values())
        for held in self._held.values():
            self.store.room(held.row, held.row.length + width + steps)
        chain = self._chain(missing, width, steps)
        found: dict[int, tuple[int, ...]] = {}
        for request in batch:
            held = self._held[request.uid]
            guesses = chain[id(held.row)]
            # The last guess was never run; nor was the last of a shorter chain worth keeping.
            held.tokens = [*request.tokens[held.base :], *guesses[:-1]]
            held.row.length = len(held.tokens)
            found[request.uid] = tuple(guesses[: request.room])
        return found

    def forget(self, uids: Items[int]) -> None:
        """Free the rows."""
        for uid in uids:
            if (held := self._held.pop(uid, None)) is not None:
                self.store.close(held.row)

    def hosted_rows(self) -> int:
        """Return how many sequences have a row here."""
        return len(self._held)

    def _missing(self, request: DraftRequest, context: int) -> list[int]:
        """Take guesses back that the sequence did not follow; return the tokens to run."""
        held = self._held.get(request.uid)
        if held is not None:
            mine = request.tokens[held.base :]
            held.row.length = min(_common(held.tokens, mine), len(mine) - 1)
            if len(mine) - held.row.length <= BEHIND:
                return list(mine[held.row.length :])
            self.forget((request.uid,))
        base = max(len(request.tokens) - context, 0)
        mine = list(request.tokens[base:])
        row = self.store.open()
        self.store.room(row, len(mine) + request.room + 1)
        if len(mine) > 1:
            self.store.prefill([Chunk(row, mine[:-1])])
        self.store.join(row)
        self._held[request.uid] = Held(row, base, mine)
        return mine[-1:]

    def _chain(
        self, missing: Mapping[int, list[int]], width: int, steps: int
    ) -> dict[int, list[int]]:
        """Run the missing tokens, then ``steps - 1`` guesses; return each row's guesses."""
        order = self.store.order()
        by_row = {id(self._held[uid].row): tokens for uid, tokens in missing.items()}
        fed = [by_row.get(id(row), [0]) for row in order]
        before = [row.length if row else 0 for row in order]
        tokens = mx.array([[*t, *[0] * (width - len(t))] for t in fed], mx.int32)
        last = mx.array([len(t) - 1 for t in fed], mx.int32)
        logits = self.store.verify(tokens)
        ends = mx.take_along_axis(logits, last[:, None, None], axis=1)[:, 0]
        guesses = [mx.argmax(ends, axis=-1).astype(mx.int32)]
        for row, run in zip(order, fed, strict=True):
            if row is not None:
                row.length += len(run)
        for _ in range(steps - 1):
            logits = self.store.decode(guesses[-1])
            guesses.append(mx.argmax(logits, axis=-1).astype(mx.int32))
        made: Any = mx.stack(guesses, axis=1).tolist()
        for row, length in zip(order, before, strict=True):
            if row is not None:
                row.length = length  # rows that were not asked lose nothing
        return {id(row): made[at] for at, row in enumerate(order) if row is not None}


def _common(one: Items[int], other: Items[int]) -> int:
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count
