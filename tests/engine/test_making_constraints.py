"""A constraint that takes long to make holds up its own request, and nobody else."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import pytest
from attrs import define, field

from mlxserve.hooks import failures
from mlxserve_hookspecs import Constraint, GenerationRequest, Markup, RequestError, hookimpl
from mlxserve_plugins.structured import Structured

from .harness import Bench, bench, plain, prompt, request
from .test_structured import Bytes, model

SLOW = {"type": "slow"}
EARLY = {"type": "array made on a thread that has no device"}
WAIT = 120.0
TOKEN = 65


def only(vocab: int) -> Any:
    return mx.arange(vocab) == TOKEN


class Only:
    """Allows one token."""

    finished = False

    def __init__(self, vocab: int, made: Any = None) -> None:
        self.vocab, self.made = vocab, made

    def mask(self) -> Any:
        return only(self.vocab) if self.made is None else self.made

    def advance(self, tokens: Sequence[int]) -> None:
        pass

    def rollback(self, count: int) -> None:
        pass


@define(eq=False)
class Slow:
    """Makes constraints when it is told to; notes on which threads."""

    go: threading.Event = field(factory=threading.Event)
    begun: threading.Event = field(factory=threading.Event)
    error: Exception | None = None
    threads: list[str] = field(factory=list)
    made: list[str] = field(factory=list)

    @hookimpl
    def make_constraint(self, request: GenerationRequest, vocab_size: int) -> Constraint | None:
        self.threads.append(threading.current_thread().name)
        self.begun.set()
        assert self.go.wait(WAIT)
        if self.error is not None:
            raise self.error
        self.made.append(request.id)
        if request.constraint == {"type": "nothing"}:
            return None
        return Only(vocab_size, only(vocab_size) if request.constraint == EARLY else None)


@pytest.fixture
def slow() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.go.set()


def until(it: Bench, holds: Callable[[], bool]) -> None:
    """Step until something holds."""
    deadline = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < deadline
        it.step()


def ended(it: Bench, name: str) -> bool:
    return any(event.finish for event in it.replies.of(name))


def test_those_behind_it_pass_while_it_queues(slow: Slow) -> None:
    it = bench(model(), slow)
    it.submit(request("form", prompt(20), 6, constraint=SLOW))
    it.submit(request("free", prompt(33), 24))
    until(it, lambda: ended(it, "free"))
    assert it.replies.tokens("free") == plain(model(), prompt(33), 24)
    assert it.replies.of("form") == []
    assert it.engine.status().waiting == 1
    slow.go.set()
    it.run()
    assert it.replies.tokens("form") == [TOKEN] * 6
    assert slow.threads != [threading.current_thread().name]


def test_every_choice_has_its_constraint_before_the_first_token(slow: Slow) -> None:
    it = bench(model(), slow)
    slow.go.set()
    it.submit(request("form", prompt(20), 4, constraint=SLOW, choices=3))
    it.run()
    assert [it.replies.tokens("form", choice) for choice in range(3)] == [[TOKEN] * 4] * 3
    assert slow.made == ["form"] * 3


def test_a_request_is_taken_back_while_its_constraint_is_made(slow: Slow) -> None:
    it = bench(model(), slow)
    for name in ("form", "never"):
        it.submit(request(name, prompt(20), 6, constraint=SLOW, choices=2))
    until(it, slow.begun.is_set)
    for name in ("form", "never"):
        it.cancel(name)
    it.step()
    for name in ("form", "never"):
        assert {it.replies.finish(name, choice).reason for choice in (0, 1)} == {"cancelled"}
    assert it.engine.scheduler.idle
    slow.go.set()
    it.submit(request("next", prompt(20), 3, constraint=SLOW))
    it.run()
    assert it.replies.tokens("next") == [TOKEN] * 3
    assert "never" not in slow.made  # it had not begun: nobody has to wait for it


def test_its_time_runs_out_while_its_constraint_is_made(slow: Slow) -> None:
    it = bench(model(), slow)
    it.submit(request("form", prompt(20), 6, constraint=SLOW, request_timeout=0.01))
    until(it, lambda: ended(it, "form"))
    assert it.replies.finish("form").error.status == 504


@pytest.mark.parametrize(
    ("error", "status"),
    [(RequestError(status=400, message="no", param="x"), 400), (RuntimeError("boom"), 500)],
    ids=["a client's mistake", "a bug"],
)
def test_what_making_it_raises_is_its_own_requests(
    slow: Slow, error: Exception, status: int
) -> None:
    it = bench(model(), slow)
    slow.error = error
    slow.go.set()
    it.submit(request("form", prompt(20), 6, constraint=SLOW, choices=2))
    it.submit(request("free", prompt(33), 24))
    it.run()
    found = [it.replies.finish("form", choice).error.status for choice in range(2)]
    assert found == [status] * 2
    assert it.replies.tokens("free") == plain(model(), prompt(33), 24)
    counted = {} if status == 400 else {("plugin-0", "make_constraint"): 1}
    assert failures(it.engine.plugins) == counted


def test_a_mask_that_cannot_be_computed_is_its_own_requests(slow: Slow) -> None:
    it = bench(model(), slow)
    slow.go.set()
    it.submit(request("form", prompt(20), 6, constraint=EARLY))
    it.submit(request("free", prompt(33), 24))
    it.run()
    assert it.replies.finish("form").error.status == 500
    assert it.replies.tokens("free") == plain(model(), prompt(33), 24)


def test_a_demand_that_nobody_meets_is_refused(slow: Slow) -> None:
    it = bench(model(), slow)
    slow.go.set()
    it.submit(request("form", prompt(20), 6, constraint={"type": "nothing"}))
    it.run()
    assert it.replies.finish("form").error.status == 400


def test_an_engine_that_ends_waits_for_no_constraint(slow: Slow) -> None:
    it = bench(model(), slow)
    it.submit(request("form", prompt(20), 6, constraint=SLOW))
    until(it, slow.begun.is_set)
    it.engine.abandon(RequestError(status=503, message="over"))
    assert it.replies.finish("form").error.status == 503


class Calling(Bytes):
    markup = Markup(tool_start="<tool_call>", tool_end="</tool_call>")


def tools(count: int) -> list[dict[str, Any]]:
    """Return an agent's tools: nested objects, lists, choices, long descriptions."""

    def parameters(at: int) -> dict[str, Any]:
        item = {
            "type": "object",
            "properties": {
                "old": {"type": "string", "description": "x" * 300},
                "new": {"type": "string"},
                "all": {"type": "boolean", "default": False},
            },
            "required": ["old", "new"],
        }
        properties = {
            f"path_{at}": {"type": "string", "description": "An absolute path. " * 20},
            "mode": {"type": "string", "enum": ["read", "write", "both", f"m{at}"]},
            "limit": {"type": "integer", "minimum": 0, "maximum": 2000},
            "edits": {"type": "array", "items": item, "minItems": 1},
            "options": {"type": "object", "properties": {"depth": {"type": "integer"}}},
            "glob": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "where": {"type": "string", "pattern": "^[a-z/]{1,40}$"},
        }
        return {"type": "object", "properties": properties, "required": [f"path_{at}", "edits"]}

    return [
        {"type": "function", "function": {"name": f"tool_{at}", "parameters": parameters(at)}}
        for at in range(count)
    ]


def test_an_agents_tools_are_compiled_while_others_decode() -> None:
    it = bench(model(), Structured(), text=Calling())
    it.submit(request("free", prompt(33), 3000))
    it.step(3)
    demand = {"type": "tool_choice", "tool_choice": "required", "tools": tools(60)}
    it.submit(request("calls", prompt(20), 12, constraint=demand))
    until(it, lambda: bool(it.engine.scheduler.waiting))
    before = len(it.replies.tokens("free"))
    until(it, lambda: not it.engine.scheduler.waiting)
    assert len(it.replies.tokens("free")) > before + 3
    until(it, lambda: ended(it, "calls"))
    assert it.replies.text("calls") == '<tool_call>{"'[:12]


def test_neighbours_of_a_grammar_get_a_token_in_every_step() -> None:
    def steps(*constraint: Any) -> int:
        it = bench(model(), Structured(), text=Bytes())
        for at, demand in enumerate(constraint):
            it.submit(request(f"form {at}", prompt(20 + at), 200, constraint=demand))
        until(it, lambda: all(not s.held_back for s in it.engine.scheduler.all) and not it.inbox)
        it.step(4)
        before = it.engine.steps
        it.submit(request("free", prompt(33), 40))
        until(it, lambda: ended(it, "free"))
        return it.engine.steps - before

    form = {"type": "regex", "regex": "[a-z]{300}"}
    assert steps(form, form, form) <= steps(None, None, None)
