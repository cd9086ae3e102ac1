import math
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.openai.bodies import ChatBody, CompletionBody
from mlxserve_plugins.surface.decoding import decode

from ..wild import FIELDS, TOOLS

quick = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

numbers = st.one_of(
    st.integers(-3, 3),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([2**31, 2**63, 1e308]),
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
roles = st.sampled_from(["system", "user", "assistant", "tool", "developer", "king"])
parts = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url"]), "text": st.text(max_size=5)}
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": roles, "content": st.text(max_size=9) | st.lists(parts, max_size=2) | anything}
    ),
    max_size=3,
)
prompts = st.one_of(
    st.text(max_size=9),
    st.lists(st.text(max_size=5), max_size=3),
    st.lists(st.integers(-1, 300), max_size=4),
    st.lists(st.lists(st.integers(0, 259), max_size=3), max_size=3),
)
likely: dict[str, Any] = {
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "max_tokens": st.integers(-1, 300),
    "min_tokens": st.integers(-1, 10),
    "n": st.integers(0, 4),
    "best_of": st.integers(0, 4),
    "stop": st.text(max_size=2) | st.lists(st.text(max_size=2), max_size=3),
    "logit_bias": st.dictionaries(st.integers(-1, 300).map(str), st.floats(-101, 101), max_size=3),
    "seed": st.integers(),
    "stream": st.booleans(),
    "echo": st.booleans(),
    "logprobs": st.booleans() | st.integers(-1, 22),
    "top_logprobs": st.integers(0, 3),
    "tool_choice": st.sampled_from(["none", "auto", "required"]),
    "tools": TOOLS,
    "parallel_tool_calls": st.booleans(),
    **FIELDS,
}
names = sorted({*ChatBody.__struct_fields__, *CompletionBody.__struct_fields__, "nonsense"})


def bodies(fixed: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    sensible = st.fixed_dictionaries(fixed, optional=likely)
    wild = st.dictionaries(st.sampled_from(names), anything, max_size=2)
    return st.builds(lambda first, second: {**first, **second}, sensible, wild | st.just({}))


@quick
@given(body=bodies({"messages": messages}))
def test_no_chat_body_makes_the_server_fail(http: httpx.Client, body: dict[str, Any]) -> None:
    answered(http.post("/v1/chat/completions", json=body))


@quick
@given(body=bodies({"prompt": prompts}))
def test_no_completion_body_makes_the_server_fail(http: httpx.Client, body: dict[str, Any]) -> None:
    answered(http.post("/v1/completions", json=body))


@quick
@given(content=st.binary(max_size=60))
def test_bytes_that_are_no_body_are_refused_in_words(content: bytes) -> None:
    with pytest.raises(RequestError) as refusal:
        decode(content, ChatBody)
    assert refusal.value.status == 400
    assert refusal.value.message


def answered(answer: httpx.Response) -> None:
    """A reply, or a refusal that says what is wrong; nothing else."""
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]
        assert answer.json()["error"]["type"] == "invalid_request_error"
    elif answer.headers["content-type"].startswith("text/event-stream"):
        assert answer.text.endswith("data: [DONE]\n\n")
    else:
        assert math.isfinite(answer.json()["usage"]["total_tokens"])
