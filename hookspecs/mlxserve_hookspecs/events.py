"""What the engine answers: the nouns that cross back from the engine thread."""

from typing import Literal, TypeAlias

from attrs import field, frozen

from mlxserve_hookspecs.errors import RequestError

FinishReason: TypeAlias = Literal["stop", "length", "timeout", "cancelled", "error"]


@frozen
class TokenLogprob:
    """One token's log-probability under the model, before penalties, bias and temperature.

    Attributes:
        token: The token's id.
        logprob: Natural logarithm of its probability.
        top: The most probable tokens at that position, best first, as (id, logprob).
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@frozen
class Pooled:
    """The vector of one text of a request with a ``Pooling``.

    Attributes:
        text: Which one, from 0.
        vector: Little-endian float32 numbers: the width of the model's hidden states, or as many
            as there are ``logits``. Not normalised.
    """

    text: int
    vector: bytes = field(repr=False)


@frozen(kw_only=True)
class Usage:
    """What one choice of a request cost.

    Attributes:
        prompt_tokens: Length of the prompt.
        completion_tokens: Tokens generated, an end-of-sequence token included.
        cached_tokens: Prompt tokens whose KV came from a cache tier.
        cached_by_tier: The same by the tier's name.
        accepted_draft_tokens: Draft tokens that the model kept.
        rejected_draft_tokens: Draft tokens that it did not.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    cached_by_tier: dict[str, int] = field(factory=dict)
    accepted_draft_tokens: int = 0
    rejected_draft_tokens: int = 0


@frozen(kw_only=True)
class Finish:
    """Why a choice ended, and what it cost.

    Attributes:
        reason: ``stop`` (end of sequence, stop string or stop token), ``length``, ``timeout``,
            ``cancelled`` or ``error``.
        stopped_by: The stop string or token id that ended it, if one did.
        usage: Counts of this choice.
        error: Set when ``reason`` is ``timeout`` or ``error``.
        queue_seconds: From arrival to the first prefill chunk.
        first_token_seconds: From arrival to the first token; ``None`` if there was none.
        total_seconds: From arrival to the end.
    """

    reason: FinishReason
    usage: Usage
    stopped_by: str | int | None = None
    error: RequestError | None = None
    queue_seconds: float = 0.0
    first_token_seconds: float | None = None
    total_seconds: float = 0.0


@frozen(kw_only=True)
class GenerationEvent:
    """What one iteration added to one choice of a request.

    The texts of a choice's events, joined, are what the tokenizer decodes the kept tokens to; a
    stop string and what follows it are left out.

    Attributes:
        request_id: The request's id.
        choice: Index of the choice, from 0.
        text: Text that became certain in this iteration; may be empty while tokens are held
            back (an unfinished character, a possible stop string).
        tokens: The token ids of this iteration.
        logprobs: One for each of ``tokens`` if asked for.
        prompt_logprobs: On a choice's first event, if asked for: one for each prompt token but
            the first (which nothing predicts).
        prefilled: Set on progress reports of a long prefill: prompt tokens done so far.
        pooled: Vectors that this iteration finished, in any order.
        finish: Set on a choice's last event.
    """

    request_id: str
    choice: int = 0
    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    prefilled: int | None = None
    pooled: tuple[Pooled, ...] = ()
    finish: Finish | None = None
