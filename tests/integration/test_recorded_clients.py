"""What real clients sent is answered with 200, in streams that the SDKs' own parsers take."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .agent_loops import MODEL
from .agents_model import write_agents_model
from .live import LOOPBACK, LiveServer, serving
from .recordings import FOLDER, NAMES, brief, recorded
from .replaying import replay

REFUSING = ("--unknown-fields", "refuse")


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Return a server of a tiny model with tools and thinking that refuses fields it knows not."""
    folder = tmp_path_factory.mktemp("recorded")
    texts = [(FOLDER / f"{name}.json").read_text("utf-8") for name in NAMES]
    model = write_agents_model(folder / "model", "llama", texts=texts, vocab=2048)
    words = ("--model", str(model), "--served-model-name", MODEL, "--preset", "agent", "--no-ssd")
    with serving(folder, *LOOPBACK, *words, *REFUSING) as server:
        yield server


def test_there_are_seven_clients() -> None:
    assert len(NAMES) >= 7
    sizes = {path.name: path.stat().st_size for path in Path(FOLDER).glob("*.json")}
    assert max(sizes.values()) < 100_000


@pytest.mark.parametrize("name", NAMES)
def test_a_clients_requests_are_answered(agents: LiveServer, name: str) -> None:
    requests = recorded(name, MODEL)
    assert requests
    first, last = requests[0], requests[-1]
    for sent in (first, last) if len(requests) > 1 else (first,):
        replay(agents.url, brief(sent))  # raises unless all is well
    finished = agents.metrics()["mlxserve_request_prompt_tokens_count"]
    assert finished >= 1
