"""Load on a server: prompts that nobody has seen, and clients that each ask again when answered."""

import asyncio
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from attrs import define, field

from mlxserve_plugins.bench.client import Ask, Server
from mlxserve_plugins.bench.figures import Trace

VOCABULARY: Final = """
time year people way day man thing woman life child world school state family student group
country problem hand part place case week company system program question work government
number night point home water room mother area money story fact month lot right study book
eye job word business issue side kind head house service friend father power hour game line
end member law car city community name president team minute idea body information back
parent face others level office door health person art war history party result change
morning reason research girl guy moment air teacher force education
"""
WORDS: Final = tuple(VOCABULARY.split())
PROBE_WORDS: Final = 200


@define
class Prompts:
    """Makes texts of about so many tokens.

    Attributes:
        tokens_per_word: Of this model's tokenizer, on our words.
    """

    tokens_per_word: float = 1.0
    chance: random.Random = field(factory=random.Random)

    def text(self, tokens: int) -> str:
        """Return a text that no earlier one shares a beginning with."""
        count = max(1, round(tokens / self.tokens_per_word))
        return " ".join(self.chance.choices(WORDS, k=count))


async def prompts_for(server: Server, seed: int | None) -> Prompts:
    """Return a maker of texts, fitted to a server's tokenizer by asking it."""
    made = Prompts(chance=random.Random(seed))
    trace = await server.checked(Ask(prompt=made.text(PROBE_WORDS), max_tokens=1))
    if trace.prompt_tokens:
        made.tokens_per_word = trace.prompt_tokens / PROBE_WORDS
    return made


async def closed_loop(server: Server, asks: Iterable[Ask], clients: int) -> Sequence[Trace]:
    """Send requests, each client its next when its last is answered; return what they saw."""
    queue: Iterator[Ask] = iter(asks)
    found: list[Trace] = []

    async def client() -> None:
        for ask in queue:
            found.append(await server.stream(ask))

    await asyncio.gather(*(client() for _ in range(clients)))
    return found
