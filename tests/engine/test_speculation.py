"""Tokens are those of decoding without drafts, whoever guesses and whatever else runs."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import mlx.core as mx
import pytest

from mlxserve_hookspecs import Draft, DraftRequest
from mlxserve_plugins.kv_quant import KvQuant, KvQuantOptions
from mlxserve_plugins.ngram import Ngram, NgramOptions
from mlxserve_plugins.prediction import Prediction
from mlxserve_plugins.prefix_cache import PrefixCache
from mlxserve_plugins.sequence_cache import SequenceCache, SequenceCacheOptions

from .harness import Bench, bench, failures_of, prompt, request
from .speculating import Scripted, Turns, always, oracle
from .test_lifecycle import Censor
from .tiny import ARCHITECTURES, shared_model

TOKENS = 16
LENGTHS = (33, 5, 90, 17, 70, 2, 130, 40)
PROPOSERS = ("ngram", "perfect", "half wrong", "prediction")
MATRIX = [
    (name, kind, bits)
    for at, name in enumerate(ARCHITECTURES)
    for turn, kind in enumerate(PROPOSERS)
    for bits in (16, 8)
    # Half of the product, so that every pair is met; where most is taken back, all of it.
    if (bits == 8) == ((at + turn) % 2 == 0) or kind == "half wrong"
]


@cache
def model_of(name: str) -> Any:
    return shared_model(name)


def text(length: int) -> list[int]:
    """Return a prompt that repeats itself, so that n-grams are found."""
    return (prompt(max(length // 3, 1), seed=length) * 4)[:length]


def quant(bits: int) -> KvQuant:
    return KvQuant(KvQuantOptions(bits=bits, attention="dequantize"))  # type: ignore[arg-type]


@cache
def plain(name: str, bits: int, length: int, tokens: int = TOKENS) -> tuple[int, ...]:
    it = bench(model_of(name), quant(bits))
    it.submit(request("r", text(length), tokens))
    it.run()
    return tuple(it.replies.tokens("r"))


def replies(name: str, bits: int) -> dict[tuple[int, ...], Sequence[int]]:
    return {tuple(text(n)): plain(name, bits, n) for n in LENGTHS}


def proposer(kind: str, name: str, bits: int) -> Any:
    if kind == "ngram":
        return Ngram(NgramOptions())
    if kind == "prediction":
        return Prediction()
    return Scripted(oracle(replies(name, bits), wrong=3 if kind == "half wrong" else 0))


def predicted(kind: str, name: str, bits: int, length: int) -> dict[str, Any]:
    """Return the reply with an edit as a prediction, if that is what is tested."""
    if kind != "prediction":
        return {}
    reply = plain(name, bits, length)
    return {"prediction": (*reply[:5], 1, 2, 3, *reply[7:])}


def speculating(kind: str, name: str, bits: int = 16, *more: object, **changes: Any) -> Bench:
    made = proposer(kind, name, bits)
    return bench(model_of(name), quant(bits), always(), made, *more, **changes)


def submit(it: Bench, kind: str, name: str, bits: int, length: int, turn: str = "") -> None:
    extra = predicted(kind, name, bits, length)
    it.submit(request(f"{turn}{length}", text(length), TOKENS, **extra))


@pytest.mark.parametrize(("name", "kind", "bits"), MATRIX)
def test_greedy_tokens_are_those_without_drafts_cold_warm_and_in_a_batch(
    name: str, kind: str, bits: int
) -> None:
    caches = (PrefixCache(), SequenceCache(SequenceCacheOptions()))
    it = speculating(kind, name, bits, *caches)
    for length in LENGTHS[2:3]:
        submit(it, kind, name, bits, length, "alone ")
        it.run()
        assert tuple(it.replies.tokens(f"alone {length}")) == plain(name, bits, length)
    for length in LENGTHS:
        submit(it, kind, name, bits, length)
    it.run()
    accepted = 0
    for length in LENGTHS:
        assert tuple(it.replies.tokens(str(length))) == plain(name, bits, length), length
        accepted += it.replies.finish(str(length)).usage.accepted_draft_tokens
    assert not failures_of(it)
    if kind != "ngram":
        assert accepted >= len(LENGTHS) * 3
    assert it.replies.finish("90").usage.cached_tokens > 0


@pytest.mark.parametrize("kind", PROPOSERS)
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3_next", "deepseek_v3"])
def test_greedy_tokens_are_those_without_drafts_while_rows_join_and_leave(
    name: str, kind: str
) -> None:
    it = speculating(kind, name, 16, decoding=3)
    for length in LENGTHS:
        submit(it, kind, name, 16, length)
        it.step(2)
    it.run()
    for length in LENGTHS:
        assert tuple(it.replies.tokens(str(length))) == plain(name, 16, length), length
    assert it.engine.scheduler.store.used() == 0


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3_next"])
def test_compiled_passes_give_the_same_tokens(name: str) -> None:
    it = speculating("half wrong", name, 8, compiled=True)
    for length in LENGTHS[:3]:
        submit(it, "half wrong", name, 8, length)
    it.run()
    for length in LENGTHS[:3]:
        assert tuple(it.replies.tokens(str(length))) == plain(name, 8, length), length
        assert it.replies.finish(str(length)).usage.accepted_draft_tokens >= 3


@pytest.mark.parametrize("kind", ["half wrong", "prediction"])
@pytest.mark.parametrize("name", ["llama", "qwen3_next", "mamba2"])
def test_a_row_that_is_preempted_between_drafts_goes_on_exactly(name: str, kind: str) -> None:
    caches = (PrefixCache(), SequenceCache(SequenceCacheOptions()))
    it = speculating(kind, name, 16, *caches)
    for length in LENGTHS[:3]:
        submit(it, kind, name, 16, length)
    scheduler = it.engine.scheduler
    it.step(4)
    it.engine._settle(0.0)
    scheduler.preempt(scheduler.decoding[1])
    it.run()
    assert scheduler.preemptions == 1
    for length in LENGTHS[:3]:
        assert tuple(it.replies.tokens(str(length))) == plain(name, 16, length), length


@pytest.mark.parametrize("name", ["qwen3_next", "mamba2", "llama"])
def test_what_a_cancelled_or_finished_row_leaves_in_the_cache_is_right(name: str) -> None:
    states = SequenceCache(SequenceCacheOptions())
    for steps in range(3, 9):
        made = proposer("half wrong", name, 16)
        it = bench(model_of(name), quant(16), always(3), made, PrefixCache(), states)
        it.submit(request("gone", text(33), TOKENS))
        it.step(steps)
        it.cancel("gone")
        it.run()
        so_far = it.replies.tokens("gone")
        it.submit(request("next", [*text(33), *so_far], TOKENS - len(so_far)))
        it.run()
        assert [*so_far, *it.replies.tokens("next")] == list(plain(name, 16, 33)), steps


def test_a_conversation_over_replies_that_were_guessed_hits_and_stays_exact() -> None:
    for name in ("qwen3_next", "llama", "mamba2"):
        caches = (PrefixCache(), SequenceCache(SequenceCacheOptions()))
        it = bench(model_of(name), quant(16), always(3), Ngram(NgramOptions()), *caches)
        cold = bench(model_of(name), quant(16))
        history = text(40)
        for turn in range(3):
            for each in (it, cold):
                each.submit(request(str(turn), history, 37))
                each.run()
            assert it.replies.tokens(str(turn)) == cold.replies.tokens(str(turn)), (name, turn)
            history = [*history, *it.replies.tokens(str(turn)), *prompt(9, seed=turn)]
            if turn:
                assert it.replies.finish(str(turn)).usage.cached_tokens > 40


KINDS: dict[str, dict[str, Any]] = {
    "hot": {"sampling": {"temperature": 1.5, "seed": 11}},
    "filtered": {"sampling": {"temperature": 1.1, "top_k": 40, "top_p": 0.9, "seed": 12}},
    "presence": {"sampling": {"temperature": 0.0, "presence_penalty": 2.0}},
    "frequency, hot": {"sampling": {"temperature": 1.0, "seed": 13, "frequency_penalty": 1.5}},
    "repetition": {"sampling": {"temperature": 0.0, "repetition_penalty": 1.3}},
    "bias": {"sampling": {"temperature": 0.0, "logit_bias": {7: 3.0, 9: -100.0}}},
    "log-probabilities": {"sampling": {"temperature": 0.0}, "logprobs": 3},
    "hot log-probabilities": {"sampling": {"temperature": 1.2, "seed": 16}, "logprobs": 0},
    "min tokens": {
        "sampling": {"temperature": 0.0, "logit_bias": {0: 100.0}},
        "stop": {"min_tokens": 9, "ignore_eos": False},
    },
    "constraint": {"sampling": {"temperature": 0.0}, "constraint": {"type": "even"}},
    "one token": {"sampling": {"temperature": 0.0}, "max_tokens": 1},
    "two tokens": {"sampling": {"temperature": 0.0}, "max_tokens": 2},
    "seven tokens": {"sampling": {"temperature": 0.0}, "max_tokens": 7},
}


def of_kind(name: str) -> Any:
    return request(name, text(20 + len(name)), **({"max_tokens": TOKENS} | KINDS[name]))


@cache
def undrafted(name: str) -> Any:
    it = bench(model_of("llama"), Censor())
    it.submit(of_kind(name))
    it.run()
    return it.replies


def known(wrong: int) -> Any:
    prompts = {of_kind(name).prompt: undrafted(name).tokens(name) for name in KINDS}
    return Scripted(oracle(prompts, wrong))


@pytest.mark.parametrize("wrong", [0, 3], ids=["perfect", "half wrong"])
@pytest.mark.parametrize("every", [1, 3], ids=["always", "now and then"])
def test_every_kind_of_request_gets_what_it_gets_without_drafts(wrong: int, every: int) -> None:
    it = bench(
        model_of("llama"),
        Turns(lambda n: 4 if n % every == 0 else 0),
        always(),
        known(wrong),
        Censor(),
    )
    for name in KINDS:
        it.submit(of_kind(name))
    it.run()
    for name in KINDS:
        wanted = undrafted(name)
        assert it.replies.tokens(name) == wanted.tokens(name), name
        assert it.replies.text(name) == wanted.text(name), name
        assert it.replies.finish(name).reason == wanted.finish(name).reason, name
        ours, theirs = it.replies.logprobs(name), wanted.logprobs(name)
        assert [p.token for p in ours] == [p.token for p in theirs]
        assert [p.logprob for p in ours] == pytest.approx([p.logprob for p in theirs], abs=1e-4)
        assert [t for p in ours for t, _ in p.top] == [t for p in theirs for t, _ in p.top]
    usage = it.replies.finish("hot").usage
    assert usage.accepted_draft_tokens > 0
    assert (usage.rejected_draft_tokens > 0) == bool(wrong)


def test_a_stop_string_across_accepted_drafts_ends_the_reply_where_it_does_without() -> None:
    reply = plain("llama", 16, 33)
    stop = {"strings": ("".join(chr(0x100 + t) for t in reply[6:9]),)}
    ends = []
    for plugins in ((), (always(), proposer("perfect", "llama", 16))):
        it = bench(model_of("llama"), *plugins)
        it.submit(request("r", text(33), TOKENS, stop=stop))
        it.run()
        ends.append((it.replies.text("r"), it.replies.tokens("r"), it.replies.finish("r").reason))
    assert ends[0] == ends[1]
    assert ends[0][2] == "stop"
    assert 1 < len(ends[0][1]) <= 9
    assert it.replies.finish("r").usage.accepted_draft_tokens <= len(ends[0][1])


def garbage(row: DraftRequest) -> Any:
    return {
        0: Draft((256,)),
        1: Draft((-1, 3)),
        2: Draft(tuple(range(row.room + 1))),
        3: "not a draft",
        4: Draft(("a", "b")),  # type: ignore[arg-type]
        5: Draft((1, 2), mx.zeros((1, 256))),
    }[row.uid]


def test_garbage_is_dropped_and_counted_and_the_rows_go_on() -> None:
    it = bench(model_of("llama"), always(), Scripted(garbage))
    for length in LENGTHS[:6]:
        it.submit(request(str(length), text(length), TOKENS))
    it.run()
    for length in LENGTHS[:6]:
        assert tuple(it.replies.tokens(str(length))) == plain("llama", 16, length)
        assert it.replies.finish(str(length)).usage.rejected_draft_tokens == 0
    assert failures_of(it)["plugin-1", "make_proposer"] > 0


class Broken(Scripted):
    def finished(self, uids: Sequence[int]) -> None:
        raise RuntimeError("cannot forget")


@pytest.mark.parametrize("where", ["wants", "propose"])
def test_a_proposer_that_raises_is_counted_and_the_next_one_is_heard(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Any, batch: Any) -> Any:
        raise RuntimeError("boom")

    monkeypatch.setattr(Broken, where, fails)
    broken, good = Broken(lambda row: None), proposer("perfect", "llama", 16)
    it = bench(model_of("llama"), always(), broken, good)
    for length in LENGTHS[:3]:
        it.submit(request(str(length), text(length), TOKENS))
    it.run()
    for length in LENGTHS[:3]:
        assert tuple(it.replies.tokens(str(length))) == plain("llama", 16, length)
        assert it.replies.finish(str(length)).usage.accepted_draft_tokens >= 8
    assert failures_of(it)["plugin-1", "make_proposer"] > 3
    assert sorted(good.gone) == [0, 1, 2]


def test_the_first_proposer_that_has_a_draft_for_a_row_is_heard() -> None:
    first = Scripted(lambda row: Draft((1,)) if row.uid == 0 else None)
    second = Scripted(lambda row: Draft((2,)))
    turns = Turns(lambda _: 0)
    it = bench(model_of("llama"), turns, first, second)
    for length in (33, 5):
        it.submit(request(str(length), text(length), TOKENS))
    it.step(3)
    rows = it.engine.scheduler.decoding
    drafts = it.engine.speculator.propose(rows, {s.uid: 3 for s in rows})
    assert drafts == {0: Draft((1,)), 1: Draft((2,))}


def test_a_request_that_nobody_guesses_for_keeps_decoding_ahead() -> None:
    planner = Turns(lambda _: 5)
    it = bench(model_of("llama"), planner, Prediction())
    it.submit(request("r", text(33), TOKENS))
    ahead = 0
    while it.inbox or not it.engine.scheduler.idle:
        it.step()
        ahead += any(s.launched for s in it.engine.scheduler.decoding)
    assert planner.plans == 0
    assert ahead >= TOKENS - 2
    assert tuple(it.replies.tokens("r")) == plain("llama", 16, 33)


def test_a_failing_planner_costs_the_drafts_and_nothing_else() -> None:
    def fails(_: int) -> int:
        raise RuntimeError("boom")

    it = bench(model_of("llama"), Turns(fails), proposer("perfect", "llama", 16))
    it.submit(request("33", text(33), TOKENS))
    it.run()
    assert tuple(it.replies.tokens("33")) == plain("llama", 16, 33)
    assert failures_of(it)["plugin-0", "make_draft_planner"] > 0


def test_when_kv_runs_out_under_drafts_everybody_still_gets_their_tokens() -> None:
    it = speculating("half wrong", "llama", 16, blocks=64)
    names = [(n, length) for n in range(3) for length in (200, 230)]
    for n, length in names:
        it.submit(request(f"{n} {length}", text(length), 60))
    it.run()
    assert it.engine.scheduler.preemptions > 0
    for n, length in names:
        assert tuple(it.replies.tokens(f"{n} {length}")) == plain("llama", 16, length, 60)


def certain(guess: Any) -> Any:
    """Return the guess with the distribution of somebody who is certain of it."""

    def make(row: DraftRequest) -> Draft | None:
        draft = guess(row)
        if draft is None:
            return None
        tokens = mx.array(draft.tokens)[:, None]
        return Draft(draft.tokens, (tokens == mx.arange(256)[None]).astype(mx.float32))

    return make


@pytest.mark.parametrize("sampled", [False, True], ids=["deterministic", "with probabilities"])
def test_penalties_count_what_drafts_brought(sampled: bool) -> None:
    cold = {"temperature": 0.001, "seed": 1, "frequency_penalty": 2.0, "presence_penalty": 2.0}
    alone = bench(model_of("llama"))
    alone.submit(request("r", text(33), 30, sampling=cold))
    alone.run()
    wanted = alone.replies.tokens("r")
    guess = oracle({tuple(text(33)): wanted}, wrong=5)
    script = Scripted(certain(guess) if sampled else guess)
    it = bench(model_of("llama"), Turns(lambda n: 4 if n % 3 == 0 else 0), always(), script)
    it.submit(request("r", text(33), 30, sampling=cold))
    it.run()
    assert it.replies.tokens("r") == wanted
    assert it.replies.finish("r").usage.accepted_draft_tokens > 5


def test_a_prediction_is_heard_before_the_text_whoever_is_named_first() -> None:
    for plugins in ((Ngram(NgramOptions()), Prediction()), (Prediction(), Ngram(NgramOptions()))):
        it = bench(model_of("llama"), Turns(lambda _: 0), *plugins)
        it.submit(request("r", text(33), TOKENS, prediction=(201, 202, 203)))
        it.step(2)
        rows = it.engine.scheduler.decoding
        rows[0].tokens[33:] = []
        assert it.engine.speculator.propose(rows, {0: 3}) == {0: Draft((201, 202, 203))}
