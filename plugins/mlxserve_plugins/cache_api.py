"""Look into the cache tiers and empty them over HTTP."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from attrs import define

from mlxserve_hookspecs import Route, Services, hookimpl
from mlxserve_plugins.guarding import guard

T = TypeVar("T")


@define
class CacheApi:
    """Adds ``GET /v1/cache/stats`` and ``POST /v1/cache/clear``, for who has a key."""

    @hookimpl
    def routes(self, services: Services) -> Sequence[Route]:
        """Answer with both."""
        from asyncio import Lock  # noqa: PLC0415 - --help does without it

        from litestar import Router, get, post  # noqa: PLC0415 - heavy

        one_at_a_time = Lock()

        @get("/stats")
        async def cache_stats() -> dict[str, Any]:
            """Return each tier's figures, nearest tier first."""
            return await stats(services)

        @post("/clear", status_code=200)
        async def clear_cache() -> dict[str, Any]:
            """Forget what is cached and not in use; return how many blocks, by tier."""
            async with one_at_a_time:
                return await clear(services)

        return [
            Router(
                path="/v1/cache",
                route_handlers=[cache_stats, clear_cache],
                guards=[guard(services)],
                tags=["Cache"],
            )
        ]


async def stats(services: Services) -> dict[str, Any]:
    """Return each tier's figures, and the blocks of KV as the engine counts them.

    Raises:
        RequestError: The model is not loaded yet.
    """
    _ = services.engine.card  # there is nothing to ask, and nobody to answer, before it is loaded
    tiers = await _off_the_loop(services.cache_stats)
    status = services.engine.status
    return {
        "tiers": tiers,
        "used_blocks": status.used_blocks,
        "cached_blocks": status.cached_blocks,
        "total_blocks": status.total_blocks,
    }


async def clear(services: Services) -> dict[str, Any]:
    """Empty the tiers; return how many blocks were forgotten.

    Raises:
        RequestError: The model is not loaded yet.
    """
    _ = services.engine.card
    dropped = await _off_the_loop(services.clear_cache)
    return {"cleared": dropped, "total": sum(dropped.values())}


async def _off_the_loop(ask: Callable[[], T]) -> T:
    from asyncio import to_thread  # noqa: PLC0415 - likewise

    return await to_thread(ask)
