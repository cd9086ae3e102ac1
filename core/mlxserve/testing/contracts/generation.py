"""The contracts of what shapes a reply: constraints, markup, output parsers."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from attrs import evolve
from pluggy import PluginManager

from mlxserve.testing.contracts.base import Contract, answer, call
from mlxserve.testing.texts import END, WIDTH, Bytes
from mlxserve_hookspecs import (
    Constraint,
    GenerationRequest,
    Markup,
    OutputDelta,
    OutputParser,
    RequestError,
    SamplingParams,
    StopConditions,
    TextCodec,
)
from mlxserve_hookspecs.generation import describe_markup, make_constraint, make_output_parser

MOST = 400
"""Tokens after which a reply under a constraint is given up."""

DAMAGE = ("<", ">", "[", "{", '"', "\\", "}", "]", "\n", "é", "🙂", "</", "null")


class ConstraintContract(Contract):
    """Of ``make_constraint``: what it allows can be ended, and what it forbids is forbidden.

    Override ``demand``, ``good`` and ``bad``.
    """

    hooks = (make_constraint,)

    @pytest.fixture
    def demand(self) -> Mapping[str, Any]:
        """Return a demand that the plugin answers, as ``GenerationRequest.constraint`` has it."""
        raise NotImplementedError("override the fixture `demand`")

    @pytest.fixture
    def good(self) -> str:
        """Return a reply that meets the demand."""
        raise NotImplementedError("override the fixture `good`")

    @pytest.fixture
    def bad(self) -> str:
        """Return a reply that does not."""
        raise NotImplementedError("override the fixture `bad`")

    @pytest.fixture
    def text(self) -> TextCodec:
        """Return the tokenizer."""
        return Bytes()

    @pytest.fixture
    def make(
        self, manager: PluginManager, demand: Mapping[str, Any], text: TextCodec
    ) -> Callable[[], Constraint]:
        """Return what makes the constraint of one more choice."""
        asked = request_with(demand)
        return lambda: answer(manager, make_constraint, request=asked, text=text, vocab_size=WIDTH)

    @pytest.fixture
    def constraint(self, make: Callable[[], Constraint]) -> Constraint:
        """Return the constraint of one choice."""
        return make()

    def test_masks_are_as_wide_as_the_logits(self, constraint: Constraint) -> None:
        """``mask`` is ``None``, or booleans ``[vocab_size]`` of which one at least is true."""
        import mlx.core as mx

        mask = constraint.mask()
        if mask is not None:
            assert (mask.shape, mask.dtype) == ((WIDTH,), mx.bool_)
            assert mask.any()

    def test_a_reply_begins_unfinished(self, constraint: Constraint) -> None:
        """Before the first token nothing is finished."""
        assert constraint.finished is False

    def test_asking_changes_nothing(self, constraint: Constraint, good: str) -> None:
        """``mask`` is a question: asked again it answers the same."""
        constraint.advance(list(good.encode()[:1]))
        assert allowed(constraint) == allowed(constraint)

    def test_good_replies_are_allowed(self, constraint: Constraint, good: str) -> None:
        """Every token of a reply that meets the demand is allowed, and so is its end."""
        for at, token in enumerate(good.encode()):
            assert token in allowed(constraint), f"after {good.encode()[:at]!r}"
            constraint.advance([token])
        assert constraint.finished or END in allowed(constraint)

    def test_bad_replies_are_not(self, constraint: Constraint, bad: str) -> None:
        """A reply that does not meet the demand is stopped: by a mask, at its end at the latest."""
        for token in bad.encode():
            if constraint.finished or token not in allowed(constraint):
                return
            constraint.advance([token])
        assert not constraint.finished
        assert END not in allowed(constraint)

    def test_tokens_are_taken_back(self, constraint: Constraint, good: str) -> None:
        """``rollback`` undoes ``advance``: the masks are what they were, at every place."""
        tokens = list(good.encode())
        masks = []
        for token in tokens:
            masks.append(allowed(constraint))
            constraint.advance([token])
        for back in (1, len(tokens) - 1):
            constraint.rollback(back)
            place = len(tokens) - back
            assert allowed(constraint) == masks[place]
            constraint.advance(tokens[place:])

    def test_tokens_come_alone_or_together(self, make: Callable[[], Constraint], good: str) -> None:
        """``advance`` of several tokens is that of one after the other."""
        one, other = make(), make()
        tokens = list(good.encode())[:-1]
        one.advance(tokens)
        for token in tokens:
            other.advance([token])
        assert allowed(one) == allowed(other)

    def test_there_is_always_a_way_on(self, make: Callable[[], Constraint]) -> None:
        """Whatever allowed tokens a model takes, a mask allows another, until it is finished."""
        for seed in range(3):
            constraint, dice = make(), random.Random(seed)
            for _ in range(MOST):
                if constraint.finished:
                    break
                open_ = sorted(allowed(constraint))
                assert open_, "nothing is allowed and nothing is finished"
                token = dice.choice(open_)
                if token == END:
                    break
                constraint.advance([token])

    def test_choices_are_apart(self, make: Callable[[], Constraint], good: str) -> None:
        """Two choices of one request have constraints that know nothing of each other."""
        one, other = make(), make()
        before = allowed(other)
        one.advance(list(good.encode())[:2])
        assert allowed(other) == before

    def test_unknown_demands_are_left_to_others(
        self, manager: PluginManager, text: TextCodec
    ) -> None:
        """A demand of another kind is passed on, or refused with a ``RequestError``."""
        asked = request_with({"type": "a kind that nobody has heard of"})
        try:
            found = call(manager, make_constraint, request=asked, text=text, vocab_size=WIDTH)
        except RequestError:
            return
        assert found is None


def request_with(demand: Mapping[str, Any]) -> GenerationRequest:
    """Return a request that makes ``demand``."""
    return GenerationRequest(
        id="constrained",
        prompt=(1, 2, 3),
        sampling=SamplingParams(),
        stop=StopConditions(max_tokens=MOST),
        constraint=demand,
    )


def allowed(constraint: Constraint) -> frozenset[int]:
    """Return the tokens that may come next."""
    mask = constraint.mask()
    flags = [True] * WIDTH if mask is None else mask.tolist()
    return frozenset(token for token, open_ in enumerate(flags) if open_ and token <= END)


class MarkupContract(Contract):
    """Of ``describe_markup``: one description, the same on every rank."""

    hooks = (describe_markup,)

    @pytest.fixture
    def template(self) -> str:
        """Return the source of a chat template whose marks the plugin knows."""
        return ""

    @pytest.fixture
    def text(self) -> TextCodec:
        """Return the model's tokenizer."""
        return Bytes()

    def test_answer_is_markup(self, manager: PluginManager, text: TextCodec, template: str) -> None:
        """The answer is a ``Markup``, or ``None`` for a template that is another's."""
        found = call(manager, describe_markup, text=text, template=template)
        assert found is None or isinstance(found, Markup)

    def test_nothing_else_changes(
        self, manager: PluginManager, text: TextCodec, template: str
    ) -> None:
        """The codec's own markup is the core's to change."""
        before = text.markup
        call(manager, describe_markup, text=text, template=template)
        assert text.markup is before

    def test_ranks_describe_alike(
        self, manager: PluginManager, text: TextCodec, template: str
    ) -> None:
        """The same template is described the same again: every rank asks its own plugin."""
        one, other = (
            call(manager, describe_markup, text=text, template=template) for _ in range(2)
        )
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert evolve(one, parse_call=None) == evolve(other, parse_call=None)

    def test_any_template_will_do(self, manager: PluginManager, text: TextCodec) -> None:
        """A template that is empty or no template at all is no mistake."""
        for template in ("", "{%", "{{ messages }}", "\x00"):
            found = call(manager, describe_markup, text=text, template=template)
            assert found is None or isinstance(found, Markup)


class OutputParserContract(Contract):
    """Of ``make_output_parser``: a reply comes apart the same way however it streams.

    Override ``replies``, and ``text`` or ``tools`` where the plugin looks at them.
    """

    hooks = (make_output_parser,)

    @pytest.fixture
    def text(self) -> TextCodec:
        """Return the tokenizer, whose markup the plugin reads replies by."""
        return Bytes()

    @pytest.fixture
    def tools(self) -> Sequence[Mapping[str, Any]] | None:
        """Return the request's tools."""
        return [{"type": "function", "function": {"name": "look", "parameters": {}}}]

    @pytest.fixture
    def replies(self) -> Sequence[str]:
        """Return replies as a model writes them, with every mark that the plugin knows."""
        raise NotImplementedError("override the fixture `replies`")

    @pytest.fixture
    def make(
        self, manager: PluginManager, text: TextCodec, tools: Sequence[Mapping[str, Any]] | None
    ) -> Callable[[], OutputParser]:
        """Return what makes the parser of one more choice."""
        return lambda: answer(
            manager, make_output_parser, text=text, tools=tools, reasoning=False, forced=False
        )

    def test_plain_text_is_content(self, make: Callable[[], OutputParser]) -> None:
        """Text without marks comes back whole, as content."""
        plain = "Hello, wörld. It is 3 o'clock 🙂\n\nBye."
        found = read(make(), [plain])
        assert (found.content, found.reasoning, calls_of(found)) == (plain, "", [])

    def test_something_is_read(
        self, make: Callable[[], OutputParser], replies: Sequence[str]
    ) -> None:
        """One of ``replies`` has thinking or a call: without, no other clause says anything."""
        assert any(
            delta.reasoning or calls_of(delta) for delta in (read(make(), [r]) for r in replies)
        )

    def test_streaming_changes_nothing(
        self, make: Callable[[], OutputParser], replies: Sequence[str]
    ) -> None:
        """A reply in pieces, however cut, is the reply as a whole."""
        for reply in replies:
            whole = facts(read(make(), [reply]))
            assert facts(read(make(), list(reply))) == whole
            for seed in range(5):
                assert facts(read(make(), cut(reply, seed))) == whole

    def test_nothing_is_made_of_nothing(
        self, make: Callable[[], OutputParser], replies: Sequence[str]
    ) -> None:
        """Empty text yields nothing, and an empty reply is empty."""
        assert facts(read(make(), [])) == ("", "", [])
        for reply in replies:
            assert facts(read(make(), ["", *reply, ""])) == facts(read(make(), [reply]))

    def test_calls_are_json(self, make: Callable[[], OutputParser], replies: Sequence[str]) -> None:
        """A call has a name; the fragments of its arguments, joined, are an object in JSON."""
        for reply in replies:
            for name, arguments in calls_of(read(make(), [reply])):
                assert name
                assert isinstance(json.loads(arguments), dict)

    def test_parts_tell_the_same_story(
        self, make: Callable[[], OutputParser], replies: Sequence[str]
    ) -> None:
        """A parser's parts, if it gives any, are all there is; calls count from 0 and end once."""
        for reply in replies:
            found = read(make(), list(reply))
            if not found.parts:
                continue
            for kind, whole in (("content", found.content), ("reasoning", found.reasoning)):
                assert "".join(p.text for p in found.parts if p.kind == kind) == whole
            pieces = [part for part in found.parts if part.kind == "call"]
            numbers = list(dict.fromkeys(part.index for part in pieces))
            assert numbers == list(range(len(numbers)))
            assert [part.index for part in pieces if part.done] == numbers

    def test_damage_is_survived(
        self, make: Callable[[], OutputParser], replies: Sequence[str]
    ) -> None:
        """Whatever a model writes is read without raising: cut short, doubled, out of order."""
        for reply in replies:
            for seed in range(20):
                dice = random.Random(seed)
                pieces = cut(reply, seed)
                dice.shuffle(pieces)
                pieces.insert(dice.randrange(len(pieces) + 1), dice.choice(DAMAGE))
                read(make(), pieces[: dice.randrange(len(pieces)) + 1])

    def test_choices_are_apart(
        self, make: Callable[[], OutputParser], replies: Sequence[str]
    ) -> None:
        """Two choices of one request have parsers that know nothing of each other."""
        for reply in replies:
            one, other = make(), make()
            one.feed(reply[: len(reply) // 2])
            assert facts(read(other, [reply])) == facts(read(make(), [reply]))


def read(parser: OutputParser, pieces: Sequence[str]) -> OutputDelta:
    """Return all that ``parser`` makes of a reply in ``pieces``."""
    found = OutputDelta()
    for piece in pieces:
        found += parser.feed(piece)
    return found + parser.finish()


def facts(delta: OutputDelta) -> tuple[str, str, list[tuple[str, str]]]:
    """Return content, reasoning and calls: what is left when it does not matter when."""
    return delta.content, delta.reasoning, calls_of(delta)


def calls_of(delta: OutputDelta) -> list[tuple[str, str]]:
    """Return each call's name and arguments."""
    pieces = [part for part in delta.pieces() if part.kind == "call"]
    return [
        (
            "".join(part.name for part in pieces if part.index == index),
            "".join(part.arguments for part in pieces if part.index == index),
        )
        for index in dict.fromkeys(part.index for part in pieces)
    ]


def cut(text: str, seed: int) -> list[str]:
    """Return ``text`` in pieces of 1 to 6 characters."""
    dice, pieces = random.Random(seed), []
    while text:
        size = dice.randint(1, 6)
        pieces.append(text[:size])
        text = text[size:]
    return pieces or [""]
