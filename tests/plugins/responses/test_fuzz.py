from typing import Any
from urllib.parse import quote

import httpx
import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mlxserve_hookspecs import ReplyPart
from mlxserve_plugins.responses.bodies import ResponsesBody
from mlxserve_plugins.responses.items import KINDS
from mlxserve_plugins.responses.toolbox import Toolbox
from mlxserve_plugins.responses.writing import Writer

from ..openai.test_fuzz import anything, quick
from .protocol import Reader, check, events_in

names = st.sampled_from(["a", "b", "send", ""])
texts = st.text(max_size=6)
parts = st.fixed_dictionaries(
    {"type": st.sampled_from(["input_text", "output_text", "refusal", "input_image"])},
    optional={"text": texts, "refusal": texts},
)
contents = texts | st.lists(parts, max_size=2)
item_kinds = st.sampled_from([*KINDS, "item_reference", "web_search_call", "shell_call"])
items = st.fixed_dictionaries(
    {},
    optional={
        "type": item_kinds,
        "role": st.sampled_from(["user", "assistant", "system", "developer", "tool"]),
        "content": contents,
        "call_id": names,
        "name": names,
        "namespace": names,
        "arguments": st.sampled_from(["{}", "[", '{"a": 1}']),
        "input": texts,
        "output": contents,
        "summary": st.lists(parts, max_size=2),
        "id": texts,
        "tools": st.lists(st.fixed_dictionaries({"type": st.just("function"), "name": names})),
    },
)
tools = st.recursive(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["function", "custom", "web_search", "mcp"])},
        optional={
            "name": names,
            "description": texts,
            "parameters": st.dictionaries(texts, anything, max_size=2),
            "format": anything,
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {"type": st.just("namespace"), "name": names, "tools": st.lists(inner, max_size=2)}
    ),
    max_leaves=3,
)
choices = st.sampled_from(["none", "auto", "required"]) | st.fixed_dictionaries(
    {"type": st.sampled_from(["function", "custom", "allowed_tools", "web_search"])},
    optional={"name": names, "mode": st.just("auto"), "tools": st.lists(tools, max_size=2)},
)
likely: dict[str, Any] = {
    "instructions": texts,
    "tools": st.lists(tools, max_size=3),
    "tool_choice": choices,
    "stream": st.booleans(),
    "store": st.booleans(),
    "max_output_tokens": st.integers(-1, 300),
    "temperature": st.floats(0, 2),
    "reasoning": st.fixed_dictionaries({}, optional={"effort": names, "summary": st.just("auto")}),
    "include": st.lists(st.just("message.output_text.logprobs"), max_size=1),
    "top_logprobs": st.integers(-1, 21),
    "text": st.fixed_dictionaries({"format": st.fixed_dictionaries({"type": texts})}),
    "previous_response_id": texts,
}
fields = sorted({*ResponsesBody.__struct_fields__, "nonsense"})
bodies = st.builds(
    lambda first, second: {**first, **second},
    st.fixed_dictionaries({"input": texts | st.lists(items, max_size=4)}, optional=likely),
    st.dictionaries(st.sampled_from(fields), anything, max_size=2) | st.just({}),
)


@quick
@given(body=bodies)
def test_no_body_makes_the_server_fail(http: httpx.Client, body: dict[str, Any]) -> None:
    answer = http.post("/v1/responses", json=body)
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]
        assert answer.json()["error"]["type"] == "invalid_request_error"
    elif answer.headers["content-type"].startswith("text/event-stream"):
        check(events_in(answer.text))
    else:
        assert answer.json()["status"] in ("completed", "incomplete")


@quick
@given(name=st.text(max_size=12), method=st.sampled_from(["GET", "DELETE"]))
def test_no_name_makes_the_server_fail(http: httpx.Client, name: str, method: str) -> None:
    path = f"/v1/responses/{quote(name, safe='')}"
    assert http.request(method, path).status_code in (400, 404, 405)


spoken = st.builds(
    lambda kind, text: [ReplyPart(kind=kind, text=text)],
    st.sampled_from(["content", "reasoning"]),
    st.text(min_size=1, max_size=3),
)


def call(name: str, fragments: list[str]) -> list[ReplyPart]:
    """Return a call in fragments."""
    first = ReplyPart(kind="call", name=name)
    rest = [ReplyPart(kind="call", arguments=text) for text in fragments]
    return [first, *rest, ReplyPart(kind="call", done=True)]


calls = st.builds(
    call,
    st.sampled_from(["a", "b", "n__c", "nobody"]),
    st.sampled_from([[], ["{}"], ['{"inp', 'ut": "x', '"}'], ["["], ['{"input": 1}']]),
)
ends: st.SearchStrategy[list[ReplyPart]] = st.just([]) | calls.map(
    lambda pieces: pieces[:-1]
)  # the end of a reply may cut a call
replies = st.builds(
    lambda parts, end: [piece for part in [*parts, end] for piece in part],
    st.lists(spoken | calls, max_size=8),
    ends,
)


@given(
    found=replies,
    summary=st.booleans(),
    parallel=st.booleans(),
    status=st.sampled_from(["completed", "incomplete"]),
)
def test_whatever_a_parser_finds_the_events_add_up_to_the_items(
    found: list[ReplyPart], summary: bool, parallel: bool, status: Any
) -> None:
    box = Toolbox()
    box.add(
        [
            {"type": "function", "name": "a"},
            {"type": "custom", "name": "b"},
            {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "c"}]},
        ]
    )
    writer, reader = Writer(box, summary=summary, parallel=parallel), Reader()
    for event in [*writer.take(found, []), *writer.end(status)]:
        reader.take(msgspec.to_builtins(event))
    assert reader.open is None
    assert reader.items == msgspec.to_builtins(writer.items)
    if parallel:
        said = "".join(piece.text for piece in found if piece.kind == "content")
        texts = [p["text"] for i in reader.items if i["type"] == "message" for p in i["content"]]
        assert "".join(texts) == said
    else:
        assert sum(item["type"].endswith("call") for item in reader.items) <= 1
