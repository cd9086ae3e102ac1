"""``bench prefix``: what the prefix cache saves until the first token."""

from collections.abc import Sequence

from attrs import frozen

from mlxserve_plugins.bench.client import Ask, Server, connect
from mlxserve_plugins.bench.figures import Trace, middle, milliseconds, ratio
from mlxserve_plugins.bench.flags import Target, count, flag
from mlxserve_plugins.bench.load import Prompts, prompts_for
from mlxserve_plugins.bench.report import Report, tell

REPLY_TOKENS = 4
QUESTION_TOKENS = 12


@frozen(kw_only=True)
class PrefixFlags(Target):
    """What ``bench prefix`` can be told."""

    prefix_tokens: int = flag(2000, "tokens that requests share, about", count)
    repeats: int = flag(3, "prefixes; the figures are medians over them", count)


async def prefix(flags: PrefixFlags) -> Report:
    """Send each prefix twice with different ends."""
    async with connect(flags.url, flags) as server:
        prompts = await prompts_for(server, flags.seed)
        await ask_after(server, prompts, prompts.text(QUESTION_TOKENS))
        cold, warm = [], []
        for number in range(flags.repeats):
            text = prompts.text(flags.prefix_tokens)
            cold.append(await ask_after(server, prompts, text))
            warm.append(await ask_after(server, prompts, text))
            tell(f"prefix {number + 1}: {told(cold[-1])} cold, {told(warm[-1])} warm")
    title = f"TTFT after a prefix of about {flags.prefix_tokens} tokens, alone"
    return Report(title=title, rows=ttft_rows({"cold": cold, "RAM-warm": warm}))


async def ask_after(server: Server, prompts: Prompts, prefix: str) -> Trace:
    """Ask something new after a prefix."""
    text = f"{prefix} {prompts.text(QUESTION_TOKENS)}"
    return await server.checked(Ask(prompt=text, max_tokens=REPLY_TOKENS))


def ttft_rows(found: dict[str, Sequence[Trace]]) -> list[dict[str, object]]:
    """Return a row of medians per state of the cache; the first is what the others save from."""
    base = middle(trace.ttft for trace in next(iter(found.values())))
    rows: list[dict[str, object]] = []
    for state, traces in found.items():
        ttft = middle(trace.ttft for trace in traces)
        rows.append(
            {
                "state": state,
                "ttft_ms": milliseconds(ttft),
                "of_cold": ratio(ttft, base),
                "prompt_tokens": middle(trace.prompt_tokens for trace in traces),
                "cached_tokens": middle(trace.cached_tokens for trace in traces),
                "n": len(traces),
            }
        )
    return rows


def told(trace: Trace) -> str:
    """Return a TTFT in words."""
    return f"{milliseconds(trace.ttft) or 0.0:.0f} ms"
