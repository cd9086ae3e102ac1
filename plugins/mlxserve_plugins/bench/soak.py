"""``bench soak``: mixed traffic for a while, and what it does to the server."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from attrs import asdict, define, evolve, field, frozen

from mlxserve_plugins.bench.client import BAD_REQUEST, Ask, BenchError, Server, connect
from mlxserve_plugins.bench.figures import SHED, Trace
from mlxserve_plugins.bench.flags import Target, count, flag, natural, positive
from mlxserve_plugins.bench.load import Prompts, prompts_for
from mlxserve_plugins.bench.process import RUN, Command, own_cache
from mlxserve_plugins.bench.progress import Bar
from mlxserve_plugins.bench.report import Plot, Report, tell
from mlxserve_plugins.bench.tasks import TASKS, TOOLS, VARIANTS
from mlxserve_plugins.bench.trend import MB, Sample, held, judge, rows, said, series
from mlxserve_plugins.bench.watch import Watch, resident

KINDS: Final = (
    "reply", "chat", "sampled", "shared", "copy", "tools", "schema", "disconnect", "malformed",
    "impossible",
)  # fmt: skip
FAULTY: Final = frozenset({"malformed", "impossible"})
SERVER_ERROR: Final = 500
MALFORMED: Final[Sequence[dict[str, Any]]] = (
    {"temperature": "hot"},
    {"logit_bias": {"x": 1}},
    {"max_tokens": "many"},
    {"stream_options": 7},
)
SCHEMA: Final = {
    "type": "json_schema",
    "json_schema": {
        "name": "place",
        "schema": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 20},
                "size": {"type": "integer"},
            },
            "required": ["name", "size"],
            "additionalProperties": False,
        },
    },
}
CHATS: Final[Mapping[str, Mapping[str, Any]]] = {
    "chat": {},
    "tools": {"tools": TOOLS},
    "schema": {"response_format": SCHEMA},
}
EVERYTHING: Final = (
    "--kv-bits", "8", "--spec-decode", "ngram", "--ssd-policy", "write_through",
    "--ssd-max-size-gb", "1", "--num-blocks", "2048",
)  # fmt: skip
"""What a server has that is started for a soak: all features, and caches small enough to fill."""


@frozen(kw_only=True)
class SoakFlags(Target):
    """What ``bench soak`` can be told; with flags after ``--`` it starts the server itself."""

    minutes: float = flag(10.0, "how long", positive)
    clients: int = flag(8, "concurrent clients", count)
    pid: int | None = flag(None, "the server's process, to watch it", count)
    warmup_s: int = flag(60, "seconds before memory is first noted", natural)
    sample_s: float = flag(1.0, "seconds between two looks at it", positive)
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
        kinds: What they can do.
        seen: How often each kind of request ended how.
        wrong: What must not happen.
    """

    flags: SoakFlags
    server: Server
    prompts: Prompts
    chance: random.Random
    kinds: Sequence[str] = KINDS
    seen: Counter[tuple[str, str]] = field(factory=Counter)
    wrong: list[str] = field(factory=list)

    async def run(self, watch: Watch) -> None:
        """Send traffic until time is up, then see that nobody is left over."""
        end = time.monotonic() + 60.0 * self.flags.minutes
        shared = self.prompts.text(self.flags.prompt_tokens)

        async def client() -> None:
            while time.monotonic() < end:
                kind = self.chance.choice(self.kinds)
                self._note(kind, await self.server.stream(self._ask(kind, shared)))

        clients = (client() for _ in range(self.flags.clients))
        await asyncio.gather(*clients, watch.run(end), self._show(end))
        if left := await watch.left_over():
            self.wrong.append(f"in use when nobody is served: {dict(left)}")

    def _ask(self, kind: str, shared: str) -> Ask:
        text = self.prompts.text(self.chance.randint(1, self.flags.prompt_tokens))
        ask = Ask(prompt=text, max_tokens=self.chance.randint(1, self.flags.max_tokens))
        changes: dict[str, Any] = {}
        match kind:
            case "chat" | "tools" | "schema":
                changes = {"chat": True, "extra": CHATS[kind]}
            case "shared":
                changes = {"prompt": f"{shared} {text}"}
            case "copy":
                task = self.chance.choice((*TASKS.values(),))
                changes = {"prompt": task(self.chance.randrange(VARIANTS)), "chat": True}
            case "sampled":
                seed = self.chance.randint(0, 2**31)
                changes = {"extra": {"temperature": 1.0, "top_p": 0.9, "seed": seed}}
            case "malformed":
                changes = {"extra": dict(self.chance.choice(MALFORMED))}
            case "impossible":
                changes = {"extra": {"temperature": -1.0}}
            case "disconnect":
                changes = {"leave_after": self.chance.randint(1, 8)}
        return evolve(ask, **changes)

    def _note(self, kind: str, trace: Trace) -> None:
        self.seen[kind, "refused" if trace.error else "answered"] += 1
        if unexpected(kind, trace):
            self.wrong.append(f"{kind}: {trace.error or 'was answered'}")

    async def _show(self, end: float) -> None:
        with Bar(round(self.flags.minutes) or 1) as bar:
            while (left := end - time.monotonic()) > 0:
                bar.now(f"{sum(self.seen.values())} requests, {len(self.wrong)} wrong")
                await asyncio.sleep(min(left, 60.0))


async def soak(flags: SoakFlags, words: Sequence[str] = (), run: Sequence[str] = RUN) -> Report:
    """Send mixed traffic and report how it ended and what became of memory.

    Args:
        flags: What was asked for.
        words: Flags of a server that is started for it; without any, one is running.
        run: What starts a server.
    """
    if (flags.pid is not None or words) and flags.warmup_s >= 60.0 * flags.minutes:
        raise BenchError("--warmup-s leaves no time: raise --minutes")
    async with _target(flags, words, run) as (server, pid):
        prompts = await prompts_for(server, flags.seed)
        one = Soak(flags, server, prompts, random.Random(flags.seed))
        lacks = await _lacking(server)
        one.kinds = [kind for kind in KINDS if kind not in lacks]
        tell(f"{flags.minutes:g} minutes of traffic from {flags.clients} clients")
        watch = Watch(server, pid, flags.sample_s)
        await one.run(watch)
    return _report(flags, one, watch.samples, lacks)


@asynccontextmanager
async def _target(
    flags: SoakFlags, words: Sequence[str], run: Sequence[str]
) -> AsyncIterator[tuple[Server, int | None]]:
    if not words:
        if flags.pid is not None:
            resident(flags.pid)
        async with connect(flags.url, flags) as server:
            yield server, flags.pid
        return
    with TemporaryDirectory(prefix="mlxserve-bench-") as folder:
        command = Command(
            words=(*EVERYTHING, *words),
            log=Path(folder, "server.log"),
            run=run,
            variables=own_cache(Path(folder, "kv")),
        )
        async with command.running() as started, connect(started.url, flags) as server:
            yield server, started.pid


async def _lacking(server: Server) -> Sequence[str]:
    """Return which kinds this server refuses as a whole: what is not installed is not wrong."""
    lacks = []
    for kind, extra in CHATS.items():
        trace = await server.stream(Ask(prompt="Hello", max_tokens=4, chat=True, extra=extra))
        if trace.status == BAD_REQUEST:
            lacks.append(kind)
    return lacks


def _report(flags: SoakFlags, one: Soak, samples: Sequence[Sample], lacks: Sequence[str]) -> Report:
    found = [
        {"kind": kind, **{how: one.seen[kind, how] for how in ("answered", "refused")}}
        for kind in one.kinds
    ]
    notes = [
        *said(judge(samples, flags.warmup_s)),
        *(f"left out, this server refuses it: {kind}" for kind in lacks),
        *(f"wrong: {line}" for line in one.wrong[:10]),
    ]
    title = f"{flags.minutes:g} minutes, {flags.clients} clients; {len(one.wrong)} went wrong"
    return Report(
        title=title,
        rows=found,
        also=rows(samples, flags.warmup_s),
        notes=notes,
        failed=bool(one.wrong),
        raw=[asdict(sample) for sample in samples],
        plots=plots(samples),
    )


def plots(samples: Sequence[Sample]) -> list[Plot]:
    """Return memory and blocks over time."""
    memory = [(at / 60.0, size / MB) for at, size in series(samples, lambda one: one.memory)]
    blocks = [(at / 60.0, count) for at, count in series(samples, held)]
    found = {
        "soak-memory": ("Resident memory", "MB", memory),
        "soak-blocks": ("KV blocks held, by rows and cache", "blocks", blocks),
    }
    return [
        Plot(name=name, title=title, x="minutes", y=unit, lines={unit: points})
        for name, (title, unit, points) in found.items()
        if points
    ]


def unexpected(kind: str, trace: Trace) -> bool:
    """Return whether a request ended as it must not; a busy server may refuse any."""
    if trace.status in SHED - {0}:
        return False
    if kind in FAULTY:
        return trace.error is None or trace.status == 0 or trace.status >= SERVER_ERROR
    return trace.error is not None
