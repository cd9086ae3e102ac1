"""An engine around a tiny model, stepped by hand: no thread, no tokenizer files."""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
from attrs import define, field, frozen
from mlx_lm.generate import generate_step

from mlxserve.batch.decoder import Decoder
from mlxserve.batch.embedder import Embedder
from mlxserve.batch.plan import plan_kv
from mlxserve.batch.prefill import Prefiller
from mlxserve.batch.proven import Memory
from mlxserve.cache.blocks import BlockCache
from mlxserve.cache.build import make_cache
from mlxserve.engine.build import codec_maker, make_speculator, pool_limits
from mlxserve.engine.engine import Engine
from mlxserve.engine.scheduler import Capacity, Scheduler
from mlxserve.hooks import ask, failures
from mlxserve.inbox import Cancel, Inbox, Submit
from mlxserve.loading import register
from mlxserve_hookspecs import (
    GenerationEvent,
    GenerationRequest,
    Markup,
    SamplingParams,
    SchedulingPolicy,
    StopConditions,
    TextCodec,
    scheduling,
)
from mlxserve_hookspecs.verdicts import Verdicts
from mlxserve_plugins.fcfs import FcfsPolicy

EOS = 0


class Letters:
    """A codec of one letter per token: enough for stop strings."""

    eos_token_ids = frozenset({EOS})
    special_token_ids = frozenset({EOS})
    markup = Markup()
    has_chat_template = False

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        del add_special_tokens
        return [ord(c) - 0x100 for c in text]

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        del skip_special_tokens
        return "".join(chr(0x100 + t) for t in tokens)

    def render_chat(self, messages: Sequence[Mapping[str, Any]], **_: Any) -> list[int]:
        return self.encode(str(messages))

    def token_bytes(self, token: int) -> bytes:
        return self.decode([token]).encode()

    def opens_thinking(self, prompt: Sequence[int]) -> bool:
        return False


def capacity(**changes: int) -> Capacity:
    values = {
        "decoding": 16,
        "prefilling": 4,
        "live": 32,
        "blocks": 4096,
        "block_size": 16,
        "chunk_alone": 2048,
        "chunk_shared": 64,
    }
    return Capacity(**(values | changes))


@define
class Replies:
    """What came back, by request id and choice."""

    events: list[GenerationEvent] = field(factory=list)

    def __call__(self, events: Sequence[GenerationEvent]) -> None:
        self.events += events

    def of(self, request_id: str, choice: int = 0) -> list[GenerationEvent]:
        return [e for e in self.events if (e.request_id, e.choice) == (request_id, choice)]

    def tokens(self, request_id: str, choice: int = 0) -> list[int]:
        return [t for e in self.of(request_id, choice) for t in e.tokens]

    def text(self, request_id: str, choice: int = 0) -> str:
        return "".join(e.text for e in self.of(request_id, choice))

    def logprobs(self, request_id: str, choice: int = 0) -> list[Any]:
        return [p for e in self.of(request_id, choice) for p in e.logprobs]

    def finish(self, request_id: str, choice: int = 0) -> Any:
        ends = [e.finish for e in self.of(request_id, choice) if e.finish]
        assert len(ends) == 1, f"{len(ends)} endings"
        return ends[0]


@frozen
class Remembered(Verdicts):
    """Verdicts of this process, which no file keeps.

    Attributes:
        model: Whom they are about; held, so that nobody else has its address.
    """

    model: Any = field(kw_only=True)
    _known: dict[str, Any] = field(factory=dict, init=False)

    def known(self) -> dict[str, Any]:
        return self._known

    def put(self, question: str, answer: Any) -> None:
        self._known[question] = answer


_proofs: dict[int, Memory] = {}


def proofs_of(model: Any) -> Memory:
    """Return what was proved of ``model`` here: proofs take longer than most tests do."""
    address = id(model)
    if address not in _proofs:
        _proofs[address] = Memory(str(address), Remembered("plans", model=model))
    return _proofs[address]


class NoHost:
    """Has no second model."""

    text = Letters()

    def embed(self, tokens: mx.array) -> mx.array:
        raise AssertionError("nobody was to embed anything")

    def logits(self, states: mx.array) -> mx.array:
        raise AssertionError("nobody was to ask for logits")

    def load(self, reference: str) -> Any:
        raise AssertionError(f"nobody was to load {reference}")


@define
class Bench:
    """An engine, its inbox and its replies."""

    engine: Engine
    inbox: Inbox
    replies: Replies

    def submit(self, request: GenerationRequest, seed: int | None = None) -> None:
        chosen = request.sampling.seed if seed is None else seed
        self.inbox.put(Submit(request, 0.0, chosen or 0))

    @property
    def cache(self) -> BlockCache:
        """The cache of a model that has blocks."""
        cache = self.engine.scheduler.cache
        assert isinstance(cache, BlockCache)
        return cache

    def cancel(self, request_id: str) -> None:
        self.inbox.put(Cancel(request_id))

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.engine.step()

    def run(self, limit: int = 5000) -> None:
        """Step until everything has ended."""
        for _ in range(limit):
            if not self.inbox and self.engine.scheduler.idle:
                return
            self.engine.step()
        raise AssertionError("the engine does not come to rest")


def bench(
    model: Any,
    *plugins: object,
    policy: SchedulingPolicy | None = None,
    vocab: int = 256,
    compiled: bool = False,
    identity: str = "tiny",
    host: Any = None,
    text: TextCodec | None = None,
    **changes: int,
) -> Bench:
    manager = register({f"plugin-{n}": p for n, p in enumerate(plugins)})
    limits = capacity(**changes)
    plan = plan_kv(
        model,
        codec_maker(manager),
        pool_limits(limits),
        compiled=compiled,
        memory=proofs_of(model),
    )
    chosen = policy or ask(manager, scheduling.make_policy)() or FcfsPolicy()
    inbox, replies = Inbox(), Replies()
    cache = make_cache(manager, plan, identity, limits.block_size, limits.blocks, wake=inbox.wake)
    speculator = make_speculator(manager, plan.store, vocab, host or NoHost())
    engine = Engine(
        plugins=manager,
        inbox=inbox,
        outbox=replies,
        text=text or Letters(),
        scheduler=Scheduler(plan.store, chosen, limits, cache),
        prefiller=Prefiller(plan.store, speculator.sights),
        decoder=Decoder(plan.store, vocab, speculator.sights),
        speculator=speculator,
        embedder=Embedder(model),
    )
    return Bench(engine, inbox, replies)


def failures_of(it: Bench) -> Mapping[tuple[str, str], int]:
    """Return how often each plugin failed, by plugin and hook."""
    return failures(it.engine.plugins)


def request(
    name: str, prompt: Sequence[int], max_tokens: int = 12, *, stop: Any = None, **changes: Any
) -> GenerationRequest:
    sampling = changes.pop("sampling", None) or {"temperature": 0.0}
    conditions = {"max_tokens": max_tokens, "ignore_eos": True} | (stop or {})
    return GenerationRequest(
        id=name,
        prompt=tuple(prompt),
        sampling=SamplingParams(**sampling),
        stop=StopConditions(**conditions),
        **changes,
    )


def prompt(length: int, seed: int = 0, vocab: int = 256) -> list[int]:
    """Return random tokens, none of them the end of sequence."""
    tokens = mx.random.randint(1, vocab, (length,), key=mx.random.key(1000 * seed + length))
    return list(tokens.tolist())  # type: ignore[arg-type]


def plain(model: Any, tokens: Sequence[int], count: int) -> list[int]:
    """Return mlx-lm's own greedy continuation, one sequence at a time."""
    steps = generate_step(mx.array(list(tokens)), model, max_tokens=count)
    return [int(token) for token, _ in steps][:count]
