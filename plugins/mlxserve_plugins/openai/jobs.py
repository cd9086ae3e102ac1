"""From a body to what the engine is asked: one request per prompt."""

import asyncio
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
    MOST_PROMPTS,
    ChatBody,
    CompletionBody,
    GenerationBody,
)
from mlxserve_plugins.openai.messages import (
    AnyMessage,
    NamedTool,
    Tool,
    for_template,
    plain_text,
    tools_for_template,
)
from mlxserve_plugins.openai.parameters import (
    check_model,
    check_prompt,
    check_tokens,
    refusal,
    sampling_of,
    stop_of,
)

LONG_TEXT = 4096
"""Characters above which a text is tokenised off the event loop."""


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
    logprobs: int | None = None
    echoes: tuple[str, ...] | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    reasoning: bool = True

    @property
    def fingerprint(self) -> str:
        """Names the weights, as ``system_fingerprint``."""
        name = self.card.identity or self.card.id
        return f"fp_{hashlib.blake2b(name.encode(), digest_size=5).hexdigest()}"


async def chat_job(body: ChatBody, engine: EngineClient, tenant: str) -> Job:
    """Return the job of a chat request.

    Raises:
        RequestError: It cannot be done; the field is named.
    """
    card, text = engine.card, engine.text
    _check(body, card)
    tools = None if body.tool_choice == "none" else tools_for_template(body.tools)
    options = body.chat_template_kwargs
    prompt = await render(text, body.messages, tools, options)
    logprobs = _chat_logprobs(body)
    request = await _request(
        body, card, text, prompt=prompt, where="messages", tenant=tenant, logprobs=logprobs
    )
    request = evolve(
        request,
        id=f"chatcmpl-{uuid.uuid4().hex}",
        constraint=_constraint(body),
        skip_special_tokens=_skips_special(body, text),
    )
    return Job(
        id=request.id,
        card=card,
        text=text,
        requests=(request,),
        choices=request.choices,
        stream=bool(body.stream),
        include_usage=_include_usage(body),
        logprobs=logprobs,
        tools=tools,
        reasoning=text.opens_thinking(prompt),
    )


async def completion_job(body: CompletionBody, engine: EngineClient, tenant: str) -> Job:
    """Return the job of a completion request.

    Raises:
        RequestError: It cannot be done; the field is named.
    """
    card, text = engine.card, engine.text
    _check(body, card)
    made, wanted = _best_of(body)
    ranked = body.logprobs if made == wanted else body.logprobs or 0
    name = f"cmpl-{uuid.uuid4().hex}"
    prompts = split_prompts(body.prompt)
    requests = []
    for at, tokens in enumerate(await _tokenised(text, prompts, card)):
        where = _where(at, prompts)
        request = await _request(
            body, card, text, prompt=tokens, where=where, tenant=tenant, logprobs=ranked
        )
        own = name if len(prompts) == 1 else f"{name}-{at}"
        echoed = body.logprobs if body.echo else None
        constraint = _response_format(body.response_format)
        requests.append(
            evolve(request, id=own, choices=made, prompt_logprobs=echoed, constraint=constraint)
        )
    return Job(
        id=name,
        card=card,
        text=text,
        requests=tuple(requests),
        choices=wanted,
        stream=bool(body.stream),
        include_usage=_include_usage(body),
        logprobs=body.logprobs,
        echoes=_echoes(text, prompts) if body.echo else None,
    )


async def render(
    text: TextCodec,
    messages: Sequence[AnyMessage],
    tools: Sequence[Mapping[str, Any]] | None,
    options: Mapping[str, Any] | None,
    *,
    reply: bool = True,
) -> list[int]:
    """Return the tokens of a conversation, rendered off the event loop.

    Raises:
        RequestError: The template refuses it.
    """
    plain = for_template(messages)
    return await asyncio.to_thread(
        text.render_chat,
        plain,
        tools=tools,
        add_generation_prompt=reply,
        template_kwargs=options or None,
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


async def _request(
    body: GenerationBody,
    card: ModelCard,
    text: TextCodec,
    *,
    prompt: list[int],
    where: str,
    tenant: str,
    logprobs: int | None,
) -> GenerationRequest:
    return GenerationRequest(
        id="",
        prompt=tuple(prompt),
        sampling=sampling_of(body, card),
        stop=stop_of(body, card, len(prompt), where),
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


def _check(body: GenerationBody, card: ModelCard) -> None:
    check_model(body.model, card)
    if body.stream_options is not None and not body.stream:
        raise refusal("stream_options", "`stream_options` is set without `stream`")


def _include_usage(body: GenerationBody) -> bool:
    return body.stream_options is not None and bool(body.stream_options.include_usage)


def _chat_logprobs(body: ChatBody) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise refusal("top_logprobs", "`top_logprobs` is set without `logprobs`")
    return None


def _best_of(body: CompletionBody) -> tuple[int, int]:
    wanted = body.n or 1
    made = body.best_of or wanted
    if made < wanted:
        raise refusal("best_of", f"`best_of` ({made}) is smaller than `n` ({wanted})")
    if body.stream and made > wanted:
        message = "`best_of` larger than `n` cannot stream: the best is known at the end only"
        raise refusal("best_of", message)
    return made, wanted


async def _tokenised(
    text: TextCodec, prompts: Sequence[str | list[int]], card: ModelCard
) -> list[list[int]]:
    def work() -> list[list[int]]:
        return [_tokens(text, one, card, _where(at, prompts)) for at, one in enumerate(prompts)]

    is_long = sum(map(len, prompts)) > LONG_TEXT
    return await asyncio.to_thread(work) if is_long else work()


def _tokens(text: TextCodec, prompt: str | list[int], card: ModelCard, where: str) -> list[int]:
    if prompt == "":
        check_prompt(0, card.limits, where)
    if isinstance(prompt, str):
        return text.encode(prompt)
    check_tokens(prompt, card, where)
    return prompt


def _where(at: int, prompts: Sequence[str | list[int]]) -> str:
    return "prompt" if len(prompts) == 1 else f"prompt[{at}]"


async def _prediction(body: GenerationBody, text: TextCodec) -> tuple[int, ...]:
    if body.prediction is None:
        return ()
    return tuple(await encode(text, plain_text(body.prediction.content), special=False))


def _echoes(text: TextCodec, prompts: Sequence[str | list[int]]) -> tuple[str, ...]:
    return tuple(prompt if isinstance(prompt, str) else text.decode(prompt) for prompt in prompts)


def _response_format(wanted: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if wanted is None or wanted.get("type") == "text":
        return None
    if not isinstance(wanted.get("type"), str):
        raise refusal("response_format.type", "`response_format.type` must be a string")
    return wanted


def _skips_special(body: ChatBody, text: TextCodec) -> bool:
    # A parser finds its markers in the text only, and some models have special tokens for them.
    if body.skip_special_tokens is None:
        return not text.markup.special
    return body.skip_special_tokens


def _constraint(body: ChatBody) -> Mapping[str, Any] | None:
    form = _response_format(body.response_format)
    choice = body.tool_choice
    if choice is None or choice in ("none", "auto"):
        return form
    _check_choice(choice, body.tools or [])
    if form is not None:
        message = "`response_format` and a `tool_choice` that forces a call exclude each other"
        raise refusal("tool_choice", message)
    return {
        "type": "tool_choice",
        "tool_choice": msgspec.to_builtins(choice),
        "tools": tools_for_template(body.tools),
    }


def _check_choice(choice: str | NamedTool, tools: Sequence[Tool]) -> None:
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
