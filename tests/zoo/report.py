"""Print how every architecture of mlx-lm is served, as a Markdown table.

``python -m tests.zoo.report`` from the root of the project checks all of them, which takes
some minutes; with names (``... report qwen3 gemma2``) only those.
"""

import logging
import sys
from collections.abc import Iterator
from typing import Any

import structlog
from attrs import frozen
from mlx_lm.models.cache import (
    ArraysCache,
    ChunkedKVCache,
    KVCache,
    RotatingKVCache,
    make_prompt_cache,
)

from mlxserve.batch.plan import KvPlan, plan_kv
from mlxserve.batch.solo import SoloStore
from mlxserve.engine.build import codec_maker, pool_limits
from mlxserve.loading import register
from mlxserve_plugins.kv_quant import KvQuant, KvQuantOptions

from ..engine.harness import capacity
from .checks import CHECKS
from .configurations import CONFIGURATIONS, UNBUILT, tiny

KINDS = {
    KVCache: "full",
    RotatingKVCache: "window",
    ChunkedKVCache: "chunks",
    ArraysCache: "recurrent",
}
HEADER = """\
| architecture | layout | served | prefix reuse | drafts | 8 bit | exact |
|---|---|---|---|---|---|---|"""
INTRODUCTION = """\
# Architectures

Every text model of mlx-lm 0.32.2, built tiny in float32 with random weights, and its greedy
tokens compared with those of mlx-lm's `generate_step`: alone, in small chunks, six rows of
different lengths joining and leaving past windows and budgets, with a warm prefix cache, with
keys and values in 8 bits (in company as alone), with drafts of which every third token is wrong,
preempted, and compiled. Made by `python -m tests.zoo.report`; `pytest -m zoo` checks the same.
"""


@frozen
class Row:
    """One line of the table."""

    name: str
    layout: str
    served: str
    reuse: bool
    drafts: bool
    codec: str
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        """Return the line."""
        exact = f"no: {', '.join(self.wrong)}" if self.wrong else "yes"
        if not self.wrong and CONFIGURATIONS[self.name].excused:
            exact = "yes, see below"
        cells = (
            f"`{self.name}`",
            self.layout,
            self.served,
            _yes(self.reuse),
            _yes(self.drafts),
            self.codec,
            exact,
        )
        return f"| {' | '.join(cells)} |"


def served(plan: KvPlan) -> tuple[str, str]:
    """Read off a plan how passes run, and which attention layers are held in 8 bits."""
    if isinstance(plan.store, SoloStore):
        how = "alone, in mlx-lm's own caches"
    else:
        how = plan.how.removesuffix(", eager").removesuffix(", in place")
    plain = [name for name in plan.codecs if name == "plain"]
    if not plan.codecs or len(plain) == len(plan.codecs):
        return how, "no"
    return how, "some layers" if plain else "yes"


def layout(model: Any) -> str:
    """Name what the layers keep, in the order of the field's terms."""
    caches = [part for cache in make_prompt_cache(model) for part in _parts(cache)]
    if any(type(cache) not in KINDS for cache in caches):
        return "own caches"
    kinds = {KINDS[type(cache)] for cache in caches}
    if any(name.endswith("embed_q") for name, _ in model.named_modules()):
        kinds = (kinds - {"full"}) | {"MLA"}
    ordered = [k for k in ("recurrent", "full", "MLA", "window", "chunks") if k in kinds]
    hybrid = "recurrent" in kinds and len(kinds) > 1
    return f"{'hybrid: ' if hybrid else ''}{' + '.join(ordered)}"


def examine(name: str) -> Row:
    """Run every check that is not excused."""
    model = tiny(name)
    quant = KvQuant(KvQuantOptions(bits=8, attention="dequantize"))
    maker = codec_maker(register({"kv-quant": quant}))
    plan = plan_kv(model, maker, pool_limits(capacity()), compiled=False)
    saved, wrong = dict.fromkeys(CHECKS, 0), []
    for check, run in CHECKS.items():
        if check in CONFIGURATIONS[name].excused:
            continue
        try:
            saved[check] = run(name)
        except Exception as error:  # a model's code may raise anything: the table says where
            wrong.append(check)
            sys.stderr.write(f"{name}, {check}: {type(error).__name__}: {error}"[:200] + "\n")
    how, codec = served(plan)
    return Row(name, layout(model), how, saved["warm"] > 0, saved["drafted"] > 0, codec, (*wrong,))


def table(names: list[str]) -> Iterator[str]:
    """Yield the document, line by line, as its figures are known."""
    yield INTRODUCTION
    yield HEADER
    rows = []
    for name in names:
        rows.append(row := examine(name))
        yield str(row)
        tiny.cache_clear()
    yield f"\n{_summary(rows)}\n"
    yield "What mlx-lm itself does not keep, so that there is nothing to be equal to:\n"
    for name in names:
        excused = CONFIGURATIONS[name].excused
        for reason in dict.fromkeys(excused.values()):
            checks = [check for check, why in excused.items() if why == reason]
            yield f"- `{name}` ({', '.join(checks)}): {reason}."
    yield "\nNot checked:\n"
    yield from (f"- `{name}`: {reason}." for name, reason in UNBUILT.items())


def _summary(rows: list[Row]) -> str:
    alone = {CONFIGURATIONS[r.name].module for r in rows if r.served.startswith("alone")}
    modules = {CONFIGURATIONS[r.name].module for r in rows}
    exact = sum(not r.wrong for r in rows)
    return (
        f"{len(rows)} configurations of {len(modules)} modules: {exact} exact; "
        f"{len(modules - alone)} modules batched in every configuration."
    )


def _parts(cache: Any) -> Iterator[Any]:
    if hasattr(cache, "caches"):
        for part in cache.caches:
            yield from _parts(part)
    else:
        yield cache


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def main() -> None:
    """Print the table, line by line, and nothing that the engine has to say meanwhile."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    for line in table(sys.argv[1:] or list(CONFIGURATIONS)):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
