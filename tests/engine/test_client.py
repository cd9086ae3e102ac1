"""What the engine's client refuses, it tells once, and raises."""

import asyncio
from typing import cast

import pytest
from attrs import evolve

from mlxserve.engine.client import Client, Loaded
from mlxserve.engine.refusals import SHUTTING_DOWN
from mlxserve.inbox import Inbox, Submit
from mlxserve_hookspecs import (
    EngineStatus,
    GenerationRequest,
    Limits,
    ModelCard,
    RequestError,
    TextCodec,
)

from .harness import Letters, prompt, request

CARD = ModelCard(id="tiny", created=7, vocab_size=256, limits=Limits(), has_chat_template=False)
IDLE = EngineStatus(ready=True)
Told = list[tuple[int, str]]


@pytest.fixture
def told() -> Told:
    return []


@pytest.fixture
def client(told: Told) -> Client:
    """Return a client of an engine with one row and a queue of two."""

    def tell(status: int, code: str) -> None:
        told.append((status, code))

    loaded = Loaded(CARD, cast(TextCodec, Letters()))
    return Client(Inbox(), 2, 1, lambda: IDLE, tell, loaded)


async def refusal(client: Client, asked: GenerationRequest) -> RequestError:
    with pytest.raises(RequestError) as refused:
        await anext(client.generate(asked))
    return refused.value


async def test_a_full_queue_is_told_once(client: Client, told: Told) -> None:
    client.get_status = lambda: evolve(IDLE, running=1, waiting=2)
    error = await refusal(client, request("a", prompt(4)))
    assert (error.status, error.code, error.retry_after) == (429, "queue_full", 1.25)
    assert told == [(429, "queue_full")]
    assert len(client.inbox) == 0


async def test_a_draining_engine_is_told_once(client: Client, told: Told) -> None:
    client.get_status = lambda: evolve(IDLE, draining=True)
    error = await refusal(client, request("a", prompt(4)))
    assert (error.status, error.retry_after) == (503, 30.0)
    assert told == [(503, "shutting_down")]


async def test_a_closed_client_is_told_once_for_each_request(client: Client, told: Told) -> None:
    client.closed = SHUTTING_DOWN
    raised = [await refusal(client, request("a", prompt(4))) for _ in range(2)]
    assert told == [(503, "shutting_down")] * 2
    assert raised[0] is not raised[1]  # a traceback grows with each raise


@pytest.mark.parametrize("part", ["card", "text"])
def test_a_model_that_loads_is_told_once(client: Client, told: Told, part: str) -> None:
    client.loaded = None
    with pytest.raises(RequestError, match="still loading"):
        getattr(client, part)
    assert told == [(503, "not_ready")]


async def test_an_id_that_is_taken_is_told_and_the_first_goes_on(
    client: Client, told: Told
) -> None:
    first = client.generate(request("a", prompt(4)))
    waiting = asyncio.ensure_future(anext(first))
    await asyncio.sleep(0)
    assert (await refusal(client, request("a", prompt(4)))).status == 409
    assert told == [(409, "duplicate_request")]
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_what_is_let_in_is_not_told(client: Client, told: Told) -> None:
    stream = client.generate(request("a", prompt(4)))
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    (message,) = client.inbox.take(0).messages
    assert isinstance(message, Submit)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert told == []
