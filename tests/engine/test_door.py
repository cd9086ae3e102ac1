"""A plugin of each family that misbehaves: named, counted, and nobody else is harmed."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache, partial
from typing import Any

import mlx.core as mx
import pytest
from attrs import define
from structlog.testing import capture_logs

from mlxserve.door import PluginCrashError
from mlxserve.hooks import ask, book_of
from mlxserve.loading import register
from mlxserve.pool.codec import PlainCodec
from mlxserve_hookspecs import (
    Draft,
    DraftRequest,
    OutputDelta,
    Verification,
    generation,
    hookimpl,
    scheduling,
)
from mlxserve_plugins.fcfs import FcfsPolicy
from mlxserve_plugins.prefix_cache import LeastRecentlyUsed, PrefixCache

from .harness import Bench, Letters, bench, failures_of, plain, prompt, request
from .speculating import Scripted, always
from .tiny import shared_model

HANG_S = 5.0 if os.environ.get("MLXSERVE_TEST_LONG") else 0.3
"""Longer than a call may take; five seconds tell no more."""

SPECULATES = ("proposer", "planner", "rule")


@cache
def model(architecture: str = "llama") -> Any:
    return shared_model(architecture, seed=3)


class Tier:
    """A tier that works; a store of states that takes none, too."""

    name = "tier"
    wants_fresh = True
    medium = "host"

    def __init__(self) -> None:
        self.blocks: dict[bytes, Any] = {}

    def room(self) -> int:
        return 1000

    def lookup(self, keys: Sequence[Any]) -> int:
        held = [key.hash in self.blocks for key in keys]
        return held.index(False) if False in held else len(held)

    def fetch(self, keys: Sequence[Any]) -> "Future[Any]":
        return done([self.blocks[key.hash] for key in keys])

    def store(self, blocks: Any, state: Any = None) -> Any:
        if state is None:
            self.blocks |= {block.key.hash: block for block in blocks}
        return ()

    def shrink(self, states: int) -> Sequence[Any]:
        return ()

    def held(self) -> int:
        return len(self.blocks)

    def clear(self) -> int:
        return 0

    def stats(self) -> Mapping[str, float]:
        return {"blocks": float(len(self.blocks))}

    def flush(self, timeout: float) -> bool:
        return True

    def close(self) -> None:
        pass


class Free:
    """A constraint that forbids nothing."""

    finished = False

    def mask(self) -> Any:
        return None

    def advance(self, tokens: Sequence[int]) -> None:
        pass

    def rollback(self, count: int) -> None:
        pass


class Keep:
    """Accepts every draft."""

    lossless = False

    def accept(self, verification: Verification) -> Any:
        return verification.lengths, verification.probabilities[:, -1]


class Planner:
    def plan(self, rows: Sequence[Any]) -> Mapping[int, int]:
        return {row.uid: min(2, row.most) for row in rows}

    def learn(self, verdicts: Sequence[Any], seconds: float) -> None:
        pass

    def finished(self, uids: Sequence[int]) -> None:
        pass


def done(value: Any) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def guess(row: DraftRequest) -> Draft:
    """Return a sampled draft: only such ones are put to a rule."""
    vocab = mx.arange(256)[None] == 1
    return Draft((1,), vocab.astype(mx.float32))


@define(eq=False)
class Made:
    """A plugin of one hook."""

    make: Any


def makes(hook: str, thing: Any) -> Made:
    """Return a plugin that answers ``hook`` with ``thing``."""

    @hookimpl(specname=hook)
    def make() -> Any:
        return thing

    return Made(make)


def spoilt(good: Any, faults: Mapping[str, Callable[..., Any]]) -> Any:
    """Return ``good`` with methods that answer as ``faults`` do; ``...`` is as it would itself."""

    def bad(fault: Callable[..., Any], theirs: Any, *args: Any) -> Any:
        answer = fault(*args)
        return theirs(*args) if answer is ... and theirs is not None else answer

    mine = {n: partial(bad, fault, getattr(good, n, None)) for n, fault in faults.items()}
    names = {n: getattr(good, n) for n in dir(good) if not n.startswith("__")}
    return type(f"Spoilt{type(good).__name__}", (), names | mine)()


def raises(*_: Any) -> Any:
    raise RuntimeError("boom")


def wrong(*_: Any) -> Any:
    return {"wrong"}


def hangs() -> Callable[..., Any]:
    """Return what hangs once, and then does its work."""
    waits = iter([HANG_S])

    def once(*_: Any) -> Any:
        time.sleep(next(waits, 0.0))
        return ...

    return once


Flood = Callable[..., Any] | None
FAMILIES: dict[str, tuple[str, Callable[[], Any], dict[str, Flood]]] = {
    # By family: its hook, a good one, and methods of it with the flood that each may answer.
    "policy": (
        "make_policy",
        FcfsPolicy,
        {
            "order": lambda waiting, now: [*waiting, *waiting] * 500,
            "prefill_tokens": None,
            "victim": None,
        },
    ),
    "eviction": (
        "make_eviction_policy",
        LeastRecentlyUsed,
        {"victims": None, "unused": None, "used": None},
    ),
    "tier": (
        "make_cache_tier",
        Tier,
        {
            "lookup": lambda keys: 1 << 40,
            "fetch": lambda keys: done([None] * 100_000),
            "store": None,
            "room": None,
            "stats": None,
            "query": None,
        },
    ),
    "state": (
        "make_state_store",
        Tier,
        {"lookup": lambda keys: 1 << 40, "store": None, "stats": None},
    ),
    "proposer": (
        "make_proposer",
        lambda: Scripted(guess),
        {
            "wants": None,
            "propose": lambda batch: {row.uid: Draft((1,) * 100_000) for row in batch},
            "finished": None,
        },
    ),
    "planner": ("make_draft_planner", Planner, {"plan": None, "learn": None, "finished": None}),
    "rule": (
        "make_acceptance_rule",
        Keep,
        {"accept": lambda v: (mx.zeros((999,)), mx.zeros((999, 9)))},
    ),
}
CASES = [
    pytest.param(family, kind, id=f"a {family} that {kind}")
    for family, (_, _, methods) in FAMILIES.items()
    for kind in ("raises", "answers wrongly", "hangs", "floods")
    if kind != "floods" or any(methods.values())
]


def faults_of(methods: Mapping[str, Flood], kind: str) -> dict[str, Callable[..., Any]]:
    if kind == "floods":
        return {name: flood for name, flood in methods.items() if flood is not None}
    fault = {"raises": raises, "answers wrongly": wrong, "hangs": hangs()}[kind]
    return dict.fromkeys(methods, fault)


def culprits(logs: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    told = ("plugin failed", "plugin is slow")
    return {(log["plugin"], log["hook"]) for log in logs if log["event"] in told}


def serve(it: Bench) -> None:
    """Let requests come twice, some of them sampled, until memory is full."""
    for turn in "ab":
        for length in (40, 50, 60):
            it.submit(request(f"{length}{turn}", prompt(length), 12))
        sampled = {"temperature": 1.0, "seed": 3}
        it.submit(request(f"sampled{turn}", prompt(33), 12, sampling=sampled))
        it.run(600)
    it.submit(request("90a", prompt(90), 60))
    it.submit(request("91a", prompt(91), 60))
    it.run(600)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_what_one_plugin_does_wrong_harms_nobody(family: str, kind: str) -> None:
    hook, good, methods = FAMILIES[family]
    bad = makes(hook, spoilt(good(), faults_of(methods, kind)))
    others: list[Any] = [makes("make_proposer", Scripted(guess))] if family in SPECULATES else []
    others += [always(2)] if family in SPECULATES else [PrefixCache()]
    architecture = "mamba2" if family == "state" else "llama"
    with capture_logs() as logs:
        it = bench(model(architecture), bad, *others, blocks=16)
        serve(it)
    for name in ("40a", "50a", "60a", "40b", "50b", "60b", "90a", "91a"):
        tokens = it.replies.tokens(name)
        assert it.replies.finish(name).error is None
        assert tokens == plain(model(architecture), prompt(int(name[:2])), len(tokens))
        assert len(tokens) >= 12
    assert it.replies.finish("sampledb").reason == "length"
    book = book_of(it.engine.plugins)
    counts = book.delays if kind == "hangs" else book.failures
    assert set(counts) == {("plugin-0", hook)}
    assert culprits(logs) == {("plugin-0", hook)}
    lines = sum(log["event"] == "plugin failed" for log in logs)
    assert lines <= book.failures.total().bit_length()  # a flood of failures is none of lines


CONSTRAINTS = {
    "raises": {"mask": raises},
    "raises where it learns": {"advance": raises},
    "answers wrongly": {"mask": wrong},
    "floods": {"mask": lambda: mx.ones((100_000,), mx.bool_)},
    "hangs": {"mask": hangs()},
}


@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_a_constraint_that_misbehaves_ends_its_own_request_only(kind: str) -> None:
    bad = makes("make_constraint", spoilt(Free(), CONSTRAINTS[kind]))
    with capture_logs() as logs:
        it = bench(model(), bad)
        it.submit(request("40", prompt(40)))
        it.submit(request("bad", prompt(20), constraint={"any": 1}))
        it.submit(request("41", prompt(41)))
        it.run()
    for name in ("40", "41"):
        assert it.replies.tokens(name) == plain(model(), prompt(int(name)), 12)
    error = it.replies.finish("bad").error
    assert error is None if kind == "hangs" else error.status == 500
    book = book_of(it.engine.plugins)
    counts = book.delays if kind == "hangs" else book.failures
    assert set(counts) == {("plugin-0", "make_constraint")} == culprits(logs)


class Odd(PlainCodec):
    """A codec that works until it is told to fail."""

    fault: Any = None

    def encode(self, x: Any, side: Any) -> Any:
        return super().encode(x, side) if Odd.fault is None else Odd.fault(x)


@pytest.mark.parametrize("fault", [raises, wrong], ids=["raises", "answers wrongly"])
def test_a_codec_that_misbehaves_ends_what_is_in_its_pass_and_nothing_else(
    fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        it = bench(model(), makes("make_kv_codec", Odd("odd", None)))
        it.submit(request("40", prompt(40)))
        it.step(4)
        with monkeypatch.context() as patch:
            patch.setattr(Odd, "fault", fault)
            it.step(2)
        it.submit(request("41", prompt(41)))
        it.run()
    assert it.replies.finish("40").error.status == 500
    assert it.replies.tokens("41") == plain(model(), prompt(41), 12)
    assert set(failures_of(it)) == {("plugin-0", "make_kv_codec")} == culprits(logs)


class Shouting:
    """A parser that works: it shouts."""

    def feed(self, text: str) -> OutputDelta:
        return OutputDelta(content=text.upper())

    def finish(self) -> OutputDelta:
        return OutputDelta(content="!")


PARSERS: dict[str, tuple[dict[str, Callable[..., Any]], str]] = {
    "raises": ({"feed": raises}, "ab"),
    "answers wrongly": ({"feed": wrong}, "ab"),
    "raises at the end": ({"finish": raises}, "AB"),
    "hangs": ({"feed": hangs()}, "AB!"),
}


@pytest.mark.parametrize("kind", PARSERS)
def test_a_parser_that_misbehaves_leaves_all_text_as_content(kind: str) -> None:
    faults, text = PARSERS[kind]
    manager = register({"bad": makes("make_output_parser", spoilt(Shouting(), faults))})
    make = ask(manager, generation.make_output_parser, forgiving=True)
    with capture_logs() as logs:
        parser = make(text=Letters(), tools=None, reasoning=False, forced=False)
        assert parser is not None
        said = [parser.feed("a"), parser.feed("b"), parser.finish()]
    assert "".join(delta.content for delta in said) == text
    book = book_of(manager)
    counts = book.delays if kind == "hangs" else book.failures
    assert counts == {("bad", "make_output_parser"): 1}
    assert culprits(logs) == {("bad", "make_output_parser")}


@pytest.mark.parametrize("answer", [3, object()], ids=["a number", "an object"])
def test_what_is_no_parser_is_named_and_the_next_plugin_is_asked(answer: Any) -> None:
    plugins = {
        "bad": makes("make_output_parser", answer),
        "good": makes("make_output_parser", Shouting()),
    }
    make = ask(register(plugins), generation.make_output_parser, forgiving=True)
    with capture_logs() as logs:
        parser = make(text=Letters(), tools=None, reasoning=False, forced=False)
    assert parser is not None
    assert parser.feed("a").content == "A"
    assert culprits(logs) == {("bad", "make_output_parser")}


class Narrow(FcfsPolicy):
    def prefill_tokens(self) -> int:  # type: ignore[override]
        return 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (3, r"the int that it made has no order\(waiting, now\)"),
        (Narrow(), r"the Narrow that it made has a prefill_tokens that does not take \(load\)"),
    ],
    ids=["a number", "a method that takes less"],
)
def test_what_is_no_policy_ends_the_start_with_the_plugin_its_version_and_the_fault(
    answer: Any, words: str
) -> None:
    manager = register({"bad": makes("make_policy", answer)}, {"bad": "mlxserve-bad 1.2"})
    culprit = r"^plugin 'bad' \(mlxserve-bad 1\.2\) failed in make_policy: "
    with pytest.raises(PluginCrashError, match=culprit + words):
        ask(manager, scheduling.make_policy)()


WAITS = {"query": "QUERY_WAIT", "fetch": "LOAD_WAIT"}

# -- what comes later ------------------------------------------------------------------------------


class Remote(Tier):
    """A tier that has to ask elsewhere: it knows when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[bytes] = set()
        self.queries: list[Future[object]] = []
        self.fetches: list[Future[Any]] = []
        self.slow = False

    def query(self, keys: Sequence[Any]) -> "Future[object]":
        self.queries.append(Future())
        return self.queries[-1]

    def lookup(self, keys: Sequence[Any]) -> int:
        return super().lookup([key for key in keys if key.hash in self.known])

    def learn(self) -> None:
        """Know of all that was stored."""
        self.known = set(self.blocks)

    def fetch(self, keys: Sequence[Any]) -> "Future[Any]":
        self.fetches.append(Future() if self.slow else super().fetch(keys))
        return self.fetches[-1]


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let requests wait as long as a slow machine makes them."""
    monkeypatch.setattr("mlxserve.cache.restoring.QUERY_WAIT", 600.0)
    monkeypatch.setattr("mlxserve.cache.restoring.LOAD_WAIT", 600.0)


def filled() -> tuple[Remote, Bench]:
    """Return a tier that holds a prompt of 60 tokens and does not know, and an engine above it."""
    tier = Remote()
    it = bench(model(), makes("make_cache_tier", tier))
    it.submit(request("first", prompt(60), 8))
    it.step()
    tier.queries.pop().set_result(None)
    it.run()
    assert len(tier.blocks) >= 3
    return tier, it


@pytest.mark.usefixtures("_patient")
def test_a_request_waits_for_a_tier_that_asks_elsewhere_and_nobody_else_does() -> None:
    tier, it = filled()
    it.submit(request("60", prompt(60), 8))
    it.step(2)
    (query,) = tier.queries
    it.submit(request("20", prompt(20), 8))
    it.step()
    tier.queries[1].set_result(None)
    for _ in range(40):
        it.step()
        if any(event.finish for event in it.replies.of("20")):
            break
    assert it.replies.tokens("20") == plain(model(), prompt(20), 8)
    assert it.replies.of("60") == []
    tier.learn()
    query.set_result("whatever")
    it.run()
    assert it.replies.tokens("60") == plain(model(), prompt(60), 8)
    assert it.replies.finish("60").usage.cached_by_tier == {"tier": 48}
    assert len(tier.queries) == 2
    assert not failures_of(it)


@pytest.mark.parametrize("where", WAITS)
@pytest.mark.usefixtures("_patient")
def test_what_never_comes_is_a_miss_and_is_counted(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier, it = filled()
    monkeypatch.setattr(f"mlxserve.cache.restoring.{WAITS[where]}", 0.05)
    tier.slow = True
    it.submit(request("60", prompt(60), 8))
    it.step()
    if where == "fetch":
        tier.learn()
        tier.queries[0].set_result(None)
    with capture_logs() as logs:
        it.run()
    assert it.replies.tokens("60") == plain(model(), prompt(60), 8)
    assert it.replies.finish("60").usage.cached_tokens == 0
    assert failures_of(it) == {("plugin-0", "make_cache_tier"): 1}
    assert culprits(logs) == {("plugin-0", "make_cache_tier")}
    if where == "fetch":
        assert tier.fetches[0].cancelled()


@pytest.mark.usefixtures("_patient")
@pytest.mark.parametrize("where", ["query", "fetch"])
def test_a_request_that_leaves_takes_back_what_it_asked_for(where: str) -> None:
    tier, it = filled()
    tier.slow = True
    it.submit(request("60", prompt(60), 8))
    it.step()
    if where == "fetch":
        tier.learn()
        tier.queries[0].set_result(None)
        it.step()
    it.cancel("60")
    it.run()
    left = tier.queries[0] if where == "query" else tier.fetches[0]
    assert left.cancelled()
    assert not failures_of(it)
