"""Pydantic AI, unmodified, with the model of the demo server, through each of its APIs."""

from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, ModelSettings, RunContext, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from .live import LiveServer

MODEL = "smollm2-135m-instruct"
SETTINGS = ModelSettings(temperature=0, max_tokens=100)
QUESTION = "What is the capital of France?"
APIS = ["chat", "responses", "messages"]


class Answer(BaseModel):
    """Where it is."""

    city: Literal["Rome", "Paris"]


@pytest.fixture(params=APIS)
async def model(request: pytest.FixtureRequest, demo: LiveServer) -> AsyncIterator[Any]:
    """Return the demo as a model of Pydantic AI."""
    if request.param == "messages":
        async with AsyncAnthropic(base_url=demo.url, api_key="none", max_retries=0) as anthropic:
            provider = AnthropicProvider(anthropic_client=anthropic)
            yield AnthropicModel(MODEL, provider=provider)
        return
    made = {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}[request.param]
    async with AsyncOpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0) as openai:
        yield made(MODEL, provider=OpenAIProvider(openai_client=openai))


async def test_an_agent_streams_and_says_what_it_used(model: Any) -> None:
    agent = Agent(model, model_settings=SETTINGS, instructions="You are a guide.")
    async with agent.run_stream(QUESTION) as run:
        pieces = [piece async for piece in run.stream_text(delta=True)]
        said = await run.get_output()
    assert "Paris" in said
    assert "".join(pieces) == said
    assert run.usage.output_tokens > 0


async def test_an_agent_calls_its_tool_and_fills_in_a_type(model: Any) -> None:
    looked: list[str] = []

    def settings(_: RunContext[None]) -> ModelSettings:
        return {**SETTINGS, "tool_choice": ["answer" if looked else "look"]}

    output = ToolOutput(Answer, name="answer")
    agent = Agent(model, model_settings=settings, output_type=output, retries=2)

    @agent.tool_plain  # type: ignore[untyped-decorator]
    def look(tower: Literal["Eiffel"]) -> str:
        """Look up where a tower is."""
        looked.append(tower)
        return "Paris"

    done = await agent.run("Look where the Eiffel Tower is. Then answer.")
    assert done.output.city in ("Rome", "Paris")
    assert looked == ["Eiffel"]
    assert done.usage.requests == 2
