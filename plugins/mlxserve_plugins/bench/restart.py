"""``bench restart``: how soon the first token comes cold, from RAM, and from disk after a restart.

And what loading from disk costs those whose replies are being generated meanwhile.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from attrs import define, field, frozen

from mlxserve_plugins.bench.client import Ask, Server
from mlxserve_plugins.bench.figures import Trace, progress, ratio
from mlxserve_plugins.bench.flags import Common, count, flag, natural, need_words, positive
from mlxserve_plugins.bench.load import Prompts, closed_loop, prompts_for
from mlxserve_plugins.bench.prefix import QUESTION_TOKENS, ask_after, told, ttft_rows
from mlxserve_plugins.bench.process import Command
from mlxserve_plugins.bench.report import Report, table, tell

FOLDER_FLAG: Final = "--ssd-cache-dir"
STREAM_PROMPT_TOKENS: Final = 32
ALONE: Final = "no prefix"


@frozen(kw_only=True)
class RestartFlags(Common):
    """What ``bench restart`` can be told; the server's flags follow after ``--``."""

    prefix_tokens: int = flag(2000, "tokens that requests share, about", count)
    repeats: int = flag(3, "prefixes; the figures are medians over them", count)
    streams: int = flag(4, "replies being generated while prefixes load; 0 leaves it out", natural)
    stream_tokens: int = flag(1024, "most tokens of each of those replies", count)
    calm_s: float = flag(1.0, "seconds between loads, to compare with", positive)


@define
class Seen:
    """What was measured so far."""

    cold: list[Trace] = field(factory=list)
    ram: list[Trace] = field(factory=list)
    ssd: list[Trace] = field(factory=list)


async def restart(flags: RestartFlags, words: Sequence[str]) -> Report:
    """Start a server, fill its cache, restart it, ask again."""
    need_words("restart", words)
    with TemporaryDirectory(prefix="mlxserve-bench-") as folder:
        # A user's own cache is not to be filled with what nobody will ask for again.
        own = () if FOLDER_FLAG in words else (FOLDER_FLAG, f"{folder}/kv")
        command = Command(words=(*words, *own), log=Path(folder, "server.log"))
        return await measure(flags, command)


async def measure(flags: RestartFlags, command: Command) -> Report:
    """Run the whole of it with a server that ``command`` starts."""
    seen = Seen()
    async with command.serving(flags) as server:
        prompts = await prompts_for(server, flags.seed)
        prefixes = [prompts.text(flags.prefix_tokens) for _ in range(flags.repeats)]
        await _warm_up(server, prompts)
        for text in prefixes:
            seen.cold.append(await ask_after(server, prompts, text))
            seen.ram.append(await ask_after(server, prompts, text))
    async with command.serving(flags) as server:
        await _warm_up(server, prompts)
        for text in prefixes:
            seen.ssd.append(await ask_after(server, prompts, text))
            tell(f"{told(seen.ssd[-1])} from disk")
    notes: list[str] = []
    if flags.streams:
        async with command.serving(flags) as server:
            notes = await _disturbance(server, prompts, prefixes, flags)
    title = f"TTFT after a prefix of about {flags.prefix_tokens} tokens, alone"
    rows = ttft_rows({"cold": seen.cold, "RAM-warm": seen.ram, "SSD-warm": seen.ssd})
    return Report(title=title, rows=rows, notes=notes)


async def _warm_up(server: Server, prompts: Prompts) -> None:
    for _ in range(2):
        await ask_after(server, prompts, prompts.text(QUESTION_TOKENS))


async def _disturbance(
    server: Server, prompts: Prompts, prefixes: Sequence[str], flags: RestartFlags
) -> list[str]:
    """Load every prefix from disk, then find it in RAM, while replies are being generated.

    The same question without a prefix says what part of it any short request would cost.
    """
    asks = [
        Ask(prompt=prompts.text(STREAM_PROMPT_TOKENS), max_tokens=flags.stream_tokens)
        for _ in range(flags.streams)
    ]
    await _warm_up(server, prompts)
    others = asyncio.create_task(closed_loop(server, asks, flags.streams))
    await asyncio.sleep(2 * flags.calm_s)
    calm: list[tuple[float, float]] = []
    loads: dict[str, list[tuple[float, float]]] = {"SSD": [], "RAM": [], ALONE: []}
    for text in prefixes:
        for source, windows in loads.items():
            calm.append(await _calm(flags.calm_s))
            trace = await ask_after(server, prompts, "" if source == ALONE else text)
            windows.append((trace.sent, trace.arrivals[0]))
    calm.append(await _calm(flags.calm_s))
    unfinished = not others.done()
    traces = await others
    base = _rate(traces, calm)
    rows = [_row("nothing", calm, base, base)]
    rows += [_row(name, seen, _rate(traces, seen), base) for name, seen in loads.items()]
    heading = f"Decode rate of {flags.streams} replies while a prefix comes from"
    notes = ["", heading, *table(rows)]
    return notes if unfinished else [*notes, "the replies ended too early: raise --stream-tokens"]


async def _calm(seconds: float) -> tuple[float, float]:
    # The reply to the last question ends first.
    await asyncio.sleep(seconds / 2)
    start = time.perf_counter()
    await asyncio.sleep(seconds)
    return start, time.perf_counter()


def _rate(traces: Sequence[Trace], windows: Sequence[tuple[float, float]]) -> float:
    made = sum(progress(trace.arrivals, *window) for trace in traces for window in windows)
    return made / sum(end - start for start, end in windows)


def _row(
    name: str, windows: Sequence[tuple[float, float]], rate: float, base: float
) -> dict[str, Any]:
    seconds = sum(end - start for start, end in windows)
    return {"from": name, "tokens/s": rate, "of_calm": ratio(rate, base), "seconds": seconds}
