"""No body makes the server fail, and every refusal has Anthropic's shape."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.anthropic.bodies import MessagesBody
from mlxserve_plugins.anthropic.fields import MESSAGES
from mlxserve_plugins.surface.decoding import decode

from ..openai.test_fuzz import anything
from .events import PATH, TOOL, events_in, message_of

quick = settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
words = st.text(max_size=6) | st.sampled_from(["raise", "\ud800", "<think>", "<call>{}</call>"])
cache = st.none() | st.just({"type": "ephemeral"}) | anything
text_blocks = st.fixed_dictionaries(
    {"type": st.just("text"), "text": words}, optional={"cache_control": cache}
)
images = st.fixed_dictionaries({"type": st.just("image"), "source": anything})
results = st.fixed_dictionaries(
    {"type": st.just("tool_result"), "tool_use_id": st.sampled_from(["a", "b"])},
    optional={
        "content": words | st.lists(text_blocks | images, max_size=2),
        "is_error": st.booleans(),
    },
)
calls = st.fixed_dictionaries(
    {
        "type": st.just("tool_use"),
        "id": st.sampled_from(["a", "b"]),
        "name": words,
        "input": st.dictionaries(words, anything, max_size=2),
    }
)
thoughts = st.fixed_dictionaries(
    {"type": st.just("thinking"), "thinking": words},
    optional={"signature": words | st.sampled_from(["mlxserve.", "mlxserve.!!", "mlxserve.YQ=="])},
)
documents = st.fixed_dictionaries(
    {
        "type": st.just("document"),
        "source": st.fixed_dictionaries(
            {"type": st.sampled_from(["text", "content", "url"])},
            optional={"data": words, "content": words | st.lists(text_blocks, max_size=2)},
        ),
    },
    optional={"title": words, "context": words},
)
wild_blocks = st.dictionaries(st.sampled_from(["type", "text", "id"]), anything, max_size=3)
blocks = st.one_of(
    text_blocks, text_blocks, results, calls, thoughts, documents, images, wild_blocks
)
turns = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "user", "assistant", "assistant", "system", "king"]),
        "content": words | st.lists(blocks, max_size=3),
    }
)
likely: dict[str, Any] = {
    "max_tokens": st.integers(-1, 2000),
    "system": words | st.lists(text_blocks, max_size=2),
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(-1, 9),
    "stop_sequences": st.lists(words, max_size=3),
    "stream": st.booleans(),
    "tools": st.lists(st.just(TOOL) | wild_blocks, max_size=2),
    "tool_choice": st.fixed_dictionaries(
        {"type": st.sampled_from(["auto", "any", "tool", "none", "all"])},
        optional={"name": st.sampled_from(["weather", "x"]), "disable_parallel_tool_use": anything},
    ),
    "thinking": st.fixed_dictionaries(
        {"type": st.sampled_from(["enabled", "disabled", "adaptive", "between_tools"])},
        optional={
            "budget_tokens": st.integers(-1, 4000),
            "display": st.sampled_from(["omitted", "summarized", "shown"]),
        },
    ),
    "output_config": st.fixed_dictionaries(
        {},
        optional={
            "effort": st.sampled_from(["low", "max", "none"]),
            "format": st.fixed_dictionaries({"type": st.just("json_schema"), "schema": anything}),
        },
    ),
}
names = sorted({*MESSAGES.fields, "nonsense"})
wild = st.dictionaries(st.sampled_from(names), anything, max_size=2)


def bodies_for(model: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return bodies that nobody would send, for a model of that name."""
    fixed = {"model": st.just(model), "messages": st.lists(turns, min_size=1, max_size=4)}
    sensible = st.fixed_dictionaries(fixed, optional=likely)
    more: st.SearchStrategy[dict[str, Any]] = st.just({}) | st.just({}) | wild
    return st.builds(lambda first, second: {**first, **second}, sensible, more)


@quick
@given(body=bodies_for("fake"), path=st.sampled_from([PATH, PATH, f"{PATH}/count_tokens"]))
@pytest.mark.usefixtures("parsing")
def test_no_body_makes_the_server_fail(http: httpx.Client, body: dict[str, Any], path: str) -> None:
    answered(http.post(path, content=spelt(body)))


@quick
@given(content=st.binary(max_size=60))
def test_bytes_that_are_no_body_are_refused_in_words(content: bytes) -> None:
    with pytest.raises(RequestError) as refusal:
        decode(content, MessagesBody)
    assert refusal.value.status == 400
    assert refusal.value.message


def spelt(body: dict[str, Any]) -> bytes:
    """Return a body as JSON spells it: halves of surrogate pairs too."""
    return json.dumps(body).encode()


def answered(answer: httpx.Response) -> None:
    """A message, a count, or a refusal that says what is wrong; nothing else."""
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        told = answer.json()
        assert set(told) == {"type", "error"}
        assert told["type"] == "error"
        assert set(told["error"]) == {"type", "message"}
        assert told["error"]["type"] in ("invalid_request_error", "not_found_error")
        assert told["error"]["message"]
    elif answer.headers["content-type"].startswith("text/event-stream"):
        assert message_of(events_in(answer.text))["stop_reason"]
    elif "usage" in answer.json():
        assert answer.json()["stop_reason"]
    else:
        assert answer.json()["input_tokens"] > 0
