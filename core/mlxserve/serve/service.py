"""The engine as the server sees it."""

import asyncio
import threading
from typing import Protocol

from mlxserve_hookspecs import EngineClient


class Service(Protocol):
    """Owns the engine's thread. ``mlxserve.engine.service.EngineService`` is the real one."""

    @property
    def loaded(self) -> threading.Event:
        """Set when the model is loaded, or loading failed."""

    @property
    def failure(self) -> BaseException | None:
        """Why loading failed, or what ended the engine later."""

    @property
    def client(self) -> EngineClient:
        """The engine as API surfaces see it."""

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the event loop on which requests are served."""

    def start(self) -> None:
        """Start the thread."""

    def drain(self, timeout: float) -> bool:
        """Stop admission, wait, then end what is left; return whether all finished. Blocks."""

    def stop(self) -> None:
        """End the thread. Blocks."""

    def clear_cache(self) -> dict[str, int]:
        """Forget cached blocks; return how many, by tier."""

    def cache_stats(self) -> dict[str, dict[str, float]]:
        """Return each tier's figures."""
