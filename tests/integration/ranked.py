"""What tests of several ranks share: models, flags, processes, and requests unlike each other."""

import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlxserve.testing.models import CONFIG, write_model

from .live import LOOPBACK, LiveServer

linux = pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds ranks through /proc")
SHARED = list(range(20, 90))
PREDICTED = {"type": "content", "content": "the other tokens, two tokens"}
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "seeded": {"temperature": 1.0, "seed": 3, "top_p": 0.9},
    "penalised": {"temperature": 0, "frequency_penalty": 1.0},
    "choices": {"temperature": 1.0, "seed": 5, "n": 3},
    "scored": {"temperature": 0, "logprobs": 2},
    "predicted": {"temperature": 0, "prediction": PREDICTED},
    "long": {"temperature": 0, "max_tokens": 24},
}
Job = tuple[str, int]
Answer = list[tuple[str, list[float]]]
JOBS: list[Job] = [(kind, length) for length in (3, 17, 60) for kind in KINDS][:16]
WIDE: list[Job] = [*(("long", length) for length in (200, 203, 206, 209)), *JOBS[:12]]
"""Four of them outgrow their rows on the way."""

MOE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
}


def write_ranked(folder: Path, architecture: str) -> Path:
    """Write a model of ``architecture`` whose heads four ranks can share; return ``folder``."""
    import importlib

    import mlx.core as mx
    from mlx_lm.utils import save_config, save_model

    write_model(folder)
    config = {**CONFIG, "model_type": architecture, "num_key_value_heads": 4}
    if architecture.endswith("_moe"):
        config |= MOE
    module = importlib.import_module(f"mlx_lm.models.{architecture}")
    mx.random.seed(11)
    save_model(folder, module.Model(module.ModelArgs.from_dict(config)))
    save_config(config, folder / "config.json")
    return folder


def flags(model: Path, *words: str, ssd: Path | None = None) -> tuple[str, ...]:
    """Return the flags of a server of ``model``; without ``ssd`` nothing goes to disk."""
    disk = ("--no-ssd",) if ssd is None else ("--ssd-cache-dir", str(ssd), "--ssd-min-free-gb", "0")
    return (*LOOPBACK, "--model", str(model), *disk, *words)


def ring(size: int) -> tuple[str, ...]:
    """Return the flags that split the model over ``size`` ranks of this machine."""
    return ("--distributed-mode", "ring", "--num-local-ranks", str(size))


def body_of(job: Job) -> dict[str, Any]:
    """Return a request: its prompt has the same beginning as the others'."""
    kind, length = job
    prompt = SHARED[:40] + [100 + at % 150 for at in range(length)]
    return {"prompt": prompt, "max_tokens": 12, "ignore_eos": True} | KINDS[kind]


def ask(server: LiveServer, job: Job) -> Answer:
    """Return the text and the log-probabilities of each choice."""
    answer = server.post("/v1/completions", **body_of(job))
    assert answer.status_code == 200, answer.text
    return [
        (c["text"], (c["logprobs"] or {}).get("token_logprobs", []))
        for c in answer.json()["choices"]
    ]


def same(got: list[Answer], wanted: list[Answer], jobs: list[Job]) -> None:
    """Check answers against others: the same text, nearly the same log-probabilities."""
    for job, mine, theirs in zip(jobs, got, wanted, strict=True):
        assert [text for text, _ in mine] == [text for text, _ in theirs], job
        for (_, scores), (_, expected) in zip(mine, theirs, strict=True):
            assert scores == pytest.approx(expected, abs=0.01), job


def leave_early(server: LiveServer) -> None:
    """Ask for much and hang up at the first word."""
    body = {"prompt": SHARED, "max_tokens": 500, "stream": True, "ignore_eos": True}
    with (
        httpx.Client(timeout=60) as client,
        client.stream("POST", f"{server.url}/v1/completions", json=body) as answer,
    ):
        next(answer.iter_lines())


def ask_all(server: LiveServer, jobs: list[Job], leaving: int = 0) -> list[Answer]:
    """Ask for all jobs at once while others come and go."""
    with ThreadPoolExecutor(len(jobs) + leaving) as pool:
        gone = [pool.submit(leave_early, server) for _ in range(leaving)]
        got = list(pool.map(lambda job: ask(server, job), jobs))
        for each in gone:
            each.result()
    return got


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
    """Return whether a process is there and not merely unburied."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def processor_seconds(pids: list[int]) -> float:
    """Return what processes have used so far."""
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def pulse(pid: int, stopped: float, running: float, times: int) -> None:
    """Let a process run only now and then, for a while."""
    for _ in range(times):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(stopped)
        os.kill(pid, signal.SIGCONT)
        time.sleep(running)


def forget(folder: Path) -> None:
    """Delete a cache folder, so that nothing comes from there."""
    shutil.rmtree(folder, ignore_errors=True)
