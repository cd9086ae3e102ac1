"""An engine that says what a test tells it to, a byte a token."""

import asyncio
import codecs
import itertools
import struct
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from attrs import define, field, frozen

from mlxserve_hookspecs import (
    Credentials,
    EngineStatus,
    Finish,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    Identity,
    Limits,
    Markup,
    ModelCard,
    OutputDelta,
    Pooled,
    RequestError,
    TextCodec,
    TokenLogprob,
    Usage,
)

EOS = 256
VOCAB = 260
KEY = "sesame"
LOADING = RequestError(status=503, message="the model is still loading", retry_after=1.5)


class FakeText:
    """Bytes are tokens; 256 ends a reply and is special."""

    special_token_ids = frozenset({EOS})
    markup = Markup()
    facts: Mapping[str, Any] = {"tokenizer_class": "Bytes", "chat_template": None}

    def __init__(self) -> None:
        self.rendered: list[dict[str, Any]] = []

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return frozenset({EOS})

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        pieces = (b"" if skip_special_tokens and t >= EOS else self.token_bytes(t) for t in tokens)
        return b"".join(pieces).decode(errors="replace")

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        self.rendered.append({"messages": messages, "tools": tools, "kwargs": template_kwargs})
        if any("raise" in message["content"] for message in messages):
            raise RequestError(status=400, message="the template refuses", param="messages")
        lines = [f"{message['role']}:{message['content']}\n" for message in messages]
        if continue_final_message:
            lines[-1] = lines[-1].removesuffix("\n")
        return self.encode("".join(lines) + ("assistant:" if add_generation_prompt else ""))

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < EOS else f"<{token}>".encode()

    def opens_thinking(self, prompt: Sequence[int]) -> bool:
        return self.decode(prompt).endswith("<think>\nassistant:")


@define(eq=False)
class FakeEngine:
    """What it will do, and what was asked of it.

    Attributes:
        replies: Choice by choice, again from the first when they run out.
        prefill: Progress reports before the first token.
        pause: Seconds before each report and token.
        stall_after: Tokens after which nothing comes any more.
        refusal: Raised instead of a first event.
        failure: After ``fail_after`` tokens every choice ends with it.
        bug: Raised after ``fail_after`` tokens.
        live: Requests that run now.
        closed_early: Requests whose reader left.
    """

    any_name: bool = False
    limits: Limits = field(factory=lambda: Limits(max_prompt_tokens=200, max_model_len=256))
    text_codec: FakeText = field(factory=FakeText)
    replies: Sequence[str] = ("Hello, world",)
    prefill: Sequence[int] = ()
    pause: float = 0.0
    stall_after: int | None = None
    refusal: RequestError | None = None
    failure: Finish | None = None
    bug: Exception | None = None
    fail_after: int = 0
    loaded: bool = True
    live: int = 0
    most_live: int = 0
    seen: list[GenerationRequest] = field(factory=list)
    closed_early: list[str] = field(factory=list)

    @property
    def card(self) -> ModelCard:
        if not self.loaded:
            raise LOADING
        return ModelCard(
            id="org/fake-model",
            aliases=("fake",),
            created=1700000000,
            vocab_size=VOCAB,
            limits=self.limits,
            has_chat_template=True,
            identity="sha256:0",
            any_name=self.any_name,
        )

    @property
    def text(self) -> TextCodec:
        if not self.loaded:
            raise LOADING
        return self.text_codec

    @property
    def status(self) -> EngineStatus:
        return EngineStatus(ready=self.loaded)

    async def generate(
        self, request: GenerationRequest
    ) -> AsyncIterator[Sequence[GenerationEvent]]:
        self.seen.append(request)
        if self.refusal is not None:
            raise self.refusal
        self.live += 1
        self.most_live = max(self.most_live, self.live)
        ended = False
        try:
            for done in self.prefill:
                await asyncio.sleep(self.pause)
                yield [GenerationEvent(request_id=request.id, prefilled=done)]
            if request.pooling is not None:
                await asyncio.sleep(self.pause)
                yield self._pooled(request)
            else:
                async for events in self._decode(request):
                    yield events
            ended = True
        finally:
            self.live -= 1
            if not ended:
                self.closed_early.append(request.id)

    def _pooled(self, request: GenerationRequest) -> list[GenerationEvent]:
        """Return a vector for each text, the last first: its length, first and last token, 1."""
        assert request.pooling is not None
        found, start = [], 0
        for at, length in enumerate(request.pooling.lengths):
            text = request.prompt[start : start + length]
            numbers = struct.pack("<4f", length, text[0], text[-1], 1.0)
            found.append(GenerationEvent(request_id=request.id, pooled=(Pooled(at, numbers),)))
            start += length
        usage = Usage(prompt_tokens=len(request.prompt), completion_tokens=0)
        end = self.failure or Finish(reason="stop", usage=usage)
        return [*reversed(found), GenerationEvent(request_id=request.id, finish=end)]

    async def _decode(self, request: GenerationRequest) -> AsyncIterator[Sequence[GenerationEvent]]:
        writers = [self._choice(request, choice) for choice in range(request.choices)]
        for step, column in enumerate(itertools.zip_longest(*writers)):
            await asyncio.sleep(self.pause)
            if step == self.stall_after:
                await asyncio.Event().wait()
            if step == self.fail_after and self.bug is not None:
                raise self.bug
            if step == self.fail_after and self.failure is not None:
                yield [self._failed(request, choice) for choice in range(request.choices)]
                return
            yield [event for event in column if event is not None]

    def _failed(self, request: GenerationRequest, choice: int) -> GenerationEvent:
        return GenerationEvent(request_id=request.id, choice=choice, finish=self.failure)

    def _choice(self, request: GenerationRequest, choice: int) -> Iterator[GenerationEvent]:
        plan = plan_choice(self.replies[choice % len(self.replies)], request)
        shown, decoder = 0, codecs.getincrementaldecoder("utf-8")(errors="replace")
        for at, token in enumerate(plan.tokens):
            last = at == len(plan.tokens) - 1
            text = decoder.decode(bytes([token]), final=last)
            visible = text[: max(len(plan.text) - shown, 0)]
            shown += len(text)
            yield GenerationEvent(
                request_id=request.id,
                choice=choice,
                text=visible,
                tokens=(token,),
                logprobs=(logprob(token, choice, request.logprobs),)
                if request.logprobs is not None
                else (),
                prompt_logprobs=prompt_logprobs(request) if at == 0 else None,
                finish=plan.finish if last else None,
            )
        if not plan.tokens:
            yield GenerationEvent(
                request_id=request.id,
                choice=choice,
                prompt_logprobs=prompt_logprobs(request),
                finish=plan.finish,
            )


@frozen
class Plan:
    """All that one choice will say."""

    tokens: tuple[int, ...]
    text: str
    finish: Finish


def plan_choice(reply: str, request: GenerationRequest) -> Plan:
    whole = reply.encode()
    tokens = tuple(whole[: request.stop.max_tokens])
    text = bytes(tokens).decode(errors="replace")
    found = [(text.find(stop), stop) for stop in request.stop.strings if stop in text]
    reason: FinishReason = "length" if len(tokens) < len(whole) else "stop"
    stopped_by: str | None = None
    if found:
        at, stopped_by = min(found)
        tokens = tuple(text[: at + len(stopped_by)].encode())
        text, reason = text[:at], "stop"
    usage = Usage(
        prompt_tokens=len(request.prompt),
        completion_tokens=len(tokens),
        cached_tokens=4,
        accepted_draft_tokens=2,
        rejected_draft_tokens=1,
    )
    return Plan(tokens, text, Finish(reason=reason, usage=usage, stopped_by=stopped_by))


def logprob(token: int, choice: int, count: int) -> TokenLogprob:
    """Later choices are likelier; the most probable tokens are this one and its successors."""
    best = -1.0 / (choice + 1)
    top = tuple(((token + at) % 128, best - at) for at in range(count))
    return TokenLogprob(token, best, top)


def prompt_logprobs(request: GenerationRequest) -> tuple[TokenLogprob, ...] | None:
    count = request.prompt_logprobs
    return None if count is None else tuple(logprob(t, 0, count) for t in request.prompt[1:])


@define(eq=False)
class FakeAdmission:
    """Everybody is welcome, unless a key is wanted or a refusal is set."""

    locked: bool = False
    refusal: RequestError | None = None
    asked: list[Credentials] = field(factory=list)

    def authenticate(self, credentials: Credentials) -> Identity:
        self.asked.append(credentials)
        if self.locked and credentials.headers.get("authorization") != f"Bearer {KEY}":
            raise RequestError(status=401, message="a key is needed", code="invalid_api_key")
        return Identity("somebody")

    def admit(self, request: GenerationRequest) -> None:
        if self.refusal is not None:
            raise self.refusal


class MarkupParser:
    """Reads ``<think>...</think>`` and then content, or ``<call>name</call>`` at the end."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, text: str) -> OutputDelta:
        self._text += text
        if self._text.startswith("<think>"):
            thought, closed, rest = self._text.removeprefix("<think>").partition("</think>")
            if closed:
                self._text = rest
                return OutputDelta(reasoning=thought)
            return OutputDelta()
        if self._text.startswith("<"):
            return OutputDelta()
        content, self._text = self._text, ""
        return OutputDelta(content=content)

    def finish(self) -> OutputDelta:
        name = self._text.removeprefix("<call>").removesuffix("</call>")
        return OutputDelta(tool_calls=({"name": name, "arguments": "{}"},) if name else ())
