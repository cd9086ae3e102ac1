"""What a client asks for: the nouns that cross from an API surface into the engine."""

from collections.abc import Mapping
from typing import Any, Literal

from attrs import field, frozen
from attrs.validators import and_, ge, gt, le

INT32_MAX = 2**31 - 1


@frozen(kw_only=True)
class SamplingParams:
    """How the next token is drawn from the model's logits.

    Order of work: repetition, presence and frequency penalties, ``logit_bias``, a constraint's
    mask, temperature, then ``top_k``, ``top_p`` and ``min_p`` on the resulting distribution.

    Attributes:
        temperature: 0 is greedy (argmax).
        top_p: Keep the smallest set of tokens whose probabilities reach this sum; 1 is off.
        top_k: Keep the k most probable tokens; 0 is off.
        min_p: Keep tokens with at least this share of the best token's probability; 0 is off.
        seed: Draw from (seed, choice, position), so that the request repeats itself whatever runs
            beside it; ``None`` draws a fresh seed.
        presence_penalty: Subtracted once from the logit of each token generated so far.
        frequency_penalty: Subtracted per occurrence among the tokens generated so far.
        repetition_penalty: Divides positive and multiplies negative logits of every token of
            prompt and reply so far (CTRL, Keskar et al. 2019); 1 is off.
        logit_bias: Added to the logits of these tokens.
    """

    temperature: float = field(default=1.0, validator=and_(ge(0.0), le(100.0)))
    top_p: float = field(default=1.0, validator=and_(gt(0.0), le(1.0)))
    top_k: int = field(default=0, validator=and_(ge(0), le(INT32_MAX)))
    min_p: float = field(default=0.0, validator=and_(ge(0.0), le(1.0)))
    seed: int | None = None
    presence_penalty: float = field(default=0.0, validator=and_(ge(-2.0), le(2.0)))
    frequency_penalty: float = field(default=0.0, validator=and_(ge(-2.0), le(2.0)))
    repetition_penalty: float = field(default=1.0, validator=and_(gt(0.0), le(100.0)))
    logit_bias: Mapping[int, float] = field(factory=dict)

    @property
    def greedy(self) -> bool:
        """Whether no random number is needed."""
        return self.temperature == 0

    @property
    def penalised(self) -> bool:
        """Whether the tokens so far change the logits."""
        return (
            self.presence_penalty != 0
            or self.frequency_penalty != 0
            or self.repetition_penalty != 1
        )


@frozen(kw_only=True)
class StopConditions:
    """When a reply ends.

    Attributes:
        max_tokens: At most this many tokens are generated.
        min_tokens: End-of-sequence tokens are masked before this many.
        strings: The reply ends before the first occurrence of any of these in its text.
        skip: Pairs of markers between which no ``strings`` are looked for: a model's thinking, its
            calls. An empty second one stands for the end of the reply.
        within_skip: Whether the reply begins between the first pair.
        token_ids: The reply ends with any of these, besides the model's own end of sequence.
        ignore_eos: Go on past the model's end of sequence.
    """

    max_tokens: int = field(validator=and_(ge(0), le(INT32_MAX)))
    min_tokens: int = field(default=0, validator=and_(ge(0), le(INT32_MAX)))
    strings: tuple[str, ...] = ()
    skip: tuple[tuple[str, str], ...] = ()
    within_skip: bool = False
    token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False


@frozen(kw_only=True)
class Pooling:
    """What is wanted of texts in place of replies: a vector for each.

    The prompt of a request with a ``Pooling`` is all its texts, one after the other; none of them
    sees another, nothing is generated, and no cached KV is read or left behind.

    Attributes:
        lengths: Tokens of each text, at least one, in the order of the prompt.
        kind: ``mean`` of a text's last hidden states, or that of its ``last`` token.
        logits: Token ids: with some, a text's vector has the logits of these as its next token,
            in place of a hidden state; ``kind`` is then ``last``.
    """

    lengths: tuple[int, ...] = field(repr=False)
    kind: Literal["mean", "last"] = "mean"
    logits: tuple[int, ...] = ()


@frozen(kw_only=True)
class GenerationRequest:
    """One prompt and what is to be generated after it.

    Attributes:
        id: Unique among the requests alive.
        prompt: Token ids, at least one.
        sampling: How tokens are drawn.
        stop: When the reply ends.
        choices: How many replies; they share one prefill.
        logprobs: Report each token's log-probability and this many most probable ones.
        prompt_logprobs: The same for the prompt's tokens.
        priority: Lower runs earlier, under a policy that looks at it.
        cache_salt: Requests share cached KV only with requests of the same salt.
        prediction: Tokens that the reply is expected to resemble, for a proposer.
        constraint: What the client demands of the reply's form, as the API surface received it;
            read by the plugin that answers ``make_constraint``.
        tenant: Who asks, for fair shares and limits; never a secret.
        request_timeout: Seconds from arrival to the last token; ``None`` is unlimited.
        first_token_timeout: Seconds from arrival to the first token; ``None`` is unlimited.
        skip_special_tokens: Leave special tokens out of the text.
        continues: Whether the text goes on with the prompt's, so that it begins as the tokenizer
            would decode it there (a SentencePiece tokenizer's leading space); else it stands alone.
        pooling: Vectors are wanted, and no reply: ``stop.max_tokens`` is 0, ``choices`` 1.
        parting: Lengths of the prompt, in tokens, at which others that begin alike may part from
            it: recurrent state is kept before each.
    """

    id: str
    prompt: tuple[int, ...] = field(repr=False)
    sampling: SamplingParams
    stop: StopConditions
    choices: int = field(default=1, validator=ge(1))
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    priority: int = 0
    cache_salt: str = ""
    prediction: tuple[int, ...] = field(default=(), repr=False)
    constraint: Mapping[str, Any] | None = field(default=None, repr=False)
    tenant: str = ""
    request_timeout: float | None = None
    first_token_timeout: float | None = None
    skip_special_tokens: bool = True
    continues: bool = False
    pooling: Pooling | None = None
    parting: tuple[int, ...] = field(default=(), repr=False)
