"""Each request's parameters are its own: alone or beside others, the same reply."""

import math
from functools import cache
from typing import Any, cast

import mlx.core as mx
import pytest

from mlxserve.batch.prefill import Prefiller

from .harness import Bench, Letters, bench, plain, prompt, request
from .tiny import shared_model

GREEDY = {"temperature": 0.0}
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"sampling": GREEDY},
    "hot": {"sampling": {"temperature": 1.5, "seed": 11}},
    "top-p": {"sampling": {"temperature": 1.0, "top_p": 0.5, "seed": 12}},
    "top-k": {"sampling": {"temperature": 1.0, "top_k": 3, "seed": 13}},
    "min-p": {"sampling": {"temperature": 2.0, "min_p": 0.2, "seed": 14}},
    "all filters": {
        "sampling": {"temperature": 1.1, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "seed": 15}
    },
    "presence": {"sampling": GREEDY | {"presence_penalty": 2.0}},
    "frequency": {"sampling": GREEDY | {"frequency_penalty": 1.5}},
    "repetition": {"sampling": GREEDY | {"repetition_penalty": 1.3}},
    "bias": {"sampling": GREEDY | {"logit_bias": {7: 3.0, 9: -100.0}}},
    "log-probabilities": {"sampling": GREEDY, "logprobs": 4},
    "hot log-probabilities": {"sampling": {"temperature": 1.2, "seed": 16}, "logprobs": 0},
    "min tokens": {"sampling": GREEDY, "stop": {"min_tokens": 9, "ignore_eos": False}},
    "penalties, hot": {
        "sampling": {"temperature": 1.0, "seed": 17, "presence_penalty": 1.0, "top_p": 0.95}
    },
}


@cache
def model() -> Any:
    return shared_model("llama", seed=3)


def submit(it: Bench, names: list[str], tokens: int = 16) -> None:
    for name in names:
        it.submit(request(name, prompt(20 + len(name)), tokens, **KINDS[name]))


@cache
def alone(name: str) -> tuple[list[int], str, list[Any]]:
    it = bench(model())
    submit(it, [name])
    it.run()
    return it.replies.tokens(name), it.replies.text(name), it.replies.logprobs(name)


@pytest.mark.parametrize("name", KINDS)
def test_a_reply_is_the_same_alone_and_in_a_batch_of_all_kinds(name: str) -> None:
    it = bench(model(), decoding=len(KINDS))
    submit(it, [other for other in KINDS if other != name][:7])
    it.step(4)
    submit(it, [name])
    it.step(2)
    submit(it, [other for other in KINDS if other != name][7:])
    it.run()
    tokens, text, logprobs = alone(name)
    assert it.replies.tokens(name) == tokens
    assert it.replies.text(name) == text
    assert [p.token for p in it.replies.logprobs(name)] == [p.token for p in logprobs]
    got = [p.logprob for p in it.replies.logprobs(name)]
    assert got == pytest.approx([p.logprob for p in logprobs], abs=1e-4)


def test_kinds_differ() -> None:
    replies = {tuple(alone(name)[0]) for name in KINDS}
    assert len(replies) >= len(KINDS) - 4


@pytest.mark.parametrize("name", ["hot", "penalties, hot", "min tokens"])
def test_a_preempted_reply_goes_on_as_if_nothing_had_been(name: str) -> None:
    it = bench(model())
    submit(it, [name, "greedy"])
    it.step(5)
    scheduler = it.engine.scheduler
    scheduler.preempt(next(s for s in scheduler.decoding if s.request.id == name))
    it.run()
    assert it.replies.tokens(name) == alone(name)[0]


def test_a_seed_repeats_itself_and_another_does_not() -> None:
    def reply(seed: int) -> list[int]:
        it = bench(model())
        it.submit(request("r", prompt(9), 16, sampling={"temperature": 1.0, "seed": seed}))
        it.run()
        return it.replies.tokens("r")

    assert reply(5) == reply(5)
    assert reply(5) != reply(6)


def test_choices_share_one_prefill_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    it = bench(model())
    hot = {"temperature": 1.3, "seed": 4}
    it.submit(request("r", prompt(200), 12, sampling=hot, choices=3))
    passes = []
    run = Prefiller.run

    def counted(self: Prefiller, together: Any) -> int:
        passes.append(len(together))
        return run(self, together)

    with monkeypatch.context() as patch:
        patch.setattr(Prefiller, "run", counted)
        it.run()
    replies = [it.replies.tokens("r", choice) for choice in range(3)]
    assert passes == [1]
    assert len({tuple(r) for r in replies}) == 3
    single = bench(model())
    single.submit(request("s", prompt(200), 12, sampling=hot))
    single.run()
    assert replies[0] == single.replies.tokens("s")


def test_more_choices_than_places_all_come_back() -> None:
    it = bench(model(), decoding=2, live=3)
    it.submit(request("r", prompt(30), 6, sampling={"temperature": 1.0, "seed": 1}, choices=7))
    it.run()
    together = bench(model())
    together.submit(
        request("r", prompt(30), 6, sampling={"temperature": 1.0, "seed": 1}, choices=7)
    )
    together.run()
    for choice in range(7):
        assert it.replies.tokens("r", choice) == together.replies.tokens("r", choice)


def test_log_probabilities_are_the_models_own() -> None:
    it = bench(model())
    it.submit(request("r", prompt(12), 5, logprobs=3, sampling=GREEDY | {"logit_bias": {8: 50.0}}))
    it.run()
    tokens = [*prompt(12), *it.replies.tokens("r")]
    logits = model()(mx.array([tokens]), cache=None)[0]
    wanted = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    for at, found in enumerate(it.replies.logprobs("r")):
        row = wanted[11 + at]
        assert found.token == tokens[12 + at] == 8
        assert found.logprob == pytest.approx(row[8].item(), abs=1e-3)
        best = sorted(cast(list[float], row.tolist()), reverse=True)[:3]
        assert [value for _, value in found.top] == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("chunk", [7, 2048])
@pytest.mark.parametrize("tokens", [0, 3])
def test_prompt_log_probabilities_cover_the_prompt(chunk: int, tokens: int) -> None:
    it = bench(model(), chunk_alone=chunk, chunk_shared=chunk)
    it.submit(request("other", prompt(40), 8))
    it.submit(request("r", prompt(25), tokens, prompt_logprobs=2))
    it.run()
    found = it.replies.of("r")[-1 if tokens == 0 else 0].prompt_logprobs or next(
        e.prompt_logprobs for e in it.replies.of("r") if e.prompt_logprobs is not None
    )
    logits = model()(mx.array([prompt(25)]), cache=None)[0]
    scores = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    assert [p.token for p in found] == prompt(25)[1:]
    wanted = [scores[at, token].item() for at, token in enumerate(prompt(25)[1:])]
    assert [p.logprob for p in found] == pytest.approx(wanted, abs=1e-3)
    assert it.replies.finish("r").reason == "length"
    assert it.replies.finish("r").usage.completion_tokens == tokens


def test_a_stop_string_is_found_across_tokens_and_left_out() -> None:
    reply = plain(model(), prompt(15), 12)
    text = Letters().decode(reply)
    it = bench(model())
    for at in range(8):
        stop = {"strings": (text[at : at + 3], "never")}
        it.submit(request(str(at), prompt(15), 12, stop=stop))
    it.run()
    for at in range(8):
        end = it.replies.finish(str(at))
        assert it.replies.text(str(at)) == text[: text.index(text[at : at + 3])]
        assert (end.reason, end.stopped_by) == ("stop", text[at : at + 3])


def test_a_stop_token_ends_a_reply_and_has_no_text() -> None:
    reply = plain(model(), prompt(15), 12)
    token = reply[5]
    it = bench(model())
    it.submit(request("r", prompt(15), 12, stop={"token_ids": frozenset({token})}))
    it.run()
    first = reply.index(token)
    assert it.replies.tokens("r") == reply[: first + 1]
    assert it.replies.text("r") == Letters().decode(reply[:first])
    end = it.replies.finish("r")
    assert (end.reason, end.stopped_by, end.usage.completion_tokens) == ("stop", token, first + 1)


def test_min_tokens_hold_the_end_back() -> None:
    token = plain(model(), prompt(15), 12)[2]
    it = bench(model())
    stop = {"token_ids": frozenset({token}), "min_tokens": 6}
    it.submit(request("r", prompt(15), 12, stop=stop))
    it.run()
    assert token not in it.replies.tokens("r")[:6]
    assert it.replies.finish("r").usage.completion_tokens >= 6


def test_penalties_count_what_was_generated() -> None:
    it = bench(model())
    strong = GREEDY | {"frequency_penalty": 2.0, "presence_penalty": 2.0}
    it.submit(request("plain", prompt(6), 40))
    it.submit(request("penalised", prompt(6), 40, sampling=strong))
    it.run()
    repeats = [40 - len(set(it.replies.tokens(name))) for name in ("plain", "penalised")]
    assert repeats[1] < repeats[0] or repeats == [0, 0]
    reference = reference_penalised(prompt(6), 40)
    assert it.replies.tokens("penalised") == reference


def reference_penalised(tokens: list[int], count: int) -> list[int]:
    made: list[int] = []
    for _ in range(count):
        logits = list(model()(mx.array([[*tokens, *made]]), cache=None)[0, -1].tolist())
        for token in set(made):
            logits[token] -= 2.0 * made.count(token) + 2.0
        made.append(max(range(len(logits)), key=logits.__getitem__))
    return made


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_samples_follow_the_models_distribution(temperature: float) -> None:
    it = bench(model(), decoding=64, live=64)
    sampling = {"temperature": temperature, "seed": 1, "top_k": 8}
    rounds, choices = 12, 48
    for n in range(rounds):
        it.submit(request(str(n), prompt(5), 1, sampling=sampling | {"seed": n}, choices=choices))
    it.run()
    seen = [it.replies.tokens(str(n), c)[0] for n in range(rounds) for c in range(choices)]
    logits = model()(mx.array([prompt(5)]), cache=None)[0, -1] / temperature
    best = cast(list[int], mx.argsort(-logits)[:8].tolist())
    weights = cast(list[float], mx.softmax(logits[mx.array(best)]).tolist())
    total = rounds * choices
    chi = sum(
        (seen.count(t) - total * w) ** 2 / (total * w) for t, w in zip(best, weights, strict=True)
    )
    assert set(seen) <= set(best)
    assert chi < 24.3, "chi-square, 7 degrees of freedom, p < 0.001"
    assert math.isfinite(chi)
