"""``bench overhead``: what the engine's thread does beside the model, and what makes it grow."""

from collections.abc import Sequence
from typing import Any, Final

from attrs import frozen

from mlxserve_hookspecs import CommandHost, MlxserveError, TurnCost
from mlxserve_plugins.bench.figures import middle, milliseconds, percentile
from mlxserve_plugins.bench.flags import Common, count, flag, naturals, need_words
from mlxserve_plugins.bench.progress import Bar
from mlxserve_plugins.bench.report import Plot, Report

NEAR: Final = 0.8
"""A queue of so much of a length counts as one of that length."""

PARTS: Final = 20
GUESTS: Final = 64
"""Requests beyond the longest queue: those that run."""


@frozen(kw_only=True)
class OverheadFlags(Common):
    """What ``bench overhead`` can be told; the model and the server's flags follow after ``--``."""

    requests: int = flag(32, "requests at once of the run that says which share is overhead", count)
    prompt_tokens: int = flag(200, "tokens of each of their prompts", count)
    max_tokens: int = flag(120, "tokens of each of their replies", count)
    waiting: tuple[int, ...] = flag((0, 50, 500), "lengths of the queue to tell apart", naturals)
    cached: tuple[int, ...] = flag((0, 5_000, 50_000), "blocks in the prefix cache", naturals)
    short_prompt: int = flag(16, "tokens of a prompt where queue and cache are varied", count)
    short_reply: int = flag(48, "tokens of a reply there", count)


def overhead(flags: OverheadFlags, words: Sequence[str], host: CommandHost) -> Report:
    """Serve in process: once for the share, once for each size of the cache."""
    need_words("overhead", words)
    rows, raw, failures = list[dict[str, Any]](), list[dict[str, Any]](), list[str]()
    with host.open_engine(words) as one, Bar(2 + len(flags.cached)) as bar:
        bar.now("warming up")
        one.serve(requests=2, prompt=flags.short_prompt, reply=8)
        bar.now(f"{flags.requests} requests")
        turns = one.serve(
            requests=flags.requests, prompt=flags.prompt_tokens, reply=flags.max_tokens
        )
        share = outside(turns)
        for cached in flags.cached:
            bar.now(f"{cached} blocks cached")
            try:
                grown = one.serve(
                    requests=max(flags.waiting) + GUESTS,
                    prompt=flags.short_prompt,
                    reply=flags.short_reply,
                    cached=cached,
                )
            except MlxserveError as error:
                failures.append(f"{cached} blocks: {error}")
                continue
            rows += [row(grown, cached, length) for length in flags.waiting]
            raw += [kept(grown, cached, length) for length in flags.waiting]
    notes = [
        f"{flags.requests} requests of {flags.prompt_tokens} + {flags.max_tokens} tokens in "
        f"process: {share:.1%} of the wall time is outside model passes",
        "own: an iteration without building, launching and awaiting passes; decoding iterations "
        "and those that admit from the queue",
        *(f"left out: {line}" for line in failures),
    ]
    about = {"outside_passes": share}
    title = "The engine thread's own time per iteration"
    return Report(title=title, rows=rows, notes=notes, raw=raw, plots=plots(rows), about=about)


def outside(turns: Sequence[TurnCost]) -> float:
    """Return which share of the turns was the engine's own."""
    return sum(turn.own for turn in turns) / sum(turn.seconds for turn in turns)


def row(turns: Sequence[TurnCost], cached: int, length: int) -> dict[str, Any]:
    """Return what turns with about ``length`` requests in the queue took."""
    near = _near(turns, length)
    steady = [t.own for t in near if not t.admitted]
    admitting = [t.own for t in near if t.admitted]
    return {
        "cached": cached,
        "waiting": length,
        "turns": len(near),
        "own_ms": milliseconds(middle(steady)),
        "own_p90_ms": milliseconds(percentile(steady, 0.9)),
        "admitting_ms": milliseconds(middle(admitting)),
        "turn_ms": milliseconds(middle(turn.seconds for turn in near)),
    }


def kept(turns: Sequence[TurnCost], cached: int, length: int) -> dict[str, Any]:
    """Return the spread of what ``row`` takes the middle of: milliseconds at every twentieth."""
    own = [turn.own for turn in _near(turns, length)]
    spread = (milliseconds(percentile(own, at / PARTS)) for at in range(PARTS + 1))
    return {"cached": cached, "waiting": length, "own_ms": [*spread]}


def plots(rows: Sequence[dict[str, Any]]) -> list[Plot]:
    """Return own time by the length of the queue, a line for each size of the cache."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for one in rows:
        if one["own_ms"] is not None:
            name = f"{one['cached']} blocks cached"
            lines.setdefault(name, []).append((one["waiting"], one["own_ms"]))
    title = "Own time of an iteration"
    made = Plot(name="overhead", title=title, x="waiting requests", y="own_ms", lines=lines)
    return [made] if lines else []


def _near(turns: Sequence[TurnCost], length: int) -> list[TurnCost]:
    """Return the turns with about ``length`` in the queue; the first takes all requests in."""
    return [t for t in turns[1:] if NEAR * length <= t.waiting <= length and t.decoding]
