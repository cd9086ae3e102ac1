"""What is sampled with drafts has the distribution of what is sampled without."""

import math
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from attrs import evolve, frozen
from mlx_lm.models import llama

from mlxserve_hookspecs import AcceptanceRule, Array, Draft, DraftRequest, Verification
from mlxserve_plugins.ngram import Ngram, NgramOptions
from mlxserve_plugins.spec_decode.rules import RejectionRule, ThresholdRule

from .harness import bench, failures_of, request
from .speculating import Rule, Scripted, always

VOCAB = 16
REPLY = 500
REPLIES = 40
SAMPLES = REPLY * REPLIES
TEMPERATURES = (0.8, 1.2)
NEVER_BY_CHANCE = 1e-6
"""A right server fails once in a million seeds, and the seeds are fixed."""

Counts = dict[tuple[int, int, int], int]


@cache
def model() -> Any:
    """Return a model of one layer that looks at the last token only: what follows is a table."""
    mx.random.seed(5)
    args: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "intermediate_size": 32,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "rms_norm_eps": 1e-6,
        "vocab_size": VOCAB,
        "tie_word_embeddings": False,
    }
    made: Any = llama.Model(llama.ModelArgs(**args))
    attention = made.layers[0].self_attn
    attention.o_proj.weight = mx.zeros_like(attention.o_proj.weight)
    made.lm_head.weight = made.lm_head.weight * 2.5
    mx.eval(made.parameters())
    return made


@cache
def exact(temperature: float) -> Any:
    """Return the distribution ``[last token, next token]``, from the logits."""
    logits = model()(mx.arange(VOCAB)[:, None])[:, -1]
    return mx.softmax(logits / temperature, axis=-1).tolist()


class Guesser:
    """Samples its drafts from a distribution of its own, which is not the model's."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(7)
        self.table = self.random.dirichlet([0.7] * VOCAB, VOCAB)

    def __call__(self, row: DraftRequest) -> Draft:
        tokens: list[int] = []
        rows = []
        for _ in range(row.room):
            rows.append(self.table[tokens[-1] if tokens else row.tokens[-1]])
            tokens.append(int(self.random.choice(VOCAB, p=rows[-1])))
        return Draft(tuple(tokens), mx.array(np.stack(rows), mx.float32))


def sampled(temperature: float, *plugins: object, replies: int = REPLIES) -> Counts:
    """Return how often each token followed each two, in batches of 40."""
    it = bench(model(), *plugins, vocab=VOCAB, decoding=40, prefilling=8)
    for n in range(replies // 4):
        sampling = {"temperature": temperature, "seed": 1000 + n}
        it.submit(request(str(n), (3, 5, n % VOCAB), REPLY, sampling=sampling, choices=4))
    it.run(10**5)
    assert not failures_of(it)
    counts: Counts = {}
    for n, choice in product(range(replies // 4), range(4)):
        tokens = (5, n % VOCAB, *it.replies.tokens(str(n), choice))
        for three in zip(tokens, tokens[1:], tokens[2:], strict=False):
            counts[three] = counts.get(three, 0) + 1
    assert sum(counts.values()) == replies * REPLY
    usages = [it.replies.finish(str(n)).usage for n in range(replies // 4)]
    assert all(u.accepted_draft_tokens > 0 for u in usages)
    return counts


def p_value(counts: Counts, table: Any) -> float:
    """Return the smaller p-value of two tests: what follows each token, and each two tokens."""
    pairs: dict[Any, list[int]] = {}
    for (first, last, token), count in counts.items():
        for context in ((last,), (first, last)):
            pairs.setdefault(context, [0] * VOCAB)[token] += count
    return min(
        chi_square([(seen, table[c[-1]]) for c, seen in pairs.items() if len(c) == length])
        for length in (1, 2)
    )


def chi_square(rows: Sequence[tuple[list[int], list[float]]]) -> float:
    """Return the p-value of Pearson's test of counts against probabilities, row by row.

    Cells of a row that are expected fewer than 5 times are put together, or with another.
    """
    statistic, freedom = 0.0, 0
    for counts, probabilities in rows:
        total = sum(counts)
        cells = sorted((total * p, seen) for p, seen in zip(probabilities, counts, strict=True))
        while len(cells) > 1 and cells[0][0] < 5:
            (few, seen), (more, others) = cells[:2]
            cells = sorted([(few + more, seen + others), *cells[2:]])
        statistic += sum((seen - wanted) ** 2 / wanted for wanted, seen in cells)
        freedom += len(cells) - 1
    # Wilson and Hilferty (1931): the cube root of a chi-square is nearly normal.
    spread = 2 / (9 * freedom)
    z = ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return 0.5 * math.erfc(z / math.sqrt(2))


def proposer(kind: str) -> object:
    return Ngram(NgramOptions()) if kind == "ngram" else Scripted(Guesser())


@frozen
class Forgetful:
    """Broken: as rejection, but what follows a refused draft is drawn from the target itself."""

    lossless: bool = True

    def accept(self, verification: Verification) -> tuple[Array, Array]:
        counts, _ = RejectionRule().accept(verification)
        return counts, ThresholdRule(0.0).accept(evolve(verification, lengths=counts))[1]


@frozen
class Generous:
    """Broken: a draft stays twice as often as it should."""

    lossless: bool = False

    def accept(self, verification: Verification) -> tuple[Array, Array]:
        return RejectionRule().accept(evolve(verification, uniforms=verification.uniforms * 0.5))


BROKEN: dict[str, tuple[str, AcceptanceRule]] = {
    "the threshold rule": ("sampling", ThresholdRule(0.1)),
    "the threshold rule on n-grams": ("ngram", ThresholdRule(0.3)),
    "no residual": ("sampling", Forgetful()),
    "too generous": ("sampling", Generous()),
    "too generous to n-grams": ("ngram", Generous()),
}


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("kind", ["ngram", "sampling"])
def test_drafts_leave_the_distribution_as_it_is(kind: str, temperature: float) -> None:
    assert SAMPLES >= 20_000
    counts = sampled(temperature, always(3), proposer(kind))
    assert p_value(counts, exact(temperature)) > NEVER_BY_CHANCE


@pytest.mark.parametrize("broken", BROKEN)
def test_the_same_test_finds_a_broken_rule(broken: str) -> None:
    kind, rule = BROKEN[broken]
    counts = sampled(0.8, Rule(rule), always(3), proposer(kind), replies=20)
    assert p_value(counts, exact(0.8)) < NEVER_BY_CHANCE


def test_a_seeded_reply_is_not_moved_by_a_neighbours_sampled_drafts() -> None:
    def reply(*beside: object) -> list[int]:
        guesser = Guesser()
        script = Scripted(lambda row: Draft((3, 5)[: row.room]) if row.uid == 0 else guesser(row))
        it = bench(model(), *([always(3), script] if beside else []), vocab=VOCAB)
        sampling = {"temperature": 1.0, "seed": 4, "frequency_penalty": 0.5}
        it.submit(request("mine", (3, 5, 2), 60, sampling=sampling))
        if beside:
            it.submit(request("beside", (3, 5, 2), 60, sampling={"temperature": 1.0}), seed=9)
        it.run()
        return it.replies.tokens("mine")

    assert reply("somebody") == reply()
