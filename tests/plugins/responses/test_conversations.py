"""What the chat template gets to see of items, instructions and tools."""

import json
from typing import Any

import httpx
import pytest

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.responses.rendering import forms

from ..openai.fake_engine import FakeEngine

Json = dict[str, Any]


def user(text: str) -> Json:
    return {"role": "user", "content": text}


def call(name: str, call_id: str = "c1", **more: str) -> Json:
    return {"type": "function_call", "name": name, "call_id": call_id, "arguments": "{}"} | more


def output(call_id: str = "c1", text: Any = "done") -> Json:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def thought(text: str, where: str = "summary") -> Json:
    kind = "summary_text" if where == "summary" else "reasoning_text"
    return {"type": "reasoning", "id": "rs_1", "summary": [], where: [{"type": kind, "text": text}]}


def spoken(text: str) -> Json:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "role": "assistant", "content": [part], "id": "m", "status": "x"}


def made(name: str, call_id: str = "c1", arguments: str = "{}") -> Json:
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def done(name: str | None, call_id: str = "c1", text: str = "done") -> Json:
    known = {} if name is None else {"name": name}
    return {"role": "tool", "content": text, "tool_call_id": call_id} | known


CUSTOM = {"type": "custom_tool_call", "name": "patch", "call_id": "c1", "input": "+ a"}
SEEN: dict[str, tuple[Json, list[Json]]] = {
    "text": ({"input": "Hi"}, [user("Hi")]),
    "instructions": (
        {"input": "Hi", "instructions": "Be kind."},
        [{"role": "system", "content": "Be kind."}, user("Hi")],
    ),
    "instructions alone": ({"instructions": "Go."}, [{"role": "system", "content": "Go."}]),
    "developers join the system": (
        {
            "instructions": "One.",
            "input": [
                {"role": "developer", "content": "Two."},
                {"role": "system", "content": [{"type": "input_text", "text": "Three."}]},
                {"role": "user", "content": "Hi"},
                {"role": "developer", "content": "Later."},
            ],
        },
        [
            {"role": "system", "content": "One.\n\nTwo.\n\nThree."},
            user("Hi"),
            {"role": "system", "content": "Later."},
        ],
    ),
    "parts are joined": (
        {"input": [user("") | {"content": [{"type": "input_text", "text": t} for t in "ab"]}]},
        [user("ab")],
    ),
    "a turn of thinking, words and calls is one message": (
        {
            "input": [
                user("Hi"), thought("Hm"), spoken("So"), call("a"), call("b", "c2"), output(),
                output("c2", [{"type": "input_text", "text": "too"}]), spoken("End"),
            ]
        },
        [
            user("Hi"),
            {
                "role": "assistant", "content": "So", "reasoning_content": "Hm",
                "tool_calls": [made("a"), made("b", "c2")],
            },
            done("a"), done("b", "c2", "too"),
            {"role": "assistant", "content": "End"},
        ],
    ),
    "words after a call are the next message": (
        {"input": [user("Hi"), call("a"), spoken("So"), thought("Hm"), spoken("Yes")]},
        [
            user("Hi"),
            {"role": "assistant", "content": "", "tool_calls": [made("a")]},
            {"role": "assistant", "content": "So"},
            {"role": "assistant", "content": "Yes", "reasoning_content": "Hm"},
        ],
    ),
    "content of thinking beats its summary": (
        {"input": [user("Hi"), thought("short") | thought("long", "content"), spoken("Yes")]},
        [user("Hi"), {"role": "assistant", "content": "Yes", "reasoning_content": "long"}],
    ),
    "encrypted thinking says nothing": (
        {"input": [user("Hi"), {"type": "reasoning", "summary": [], "encrypted_content": "x"}]},
        [user("Hi")],
    ),
    "a custom call": (
        {"input": [user("Hi"), CUSTOM, output() | {"type": "custom_tool_call_output"}]},
        [
            user("Hi"),
            {
                "role": "assistant", "content": "",
                "tool_calls": [made("patch", arguments='{"input": "+ a"}')],
            },
            done("patch"),
        ],
    ),
    "a call in a namespace": (
        {"input": [user("Hi"), call("send", namespace="mail"), output()]},
        [
            user("Hi"),
            {"role": "assistant", "content": "", "tool_calls": [made("mail__send")]},
            done("mail__send"),
        ],
    ),
    "an output without its call": ({"input": [user("Hi"), output()]}, [user("Hi"), done(None)]),
    "a refusal is what was said": (
        {"input": [user("Hi"), spoken("") | {"content": [{"type": "refusal", "refusal": "No"}]}]},
        [user("Hi"), {"role": "assistant", "content": "No"}],
    ),
    "a hosted search has nothing to read": (
        {"input": [user("Hi"), {"type": "web_search_call", "id": "w", "action": {}}]},
        [user("Hi")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "messages"), SEEN.values(), ids=SEEN)
def test_the_template_sees(
    http: httpx.Client, engine: FakeEngine, body: Json, messages: list[Json]
) -> None:
    answer = http.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    assert engine.text_codec.rendered[-1]["messages"] == messages


def test_functions_reach_the_template_without_their_strictness(
    http: httpx.Client, engine: FakeEngine
) -> None:
    schema = {"type": "object", "properties": {}}
    tool = {"type": "function", "name": "a", "description": "A.", "parameters": schema}
    http.post("/v1/responses", json={"input": "Hi", "tools": [tool | {"strict": True}]})
    function = {"name": "a", "description": "A.", "parameters": schema}
    assert engine.text_codec.rendered[-1]["tools"] == [{"type": "function", "function": function}]


def test_a_custom_tool_is_a_function_of_one_text_that_tells_its_grammar(
    http: httpx.Client, engine: FakeEngine
) -> None:
    form = {"type": "grammar", "syntax": "lark", "definition": "start: WORD"}
    tool = {"type": "custom", "name": "patch", "description": "Edits.", "format": form}
    answer = http.post("/v1/responses", json={"input": "Hi", "tools": [tool]}).json()
    assert answer["tools"] == [tool]
    (seen,) = engine.text_codec.rendered[-1]["tools"]
    assert seen["function"]["name"] == "patch"
    assert seen["function"]["description"] == "Edits."
    text = seen["function"]["parameters"]["properties"]["input"]
    assert text["type"] == "string"
    assert text["description"].endswith("(lark):\nstart: WORD")


def test_tools_that_agents_always_send_are_left_out_and_not_echoed(
    http: httpx.Client, engine: FakeEngine
) -> None:
    answer = http.post("/v1/responses", json={"input": "Hi", "tools": [{"type": "web_search"}]})
    assert answer.json()["tools"] == []
    assert engine.text_codec.rendered[-1]["tools"] is None


def test_tools_may_come_as_an_item_and_once_more(http: httpx.Client, engine: FakeEngine) -> None:
    more = {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "a"}]}  # noqa: E501 # fmt: skip
    answer = http.post("/v1/responses", json={"input": [user("Hi"), more, more]})
    assert answer.status_code == 200
    (seen,) = engine.text_codec.rendered[-1]["tools"]
    assert seen["function"] == {"name": "a"}


TOOLS = [
    {"type": "function", "name": "a"},
    {"type": "custom", "name": "b"},
    {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "c"}]},
]
ALLOWED = {"type": "allowed_tools", "tools": [{"type": "function", "name": "a"}]}
CHOICES: dict[str, tuple[Any, list[str], Any]] = {
    "auto": ("auto", ["a", "b", "n__c"], None),
    "none": ("none", [], None),
    "required": ("required", ["a", "b", "n__c"], "required"),
    "function": ({"type": "function", "name": "a"}, ["a", "b", "n__c"], "a"),
    "custom": ({"type": "custom", "name": "b"}, ["a", "b", "n__c"], "b"),
    "in a namespace": (
        {"type": "function", "name": "c", "namespace": "n"}, ["a", "b", "n__c"], "n__c"
    ),
    "some": (ALLOWED | {"mode": "auto"}, ["a"], None),
    "one of some": (ALLOWED | {"mode": "required"}, ["a"], "required"),
}  # fmt: skip


@pytest.mark.parametrize(("choice", "told", "forced"), CHOICES.values(), ids=CHOICES)
def test_a_choice_of_tools_becomes_a_demand(
    http: httpx.Client, engine: FakeEngine, choice: Any, told: list[str], forced: Any
) -> None:
    body = {"input": "Hi", "tools": TOOLS, "tool_choice": choice}
    assert http.post("/v1/responses", json=body).json()["tool_choice"] == choice
    tools = engine.text_codec.rendered[-1]["tools"] or []
    assert [tool["function"]["name"] for tool in tools] == told
    constraint = engine.seen[-1].constraint
    if forced is None:
        assert constraint is None
        return
    assert constraint is not None
    assert constraint["type"] == "tool_choice"
    assert constraint["tools"] == tools
    named = {"type": "function", "function": {"name": forced}}
    assert constraint["tool_choice"] == ("required" if forced == "required" else named)


@pytest.mark.parametrize(
    ("form", "constraint"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True},
            {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
            },
        ),
    ],
    ids=["none", "text", "object", "schema"],
)
def test_a_form_of_text_becomes_a_demand(
    http: httpx.Client, engine: FakeEngine, form: Any, constraint: Any
) -> None:
    answer = http.post("/v1/responses", json={"input": "Hi", "text": {"format": form}})
    assert answer.json()["text"]["format"] == (form or {"type": "text"})
    assert engine.seen[-1].constraint == constraint


@pytest.mark.parametrize(
    ("effort", "level", "thinks"),
    [("none", "low", False), ("minimal", "low", False), ("low", "low", True),
     ("medium", "medium", True), ("high", "high", True), ("xhigh", "high", True)],
)  # fmt: skip
def test_effort_is_told_to_the_template(
    http: httpx.Client, engine: FakeEngine, effort: str, level: str, thinks: bool
) -> None:
    body = {"input": "Hi", "reasoning": {"effort": effort}}
    assert http.post("/v1/responses", json=body).json()["reasoning"]["effort"] == effort
    told = {"reasoning_effort": level, "enable_thinking": thinks, "thinking": thinks}
    assert engine.text_codec.rendered[-1]["kwargs"] == told
    own = {"enable_thinking": "mine", "other": 1}
    http.post("/v1/responses", json=body | {"chat_template_kwargs": own})
    assert engine.text_codec.rendered[-1]["kwargs"] == told | own


def test_without_an_effort_the_template_is_told_nothing(
    http: httpx.Client, engine: FakeEngine
) -> None:
    http.post("/v1/responses", json={"input": "Hi", "reasoning": {"summary": "auto"}})
    assert engine.text_codec.rendered[-1]["kwargs"] is None


def test_parameters_reach_the_engine(http: httpx.Client, engine: FakeEngine) -> None:
    body = {
        "input": "Hi", "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "seed": 3,
        "presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1,
        "logit_bias": {"65": 2}, "max_output_tokens": 9, "min_tokens": 2, "stop": ["x"],
        "stop_token_ids": [3], "ignore_eos": True, "priority": -1, "cache_salt": "s",
    }  # fmt: skip
    answer = http.post("/v1/responses", json=body).json()
    assert (answer["temperature"], answer["top_p"], answer["max_output_tokens"]) == (0.5, 0.9, 9)
    asked = engine.seen[-1]
    assert (asked.sampling.temperature, asked.sampling.top_k, asked.sampling.seed) == (0.5, 7, 3)
    assert (asked.sampling.min_p, asked.sampling.logit_bias) == (0.1, {65: 2})
    assert (asked.sampling.presence_penalty, asked.sampling.frequency_penalty) == (0.5, -0.5)
    assert (asked.stop.max_tokens, asked.stop.min_tokens, asked.stop.strings) == (9, 2, ("x",))
    assert (asked.stop.token_ids, asked.stop.ignore_eos) == (frozenset({3}), True)
    assert (asked.priority, asked.cache_salt, asked.tenant) == (-1, "s", "somebody")
    assert asked.id == answer["id"]


class Particular:
    """A template that takes some orders of roles only."""

    def __init__(self, *allowed: str) -> None:
        self.allowed = allowed

    def __call__(self, messages: list[Json], **_: Any) -> list[int]:
        roles = " ".join(message["role"] for message in messages)
        if roles not in self.allowed:
            raise RequestError(status=400, message=f"not {roles}", code="chat_template_error")
        return list(json.dumps([message["content"] for message in messages]).encode())


AGENTS = [{"role": role, "content": role[0]} for role in ("developer", "user", "user", "developer")]


@pytest.mark.parametrize(
    ("allowed", "prompt"),
    [
        ("system user user system", ["d", "u", "u", "d"]),
        ("system user", ["d", "u\n\nu\n\nd"]),
        ("user", ["d\n\nu\n\nu\n\nd"]),
    ],
    ids=["any", "system first", "no system"],
)
def test_a_particular_template_gets_roles_that_it_knows(
    http: httpx.Client,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    allowed: str,
    prompt: list[str],
) -> None:
    monkeypatch.setattr(engine.text_codec, "render_chat", Particular(allowed))
    assert http.post("/v1/responses", json={"input": AGENTS}).status_code == 200
    assert json.loads(bytes(engine.seen[-1].prompt)) == prompt


def test_a_template_that_takes_no_form_is_quoted_for_the_first(
    http: httpx.Client, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.text_codec, "render_chat", Particular())
    answer = http.post("/v1/responses", json={"input": AGENTS})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "not system user user system"


def test_a_plain_conversation_has_one_form_only() -> None:
    assert len(list(forms([user("a")]))) == 1
