"""Guess with a smaller model of the same vocabulary: faster replies of every kind."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import structlog
from attrs import define, frozen
from attrs.validators import and_, ge, le

from mlxserve_hookspecs import (
    Draft,
    DraftRequest,
    HostedModel,
    ModelError,
    ModelHost,
    Proposer,
    SettingError,
    hookimpl,
    option,
)

log = structlog.get_logger("mlxserve.draft")
SAMPLED: Final = 4096
"""Tokens that are compared, evenly spread, before a draft model is believed to fit."""


@frozen
class DraftOptions:
    """Speculation by a draft model."""

    model_path: str | None = option(None, "path to draft model", flag="--draft-model-path")
    model_quantize: str | None = option(
        None, "(deprecated) use a pre-quantized model instead", flag="--draft-model-quantize"
    )
    context_len: int = option(
        128,
        "draft prefill context length (max 512)",
        flag="--draft-context-len",
        check=and_(ge(1), le(512)),
    )


@define
class DraftModel:
    """Proposes for every row: each step's guesses for all rows are one batch."""

    options: DraftOptions

    @hookimpl
    def make_proposer(self, vocab_size: int, host: ModelHost) -> Proposer:
        """Load the draft model and check that it speaks the served model's tokens."""
        options = self.options
        if options.model_path is None:
            raise SettingError("a draft model is asked for and none named; add --draft-model-path")
        if options.model_quantize is not None:
            log.warning(
                "--draft-model-quantize is deprecated and does nothing: name a "
                "pre-quantized model in --draft-model-path"
            )
        model = host.load(options.model_path)
        check_vocabulary(host, model, vocab_size)
        return DraftProposer(model, vocab_size, options.context_len)


@frozen
class DraftProposer:
    """Runs the draft model ahead of the served one, greedily."""

    model: HostedModel
    vocab: int
    context: int

    def wants(self, batch: Sequence[DraftRequest]) -> Collection[int]:
        """Want every row."""
        return [row.uid for row in batch]

    def propose(self, batch: Sequence[DraftRequest]) -> Mapping[int, Draft]:
        """Return the draft model's guesses, up to the first that the served model cannot say."""
        found = self.model.continue_greedily(batch, self.context)
        return {uid: Draft(within(tokens, self.vocab)) for uid, tokens in found.items()}

    def finished(self, uids: Sequence[int]) -> None:
        """Free the rows."""
        self.model.forget(uids)


def within(tokens: tuple[int, ...], vocab: int) -> tuple[int, ...]:
    """Return ``tokens`` up to the first beyond ``vocab``: padding rows of a wider output layer."""
    for at, token in enumerate(tokens):
        if token >= vocab:
            return tokens[:at]
    return tokens


def check_vocabulary(host: ModelHost, model: HostedModel, vocab: int) -> None:
    """Compare tokens of the two models; output layers may be padded to different widths.

    Raises:
        ModelError: The same number means different text.
    """
    shared = min(vocab, model.vocab_size)
    for token in range(0, shared, max(shared // SAMPLED, 1)):
        ours, theirs = _text(host, token), _text(model, token)
        if ours != theirs:
            raise ModelError(
                f"the draft model has another vocabulary: token {token} is {theirs!r} there and "
                f"{ours!r} in the served model; draft and target must share one"
            )
    ours_end, theirs_end = host.text.eos_token_ids, model.text.eos_token_ids
    if ours_end != theirs_end:
        log.log(
            logging.WARNING,
            "the draft model ends replies with other tokens",
            target=sorted(ours_end),
            draft=sorted(theirs_end),
        )


def _text(holder: ModelHost | HostedModel, token: int) -> bytes | None:
    try:
        return holder.text.token_bytes(token)
    except (IndexError, KeyError, ValueError):  # past the tokenizer's own tokens
        return None
