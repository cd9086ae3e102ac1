"""What the core does where a plugin's object fails: as the hooks' specifications promise."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import field, frozen

from mlxserve_hookspecs import (
    AcceptanceRule,
    CacheTier,
    Constraint,
    Draft,
    DraftPlanner,
    EvictionPolicy,
    HiddenStateProposer,
    KvCodec,
    OutputDelta,
    OutputParser,
    PagedKvCodec,
    Proposer,
    RemoteCacheTier,
    SchedulingPolicy,
    StateStore,
    StopCondition,
)

Asked = Mapping[str, Any]
Sound = Callable[[Any, tuple[Any, ...], Asked], str]
"""Takes an answer, the call's arguments and the hook's; returns what is wrong, or nothing."""


@frozen(kw_only=True)
class Family:
    """How the objects of one hook are held.

    Attributes:
        instead: What counts as the answer where an object fails, by method or attribute: a value,
            or a function of the arguments. Where there is none, whoever asked is told.
        whole: The Protocol with what an object may have besides; where it lacks that, ``instead``
            answers.
        sound: What must hold of answers beyond their type, by method.
        patient: Methods that may take their time.
        final: Whether an object that has failed once is not asked again.
    """

    instead: Mapping[str, Any] = field(factory=dict)
    whole: type | None = None
    sound: Mapping[str, Sound] = field(factory=dict)
    patient: frozenset[str] = frozenset()
    final: bool = False


def _part(answer: Any, args: tuple[Any, ...], _: Asked) -> str:
    named = [c.uid for c in answer]
    if len(named) != len(set(named)):
        return "names a candidate twice"
    return "" if {c.uid for c in args[0]}.issuperset(named) else "names one that is not there"


def _one(answer: Any, args: tuple[Any, ...], asked: Asked) -> str:
    return "" if answer is None else _part([answer], args, asked)


def _count(answer: int, args: tuple[Any, ...], _: Asked) -> str:
    return "" if 0 <= answer <= len(args[0]) else f"counted {answer} of {len(args[0])}"


def _drafts(answer: Mapping[int, Draft], args: tuple[Any, ...], asked: Asked) -> str:
    rooms, vocab = {row.uid: row.room for row in args[0]}, asked["vocab_size"]
    for uid, draft in answer.items():
        if uid not in rooms:
            return f"has a draft for {uid}, which nobody asked for"
        if len(draft.tokens) > rooms[uid]:
            return f"has a draft of {len(draft.tokens)} tokens where there is room for {rooms[uid]}"
        if not all(isinstance(t, int) and 0 <= t < vocab for t in draft.tokens):
            return "has a draft that is not of this vocabulary"
        held = draft.probabilities
        if held is not None and tuple(held.shape) != (len(draft.tokens), vocab):
            return f"has probabilities {held.shape}, not {(len(draft.tokens), vocab)}"
    return ""


def _mask(answer: Any, _: tuple[Any, ...], asked: Asked) -> str:
    if answer is None:
        return ""
    shape, dtype = getattr(answer, "shape", None), str(getattr(answer, "dtype", ""))
    fine = shape == (asked["vocab_size"],) and dtype.endswith("bool")
    return "" if fine else f"is {dtype} {shape}, not booleans [{asked['vocab_size']}]"


def _accepted(answer: Any, args: tuple[Any, ...], _: Asked) -> str:
    rows, _width, vocab = args[0].probabilities.shape
    shapes = [getattr(part, "shape", None) for part in answer]
    fine = shapes == [(rows,), (rows, vocab)]
    return "" if fine else f"answered shapes {shapes}, not [{rows}] and [{rows}, {vocab}]"


HOLDS_NOTHING: Final = {"name": "failed", "lookup": 0, "store": (), "clear": 0, "stats": {}}
PATIENT: Final = frozenset({"flush", "close", "clear"})
FAMILIES: Final[Mapping[type, Family]] = {
    SchedulingPolicy: Family(
        instead={
            "order": lambda waiting, _now: sorted(waiting, key=lambda c: c.arrived),
            "prefill_tokens": lambda load: load.chunk_shared if load.decoding else load.chunk_alone,
            "victim": lambda running, _now: max(running, key=lambda c: c.arrived, default=None),
        },
        sound={"order": _part, "victim": _one},
    ),
    EvictionPolicy: Family(instead={"name": "failed", "unused": None, "used": None, "victims": ()}),
    CacheTier: Family(
        instead=HOLDS_NOTHING
        | {"wants_fresh": False, "room": 0, "query": None, "fetch": (), "held": 0}
        | {"flush": False, "close": None},
        whole=RemoteCacheTier,
        sound={"lookup": _count},
        patient=PATIENT,
    ),
    StateStore: Family(
        instead=HOLDS_NOTHING | {"medium": "device", "fetch": None, "shrink": (), "close": None},
        sound={"lookup": _count},
        patient=PATIENT,
    ),
    # A codec whose own kernel fails is asked as if it had none; its other methods have to work.
    KvCodec: Family(instead={"pages": False, "attend_pages": None}, whole=PagedKvCodec),
    Proposer: Family(
        instead={"wants": (), "propose": {}, "finished": None, "hidden_states": None},
        whole=HiddenStateProposer,
        sound={"propose": _drafts},
    ),
    DraftPlanner: Family(instead={"plan": {}, "learn": None, "finished": None}),
    AcceptanceRule: Family(
        # No draft stays: the next token is drawn from the model's own distribution.
        instead={"lossless": True, "accept": lambda v: (v.lengths * 0, v.probabilities[:, 0])},
        sound={"accept": _accepted},
    ),
    Constraint: Family(sound={"mask": _mask}),
    StopCondition: Family(instead={"advance": None}, final=True),
    OutputParser: Family(
        instead={"feed": lambda text: OutputDelta(content=text), "finish": OutputDelta()},
        final=True,
    ),
}
LOOSE: Final = Family()
"""What holds for every other Protocol: who asked is told."""
