"""``bench serve``: throughput and latency at several numbers of concurrent requests."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from attrs import frozen

from mlxserve_plugins.bench.client import Ask, Server, connect
from mlxserve_plugins.bench.figures import Goals, Trace, middle, ratio, summary
from mlxserve_plugins.bench.flags import Compared, count, counts, flag, natural, positive
from mlxserve_plugins.bench.load import Prompts, closed_loop, prompts_for
from mlxserve_plugins.bench.report import Report, tell


@frozen(kw_only=True)
class ServeFlags(Compared):
    """What ``bench serve`` can be told."""

    concurrency: tuple[int, ...] = flag((1, 4, 8, 16), "concurrent requests", counts)
    requests: int = flag(32, "requests per level and round; at least one per client", count)
    prompt_tokens: int = flag(128, "tokens of a prompt, about", count)
    max_tokens: int = flag(64, "tokens of a reply", count)
    shared_prefix: int = flag(0, "tokens that all prompts begin with", natural)
    chat: bool = flag(False, "ask as a chat; by default text completions")
    repeats: int = flag(1, "rounds; the figures are medians over them", count)
    ttft_slo: float | None = flag(None, "milliseconds: goodput counts what was as quick", positive)
    itl_slo: float | None = flag(None, "milliseconds, of a request's mean ITL; likewise", positive)

    @property
    def goals(self) -> Goals:
        """What counts towards goodput."""
        return Goals(ttft=self.ttft_slo, itl=self.itl_slo)


async def serve(flags: ServeFlags) -> Report:
    """Measure every server at every level, in turns."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(connect(url, flags)) for url in flags.urls]
        prompts = await prompts_for(servers[0], flags.seed)
        for server in servers:
            await _warm_up(server, prompts, flags)
        rows = []
        for clients in flags.concurrency:
            rows += await _level(servers, prompts, flags, clients)
    notes = ["medians over rounds" if flags.repeats > 1 else "one round", _comparison(flags)]
    failed = any(row["failed"] for row in rows)
    return Report(title=_title(flags), rows=rows, notes=list(filter(None, notes)), failed=failed)


async def _warm_up(server: Server, prompts: Prompts, flags: ServeFlags) -> None:
    for clients in (1, max(flags.concurrency)):
        asks = (_ask(prompts, "", flags) for _ in range(clients))
        await closed_loop(server, asks, clients)


async def _level(
    servers: Sequence[Server], prompts: Prompts, flags: ServeFlags, clients: int
) -> list[dict[str, Any]]:
    rounds: dict[str, list[Mapping[str, Any]]] = {server.url: [] for server in servers}
    for turn in range(flags.repeats):
        shared = prompts.text(flags.shared_prefix) if flags.shared_prefix else ""
        for server in servers if turn % 2 == 0 else servers[::-1]:
            asks = [_ask(prompts, shared, flags) for _ in range(max(clients, flags.requests))]
            if shared:
                await server.checked(asks[0])
            traces = await closed_loop(server, asks, clients)
            _tell_failures(server, traces)
            rounds[server.url].append(summary(traces, flags.goals))
    rows = [
        {"server": url, "concurrent": clients, **_median(found)} for url, found in rounds.items()
    ]
    for row in rows:
        if len(rows) > 1:
            row["x"] = ratio(rows[0]["tokens/s"], row["tokens/s"])
        tell(f"{row['server']} at {clients}: {row['tokens/s'] or 0:.1f} tokens/s")
    return rows


def _ask(prompts: Prompts, shared: str, flags: ServeFlags) -> Ask:
    own = prompts.text(flags.prompt_tokens)
    text = f"{shared} {own}" if shared else own
    return Ask(prompt=text, max_tokens=flags.max_tokens, chat=flags.chat)


def _median(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {name: middle(one[name] for one in rounds) for name in rounds[0]}
    found["failed"] = sum(one["failed"] for one in rounds)
    return found


def _tell_failures(server: Server, traces: Sequence[Trace]) -> None:
    errors = [trace.error for trace in traces if trace.error]
    if errors:
        tell(f"{server.url}: {len(errors)} of {len(traces)} failed, the first: {errors[0]}")


def _title(flags: ServeFlags) -> str:
    shared = f" after {flags.shared_prefix} shared ones" if flags.shared_prefix else ", all unique"
    return (
        f"{flags.requests} requests a round, about {flags.prompt_tokens} prompt tokens{shared}, "
        f"up to {flags.max_tokens} new ones; warm-up not counted"
    )


def _comparison(flags: ServeFlags) -> str:
    return f"x: tokens/s of {flags.url} as a multiple of the row's" if flags.baseline_url else ""
