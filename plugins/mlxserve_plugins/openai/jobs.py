"""From a body to what the engine is asked: one request per prompt."""

import hashlib
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from attrs import evolve, field, frozen

from mlxserve_hookspecs import (
    EngineClient,
    GenerationRequest,
    ModelCard,
    RequestError,
    TextCodec,
)
from mlxserve_plugins.openai.bodies import (
    ChatBody,
    CompletionBody,
    GenerationBody,
)
from mlxserve_plugins.openai.messages import (
    NamedTool,
    Tool,
    for_template,
    plain_text,
    tools_for_template,
)
from mlxserve_plugins.openai.parameters import (
    check_model,
    refusal,
    sampling_of,
    stop_of,
)
from mlxserve_plugins.openai.prompts import (
    LONG_TEXT,
    continues,
    echoes,
    encode,
    prompt_field,
    render,
    split_prompts,
    thinking_wishes,
    tokenised,
)
from mlxserve_plugins.structured.fields import FIELDS, chat_constraint, constraint_of
from mlxserve_plugins.surface.chats import stops_in_answers, template_options
from mlxserve_plugins.surface.notes import Notes
from mlxserve_plugins.surface.parting import parting_of
from mlxserve_plugins.tools.thinking import ThinkingOrders, orders_of

__all__ = ["LONG_TEXT", "Job", "chat_job", "completion_job", "encode", "render", "split_prompts"]


@frozen(kw_only=True)
class Job:
    """A request to the API, ready to run.

    Attributes:
        id: What the client knows it by.
        created: Unix time.
        card: The model.
        text: Its tokenizer.
        requests: One per prompt.
        choices: How many replies per prompt the client wants; the engine may make more.
        stream: Whether chunks are sent as they come.
        include_usage: Whether a stream ends with its usage.
        continuous_usage: Whether each of its chunks has the usage so far.
        logprobs: Most probable tokens to report at each position; ``None`` reports nothing.
        echoes: The prompts' texts, where they are part of the reply.
        tools: What the template was told of tools, for the parser.
        reasoning: Whether the reply begins within the model's thinking.
    """

    id: str
    created: int = field(factory=lambda: int(time.time()))
    card: ModelCard
    text: TextCodec
    requests: tuple[GenerationRequest, ...]
    choices: int
    stream: bool
    include_usage: bool
    continuous_usage: bool = False
    logprobs: int | None = None
    echoes: tuple[str, ...] | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    reasoning: bool = True

    @property
    def fingerprint(self) -> str:
        """Names the weights, as ``system_fingerprint``."""
        name = self.card.identity or self.card.id
        return f"fp_{hashlib.blake2b(name.encode(), digest_size=5).hexdigest()}"


async def chat_job(
    body: ChatBody, engine: EngineClient, tenant: str, notes: Notes | None = None
) -> Job:
    """Return the job of a chat request; what is not taken by its word is noted.

    Raises:
        RequestError: It cannot be done; the field is named.
    """
    card, text, notes = engine.card, engine.text, notes or Notes()
    _check(body, card, notes)
    tools = None if body.tool_choice == "none" else tools_for_template(body.tools)
    continued = continues(body)
    reply = body.add_generation_prompt is not False
    orders = _orders(body, text)
    options = template_options(thinking_wishes(body), orders, body.chat_template_kwargs)
    prompt = await render(text, body.messages, tools, options, reply=reply, continued=continued)
    parts: tuple[int, ...] = ()
    if reply and not continued:
        parts = await parting_of(card, text, prompt, for_template(body.messages), tools, options)
    thinks, skips = text.opens_thinking(prompt), _skips_special(body, text)
    logprobs = _chat_logprobs(body, notes)
    request = await _request(
        body, card, text, prompt=prompt, where="messages", tenant=tenant, logprobs=logprobs,
        notes=notes,
    )  # fmt: skip
    request = evolve(
        request,
        id=f"chatcmpl-{uuid.uuid4().hex}",
        stop=stops_in_answers(
            request.stop, text.markup, thinks=thinks, tools=bool(tools), skips_special=skips
        ),
        constraint=_constraint(body, tools, orders),
        skip_special_tokens=skips,
        continues=continued,
        parting=parts,
    )
    return Job(
        id=request.id,
        card=card,
        text=text,
        requests=(request,),
        choices=request.choices,
        stream=bool(body.stream),
        include_usage=_include_usage(body),
        continuous_usage=_continuous_usage(body),
        logprobs=logprobs,
        tools=tools,
        reasoning=thinks,
    )


async def completion_job(
    body: CompletionBody, engine: EngineClient, tenant: str, notes: Notes | None = None
) -> Job:
    """Return the job of a completion request; what is not taken by its word is noted.

    Raises:
        RequestError: It cannot be done; the field is named.
    """
    card, text, notes = engine.card, engine.text, notes or Notes()
    _check(body, card, notes)
    made, wanted = _best_of(body)
    shown = _text_logprobs(body)
    ranked = shown if made == wanted else shown or 0
    name = f"cmpl-{uuid.uuid4().hex}"
    prompts = split_prompts(body.prompt)
    special = body.add_special_tokens is not False
    requests = []
    for at, tokens in enumerate(await tokenised(text, prompts, card, special)):
        request = await _request(
            body, card, text, prompt=tokens, where=prompt_field(at, prompts), tenant=tenant,
            logprobs=ranked, notes=notes,
        )  # fmt: skip
        request = evolve(
            request,
            id=name if len(prompts) == 1 else f"{name}-{at}",
            choices=made,
            prompt_logprobs=shown if body.echo else None,
            constraint=constraint_of(_forms(body)),
            continues=True,
        )
        requests.append(request)
    return Job(
        id=name,
        card=card,
        text=text,
        requests=tuple(requests),
        choices=wanted,
        stream=bool(body.stream),
        include_usage=_include_usage(body),
        continuous_usage=_continuous_usage(body),
        logprobs=shown,
        echoes=echoes(text, prompts) if body.echo else None,
    )


async def _request(
    body: GenerationBody,
    card: ModelCard,
    text: TextCodec,
    *,
    prompt: list[int],
    where: str,
    tenant: str,
    logprobs: int | None,
    notes: Notes,
) -> GenerationRequest:
    return GenerationRequest(
        id="",
        prompt=tuple(prompt),
        sampling=sampling_of(body, card),
        stop=stop_of(body, card, len(prompt), where, notes),
        choices=body.n or 1,
        logprobs=logprobs,
        priority=body.priority or 0,
        cache_salt=body.cache_salt or "",
        prediction=await _prediction(body, text),
        tenant=tenant,
        request_timeout=card.limits.request_timeout,
        first_token_timeout=card.limits.first_token_timeout,
        skip_special_tokens=body.skip_special_tokens is not False,
    )


def _check(body: GenerationBody, card: ModelCard, notes: Notes) -> None:
    check_model(body.model, card, notes)
    if body.stream_options is not None and not body.stream:
        notes.add("stream_options", "ignored", "there is no stream")


def _include_usage(body: GenerationBody) -> bool:
    return body.stream_options is not None and bool(body.stream_options.include_usage)


def _continuous_usage(body: GenerationBody) -> bool:
    return body.stream_options is not None and bool(body.stream_options.continuous_usage_stats)


def _chat_logprobs(body: ChatBody, notes: Notes) -> int | None:
    wanted = body.logprobs
    if wanted is None or wanted is False:
        if body.top_logprobs:
            notes.add("top_logprobs", "ignored", "logprobs is not set")
        return None
    return body.top_logprobs or (0 if wanted is True else wanted)


def _text_logprobs(body: CompletionBody) -> int | None:
    if isinstance(body.logprobs, bool):
        return 1 if body.logprobs else None
    return body.logprobs


def _best_of(body: CompletionBody) -> tuple[int, int]:
    wanted = body.n or 1
    made = body.best_of or wanted
    if made < wanted:
        raise refusal("best_of", f"`best_of` ({made}) is smaller than `n` ({wanted})")
    if body.stream and made > wanted:
        message = "`best_of` larger than `n` cannot stream: the best is known at the end only"
        raise refusal("best_of", message)
    return made, wanted


async def _prediction(body: GenerationBody, text: TextCodec) -> tuple[int, ...]:
    if body.prediction is None:
        return ()
    expected = plain_text(body.prediction.content, "prediction.content")
    return tuple(await encode(text, expected, special=False))


def _forms(body: GenerationBody) -> Mapping[str, Any]:
    """Return the fields that demand a form."""
    return {name: getattr(body, name) for name in FIELDS}


def _orders(body: ChatBody, text: TextCodec) -> ThinkingOrders:
    return orders_of(
        text.markup,
        effort=body.reasoning_effort,
        enabled=body.enable_thinking,
        budget=body.thinking_budget,
    )


def _skips_special(body: ChatBody, text: TextCodec) -> bool:
    # A parser finds its markers in the text only, and some models have special tokens for them.
    if body.skip_special_tokens is None:
        return not text.markup.special
    return body.skip_special_tokens


def _constraint(
    body: ChatBody, tools: Sequence[Mapping[str, Any]] | None, orders: ThinkingOrders
) -> Mapping[str, Any] | None:
    choice = body.tool_choice
    if choice not in (None, "none", "auto"):
        _check_choice(choice, body.tools or [])
    return chat_constraint(
        _forms(body),
        tools=tools,
        choice=msgspec.to_builtins(choice),
        parallel=body.parallel_tool_calls,
        budget=orders.budget,
    )


def _check_choice(choice: str | NamedTool | None, tools: Sequence[Tool]) -> None:
    names = [tool.function.name for tool in tools]
    if not names:
        raise RequestError(
            status=400,
            message="`tool_choice` forces a call, and there are no `tools`",
            param="tool_choice",
        )
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        message = f"`tool_choice` names {choice.function.name!r}, which is not among `tools`"
        raise refusal("tool_choice", message)
