"""From a body to what the engine is asked."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from attrs import frozen

from mlxserve_hookspecs import (
    EngineClient,
    GenerationRequest,
    Limits,
    ModelCard,
    RequestError,
    SamplingParams,
    StopConditions,
    TextCodec,
)
from mlxserve_plugins.anthropic.bodies import MessagesBody, PromptBody
from mlxserve_plugins.anthropic.conversation import Conversation, conversation_of, folded
from mlxserve_plugins.anthropic.errors import too_long
from mlxserve_plugins.anthropic.thinking import is_omitted, orders_in, wishes_in
from mlxserve_plugins.anthropic.tools import constraint_of, functions_of, is_one_call
from mlxserve_plugins.openai.parameters import INT64, check_model, check_prompt
from mlxserve_plugins.surface.chats import stops_in_answers, template_options
from mlxserve_plugins.surface.limits import reply_tokens, room_after
from mlxserve_plugins.surface.notes import Notes
from mlxserve_plugins.surface.parting import parting_of

TEMPLATE_REFUSED = "chat_template_error"

Functions: TypeAlias = list[dict[str, Any]] | None


@frozen
class Prompt:
    """A conversation, ready for a reply.

    Attributes:
        tokens: Its tokens.
        functions: The tools in it.
        continued: Whether the reply goes on with its last message.
        parting: Where other conversations part from it.
    """

    tokens: list[int]
    functions: Functions
    continued: bool
    parting: tuple[int, ...] = ()


@frozen(kw_only=True)
class Rules:
    """What this server does with every request.

    Attributes:
        omit: Beginnings of lines of the system text that are left out of prompts.
    """

    omit: Sequence[str] = ()


@frozen(kw_only=True)
class Job:
    """A request for a message, ready to run.

    Attributes:
        card: The model.
        text: Its tokenizer.
        request: What the engine is asked.
        stream: Whether events are sent as they come.
        tools: What the template was told of tools, for the parser.
        reasoning: Whether the reply begins within the model's thinking.
        omit_thinking: Whether the client wants the thinking's signature only.
        one_call: Whether the client takes one call at most.
        fills_window: Whether a reply of full length ends where the model's context does.
    """

    card: ModelCard
    text: TextCodec
    request: GenerationRequest
    stream: bool
    tools: Sequence[Mapping[str, Any]] | None
    reasoning: bool
    omit_thinking: bool
    one_call: bool
    fills_window: bool


async def message_job(
    body: MessagesBody, engine: EngineClient, rules: Rules, tenant: str, notes: Notes
) -> Job:
    """Return the job of a request for a message.

    Raises:
        RequestError: It cannot be done; the field is named.
    """
    card, text = engine.card, engine.text
    prompt = await prompt_of(body, engine, rules, notes)
    size, limits = len(prompt.tokens), card.limits
    thinks = text.opens_thinking(prompt.tokens)
    # A parser finds its markers in the text only, and some models have special tokens for them.
    skips = not text.markup.special
    check_prompt_length(size, limits)
    most = reply_tokens(
        body.max_tokens, limits, size, name="max_tokens", where="messages", notes=notes
    )
    stop = StopConditions(max_tokens=most, strings=tuple(dict.fromkeys(body.stop_sequences or ())))
    has_tools = bool(prompt.functions)
    request = GenerationRequest(
        id=f"msg_{uuid.uuid4().hex}",
        prompt=tuple(prompt.tokens),
        sampling=sampling_of(body),
        stop=stops_in_answers(
            stop, text.markup, thinks=thinks, tools=has_tools, skips_special=skips
        ),
        priority=body.priority or 0,
        cache_salt=body.cache_salt or "",
        constraint=constraint_of(body, prompt.functions, orders_in(body, text.markup)),
        tenant=tenant,
        request_timeout=limits.request_timeout,
        first_token_timeout=limits.first_token_timeout,
        skip_special_tokens=skips,
        continues=prompt.continued,
        parting=prompt.parting,
    )
    return Job(
        card=card,
        text=text,
        request=request,
        stream=bool(body.stream),
        tools=prompt.functions,
        reasoning=thinks,
        omit_thinking=is_omitted(body.thinking),
        one_call=is_one_call(body),
        fills_window=_fills_window(body.max_tokens, most, size, limits),
    )


async def prompt_of(body: PromptBody, engine: EngineClient, rules: Rules, notes: Notes) -> Prompt:
    """Return a body's conversation as tokens.

    Raises:
        RequestError: The model is not served, or the conversation cannot be rendered.
    """
    check_model(body.model, engine.card, notes)
    functions = functions_of(body)
    conversation = conversation_of(body, rules.omit)
    orders = orders_in(body, engine.text.markup)
    options = template_options(wishes_in(body), orders, body.chat_template_kwargs)
    tokens = await asyncio.to_thread(render, engine.text, conversation, functions, options)
    parts: tuple[int, ...] = ()
    if not conversation.continued:
        parts = await parting_of(
            engine.card, engine.text, tokens, conversation.messages, functions, options
        )
    return Prompt(tokens, functions, conversation.continued, parts)


def render(
    text: TextCodec,
    conversation: Conversation,
    functions: Functions,
    options: Mapping[str, Any],
) -> list[int]:
    """Return a conversation's tokens; takes its time.

    Raises:
        RequestError: The template refuses it.
    """
    messages = conversation.messages

    def rendered(messages: list[dict[str, Any]]) -> list[int]:
        return text.render_chat(
            messages,
            tools=functions,
            add_generation_prompt=not conversation.continued,
            continue_final_message=conversation.continued,
            template_kwargs=options or None,
        )

    try:
        return rendered(messages)
    except RequestError as error:
        simpler = folded(messages)
        if error.code != TEMPLATE_REFUSED or simpler == messages:
            raise
        return rendered(simpler)


def check_prompt_length(tokens: int, limits: Limits) -> None:
    """Return if a prompt is neither empty nor too long.

    Raises:
        RequestError: It is (status 400).
    """
    wholes = [whole - 1 for whole in (limits.max_model_len, limits.max_kv_tokens) if whole]
    most = min(limits.max_prompt_tokens, *wholes) if wholes else limits.max_prompt_tokens
    if tokens > most:
        raise too_long(tokens, most)
    check_prompt(tokens, limits, "messages")


def sampling_of(body: MessagesBody) -> SamplingParams:
    """Return how tokens are drawn; a ``top_p`` of 0 is the most probable token, as near as can be.

    Such a ``top_p`` is allowed by this API and means what greedy means.
    """
    greedy = body.temperature == 0 or body.top_p == 0
    return SamplingParams(
        temperature=0.0 if greedy else 1.0 if body.temperature is None else body.temperature,
        top_p=body.top_p or 1.0,
        top_k=body.top_k or 0,
        seed=_seed(body.seed),
    )


def _fills_window(asked: int | None, most: int, prompt: int, limits: Limits) -> bool:
    """Return whether a reply of ``most`` tokens ends where there is no more room, unasked."""
    room = room_after(prompt, limits)
    unasked = asked is None or asked > most
    return unasked and room.whole is not None and room.tokens == most


def _seed(seed: int | None) -> int | None:
    """Return any integer as one of 64 bits."""
    return seed if seed is None or -INT64 <= seed < INT64 else seed % INT64
