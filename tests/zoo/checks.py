"""What must hold for every architecture: greedy tokens are mlx-lm's own, whatever else runs.

Each check takes a configuration's name, raises ``AssertionError`` where a token differs, and
returns how many tokens a cache or drafts saved, if it is about that, or else 0.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache

from mlxserve_hookspecs import Usage
from mlxserve_plugins.kv_quant import KvQuant, KvQuantOptions
from mlxserve_plugins.prefix_cache import PrefixCache
from mlxserve_plugins.sequence_cache import SequenceCache, SequenceCacheOptions

from ..engine.harness import Bench, bench, plain, prompt, request
from ..engine.speculating import Scripted, always, oracle
from .configurations import CONFIGURATIONS, tiny

TOKENS = 16
LONG = 90
LENGTHS = (40, 3, 60, 20, LONG, 130)
"""Of the prompts: in their replies one passes a window of 32 and one a budget of 64."""
BLOCK = 16


@cache
def expected(name: str, length: int) -> tuple[int, ...]:
    """Return mlx-lm's greedy reply to the prompt of ``length`` tokens."""
    return tuple(plain(tiny(name), prompt(length), TOKENS))


@cache
def trimmable(name: str) -> bool:
    """Return whether mlx-lm can cut what it holds of a long prompt."""
    model = tiny(name)
    caches = make_prompt_cache(model)
    mx.eval(model(mx.array([prompt(LONG)]), cache=caches))
    return bool(can_trim_prompt_cache(caches))


def alone(name: str) -> int:
    """One request."""
    it = _world(name)
    _ask(it, "alone", [LONG])
    return _same(it, name, "alone", [LONG])


def in_chunks(name: str) -> int:
    """A prompt that is prefilled 16 tokens at a time."""
    it = _world(name, chunk_alone=16, chunk_shared=16)
    _ask(it, "cut", [LONG])
    return _same(it, name, "cut", [LONG])


def together(name: str) -> int:
    """Six rows of different lengths that join at different steps and leave one by one."""
    it = _world(name)
    for length in LENGTHS:
        it.submit(request(f"joining {length}", prompt(length), TOKENS))
        it.step(2)
    it.run()
    assert len({expected(name, length) for length in LENGTHS}) == len(LENGTHS)
    return _same(it, name, "joining", LENGTHS)


def warm(name: str) -> int:
    """The same prompt again, and the conversation that goes on; returns what was not run again."""
    it = _world(name, PrefixCache(), SequenceCache(SequenceCacheOptions()))
    for turn in ("cold", "warm"):
        _ask(it, turn, [LONG])
        _same(it, name, turn, [LONG])
    assert _usage(it, f"cold {LONG}").cached_tokens == 0
    hit = _usage(it, f"warm {LONG}").cached_tokens
    history = [*prompt(LONG), *expected(name, LONG), *prompt(9, seed=1)]
    it.submit(request("next", history, TOKENS))
    it.run()
    assert it.replies.tokens("next") == plain(tiny(name), history, TOKENS)
    return hit + _usage(it, "next").cached_tokens


def in_8_bits(name: str) -> int:
    """Keys and values in 8 bits, where the codec takes them: in company as alone."""
    quant = KvQuant(KvQuantOptions(bits=8, attention="dequantize"))
    by_itself, it = _world(name, quant), _world(name, quant)
    for length in LENGTHS:
        _ask(by_itself, "row", [length])
    _ask(it, "row", LENGTHS)
    for length in LENGTHS:
        turn = f"row {length}"
        assert it.replies.tokens(turn) == by_itself.replies.tokens(turn), length
    return 0


def drafted(name: str) -> int:
    """Drafts of which every third token is wrong; returns how many were kept."""
    replies = {tuple(prompt(length)): expected(name, length) for length in LENGTHS}
    it = _world(name, always(), Scripted(oracle(replies, wrong=3)))
    _ask(it, "drafted", LENGTHS)
    _same(it, name, "drafted", LENGTHS)
    return sum(_usage(it, f"drafted {length}").accepted_draft_tokens for length in LENGTHS)


def preempted(name: str) -> int:
    """A row that loses its place once."""
    it = _world(name)
    for length in LENGTHS[2:]:
        it.submit(request(f"row {length}", prompt(length), TOKENS))
    scheduler = it.engine.scheduler
    for _ in range(TOKENS - 1):
        if len(scheduler.decoding) == len(LENGTHS[2:]):
            break
        it.step()
    scheduler.preempt(scheduler.decoding[1])
    it.run()
    assert scheduler.preemptions == 1
    return _same(it, name, "row", LENGTHS[2:])


def compiled(name: str) -> int:
    """Compiled passes."""
    it = _world(name, compiled=True)
    _ask(it, "compiled", LENGTHS)
    return _same(it, name, "compiled", LENGTHS)


CHECKS: dict[str, Callable[[str], int]] = {
    "alone": alone,
    "in chunks": in_chunks,
    "together": together,
    "warm": warm,
    "in 8 bits": in_8_bits,
    "drafted": drafted,
    "preempted": preempted,
    "compiled": compiled,
}

LEAST = {
    "warm": (LONG - 1) // BLOCK * BLOCK + (LONG + TOKENS - 1) // BLOCK * BLOCK,
    "drafted": len(LENGTHS) * TOKENS // 4,
}
"""What a check saves, at least, where it saves any or mlx-lm itself can cut what it holds."""


def _world(name: str, *plugins: object, **changes: Any) -> Bench:
    configuration = CONFIGURATIONS[name]
    if configuration.excused:  # then a cut prompt is another prompt to mlx-lm, too
        changes = {"chunk_alone": 2048, "chunk_shared": 2048} | changes
    return bench(tiny(name), *plugins, vocab=configuration.vocab, **changes)


def _ask(it: Bench, turn: str, lengths: Sequence[int]) -> None:
    for length in lengths:
        it.submit(request(f"{turn} {length}", prompt(length), TOKENS))
    it.run()


def _same(it: Bench, name: str, turn: str, lengths: Sequence[int]) -> int:
    for length in lengths:
        assert tuple(it.replies.tokens(f"{turn} {length}")) == expected(name, length), length
    return 0


def _usage(it: Bench, request_id: str) -> Usage:
    usage = it.replies.finish(request_id).usage
    assert isinstance(usage, Usage)
    return usage
