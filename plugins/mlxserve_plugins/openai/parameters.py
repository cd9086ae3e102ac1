"""From a body's fields to the engine's parameters, within the model's limits."""

from collections.abc import Iterable

from mlxserve_hookspecs import Limits, ModelCard, SamplingParams, StopConditions
from mlxserve_hookspecs.requests import INT32_MAX
from mlxserve_plugins.openai.bodies import ChatBody, CompletionBody, GenerationBody
from mlxserve_plugins.surface.checks import check_model, refusal
from mlxserve_plugins.surface.limits import TOO_LONG, reply_tokens
from mlxserve_plugins.surface.notes import Notes

__all__ = ["TOO_LONG", "check_model", "check_prompt", "check_tokens", "max_tokens_of", "refusal"]

INT64 = 2**63


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
        seed=_seed(body.seed),
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        logit_bias=bias,
    )


def stop_of(
    body: GenerationBody, card: ModelCard, prompt: int, where: str, notes: Notes | None = None
) -> StopConditions:
    """Return when a reply to a prompt of ``prompt`` tokens ends.

    Args:
        body: What was asked.
        card: The model, with its limits.
        prompt: Tokens of the prompt.
        where: The field that the prompt came in.
        notes: Told what was cut to the limits.

    Raises:
        RequestError: The prompt does not fit, or the fields contradict each other (status 400).
    """
    notes = notes or Notes()
    tokens = body.stop_token_ids or []
    check_tokens(tokens, card, "stop_token_ids")
    check_prompt(prompt, card.limits, where)
    most = max_tokens_of(body, card.limits, prompt, where, notes)
    return StopConditions(
        max_tokens=most,
        min_tokens=_min_tokens(body, most, notes),
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


def max_tokens_of(
    body: GenerationBody, limits: Limits, prompt: int, where: str, notes: Notes | None = None
) -> int:
    """Return the most tokens to generate: what was asked, or the default, within the room.

    Raises:
        RequestError: There is no room, or nothing was asked for (status 400).
    """
    notes = notes or Notes()
    name, asked = _asked_tokens(body, notes)
    echo = isinstance(body, CompletionBody) and body.echo
    if asked == 0 and not echo:
        raise refusal(name, f"`{name}` is 0: at least one token is generated, unless with `echo`")
    return reply_tokens(asked, limits, prompt, name=name, where=where, notes=notes)


def check_tokens(tokens: Iterable[int], card: ModelCard, where: str) -> None:
    """Return if the model has all of ``tokens``.

    Raises:
        RequestError: It lacks one (status 400).
    """
    for token in tokens:
        if not 0 <= token < card.vocab_size:
            known = f"its tokens are 0 to {card.vocab_size - 1}"
            raise refusal(where, f"`{where}` has token {token}, unknown to the model: {known}")


def _asked_tokens(body: GenerationBody, notes: Notes) -> tuple[str, int | None]:
    newer = body.max_completion_tokens if isinstance(body, ChatBody) else None
    if newer is None:
        return "max_tokens", body.max_tokens
    if body.max_tokens is not None and body.max_tokens != newer:
        notes.add("max_tokens", "ignored", "max_completion_tokens is set")
    return "max_completion_tokens", newer


def _min_tokens(body: GenerationBody, most: int, notes: Notes) -> int:
    least = body.min_tokens or 0
    asked = _asked_tokens(body, Notes())[1]
    if least > INT32_MAX or (asked is not None and least > asked):
        words = f"`min_tokens` ({least}) is larger than `max_tokens` ({most})"
        raise refusal("min_tokens", words)
    if least > most:
        notes.add("min_tokens", "clamped", f"{most} tokens")
    return min(least, most)


def _seed(seed: int | None) -> int | None:
    """Return any integer as one of 64 bits."""
    return seed if seed is None or -INT64 <= seed < INT64 else seed % INT64


def _stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    strings = [stop] if isinstance(stop, str) else stop or []
    return tuple(dict.fromkeys(filter(None, strings)))
