"""A real engine under bodies that nobody would send, and under all that its schema allows."""

import json
import os
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok

from ..plugins.anthropic.test_fuzz import bodies_for
from ..plugins.embeddings.test_embeddings import bodies as embeddings
from ..plugins.embeddings.test_rerank import bodies as rankings
from ..plugins.openai.test_fuzz import bodies, messages, prompts
from ..plugins.responses.test_fuzz import bodies as responses
from .live import LiveServer

EXAMPLES = int(os.environ.get("MLXSERVE_TEST_EXAMPLES", "200"))
PATHS = (
    "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/messages/count_tokens",
    "/v1/responses", "/v1/embeddings", "/v1/rerank", "/tokenize", "/detokenize", "/v1/cache/clear",
)  # fmt: skip
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not os.environ.get("MLXSERVE_TEST_EXAMPLES"),
    suppress_health_check=list(HealthCheck),
)


def short(body: dict[str, Any]) -> bytes:
    """Return a body as bytes that asks for few tokens, if for any."""
    most = "max_output_tokens" if "input" in body else "max_tokens"  # unknown to some, and harmless
    return json.dumps(body | {most: body.get(most, 4)}).encode()


sensible = st.one_of(
    bodies({"messages": messages}),
    bodies({"prompt": prompts}),
    bodies_for("tiny"),
    responses,
    embeddings,
    rankings,
).map(short)
cuts = st.tuples(st.integers(0, 400), st.integers(0, 12), st.binary(max_size=6))
damaged = st.builds(
    lambda body, cut: body[: cut[0]] + cut[2] + body[cut[0] + cut[1] :], sensible, cuts
)
raw = st.one_of(sensible, damaged, damaged, st.binary(max_size=64), st.just(b"[" * 5000))
kinds = st.sampled_from(["application/json", "text/plain", "application/x-www-form-urlencoded", ""])


@pytest.fixture
def wire(tiny: LiveServer) -> Any:
    """Yield a connection; at its end the server is as it was before."""
    with httpx.Client(base_url=tiny.url, timeout=30) as found:
        yield found
    tiny.rest()
    assert tiny.post("/v1/completions", prompt="afterwards", max_tokens=4).status_code == 200


@fuzz
@given(path=st.sampled_from(PATHS), content=raw, kind=kinds)
def test_no_bytes_make_a_live_server_fail(
    wire: httpx.Client, path: str, content: bytes, kind: str
) -> None:
    answer = wire.post(path, content=content, headers={"Content-Type": kind})
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"]


def test_nothing_that_the_schema_allows_makes_a_live_server_fail(wire: httpx.Client) -> None:
    api = schemathesis.openapi.from_url(f"{wire.base_url}/schema/openapi.json")
    found = list(api.get_all_operations())
    assert len(found) >= 10
    for operation in found:
        assert isinstance(operation, Ok)
        run_cases(operation.ok())


def run_cases(operation: Any) -> None:
    @settings(fuzz, max_examples=max(EXAMPLES // 20, 1))
    @given(case=operation.as_strategy())
    def runs(case: Any) -> None:
        case.call_and_validate(checks=[not_a_server_error], timeout=180)  # 128 choices take a while

    runs()
