"""An agent's next turn computes what is new in it, whatever its API and whatever the model."""

import signal
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from .agent_loops import MODEL, SHAPES, Loop, Turn
from .agents_model import write_agents_model
from .live import LOOPBACK, LiveServer, serving
from .recordings import FOLDER, NAMES, Sent, brief, loops_of, recorded
from .replaying import replay

BLOCK = 16
TURNS = 6
MODELS = {"plain": "llama", "sliding window": "gemma3_text", "hybrid": "qwen3_next"}
FEW_TOOLS = 2
"""Of a recorded client's: all take a CPU long, and another test has them."""

LOOPS = [name for name in NAMES if loops_of(recorded(name, MODEL))]
RESTARTED = [name for name in SHAPES if name != "previous_response_id"]  # kept in memory only


@define
class Ran:
    """What the agents of one model took.

    Attributes:
        folder: The model's, and what its servers wrote.
        words: How they are started.
        loops: The SDKs' agents, by API.
        turns: Theirs, and those of recorded clients by name.
        second: The first turn of another agent with the same system text and tools.
        restarted: The first turn after a restart.
    """

    folder: Path
    words: Sequence[str]
    loops: dict[str, Any] = field(factory=dict)
    turns: dict[str, list[Turn]] = field(factory=dict)
    second: dict[str, Turn] = field(factory=dict)
    restarted: dict[str, Turn] = field(factory=dict)

    def run(self, server: LiveServer) -> None:
        """Let each agent take its turns, and then another one its first."""
        for name, make in SHAPES.items():
            loop: Loop = make(server.url, f"What do I owe, says {name}?")
            self.turns[name] = [loop.turn() for _ in range(TURNS)]
            self.second[name] = make(server.url, "Who is hungry?").turn()
            self.loops[name] = loop
        for name in LOOPS:
            for at, loop_ in enumerate(self.recorded(name)):
                found = [replay(server.url, sent) for sent in loop_]
                self.turns[f"{name} {at}"] = [one for one in found if one]

    def run_again(self, server: LiveServer) -> None:
        """Let the agents go on with a server that has just started."""
        for name in RESTARTED:
            self.loops[name].url = server.url
            self.restarted[name] = self.loops[name].turn()
        for name in LOOPS:
            last = self.recorded(name)[0][-1]
            found = replay(server.url, last)
            if found:
                self.restarted[name] = found

    def recorded(self, name: str) -> list[list[Sent]]:
        """Return a recorded client's loops, to be replied to briefly."""
        loops = loops_of(recorded(name, MODEL))
        return [[brief(sent, FEW_TOOLS) for sent in loop] for loop in loops]


@pytest.fixture(scope="module", params=list(MODELS.values()), ids=list(MODELS))
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Return what agents took of one model, before and after a restart."""
    folder = tmp_path_factory.mktemp("agents")
    texts = [(FOLDER / f"{name}.json").read_text("utf-8") for name in NAMES]
    model = write_agents_model(folder / "model", request.param, texts=texts, vocab=2048)
    words = (
        *LOOPBACK, "--model", str(model), "--served-model-name", MODEL, "--preset", "agent",
        "--ssd-cache-dir", str(folder / "kv"),
    )  # fmt: skip
    made = Ran(folder, words)
    for run in (made.run, made.run_again):
        with serving(folder, *words) as server:
            run(server)
            server.signal(signal.SIGTERM)
            assert server.ended(60) == 0
    return made


def computed_again(turns: Sequence[Turn]) -> list[int]:
    """Return for each turn but the first how much of the prompt before it was computed again."""
    return [before.prompt - after.cached for before, after in pairwise(turns)]


def test_a_turn_computes_what_is_new_and_two_blocks(ran: Ran) -> None:
    worst: Mapping[str, int] = {name: max(computed_again(t)) for name, t in ran.turns.items() if t}
    assert set(SHAPES) < set(worst)
    assert {name: tokens for name, tokens in worst.items() if tokens > 2 * BLOCK} == {}


def test_another_agent_shares_the_system_text_and_tools(ran: Ran) -> None:
    for name, other in ran.second.items():
        first = ran.turns[name][0]
        assert first.cached == 0
        own = 40  # tokens of the second one's words, their frame and the reply's opening
        assert other.prompt - other.cached <= own + 2 * BLOCK, name


def test_a_restarted_server_goes_on_where_it_was(ran: Ran) -> None:
    for name in RESTARTED:
        before, after = ran.turns[name][-1], ran.restarted[name]
        assert before.prompt - after.cached <= 2 * BLOCK, name
    for name in LOOPS:
        if turns := ran.turns[f"{name} 0"]:
            assert turns[-1].prompt - ran.restarted[name].cached <= 2 * BLOCK, name
