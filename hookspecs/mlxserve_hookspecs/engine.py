"""The engine as plugins and API surfaces see it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from attrs import field, frozen

from mlxserve_hookspecs.events import GenerationEvent
from mlxserve_hookspecs.markup import Markup
from mlxserve_hookspecs.requests import GenerationRequest


@frozen(kw_only=True)
class Limits:
    """What a request may ask for.

    Attributes:
        default_max_tokens: ``max_tokens`` where the client names none; ``None`` is what is left.
        max_prompt_tokens: Longest prompt.
        max_generation_tokens: Largest ``max_tokens``.
        max_model_len: Longest prompt plus reply that the model was made for, if it says so.
        max_kv_tokens: Longest prompt plus reply that KV can hold, if that is bounded.
        request_timeout: Seconds for a whole request; ``None`` is unlimited.
        first_token_timeout: Seconds to the first token; ``None`` is unlimited.
    """

    default_max_tokens: int | None = 512
    max_prompt_tokens: int = 32768
    max_generation_tokens: int = 32768
    max_model_len: int | None = None
    max_kv_tokens: int | None = None
    request_timeout: float | None = 120.0
    first_token_timeout: float | None = 300.0


@frozen(kw_only=True)
class ModelCard:
    """The model that is served.

    Attributes:
        id: The public name (``--served-model-name``, else the reference).
        aliases: Other names by which a request may call it.
        created: Unix time at which it was loaded.
        vocab_size: Width of the logits.
        limits: What a request may ask for.
        has_chat_template: Whether messages can be rendered.
        identity: Names weights, adapter and revision: two models of one identity have the same KV.
        layout: How the model's layers are held and which parts fall back, one line each.
        any_name: Whether a request that calls the model by another name, or by none, is served.
        folder: Where its files are.
        recurrent: Whether layers keep state, so that a prompt is resumed only where it was kept.
    """

    id: str
    created: int
    vocab_size: int
    limits: Limits
    has_chat_template: bool
    aliases: tuple[str, ...] = ()
    identity: str = ""
    layout: tuple[str, ...] = ()
    any_name: bool = False
    folder: Path | None = None
    recurrent: bool = False


class TextCodec(Protocol):
    """Text to tokens and back. Safe on any thread."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The tokens that end a reply."""

    @property
    def special_token_ids(self) -> frozenset[int]:
        """The tokens that are no text: what ``skip_special_tokens`` leaves out."""

    @property
    def markup(self) -> Markup:
        """How the model marks its thinking and its tool calls."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return token ids; with ``add_special_tokens`` what the model expects at the start."""

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of ``tokens``."""

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Return the token ids of a conversation, ready for a reply.

        With ``continue_final_message`` the last message is left open: the reply goes on with it.

        Raises:
            RequestError: The template refuses the messages (status 400), or there is none.
        """

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes that one token stands for."""

    def opens_thinking(self, prompt: Sequence[int]) -> bool:
        """Return whether a reply to ``prompt`` begins within the model's thinking."""


@runtime_checkable
class Described(Protocol):
    """A ``TextCodec`` that says what it is."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a client may know, as JSON: its class, its chat template, special tokens."""


@frozen(kw_only=True)
class EngineStatus:
    """The engine at one moment; safe to read on any thread.

    Attributes:
        ready: The model is loaded and warm, and steps are being made.
        draining: Nothing new is admitted.
        running: Sequences that own a row, one for each choice of a request: those in prefill, those
            that wait for a place in the decode batch, and those in it. ``--max-batch-size`` bounds
            the last kind only, ``--completion-batch-size`` them all; one whose last token is being
            read counts for an iteration more.
        waiting: Sequences that are queued.
        used_blocks: Blocks of KV in use by rows and pinned cache.
        cached_blocks: Blocks that only the cache holds, and that can be freed.
        total_blocks: The budget.
        last_step_age: Seconds since an iteration got anybody on, or ended, while there was work; 0
            when idle.
        steps: Iterations so far.
        error: Why the engine cannot serve, if it cannot.
        counters: Running totals by name, for metrics.
    """

    ready: bool
    draining: bool = False
    running: int = 0
    waiting: int = 0
    used_blocks: int = 0
    cached_blocks: int = 0
    total_blocks: int = 0
    last_step_age: float = 0.0
    steps: int = 0
    error: str | None = None
    counters: Mapping[str, float] = field(factory=dict)


class EngineClient(Protocol):
    """The engine as seen from the event loop."""

    @property
    def card(self) -> ModelCard:
        """The model that is served.

        Raises:
            RequestError: The model is not loaded yet (status 503).
        """

    @property
    def text(self) -> TextCodec:
        """The model's tokenizer and chat template; raises like ``card``."""

    @property
    def status(self) -> EngineStatus:
        """The engine now."""

    def generate(self, request: GenerationRequest) -> AsyncIterator[Sequence[GenerationEvent]]:
        """Submit ``request`` and yield its events, those of one iteration together.

        Closing the iterator early cancels the request: its rows, its queue entry and its pending
        loads are freed within one iteration. Runs on the event loop's thread.

        Raises:
            RequestError: The request was refused (before the first event).
        """
