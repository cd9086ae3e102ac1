"""From what a client wants continued, messages or texts, to a prompt's tokens."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from mlxserve_hookspecs import ModelCard, TextCodec
from mlxserve_plugins.openai.bodies import MOST_PROMPTS, ChatBody, TokenizeBody
from mlxserve_plugins.openai.messages import AnyMessage, asks_to_be_continued, for_template
from mlxserve_plugins.openai.parameters import check_prompt, check_tokens, refusal

LONG_TEXT = 4096
"""Characters above which a text is tokenised off the event loop."""


def continues(body: ChatBody | TokenizeBody) -> bool:
    """Return whether the last message is to be gone on with.

    Raises:
        RequestError: A new one is to be begun as well (status 400).
    """
    asked = body.continue_final_message
    if asked and body.add_generation_prompt:
        message = "`continue_final_message` and `add_generation_prompt` exclude each other"
        raise refusal("continue_final_message", message)
    return asks_to_be_continued(body.messages or ()) if asked is None else asked


def thinking_wishes(body: ChatBody) -> Mapping[str, Any]:
    """Return what is wished of the thinking, in the words that most chat templates know."""
    found: dict[str, Any] = {}
    if body.reasoning_effort is not None:
        found["reasoning_effort"] = body.reasoning_effort
    if body.reasoning_effort == "none":
        found = {"enable_thinking": False}
    if body.enable_thinking is not None:
        found["enable_thinking"] = body.enable_thinking
    return found


async def render(
    text: TextCodec,
    messages: Sequence[AnyMessage],
    tools: Sequence[Mapping[str, Any]] | None,
    options: Mapping[str, Any] | None,
    *,
    reply: bool = True,
    continued: bool = False,
) -> list[int]:
    """Return the tokens of a conversation, rendered off the event loop.

    Args:
        text: The tokenizer.
        messages: The conversation.
        tools: As the template knows them.
        options: What else the template is told.
        reply: Whether a reply begins.
        continued: Whether the last message is left open instead.

    Raises:
        RequestError: The template refuses it.
    """
    plain = for_template(messages)
    how: dict[str, Any] = {"continue_final_message": True} if continued else {}
    return await asyncio.to_thread(
        text.render_chat,
        plain,
        tools=tools,
        add_generation_prompt=reply and not continued,
        template_kwargs=options or None,
        **how,
    )


async def encode(text: TextCodec, prompt: str, *, special: bool = True) -> list[int]:
    """Return the tokens of ``prompt``; a long one is tokenised off the event loop."""
    if len(prompt) <= LONG_TEXT:
        return text.encode(prompt, add_special_tokens=special)
    return await asyncio.to_thread(text.encode, prompt, add_special_tokens=special)


def split_prompts(prompt: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """Return the prompts of a completion request: texts, or lists of token ids.

    Raises:
        RequestError: Kinds are mixed, or there are too many.
    """
    if isinstance(prompt, str):
        return [prompt]
    numbers = [item for item in prompt if isinstance(item, int)]
    if len(numbers) == len(prompt):
        return [numbers]
    texts: list[str | list[int]] = [item for item in prompt if isinstance(item, str)]
    lists: list[str | list[int]] = [item for item in prompt if isinstance(item, list)]
    if len(prompt) not in (len(texts), len(lists)):
        raise refusal("prompt", "`prompt` mixes kinds: send texts, or token ids, or lists of them")
    if len(prompt) > MOST_PROMPTS:
        message = f"`prompt` has {len(prompt)} prompts: at most {MOST_PROMPTS} go in one request"
        raise refusal("prompt", message)
    return texts or lists


async def tokenised(
    text: TextCodec, prompts: Sequence[str | list[int]], card: ModelCard, special: bool
) -> list[list[int]]:
    """Return the tokens of a completion request's prompts; long ones off the event loop.

    Raises:
        RequestError: A prompt is empty, or has a token that the model lacks (status 400).
    """

    def work() -> list[list[int]]:
        return [
            _tokens(text, one, card, prompt_field(at, prompts), special)
            for at, one in enumerate(prompts)
        ]

    is_long = sum(map(len, prompts)) > LONG_TEXT
    return await asyncio.to_thread(work) if is_long else work()


def _tokens(
    text: TextCodec, prompt: str | list[int], card: ModelCard, where: str, special: bool
) -> list[int]:
    if prompt == "":
        check_prompt(0, card.limits, where)
    if isinstance(prompt, str):
        return text.encode(prompt, add_special_tokens=special)
    check_tokens(prompt, card, where)
    return prompt


def prompt_field(at: int, prompts: Sequence[str | list[int]]) -> str:
    """Return what the field of prompt number ``at`` is called."""
    return "prompt" if len(prompts) == 1 else f"prompt[{at}]"


def echoes(text: TextCodec, prompts: Sequence[str | list[int]]) -> tuple[str, ...]:
    """Return the prompts' texts."""
    return tuple(prompt if isinstance(prompt, str) else text.decode(prompt) for prompt in prompts)
