"""What clients of other servers send: served, and told where it is not taken by its word.

Each case is a request that a client program was seen to send and another server to take.
"""

from typing import Any

import httpx
import pytest
from openai import OpenAI

from mlxserve_hookspecs import Limits
from mlxserve_plugins.openai.fields import CHAT as CHAT_FIELDS
from mlxserve_plugins.openai.fields import COMPLETIONS as TEXT_FIELDS

from .conftest import Stage
from .fake_engine import FakeEngine

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HI: Any = [{"role": "user", "content": "Hi"}]
BOTH = pytest.mark.parametrize("path", [CHAT, TEXT], ids=["chat", "text"])


def body_for(path: str) -> dict[str, Any]:
    return {"messages": HI} if path == CHAT else {"prompt": "Hi"}


OFF: dict[str, tuple[dict[str, Any], str, object]] = {
    "top_k of -1": ({"top_k": -1}, "sampling.top_k", 0),
    "top_k of 0": ({"top_k": 0}, "sampling.top_k", 0),
    "top_p of 0": ({"top_p": 0}, "sampling.top_p", 1.0),
    "top_p of 0.0": ({"top_p": 0.0}, "sampling.top_p", 1.0),
    "repetition_penalty of 0": ({"repetition_penalty": 0}, "sampling.repetition_penalty", 1.0),
    "repeat_penalty of 0": ({"repeat_penalty": 0.0}, "sampling.repetition_penalty", 1.0),
    "a seed of -1": ({"seed": -1}, "sampling.seed", None),
    "max_tokens of -1": ({"max_tokens": -1}, "stop.max_tokens", 40),
    "min_tokens of -1": ({"min_tokens": -1}, "stop.min_tokens", 0),
    "an empty stop": ({"stop": ""}, "stop.strings", ()),
    "no stops": ({"stop": []}, "stop.strings", ()),
    "empty stops among others": ({"stop": ["", None, "b", "b"]}, "stop.strings", ("b",)),
    "n_predict of -2": ({"n_predict": -2}, "stop.max_tokens", 40),
    "a prediction of nothing": (
        {"prediction": {"type": "content", "content": None}}, "stop.strings", (),
    ),
    "no biases": ({"logit_bias": []}, "sampling.logit_bias", {}),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize(("fields", "where", "meant"), OFF.values(), ids=OFF)
def test_a_value_that_means_nothing_elsewhere_means_nothing_here(
    http: httpx.Client, engine: FakeEngine, path: str, fields: Any, where: str, meant: object
) -> None:
    engine.limits = Limits(default_max_tokens=40)
    assert http.post(path, json={**body_for(path), **fields}).status_code == 200
    part, name = where.split(".")
    assert getattr(getattr(engine.seen[0], part), name) == meant


READ: dict[str, tuple[dict[str, Any], str, object]] = {
    "an integer as 8.0": ({"max_tokens": 8.0}, "stop.max_tokens", 8),
    "top_k as 40.0": ({"top_k": 40.0}, "sampling.top_k", 40),
    "a seed as 1.0": ({"seed": 1.0}, "sampling.seed", 1),
    "a seed of 64 bits": ({"seed": 2**64 - 1}, "sampling.seed", 2**63 - 1),
    "repeat_penalty": ({"repeat_penalty": 1.1}, "sampling.repetition_penalty", 1.1),
    "max_new_tokens": ({"max_new_tokens": 5}, "stop.max_tokens", 5),
    "n_predict": ({"n_predict": 5}, "stop.max_tokens", 5),
    "stop_sequences": ({"stop_sequences": ["x"]}, "stop.strings", ("x",)),
    "random_seed": ({"random_seed": 3}, "sampling.seed", 3),
    "biases as pairs": ({"logit_bias": [[5, 1.5]]}, "sampling.logit_bias", {5: 1.5}),
    "stop tokens as fractions": ({"stop_token_ids": [5.0]}, "stop.token_ids", frozenset({5})),
}


@BOTH
@pytest.mark.parametrize(("fields", "where", "meant"), READ.values(), ids=READ)
def test_a_field_by_the_name_or_in_the_form_of_another_server_is_honoured(
    http: httpx.Client, engine: FakeEngine, path: str, fields: Any, where: str, meant: object
) -> None:
    assert http.post(path, json={**body_for(path), **fields}).status_code == 200
    part, name = where.split(".")
    assert getattr(getattr(engine.seen[0], part), name) == meant


def test_the_field_itself_beats_its_other_name(http: httpx.Client, engine: FakeEngine) -> None:
    http.post(TEXT, json={"prompt": "a", "n_predict": 9, "max_tokens": 4})
    assert engine.seen[0].stop.max_tokens == 4


@BOTH
def test_null_is_the_default_of_every_field(
    http: httpx.Client, engine: FakeEngine, path: str
) -> None:
    table = CHAT_FIELDS if path == CHAT else TEXT_FIELDS
    nulls = dict.fromkeys(table.fields)
    assert http.post(path, json={**nulls, **body_for(path)}).status_code == 200
    engine.seen.clear()
    http.post(path, json=body_for(path))
    assert http.post(path, json={**nulls, **body_for(path)}).status_code == 200
    plain, with_nulls = engine.seen
    assert (plain.sampling, plain.stop) == (with_nulls.sampling, with_nulls.stop)


HARMLESS: dict[str, dict[str, Any]] = {
    "verbosity": {"verbosity": "low"},
    "prompt_cache_retention": {"prompt_cache_retention": "24h"},
    "include_obfuscation": {"stream_options": {"include_obfuscation": True}, "stream": True},
    "an unknown stream option": {"stream_options": {"x": 1}, "stream": True},
    "stream_options without a stream": {"stream_options": {"include_usage": True}},
    "keep_alive": {"keep_alive": "5m"},
    "mirostat that is off": {"mirostat": 0, "mirostat_tau": 5.0},
    "typical_p that is off": {"typical_p": 1.0},
    "a field that nobody knows": {"temprature": 1},
    "two limits that differ": {"max_tokens": 2, "max_completion_tokens": 3},
    "no functions": {"functions": [], "function_call": "none"},
    "function_call of auto": {"function_call": "auto"},
    "no tools": {"tools": [], "tool_choice": "auto"},
    "top_logprobs alone": {"top_logprobs": 2},
    "logprobs as a number": {"logprobs": 2},
    "reasoning_effort": {"reasoning_effort": "low"},
    "an unknown key of a prediction": {"prediction": {"type": "content", "content": "a", "b": 1}},
}


@pytest.mark.parametrize("fields", HARMLESS.values(), ids=HARMLESS)
def test_what_changes_no_text_is_served(http: httpx.Client, fields: dict[str, Any]) -> None:
    answer = http.post(CHAT, json={"messages": HI, **fields})
    assert answer.status_code == 200, answer.text


HISTORIES: dict[str, list[dict[str, Any]]] = {
    "keys of other servers": [
        {
            "role": "assistant", "content": "a", "reasoning_details": [{"x": 1}], "annotations": [],
            "audio": None, "provider_specific_fields": {"y": 2}, "function_call": None,
            "tool_calls": None, "refusal": None, "id": "m1",
        },
        {"role": "user", "content": [{"type": "text", "text": "b", "cache_control": {"t": 1}}]},
    ],
    "content of null": [{"role": "user", "content": None}, {"role": "system", "content": None}],
    "no content": [{"role": "user"}, {"role": "assistant"}, {"role": "tool"}],
    "content of other parts": [
        {"role": "user", "content": ["a", {"type": "input_text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ],
    "calls without arguments": [
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "x"},
    ],
    "calls of arguments that are an object": [
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
    ],
    "calls of broken JSON": [
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a'}}]},
    ],
    "a call with more keys": [
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "index": 0, "type": "function", "id": "1", "strict": True, "extra_content": {},
                    "function": {"name": "f", "arguments": "", "strict": True, "parsed": None},
                }
            ],
        }
    ],
    "a call by the older name": [
        {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "x"},
    ],
    "a developer and a second system": [
        {"role": "developer", "content": "a"}, {"role": "system", "content": "b"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_a_history_that_other_servers_wrote_goes_on(
    http: httpx.Client, history: list[dict[str, Any]]
) -> None:
    answer = http.post(CHAT, json={"messages": [*history, *HI]})
    assert answer.status_code == 200, answer.text


def test_what_was_thought_comes_back_by_either_name(http: httpx.Client, engine: FakeEngine) -> None:
    for name in ("reasoning", "reasoning_content"):
        http.post(CHAT, json={"messages": [{"role": "assistant", "content": "a", name: "hm"}]})
    for rendered in engine.text_codec.rendered:
        assert rendered["messages"][0]["reasoning_content"] == "hm"


TOOLS: dict[str, dict[str, Any]] = {
    "strict beside function": {"type": "function", "strict": True, "function": {"name": "f"}},
    "cache_control": {"type": "function", "cache_control": {}, "function": {"name": "f", "x": 1}},
    "no type": {"function": {"name": "f"}},
    "flat": {"type": "function", "name": "f"},
}


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_a_tool_with_more_keys_or_fewer_is_a_tool(
    http: httpx.Client, engine: FakeEngine, tool: dict[str, Any]
) -> None:
    assert http.post(CHAT, json={"messages": HI, "tools": [tool]}).status_code == 200
    (told,) = engine.text_codec.rendered[0]["tools"]
    assert (told["type"], told["function"]["name"]) == ("function", "f")


CHOICES: dict[str, tuple[object, object]] = {
    "any": ("any", "required"),
    "any in an object": ({"type": "any"}, "required"),
    "flat": ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
}


@pytest.mark.parametrize(("sent", "meant"), CHOICES.values(), ids=CHOICES)
def test_a_tool_choice_in_another_servers_words_is_honoured(
    http: httpx.Client, engine: FakeEngine, sent: object, meant: object
) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = {"messages": HI, "tools": tools, "tool_choice": sent}
    assert http.post(CHAT, json=body).status_code == 200
    assert (engine.seen[0].constraint or {})["tool_choice"] == meant


TEMPLATE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "reasoning_effort": ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
    "no effort": ({"reasoning_effort": "none"}, {"enable_thinking": False}),
    "enable_thinking": ({"enable_thinking": False}, {"enable_thinking": False}),
    "thinking": ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
    "think": ({"think": True}, {"enable_thinking": True}),
    "reasoning": ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
    "its own arguments beat the field": (
        {"enable_thinking": False, "chat_template_kwargs": {"enable_thinking": True}},
        {"enable_thinking": True},
    ),
}


@pytest.mark.parametrize(("sent", "told"), TEMPLATE.values(), ids=TEMPLATE)
def test_how_much_to_think_reaches_the_template(
    http: httpx.Client, engine: FakeEngine, sent: dict[str, Any], told: dict[str, Any]
) -> None:
    assert http.post(CHAT, json={"messages": HI, **sent}).status_code == 200
    assert engine.text_codec.rendered[0]["kwargs"] == told


FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "guided_json": (
        {"guided_json": {"type": "object"}},
        {"type": "json_object", "schema": {"type": "object"}},
    ),
    "guided_json as text": (
        {"guided_json": '{"type": "object"}'},
        {"type": "json_object", "schema": {"type": "object"}},
    ),
    "structured_outputs": (
        {"structured_outputs": {"json": {"type": "object"}}},
        {"type": "json_object", "schema": {"type": "object"}},
    ),
    "guided_regex": ({"guided_regex": "a+"}, {"type": "regex", "regex": "a+"}),
    "guided_choice": ({"guided_choice": ["a", "b"]}, {"type": "choice", "choice": ["a", "b"]}),
    "guided_grammar": (
        {"guided_grammar": 'start: "a"'},
        {"type": "grammar", "grammar": 'start: "a"'},
    ),
    "ebnf": ({"ebnf": 'root ::= "a"'}, {"type": "grammar", "grammar": 'root ::= "a"'}),
    "grammar": ({"grammar": 'root ::= "a"'}, {"type": "grammar", "grammar": 'root ::= "a"'}),
    "regex": ({"regex": "a"}, {"type": "regex", "regex": "a"}),
    "nothing": ({"guided_regex": "", "grammar": "", "json_schema": {}}, {}),
}


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(("fields", "wanted"), FORMS.values(), ids=FORMS)
def test_a_form_by_another_servers_name_is_demanded(
    http: httpx.Client,
    engine: FakeEngine,
    path: str,
    fields: dict[str, Any],
    wanted: dict[str, Any],
) -> None:
    what = {"messages": HI} if path == CHAT else {"prompt": "Hi"}
    assert http.post(path, json={**what, **fields}).status_code == 200
    found = dict(engine.seen[0].constraint or {})
    assert {name: value for name, value in found.items() if name != "param"} == wanted


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "a", "regex": "b"}, "regex"),
        ({"guided_choice": [1]}, "guided_choice"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"guided_json": "{"}, "guided_json"),
    ],
    ids=["two forms", "no texts", "unknown", "no JSON"],
)
def test_a_form_that_cannot_be_read_is_refused_by_name(
    http: httpx.Client, engine: FakeEngine, fields: dict[str, Any], param: str
) -> None:
    answer = http.post(CHAT, json={"messages": HI, **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert not engine.seen


CONTINUED: dict[str, dict[str, Any]] = {
    "continue_final_message": {"continue_final_message": True, "add_generation_prompt": False},
    "continue_final_message alone": {"continue_final_message": True},
    "Mistral's prefix": {},
}


@pytest.mark.parametrize("fields", CONTINUED.values(), ids=CONTINUED)
def test_a_trailing_assistant_message_is_gone_on_with(
    http: httpx.Client, engine: FakeEngine, fields: dict[str, Any]
) -> None:
    begun = {"role": "assistant", "content": "It is"} | ({} if fields else {"prefix": True})
    assert http.post(CHAT, json={"messages": [*HI, begun], **fields}).status_code == 200
    assert bytes(engine.seen[0].prompt).decode() == "user:Hi\nassistant:It is"
    assert engine.seen[0].continues


@BOTH
@pytest.mark.parametrize("asked", [32_000, 10**12], ids=["an agent's", "huge"])
def test_max_tokens_beyond_the_room_is_cut_to_it_and_told(
    http: httpx.Client, engine: FakeEngine, stage: Stage, path: str, asked: int
) -> None:
    engine.limits = Limits(max_model_len=64)
    answer = http.post(path, json={**body_for(path), "max_tokens": asked})
    assert answer.status_code == 200
    request = engine.seen[0]
    assert request.stop.max_tokens == 64 - len(request.prompt)
    surface = "chat" if path == CHAT else "completions"
    assert stage.adjusted == [(surface, "max_tokens", "clamped")]


ROOMS: dict[str, tuple[Limits, int]] = {
    "the server's limit": (Limits(max_generation_tokens=7), 7),
    "the model's context": (Limits(max_model_len=22), 2),
    "what KV holds": (Limits(max_model_len=90, max_kv_tokens=23), 3),
}


@pytest.mark.parametrize(("limits", "most"), ROOMS.values(), ids=ROOMS)
def test_the_least_room_counts_and_the_reply_ends_with_length(
    http: httpx.Client, engine: FakeEngine, limits: Limits, most: int
) -> None:
    engine.limits = limits
    answer = http.post(TEXT, json={"prompt": "x" * 20, "max_tokens": 1000})
    (choice,) = answer.json()["choices"]
    assert (len(choice["text"]), choice["finish_reason"]) == (most, "length")


def test_without_max_tokens_a_reply_may_use_what_the_context_leaves(
    http: httpx.Client, engine: FakeEngine, stage: Stage
) -> None:
    engine.limits = Limits(default_max_tokens=None, max_model_len=64)
    http.post(TEXT, json={"prompt": "x" * 20})
    assert engine.seen[0].stop.max_tokens == 44
    assert stage.adjusted == []


def test_min_tokens_is_cut_with_max_tokens(http: httpx.Client, engine: FakeEngine) -> None:
    engine.limits = Limits(max_model_len=24)
    body = {"prompt": "x" * 20, "min_tokens": 10, "max_tokens": 50}
    assert http.post(TEXT, json=body).status_code == 200
    assert engine.seen[0].stop.min_tokens == 4


def test_what_is_not_taken_by_its_word_is_told_once_for_each_field(
    http: httpx.Client, stage: Stage
) -> None:
    fields = {"user": "ann", "top_p": 0, "n_predict": 3, "secret-name": 1, "temperature": None}
    http.post(CHAT, json={"messages": HI, **fields})
    assert sorted(stage.adjusted) == [
        ("chat", "n_predict", "read as another"),
        ("chat", "top_p", "read as off"),
        ("chat", "unknown", "ignored"),
        ("chat", "user", "ignored"),
    ]


def test_a_plain_request_is_told_nothing_of(sdk: OpenAI, stage: Stage) -> None:
    sdk.chat.completions.create(model="fake", messages=HI, temperature=0.5, max_tokens=3)
    assert stage.adjusted == []


REFUSED: dict[str, tuple[str, dict[str, Any], tuple[int, str, str]]] = {
    "a wrong type": (CHAT, {"messages": HI, "n": "x"}, (400, "invalid_type", "n")),
    "a wrong value": (TEXT, {"prompt": "a", "min_p": -1}, (400, "invalid_value", "min_p")),
    "no such model": (CHAT, {"messages": HI, "model": "x"}, (404, "model_not_found", "model")),
    "a part": (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        (400, "unsupported_parameter", "messages[].content[].type"),
    ),
    "a long prompt": (TEXT, {"prompt": "x" * 300}, (400, "context_length_exceeded", "prompt")),
    "a path": ("/v1/nothing", {}, (404, "not_found", "")),
    "a large body": (TEXT, {"prompt": "x" * 50_000}, (413, "request_too_large", "")),
    "a wrong method": ("/v1/models", {}, (405, "method_not_allowed", "")),
}  # fmt: skip


@pytest.mark.parametrize(("path", "body", "told"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_told_once_with_its_reason_and_field(
    http: httpx.Client, stage: Stage, path: str, body: dict[str, Any], told: tuple[int, str, str]
) -> None:
    assert http.post(path, json=body).status_code == told[0]
    assert stage.refused == [told]


def test_a_body_that_is_no_json_is_told_without_a_word_of_it(
    http: httpx.Client, stage: Stage
) -> None:
    http.post(TEXT, content=b'{"prompt": "hunter2')
    http.post(TEXT, content=b'{"hunter2": 1, "hunter2": 2}')
    assert stage.refused == [(400, "invalid_json", ""), (400, "duplicate_key", "other")]


def test_a_body_may_begin_with_a_byte_order_mark(http: httpx.Client) -> None:
    assert http.post(TEXT, content=b'\xef\xbb\xbf{"prompt": "a"}').status_code == 200
