"""Plugins end replies by conditions of their own; one that fails is left out."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from attrs import define, field
from structlog.testing import capture_logs

from mlxserve.hooks import failures
from mlxserve_hookspecs import GenerationRequest, StopReason, hookimpl
from mlxserve_plugins.ngram import Ngram, NgramOptions
from mlxserve_plugins.repetition_guard import LEAST, RepetitionGuard, RepetitionGuardOptions

from .harness import EOS, bench, plain, prompt, request
from .speculating import Scripted, always, oracle
from .tiny import tiny_model

MODEL = tiny_model("llama")
SAME = {"temperature": 0.0, "logit_bias": {65: 1e4}}
ROOM = 3 * LEAST


@define(eq=False)
class Ends:
    """Ends requests called ``own`` as a function of their tokens says."""

    judge: Callable[[list[int]], Any]
    heard: dict[int, list[int]] = field(factory=dict)

    @hookimpl
    def make_stop_condition(self, request: GenerationRequest, choice: int) -> Any:
        if request.id != "own":
            return None
        return Told(self.judge, self.heard.setdefault(choice, []))


@define(eq=False)
class Told:
    judge: Callable[[list[int]], Any]
    tokens: list[int]

    def advance(self, token: int) -> StopReason | None:
        self.tokens.append(token)
        reason: StopReason | None = self.judge(self.tokens)
        return reason


def after(count: int, reason: str = "stop") -> Callable[[list[int]], Any]:
    return lambda tokens: reason if len(tokens) == count else None


@pytest.mark.parametrize("reason", ["stop", "length"])
@pytest.mark.parametrize("drafts", ["none", "right"])
def test_a_condition_ends_its_reply_and_no_other(reason: str, drafts: str) -> None:
    ends, whole = Ends(after(9, reason)), plain(MODEL, prompt(20), 24)
    known = {tuple(prompt(20)): tuple(whole)}
    speculation = (always(), Scripted(oracle(known, wrong=0))) if drafts == "right" else ()
    it = bench(MODEL, ends, *speculation)
    it.submit(request("own", prompt(20), 24))
    it.submit(request("other", prompt(33), 24))
    it.run()
    assert it.replies.tokens("own") == whole[:9]
    assert it.replies.finish("own").reason == reason
    assert it.replies.finish("own").stopped_by is None
    assert it.replies.tokens("other") == plain(MODEL, prompt(33), 24)
    assert ends.heard[0] == whole[:9]


def test_each_choice_has_a_condition_of_its_own() -> None:
    ends = Ends(after(5))
    it = bench(MODEL, ends)
    it.submit(request("own", prompt(20), 24, choices=3, sampling={"temperature": 1.0, "seed": 3}))
    it.run()
    replies = [it.replies.tokens("own", choice) for choice in range(3)]
    assert [len(tokens) for tokens in replies] == [5, 5, 5]
    assert [ends.heard[choice] for choice in range(3)] == replies


def raises(tokens: Sequence[int]) -> None:
    if len(tokens) == 4:
        raise RuntimeError("boom")


@pytest.mark.parametrize(
    "judge", [raises, after(4, "because"), after(4, "error")], ids=["raises", "nonsense", "error"]
)
def test_a_condition_that_fails_is_named_counted_and_left_out(judge: Any) -> None:
    ends = Ends(judge)
    it = bench(MODEL, ends)
    it.submit(request("own", prompt(20), 12))
    with capture_logs() as lines:
        it.run()
    assert it.replies.tokens("own") == plain(MODEL, prompt(20), 12)
    assert it.replies.finish("own").reason == "length"
    assert len(ends.heard[0]) == 4
    assert failures(it.engine.plugins) == {("plugin-0", "make_stop_condition"): 1}
    assert [line["plugin"] for line in lines if line["event"] == "plugin failed"] == ["plugin-0"]


def test_a_plugin_that_fails_to_make_one_is_left_out() -> None:
    class Breaks:
        @hookimpl
        def make_stop_condition(self) -> None:
            raise RuntimeError("boom")

    it = bench(MODEL, Breaks(), Ends(after(3)))
    it.submit(request("own", prompt(20), 12))
    it.run()
    assert len(it.replies.tokens("own")) == 3
    assert failures(it.engine.plugins) == {("plugin-0", "make_stop_condition"): 1}


def test_an_end_of_sequence_is_not_shown_to_conditions() -> None:
    ends = Ends(after(99))
    it = bench(MODEL, ends)
    sampling = {"temperature": 0.0, "logit_bias": {EOS: 1e4}}
    stop = {"ignore_eos": False, "min_tokens": 3}
    it.submit(request("own", prompt(20), 12, sampling=sampling, stop=stop))
    it.run()
    assert len(ends.heard[0]) == 3
    assert it.replies.finish("own").stopped_by == EOS


@pytest.mark.parametrize("drafts", [False, True], ids=["plain", "n-grams"])
def test_the_guard_ends_loops_and_leaves_the_rest(drafts: bool) -> None:
    guard = RepetitionGuard(RepetitionGuardOptions("stop"))
    it = bench(MODEL, guard, *((always(), Ngram(NgramOptions())) if drafts else ()))
    it.submit(request("loops", prompt(20), ROOM, sampling=SAME, choices=2))
    it.submit(request("short", prompt(33), 24))
    it.run()
    for choice in range(2):
        assert it.replies.finish("loops", choice).reason == "stop"
        assert LEAST <= len(it.replies.tokens("loops", choice)) < LEAST + 70
        assert set(it.replies.tokens("loops", choice)) == {65}
    assert it.replies.finish("short").reason == "length"
    assert guard.running_totals() == {"repetition_stops": 2.0}
