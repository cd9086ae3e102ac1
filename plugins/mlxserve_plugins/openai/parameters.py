"""From a body's fields to the engine's parameters, within the model's limits."""

from collections.abc import Iterable

from mlxserve_hookspecs import Limits, ModelCard, RequestError, SamplingParams, StopConditions
from mlxserve_plugins.openai.bodies import ChatBody, CompletionBody, GenerationBody

TOO_LONG = "context_length_exceeded"


def check_model(name: str | None, card: ModelCard) -> None:
    """Return if ``name`` is served, or was left out.

    Raises:
        RequestError: It is not (status 404).
    """
    if name is not None and name != card.id and name not in card.aliases:
        message = f"the model {name!r} is not served here: the model is {card.id!r}"
        raise RequestError(status=404, message=message, param="model", code="model_not_found")


def sampling_of(body: GenerationBody, card: ModelCard) -> SamplingParams:
    """Return how tokens are drawn.

    Raises:
        RequestError: ``logit_bias`` names a token that the model does not have (status 400).
    """
    bias = body.logit_bias or {}
    check_tokens(bias, card, "logit_bias")
    return SamplingParams(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=body.top_k or 0,
        min_p=body.min_p or 0.0,
        seed=body.seed,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        logit_bias=bias,
    )


def stop_of(body: GenerationBody, card: ModelCard, prompt: int, where: str) -> StopConditions:
    """Return when a reply to a prompt of ``prompt`` tokens ends.

    Args:
        body: What was asked.
        card: The model, with its limits.
        prompt: Tokens of the prompt.
        where: The field that the prompt came in.

    Raises:
        RequestError: The prompt or the reply does not fit (status 400).
    """
    tokens = body.stop_token_ids or []
    check_tokens(tokens, card, "stop_token_ids")
    check_prompt(prompt, card.limits, where)
    most = max_tokens_of(body, card.limits, prompt, where)
    least = body.min_tokens or 0
    if least > most:
        raise refusal("min_tokens", f"`min_tokens` ({least}) is larger than `max_tokens` ({most})")
    return StopConditions(
        max_tokens=most,
        min_tokens=least,
        strings=_stop_strings(body.stop),
        token_ids=frozenset(tokens),
        ignore_eos=bool(body.ignore_eos),
    )


def check_prompt(prompt: int, limits: Limits, where: str) -> None:
    """Return if a prompt of ``prompt`` tokens is neither empty nor too long.

    Raises:
        RequestError: It is (status 400).
    """
    if prompt == 0:
        raise refusal(where, f"`{where}` is empty: a prompt has at least one token")
    if prompt > limits.max_prompt_tokens:
        most = limits.max_prompt_tokens
        message = f"`{where}` has {prompt} tokens: this server takes at most {most}"
        raise refusal(where, message, TOO_LONG)


def max_tokens_of(body: GenerationBody, limits: Limits, prompt: int, where: str) -> int:
    """Return the most tokens to generate: what was asked, or the default within the room.

    Raises:
        RequestError: What was asked does not fit (status 400).
    """
    name, asked = _asked_tokens(body)
    room = limits.max_generation_tokens
    if limits.max_model_len is not None:
        room = min(room, limits.max_model_len - prompt)
    if asked is None:
        if room < 1:
            raise _no_room(where, prompt, 1, limits)
        return min(limits.default_max_tokens, room)
    if asked > limits.max_generation_tokens:
        most = limits.max_generation_tokens
        raise refusal(name, f"`{name}` is {asked}: this server generates at most {most} tokens")
    if asked > room or room < 0:
        raise _no_room(where, prompt, asked, limits)
    echo = isinstance(body, CompletionBody) and body.echo
    if asked == 0 and not echo:
        raise refusal(name, f"`{name}` is 0: at least one token is generated, unless with `echo`")
    return asked


def check_tokens(tokens: Iterable[int], card: ModelCard, where: str) -> None:
    """Return if the model has all of ``tokens``.

    Raises:
        RequestError: It lacks one (status 400).
    """
    for token in tokens:
        if not 0 <= token < card.vocab_size:
            known = f"its tokens are 0 to {card.vocab_size - 1}"
            raise refusal(where, f"`{where}` has token {token}, unknown to the model: {known}")


def refusal(param: str, message: str, code: str | None = None) -> RequestError:
    """Return a status 400 that names a field."""
    return RequestError(status=400, message=message, param=param, code=code)


def _asked_tokens(body: GenerationBody) -> tuple[str, int | None]:
    newer = body.max_completion_tokens if isinstance(body, ChatBody) else None
    if newer is None:
        return "max_tokens", body.max_tokens
    if body.max_tokens is not None and body.max_tokens != newer:
        message = "`max_tokens` and `max_completion_tokens` differ: send one of them"
        raise refusal("max_tokens", message)
    return "max_completion_tokens", newer


def _no_room(where: str, prompt: int, asked: int, limits: Limits) -> RequestError:
    message = (
        f"`{where}` has {prompt} tokens and the reply {asked}: "
        f"together the model takes at most {limits.max_model_len}"
    )
    return refusal(where, message, TOO_LONG)


def _stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    if stop == "":
        raise refusal("stop", "`stop` is empty: a stop string has at least one character")
    return (stop,) if isinstance(stop, str) else tuple(dict.fromkeys(stop))
