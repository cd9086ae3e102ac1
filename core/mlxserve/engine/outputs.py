"""From sampled tokens to what the client sees: text, stops, log-probabilities, the end."""

from attrs import frozen

from mlxserve.batch.sequence import Sequence
from mlxserve_hookspecs import (
    Finish,
    FinishReason,
    GenerationEvent,
    RequestError,
    StopReason,
    TokenLogprob,
)


@frozen
class Ending:
    """Why a sequence ends with a token."""

    reason: FinishReason
    stopped_by: str | int | None = None


def take_token(
    sequence: Sequence, token: int, logprob: TokenLogprob | None, now: float
) -> tuple[GenerationEvent, Ending | None]:
    """Add ``token`` to ``sequence``; return what that shows the client, and whether it ends.

    The token that ends a reply is reported and has no text. Errors of the detokenizer or of a
    constraint come through: they are the sequence's own.
    """
    sequence.tokens.append(token)
    if sequence.first_token_at is None:
        sequence.first_token_at = now
    logprobs = () if logprob is None else (logprob,)
    if token in sequence.eos or token in sequence.request.stop.token_ids:
        return _event(sequence, _rest(sequence), (token,), logprobs), Ending("stop", token)
    if sequence.constraint is not None:
        sequence.constraint.advance((token,))
    reasons: list[StopReason | None] = [
        condition.advance(token) for condition in sequence.conditions
    ]
    reason = next((one for one in reasons if one), None)
    text, stop = sequence.stops.feed(sequence.detokenizer.add(token))
    ending: Ending | None = None
    if stop is not None:
        ending = Ending("stop", stop)
    elif reason is not None:
        ending = Ending(reason)
    elif sequence.constraint is not None and sequence.constraint.finished:
        ending = Ending("stop")
    elif sequence.generated >= sequence.max_tokens:
        ending = Ending("length")
    if ending is not None and stop is None:
        more, stop = _last(sequence)
        text += more
        # A stop string may be found only now, in characters that were held back.
        ending = ending if stop is None else Ending("stop", stop)
    return _event(sequence, text, (token,), logprobs), ending


def finish(
    sequence: Sequence, ending: Ending, now: float, error: RequestError | None = None
) -> Finish:
    """Return the finish of a sequence that ends now."""
    arrived = sequence.arrived
    first = sequence.first_token_at
    return Finish(
        reason=ending.reason,
        usage=sequence.usage,
        stopped_by=ending.stopped_by,
        error=error,
        queue_seconds=(sequence.admitted_at or now) - arrived,
        first_token_seconds=None if first is None else first - arrived,
        total_seconds=now - arrived,
    )


def progress(sequence: Sequence) -> GenerationEvent:
    """Return how far a prefill is."""
    request = sequence.request
    return GenerationEvent(request_id=request.id, choice=sequence.choice, prefilled=sequence.held)


def scored(sequence: Sequence) -> GenerationEvent:
    """Return the only event of a sequence that generates nothing."""
    asked = sequence.request.prompt_logprobs is not None
    return GenerationEvent(
        request_id=sequence.request.id,
        choice=sequence.choice,
        prompt_logprobs=tuple(sequence.prompt_logprobs) if asked else None,
    )


def leftover(sequence: Sequence) -> GenerationEvent:
    """Return the last event of a sequence that must end between two tokens: text held back."""
    return GenerationEvent(
        request_id=sequence.request.id, choice=sequence.choice, text=_rest(sequence)
    )


def _last(sequence: Sequence) -> tuple[str, str | None]:
    text, stop = sequence.stops.feed(sequence.detokenizer.finish())
    return (text, stop) if stop is not None else (text + sequence.stops.flush(), None)


def _rest(sequence: Sequence) -> str:
    return _last(sequence)[0]


def _event(
    sequence: Sequence,
    text: str,
    tokens: tuple[int, ...] = (),
    logprobs: tuple[TokenLogprob, ...] = (),
) -> GenerationEvent:
    first = sequence.generated == 1 and sequence.request.prompt_logprobs is not None
    return GenerationEvent(
        request_id=sequence.request.id,
        choice=sequence.choice,
        text=text,
        tokens=tokens,
        logprobs=logprobs,
        prompt_logprobs=tuple(sequence.prompt_logprobs) if first else None,
    )
