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
"""Compiled grammars that are kept, the last used; clients send the same few again and again."""

PLACE: Final = re.compile(r"^at \d+\(\d+\): ")


class Grammars:
    """Makes constraints, on the one thread that is there for it.

    The vocabulary is prepared on a thread of its own from the start, and waited for when needed.
    The library compiles without holding Python's lock, so that the engine goes on meanwhile.
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
        if demand.heads or (demand.trigger and not demand.call):
            return self._lazily(demand)
        made = Follows(self._matcher(demand.grammar, demand.param), self._size, demand.param)
        if not demand.after:
            return made
        ways = {demand.after.encode(): made}
        if demand.call:
            call = self._matcher(demand.call, "tools")
            call.consume_tokens(self._text.encode(demand.trigger, add_special_tokens=False))
            ways[demand.trigger.encode()] = Follows(call, self._size, "tools")
        return AfterThinking(ways, self._text, self._size)

    def _lazily(self, demand: Demand) -> Lazily:
        marked = self._compiled(demand.grammar, demand.param) if demand.trigger else None
        bare = self._compiled(demand.bare, demand.param) if demand.heads else None
        return Lazily(
            marked.deep_copy if marked else None,
            self._text,
            self._size,
            demand.param,
            demand.trigger,
            demand.after,
            demand.heads,
            bare.deep_copy if bare else None,
        )

    def _matcher(self, grammar: str, param: str) -> LLMatcher:
        return self._compiled(grammar, param).deep_copy()

    def _compile(self, grammar: str, param: str) -> LLMatcher:
        lark = LLMatcher.grammar_from_lark(grammar)
        matcher = LLMatcher(self._tokenizer.result(), lark, log_level=0, limits=self._limits)
        if matcher.is_error():
            words = _reason(matcher.get_error())
            raise refusal(param, f"`{param}` cannot be followed: {words}")
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
