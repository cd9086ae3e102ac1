"""``/v1/rerank``: documents in order of what the engine makes of them."""

import math
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.rerank.bodies import RerankBody
from mlxserve_plugins.rerank.fields import RERANK
from mlxserve_plugins.rerank.scoring import (
    AFTER,
    BEFORE,
    TASK,
    Nearness,
    Verdict,
    scorer_of,
)
from mlxserve_plugins.surface.fields import as_markdown

from ..openai.conftest import Stage
from ..openai.fake_engine import FakeEngine, FakeText
from ..openai.test_fuzz import anything, quick

DOCUMENT = Path(__file__).parents[3] / "docs" / "fields.md"
TEXTS = ["zzzzzzzz", "abc", "abd"]


class Words(FakeText):
    """Has a token for each of the words that a reranker's prompt needs."""

    OWN = ("yes", "no", "<|im_start|>", "<|im_end|>")

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        for at, word in enumerate(self.OWN):
            text = text.replace(word, chr(1 + at))
        return list(text.encode())


def ask(http: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = http.post("/v1/rerank", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_nearest_document_is_first_and_scores_are_cosines(http: httpx.Client) -> None:
    found = ask(http, query="abc", documents=TEXTS)
    assert [one["index"] for one in found["results"]] == [1, 2, 0]
    assert found["results"][0]["relevance_score"] == pytest.approx(1.0, abs=1e-6)
    scores = [one["relevance_score"] for one in found["results"]]
    assert scores == sorted(scores, reverse=True)
    assert "document" not in found["results"][0]
    assert found["usage"]["total_tokens"] == len("abc" + "".join(TEXTS))


def test_the_best_alone_and_with_its_text(http: httpx.Client) -> None:
    documents = [{"text": text, "title": "t"} for text in TEXTS]
    found = ask(http, query="abc", documents=documents, top_n=2, return_documents=True)
    assert [one["document"] for one in found["results"]] == [{"text": "abc"}, {"text": "abd"}]
    assert len(ask(http, query="abc", documents=TEXTS, top_n=50)["results"]) == 3


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"query": "", "documents": ["a"]}, "query"),
        ({"query": "a", "documents": []}, "documents"),
        ({"query": "a", "documents": ["a", ""]}, "documents[1]"),
        ({"query": "a", "documents": ["a", "b" * 200]}, "documents[1]"),
        ({"query": "b" * 200, "documents": ["a"]}, "query"),
        ({"query": "a", "documents": [{"title": "t"}]}, "documents[0].text"),
        ({"documents": ["a"]}, "query"),
        ({"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ({"query": "a", "documents": ["a"], "max_tokens_per_doc": 5}, "max_tokens_per_doc"),
    ],
    ids=str,
)
def test_what_cannot_be_ranked_is_a_400_that_names_it(
    http: httpx.Client, body: dict[str, Any], param: str
) -> None:
    answer = http.post("/v1/rerank", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


async def test_yes_and_no_are_asked_after_the_model_cards_prompt() -> None:
    engine, text = FakeEngine(), Words()
    engine.limits = type(engine.limits)(max_prompt_tokens=2000)
    verdict = Verdict(engine.card, text)
    asked = await verdict.request("what?", ["this", "that one"], None, "me")
    assert asked.pooling is not None
    assert (asked.pooling.kind, asked.pooling.logits) == ("last", (1, 2))
    whole = [f"{BEFORE}<Instruct>: {TASK}\n<Query>: what?\n<Document>: {d}{AFTER}"
             for d in ("this", "that one")]  # fmt: skip
    assert asked.prompt == tuple(token for one in whole for token in text.encode(one))
    assert asked.pooling.lengths == tuple(len(text.encode(one)) for one in whole)
    told = await verdict.request("q", ["d"], "be strict", "me")
    assert b"<Instruct>: be strict\n" in bytes(told.prompt)


def test_the_score_is_the_share_of_yes() -> None:
    rows = np.array([[2.0, 1.0], [0.0, 0.0], [-500.0, 500.0]], np.float32)
    scores = Verdict(FakeEngine().card, Words()).scores(rows)
    assert scores == pytest.approx([math.e / (1 + math.e), 0.5, 0.0])


async def test_a_tokenizer_without_those_words_is_a_clear_refusal() -> None:
    with pytest.raises(RequestError) as refusal:
        await Verdict(FakeEngine().card, FakeText()).request("q", ["d"], None, "")
    assert (refusal.value.status, refusal.value.code) == (400, "no_reranker")


def test_the_way_is_what_was_set_else_by_the_models_name(stage: Stage) -> None:
    card, text = stage.engine.card, Words()
    reranker = type(card)(
        id="Qwen/Qwen3-Reranker-0.6B", created=0, vocab_size=9, limits=card.limits,
        has_chat_template=True,
    )  # fmt: skip
    assert isinstance(scorer_of("auto", card, text, "mean"), Nearness)
    assert isinstance(scorer_of("auto", reranker, text, "mean"), Verdict)
    assert isinstance(scorer_of("embeddings", reranker, text, "mean"), Nearness)
    assert isinstance(scorer_of("yes-no", card, text, "mean"), Verdict)


def test_every_honoured_field_is_read_and_the_table_is_documented() -> None:
    assert set(RERANK.named("honoured")) == set(RerankBody.__struct_fields__)
    assert as_markdown(RERANK) in DOCUMENT.read_text()


texts = st.text(max_size=5) | st.fixed_dictionaries({"text": st.text(max_size=5)}) | anything
bodies = st.builds(
    lambda first, second: {**first, **second},
    st.fixed_dictionaries(
        {"query": st.text(max_size=5), "documents": st.lists(texts, max_size=3)},
        optional={"top_n": st.integers(0, 3), "return_documents": st.booleans()},
    ),
    st.dictionaries(st.sampled_from(sorted({*RERANK.fields, "nonsense"})), anything, max_size=2)
    | st.just({}),
)


@quick
@given(body=bodies)
def test_no_body_makes_the_server_fail(http: httpx.Client, body: dict[str, Any]) -> None:
    answer = http.post("/v1/rerank", json=body)
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]
