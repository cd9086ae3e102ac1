"""OpenAI's own client asks a real engine for embeddings, while others talk to it."""

import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
from openai import BadRequestError, OpenAI

from .embedded import own_vectors, served_vectors
from .live import LiveServer

TEXTS = [[20 + (7 * at + step) % 200 for step in range(length)] for at, length in enumerate(
    (3, 40, 7, 300, 1, 41, 16, 90, 600)
)]  # fmt: skip


@pytest.fixture
def sdk(tiny: LiveServer) -> OpenAI:
    return OpenAI(base_url=f"{tiny.url}/v1", api_key="none", max_retries=0)


def test_vectors_are_mlx_lms_in_the_order_of_the_texts(tiny: LiveServer, tiny_folder: Path) -> None:
    found = served_vectors(tiny, TEXTS)
    np.testing.assert_allclose(found, own_vectors(tiny_folder, TEXTS), atol=1e-5)
    backwards = served_vectors(tiny, TEXTS[::-1])
    np.testing.assert_allclose(backwards[::-1], found, atol=1e-5)


def test_the_sdk_reads_floats_and_base64_texts_and_tokens(tiny: LiveServer, sdk: OpenAI) -> None:
    encoded = sdk.embeddings.create(model="tiny", input=["one token", "two"])
    plain = sdk.embeddings.create(model="tiny", input=["one token", "two"], encoding_format="float")
    tokens = tiny.post("/tokenize", prompt="one token").json()["tokens"]
    (same,) = sdk.embeddings.create(model="tiny", input=tokens).data
    for first, second in zip(encoded.data, plain.data, strict=True):
        assert first.embedding == pytest.approx(second.embedding, abs=1e-7)
    assert same.embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    (short,) = sdk.embeddings.create(model="tiny", input="two", dimensions=8).data
    cut = np.array(plain.data[1].embedding[:8])
    assert short.embedding == pytest.approx(list(cut / np.linalg.norm(cut)), abs=1e-6)


def test_what_is_wrong_is_the_sdks_own_error(sdk: OpenAI) -> None:
    with pytest.raises(BadRequestError) as refusal:
        sdk.embeddings.create(model="tiny", input=["fits", "word " * 5000])
    assert (refusal.value.param, refusal.value.code) == ("input[1]", "context_length_exceeded")


def test_a_stream_goes_on_while_many_texts_are_embedded(tiny: LiveServer) -> None:
    tiny.rest()
    before = tiny.metrics()["mlxserve_pooled_texts_total"]
    ended = threading.Event()

    def embed() -> None:
        served_vectors(tiny, [[30 + at % 200] * 400 for at in range(40)])
        ended.set()

    work = threading.Thread(target=embed)
    body = {"prompt": "word", "max_tokens": 2900, "stream": True, "ignore_eos": True}
    during = 0
    with (
        httpx.Client(base_url=tiny.url, timeout=60) as http,
        http.stream("POST", "/v1/completions", json=body) as answer,
    ):
        lines = answer.iter_lines()
        for _ in range(8):
            next(lines)
        work.start()
        for line in lines:
            during += line.startswith("data: {") and not ended.is_set()
            if ended.is_set():
                break
    work.join()
    tiny.rest()
    assert during >= 8  # 16,000 tokens are as many passes of the largest size
    assert tiny.metrics()["mlxserve_pooled_texts_total"] == before + 40


def test_a_client_that_leaves_frees_everything(tiny: LiveServer) -> None:
    tiny.rest()
    before = tiny.metrics()["mlxserve_pooled_texts_total"]
    texts = [[40 + at % 200] * 450 for at in range(100)]
    hurry = httpx.Timeout(60, read=0.02)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{tiny.url}/v1/embeddings", json={"input": texts}, timeout=hurry)
    tiny.rest()
    assert tiny.metrics()["mlxserve_pooled_texts_total"] == before


def test_documents_are_ranked_by_their_vectors(tiny: LiveServer) -> None:
    texts = ["the other tokens", "one token", "two"]
    vectors = served_vectors(
        tiny, [tiny.post("/tokenize", prompt=t).json()["tokens"] for t in texts]
    )
    found = tiny.post("/v1/rerank", query="one token", documents=texts, top_n=2).json()["results"]
    order = np.argsort(-(vectors @ vectors[1]))
    assert [one["index"] for one in found] == list(order[:2])
    assert found[0]["relevance_score"] == pytest.approx(1.0, abs=1e-5)
