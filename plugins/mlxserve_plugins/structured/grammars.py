"""Grammars of one vocabulary: compiled once, copied for each reply."""

import re
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Final

from llguidance import LLMatcher, LLParserLimits

from mlxserve_hookspecs import Constraint, TextCodec
from mlxserve_plugins.structured.constraint import AfterThinking, Follows
from mlxserve_plugins.structured.demands import Demand, refusal
from mlxserve_plugins.structured.lazily import Lazily
from mlxserve_plugins.structured.vocabulary import tokenizer_of

KEPT: Final = 64
"""Compiled grammars that are kept; clients send the same few again and again."""

PLACE: Final = re.compile(r"^at \d+\(\d+\): ")


class Grammars:
    """Makes constraints; used on the engine thread.

    The vocabulary is prepared on a thread of its own from the start, and waited for when needed.
    """

    def __init__(self, text: TextCodec, vocab_size: int) -> None:
        self._text, self._size = text, vocab_size
        pool = ThreadPoolExecutor(1, thread_name_prefix="vocabulary")
        self._tokenizer = pool.submit(tokenizer_of, text, vocab_size)
        pool.shutdown(wait=False)
        self._limits = _limits()
        self._compiled = lru_cache(KEPT)(self._compile)

    def serves(self, text: TextCodec, vocab_size: int) -> bool:
        """Return whether this is the vocabulary of a model."""
        return self._text is text and self._size == vocab_size

    def constraint(self, demand: Demand) -> Constraint:
        """Return the constraint of one reply.

        Raises:
            RequestError: The grammar is not supported, or costs too much (status 400).
        """
        compiled = self._compiled(demand)
        if demand.trigger:
            return Lazily(
                compiled.deep_copy,
                self._text,
                self._size,
                demand.param,
                demand.trigger,
                demand.after,
                demand.single,
            )
        made = Follows(compiled.deep_copy(), self._size, demand.param)
        if not demand.after:
            return made
        return AfterThinking(made, self._text, self._size, demand.after.encode())

    def _compile(self, demand: Demand) -> LLMatcher:
        grammar = LLMatcher.grammar_from_lark(demand.grammar)
        matcher = LLMatcher(self._tokenizer.result(), grammar, log_level=0, limits=self._limits)
        if matcher.is_error():
            words = _reason(matcher.get_error())
            raise refusal(demand.param, f"`{demand.param}` cannot be followed: {words}")
        return matcher


def _reason(error: str) -> str:
    """Return what is wrong: an error goes on with the grammar, and begins with a place in it."""
    first = (error.splitlines() or ["unknown"])[0]
    return PLACE.sub("", first).removeprefix("failed to compile JSON schema: ")[:400]


def _limits() -> LLParserLimits:
    """Return what a grammar may cost: by the library's figures 20 ms at first, 17 ms a step."""
    return LLParserLimits(
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=200_000,
        step_max_items=50_000,
        max_lexer_states=50_000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )
