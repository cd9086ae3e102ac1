"""One broken plugin for each clause: what guesses and what shapes a reply."""

import itertools
from typing import Any

from attrs import evolve

from mlxserve.testing import (
    AcceptanceRuleContract,
    Bytes,
    ConstraintContract,
    Contract,
    DraftPlannerContract,
    MarkupContract,
    OutputParserContract,
    ProposerContract,
    StopConditionContract,
)
from mlxserve.testing.texts import WIDTH
from mlxserve_hookspecs import Draft, HiddenStates, Markup, OutputDelta, ReplyPart
from mlxserve_plugins.ngram import Ngram, NgramOptions
from mlxserve_plugins.repetition_guard import RepetitionGuard, RepetitionGuardOptions
from mlxserve_plugins.spec_decode import SpecDecode, SpecDecodeOptions
from mlxserve_plugins.structured import Structured
from mlxserve_plugins.tools import Tools
from mlxserve_plugins.tools.choosing import markup_for

from .breaking import But, answering, but, collected

_asked = itertools.count()


def proposer(**changes: Any) -> Any:
    return but(Ngram(NgramOptions()), "make_proposer", **changes)


def planner(**changes: Any) -> Any:
    plugin = SpecDecode(SpecDecodeOptions(dynamic=False, adaptive_k=False))
    return but(plugin, "make_draft_planner", **changes)


def rule(**changes: Any) -> Any:
    return but(SpecDecode(SpecDecodeOptions()), "make_acceptance_rule", **changes)


def each(change: Any) -> Any:
    """Return a ``propose`` whose drafts are changed."""
    return lambda p, batch: {uid: change(draft) for uid, draft in p.propose(batch).items()}


def scribble(_: Any, batch: Any) -> Any:
    for row in batch:
        if isinstance(row.tokens, list):
            row.tokens.append(1)
    return []


def grown_once(p: Any, batch: Any) -> Any:
    for row in batch:
        assert len(row.tokens) < 26
    return p.propose(batch)


def certain(p: Any, batch: Any) -> Any:
    import mlx.core as mx

    return {
        uid: Draft(draft.tokens, mx.ones((len(draft.tokens), WIDTH)))
        for uid, draft in p.propose(batch).items()
    }


PROPOSER = {
    "plugin_fits_the_hooks": answering(make_guesser=lambda: None),
    "it_guesses": proposer(propose=lambda p, batch: {}),
    "wants_rows_of_the_batch": proposer(wants=lambda p, batch: [3, 5, 7, 11, 13]),
    "drafts_are_for_rows_of_the_batch": proposer(
        propose=lambda p, batch: {**p.propose(batch), 3: Draft((1,))}
    ),
    "drafts_fit_their_room": proposer(propose=each(lambda d: Draft(d.tokens * 3 or (1,)))),
    "drafts_are_of_the_vocabulary": proposer(
        propose=each(lambda d: Draft(tuple(t + WIDTH for t in d.tokens)))
    ),
    "probabilities_are_distributions": proposer(propose=certain),
    "hidden_states_are_layers_and_tokens": proposer(
        hidden_states=lambda p: HiddenStates(layers=(-2,))
    ),
    "tokens_are_left_alone": proposer(wants=scribble),
    "rows_grow": proposer(propose=grown_once),
    "finished_rows_are_forgotten": proposer(finished=lambda p, uids: None),
    "engine_replies_the_same": proposer(propose=lambda p, batch: 1 / 0),
}

PLANNER = {
    "plugin_fits_the_hooks": answering(make_planner=lambda: None),
    "lengths_fit": planner(plan=lambda p, rows: {row.uid: 5 for row in rows}),
    "nobody_is_planned_nothing": planner(plan=lambda p, rows: {0: 1}),
    "it_learns_from_any_pass": planner(
        learn=lambda p, verdicts, seconds: [v.accepted / v.drafted for v in verdicts]
    ),
    "finished_rows_are_forgotten": planner(
        finished=lambda p, uids: [{2: 5}[uid] for uid in uids]
    ),
}  # fmt: skip


def one_more(r: Any, seen: Any) -> Any:
    counts, weights = r.accept(seen)
    return counts + 1, weights


def none_at_all(r: Any, seen: Any) -> Any:
    counts, _ = r.accept(seen)
    return counts * 0, seen.probabilities[:, 0]


def all_of_them(r: Any, seen: Any) -> Any:
    _, weights = r.accept(seen)
    return seen.lengths, weights


RULE = {
    "plugin_fits_the_hooks": answering(make_rule=lambda: None),
    "lossless_is_yes_or_no": rule(lossless="mostly"),
    "counts_and_weights_fit": rule(accept=one_more),
    "certain_drafts_stay": rule(accept=none_at_all),
    "impossible_drafts_go": rule(accept=all_of_them),
    "a_lossless_rule_is": rule(accept=all_of_them),
}

SHAPE = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
DEMAND = {
    "type": "json_schema",
    "json_schema": {"name": "x", "schema": {**SHAPE, "additionalProperties": False}},
}


def constraint(**changes: Any) -> Any:
    return but(Structured(), "make_constraint", **changes)


def nothing(_: Any = None) -> Any:
    import mlx.core as mx

    return mx.zeros((WIDTH,), mx.bool_)


def anything(_: Any) -> None:
    return None


def consume(c: Any) -> Any:
    mask = c.mask()
    c.advance([mask.tolist().index(True)])
    return mask


_one: list[Any] = []


def the_same(request: Any, text: Any, vocab_size: int) -> Any:
    if not _one:
        _one.append(Structured().make_constraint(request, text, vocab_size))
    return _one[0]


def always(request: Any, text: Any, vocab_size: int) -> Any:
    asked = evolve(request, constraint=DEMAND)
    return Structured().make_constraint(asked, text, vocab_size)


CONSTRAINT = {
    "plugin_fits_the_hooks": answering(make_mask=lambda request: None),
    "masks_are_as_wide_as_the_logits": constraint(mask=lambda c: c.mask()[:256]),
    "a_reply_begins_unfinished": constraint(finished=True),
    "asking_changes_nothing": constraint(mask=consume),
    "good_replies_are_allowed": constraint(mask=nothing),
    "bad_replies_are_not": constraint(mask=anything),
    "tokens_are_taken_back": constraint(rollback=lambda c, count: None),
    "tokens_come_alone_or_together": constraint(advance=lambda c, tokens: c.advance(tokens[:1])),
    "there_is_always_a_way_on": constraint(mask=nothing),
    "choices_are_apart": answering(make_constraint=the_same),
    "unknown_demands_are_left_to_others": answering(make_constraint=always),
}


def meddle(text: Any, template: str) -> Markup:
    text.markup = Markup(think_start="<think>")
    return Markup()


MARKUP = {
    "plugin_fits_the_hooks": answering(describe=lambda text: None),
    "answer_is_markup": answering(describe_markup=lambda text, template: {"think_start": "<t>"}),
    "nothing_else_changes": answering(describe_markup=meddle),
    "ranks_describe_alike": answering(
        describe_markup=lambda text, template: Markup(think_start=f"<{next(_asked)}>")
    ),
    "any_template_will_do": answering(
        describe_markup=lambda text, template: Markup(think_start=template[0])
    ),
}

CALL = '<tool_call>\n{"name": "look", "arguments": {"at": [1, "u"]}}\n</tool_call>'
REPLIES = (f"<think>Let me see.</think>I look. {CALL}\n{CALL} Soon.", "No call at all.")


def parser(**changes: Any) -> Any:
    return but(Tools(), "make_output_parser", **changes)


def changed(change: Any) -> Any:
    """Return what makes a parser whose answers are changed."""
    return parser(feed=lambda p, t: change(p.feed(t)), finish=lambda p: change(p.finish()))


def whole(p: Any, text: str) -> Any:
    """Read each piece as if it were a reply of its own."""
    return p.feed(text) + p.finish()


def careless(p: Any, text: str) -> Any:
    if "null" in text or "é" in text:
        raise ValueError(text)
    return p.feed(text)


def to_calls(change: Any) -> Any:
    return lambda delta: OutputDelta(
        content=delta.content,
        reasoning=delta.reasoning,
        parts=tuple(change(p) if p.kind == "call" else p for p in delta.pieces()),
    )


def again(part: ReplyPart) -> ReplyPart:
    return evolve(part, index=part.index + 1)


_shared: list[Any] = []


def one_parser(text: Any, tools: Any, reasoning: bool, forced: bool) -> Any:
    made = Tools().make_output_parser(text, tools, reasoning, forced)
    _shared.append(made)
    return But(made, {"feed": lambda p, t: _shared[0].feed(t)})


PARSER = {
    "plugin_fits_the_hooks": answering(make_parser=lambda text: None),
    "plain_text_is_content": parser(finish=lambda p: OutputDelta(content=" (end)")),
    "something_is_read": changed(lambda d: OutputDelta(content=d.content)),
    "streaming_changes_nothing": parser(feed=whole),
    "nothing_is_made_of_nothing": parser(
        feed=lambda p, t: p.feed(t) if t else OutputDelta(content=" ")
    ),
    "calls_are_json": changed(to_calls(lambda part: evolve(part, arguments=part.arguments + "}"))),
    "parts_tell_the_same_story": changed(to_calls(again)),
    "damage_is_survived": parser(feed=careless),
    "choices_are_apart": answering(make_output_parser=one_parser),
}


def condition(**changes: Any) -> Any:
    plugin = RepetitionGuard(RepetitionGuardOptions("stop"))
    return but(plugin, "make_stop_condition", **changes)


def nonsense(c: Any, token: int) -> Any:
    return "enough" if token == LOOP[-1] else None


def hates_the_unknown(c: Any, token: int) -> Any:
    return c.advance(bytes([token])[0])


def at_random(c: Any, token: int) -> Any:
    return "stop" if next(_asked) % 700 == 0 else None


_watches: list[Any] = []


def one_watch(request: Any, choice: int) -> Any:
    made = RepetitionGuard(RepetitionGuardOptions("stop")).make_stop_condition(request, choice)
    _watches.append(made)
    return But(made, {"advance": lambda c, token: _watches[-2].advance(token)})


LOOP = [7, 8, 9] * 500
STOP = {
    "plugin_fits_the_hooks": answering(make_stop=lambda request: None),
    "replies_end": condition(advance=nonsense),
    "other_replies_go_on": condition(advance=lambda c, token: "length"),
    "every_token_is_taken": condition(advance=hates_the_unknown),
    "ranks_end_alike": condition(advance=at_random),
    "choices_are_apart": answering(make_stop_condition=one_watch),
    "engine_serves_with_it": condition(advance=lambda c, token: 1 / 0),
}

TABLES = {
    StopConditionContract: STOP,
    ProposerContract: PROPOSER,
    DraftPlannerContract: PLANNER,
    AcceptanceRuleContract: RULE,
    ConstraintContract: CONSTRAINT,
    MarkupContract: MARKUP,
}
PARSERS: dict[type[Contract], Any] = {OutputParserContract: PARSER}
MARKED = Bytes(markup_for(Bytes(), "", "hermes", "think"))

TELLING = {"demand": DEMAND, "good": '{"a": 4}', "bad": '{"a": "x"}'}
globals().update(collected(TABLES, **TELLING, ended=LOOP, whole=range(288)))
globals().update(collected(PARSERS, replies=REPLIES, text=MARKED))
