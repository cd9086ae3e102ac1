from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from mlxserve_hookspecs import Credentials, Identity, RequestError
from mlxserve_plugins.responses.store import Kept, Store

from ..openai.fake_engine import FakeAdmission, FakeEngine
from .conftest import STORE_SIZE
from .protocol import plain, streamed
from .test_events import CALL, WEATHER

ASKED: Any = {"model": "fake", "input": "Hi"}


def test_a_response_is_kept_and_forgotten(sdk: OpenAI) -> None:
    made = sdk.responses.create(**ASKED)
    assert sdk.responses.retrieve(made.id).model_dump() == made.model_dump()
    sdk.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError) as error:
        sdk.responses.retrieve(made.id)
    assert error.value.code == "response_not_found"


def test_a_streamed_response_is_kept_when_its_last_event_comes(http: httpx.Client) -> None:
    last = streamed(http, {"input": "Hi"})[-1]["response"]
    assert plain(http.get(f"/v1/responses/{last['id']}").json()) == plain(last)


def test_what_was_asked_with_it_can_be_listed(sdk: OpenAI) -> None:
    made = sdk.responses.create(
        model="fake", input=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    )
    items: Any = list(sdk.responses.input_items.list(made.id))
    assert [item.content for item in items] == ["b", "a"]
    assert len({item.id for item in items}) == 2


def test_a_response_that_is_not_to_be_stored_is_not(sdk: OpenAI) -> None:
    made = sdk.responses.create(**ASKED, store=False)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(made.id)


def test_a_follow_up_goes_on_from_items_thoughts_and_calls(sdk: OpenAI, engine: FakeEngine) -> None:
    tools: Any = [WEATHER]
    engine.replies = [f"<think>Hm</think>{CALL}"]
    first = sdk.responses.create(**ASKED, tools=tools, instructions="Be kind.")
    call: Any = first.output[-1]
    engine.replies = ["Sunny"]
    answer: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sun"}
    second = sdk.responses.create(
        model="fake", previous_response_id=first.id, input=[answer], tools=tools
    )
    assert second.previous_response_id == first.id
    third = sdk.responses.create(model="fake", previous_response_id=second.id, input="Thanks")
    assert third.output_text == "Sunny"
    turns = engine.text_codec.rendered[-1]["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "assistant", "user"]
    assert turns[1]["reasoning_content"] == "Hm"
    assert turns[1]["tool_calls"][0]["function"]["name"] == "weather"
    assert turns[2] == {
        "role": "tool", "content": "sun", "tool_call_id": call.call_id, "name": "weather",
    }  # fmt: skip


def test_an_item_can_be_referred_to(sdk: OpenAI, engine: FakeEngine) -> None:
    engine.replies = ["Hello"]
    first = sdk.responses.create(**ASKED)
    reference: Any = {"type": "item_reference", "id": first.output[0].id}
    bare: Any = {"id": first.output[0].id}
    sdk.responses.create(model="fake", input=[reference, {"role": "user", "content": "b"}, bare])
    turns = engine.text_codec.rendered[-1]["messages"]
    assert [turn["content"] for turn in turns] == ["Hello", "b", "Hello"]


def test_what_is_not_kept_cannot_be_followed_or_referred_to(http: httpx.Client) -> None:
    answer = http.post("/v1/responses", json={"input": "Hi", "previous_response_id": "resp_0"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "previous_response_not_found"
    assert answer.json()["error"]["param"] == "previous_response_id"
    answer = http.post("/v1/responses", json={"input": [{"type": "item_reference", "id": "m"}]})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "item_not_found"


class Tenants(FakeAdmission):
    """Everybody is who they say."""

    def authenticate(self, credentials: Credentials) -> Identity:
        return Identity(credentials.headers.get("x-name", ""))


def test_nobody_finds_what_is_somebody_elses(http: httpx.Client, running: Any) -> None:
    running.stage.admission = Tenants()
    mine, yours = {"x-name": "me"}, {"x-name": "you"}
    made = http.post("/v1/responses", json={"input": "Hi"}, headers=mine).json()
    path, item = f"/v1/responses/{made['id']}", {"id": made["output"][0]["id"]}
    assert http.get(path, headers=mine).status_code == 200
    assert http.get(path, headers=yours).status_code == 404
    assert http.get(f"{path}/input_items", headers=yours).status_code == 404
    assert http.delete(path, headers=yours).status_code == 404
    for body in ({"input": "a", "previous_response_id": made["id"]}, {"input": [item]}):
        assert http.post("/v1/responses", json=body, headers=yours).status_code == 400
        assert http.post("/v1/responses", json=body, headers=mine).status_code == 200


def test_only_so_many_are_kept_and_those_in_use_longest(http: httpx.Client) -> None:
    names = [http.post("/v1/responses", json={"input": "Hi"}).json()["id"] for _ in range(3)]
    for _ in range(STORE_SIZE - 1):
        http.get(f"/v1/responses/{names[0]}")
        http.post("/v1/responses", json={"input": "Hi"})
    found = [http.get(f"/v1/responses/{name}").status_code for name in names]
    assert found == [200, 404, 404]


def test_a_kept_response_does_not_stream(http: httpx.Client) -> None:
    made = http.post("/v1/responses", json={"input": "Hi"}).json()
    answer = http.get(f"/v1/responses/{made['id']}?stream=true")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "stream"


acts = st.lists(
    st.tuples(st.sampled_from(["put", "find", "delete"]), st.integers(0, 9), st.integers(0, 60))
)


@given(acts=acts, most=st.integers(0, 5), most_bytes=st.integers(0, 100))
def test_a_store_keeps_within_its_bounds_whatever_is_done(
    acts: list[tuple[str, int, int]], most: int, most_bytes: int
) -> None:
    store = Store(most, most_bytes)
    for act, at, size in acts:
        name = f"{at}-{size}"
        with suppress(RequestError):
            if act == "put":
                store.put(name, Kept("me", b"x" * size, b"", b""))
            elif act == "find":
                assert store.find(name, "me").size == size
            else:
                store.delete(name, "me")
        assert len(store) <= most
        assert 0 <= store.bytes <= most_bytes
    assert store.bytes == sum(kept.size for kept in store._kept.values())
