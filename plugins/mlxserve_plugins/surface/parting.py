"""Where other conversations part from this one: after what their agent is told, before its reply.

A recurrent layer's state cannot be rewound: a prompt goes on only where it was kept. Agents of one
kind begin with the same system text and tools; and the next turn of a conversation has the history
of this one, but seldom the words with which a template opens a reply (an empty thinking, say).
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlxserve_hookspecs import ModelCard, RequestError, TextCodec

ANYBODY: Final = {"role": "user", "content": "?"}
INSTRUCTIONS: Final = ("system", "developer")


async def parting_of(
    card: ModelCard,
    text: TextCodec,
    prompt: Sequence[int],
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    options: Mapping[str, Any] | None,
) -> tuple[int, ...]:
    """Return ``parting`` of a model that needs it, found off the event loop."""
    if not card.recurrent:
        return ()
    return await asyncio.to_thread(parting, text, prompt, messages, tools, options)


def parting(
    text: TextCodec,
    prompt: Sequence[int],
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    options: Mapping[str, Any] | None,
) -> tuple[int, ...]:
    """Return lengths of a prompt, in tokens, for ``GenerationRequest.parting``; takes its time.

    Args:
        text: The tokenizer.
        prompt: The conversation's tokens; a reply begins after them.
        messages: The conversation.
        tools: As the template knows them.
        options: What else the template is told.
    """
    first = next((n for n, one in enumerate(messages) if one["role"] not in INSTRUCTIONS), 0)
    how: dict[str, Any] = {"template_kwargs": options or None}
    try:
        opening = text.render_chat([*messages[:first], ANYBODY], tools=tools, **how)
        asked = text.render_chat([ANYBODY], add_generation_prompt=False, **how)
        replied = text.render_chat([ANYBODY], **how)
    except RequestError:  # the template wants more of a conversation than this
        return ()
    before = len(prompt) - (len(replied) - common(asked, replied))
    return tuple(sorted({common(opening, prompt), before} - {0}))


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two prompts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (mine, theirs) in pairs if mine != theirs), min(len(one), len(other)))
