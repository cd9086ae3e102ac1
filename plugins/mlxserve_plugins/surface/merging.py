"""Several of the engine's streams as one, with a tick when all are silent."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from typing import TypeAlias

from mlxserve_hookspecs import GenerationEvent

Events: TypeAlias = Sequence[GenerationEvent]
Start: TypeAlias = Callable[[], AsyncIterator[Events]]
Batch: TypeAlias = tuple[int, Events]

AT_ONCE = 16
"""Prompts of one API request that the engine has at the same time."""


async def merge(
    starts: Iterable[Start],
    *,
    at_once: int = AT_ONCE,
    first_tick: float | None = None,
    tick: float | None = None,
) -> AsyncGenerator[Batch | None, None]:
    """Run streams side by side; yield their batches with the number of the stream.

    Closing the generator closes every stream that it opened.

    Args:
        starts: Each opens a stream; called when there is room for it.
        at_once: Streams open at the same time.
        first_tick: Seconds of silence at the very start after which ``None`` is yielded.
        tick: Seconds of silence after which ``None`` is yielded from then on.
    """
    waiting = enumerate(starts)
    streams: dict[asyncio.Task[Events | None], tuple[int, AsyncIterator[Events]]] = {}
    resting: list[AsyncIterator[Events]] = []
    patience = first_tick
    try:
        while True:
            while len(streams) < at_once and (item := next(waiting, None)) is not None:
                number, start = item
                _listen(streams, number, start())
            if not streams:
                return
            done, _ = await asyncio.wait(
                streams, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            patience = tick
            if not done:
                yield None
            for task in done:
                number, stream = streams.pop(task)
                resting.append(stream)
                batch = task.result()
                if batch is not None:
                    yield number, batch
                    _listen(streams, number, stream)
                resting.remove(stream)
    finally:
        await _close(streams, resting)


def _listen(
    streams: dict[asyncio.Task[Events | None], tuple[int, AsyncIterator[Events]]],
    number: int,
    stream: AsyncIterator[Events],
) -> None:
    streams[asyncio.create_task(_next(stream))] = (number, stream)


async def _next(stream: AsyncIterator[Events]) -> Events | None:
    return await anext(stream, None)


async def _close(
    streams: dict[asyncio.Task[Events | None], tuple[int, AsyncIterator[Events]]],
    resting: list[AsyncIterator[Events]],
) -> None:
    for task in streams:
        task.cancel()
    # A generator cannot be closed while it is being awaited.
    await asyncio.gather(*streams, return_exceptions=True)
    for stream in [*resting, *(stream for _, stream in streams.values())]:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
