"""An agent's next turn computes what is new in it, whatever API it speaks and whatever the model."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import field, frozen

from .agent_loops import MODEL, SHAPES, Loop, Turn
from .agents_model import write_agents_model
from .live import LOOPBACK, serving

BLOCK = 16
TURNS = 6
MODELS = {"plain": "llama", "sliding window": "gemma3_text", "hybrid": "qwen3_next"}


@frozen
class Ran:
    """What the agents of one model did.

    Attributes:
        turns: Each agent's, by its API; the last after a restart.
        second: The first turn of another agent with the same system text and tools.
        spoke: What another agent's turn took after its user spoke again, and thinking was dropped.
    """

    turns: Mapping[str, list[Turn]] = field(factory=dict)
    second: Mapping[str, Turn] = field(factory=dict)


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """Return what agents took of one model, before and after a restart."""
    folder = tmp_path_factory.mktemp("agents")
    model = write_agents_model(folder / "model", request.param)
    words = (
        *LOOPBACK, "--model", str(model), "--served-model-name", MODEL, "--preset", "agent",
        "--ssd-cache-dir", str(folder / "kv"),
    )  # fmt: skip
    turns, second = {}, {}
    loops: dict[str, Any] = {}
    with serving(folder, *words) as server:
        for name, make in SHAPES.items():
            server.post("/v1/cache/clear").raise_for_status()
            loop: Loop = make(server.url, f"What do I owe, says {name}?")
            turns[name] = [loop.turn() for _ in range(TURNS)]
            second[name] = make(server.url, "Who is hungry?").turn()
            loops[name] = loop
    yield Ran(turns, second)


@pytest.mark.parametrize("api", SHAPES)
def test_a_turn_computes_what_is_new_and_two_blocks(ran: Ran, api: str) -> None:
    turns = ran.turns[api]
    for before, after in zip(turns, turns[1:], strict=False):
        new = after.prompt - before.prompt
        assert after.prompt - after.cached <= new + 2 * BLOCK


@pytest.mark.parametrize("api", SHAPES)
def test_another_agent_shares_the_system_text_and_tools(ran: Ran, api: str) -> None:
    first, other = ran.turns[api][0], ran.second[api]
    assert (first.cached, other.cached > 0) == (0, True)
