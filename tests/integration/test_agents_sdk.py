"""OpenAI's Agents SDK, unmodified, with the model of the demo server."""

from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

from .live import LiveServer

MODEL = "smollm2-135m-instruct"
SETTINGS = ModelSettings(temperature=0, max_tokens=100)
QUIET = RunConfig(tracing_disabled=True)


class Answer(BaseModel):
    """What the agent is to fill in."""

    city: Literal["Rome", "Paris"]


@pytest.fixture
async def ours(demo: LiveServer) -> AsyncIterator[AsyncOpenAI]:
    """Return a client of the demo."""
    async with AsyncOpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0) as found:
        yield found


async def test_an_agent_answers(ours: AsyncOpenAI) -> None:
    agent = Agent(name="Guide", model=OpenAIResponsesModel(MODEL, ours), model_settings=SETTINGS)
    done = await Runner.run(agent, "What is the capital of France?", run_config=QUIET)
    assert "Paris" in done.final_output
    usage = done.context_wrapper.usage
    assert usage.requests == 1
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens > 0


async def test_an_agent_streams(ours: AsyncOpenAI) -> None:
    agent = Agent(name="Guide", model=OpenAIResponsesModel(MODEL, ours), model_settings=SETTINGS)
    run = Runner.run_streamed(agent, "What is the capital of France?", run_config=QUIET)
    said = ""
    async for event in run.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            said += event.data.delta
    assert said == run.final_output


@pytest.mark.parametrize("api", [OpenAIResponsesModel, OpenAIChatCompletionsModel])
async def test_an_agent_calls_its_tool_and_goes_on(ours: AsyncOpenAI, api: Any) -> None:
    called: list[str] = []

    @function_tool  # type: ignore[untyped-decorator]
    def note(city: Literal["Rome", "Paris"]) -> str:
        """Note down a city."""
        called.append(city)
        return "noted"

    agent = Agent(
        name="Clerk",
        model=api(MODEL, ours),
        tools=[note],
        model_settings=ModelSettings(temperature=0, max_tokens=100, tool_choice="required"),
    )
    done = await Runner.run(agent, "Note the city of the Eiffel Tower.", run_config=QUIET)
    assert called in (["Rome"], ["Paris"])
    assert done.final_output
    kinds = [item.type for item in done.new_items]
    assert kinds[:2] == ["tool_call_item", "tool_call_output_item"]


async def test_an_agent_follows_a_type(ours: AsyncOpenAI) -> None:
    agent = Agent(
        name="Clerk",
        model=OpenAIResponsesModel(MODEL, ours),
        output_type=Answer,
        model_settings=SETTINGS,
    )
    done = await Runner.run(agent, "Where is the Eiffel Tower?", run_config=QUIET)
    assert done.final_output == Answer(city="Paris")


async def test_an_agent_goes_on_from_a_kept_response(ours: AsyncOpenAI) -> None:
    agent = Agent(name="Guide", model=OpenAIResponsesModel(MODEL, ours), model_settings=SETTINGS)
    first = await Runner.run(agent, "What is the capital of France?", run_config=QUIET)
    assert first.last_response_id
    second = await Runner.run(
        agent, "And of Italy?", previous_response_id=first.last_response_id, run_config=QUIET
    )
    assert second.final_output
    usage = second.context_wrapper.usage
    assert usage.input_tokens > first.context_wrapper.usage.input_tokens
    assert usage.input_tokens_details.cached_tokens > 0
