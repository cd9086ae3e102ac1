"""The sampling parameters of a batch as arrays, and the graph that turns logits into tokens."""

import hashlib
from collections.abc import Iterable, Sequence

import mlx.core as mx
import numpy as np
from attrs import define, field, frozen

from mlxserve.sampling.draw import draw, filter_logits, row_keys
from mlxserve_hookspecs import SamplingParams

GREEDY = SamplingParams(temperature=0.0)


def base_key(seed: int, choice: int) -> int:
    """Return the 32-bit half of a row's keys that says whose they are."""
    digest = hashlib.blake2b(f"{seed}:{choice}".encode(), digest_size=4)
    return int.from_bytes(digest.digest(), "little")


@frozen(kw_only=True)
class SampledRow:
    """What sampling needs to know of one row.

    Attributes:
        params: The request's parameters.
        key: From ``base_key``.
        banned: Tokens that must not come now (end of sequence, before ``min_tokens``).
        prompt: The prompt's tokens, for the repetition penalty.
        generated: The tokens so far, for penalties.
        mask: Booleans ``[vocab]`` from a constraint.
    """

    params: SamplingParams = GREEDY
    key: int = 0
    banned: frozenset[int] = frozenset()
    prompt: Sequence[int] = ()
    generated: Sequence[int] = ()
    mask: mx.array | None = None


@define(eq=False)
class Penalties:
    """Penalties of a batch: what each row generated so far, kept on the device.

    Attributes:
        counts: ``[rows, vocab]`` float32, occurrences among the generated tokens.
        prompted: ``[rows, vocab]`` booleans, whether the prompt has the token.
    """

    presence: mx.array
    frequency: mx.array
    repetition: mx.array
    counts: mx.array
    prompted: mx.array

    @classmethod
    def of(cls, rows: Sequence[SampledRow], vocab: int) -> "Penalties":
        """Count what the rows have so far."""
        counts = np.zeros((len(rows), vocab), np.float32)
        prompted = np.zeros((len(rows), vocab), np.bool_)
        for at, row in enumerate(rows):
            if row.params.penalised:
                np.add.at(counts[at], np.asarray(row.generated, np.int64), 1.0)
                prompted[at, np.asarray(row.prompt, np.int64)] = True
        return cls(
            _column([r.params.presence_penalty for r in rows]),
            _column([r.params.frequency_penalty for r in rows]),
            _column([r.params.repetition_penalty for r in rows]),
            mx.array(counts),
            mx.array(prompted),
        )

    def apply(self, logits: mx.array) -> mx.array:
        """Return penalised logits; a row without penalties is unchanged, bit for bit."""
        seen = (self.counts > 0) | self.prompted
        scaled = mx.where(logits > 0, logits / self.repetition, logits * self.repetition)
        logits = mx.where(seen, scaled, logits)
        return logits - self.frequency * self.counts - self.presence * (self.counts > 0)

    def count(self, tokens: mx.array) -> None:
        """Add the tokens ``[rows]`` that were drawn."""
        self.counts = self.counts.at[mx.arange(tokens.shape[0]), tokens].add(1.0)


def _column(values: Iterable[float]) -> mx.array:
    return mx.array(list(values), mx.float32)[:, None]


@define(eq=False)
class SamplerBatch:
    """The rows of a batch, in batch order, ready to be sampled step after step.

    Valid as long as the same rows decode in the same slots, with the same bans and masks.
    """

    rows: Sequence[SampledRow]
    vocab: int
    _greedy: mx.array = field(init=False)
    _temperature: mx.array = field(init=False)
    _keys: mx.array = field(init=False)
    _filters: tuple[mx.array, mx.array, mx.array] | None = field(init=False, default=None)
    _bias: tuple[mx.array, mx.array, mx.array] | None = field(init=False, default=None)
    _mask: mx.array | None = field(init=False, default=None)
    _penalties: Penalties | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        params = [row.params for row in self.rows]
        self._greedy = mx.array([p.greedy for p in params])
        self._temperature = _column(p.temperature if p.temperature > 0 else 1.0 for p in params)
        self._keys = mx.array([row.key for row in self.rows], mx.uint32)
        if any(not p.greedy and (p.top_k or p.top_p < 1 or p.min_p) for p in params):
            self._filters = (
                mx.array([min(p.top_k, self.vocab) for p in params], mx.int32),
                mx.array([p.top_p for p in params], mx.float32),
                mx.array([p.min_p for p in params], mx.float32),
            )
        self._bias = self._sparse_bias()
        if any(p.penalised for p in params):
            self._penalties = Penalties.of(self.rows, self.vocab)
        if any(row.mask is not None for row in self.rows):
            everything = mx.ones((self.vocab,), mx.bool_)
            self._mask = mx.stack([everything if r.mask is None else r.mask for r in self.rows])

    @property
    def greedy(self) -> mx.array:
        """Which rows do not draw, ``[rows]`` booleans."""
        return self._greedy

    @property
    def keys(self) -> mx.array:
        """The rows' own halves of their keys, ``[rows]`` uint32."""
        return self._keys

    @property
    def all_greedy(self) -> bool:
        """Whether no row draws."""
        return all(row.params.greedy for row in self.rows)

    def process(self, logits: mx.array) -> mx.array:
        """Return logits after penalties, bias, bans and masks; float32 if anything applies."""
        if self._penalties is None and self._bias is None and self._mask is None:
            return logits
        logits = logits.astype(mx.float32)
        if self._penalties is not None:
            logits = self._penalties.apply(logits)
        if self._bias is not None:
            at, tokens, values = self._bias
            logits = logits.at[at, tokens].add(values)
        if self._mask is not None:
            logits = mx.where(self._mask, logits, -mx.inf)
        return logits

    def sample(self, logits: mx.array, positions: mx.array) -> mx.array:
        """Return tokens ``[rows]`` int32.

        Args:
            logits: ``[rows, vocab]``.
            positions: ``[rows]``: the position that each token will take in its sequence.
        """
        logits = self.process(logits)
        tokens = mx.argmax(logits, axis=-1).astype(mx.int32)
        if not self.all_greedy:
            keys = row_keys(self._keys, positions)
            tokens = mx.where(self._greedy, tokens, draw(self.scale(logits), keys))
        if self._penalties is not None:
            self._penalties.count(tokens)
        return tokens

    def scale(self, logits: mx.array) -> mx.array:
        """Return float32 logits after temperature and filters; greedy rows are not meaningful."""
        scaled = logits.astype(mx.float32) / self._temperature
        return scaled if self._filters is None else filter_logits(scaled, *self._filters)

    def _sparse_bias(self) -> tuple[mx.array, mx.array, mx.array] | None:
        found: list[tuple[int, int, float]] = []
        for at, row in enumerate(self.rows):
            found += [(at, token, value) for token, value in row.params.logit_bias.items()]
            found += [(at, token, -np.inf) for token in row.banned]
        if not found:
            return None
        rows, tokens, values = zip(*found, strict=True)
        return mx.array(rows, mx.int32), mx.array(tokens, mx.int32), mx.array(values, mx.float32)
