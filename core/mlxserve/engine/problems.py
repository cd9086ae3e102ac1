"""What a client is told when something went wrong."""

from attrs import evolve

from mlxserve.batch.sequence import Sequence
from mlxserve.engine.refusals import SHUTTING_DOWN
from mlxserve_hookspecs import GenerationRequest, RequestError
from mlxserve_hookspecs.generation import CONSTRAINT_FIELD

OUT_OF_MEMORY = ("out of memory", "[malloc", "unable to allocate", "insufficient memory")


def as_request_error(error: Exception) -> RequestError:
    """Return what the client is told: never an exception's own words, which are for the log."""
    if isinstance(error, RequestError):
        return error
    words = str(error).lower()
    if isinstance(error, MemoryError) or any(sign in words for sign in OUT_OF_MEMORY):
        words = "the server ran out of memory"
        return RequestError(status=503, message=words, code="out_of_memory", retry_after=5.0)
    return RequestError(status=500, message="the server failed to generate a reply")


def overdue(sequence: Sequence, now: float) -> RequestError | None:
    """Return the error of a sequence that has run out of time."""
    waited = now - sequence.arrived
    request = sequence.request
    if request.request_timeout is not None and waited > request.request_timeout:
        words = f"the reply took longer than {request.request_timeout:g} s"
        return RequestError(status=504, message=words, code="request_timeout")
    limit = request.first_token_timeout
    if limit is not None and sequence.first_token_at is None and waited > limit:
        words = f"no token came within {limit:g} s"
        return RequestError(status=504, message=words, code="first_token_timeout")
    return None


def too_long(needed: int, tokens: int) -> RequestError:
    """Return the error of a prompt that KV can never hold."""
    words = f"the prompt needs KV for {needed} tokens and the server holds {tokens}"
    return RequestError(status=400, message=words, code="context_length_exceeded")


def unsound(request: GenerationRequest, vocab: int) -> RequestError | None:
    """Return what is wrong with a request that no surface should have let through."""
    if not request.prompt:
        return RequestError(status=400, message="the prompt is empty", param="prompt")
    tokens = {
        "prompt": request.prompt,
        "prediction": request.prediction,
        "logit_bias": request.sampling.logit_bias,
    }
    for name, some in tokens.items():
        if not all(isinstance(token, int) and 0 <= token < vocab for token in some):
            words = f"`{name}` has token ids that are not below {vocab}"
            return RequestError(status=400, message=words, param=name)
    for name in ("logprobs", "prompt_logprobs"):
        count = getattr(request, name)
        if count is not None and not 0 <= count <= vocab:
            words = f"`{name}` is {count}, and the model has {vocab} tokens"
            return RequestError(status=400, message=words, param=name)
    lengths = request.pooling.lengths if request.pooling else (len(request.prompt),)
    if min(lengths, default=0) < 1 or sum(lengths) != len(request.prompt):
        return RequestError(status=400, message="the texts are not the prompt", param="prompt")
    return None


def unconstrained() -> RequestError:
    """Return the error of a demand that no plugin can meet."""
    words = "no active plugin can constrain a reply like that"
    return RequestError(status=400, message=words, param=CONSTRAINT_FIELD)


def shutting_down() -> RequestError:
    """Return the error of what a drain could not wait for."""
    return evolve(SHUTTING_DOWN)
