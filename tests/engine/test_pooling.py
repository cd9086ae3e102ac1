"""Vectors of texts: mlx-lm's own hidden states, whatever runs beside them."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlxserve.batch import embedder
from mlxserve.model.backbone import backbone_of
from mlxserve_hookspecs import GenerationRequest, Iteration, Pooling, hookimpl

from .harness import Bench, bench, plain, prompt, request
from .tiny import shared_model

LENGTHS = (33, 5, 70, 17, 6, 130, 1, 16, 64)


@cache
def model(name: str = "qwen3") -> Any:
    return shared_model(name)


def pooled(name: str, texts: Sequence[Sequence[int]], **how: Any) -> GenerationRequest:
    pooling = Pooling(lengths=tuple(map(len, texts)), **how)
    tokens = [token for text in texts for token in text]
    return request(name, tokens, 0, pooling=pooling)


def texts_of(*lengths: int) -> list[list[int]]:
    return [prompt(length, seed) for seed, length in enumerate(lengths)]


def states(text: Sequence[int], name: str = "qwen3") -> np.ndarray[Any, Any]:
    """Return mlx-lm's last hidden states of a text, by a single call without a cache."""
    return np.array(model(name).model(mx.array([list(text)]))[0].astype(mx.float32))


def vectors(it: Bench, name: str) -> dict[int, np.ndarray[Any, Any]]:
    events = it.replies.of(name)
    return {p.text: np.frombuffer(p.vector, "<f4") for e in events for p in e.pooled}


def alone(text: Sequence[int], **how: Any) -> np.ndarray[Any, Any]:
    it = bench(model())
    it.submit(pooled("alone", [text], **how))
    it.run()
    return vectors(it, "alone")[0]


@pytest.mark.parametrize("name", ["qwen3", "gemma3_text", "qwen3_next"])
@pytest.mark.parametrize("kind", ["mean", "last"])
def test_a_vector_is_what_mlx_lm_computes_whatever_shares_its_batch(kind: str, name: str) -> None:
    it = bench(model(name))
    texts = texts_of(*LENGTHS)
    it.submit(pooled("r", texts, kind=kind))
    it.run()
    found = vectors(it, "r")
    assert sorted(found) == list(range(len(texts)))
    for at, text in enumerate(texts):
        own = states(text, name)
        wanted = own.mean(axis=0) if kind == "mean" else own[-1]
        assert np.abs(found[at] - wanted).max() <= 1e-5 * max(np.abs(wanted).max(), 1.0)
    assert it.replies.finish("r").usage.prompt_tokens == sum(LENGTHS)


def test_a_text_in_many_pieces_has_the_vector_of_one_in_a_single_piece() -> None:
    text = prompt(150)
    it = bench(model(), chunk_alone=7)
    it.submit(pooled("r", [text]))
    it.run()
    assert it.engine.steps >= 150 // 7
    np.testing.assert_allclose(vectors(it, "r")[0], states(text).mean(axis=0), atol=1e-5)


def test_logits_are_those_of_the_next_token() -> None:
    text, tokens = prompt(21), (7, 200, 3)
    it = bench(model())
    it.submit(pooled("r", [text, prompt(40, 3)], kind="last", logits=tokens))
    it.run()
    wanted = np.array(model()(mx.array([text]))[0, -1])[list(tokens)]
    np.testing.assert_allclose(vectors(it, "r")[0], wanted, atol=1e-4)


class Passes:
    """Notes what each iteration ran."""

    def __init__(self) -> None:
        self.ran: list[tuple[int, int]] = []

    @hookimpl
    def iteration_finished(self, iteration: Iteration) -> None:
        self.ran.append((iteration.prefilled, iteration.decoded))


def test_streams_get_a_token_between_any_two_passes_over_texts_and_the_same_tokens() -> None:
    seen = Passes()
    it = bench(model(), seen, chunk_shared=64)
    it.submit(request("stream", prompt(9), 60))
    it.step(4)
    it.submit(pooled("r", texts_of(*[90] * 30)))
    seen.ran.clear()
    it.run()
    during = [decoded for prefilled, decoded in seen.ran if prefilled]
    assert len(during) > 30
    assert all(during[1:50])  # a token of the stream in each of them, until it ends
    assert max(prefilled for prefilled, _ in seen.ran) <= 64 or not all(during)
    assert it.replies.tokens("stream") == plain(model(), prompt(9), 60)


def test_prompts_and_texts_take_turns() -> None:
    it = bench(model(), chunk_alone=32)
    it.submit(pooled("r", texts_of(*[32] * 20)))
    it.step(2)
    it.submit(request("late", prompt(64), 2))
    it.step(8)
    assert it.replies.finish("late").reason == "length"
    assert not any(e.finish for e in it.replies.of("r"))
    it.run()
    assert len(vectors(it, "r")) == 20


def test_a_short_request_does_not_wait_for_a_long_one() -> None:
    it = bench(model(), chunk_alone=64)
    it.submit(pooled("long", texts_of(*[60] * 40)))
    it.step(3)
    it.submit(pooled("short", [prompt(8)]))
    it.step(4)
    assert it.replies.finish("short").reason == "stop"
    it.run()


def test_requests_of_like_texts_share_a_pass() -> None:
    it = bench(model())
    for name in "abcd":
        it.submit(pooled(name, [prompt(20, ord(name))]))
    it.step(2)
    assert [it.replies.finish(name).reason for name in "abcd"] == ["stop"] * 4
    np.testing.assert_allclose(vectors(it, "b")[0], alone(prompt(20, ord("b"))), atol=1e-5)


def test_cancelling_ends_it_and_leaves_others_alone() -> None:
    it = bench(model(), chunk_alone=32)
    it.submit(pooled("gone", texts_of(*[30] * 50)))
    it.submit(pooled("stays", texts_of(30, 31)))
    it.step(3)
    it.cancel("gone")
    it.step(2)
    assert it.replies.finish("gone").reason == "cancelled"
    it.run()
    assert it.engine.steps < 20
    np.testing.assert_allclose(
        vectors(it, "stays")[1], states(texts_of(30, 31)[1]).mean(axis=0), atol=1e-5
    )
    assert it.engine.scheduler.all == []


def test_it_holds_no_kv_block_and_its_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    made = embedder.Batch

    def noted(*args: Any) -> embedder.Batch:
        batch = made(*args)
        shapes.append(batch.tokens.shape)
        return batch

    monkeypatch.setattr(embedder, "Batch", noted)
    it = bench(model(), chunk_alone=256, blocks=4)
    it.submit(pooled("r", texts_of(*range(1, 120), 500)))
    it.step(3)
    assert it.engine.status().used_blocks == 0
    it.run()
    assert len(vectors(it, "r")) == 120
    assert all(rows * width <= 256 or rows == 1 for rows, width in shapes)
    assert len({width for _, width in shapes}) <= 10


def test_a_failing_pass_fails_its_requests_and_the_next_ones_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    it = bench(model())
    it.submit(pooled("warm", [prompt(3)]))
    it.run()
    with monkeypatch.context() as broken:
        broken.setattr(embedder, "arrays_of", lambda _: 1 / 0)
        it.submit(pooled("hurt", [prompt(5)]))
        it.submit(request("unhurt", prompt(5), 4))
        it.run()
    error = it.replies.finish("hurt").error
    assert error is not None
    assert error.status == 500
    assert it.replies.tokens("unhurt") == plain(model(), prompt(5), 4)
    it.submit(pooled("next", [prompt(5)]))
    it.run()
    np.testing.assert_allclose(vectors(it, "next")[0], states(prompt(5)).mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("lengths", [(), (3,), (5, 1), (6, 0)], ids=str)
def test_texts_that_are_not_the_prompt_are_refused(lengths: tuple[int, ...]) -> None:
    it = bench(model())
    it.submit(request("r", prompt(5), 0, pooling=Pooling(lengths=lengths)))
    it.run()
    error = it.replies.finish("r").error
    assert error is not None
    assert error.status == 400


class Opaque:
    """Logits that no part of it makes."""

    def __init__(self, inside: Any) -> None:
        self._inside = inside
        self.layers = inside.layers

    def children(self) -> dict[str, Any]:
        return {"inside": self._inside.model}

    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        return mx.sin(50 * self._inside(tokens, cache=cache))


def test_a_model_without_such_states_is_a_clear_refusal() -> None:
    it = bench(model())
    it.engine.embedder.model = Opaque(model())  # type: ignore[assignment]
    it.submit(pooled("r", [prompt(5)]))
    it.run()
    error = it.replies.finish("r").error
    assert error is not None
    assert (error.status, error.code) == (400, "no_hidden_states")


def test_a_capped_models_states_are_found_and_its_logits_are_not_promised() -> None:
    class Capped(Opaque):
        def children(self) -> dict[str, Any]:
            return dict(model().children())

        def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
            return 3 * mx.tanh(self._inside(tokens, cache=cache) / 3)

    found = backbone_of(Capped(model()))  # type: ignore[arg-type]
    assert found is not None
    assert found.body is model().model
    assert found.head is None
