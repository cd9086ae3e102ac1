"""``bench speculation``: how fast work goes that copies from its prompt, and work that does not."""

import re
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from attrs import define, field, frozen

from mlxserve_plugins.bench.client import Ask, Server, connect
from mlxserve_plugins.bench.figures import Trace, decode_rate, middle, rate, ratio
from mlxserve_plugins.bench.flags import Compared, count, counts, flag
from mlxserve_plugins.bench.load import closed_loop
from mlxserve_plugins.bench.report import Report, tell
from mlxserve_plugins.bench.tasks import TASKS, VARIANTS

RUN: Final = 4
WORD: Final = re.compile(r"\w+|[^\w\s]")


@frozen(kw_only=True)
class SpeculationFlags(Compared):
    """What ``bench speculation`` can be told."""

    concurrency: tuple[int, ...] = flag((1, 4, 8), "concurrent requests", counts)
    max_tokens: int = flag(128, "tokens of a reply", count)
    repeats: int = flag(3, "rounds; the figures are medians over them", count)


@define
class Rounds:
    """What one server did in all rounds of one task at one concurrency."""

    total: list[float | None] = field(factory=list)
    decode: list[float | None] = field(factory=list)
    replies: list[frozenset[str]] = field(factory=list)
    copies: list[float | None] = field(factory=list)
    failed: int = 0

    def add(self, traces: Sequence[Trace], asks: Sequence[Ask]) -> None:
        """Take a round in."""
        self.total.append(rate(traces))
        prompts = " ".join(str(ask.prompt) for ask in asks)
        self.copies.append(copied(" ".join(trace.text for trace in traces), prompts))
        self.decode.append(decode_rate(traces))
        self.replies.append(frozenset(trace.text for trace in traces))
        self.failed += sum(trace.error is not None for trace in traces)


async def speculation(flags: SpeculationFlags) -> Report:
    """Measure every task at every concurrency on every server, in turns."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(connect(url, flags)) for url in flags.urls]
        rows = []
        for task in TASKS:
            for clients in flags.concurrency:
                rows += await _measure(servers, task, clients, flags)
    title = f"Chats at temperature 0, up to {flags.max_tokens} tokens; a first round not counted"
    notes = [f"copied: share of the reply's runs of {RUN} words that are in the prompt"]
    if flags.baseline_url:
        notes.append(f"x, decode_x: {flags.url} as a multiple of the row's")
    return Report(title=title, rows=rows, notes=notes, failed=any(row["failed"] for row in rows))


def copied(reply: str, prompt: str) -> float | None:
    """Return the share of the runs of ``RUN`` words of ``reply`` that are in ``prompt`` too."""
    runs, known = list(_runs(reply)), set(_runs(prompt))
    return sum(run in known for run in runs) / len(runs) if runs else None


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    words = WORD.findall(text)
    return zip(*(words[at:] for at in range(RUN)), strict=False)


async def _measure(
    servers: Sequence[Server], task: str, clients: int, flags: SpeculationFlags
) -> list[dict[str, Any]]:
    asks = [
        Ask(prompt=TASKS[task](number % VARIANTS), max_tokens=flags.max_tokens, chat=True)
        for number in range(clients)
    ]
    found = [Rounds() for _ in servers]
    for server in servers:
        await closed_loop(server, asks, clients)
    for turn in range(flags.repeats):
        pairs = [*zip(servers, found, strict=True)]
        for server, rounds in pairs if turn % 2 == 0 else pairs[::-1]:
            rounds.add(await closed_loop(server, asks, clients), asks)
    rows = [
        _row(server, task, clients, rounds, found[0])
        for server, rounds in zip(servers, found, strict=True)
    ]
    figures = ", ".join(f"{row['tokens/s'] or 0:.1f}" for row in rows)
    tell(f"{task} at {clients}: {figures} tokens/s")
    return rows


def _row(server: Server, task: str, clients: int, rounds: Rounds, first: Rounds) -> dict[str, Any]:
    row: dict[str, Any] = {"task": task, "concurrent": clients, "server": server.url}
    row["tokens/s"] = middle(rounds.total)
    row["decode/s"] = middle(rounds.decode)
    row["x"] = ratio(middle(first.total), row["tokens/s"])
    row["decode_x"] = ratio(middle(first.decode), row["decode/s"])
    row["copied"] = middle(rounds.copies)
    row["same_text"] = "yes" if rounds.replies == first.replies else "no"
    row["failed"] = rounds.failed
    return row
