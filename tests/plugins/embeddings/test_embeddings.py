"""``/v1/embeddings`` in front of an engine whose vectors say what it was asked."""

import base64
import json
import math
import struct
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from mlxserve_hookspecs import Finish, ModelCard, RequestError, Usage
from mlxserve_plugins.embeddings.bodies import EmbeddingsBody
from mlxserve_plugins.embeddings.fields import EMBEDDINGS
from mlxserve_plugins.embeddings.texts import MOST_TEXTS, MOST_TOKENS
from mlxserve_plugins.embeddings.vectors import PoolingChoice, stated_pooling
from mlxserve_plugins.surface.fields import as_markdown

from ..openai.conftest import Stage
from ..openai.fake_engine import EOS, KEY, FakeEngine, FakeText
from ..openai.test_fuzz import anything, prompts, quick

DOCUMENT = Path(__file__).parents[3] / "docs" / "fields.md"


def unit(*numbers: float) -> list[float]:
    length = math.sqrt(sum(x * x for x in numbers))
    return [x / length for x in numbers]


def vector_of(text: str) -> list[float]:
    raw = text.encode()
    return unit(len(raw), raw[0], raw[-1], 1.0)


def ask(http: httpx.Client, **body: Any) -> list[list[float]]:
    answer = http.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    return [one["embedding"] for one in answer.json()["data"]]


def refused(http: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = http.post("/v1/embeddings", json=body)
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


def test_texts_come_back_in_their_order_at_length_one(sdk: OpenAI) -> None:
    texts = ["one", "two tokens", "three"]
    found = sdk.embeddings.create(model="fake", input=texts)  # base64, the client's default
    assert [one.index for one in found.data] == [0, 1, 2]
    for one, text in zip(found.data, texts, strict=True):
        assert one.embedding == pytest.approx(vector_of(text), abs=1e-6)
    assert (found.model, found.object) == ("org/fake-model", "list")
    assert found.usage.prompt_tokens == found.usage.total_tokens == len("".join(texts))


def test_base64_is_little_endian_float32(http: httpx.Client) -> None:
    (text,) = ask(http, input="abc", encoding_format="base64")
    numbers = struct.unpack("<4f", base64.b64decode(str(text)))
    assert list(numbers) == pytest.approx(vector_of("abc"), abs=1e-7)
    assert ask(http, input="abc", encoding_format="float") == [pytest.approx(list(numbers))]


def test_token_ids_are_taken_as_they_are(http: httpx.Client) -> None:
    assert ask(http, input=[7, 8, 9]) == [pytest.approx(unit(3, 7, 9, 1), abs=1e-6)]
    found = ask(http, input=[[7], [5, 6]])
    assert found == [
        pytest.approx(unit(1, 7, 7, 1), abs=1e-6), pytest.approx(unit(2, 5, 6, 1), abs=1e-6)
    ]  # fmt: skip


def test_dimensions_are_the_first_numbers_normalised_again(http: httpx.Client) -> None:
    assert ask(http, input="abc", dimensions=2) == [pytest.approx(unit(3, 97), abs=1e-6)]
    assert ask(http, input="abc", dimensions=2, normalize=False) == [[3.0, 97.0]]
    assert refused(http, input="abc", dimensions=5)["param"] == "dimensions"


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ("", "input"),
        ([], "input"),
        ([[]], "input"),
        (["a", ""], "input[1]"),
        (["a", [1]], "input"),
        ([1, "a"], "input"),
        ([1, 999], "input"),
        ([[1], [2, 999]], "input[1]"),
        (["a", "b" * 101], "input[1]"),
        (["a"] * (MOST_TEXTS + 1), "input"),
        (["b" * 100] * 2048 + ["c"], "input"),
        (7, "input"),
        ({"text": "a"}, "input"),
        (None, "input"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_input_that_cannot_be_embedded_is_a_400_that_names_it(
    http: httpx.Client, given: Any, param: str
) -> None:
    assert refused(http, input=given)["param"] == param


def test_all_texts_together_have_a_bound(http: httpx.Client, engine: FakeEngine) -> None:
    most = MOST_TEXTS - 1
    engine.limits = type(engine.limits)(max_prompt_tokens=1000)
    error = refused(http, input=["b" * (MOST_TOKENS // most + 1)] * most)
    assert error["code"] == "context_length_exceeded"


def test_a_wrong_model_is_404_and_a_wrong_key_401(http: httpx.Client, stage: Stage) -> None:
    assert http.post("/v1/embeddings", json={"input": "a", "model": "x"}).status_code == 404
    stage.admission.locked = True
    assert http.post("/embeddings", json={"input": "a"}).status_code == 401
    headers = {"Authorization": f"Bearer {KEY}"}
    assert http.post("/embeddings", json={"input": "a"}, headers=headers).status_code == 200
    stage.admission.refusal = RequestError(status=429, message="later", retry_after=2)
    assert http.post("/embeddings", json={"input": "a"}, headers=headers).status_code == 429


def test_what_the_engine_says_of_a_failure_reaches_the_client(
    http: httpx.Client, engine: FakeEngine
) -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=0)
    engine.failure = Finish(
        reason="error", usage=usage, error=RequestError(status=503, message="no room")
    )
    answer = http.post("/v1/embeddings", json={"input": "a"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "no room")


def test_a_client_that_leaves_ends_its_request(http: httpx.Client, engine: FakeEngine) -> None:
    engine.pause = 30.0
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/embeddings", json={"input": "a"}, timeout=0.3)
    deadline = time.monotonic() + 5
    while not engine.closed_early:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_fields_are_by_the_table(http: httpx.Client, stage: Stage) -> None:
    ask(http, input="a", user="u", nonsense=1)
    assert ("embeddings", "user", "ignored") in stage.adjusted
    assert ("embeddings", "unknown", "ignored") in stage.adjusted
    assert refused(http, input="a", truncate_prompt_tokens=5)["code"] == "unsupported_parameter"


def test_every_honoured_field_is_read_and_the_table_is_documented() -> None:
    assert set(EMBEDDINGS.named("honoured")) == set(EmbeddingsBody.__struct_fields__)
    assert as_markdown(EMBEDDINGS) in DOCUMENT.read_text()


names = sorted({*EMBEDDINGS.fields, "nonsense"})
likely: dict[str, Any] = {
    "encoding_format": st.sampled_from(["float", "base64", "int8"]),
    "dimensions": st.integers(-1, 6),
    "normalize": st.booleans(),
    "add_special_tokens": st.booleans(),
    "model": st.sampled_from(["fake", "x"]),
}
bodies = st.builds(
    lambda first, second: {**first, **second},
    st.fixed_dictionaries({"input": prompts}, optional=likely),
    st.dictionaries(st.sampled_from(names), anything, max_size=2) | st.just({}),
)


@quick
@given(body=bodies)
def test_no_body_makes_the_server_fail(http: httpx.Client, body: dict[str, Any]) -> None:
    answer = http.post("/v1/embeddings", json=body)
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code == 200:
        assert answer.json()["usage"]["total_tokens"] > 0
    else:
        assert answer.json()["error"]["message"]


class Ending(FakeText):
    """Ends every text, as Qwen3-Embedding's tokenizer does."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [*super().encode(text), *([EOS] if add_special_tokens else [])]


def card(folder: Path | None = None) -> ModelCard:
    engine = FakeEngine()
    return ModelCard(
        id="m", created=0, vocab_size=260, limits=engine.limits, has_chat_template=False,
        identity=str(folder), folder=folder,
    )  # fmt: skip


def test_pooling_is_what_was_set_else_the_models_own_else_by_its_tokenizer(tmp_path: Path) -> None:
    plain, ending = FakeText(), Ending()
    assert PoolingChoice("mean").of(card(), ending) == "mean"
    assert PoolingChoice("last").of(card(), plain) == "last"
    auto = PoolingChoice("auto")
    assert auto.of(card(), ending) == "last"
    assert PoolingChoice("auto").of(card(), plain) == "mean"
    (tmp_path / "1_Pooling").mkdir()
    file = tmp_path / "1_Pooling" / "config.json"
    file.write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    assert auto.of(card(tmp_path), ending) == "mean"
    file.write_text(json.dumps({"pooling_mode_lasttoken": True}))
    assert stated_pooling(tmp_path) == "last"
    for broken in ("{", "[]", json.dumps({"pooling_mode_cls_token": True})):
        file.write_text(broken)
        assert stated_pooling(tmp_path) is None


def test_the_reply_says_how_it_was_pooled(http: httpx.Client, engine: FakeEngine) -> None:
    answer = http.post("/v1/embeddings", json={"input": "a"})
    assert answer.headers["X-Mlxserve-Pooling"] == "mean"
    assert engine.seen[0].pooling is not None
    assert engine.seen[0].pooling.kind == "mean"
