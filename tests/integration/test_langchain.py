"""LangChain's ChatOpenAI, unmodified, with the model of the demo server."""

from typing import Literal

import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from .live import LiveServer

MODEL = "smollm2-135m-instruct"
QUESTION = "What is the capital of France?"


class Answer(BaseModel):
    """Where it is."""

    city: Literal["Rome", "Paris"]


@tool
def note(city: Literal["Rome", "Paris"]) -> str:
    """Note down a city."""
    return f"{city} is noted"


@pytest.fixture(params=[False, True], ids=["chat", "responses"])
def model(request: pytest.FixtureRequest, demo: LiveServer) -> ChatOpenAI:
    """Return the demo as a model of LangChain."""
    return ChatOpenAI(
        model=MODEL,
        base_url=f"{demo.url}/v1",
        api_key=SecretStr("none"),
        temperature=0,
        max_completion_tokens=100,
        max_retries=0,
        stream_usage=True,
        use_responses_api=request.param,
    )


def test_a_model_answers_and_streams_the_same(model: ChatOpenAI) -> None:
    whole = model.invoke(QUESTION)
    assert "Paris" in whole.text
    chunks = list(model.stream(QUESTION))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    joined: AIMessageChunk = sum(chunks[1:], chunks[0])
    assert joined.usage_metadata
    assert whole.usage_metadata
    assert joined.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]


def test_a_bound_tool_is_called_and_its_answer_taken(model: ChatOpenAI) -> None:
    ask = HumanMessage("Note the city of the Eiffel Tower.")
    called = model.bind_tools([note], tool_choice="note").invoke([ask])
    (call,) = called.tool_calls
    assert (call["name"], call["args"]["city"] in ("Rome", "Paris")) == ("note", True)
    answer: ToolMessage = note.invoke(call)
    done = model.bind_tools([note], tool_choice="none").invoke([ask, called, answer])
    assert done.text
    assert not done.tool_calls


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_a_reply_is_of_the_wanted_type(
    model: ChatOpenAI, method: Literal["json_schema", "function_calling"]
) -> None:
    found = model.with_structured_output(Answer, method=method).invoke(
        "In which city is the Eiffel Tower?"
    )
    assert isinstance(found, Answer)
