"""Prefill passes: prompts in chunks, without logits unless somebody asked for them."""

from collections.abc import Sequence as Items

import mlx.core as mx
from attrs import define

from mlxserve.batch.hidden import NOTHING, Sights
from mlxserve.batch.sequence import Sequence
from mlxserve.batch.store import Chunk, RowStore
from mlxserve.sampling.logprobs import pending_logprobs


@define(eq=False)
class Prefiller:
    """Runs chunks; keeps at most one pass in flight, so that memory and latency stay bounded."""

    store: RowStore
    sights: Sights = NOTHING
    _flying: mx.array | None = None

    def run(self, together: Items[tuple[Sequence, Chunk]]) -> int:
        """Run one pass; return how many prompt tokens it prefilled."""
        if self._flying is not None:
            mx.eval(self._flying)
        before = [sequence.held for sequence, _ in together]
        logits = self.store.prefill([chunk for _, chunk in together])
        for at, (sequence, chunk) in enumerate(together):
            if sequence.request.prompt_logprobs is not None:
                self._score(sequence, chunk, before[at], logits[at])
        del logits  # never evaluated where nobody asked
        pending = self.store.pending([chunk.row for _, chunk in together])
        hidden, sights = self.store.hidden, self.sights.values()
        seen = [a for sight in sights for a in sight.prefilled(together, before, hidden)]
        # A number that depends on the pass and holds none of its arrays: waiting for it later
        # must not keep the next pass from updating them in place.
        self._flying = pending[-1].reshape(-1)[:1].astype(mx.float32) + 0.0
        mx.async_eval(*pending, *seen, self._flying)  # type: ignore[no-untyped-call]
        return sum(len(chunk.tokens) for _, chunk in together)

    def reset(self) -> None:
        """Forget the pass in flight: it failed."""
        self._flying = None

    @staticmethod
    def _score(sequence: Sequence, chunk: Chunk, start: int, logits: mx.array) -> None:
        """Read the log-probabilities of the prompt's tokens after each of the chunk's."""
        known = max(len(sequence.prompt_logprobs) - start, 0)  # from before a preemption
        count = min(len(chunk.tokens), sequence.prompt_tokens - start - 1)
        if count <= known:
            return
        following = mx.array(sequence.tokens[start + 1 + known : start + 1 + count], mx.int32)
        top = sequence.request.prompt_logprobs or 0
        wanted = [(at, top) for at in range(count - known)]
        scores = pending_logprobs(logits[known:count], following, wanted)
        if scores is not None:
            mx.eval(scores.arrays())
            found = scores.read()
            sequence.prompt_logprobs += [found[at] for at in range(count - known)]
