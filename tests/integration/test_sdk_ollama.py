"""Ollama's own client, on a real engine."""

import pytest
from ollama import Client

from .conftest import Serve


def test_a_chat_a_prompt_and_the_model_through_ollamas_client(serve: Serve) -> None:
    server = serve("--plugins", "ollama", "--served-model-name", "tiny")
    options = {"num_predict": 4, "temperature": 0}
    turns = [{"role": "user", "content": "word"}]
    with Client(host=server.url, timeout=60) as sdk:
        assert [model.model for model in sdk.list().models] == ["tiny:latest"]
        whole = sdk.chat("tiny", turns, options=options)
        parts = list(sdk.chat("tiny", turns, options=options, stream=True))
        assert "".join(part.message.content or "" for part in parts) == whole.message.content
        assert (parts[-1].eval_count, parts[-1].done_reason) == (4, "length")
        assert sdk.generate("tiny", "word", options=options, raw=True).eval_count == 4
        (vector,) = sdk.embed("tiny", "word").embeddings
        assert sum(x * x for x in vector) == pytest.approx(1.0)
        raw = list(sdk.embeddings("tiny", "word").embedding)
        length = sum(x * x for x in raw) ** 0.5
        assert [x / length for x in raw] == pytest.approx(list(vector), abs=1e-6)
