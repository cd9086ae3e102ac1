"""A draft model changes the speed of a reply and nothing else."""

from functools import cache
from typing import Any

import pytest

from mlxserve.batch.plan import plan_kv
from mlxserve.batch.runner import Runner
from mlxserve.engine.build import pool_limits
from mlxserve.engine.hosted import Hosted
from mlxserve_hookspecs import ModelError
from mlxserve_plugins.draft import DraftModel, DraftOptions
from mlxserve_plugins.kv_quant import KvQuant, KvQuantOptions
from mlxserve_plugins.prefix_cache import PrefixCache

from .harness import Bench, Letters, bench, capacity, plain, prompt, request
from .speculating import always
from .tiny import VOCAB, shared_model, tiny_model

LENGTHS = (33, 5, 130, 70, 250, 2, 40, 90)
TOKENS = 24


@cache
def target() -> Any:
    return shared_model("qwen3", seed=1)


class OtherLetters(Letters):
    def token_bytes(self, token: int) -> bytes:
        return b"?" if token == 17 else super().token_bytes(token)


class OneModel:
    """A host whose every reference is one given model."""

    def __init__(self, model: Any, text: Any = None, *, compiled: bool = False) -> None:
        self.compiled = compiled
        self.model, self.draft_text, self.text = model, text or Letters(), Letters()
        self.hosted: Hosted | None = None

    def load(self, reference: str) -> Hosted:
        limits = pool_limits(capacity())
        plan = plan_kv(self.model, lambda _k, _v: None, limits, compiled=self.compiled)
        store = plan.store
        assert isinstance(store, Runner)
        self.hosted = Hosted(store, self.draft_text, VOCAB)
        return self.hosted


def drafting(model: Any, *plugins: object, context: int = 128, **changes: Any) -> Bench:
    draft = DraftModel(DraftOptions(model_path="draft", context_len=context))
    host = OneModel(model, compiled=changes.get("compiled", False))
    return bench(target(), draft, always(4), *plugins, host=host, **changes)


def accepted(it: Bench) -> float:
    usages = [e.finish.usage for e in it.replies.events if e.finish]
    kept = sum(u.accepted_draft_tokens for u in usages)
    lost = sum(u.rejected_draft_tokens for u in usages)
    return kept / (kept + lost)


@pytest.mark.parametrize("draft", ["itself", "another"])
@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("context", [16, 512])
def test_greedy_tokens_are_those_without_drafts(draft: str, count: int, context: int) -> None:
    model = target() if draft == "itself" else tiny_model("qwen3", seed=2)
    it = drafting(model, context=context)
    for length in LENGTHS[:count]:
        it.submit(request(str(length), prompt(length), TOKENS))
        it.step(2)
    it.run()
    for length in LENGTHS[:count]:
        assert it.replies.tokens(str(length)) == plain(target(), prompt(length), TOKENS)
    if draft == "itself" and context == 512:
        assert accepted(it) > 0.95
    if draft == "another":
        assert accepted(it) < 0.5


def test_compiled_chains_give_the_same_tokens() -> None:
    it = drafting(target(), context=512, compiled=True)
    for length in LENGTHS[:4]:
        it.submit(request(str(length), prompt(length), TOKENS))
        it.step(2)
    it.run()
    for length in LENGTHS[:4]:
        assert it.replies.tokens(str(length)) == plain(target(), prompt(length), TOKENS), length
    assert accepted(it) > 0.9


def test_rows_are_freed_with_their_sequences() -> None:
    it = drafting(target())
    host = it.engine.speculator.proposers[0].model.hosted_rows  # type: ignore[attr-defined]
    for length in LENGTHS:
        it.submit(request(str(length), prompt(length), TOKENS))
    it.step(6)
    assert host() > 0
    it.cancel("130")
    it.run()
    assert host() == 0


def test_drafts_work_with_quantized_kv_a_warm_cache_and_preemption() -> None:
    quant = KvQuant(KvQuantOptions(bits=8, attention="dequantize"))
    reference = bench(target(), KvQuant(KvQuantOptions(bits=8, attention="dequantize")))
    it = drafting(target(), quant, PrefixCache())
    for turn in ("cold", "warm"):
        for length in LENGTHS[:5]:
            it.submit(request(f"{turn} {length}", prompt(length), TOKENS))
        it.step(4)
        scheduler = it.engine.scheduler
        if scheduler.decoding:
            scheduler.preempt(scheduler.decoding[0])
        it.run()
    for length in LENGTHS[:5]:
        reference.submit(request(str(length), prompt(length), TOKENS))
    reference.run()
    for length in LENGTHS[:5]:
        for turn in ("cold", "warm"):
            assert it.replies.tokens(f"{turn} {length}") == reference.replies.tokens(str(length))


def test_a_seeded_reply_is_the_same_with_and_without_drafts() -> None:
    hot = {"temperature": 0.9, "seed": 3, "top_p": 0.9}
    without = bench(target())
    it = drafting(target())
    for each in (it, without):
        each.submit(request("r", prompt(40), 40, sampling=hot))
        each.run()
    assert it.replies.tokens("r") == without.replies.tokens("r")


def test_another_vocabulary_is_refused() -> None:
    host = OneModel(target(), OtherLetters())
    draft = DraftModel(DraftOptions(model_path="draft"))
    with pytest.raises(ModelError, match="token 17"):
        bench(target(), draft, always(4), host=host)


def test_a_draft_model_must_be_named() -> None:
    with pytest.raises(Exception, match="--draft-model-path"):
        bench(target(), DraftModel(DraftOptions()), always(4), host=OneModel(target()))
