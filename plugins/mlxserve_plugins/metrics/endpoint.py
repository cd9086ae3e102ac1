"""The ``/metrics`` endpoint."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
from attrs import define
from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from prometheus_client.exposition import choose_encoder

from mlxserve_hookspecs import Services
from mlxserve_plugins.guarding import Guard
from mlxserve_plugins.metrics.instruments import Instruments

PATIENCE: Final = 1.0
"""Seconds that tiers get to answer: their last figures are shown after that."""

Stats = Mapping[str, Mapping[str, float]]


@define(eq=False)
class TierReader:
    """Asks the tiers for their figures, off the event loop and one question at a time.

    Attributes:
        ask: Returns them; may block, and for long if the engine is stuck.
        last: What was heard last.
    """

    ask: Callable[[], Stats]
    last: Stats
    _asking: "asyncio.Task[Stats] | None" = None

    async def read(self) -> Stats:
        """Return the figures, or those of last time when there are no newer ones."""
        asked = self._asking or asyncio.create_task(asyncio.to_thread(self.ask))
        self._asking = asked
        await asyncio.wait([asked], timeout=PATIENCE)
        if asked.done() and self._asking is asked:
            self._asking = None
            self._take(asked)
        return self.last

    def _take(self, asked: "asyncio.Task[Stats]") -> None:
        if error := asked.exception():
            structlog.get_logger("mlxserve.metrics").error("no cache figures", exc_info=error)
        else:
            self.last = asked.result()


def make_route(services: Services, instruments: Instruments, guard: Guard) -> HTTPRouteHandler:
    """Return the handler; it answers in the format that the scraper asks for."""
    reader = TierReader(services.cache_stats, {})

    @get("/metrics", guards=[guard], tags=["Metrics"])
    async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Return every figure in Prometheus' text format, or as OpenMetrics."""
        instruments.tiers.stats = await reader.read()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        # As a header: of a media type the framework would name the charset once more.
        return Response(encode(instruments.registry), headers={"content-type": content_type})

    return metrics
