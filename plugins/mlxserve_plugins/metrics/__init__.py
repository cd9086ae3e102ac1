"""Count and time what the server does, for Prometheus, at ``/metrics``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import evolve

from mlxserve_hookspecs import (
    EngineStatus,
    Finish,
    GenerationRequest,
    Iteration,
    ModelCard,
    Route,
    Services,
    Verdict,
    hookimpl,
)
from mlxserve_plugins.guarding import guard

if TYPE_CHECKING:
    from mlxserve_plugins.metrics.instruments import Instruments


class Metrics:
    """Keeps the figures of one server in a registry of its own.

    Hooks that come before ``routes`` go uncounted: nobody could read their figures.
    """

    def __init__(self) -> None:
        self.instruments: Instruments | None = None

    @hookimpl
    def routes(self, services: Services) -> Sequence[Route]:
        """Answer with ``/metrics``, which is open unless a plugin asks for a key there."""
        from mlxserve_plugins.metrics.endpoint import make_route  # noqa: PLC0415 - litestar
        from mlxserve_plugins.metrics.instruments import Instruments  # noqa: PLC0415 - prometheus

        self.instruments = Instruments(
            lambda: status_of(services), services.hook_errors, services.hook_delays
        )
        return [make_route(services, self.instruments, guard(services))]

    @hookimpl
    def started(self, card: ModelCard) -> None:
        """Name the model."""
        if self.instruments:
            self.instruments.name_model(card)

    @hookimpl
    def request_received(self, request: GenerationRequest) -> None:
        """Count a request that was let in."""
        if self.instruments:
            self.instruments.received(request)

    @hookimpl
    def request_refused(self, status: int, code: str, field: str) -> None:
        """Count a request that was not."""
        if self.instruments:
            self.instruments.refused(status, code, field)

    @hookimpl
    def request_adjusted(self, surface: str, field: str, how: str) -> None:
        """Count a field that was not taken by its word."""
        if self.instruments:
            self.instruments.adjusted(surface, field, how)

    @hookimpl
    def first_token(self, seconds: float) -> None:
        """Time a first token."""
        if self.instruments:
            self.instruments.ttft.observe(seconds)

    @hookimpl
    def request_finished(self, request: GenerationRequest, choice: int, finish: Finish) -> None:
        """Count and time a reply."""
        if self.instruments:
            self.instruments.finished(request, choice, finish)

    @hookimpl
    def iteration_finished(self, iteration: Iteration) -> None:
        """Count and time an iteration."""
        if self.instruments:
            self.instruments.iterated(iteration)

    @hookimpl
    def drafts_verified(self, verdicts: Sequence[Verdict]) -> None:
        """Count guesses and those that the model kept."""
        if self.instruments:
            self.instruments.verified(verdicts)


def status_of(services: Services) -> EngineStatus:
    """Return the engine's status; among its totals those that plugins keep."""
    status = services.engine.status
    return evolve(status, counters={**services.running_totals(), **status.counters})
