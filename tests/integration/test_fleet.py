"""A fleet as its user runs it: three tiny models, room for two, and processes that are killed."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest
from attrs import define, field

from mlxserve.testing.models import write_model
from mlxserve.testing.processes import GREETING, environment, until
from mlxserve_hookspecs import MlxserveError
from mlxserve_plugins.bench.watch import resident

from .live import LiveServer

NAMES = ("ant", "bee", "cat")
GB_EACH = 1.0
BUDGET = 2.2
TOKENS = 6
SHIFT = {"ant": 0, "bee": 40, "cat": 90}


@define
class Fleet(LiveServer):
    """A running front."""

    def children(self) -> dict[int, str]:
        """Return the models that its children serve, by process."""
        return children_of(self.process.pid)

    def ask(self, model: str, text: str, **more: Any) -> str:
        body = {"model": model, "prompt": text, "max_tokens": TOKENS, "temperature": 0, **more}
        answer = self.post("/v1/completions", ignore_eos=True, **body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == model
        return str(answer.json()["choices"][0]["text"])

    def states(self) -> dict[str, str]:
        return {one["id"]: one["state"] for one in self.get("/v1/models").json()["data"]}

    def loads(self) -> dict[str, float]:
        found = self.metrics()
        return {name: found[f"mlxserve_fleet_loads_total{{{name}}}"] for name in NAMES}


def children_of(parent: int) -> dict[int, str]:
    words = ["ps", "-A", "-ww", "-o", "pid=,ppid=,args="]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    found = {}
    for line in lines:
        pid, ppid, args = line.split(maxsplit=2)
        if int(ppid) == parent and (name := re.search(r"--served-model-name (\S+)", args)):
            found[int(pid)] = name[1]
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return (
        "Z"
        not in subprocess.run(
            ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
        ).stdout
    )


@contextmanager
def running(folder: Path, text: str) -> Iterator[Fleet]:
    folder.mkdir()
    (folder / "fleet.toml").write_text(text)
    command = [sys.executable, "-m", "mlxserve", "fleet", str(folder / "fleet.toml")]
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment())
    try:
        said = folder / "stdout"
        until(lambda: GREETING.search(said.read_text()) or process.poll() is not None, 60)
        found = GREETING.search(said.read_text())
        assert found, (folder / "stderr").read_text()
        yield Fleet(process, found[1], folder)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return models that answer differently: their last layers' rows are turned."""
    import mlx.core as mx

    found = {}
    for name in NAMES:
        folder = found[name] = write_model(tmp_path_factory.mktemp("fleet") / name)
        weights: Any = mx.load(str(folder / "model.safetensors"))
        turned = mx.roll(weights["lm_head.weight"], SHIFT[name], 0)
        changed = {**weights, "lm_head.weight": turned}
        mx.eval(changed)
        mx.save_safetensors(str(folder / "model.safetensors"), changed, {"format": "mlx"})
    return found


def described(folders: dict[str, Path]) -> str:
    lines = ["port = 0", "keepalive_s = 0.2", 'flags = ["--no-ssd", "--kv-bits", "16"]']
    lines.append(f"memory_budget_gb = {BUDGET}")
    for name, folder in folders.items():
        lines += [f"[models.{name}]", f'model = "{folder}"', f"memory_gb = {GB_EACH}"]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def fleet(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running(tmp_path_factory.mktemp("front") / "run", described(folders)) as found:
        yield found


def expected(folder: Path, text: str) -> str:
    """Return the model's own greedy continuation, by mlx-lm."""
    import mlx.core as mx
    from mlx_lm import load
    from mlx_lm.generate import generate_step

    loaded: Any = load(str(folder))
    model, tokenizer = loaded[0], loaded[1]
    prompt = mx.array(tokenizer.encode(text))
    tokens = [int(token) for token, _ in generate_step(prompt, model, max_tokens=TOKENS)]
    return str(tokenizer.decode(tokens))


@define
class Watch:
    """Looks at the front's children, again and again."""

    fleet: Fleet
    most: int = 0
    bytes: int = 0
    _ended: Event = field(factory=Event)

    def look(self) -> None:
        while not self._ended.wait(0.1):
            pids = [pid for pid in self.fleet.children() if alive(pid)]
            self.most = max(self.most, len(pids))
            self.bytes = max(self.bytes, sum(map(size, pids)))

    @contextmanager
    def going(self) -> Iterator[None]:
        thread = Thread(target=self.look)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()


def size(pid: int) -> int:
    try:
        return resident(pid)
    except MlxserveError:  # it has just ended
        return 0


# In this order: the first test loads, the last one kills the front.


def test_fifty_requests_among_three_models_within_room_for_two(
    fleet: Fleet, folders: dict[str, Path], record_property: Any
) -> None:
    waves = [("ant", "bee"), ("bee", "cat"), ("cat", "ant")]
    asked = [(name, at) for at, pair in enumerate(waves) for name in pair * 8]
    asked += [("ant", 2), ("cat", 2)]
    assert len(asked) == 50
    watch = Watch(fleet)
    with watch.going(), ThreadPoolExecutor(4) as pool:
        for at in range(len(waves)):
            mine = [name for name, wave in asked if wave == at]
            # The one that stays is asked alone first: else who was used last is a matter of luck.
            texts = [fleet.ask(mine[0], "one token, two")]
            texts += pool.map(lambda name: fleet.ask(name, "one token, two"), mine[1:])
            wanted = {name: expected(folders[name], "one token, two") for name in set(mine)}
            assert texts == [wanted[name] for name in mine]
            assert len(set(wanted.values())) == 2
    # What least recently used asks for: cat in ant's place, then ant in bee's.
    assert fleet.loads() == {"ant": 2, "bee": 1, "cat": 1}
    assert watch.most == 2
    assert 0 < watch.bytes <= BUDGET * 1e9
    record_property("figure", f"{watch.bytes / 1e9:.2f} GB at most, of {BUDGET}")
    assert fleet.states() == {"ant": "ready", "bee": "unloaded", "cat": "ready"}


def test_every_surface_reaches_the_model_that_it_names(fleet: Fleet) -> None:
    said = [{"role": "user", "content": "one"}]
    chat = fleet.post("/v1/chat/completions", model="ant", messages=said, max_tokens=2)
    message = fleet.post("/v1/messages", model="cat", messages=said, max_tokens=2)
    counted = fleet.post("/v1/messages/count_tokens", model="cat", messages=said)
    response = fleet.post("/v1/responses", model="ant", input="one", max_output_tokens=2)
    vectors = fleet.post("/v1/embeddings", model="ant", input="one")
    tokens = fleet.post("/tokenize", model="cat", prompt="one")
    answers = (chat, message, counted, response, vectors, tokens)
    assert [answer.status_code for answer in answers] == [200] * 6, [a.text for a in answers]
    named = (chat, message, response, vectors)
    assert [answer.json()["model"] for answer in named] == ["ant", "cat", "ant", "ant"]
    kept = response.json()["id"]
    assert fleet.get(f"/v1/responses/{kept}").json()["id"] == kept
    assert fleet.get("/v1/responses/resp_none").status_code == 404
    assert fleet.get("/v1/models/ant").json()["max_model_len"] == 8192
    assert fleet.get("/readyz").json()["models"]["ant"]["server"]["status"] == "ready"


def test_a_model_leaves_after_its_reply_and_a_stream_sees_the_other_load(fleet: Fleet) -> None:
    held = {"prompt": "one", "max_tokens": 300, "ignore_eos": True, "stream": True}
    held["stream_options"] = {"include_usage": True}
    with ThreadPoolExecutor(3) as pool:
        begun = [Event(), Event()]
        pair = zip(("cat", "ant"), begun, strict=True)
        replies = [pool.submit(read, fleet, {**held, "model": name}, seen) for name, seen in pair]
        assert all(event.wait(30) for event in begun)
        late = pool.submit(read, fleet, {**held, "model": "bee", "max_tokens": 2}, Event())
        until(lambda: "unloading" in fleet.states().values(), 10, fleet.states)
        whole = [reply.result(60) for reply in replies]
        assert all('"completion_tokens":300' in text for text in whole)
        assert all(text.endswith("data: [DONE]\n\n") for text in whole)
        text = late.result(60)
    assert re.match(r"(: bee is loading, \d+ s\n\n)+data: \{", text)
    assert text.endswith("data: [DONE]\n\n")
    assert fleet.loads()["bee"] == 2


def read(fleet: Fleet, body: dict[str, Any], begun: Event) -> str:
    parts = []
    with httpx.stream("POST", f"{fleet.url}/v1/completions", json=body, timeout=60) as answer:
        assert answer.status_code == 200
        for part in answer.iter_text():
            parts.append(part)
            begun.set()
    return "".join(parts)


def test_a_client_that_leaves_frees_its_row_in_the_child(fleet: Fleet) -> None:
    body = {"model": "bee", "prompt": "one", "max_tokens": 6000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{fleet.url}/v1/completions", json=body, timeout=60) as answer:
        parts = answer.iter_text()  # the connection is closed with it
        first = next(parts, None)
        assert first, (answer.status_code, answer.headers, fleet.states(), fleet.said)
        until(lambda: fleet.metrics()["active_sequences{bee}"] == 1, 10)
    until(lambda: fleet.metrics()["active_sequences{bee}"] == 0, 10)


def test_a_killed_child_comes_back_and_the_other_streams_on(fleet: Fleet) -> None:
    (other,) = (name for name, state in fleet.states().items() if (name, state) == (name, "ready")
                and name != "bee")  # fmt: skip
    killed = next(pid for pid, name in fleet.children().items() if name == "bee")
    before, begun = fleet.loads(), Event()
    body = {"model": other, "prompt": "one", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(read, fleet, body, begun)
        assert begun.wait(30)
        os.kill(killed, signal.SIGKILL)
        until(lambda: fleet.states()["bee"] == "failed", 10, fleet.states)
        refused = fleet.post("/v1/messages", model="bee", max_tokens=1, messages=[])
        assert (refused.status_code, refused.json()["type"]) == (503, "error")
        assert refused.headers["retry-after"] == "1"
        assert reply.result(60).endswith("data: [DONE]\n\n")
    until(lambda: fleet.states()["bee"] == "ready", 60, fleet.states)
    assert fleet.ask("bee", "one")
    assert fleet.loads() == {**before, "bee": before["bee"] + 1}
    assert fleet.metrics()["mlxserve_fleet_crashes_total{bee}"] == 1


def test_no_child_outlives_a_killed_front(fleet: Fleet) -> None:
    pids = list(fleet.children())
    assert len(pids) == 2
    fleet.signal(signal.SIGKILL)
    until(lambda: not any(map(alive, pids)), 10)


def test_sigterm_lets_replies_finish_and_a_bad_model_is_told(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    text = f"port = 0\nflags = ['--no-ssd']\n[models.ant]\nmodel = '{folders['ant']}'\n"
    text += f"[models.torn]\nmodel = '{tmp_path}/nowhere'\n"
    with running(tmp_path / "run", text) as it, ThreadPoolExecutor(1) as pool:
        begun, body = Event(), {"model": "ant", "prompt": "one", "stream": True}
        more = {"max_tokens": 400, "ignore_eos": True}
        reply = pool.submit(read, it, body | more, begun)
        torn = it.post("/v1/completions", model="torn", prompt="a")
        assert (torn.status_code, torn.json()["error"]["code"]) == (503, "model_unavailable")
        assert "nowhere" in torn.json()["error"]["message"]
        assert begun.wait(60)
        pids = list(it.children())
        it.signal(signal.SIGTERM)
        assert reply.result(60).endswith("data: [DONE]\n\n")
        assert it.ended() == 0
        assert not any(map(alive, pids))
