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
from mlxserve_plugins.anthropic.thinking import is_omitted, template_options
from mlxserve_plugins.anthropic.tools import constraint_of, functions_of, is_one_call
from mlxserve_plugins.openai.parameters import check_model, check_prompt

TEMPLATE_REFUSED = "chat_template_error"

Functions: TypeAlias = list[dict[str, Any]] | None


@frozen(kw_only=True)
class Rules:
    """What this server does with every request.

    Attributes:
        omit: Beginnings of lines of the system text that are left out of prompts.
        any_model: Whether every model's name means the model that is served.
    """

    omit: Sequence[str] = ()
    any_model: bool = False


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


async def message_job(body: MessagesBody, engine: EngineClient, rules: Rules, tenant: str) -> Job:
    """Return the job of a request for a message.

    Raises:
        RequestError: It cannot be done; the field is named.
    """
    card, text = engine.card, engine.text
    prompt, functions = await prompt_of(body, engine, rules)
    limits = card.limits
    check_prompt_length(len(prompt), limits)
    most, fills_window = most_tokens(body.max_tokens, limits, len(prompt))
    request = GenerationRequest(
        id=f"msg_{uuid.uuid4().hex}",
        prompt=tuple(prompt),
        sampling=sampling_of(body),
        stop=StopConditions(
            max_tokens=most, strings=tuple(dict.fromkeys(body.stop_sequences or ()))
        ),
        priority=body.priority or 0,
        cache_salt=body.cache_salt or "",
        constraint=constraint_of(body, functions),
        tenant=tenant,
        request_timeout=limits.request_timeout,
        first_token_timeout=limits.first_token_timeout,
        # A parser finds its markers in the text only, and some models have special tokens for them.
        skip_special_tokens=not text.markup.special,
    )
    return Job(
        card=card,
        text=text,
        request=request,
        stream=bool(body.stream),
        tools=functions,
        reasoning=text.opens_thinking(prompt),
        omit_thinking=is_omitted(body.thinking),
        one_call=is_one_call(body),
        fills_window=fills_window,
    )


async def prompt_of(
    body: PromptBody, engine: EngineClient, rules: Rules
) -> tuple[list[int], Functions]:
    """Return the tokens of a body's conversation, and the tools in them.

    Raises:
        RequestError: The model is not served, or the conversation cannot be rendered.
    """
    if not rules.any_model:
        check_model(body.model, engine.card)
    functions = functions_of(body)
    conversation = conversation_of(body, rules.omit)
    options = template_options(body.thinking, body.output_config, body.chat_template_kwargs)
    prompt = await asyncio.to_thread(render, engine.text, conversation, functions, options)
    return prompt, functions


def render(
    text: TextCodec,
    conversation: Conversation,
    functions: Functions,
    options: Mapping[str, Any],
) -> list[int]:
    """Return a conversation's tokens, with what the reply begins with; takes its time.

    Raises:
        RequestError: The template refuses it.
    """
    messages = conversation.messages

    def rendered(messages: list[dict[str, Any]]) -> list[int]:
        return text.render_chat(messages, tools=functions, template_kwargs=options or None)

    try:
        prompt = rendered(messages)
    except RequestError as error:
        simpler = folded(messages)
        if error.code != TEMPLATE_REFUSED or simpler == messages:
            raise
        prompt = rendered(simpler)
    return prompt + _opening(text, conversation.opening, prompt)


def check_prompt_length(tokens: int, limits: Limits) -> None:
    """Return if a prompt is neither empty nor too long.

    Raises:
        RequestError: It is (status 400).
    """
    most = limits.max_prompt_tokens
    if limits.max_model_len is not None:
        most = min(most, limits.max_model_len - 1)
    if tokens > most:
        raise too_long(tokens, most)
    check_prompt(tokens, limits, "messages")


def most_tokens(asked: int | None, limits: Limits, prompt: int) -> tuple[int, bool]:
    """Return the most tokens to generate, and whether the model's context sets that limit.

    Clients of this API ask for as much as the models of its maker can say: more than is to be had
    means all that is to be had.
    """
    wanted = limits.default_max_tokens if asked is None else asked
    most = min(wanted, limits.max_generation_tokens)
    if limits.max_model_len is None or limits.max_model_len - prompt >= most:
        return most, False
    return limits.max_model_len - prompt, True


def sampling_of(body: MessagesBody) -> SamplingParams:
    """Return how tokens are drawn; a ``top_p`` of 0 is the most probable token, as near as can be.

    Such a ``top_p`` is allowed by this API and means what greedy means.
    """
    greedy = body.temperature == 0 or body.top_p == 0
    return SamplingParams(
        temperature=0.0 if greedy else 1.0 if body.temperature is None else body.temperature,
        top_p=body.top_p or 1.0,
        top_k=body.top_k or 0,
        seed=body.seed,
    )


def _opening(text: TextCodec, opening: str, prompt: Sequence[int]) -> list[int]:
    """Return the tokens of what a reply begins with: after the thinking, if the prompt opens it."""
    if not opening:
        return []
    if text.opens_thinking(prompt):
        opening = f"{text.markup.think_end}\n\n{opening}"
    return text.encode(opening, add_special_tokens=False)
