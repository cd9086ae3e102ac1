"""The contract of what ends replies by its own judgement."""

from collections.abc import Callable, Sequence
from typing import get_args

import pytest
from pluggy import PluginManager

from mlxserve.testing.contracts.base import PROMPT, Contract, added
from mlxserve.testing.engines import RunningEngine
from mlxserve.testing.texts import WIDTH, Bytes
from mlxserve_hookspecs import (
    GenerationRequest,
    SamplingParams,
    StopCondition,
    StopConditions,
    StopReason,
    TextCodec,
)
from mlxserve_hookspecs.generation import make_stop_condition

REASONS = get_args(StopReason)


class StopConditionContract(Contract):
    """Of ``make_stop_condition``: which replies end, where, and that choices end by themselves.

    Override ``ended`` and ``whole``.
    """

    hooks = (make_stop_condition,)

    @pytest.fixture
    def ended(self) -> Sequence[int]:
        """Return the tokens of a reply that the plugin ends."""
        raise NotImplementedError("override the fixture `ended`")

    @pytest.fixture
    def whole(self) -> Sequence[int]:
        """Return the tokens of a reply that it does not end."""
        raise NotImplementedError("override the fixture `whole`")

    @pytest.fixture
    def text(self) -> TextCodec:
        """Return the tokenizer."""
        return Bytes()

    @pytest.fixture
    def make(self, manager: PluginManager, text: TextCodec) -> Callable[[int], StopCondition]:
        """Return what makes the condition of a choice."""
        request = GenerationRequest(
            id="stopped",
            prompt=(1, 2, 3),
            sampling=SamplingParams(),
            stop=StopConditions(max_tokens=1000),
            choices=4,
        )
        return lambda choice: added(
            manager, make_stop_condition, request=request, choice=choice, text=text
        )

    def test_replies_end(self, make: Callable[[int], StopCondition], ended: Sequence[int]) -> None:
        """A reply that is to end does, for one of the reasons that there are."""
        at = end_of(make(0), ended)
        assert at is not None
        assert at[1] in REASONS

    def test_other_replies_go_on(
        self, make: Callable[[int], StopCondition], whole: Sequence[int]
    ) -> None:
        """``advance`` returns ``None`` at every token of a reply that is not to end."""
        assert end_of(make(0), whole) is None

    def test_every_token_is_taken(self, make: Callable[[int], StopCondition]) -> None:
        """Whatever a model says of its vocabulary is heard without raising."""
        for token in (*range(WIDTH), *reversed(range(WIDTH))):
            assert make(0).advance(token) in (None, *REASONS)

    def test_ranks_end_alike(
        self, make: Callable[[int], StopCondition], ended: Sequence[int]
    ) -> None:
        """The same tokens end at the same place: every rank asks its own plugin."""
        assert end_of(make(0), ended) == end_of(make(0), ended)

    def test_choices_are_apart(
        self, make: Callable[[int], StopCondition], ended: Sequence[int]
    ) -> None:
        """The choices of a request have conditions that know nothing of each other."""
        alone = end_of(make(1), ended)
        one, other = make(0), make(1)
        end_of(one, ended)
        assert end_of(other, ended) == alone

    def test_engine_serves_with_it(
        self, plugin: object, engine_of: Callable[..., RunningEngine]
    ) -> None:
        """Requests are served, and each choice has a condition that hears its tokens."""
        engine = engine_of(plugin)
        replies = engine.replies(*(engine.request(PROMPT, 12) for _ in range(3)))
        assert all(reply.tokens for reply in replies)
        assert {reply.finish.reason for reply in replies} <= set(REASONS)
        assert engine.plugin_errors == {}


def end_of(condition: StopCondition, tokens: Sequence[int]) -> tuple[int, StopReason] | None:
    """Return how many of ``tokens`` were heard when the reply ended, and why; ``None`` if not."""
    for at, token in enumerate(tokens):
        reason = condition.advance(token)
        if reason is not None:
            return at + 1, reason
    return None
