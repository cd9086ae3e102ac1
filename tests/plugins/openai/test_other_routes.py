from importlib.metadata import version
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from .fake_engine import KEY, FakeAdmission, FakeEngine

HI = {"messages": [{"role": "user", "content": "Hi"}]}


def test_models_lists_the_model_once_with_its_context(sdk: OpenAI, http: httpx.Client) -> None:
    assert [model.id for model in sdk.models.list()] == ["org/fake-model"]
    (told,) = http.get("/v1/models").json()["data"]
    assert told["max_model_len"] == told["context_length"] == 256


ALIASES: dict[str, tuple[str, dict[str, Any] | None]] = {
    "/chat/completions": ("POST", HI),
    "/completions": ("POST", {"prompt": "a"}),
    "/models": ("GET", None),
    "/models/fake": ("GET", None),
}


@pytest.mark.parametrize(("path", "call"), ALIASES.items(), ids=ALIASES)
def test_a_base_url_without_the_version_is_served(
    http: httpx.Client, path: str, call: tuple[str, dict[str, Any] | None]
) -> None:
    method, body = call
    assert http.request(method, path, json=body).status_code == 200


def test_the_server_tells_its_version(http: httpx.Client) -> None:
    assert http.get("/version").json() == {"version": version("mlxserve")}


def test_the_tokenizer_is_described(http: httpx.Client) -> None:
    facts = {"tokenizer_class": "Bytes", "chat_template": None, "max_model_len": 256}
    assert http.get("/tokenizer_info").json() == facts


@pytest.mark.parametrize("name", ["gpt-4", "", "org/other"])
def test_a_request_for_any_model_is_served_where_names_are_not_checked(
    http: httpx.Client, engine: FakeEngine, name: str
) -> None:
    assert http.post("/v1/chat/completions", json={**HI, "model": name}).status_code == 404
    engine.any_name = True
    answer = http.post("/v1/chat/completions", json={**HI, "model": name})
    assert answer.json()["model"] == "org/fake-model"
    assert http.get("/v1/models/gpt-4").status_code == 404


@pytest.mark.parametrize("name", ["org/fake-model", "fake"])
def test_a_model_is_found_by_its_name(sdk: OpenAI, name: str) -> None:
    model = sdk.models.retrieve(name)
    assert (model.id, model.object, model.created) == (name, "model", 1700000000)


def test_a_model_that_is_not_served_is_not_found(sdk: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        sdk.models.retrieve("org/other")
    assert refused.value.code == "model_not_found"


def test_tokenize_and_detokenize_are_inverse(http: httpx.Client) -> None:
    found = http.post("/tokenize", json={"prompt": "hé", "return_token_strs": True}).json()
    assert found["tokens"] == list("hé".encode())
    assert (found["count"], found["max_model_len"]) == (3, 256)
    assert found["token_strs"] == ["h", "bytes:\\xc3", "bytes:\\xa9"]
    back = http.post("/detokenize", json={"tokens": found["tokens"]}).json()
    assert back == {"prompt": "hé"}


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        pytest.param({}, "user:Hi\nassistant:", id="ready for a reply"),
        pytest.param({"add_generation_prompt": False}, "user:Hi\n", id="as it stands"),
    ],
)
def test_tokenize_renders_conversations(
    http: httpx.Client, extra: dict[str, Any], text: str
) -> None:
    found = http.post("/tokenize", json={**HI, **extra}).json()
    assert bytes(found["tokens"]).decode() == text
    assert "token_strs" not in found


def test_a_long_text_is_tokenised(http: httpx.Client) -> None:
    found = http.post("/tokenize", json={"prompt": "x" * 10_000}).json()
    assert found["count"] == 10_000
    back = http.post("/detokenize", json={"tokens": [120] * 5000}).json()
    assert back["prompt"] == "x" * 5000


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/fake"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("POST", "/chat/completions"),
        ("GET", "/models"),
        ("GET", "/version"),
        ("GET", "/tokenizer_info"),
    ],
)
def test_every_route_asks_for_the_key_before_it_looks_at_the_body(
    http: httpx.Client, admission: FakeAdmission, method: str, path: str
) -> None:
    admission.locked = True
    answer = http.request(method, path, content=b"{broken")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["type"] == "authentication_error"
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_the_right_key_is_let_in(http: httpx.Client, admission: FakeAdmission) -> None:
    admission.locked = True
    answer = http.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200
    assert (admission.asked[0].path, admission.asked[0].client) == ("/v1/models", "127.0.0.1")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("GET", "/v1/models"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
    ],
)
def test_before_the_model_is_loaded_clients_are_told_when_to_retry(
    http: httpx.Client, engine: FakeEngine, method: str, path: str
) -> None:
    engine.loaded = False
    bodies = {"/v1/completions": {"prompt": "a"}, "/detokenize": {"tokens": [1]}}
    body = bodies.get(path, HI) if method == "POST" else None
    answer = http.request(method, path, json=body)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert answer.json()["error"]["type"] == "server_error"


def test_the_openapi_schema_describes_bodies_and_answers(http: httpx.Client) -> None:
    schema = http.get("/schema/openapi.json").json()
    chat = schema["paths"]["/v1/chat/completions"]["post"]
    components = schema["components"]["schemas"]
    body = named(chat["requestBody"]["content"]["application/json"], components)
    assert {"messages", "temperature", "chat_template_kwargs"} <= body["properties"].keys()
    assert body["required"] == ["messages"]
    assert components["UserMessage"]["properties"]["role"] == {"type": "string", "const": "user"}
    answer = named(chat["responses"]["200"]["content"]["application/json"], components)
    assert {"id", "choices", "usage"} <= answer["properties"].keys()
    error = named(chat["responses"]["400"]["content"]["application/json"], components)
    assert error["properties"].keys() == {"error"}


def named(media: dict[str, Any], components: dict[str, Any]) -> Any:
    return components[media["schema"]["$ref"].rpartition("/")[2]]
