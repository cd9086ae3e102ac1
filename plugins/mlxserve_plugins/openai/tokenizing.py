"""Tokens of texts and conversations, and back."""

import asyncio

from msgspec import UNSET

from mlxserve_hookspecs import EngineClient
from mlxserve_plugins.openai.answers import DetokenizeAnswer, TokenizeAnswer
from mlxserve_plugins.openai.bodies import DetokenizeBody, TokenizeBody
from mlxserve_plugins.openai.logprobs import TokenNames
from mlxserve_plugins.openai.messages import tools_for_template
from mlxserve_plugins.openai.parameters import check_model, check_tokens, refusal
from mlxserve_plugins.openai.prompts import LONG_TEXT, continues, encode, render
from mlxserve_plugins.surface.notes import Notes


async def tokenize(
    body: TokenizeBody, engine: EngineClient, notes: Notes | None = None
) -> TokenizeAnswer:
    """Return the tokens of a text or of a conversation.

    Raises:
        RequestError: There is neither or both, or the template refuses the messages.
    """
    card, text = engine.card, engine.text
    check_model(body.model, card, notes)
    if (body.prompt is None) == (body.messages is None):
        raise refusal("prompt", "send either `prompt` or `messages`")
    if body.messages is None:
        special = body.add_special_tokens is not False
        tokens = await encode(text, body.prompt or "", special=special)
    else:
        tools, options = tools_for_template(body.tools), body.chat_template_kwargs
        reply, continued = body.add_generation_prompt is not False, continues(body)
        tokens = await render(text, body.messages, tools, options, reply=reply, continued=continued)
    names = TokenNames(text)
    return TokenizeAnswer(
        tokens=tokens,
        count=len(tokens),
        max_model_len=card.limits.max_model_len,
        token_strs=[names.of(token) for token in tokens] if body.return_token_strs else UNSET,
    )


async def detokenize(
    body: DetokenizeBody, engine: EngineClient, notes: Notes | None = None
) -> DetokenizeAnswer:
    """Return the text of tokens.

    Raises:
        RequestError: The model lacks one of them.
    """
    check_model(body.model, engine.card, notes)
    check_tokens(body.tokens, engine.card, "tokens")
    skip, text = bool(body.skip_special_tokens), engine.text
    if len(body.tokens) <= LONG_TEXT:
        return DetokenizeAnswer(text.decode(body.tokens, skip_special_tokens=skip))
    found = await asyncio.to_thread(text.decode, body.tokens, skip_special_tokens=skip)
    return DetokenizeAnswer(found)
