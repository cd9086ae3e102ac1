"""From what a client sends to the tokens of texts, within what may be asked at once."""

import asyncio
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, TypeAlias, TypeVar

from mlxserve_hookspecs import (
    GenerationRequest,
    ModelCard,
    Pooling,
    SamplingParams,
    StopConditions,
    TextCodec,
)
from mlxserve_plugins.openai.parameters import check_tokens, refusal
from mlxserve_plugins.openai.prompts import LONG_TEXT
from mlxserve_plugins.surface.limits import TOO_LONG

MOST_TEXTS: Final = 2048
MOST_TOKENS: Final = 300_000
"""Of one request: OpenAI's own limits."""

Text: TypeAlias = str | list[int]
T = TypeVar("T")


def split_texts(given: str | Sequence[str | int | list[int]], field: str) -> list[Text]:
    """Return the texts of a request, each as text or as token ids.

    Raises:
        RequestError: Kinds are mixed, a text is empty, or there are too many (status 400).
    """
    if isinstance(given, str):
        texts: list[Text] = [given]
    elif all(isinstance(one, int) for one in given):
        texts = [[one for one in given if isinstance(one, int)]]
    else:
        texts = [one for one in given if not isinstance(one, int)]
        if len(texts) < len(given) or len({type(one) for one in texts}) > 1:
            message = f"`{field}` mixes kinds: send texts, or token ids, or lists of them"
            raise refusal(field, message)
    if len(texts) > MOST_TEXTS:
        message = f"`{field}` has {len(texts)} texts: at most {MOST_TEXTS} go in one request"
        raise refusal(field, message)
    for at, text in enumerate(texts):
        if not text:
            where = name_of(field, at, len(texts))
            raise refusal(where, f"`{where}` is empty: there is nothing to embed")
    return texts


async def tokens_of(
    text: TextCodec, texts: Sequence[Text], card: ModelCard, field: str, *, special: bool = True
) -> list[list[int]]:
    """Return the tokens of texts; many are tokenised off the event loop.

    Raises:
        RequestError: A token is unknown to the model (status 400).
    """

    def work() -> list[list[int]]:
        found = []
        for at, one in enumerate(texts):
            if isinstance(one, list):
                check_tokens(one, card, name_of(field, at, len(texts)))
            tokens = text.encode(one, add_special_tokens=special) if isinstance(one, str) else one
            found.append(tokens)
        return found

    return await off_the_loop(work, texts)


async def off_the_loop(work: Callable[[], T], texts: Iterable[Text]) -> T:
    """Return what ``work`` returns, in a thread of its own if the texts are long."""
    return await asyncio.to_thread(work) if sum(map(len, texts)) > LONG_TEXT else work()


def longest(card: ModelCard) -> int:
    """Return the most tokens of one text."""
    limits = card.limits
    bounds = (limits.max_prompt_tokens, limits.max_model_len, limits.max_kv_tokens)
    return min(bound for bound in bounds if bound is not None)


def check_lengths(tokens: Sequence[Sequence[int]], card: ModelCard, field: str) -> None:
    """Return if each text, and all of them, are within the limits.

    Raises:
        RequestError: One is empty or too long, or they are too many (status 400).
    """
    most = longest(card)
    for at, one in enumerate(tokens):
        where = name_of(field, at, len(tokens))
        if not one:
            raise refusal(where, f"`{where}` has no tokens")
        if len(one) > most:
            message = f"`{where}` has {len(one)} tokens: a text has at most {most} here"
            raise refusal(where, message, TOO_LONG)
    if (total := sum(map(len, tokens))) > MOST_TOKENS:
        message = f"`{field}` has {total} tokens: at most {MOST_TOKENS} go in one request"
        raise refusal(field, message, TOO_LONG)


def pooling_request(
    tokens: Sequence[Sequence[int]],
    kind: Literal["mean", "last"],
    card: ModelCard,
    tenant: str,
    logits: Sequence[int] = (),
) -> GenerationRequest:
    """Return what the engine is asked for the vectors of texts."""
    return GenerationRequest(
        id=f"embd-{uuid.uuid4().hex}",
        prompt=tuple(token for one in tokens for token in one),
        sampling=SamplingParams(temperature=0.0),
        stop=StopConditions(max_tokens=0),
        tenant=tenant,
        request_timeout=card.limits.request_timeout,
        pooling=Pooling(lengths=tuple(len(one) for one in tokens), kind=kind, logits=tuple(logits)),
    )


def name_of(field: str, at: int, count: int) -> str:
    """Return what text number ``at`` is called."""
    return field if count == 1 else f"{field}[{at}]"
