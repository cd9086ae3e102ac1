"""Proposers see the hidden states of exactly the tokens that have run, however they ran."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import mlx.core as mx
import pytest
from attrs import define, field
from mlx_lm.models.cache import make_prompt_cache

from mlxserve.engine.hosted import Served
from mlxserve.model.taps import tap
from mlxserve_hookspecs import (
    Draft,
    DraftRequest,
    HiddenStates,
    ModelError,
    ModelHost,
    Proposer,
    hookimpl,
)
from mlxserve_plugins.prefix_cache import PrefixCache

from .harness import Bench, Letters, bench, failures_of, plain, prompt, request
from .speculating import Scripted, Turns
from .tiny import tiny_model

ARCHITECTURES = ("llama", "gemma3_text", "qwen3_next", "deepseek_v3")
LAYERS = (0, 1, -1)


@cache
def model_of(name: str) -> Any:
    """Return a model of this file's own: to watch it changes its layers' classes."""
    return tiny_model(name, seed=3)


class Recorder:
    """What the model itself gives: states of the layers of ``LAYERS``, by a plain pass."""

    def __init__(self, name: str) -> None:
        self.model = tiny_model(name, seed=3)
        self.taps = tap(self.model, LAYERS)

    def states(self, tokens: Sequence[int]) -> mx.array:
        cache = make_prompt_cache(self.model)
        _, states = self.taps.run(self.model, mx.array([list(tokens)]), cache)
        return mx.stack([each[0] for each in states], axis=1)


@define(eq=False)
class Lent:
    """A ``ModelHost`` without second models."""

    served: Served
    text: Any = field(factory=Letters)

    def embed(self, tokens: mx.array) -> mx.array:
        return self.served.embed(tokens)

    def logits(self, states: mx.array) -> mx.array:
        return self.served.logits(states)

    def load(self, reference: str) -> Any:
        raise AssertionError(f"nobody was to load {reference}")


@define(eq=False)
class Looker:
    """A plugin whose proposer keeps what it is shown; guesses are right now and then only.

    Attributes:
        wish: What it asks for.
        shown: By row: tokens so far, and the states.
        host: What lends it the model.
    """

    wish: HiddenStates
    replies: Mapping[tuple[int, ...], Sequence[int]] = field(factory=dict)
    shown: dict[int, list[tuple[tuple[int, ...], mx.array | None]]] = field(factory=dict)
    host: Any = None

    @hookimpl
    def make_proposer(self, host: ModelHost) -> Proposer:
        self.host = host
        return self

    def hidden_states(self) -> HiddenStates:
        return self.wish

    def wants(self, batch: Sequence[DraftRequest]) -> list[int]:
        return [row.uid for row in batch]

    def propose(self, batch: Sequence[DraftRequest]) -> dict[int, Draft]:
        drafts = {}
        for row in batch:
            self.shown.setdefault(row.uid, []).append((tuple(row.tokens), row.hidden))
            done = len(row.tokens) - row.prompt_tokens
            known = list(self.replies.get(tuple(row.tokens[: row.prompt_tokens]), ()))
            guess = [t ^ 1 if (done + at) % 3 == 1 else t for at, t in enumerate(known[done:])]
            drafts[row.uid] = Draft(tuple(guess[: row.room]))
        return drafts

    def finished(self, uids: Sequence[int]) -> None:
        """Keep everything."""

    def pieces(self) -> Iterator[tuple[tuple[int, ...], int, mx.array]]:
        """Yield tokens, where the states begin, and the states."""
        for shown in self.shown.values():
            for tokens, states in shown:
                if states is not None:
                    yield tokens, len(tokens) - 1 - states.shape[0], states


def now_and_then(turn: int) -> int:
    """Draft two times of three: plain steps are between."""
    return 0 if turn % 3 == 0 else 3


def served(
    name: str, wish: HiddenStates, lengths: Sequence[int], tokens: int, *more: object, **how: Any
) -> tuple[Looker, Bench]:
    model = model_of(name)
    own = tiny_model(name, seed=3)
    replies = {tuple(prompt(n)): plain(own, prompt(n), tokens) for n in lengths}
    looker = Looker(wish, replies)
    it = bench(model, looker, Turns(now_and_then), *more, host=Lent(Served(model)), **how)
    for length in lengths:
        it.submit(request(str(length), prompt(length), tokens))
        it.step()
    it.run()
    for length in lengths:
        assert it.replies.tokens(str(length)) == list(replies[tuple(prompt(length))])
    assert failures_of(it) == {}
    return looker, it


def right(looker: Looker, name: str) -> None:
    """Check all that was shown against plain passes of another model of the same weights."""
    recorder = Recorder(name)
    assert any(True for _ in looker.pieces())
    for tokens, start, states in looker.pieces():
        wanted = recorder.states(tokens[:-1])[start:]
        assert states.shape == wanted.shape
        assert mx.allclose(states, wanted, rtol=1e-3, atol=1e-3), (len(tokens), start)


@pytest.mark.parametrize("how", [{}, {"compiled": True}], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_states_are_those_of_the_tokens_that_ran(name: str, how: dict[str, Any]) -> None:
    looker, _ = served(name, HiddenStates(layers=LAYERS), (40, 7, 90), 14, **how)
    right(looker, name)
    for shown in looker.shown.values():
        seen = [states.shape[0] for _, states in shown if states is not None]
        assert seen[0] == len(shown[0][0]) - 1  # the whole prompt
        assert sum(seen) == len(shown[-1][0]) - 1  # and every token after it, once


def test_no_more_is_kept_than_was_asked_for() -> None:
    looker, it = served("llama", HiddenStates(layers=(-1,), most=5), (200,), 14)
    ((_, first), *_) = next(iter(looker.shown.values()))
    assert first is not None
    assert first.shape == (5, 1, 64)
    assert not it.engine.speculator.sights[0]._runs


def test_what_a_cache_brought_back_has_no_states_and_what_follows_has() -> None:
    looker, it = served("llama", HiddenStates(layers=LAYERS), (100,), 14, PrefixCache())
    looker.shown.clear()
    longer = [*prompt(100), *prompt(9)]
    it.submit(request("again", longer, 14))
    it.run()
    assert it.replies.finish("again").usage.cached_tokens == 96
    (shown,) = looker.shown.values()
    assert shown[0][1] is not None
    assert shown[0][1].shape[0] == len(shown[0][0]) - 1 - 96
    right(looker, "llama")


def test_preempted_rows_and_choices_of_one_prompt_are_seen_too() -> None:
    looker, it = served("llama", HiddenStates(layers=LAYERS), (60, 50), 40, blocks=10)
    assert it.engine.scheduler.preemptions
    right(looker, "llama")
    looker.shown.clear()
    it.submit(request("three", prompt(30), 14, choices=3, sampling={"temperature": 1.0}))
    it.run()
    assert len(looker.shown) == 3
    assert all(shown[0][1].shape[0] >= 29 for shown in looker.shown.values())  # type: ignore[union-attr]
    right(looker, "llama")


def test_a_proposer_that_was_not_heard_is_shown_the_states_later() -> None:
    """The first to have a draft is heard: what the second did not see it sees the next time."""
    first = Scripted(lambda row: Draft((1,)) if len(row.tokens) % 2 else None)
    model = model_of("llama")
    looker = Looker(HiddenStates(layers=LAYERS))
    it = bench(model, first, looker, Turns(lambda _: 2), host=Lent(Served(model)))
    it.submit(request("30", prompt(30), 12))
    it.run()
    assert it.replies.tokens("30") == plain(model, prompt(30), 12)
    right(looker, "llama")
    (shown,) = looker.shown.values()
    assert sum(s.shape[0] for _, s in shown if s is not None) == len(shown[-1][0]) - 1


def test_the_served_model_lends_its_embeddings_and_its_head() -> None:
    looker, _ = served("llama", HiddenStates(layers=(0, -1)), (30,), 14)
    for tokens, start, states in looker.pieces():
        ran = mx.array(tokens[start:-1])
        assert mx.allclose(looker.host.embed(ran), states[:, 0], atol=1e-5)
        guessed: Any = mx.argmax(looker.host.logits(states[:, 1]), axis=-1).tolist()
        # What the head makes of a token's state is what was drawn after it.
        drawn = [at for at in range(start, len(tokens) - 1) if at >= 29]
        assert [guessed[at - start] for at in drawn] == [tokens[at + 1] for at in drawn]


@pytest.mark.parametrize("layer", [3, -2])
def test_a_layer_that_is_not_there_ends_the_start(layer: int) -> None:
    with pytest.raises(ModelError, match=f"hidden states of layer {layer}"):
        served("llama", HiddenStates(layers=(layer,)), (7,), 4)


def test_a_model_that_hides_its_layers_ends_the_start() -> None:
    class Hidden:
        """A model that computes without its layers' own calls."""

        def __init__(self) -> None:
            self.inner, self.layers = tiny_model("llama", seed=3), [Unused()]

        def __call__(self, tokens: mx.array, cache: Any = None) -> Any:
            return self.inner(tokens, cache=cache)

    class Unused:
        def __call__(self, states: mx.array) -> mx.array:
            return states

    with pytest.raises(ModelError, match="layer 0 of this model cannot be seen"):
        tap(Hidden(), (0,))  # type: ignore[arg-type]
