"""Two ranks answer as one; a rank that dies, stops or stalls ends all of them in time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from .live import LiveServer, serving, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds ranks through /proc"),
]
RING = ("--distributed-mode", "ring", "--num-local-ranks", "2")
DEADLINE = 15.0
"""Seconds within which all ranks must be gone, as promised."""

SHARED = list(range(20, 90))
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "seeded": {"temperature": 1.0, "seed": 3, "top_p": 0.9},
    "penalised": {"temperature": 0, "frequency_penalty": 1.0},
    "choices": {"temperature": 1.0, "seed": 5, "n": 3},
    "scored": {"temperature": 0, "logprobs": 2},
    "long": {"temperature": 0, "max_tokens": 60},
}


def options(folder: Path, tiny_folder: Path, *words: str) -> tuple[str, ...]:
    ssd: tuple[str, ...] = ("--ssd-cache-dir", str(folder / "ssd"), "--ssd-min-free-gb", "0")
    if "--no-ssd" in words:
        ssd = ()
    return ("--host", "127.0.0.1", "--port", "0", "--model", str(tiny_folder), *ssd, *words)


@pytest.fixture(scope="module")
def single(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("one-rank")
    with serving(folder, *options(folder, tiny_folder)) as server:
        yield server


@pytest.fixture
def start(tiny_folder: Path, tmp_path: Path) -> Any:
    def begin(*words: str) -> Any:
        return serving(tmp_path, *options(tmp_path, tiny_folder, *RING, *words))

    return begin


def ranks(server: LiveServer) -> dict[int, int]:
    """Return the process of each rank."""
    found = {}
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    for pid in map(int, children.split()):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"MLX_RANK="):
                found[int(entry.partition(b"=")[2])] = pid
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ask(server: LiveServer, name: str, length: int) -> list[tuple[str, list[float]]]:
    body = {"prompt": SHARED[:40] + list(range(100, 100 + length)), "max_tokens": 12} | KINDS[name]
    answer = server.post("/v1/completions", **body)
    assert answer.status_code == 200, answer.text
    return [
        (c["text"], (c["logprobs"] or {}).get("token_logprobs", []))
        for c in answer.json()["choices"]
    ]


def leave_early(server: LiveServer) -> None:
    body = {"prompt": SHARED, "max_tokens": 500, "stream": True, "ignore_eos": True}
    with (
        httpx.Client(timeout=60) as client,
        client.stream("POST", f"{server.url}/v1/completions", json=body) as answer,
    ):
        next(answer.iter_lines())


@pytest.mark.parametrize(
    "more",
    [(), ("--spec-decode", "ngram", "--no-spec-decode-dynamic"), ("--kv-bits", "16", "--no-ssd")],
    ids=["as it comes", "with drafts", "plain KV"],
)
def test_two_ranks_give_the_tokens_of_one(
    start: Any, single: LiveServer, tiny_folder: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    jobs = [(name, length) for length in (3, 17, 60) for name in KINDS][:16]
    reference_words = [w for w in more if w in ("--kv-bits", "16", "--no-ssd")]
    folder = tmp_path / "reference"
    folder.mkdir()
    with (
        start(*more) as two,
        serving(folder, *options(folder, tiny_folder, *reference_words)) as one,
        ThreadPoolExecutor(24) as pool,
    ):
        for _ in range(2):  # cold, then prefix-warm
            gone = [pool.submit(leave_early, two) for _ in range(4)]
            got = list(pool.map(lambda job: ask(two, *job), jobs))
            wanted = list(pool.map(lambda job: ask(one, *job), jobs))
            for job, mine, theirs in zip(jobs, got, wanted, strict=True):
                assert [text for text, _ in mine] == [text for text, _ in theirs], job
                for (_, scores), (_, expected) in zip(mine, theirs, strict=True):
                    assert scores == pytest.approx(expected, abs=0.01), job
            for each in gone:
                each.result()
        two.rest()
        if "--no-ssd" not in more:
            assert sorted(p.name for p in (tmp_path / "ssd").iterdir()) == ["rank_0", "rank_1"]
        two.signal(signal.SIGTERM)
        assert two.ended(60) == 0


def test_ranks_sleep_while_nobody_asks_and_wake_at_once(start: Any) -> None:
    with start() as server:
        ask(server, "greedy", 3)
        server.rest()
        ticks = os.sysconf("SC_CLK_TCK")

        def used() -> float:
            total = 0.0
            for pid in ranks(server).values():
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / ticks
            return total

        before = used()
        time.sleep(4)
        assert (used() - before) / 4 < 0.3, "share of a core, both ranks together"
        assert ask(server, "greedy", 3)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_gone_ends_all_with_an_error(
    start: Any, how: signal.Signals, victim: int
) -> None:
    with start("--distributed-timeout-s", "4") as server, ThreadPoolExecutor(2) as pool:
        members = ranks(server)
        stream = pool.submit(leave_early, server)
        stream.result()
        seen = []
        os.kill(members[victim], how)
        begun = time.monotonic()
        if victim:
            while server.process.poll() is None and time.monotonic() - begun < DEADLINE:
                try:
                    seen.append(server.metrics().get("dist_fatal", 0.0))
                except httpx.HTTPError:
                    break
                time.sleep(0.1)
        status = server.ended(DEADLINE)
        assert status != 0
        assert time.monotonic() - begun < DEADLINE
        until(lambda: not any(alive(pid) for pid in members.values()), 5.0)
        if victim:
            assert 1.0 in seen


def test_no_rank_outlives_its_launcher(start: Any) -> None:
    with start() as server:
        members = ranks(server)
        server.signal(signal.SIGKILL)
        server.ended(10)
        until(lambda: not any(alive(pid) for pid in members.values()), 10.0)


def test_heads_that_cannot_be_shared_are_refused_before_weights_load(
    tiny_folder: Path, tmp_path: Path
) -> None:
    words = options(tmp_path, tiny_folder, "--distributed-mode", "ring", "--num-local-ranks", "3")
    command = [sys.executable, "-m", "mlxserve", "run", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "num_attention_heads = 4, which 3 ranks cannot share evenly" in done.stderr
    assert "Traceback" not in done.stderr
