"""``bench soak``: mixed traffic for a while, and what it does to the server's memory."""

import asyncio
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, Final

from attrs import define, field, frozen

from mlxserve_plugins.bench.client import Ask, BenchError, Server, connect
from mlxserve_plugins.bench.figures import Trace
from mlxserve_plugins.bench.flags import Target, count, flag, natural, positive
from mlxserve_plugins.bench.load import Prompts, prompts_for
from mlxserve_plugins.bench.report import Report, tell

SAMPLE_S: Final = 1.0
KINDS: Final = ("reply", "chat", "sampled", "shared", "disconnect", "malformed", "impossible")
FAULTY: Final = frozenset({"malformed", "impossible"})
SHED: Final = frozenset({429, 503})
SERVER_ERROR: Final = 500
MALFORMED: Final[Sequence[dict[str, Any]]] = (
    {"temperature": "hot"},
    {"logit_bias": {"x": 1}},
    {"stop": [""]},
    {"no_such_field": 1},
)


@frozen(kw_only=True)
class SoakFlags(Target):
    """What ``bench soak`` can be told."""

    minutes: float = flag(10.0, "how long", positive)
    clients: int = flag(8, "concurrent clients", count)
    pid: int | None = flag(None, "the server's process, to watch its memory", count)
    warmup_s: int = flag(60, "seconds before memory is first noted", natural)
    prompt_tokens: int = flag(128, "most tokens of a prompt, about", count)
    max_tokens: int = flag(48, "most tokens of a reply", count)


@define
class Soak:
    """One soak while it runs.

    Attributes:
        flags: What was asked for.
        server: The server.
        prompts: Makes texts.
        chance: Chooses what each client does next.
        seen: How often each kind of request ended how.
        wrong: What must not happen.
        memory: When, and bytes of resident memory.
    """

    flags: SoakFlags
    server: Server
    prompts: Prompts
    chance: random.Random
    seen: Counter[tuple[str, str]] = field(factory=Counter)
    wrong: list[str] = field(factory=list)
    memory: list[tuple[float, int]] = field(factory=list)

    async def run(self) -> None:
        """Send traffic until time is up."""
        end = time.monotonic() + 60.0 * self.flags.minutes
        shared = self.prompts.text(self.flags.prompt_tokens)

        async def client() -> None:
            while time.monotonic() < end:
                kind = self.chance.choice(KINDS)
                self._note(kind, await self.server.stream(self._ask(kind, shared)))

        clients = (client() for _ in range(self.flags.clients))
        await asyncio.gather(*clients, self._watch(end))

    def _ask(self, kind: str, shared: str) -> Ask:
        text = self.prompts.text(self.chance.randint(1, self.flags.prompt_tokens))
        tokens = self.chance.randint(1, self.flags.max_tokens)
        extra: dict[str, Any] = {}
        if kind == "sampled":
            extra = {"temperature": 1.0, "top_p": 0.9, "seed": self.chance.randint(0, 2**31)}
        if kind == "malformed":
            extra = dict(self.chance.choice(MALFORMED))
        if kind == "impossible":
            extra = {"max_tokens": -1}
        return Ask(
            prompt=f"{shared} {text}" if kind == "shared" else text,
            max_tokens=tokens,
            chat=kind == "chat",
            extra=extra,
            leave_after=self.chance.randint(1, 8) if kind == "disconnect" else None,
        )

    def _note(self, kind: str, trace: Trace) -> None:
        self.seen[kind, "refused" if trace.error else "answered"] += 1
        if unexpected(kind, trace):
            self.wrong.append(f"{kind}: {trace.error or 'was answered'}")

    async def _watch(self, end: float) -> None:
        pid = self.flags.pid
        begun = time.monotonic()
        while pid is not None and time.monotonic() < end:
            self.memory.append((time.monotonic() - begun, resident(pid)))
            await asyncio.sleep(SAMPLE_S)


async def soak(flags: SoakFlags) -> Report:
    """Send mixed traffic and report how it ended and how memory grew."""
    if flags.pid is not None:
        if flags.warmup_s >= 60.0 * flags.minutes:
            raise BenchError("--warmup-s leaves no time: raise --minutes")
        resident(flags.pid)
    async with connect(flags.url, flags) as server:
        prompts = await prompts_for(server, flags.seed)
        one = Soak(flags, server, prompts, random.Random(flags.seed))
        tell(f"{flags.minutes:g} minutes of traffic from {flags.clients} clients")
        await one.run()
    rows = [
        {"kind": kind, **{how: one.seen[kind, how] for how in ("answered", "refused")}}
        for kind in KINDS
    ]
    notes = [growth(one.memory, flags.warmup_s), *(f"wrong: {line}" for line in one.wrong[:10])]
    title = f"{flags.minutes:g} minutes, {flags.clients} clients; {len(one.wrong)} went wrong"
    return Report(title=title, rows=rows, notes=notes, failed=bool(one.wrong))


def unexpected(kind: str, trace: Trace) -> bool:
    """Return whether a request ended as it must not; a busy server may refuse any."""
    if trace.status in SHED:
        return False
    if kind in FAULTY:
        return trace.error is None or trace.status == 0 or trace.status >= SERVER_ERROR
    return trace.error is not None


def growth(memory: Sequence[tuple[float, int]], warmup: float) -> str:
    """Return how resident memory grew, in words: medians of the first and the last third.

    Of thirds, because it rises and falls by some per cent with how many prompts come at once.

    Args:
        memory: Seconds since the beginning, and bytes.
        warmup: Seconds that do not count.
    """
    counted = [size for seconds, size in memory if seconds >= warmup]
    if not counted:
        return "memory was not watched: name the server's process with --pid"
    third = -(-len(counted) // 3)
    first, last = median(counted[:third]), median(counted[-third:])
    return (
        f"resident memory: median {first / 1e6:.1f} MB in the first third after {warmup:g} s, "
        f"{last / 1e6:.1f} MB in the last ({100.0 * (last / first - 1.0):+.2f} %); "
        f"{min(counted) / 1e6:.1f} to {max(counted) / 1e6:.1f} MB"
    )


def resident(pid: int, read: Callable[[Path], str] = Path.read_text) -> int:
    """Return a process's resident memory in bytes.

    Raises:
        BenchError: There is no such process.
    """
    with suppress(OSError):  # not Linux
        for line in read(Path(f"/proc/{pid}/status")).splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    try:
        done = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return int(done.stdout) * 1024
    except (OSError, ValueError) as error:
        raise BenchError(f"the memory of process {pid} cannot be read: is it there?") from error
