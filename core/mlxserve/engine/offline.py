"""Time an engine without a server: decode steps of one shape, or all that requests cost."""

import io
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import mlx.core as mx
import numpy as np
from attrs import define
from mlx.utils import tree_flatten

from mlxserve.batch.runner import Runner
from mlxserve.batch.store import Chunk
from mlxserve.cache.chain import extend, root
from mlxserve.engine.build import build
from mlxserve.engine.engine import Engine
from mlxserve.inbox import Inbox, Submit
from mlxserve.model.finding import find
from mlxserve.pool.table import Row
from mlxserve.resolved import Resolved
from mlxserve_hookspecs import (
    BlockKey,
    EngineFacts,
    GenerationRequest,
    ModelError,
    Progress,
    SamplingParams,
    StepCost,
    StopConditions,
    TurnCost,
)

WARM: Final = 3
"""Steps before the first that is timed: the first builds kernels, the second may compile."""

CHAIN: Final = 128
"""Made up blocks that follow each other."""

PART: Final = 512
"""Tokens at a time by which rows are filled: layers with a window give blocks back in between."""

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
    source = find(resolved.plugins, resolved.model.model, progress)
    built = build(resolved, source, progress, Inbox(), lambda _events: None)
    store = built.engine.decoder.store
    if not isinstance(store, Runner):
        raise ModelError(f"{built.loaded.card.id} runs one sequence at a time: no steps to measure")
    try:
        yield Offline(store, _facts(store, built.loaded.card.id), built.engine)
    finally:
        built.engine.scheduler.cache.close(0.0)
        del built, store
        mx.clear_cache()


@define(eq=False)
class Offline:
    """Implements ``EngineBench``."""

    store: Runner
    facts: EngineFacts
    engine: Engine

    def decode(self, *, rows: int, context: int, width: int, steps: int) -> StepCost:
        """Fill rows with nothing, which takes as long to read as anything else, and run steps."""
        if width > 1 and not self.store.drafts_fit:
            raise ModelError(f"{self.facts.model} cannot take tokens back: its width is 1")
        width = 1 if width == 1 else self.store.width(width)
        held: list[Row] = []
        try:
            for _ in range(rows):
                held.append(self.store.open())
                self._fill(held[-1], context, context + (WARM + steps + 1) * width)
            return self._measured(width, steps)
        finally:
            for row in held:
                self.store.close(row, keep=False)
            mx.clear_cache()

    def serve(self, *, requests: int, prompt: int, reply: int, cached: int = 0) -> list[TurnCost]:
        """Hand all requests in, then step until the engine is idle."""
        scheduler = self.engine.scheduler
        random = np.random.default_rng(0)
        if -(-(prompt + reply) // self.store.pool.size) > scheduler.capacity.blocks - cached:
            raise ModelError(f"{self.facts.model}: KV has no room; --num-blocks sets it")
        try:
            self._cache(cached, random)
            for number in range(requests):
                tokens = random.integers(0, self.engine.decoder.vocab, prompt).tolist()
                self.engine.inbox.put(
                    Submit(_greedy(str(number), tokens, reply), time.monotonic(), number)
                )
            turns = [self._turn()]
            while not scheduler.idle:
                turns.append(self._turn())
            return turns
        finally:
            scheduler.cache.clear()
            mx.clear_cache()

    def _turn(self) -> TurnCost:
        scheduler, arriving = self.engine.scheduler, len(self.engine.inbox)
        before, began = len(scheduler.waiting) + arriving, time.perf_counter()
        self.engine.step()
        return TurnCost(
            seconds=time.perf_counter() - began,
            passes=self.engine.passes.seconds,
            decoding=len(scheduler.decoding),
            admitted=before - len(scheduler.waiting),
            waiting=len(scheduler.waiting),
        )

    def _cache(self, blocks: int, random: np.random.Generator) -> None:
        """Let so many blocks be found that nobody computed."""
        pool = self.store.pool
        while blocks > 0:
            count = min(blocks, CHAIN)
            row, chain = self.store.open(), list[BlockKey]()
            tokens = random.integers(0, self.engine.decoder.vocab, count * pool.size).tolist()
            self._room(row, len(tokens))
            extend(chain, tokens, pool.size, root(b"", ""))
            for group, table in zip(pool.groups, row.tables, strict=True):
                for number, key in zip(table.numbers, chain, strict=False):
                    group.blocks.name(number, key)
            self.store.close(row)
            blocks -= count

    def _measured(self, width: int, steps: int) -> StepCost:
        tokens = mx.zeros((len(self.store.order()), width), mx.int32)
        for _ in range(WARM):
            _, tokens = self._timed(tokens)
        seconds, traces = [], self.store.traces
        for _ in range(steps):
            took, tokens = self._timed(tokens)
            seconds.append(took)
        traced = self.store.traces - traces
        operations = self._operations(tokens)
        return StepCost(seconds=tuple(seconds), operations=operations, traces=traced)

    def _fill(self, row: Row, context: int, most: int) -> None:
        """Let ``row`` hold ``context`` tokens that nobody computed, with room for ``most``."""
        self._room(row, 1)
        # Recurrent layers have a state after their first token.
        mx.eval(self.store.prefill([Chunk(row, [0])]), self.store.pending([row]))
        while row.length < context:
            following = min(context, row.length + PART)
            self._room(row, following)
            row.length = following
            self.store.pool.trim(row)
        self.store.join(row)
        self._room(row, most)

    def _room(self, row: Row, tokens: int) -> None:
        if not self.store.room(row, tokens):
            raise ModelError(
                f"{self.facts.model}: KV has no room for these rows; --num-blocks sets it"
            )

    def _timed(self, tokens: mx.array) -> tuple[float, mx.array]:
        began = time.perf_counter()
        following = self._step(tokens)
        mx.eval(following, self.store.pending([]))
        return time.perf_counter() - began, following

    def _step(self, tokens: mx.array) -> mx.array:
        if tokens.shape[1] == 1:
            return mx.argmax(self.store.decode(tokens[:, 0]), axis=-1).astype(mx.int32)[:, None]
        following = mx.argmax(self.store.verify(tokens), axis=-1).astype(mx.int32)
        kept = mx.full((tokens.shape[0],), tokens.shape[1], mx.int32)
        mx.eval(following, *self.store.commit(tokens, kept))
        for row in self.store.pool.rows:
            row.length += tokens.shape[1]
        return following

    def _operations(self, tokens: mx.array) -> int:
        graph = io.StringIO()
        logits = (
            self.store.decode(tokens[:, 0]) if tokens.shape[1] == 1 else self.store.verify(tokens)
        )
        export: Callable[..., Any] = mx.export_to_dot
        export(graph, mx.argmax(logits, axis=-1), *self.store.pending([]))
        mx.eval(logits)
        return sum(name not in VIEWS for name in PRIMITIVE.findall(graph.getvalue()))


def _greedy(name: str, prompt: list[int], reply: int) -> GenerationRequest:
    return GenerationRequest(
        id=name,
        prompt=tuple(prompt),
        sampling=SamplingParams(temperature=0.0),
        stop=StopConditions(max_tokens=reply, ignore_eos=True),
    )


def _facts(store: Runner, model: str) -> EngineFacts:
    weights: Any = tree_flatten(store.model.parameters())  # type: ignore[attr-defined]
    names = [leaf.codec.name for leaf in store.pool.shape.codecs if leaf is not None]
    kinds = (f"{name} in {names.count(name)} layers" for name in dict.fromkeys(names))
    return EngineFacts(
        model=model,
        codec=", ".join(kinds),
        weight_bytes=sum(array.nbytes for _, array in weights),
        kv_token_bytes=sum(map(store.pool.token_bytes, store.pool.groups)),
    )
