"""The contract of a scheduling policy."""

from collections.abc import Callable
from typing import Any

import pytest
from pluggy import PluginManager

from mlxserve.testing.contracts.base import PROMPT, Contract, answer
from mlxserve.testing.engines import RunningEngine
from mlxserve_hookspecs import Candidate, Load, SchedulingPolicy
from mlxserve_hookspecs.scheduling import make_policy


def candidate(name: str, arrived: float = 0.0, tokens: int = 10, **changes: Any) -> Candidate:
    """Return a request that waits, with nothing prefilled."""
    fields: dict[str, Any] = {
        "id": name,
        "priority": 0,
        "tenant": "",
        "arrived": arrived,
        "prompt_tokens": tokens,
        "remaining_prefill": tokens,
    }
    return Candidate(**(fields | changes))


class SchedulingPolicyContract(Contract):
    """Of ``make_policy``: what the engine relies on, whatever the order is."""

    hooks = (make_policy,)

    @pytest.fixture
    def policy(self, manager: PluginManager) -> SchedulingPolicy:
        """Return the policy."""
        return answer(manager, make_policy)

    @pytest.fixture
    def queue(self) -> list[Candidate]:
        """Return requests of different ages, lengths, tenants and priorities, two of them equal."""
        return [
            candidate("new", arrived=9.0, tokens=5),
            candidate("old and long", arrived=1.0, tokens=4000),
            candidate("urgent", arrived=8.0, tokens=50, priority=-5),
            candidate("late twin", arrived=3.0, tenant="b"),
            candidate("early twin", arrived=3.0, tenant="a"),
            candidate("cached", arrived=7.0, tokens=4000, remaining_prefill=1),
            candidate("preempted", arrived=0.5, tokens=64, generated=30, preempted=2),
        ]

    def test_order_is_one_of_those_that_wait(
        self, policy: SchedulingPolicy, queue: list[Candidate]
    ) -> None:
        """``order`` returns requests that it was given, each once, and some of them at least."""
        ordered = [one.id for one in policy.order(tuple(queue), 10.0)]
        assert len(ordered) == len(set(ordered)) > 0
        assert set(ordered) <= {one.id for one in queue}

    def test_nobody_waits(self, policy: SchedulingPolicy) -> None:
        """``order`` of nobody is nobody."""
        assert list(policy.order((), 10.0)) == []

    def test_order_leaves_the_queue_alone(
        self, policy: SchedulingPolicy, queue: list[Candidate]
    ) -> None:
        """``order`` does not change the sequence that it is given."""
        given = list(queue)
        policy.order(given, 10.0)
        assert given == queue

    def test_ranks_order_alike(self, manager: PluginManager, queue: list[Candidate]) -> None:
        """Two policies of one plugin answer the same to the same: every rank asks its own."""
        one, other = (answer(manager, make_policy) for _ in range(2))
        for now in range(10, 40):
            assert list(one.order(queue, now)) == list(other.order(queue, now))

    @pytest.mark.parametrize("decoding", [0, 1, 64])
    @pytest.mark.parametrize("chunks", [(1, 1), (2048, 64)], ids=["least", "usual"])
    def test_prefill_gets_on(
        self, policy: SchedulingPolicy, decoding: int, chunks: tuple[int, int]
    ) -> None:
        """``prefill_tokens`` is a whole number, at least 1, whatever the load."""
        alone, shared = chunks
        for prefilling, waiting in ((1, 0), (4, 1000)):
            load = Load(
                decoding=decoding,
                prefilling=prefilling,
                waiting=waiting,
                chunk_alone=alone,
                chunk_shared=shared,
            )
            tokens = policy.prefill_tokens(load)
            assert isinstance(tokens, int)
            assert tokens >= 1

    def test_victim_is_one_of_those_that_run(
        self, policy: SchedulingPolicy, queue: list[Candidate]
    ) -> None:
        """``victim`` returns one of the requests that it is given, or ``None``."""
        for running in (queue, queue[:1]):
            assert policy.victim(tuple(running), 10.0) in (None, *running)

    def test_no_victim_where_nobody_runs(self, policy: SchedulingPolicy) -> None:
        """``victim`` of nobody is ``None``."""
        assert policy.victim((), 10.0) is None

    def test_engine_serves_more_requests_than_it_has_rows(
        self, plugin: object, engine_of: Callable[..., RunningEngine]
    ) -> None:
        """Under the policy every request ends with all of its tokens."""
        engine = engine_of(plugin, words=("--max-batch-size", "2", "--completion-batch-size", "3"))
        requests = [engine.request(PROMPT * (1 + at % 3), 6) for at in range(7)]
        assert [len(reply.tokens) for reply in engine.replies(*requests)] == [6] * 7
        assert engine.plugin_errors == {}
