from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from mlxserve_hookspecs import Limits

from .fake_engine import FakeEngine

MESSAGES: Any = [{"role": "user", "content": "Hi"}]
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
TOO_LONG = "context_length_exceeded"
TOOL: Any = {"type": "function", "function": {"name": "f"}}


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


FIELDS: list[Any] = [
    ("a number for text", {"model": 7}, "model"),
    ("text for a number", {"temperature": "1"}, "temperature"),
    ("a bool for a number", {"temperature": True}, "temperature"),
    ("a bool for an int", {"max_tokens": True}, "max_tokens"),
    ("a float for an int", {"max_tokens": 1.5}, "max_tokens"),
    ("an int for a bool", {"stream": 1}, "stream"),
    ("a negative temperature", {"temperature": -0.1}, "temperature"),
    ("a huge temperature", {"temperature": 101}, "temperature"),
    ("top_p above 1", {"top_p": 1.01}, "top_p"),
    ("min_p above 1", {"min_p": 1.1}, "min_p"),
    ("a large penalty", {"presence_penalty": 2.1}, "presence_penalty"),
    ("max_tokens below anything", {"max_tokens": -2}, "max_tokens"),
    ("a top_k below anything", {"top_k": -2}, "top_k"),
    ("a negative top_p", {"top_p": -0.5}, "top_p"),
    ("a negative repetition penalty", {"repetition_penalty": -1}, "repetition_penalty"),
    ("a fraction of a seed", {"seed": 1.5}, "seed"),
    ("a small penalty", {"frequency_penalty": -2.1}, "frequency_penalty"),
    ("no tokens at all", {"max_tokens": 0}, "max_tokens"),
    ("min_tokens above max_tokens", {"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
    ("no choices", {"n": 0}, "n"),
    ("too many choices", {"n": 129}, "n"),
    ("too many stop strings", {"stop": ["a"] * 17}, "stop"),
    ("a number as stop string", {"stop": [1]}, "stop[0]"),
    ("an unknown stop token", {"stop_token_ids": [260]}, "stop_token_ids"),
    ("a negative stop token", {"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ("a bias of a word", {"logit_bias": {"the": 1}}, "logit_bias"),
    ("a bias that is text", {"logit_bias": {"1": "x"}}, "logit_bias[...]"),
    ("a bias out of range", {"logit_bias": {"1": 101}}, "logit_bias[...]"),
    ("a bias of an unknown token", {"logit_bias": {"260": 1}}, "logit_bias"),
    ("a bias of a negative token", {"logit_bias": {"-1": 1}}, "logit_bias"),
    ("a bias of a huge token", {"logit_bias": {"9" * 30: 1}}, "logit_bias"),
    ("a list of biases", {"logit_bias": [1]}, "logit_bias"),
    ("a priority above 32 bits", {"priority": 2**31}, "priority"),
    ("a long cache salt", {"cache_salt": "x" * 257}, "cache_salt"),
    ("a format without type", {"response_format": {}}, "response_format.type"),
    ("a format that is text", {"response_format": "json"}, "response_format"),
    ("a prediction of another type", {"prediction": {"type": "x"}}, "prediction.type"),
]

CHATS: list[Any] = [
    ("no messages", {"messages": []}, "messages"),
    ("messages of null", {"messages": None}, "messages"),
    ("a message that is text", {"messages": ["Hi"]}, "messages[0]"),
    ("a message without role", {"messages": [{"content": "Hi"}]}, "messages[0].role"),
    ("an unknown role", {"messages": [{"role": "king", "content": ""}]}, "messages[0].role"),
    ("content of a number", user(7), "messages[0].content"),
    ("an image", user([{"type": "image_url", "image_url": {}}]), "messages[0].content[0].type"),
    ("sound", user([{"type": "input_audio"}]), "messages[0].content[0].type"),
    ("a text part without text", user([{"type": "text"}]), "messages[0].content[0].text"),
    ("too many top_logprobs", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ("a tool that is no function", {"tools": [{"type": "web"}]}, "tools[0].type"),
    (
        "a tool without name",
        {"tools": [{"type": "function", "function": {}}]},
        "tools[0].function.name",
    ),
    (
        "a message to be continued and one to be begun",
        {"continue_final_message": True, "add_generation_prompt": True},
        "continue_final_message",
    ),
    ("a forced call without tools", {"tool_choice": "required"}, "tool_choice"),
    (
        "a forced call of an unknown tool",
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice",
    ),
    (
        "a forced call and a format",
        {"tools": [TOOL], "tool_choice": "required", "response_format": {"type": "json_object"}},
        "tool_choice",
    ),
    ("sound as answer", {"modalities": ["audio"]}, "modalities[0]"),
    ("a prompt in a chat", {"prompt": "Hi"}, "prompt"),
]

UNSUPPORTED: list[Any] = [
    (CHAT, {"messages": MESSAGES, "functions": [{"name": "f"}]}, "functions"),
    (CHAT, {"messages": MESSAGES, "function_call": {"name": "f"}}, "function_call"),
    (CHAT, {"messages": MESSAGES, "web_search_options": {}}, "web_search_options"),
    (CHAT, {"messages": MESSAGES, "audio": {"voice": "x"}}, "audio"),
    (CHAT, {"messages": MESSAGES, "chat_template": "{{ 1 }}"}, "chat_template"),
    (CHAT, {"messages": MESSAGES, "best_of": 2}, "best_of"),
    (CHAT, {"messages": MESSAGES, "mirostat": 2}, "mirostat"),
    (CHAT, {"messages": MESSAGES, "bad_words": ["no"]}, "bad_words"),
    (
        CHAT,
        {"messages": MESSAGES, "include_stop_str_in_output": True},
        "include_stop_str_in_output",
    ),
    (TEXT, {"prompt": "a", "suffix": "z"}, "suffix"),
    (TEXT, {"prompt": "a", "use_beam_search": True}, "use_beam_search"),
]

TEXTS: list[Any] = [
    ("an empty prompt", {"prompt": ""}, "prompt"),
    ("an empty prompt among others", {"prompt": ["a", ""]}, "prompt[1]"),
    ("no prompts", {"prompt": []}, "prompt"),
    ("no tokens", {"prompt": [[]]}, "prompt"),
    ("a prompt of null", {"prompt": None}, "prompt"),
    ("texts and tokens mixed", {"prompt": ["a", 1]}, "prompt"),
    ("a bool as token", {"prompt": [1, True]}, "prompt[1]"),
    ("a negative token", {"prompt": [-1]}, "prompt[0]"),
    ("an unknown token", {"prompt": [1, 260]}, "prompt"),
    ("an unknown token in a list", {"prompt": [[1], [260]]}, "prompt[1]"),
    ("best_of below n", {"n": 3, "best_of": 2}, "best_of"),
    ("a stream of the best", {"best_of": 2, "stream": True}, "best_of"),
    ("too many logprobs", {"logprobs": 21}, "logprobs"),
    ("messages in a completion", {"messages": MESSAGES}, "messages"),
]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("fields", "param"), [pytest.param(*case, id=name) for name, *case in FIELDS]
)
def test_a_bad_field_is_named(
    http: httpx.Client, path: str, fields: dict[str, Any], param: str
) -> None:
    body = {"messages": MESSAGES} if path == CHAT else {"prompt": "a"}
    refused(http.post(path, json={**body, **fields}), param)


@pytest.mark.parametrize(
    ("fields", "param"), [pytest.param(*case, id=name) for name, *case in CHATS]
)
def test_a_bad_chat_field_is_named(http: httpx.Client, fields: dict[str, Any], param: str) -> None:
    refused(http.post(CHAT, json={"messages": MESSAGES, **fields}), param)


@pytest.mark.parametrize(
    ("fields", "param"), [pytest.param(*case, id=name) for name, *case in TEXTS]
)
def test_a_bad_completion_field_is_named(
    http: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    refused(http.post(TEXT, json={"prompt": "a", **fields}), param)


@pytest.mark.parametrize(
    ("path", "body", "param"), [pytest.param(*case, id=case[2]) for case in UNSUPPORTED]
)
def test_a_field_that_would_change_the_reply_is_refused_but_its_null_is_not(
    http: httpx.Client, path: str, body: dict[str, Any], param: str
) -> None:
    error = refused(http.post(path, json=body), param)
    assert error["code"] == "unsupported_parameter"
    assert error["message"] == f"`{param}` is not supported by this server"
    assert http.post(path, json={**body, param: None}).status_code == 200


def test_fields_that_change_nothing_are_accepted(sdk: OpenAI) -> None:
    reply = sdk.chat.completions.create(
        model="fake",
        messages=MESSAGES,
        user="ann",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        safety_identifier="x",
        prompt_cache_key="y",
        parallel_tool_calls=True,
        modalities=["text"],
    )
    assert reply.choices[0].message.content == "Hello, world"


@pytest.mark.parametrize(
    "path", [CHAT, TEXT, "/tokenize", "/detokenize"], ids=lambda path: path.strip("/")
)
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"  ", id="spaces"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'"text"', id="text"),
        pytest.param(b"{", id="half an object"),
        pytest.param(b'{"prompt": "a"} x', id="something after it"),
        pytest.param(b'{"temperature": NaN}', id="not a number"),
        pytest.param(b'{"temperature": 1e999}', id="infinity"),
        pytest.param(b'{"prompt": "\xff"}', id="broken UTF-8"),
        pytest.param(b'{"prompt": "\\ud800"}', id="half a surrogate pair"),
        pytest.param(b'{"metadata": {"a": ' + b"[" * 9000 + b"]" * 9000 + b"}}", id="a deep nest"),
        pytest.param(b"a=b", id="a form"),
    ],
)
def test_a_malformed_body_is_the_clients_mistake(
    http: httpx.Client, path: str, content: bytes
) -> None:
    answer = http.post(path, content=content)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["error"]["message"]


def test_a_body_that_is_too_large_is_refused(http: httpx.Client) -> None:
    answer = http.post(TEXT, json={"prompt": "x" * 50_000})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


@pytest.mark.parametrize(
    ("fields", "limits"),
    [
        pytest.param({}, Limits(max_prompt_tokens=19), id="prompt above its limit"),
        pytest.param({}, Limits(max_model_len=20), id="no room for a reply"),
        pytest.param({"max_tokens": 5}, Limits(max_kv_tokens=20), id="no room in KV"),
    ],
)
def test_what_does_not_fit_the_model_says_so(
    http: httpx.Client, engine: FakeEngine, fields: dict[str, Any], limits: Limits
) -> None:
    engine.limits = limits
    error = refused(http.post(TEXT, json={"prompt": "x" * 20, **fields}), "prompt")
    assert error["code"] == TOO_LONG


def test_what_just_fits_the_model_is_served(http: httpx.Client, engine: FakeEngine) -> None:
    engine.limits = Limits(max_prompt_tokens=20, max_model_len=25)
    body = {"prompt": "x" * 20, "max_tokens": 5}
    assert http.post(TEXT, json=body).json()["choices"][0]["text"] == "Hello"
    body = {"prompt": "x" * 20}
    assert http.post(TEXT, json=body).json()["choices"][0]["text"] == "Hello"


def test_what_the_template_refuses_is_told_as_it_says_it(http: httpx.Client) -> None:
    answer = http.post(CHAT, json=user("raise"))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "the template refuses"
    assert answer.json()["error"]["param"] == "messages"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": MESSAGES, "model": "gpt-4"}),
        (TEXT, {"prompt": "a", "model": "gpt-4"}),
        ("/tokenize", {"prompt": "a", "model": "gpt-4"}),
        ("/detokenize", {"tokens": [1], "model": "gpt-4"}),
    ],
)
def test_a_model_that_is_not_served_is_404(
    http: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    error = refused(http.post(path, json=body), "model", status=404)
    assert error["code"] == "model_not_found"
    assert "org/fake-model" in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        pytest.param("/tokenize", {}, "prompt", id="nothing to tokenise"),
        pytest.param("/tokenize", {"prompt": "a", "messages": MESSAGES}, "prompt", id="both"),
        pytest.param("/detokenize", {}, "tokens", id="no tokens"),
        pytest.param("/detokenize", {"tokens": [260]}, "tokens", id="an unknown token"),
        pytest.param("/detokenize", {"tokens": "ab"}, "tokens", id="text"),
    ],
)
def test_bad_tokenisation_is_named(
    http: httpx.Client, path: str, body: dict[str, Any], param: str
) -> None:
    refused(http.post(path, json=body), param)


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1", "/tokenize/x", "/v1/chat"])
def test_an_unknown_path_has_openais_error(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert path in answer.json()["error"]["message"]


def test_another_method_has_openais_error(http: httpx.Client) -> None:
    answer = http.get(CHAT)
    assert answer.status_code == 405
    assert "POST" in answer.headers["allow"]
    assert answer.json()["error"]["code"] == "method_not_allowed"


TWICE = {
    "at the top": (b'{"prompt": "a", "max_tokens": 1, "max_tokens": 2}', "max_tokens"),
    "further down": (b'{"prompt": "a", "metadata": {"b": [{"c": 1, "c": 1}]}}', "c"),
    "spelt in another way": (b'{"prompt": "a", "prom\\u0070t": "b"}', "prompt"),
}


@pytest.mark.parametrize(("body", "key"), TWICE.values(), ids=TWICE)
def test_a_key_that_occurs_twice_is_named(http: httpx.Client, body: bytes, key: str) -> None:
    error = refused(http.post(TEXT, content=body), key)
    assert error["code"] == "duplicate_key"


def test_the_search_for_keys_minds_no_number_and_no_character(http: httpx.Client) -> None:
    body = '{"prompt": "a", "metadata": {"a": 1e300, "b": %s, "c": "\x7f\u2028"}}' % ("9" * 300)
    assert http.post(TEXT, content=body).status_code == 200


def test_the_schema_describes_a_models_id_as_text(http: httpx.Client) -> None:
    paths = http.get("/schema/openapi.json").json()["paths"]
    (parameter,) = paths["/v1/models/{model_id}"]["get"]["parameters"]
    assert parameter["schema"]["type"] == "string"
    assert "format" not in parameter["schema"]
    assert "slashes" in parameter["description"]


def test_openais_client_raises_what_the_status_means(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        sdk.chat.completions.create(model="fake", messages=MESSAGES, temperature=-1)
    assert refusal.value.param == "temperature"
    assert refusal.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError):
        sdk.chat.completions.create(model="gpt-4", messages=MESSAGES)


def refused(answer: httpx.Response, param: str, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert param.partition("[")[0] in error["message"]
    return error
