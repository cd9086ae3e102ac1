"""Run decode steps of one shape without requests, and time them."""

import io
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import mlx.core as mx
from attrs import define
from mlx.utils import tree_flatten

from mlxserve.engine.build import build
from mlxserve.engine.inbox import Inbox
from mlxserve.kv.bucket import Row
from mlxserve.kv.store import BucketStore
from mlxserve.resolved import Resolved
from mlxserve_hookspecs import EngineFacts, ModelError, Progress, StepCost

WARM: Final = 3
"""Steps before the first that is timed: the first builds kernels, the second may compile."""

PRIMITIVE: Final = re.compile(r'label ="([^"]*)", shape=rectangle')
VIEWS: Final = frozenset(
    {"AsStrided", "Broadcast", "BroadcastAxes", "ExpandDims", "Flatten", "Reshape", "Slice",
     "Split", "Squeeze", "StopGradient", "Transpose", "Unflatten", "View"}
)  # fmt: skip
"""Primitives that start no kernel where they only look at an array in another way."""


@contextmanager
def open_engine(resolved: Resolved, progress: Progress) -> Iterator["Offline"]:
    """Build the engine that ``resolved`` describes, on this thread.

    Raises:
        MlxserveError: A user's mistake, or a model that takes one sequence at a time.
    """
    built = build(resolved, progress, Inbox(), lambda _events: None)
    store = built.engine.decoder.store
    if not isinstance(store, BucketStore):
        raise ModelError(f"{built.loaded.card.id} runs one sequence at a time: no steps to measure")
    try:
        yield Offline(store, _facts(store, built.loaded.card.id))
    finally:
        built.engine.scheduler.cache.close(0.0)
        del built, store
        mx.clear_cache()


@define(eq=False)
class Offline:
    """Implements ``EngineBench``."""

    store: BucketStore
    facts: EngineFacts

    def decode(self, *, rows: int, context: int, width: int, steps: int) -> StepCost:
        """Fill rows with nothing, which takes as long to read as anything else, and run steps."""
        if width > 1 and not self.store.drafts_fit:
            raise ModelError(f"{self.facts.model} cannot take tokens back: its width is 1")
        held = [self._row(context, context + (WARM + steps) * width + 1) for _ in range(rows)]
        try:
            tokens = mx.zeros((rows, width), mx.int32)
            seconds = []
            for _ in range(WARM + steps):
                took, tokens = self._timed(tokens)
                seconds.append(took)
            return StepCost(seconds=tuple(seconds[WARM:]), operations=self._operations(tokens))
        finally:
            for row in held:
                self.store.close(row)
            mx.clear_cache()

    def _row(self, context: int, most: int) -> Row:
        row = self.store.open(most)
        mx.eval(self.store.pending([row]))
        row.length = context
        self.store.join(row)
        return row

    def _timed(self, tokens: mx.array) -> tuple[float, mx.array]:
        began = time.perf_counter()
        following = self._step(tokens)
        mx.eval(following, self.store.pending(self._rows))
        return time.perf_counter() - began, following

    def _step(self, tokens: mx.array) -> mx.array:
        if tokens.shape[1] == 1:
            return mx.argmax(self.store.decode(tokens[:, 0]), axis=-1).astype(mx.int32)[:, None]
        following = mx.argmax(self.store.verify(tokens), axis=-1).astype(mx.int32)
        kept = mx.full((tokens.shape[0],), tokens.shape[1], mx.int32)
        mx.eval(following, *self.store.commit(tokens, kept))
        for row in self._rows:
            row.length += tokens.shape[1]
        return following

    def _operations(self, tokens: mx.array) -> int:
        graph = io.StringIO()
        logits = (
            self.store.decode(tokens[:, 0]) if tokens.shape[1] == 1 else self.store.verify(tokens)
        )
        export: Callable[..., Any] = mx.export_to_dot
        export(graph, mx.argmax(logits, axis=-1), *self.store.pending(self._rows))
        mx.eval(logits)
        return sum(name not in VIEWS for name in PRIMITIVE.findall(graph.getvalue()))

    @property
    def _rows(self) -> list[Row]:
        return [row for row in self.store.order() if row is not None]


def _facts(store: BucketStore, model: str) -> EngineFacts:
    weights: Any = tree_flatten(store.model.parameters())  # type: ignore[attr-defined]
    planes = [spec for leaf in store.shapes for spec in leaf]
    names = [held.codec.name for held in store.codecs if held is not None]
    kinds = (f"{name} in {names.count(name)} layers" for name in dict.fromkeys(names))
    return EngineFacts(
        model=model,
        codec=", ".join(kinds),
        weight_bytes=sum(array.nbytes for _, array in weights),
        kv_token_bytes=sum(heads * width * dtype.size for heads, width, dtype in planes),
    )
