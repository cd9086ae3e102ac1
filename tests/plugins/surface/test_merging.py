import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest
from attrs import define, field

from mlxserve_hookspecs import GenerationEvent, RequestError
from mlxserve_plugins.surface.merging import Start, merge

FULL = RequestError(status=429, message="full")


@define
class Streams:
    """Streams that a test starts; keeps count of those that are open."""

    open: int = 0
    most: int = 0
    started: list[int] = field(factory=list)

    def start(self, number: int, texts: Sequence[str | Exception | None]) -> Start:
        """Return how to open a stream of these texts; ``None`` waits for ever."""

        async def stream() -> AsyncGenerator[Sequence[GenerationEvent], None]:
            self.started.append(number)
            self.open += 1
            self.most = max(self.most, self.open)
            try:
                for text in texts:
                    await asyncio.sleep(0)
                    if text is None:
                        await asyncio.Event().wait()
                    elif isinstance(text, Exception):
                        raise text
                    else:
                        yield [GenerationEvent(request_id=str(number), text=text)]
            finally:
                self.open -= 1

        return stream


def refuse() -> AsyncGenerator[Sequence[GenerationEvent], None]:
    raise FULL


async def test_every_stream_comes_through_in_its_own_order() -> None:
    streams = Streams()
    texts = ["", "", ""]
    async for batch in merge(streams.start(at, ["a", "b", "c"]) for at in range(3)):
        assert batch is not None
        source, events = batch
        texts[source] += "".join(event.text for event in events)
    assert texts == ["abc"] * 3
    assert streams.open == 0


async def test_no_more_streams_are_open_than_allowed() -> None:
    streams = Streams()
    starts = [streams.start(at, ["a"]) for at in range(7)]
    assert len([batch async for batch in merge(starts, at_once=2)]) == 7
    assert streams.most == 2
    assert streams.started == list(range(7))


async def test_silence_is_told_at_each_tick() -> None:
    streams = Streams()
    merged = merge([streams.start(0, ["a", None])], first_tick=5, tick=0.001)
    async with aclosing(merged):
        assert await anext(merged) is not None
        assert [await anext(merged) for _ in range(3)] == [None] * 3


async def test_no_streams_are_no_batches() -> None:
    assert [batch async for batch in merge([])] == []


@pytest.mark.parametrize("reads", [0, 1, 2], ids=["unread", "read once", "read twice"])
async def test_closing_early_closes_every_stream(reads: int) -> None:
    streams = Streams()
    merged = merge(streams.start(at, ["a", "b", None]) for at in range(3))
    for _ in range(reads):
        await anext(merged)
    await merged.aclose()
    assert streams.open == 0


async def test_cancelling_the_reader_closes_every_stream() -> None:
    streams = Streams()
    merged = merge(streams.start(at, [None]) for at in range(3))
    reader = asyncio.create_task(anext(merged))
    while streams.open < 3:
        await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert streams.open == 0


async def test_a_stream_that_fails_ends_the_others() -> None:
    streams = Streams()
    merged = merge([streams.start(0, [None]), streams.start(1, [FULL])])
    with pytest.raises(RequestError):
        await anext(merged)
    assert streams.open == 0


async def test_a_start_that_is_refused_ends_the_others() -> None:
    streams = Streams()
    merged = merge([streams.start(0, ["a", "b", None]), streams.start(1, ["a"]), refuse], at_once=2)
    with pytest.raises(RequestError):
        [batch async for batch in merged]
    assert streams.open == 0
