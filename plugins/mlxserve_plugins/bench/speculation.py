"""``bench speculation``: how fast work goes that copies from its prompt, and work that does not."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from attrs import define, field, frozen

from mlxserve_plugins.bench.client import Ask, Server, connect
from mlxserve_plugins.bench.figures import Trace, decode_rate, middle, rate, ratio
from mlxserve_plugins.bench.flags import Compared, count, counts, flag
from mlxserve_plugins.bench.load import closed_loop
from mlxserve_plugins.bench.report import Report, tell
from mlxserve_plugins.bench.tasks import TASKS, VARIANTS


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
    failed: int = 0

    def add(self, traces: Sequence[Trace]) -> None:
        """Take a round in."""
        self.total.append(rate(traces))
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
    notes = [f"x, decode_x: {flags.url} as a multiple of the row's"] if flags.baseline_url else []
    return Report(title=title, rows=rows, notes=notes, failed=any(row["failed"] for row in rows))


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
            rounds.add(await closed_loop(server, asks, clients))
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
    row["same_text"] = "yes" if rounds.replies == first.replies else "no"
    row["failed"] = rounds.failed
    return row
