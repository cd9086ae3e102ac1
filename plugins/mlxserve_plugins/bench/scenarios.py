"""What ``bench compare`` can make two servers do."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from attrs import evolve, field, frozen

from mlxserve_plugins.bench.client import Ask, Server, open_http
from mlxserve_plugins.bench.crowd import Crowd, Place
from mlxserve_plugins.bench.figures import MS, Trace, milliseconds, percentile
from mlxserve_plugins.bench.flags import Common, count, counts, flag
from mlxserve_plugins.bench.load import Prompts
from mlxserve_plugins.bench.pairs import COUNTS, Figures, figures, gaps_within
from mlxserve_plugins.bench.tasks import TASKS, TOOLS, VARIANTS

WARM_TOKENS: Final = 24
COPYING: Final = tuple(name for name in TASKS if name != "chat")
SETTLE_S: Final = 2.0
"""Seconds that decoders run alone, or less where their replies are short."""


@frozen(kw_only=True)
class Sizes(Common):
    """How large the scenarios are."""

    concurrency: tuple[int, ...] = flag((8, 32, 64), "clients of chat and kv8", counts)
    prompt_tokens: int = flag(200, "tokens of a prompt, about", count)
    max_tokens: int = flag(160, "tokens of a reply", count)
    requests: int = flag(2, "requests of each client in a run", count)
    shared_tokens: int = flag(2000, "tokens that prompts of shared-prefix share", count)
    turns: int = flag(10, "turns of agent", count)
    long_tokens: int = flag(6000, "tokens of the long prompt of long-short", count)
    decoders: int = flag(4, "replies that are running when it comes", count)
    decoder_tokens: int = flag(400, "tokens of each of them", count)
    burst: int = flag(32, "prompts at once of burst", count)


@frozen(kw_only=True)
class Work:
    """The requests of one run, the same for both servers.

    Attributes:
        asks: What clients send.
        clients: How many they are.
        late: What one more client sends while the others are being answered.
    """

    asks: Sequence[Ask] = field(repr=False)
    clients: int
    late: Ask | None = None

    def short(self) -> "Work":
        """Return the like with short replies: what warms a server up."""
        asks = [evolve(ask, max_tokens=min(ask.max_tokens, WARM_TOKENS)) for ask in self.asks]
        return evolve(self, asks=asks[: max(self.clients, 2)])


Make: TypeAlias = Callable[[Prompts, Sizes, int], Work]
Play: TypeAlias = Callable[[Crowd, Place, Work], Awaitable[Figures]]


@frozen(kw_only=True)
class Scenario:
    """Something that servers are made to do.

    Attributes:
        about: What it is, in words.
        make: Makes the requests of one run for so many clients.
        play: Sends them and returns the run's figures.
        levels: How many clients there are, one level after the other.
        ours: Flags that mlxserve has for it.
        rival: Flags of a second mlxserve, in place of the peer.
    """

    about: str
    make: Make = field(repr=False)
    play: Play = field(repr=False)
    levels: Callable[[Sizes], Sequence[int]] = field(repr=False)
    ours: tuple[str, ...] = ()
    rival: tuple[str, ...] | None = None


def chats(prompts: Prompts, sizes: Sizes, clients: int) -> Work:
    """Return requests of a few for each client, all different."""
    asks = [_ask(prompts, sizes) for _ in range(clients * max(sizes.requests, 1))]
    return Work(asks=asks, clients=clients)


def sharing(prompts: Prompts, sizes: Sizes, clients: int) -> Work:
    """Return requests that begin alike and that nobody has sent before."""
    shared = prompts.text(sizes.shared_tokens)
    asks = [
        Ask(prompt=f"{shared} {prompts.text(40)}", max_tokens=32)
        for _ in range(clients * (sizes.requests + 1))
    ]
    return Work(asks=asks, clients=clients)


def agent(prompts: Prompts, sizes: Sizes, clients: int) -> Work:
    """Return the turns of one conversation with tools: each gives a tool's result.

    The result is a user's message and the reply goes into the history as it came, so that any
    model's template takes it.
    """
    asks = [
        Ask(
            prompt=f"Result of step {number}: {prompts.text(sizes.prompt_tokens)}\nWhat is next?",
            max_tokens=sizes.max_tokens,
            chat=True,
            extra={"tools": TOOLS},
        )
        for number in range(sizes.turns)
    ]
    return Work(asks=asks, clients=clients)


def copying(prompts: Prompts, sizes: Sizes, clients: int) -> Work:
    """Return requests for replies that repeat most of their prompts."""
    asks = [
        # What comes first differs, so that nothing of it is in a prefix cache.
        Ask(
            prompt=f"({prompts.text(4)})\n{TASKS[task](at % VARIANTS)}",
            max_tokens=sizes.max_tokens,
            chat=True,
        )
        for at in range(clients)
        for task in COPYING
    ]
    return Work(asks=asks, clients=clients)


def joining(prompts: Prompts, sizes: Sizes, clients: int) -> Work:
    """Return replies that are being generated when a long prompt comes."""
    asks = [Ask(prompt=prompts.text(100), max_tokens=sizes.decoder_tokens) for _ in range(clients)]
    late = Ask(prompt=prompts.text(sizes.long_tokens), max_tokens=8)
    return Work(asks=asks, clients=clients, late=late)


def bursting(prompts: Prompts, sizes: Sizes, clients: int) -> Work:
    """Return prompts that all come at once."""
    asks = [Ask(prompt=prompts.text(sizes.prompt_tokens), max_tokens=16) for _ in range(clients)]
    return Work(asks=asks, clients=clients)


async def load(crowd: Crowd, place: Place, work: Work) -> Figures:
    """Send everything; figures of all of it."""
    return figures(await crowd.ask(place, work.asks, work.clients))


async def converse(_crowd: Crowd, place: Place, work: Work) -> Figures:
    """Take the turns, each after the last one's reply; figures of those that have a history."""
    history: list[Mapping[str, Any]] = []
    traces: list[Trace] = []
    async with open_http(place.url, place.api_key) as http:
        server = Server(place.url, place.model, http, whole=False)
        for ask in work.asks:
            trace = await server.stream(evolve(ask, history=tuple(history)))
            traces.append(trace)
            history.append({"role": "user", "content": ask.prompt})
            history.append({"role": "assistant", "content": trace.text or "Done."})
    found = figures(traces[1:] or traces)
    whole = (traces[-1].ended - traces[0].sent) * MS if not found["failed"] else None
    return {**_some(found, "ttft_p50_ms", "decode/s"), "conversation_ms": whole, **_counts(found)}


async def join(crowd: Crowd, place: Place, work: Work) -> Figures:
    """Start the decoders, then send the long prompt; what they saw until it had its first text."""
    assert work.late is not None
    others = asyncio.create_task(crowd.ask(place, work.asks, work.clients))
    await asyncio.sleep(SETTLE_S)
    async with open_http(place.url, place.api_key) as http:
        late = await Server(place.url, place.model, http, whole=False).stream(work.late)
    traces = await others
    found = figures([*traces, late])
    end = late.arrivals[0] if late.arrivals else late.ended
    gaps = gaps_within(traces, late.sent, end)
    return {
        "itl_p99_while_joining_ms": milliseconds(percentile(gaps, 0.99)),
        "itl_p99_ms": figures(traces)["itl_p99_ms"],
        "long_ttft_ms": milliseconds(late.ttft),
        **_counts(found),
    }


async def first_texts(crowd: Crowd, place: Place, work: Work) -> Figures:
    """Send everything at once; when first texts came."""
    return _some(await load(crowd, place, work), "ttft_p50_ms", "ttft_p99_ms", *COUNTS)


async def first_request(place: Place, began: float, ready_s: float, ask: Ask) -> Figures:
    """Ask a server that has just said that it is ready."""
    async with open_http(place.url, place.api_key) as http:
        trace = await Server(place.url, place.model, http, whole=False).stream(ask)
    first = trace.arrivals[0] - began if trace.arrivals else None
    return {
        "ready_ms": ready_s * MS,
        "first_request_ttft_ms": milliseconds(trace.ttft),
        "start_to_first_text_ms": milliseconds(first),
        **_counts(figures([trace])),
    }


RESTART: Final = "restart"
SCENARIOS: Final[Mapping[str, Scenario]] = {
    "single": Scenario(
        about="one client", make=chats, play=load, levels=lambda _: (1,)
    ),
    "chat": Scenario(
        about="clients that each ask again when answered",
        make=chats, play=load, levels=lambda sizes: sizes.concurrency,
    ),
    "shared-prefix": Scenario(
        about="8 clients whose prompts begin alike", make=sharing, play=load, levels=lambda _: (8,)
    ),
    "agent": Scenario(
        about="one growing conversation with tools",
        make=agent, play=converse, levels=lambda _: (1,),
    ),
    "long-short": Scenario(
        about="a long prompt comes while replies are being generated",
        make=joining, play=join, levels=lambda sizes: (sizes.decoders,),
    ),
    "copy": Scenario(
        about="replies that repeat most of their prompts",
        make=copying, play=load, levels=lambda _: (1, 4), ours=("--spec-decode", "ngram"),
    ),
    "kv8": Scenario(
        about="8 bit KV, the default, against 16 bit",
        make=chats, play=load, levels=lambda sizes: (1, *sizes.concurrency),
        ours=("--kv-bits", "8"), rival=("--kv-bits", "16"),
    ),
    "burst": Scenario(
        about="prompts that all come at once",
        make=bursting, play=first_texts, levels=lambda sizes: (sizes.burst,),
    ),
    RESTART: Scenario(
        about="from the start of the process to the first text",
        make=bursting, play=first_texts, levels=lambda _: (1,),
    ),
}  # fmt: skip


def _ask(prompts: Prompts, sizes: Sizes) -> Ask:
    return Ask(prompt=prompts.text(sizes.prompt_tokens), max_tokens=sizes.max_tokens)


def _some(found: Figures, *names: str) -> dict[str, float | None]:
    return {name: found[name] for name in names}


def _counts(found: Figures) -> dict[str, float | None]:
    return _some(found, *COUNTS)
