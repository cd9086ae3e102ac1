"""The contract of who listens to what happens: metrics, logs, recorders."""

import threading
from math import isfinite
from typing import Any

from pluggy import PluginManager

from mlxserve.hooks import failures, tell
from mlxserve.testing.contracts.admission import request_of
from mlxserve.testing.contracts.base import Contract, call, is_word
from mlxserve.testing.texts import WIDTH, Bytes
from mlxserve_hookspecs import (
    EngineStatus,
    Finish,
    Iteration,
    Limits,
    ModelCard,
    RequestError,
    Usage,
    Verdict,
    lifecycle,
    speculation,
)

CARD = ModelCard(
    id="org/tiny", created=1, vocab_size=WIDTH, limits=Limits(), has_chat_template=False
)
STATUS = EngineStatus(ready=True, running=1, used_blocks=1, total_blocks=8, steps=3)
USAGE = Usage(prompt_tokens=4, completion_tokens=2, cached_by_tier={"ram": 1}, cached_tokens=1)
FINISHES = (
    Finish(reason="stop", usage=USAGE, first_token_seconds=0.1, total_seconds=0.2),
    Finish(reason="length", usage=USAGE, stopped_by=7, first_token_seconds=0.1),
    Finish(reason="cancelled", usage=Usage(prompt_tokens=4, completion_tokens=0)),
    Finish(reason="error", usage=USAGE, error=RequestError(status=500, message="it broke")),
    Finish(reason="timeout", usage=USAGE, error=RequestError(status=504, message="too long")),
)


class ObserverContract(Contract):
    """Of the events: whatever happens, in whatever order, nobody is hurt by who listens."""

    hooks = (
        lifecycle.started,
        lifecycle.stopping,
        lifecycle.request_received,
        lifecycle.request_refused,
        lifecycle.request_adjusted,
        lifecycle.first_token,
        lifecycle.request_finished,
        lifecycle.iteration_finished,
        lifecycle.running_totals,
        speculation.drafts_verified,
    )

    def test_events_are_heard_in_silence(self, manager: PluginManager) -> None:
        """No event raises: of requests refused and served, before and after a start."""
        for name, arguments in happenings():
            tell(manager, name)(**arguments)
        assert failures(manager) == {}

    def test_totals_are_numbers_by_name(self, manager: PluginManager) -> None:
        """``running_totals`` are finite numbers by name, whether anything happened or not."""
        for _ in range(2):
            for name, value in totals(manager).items():
                assert is_word(name)
                assert isfinite(value)
            for event, arguments in happenings():
                tell(manager, event)(**arguments)

    def test_totals_only_grow(self, manager: PluginManager) -> None:
        """A total that is there stays, and never falls."""
        before: dict[str, float] = {}
        for event, arguments in (*happenings(), *happenings()):
            tell(manager, event)(**arguments)
            now = totals(manager)
            assert all(now.get(name, -1) >= value for name, value in before.items())
            before = now

    def test_totals_are_told_on_any_thread(self, manager: PluginManager) -> None:
        """``running_totals`` answers while another thread tells what happens."""
        wrong: list[BaseException] = []

        def look() -> None:
            try:
                for _ in range(50):
                    totals(manager)
            except BaseException as error:
                wrong.append(error)

        watcher = threading.Thread(target=look)
        watcher.start()
        for event, arguments in happenings() * 5:
            tell(manager, event)(**arguments)
        watcher.join()
        assert wrong == []


def totals(manager: PluginManager) -> dict[str, float]:
    """Return what the plugin has counted."""
    found = call(manager, lifecycle.running_totals)
    return {name: value for one in found for name, value in one.items()}


def happenings() -> list[tuple[Any, dict[str, Any]]]:
    """Return events as a server tells them, with their arguments."""
    request = request_of(4)
    iteration = Iteration(seconds=0.01, prefilled=4, decoded=1, status=STATUS)
    nothing = Iteration(seconds=0.0, prefilled=0, decoded=0, status=EngineStatus(ready=True))
    verdicts = [Verdict(uid=1, drafted=3, accepted=2), Verdict(uid=2, drafted=0, accepted=0)]
    return [
        (lifecycle.request_refused, {"status": 503, "code": "loading", "field": ""}),
        (lifecycle.started, {"card": CARD, "text": Bytes()}),
        (lifecycle.request_received, {"request": request}),
        (lifecycle.request_adjusted, {"surface": "chat", "field": "unknown", "how": "ignored"}),
        (lifecycle.iteration_finished, {"iteration": iteration}),
        (lifecycle.first_token, {"request": request, "seconds": 0.1}),
        (speculation.drafts_verified, {"verdicts": verdicts, "seconds": 0.01}),
        (lifecycle.iteration_finished, {"iteration": nothing}),
        *(
            (lifecycle.request_finished, {"request": request, "choice": at, "finish": finish})
            for at, finish in enumerate(FINISHES)
        ),
        (lifecycle.request_refused, {"status": 404, "code": "", "field": "messages[].content"}),
        (lifecycle.stopping, {}),
    ]
