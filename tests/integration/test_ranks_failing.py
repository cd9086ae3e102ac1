"""A rank that is slow is waited for; one that is gone, stuck or broken ends all of them in time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest

from .folders import install
from .live import LiveServer, environment, serving, until
from .ranked import alive, ask, flags, linux, processor_seconds, pulse, ranks, ring
from .streams import Reading, open_streams

pytestmark = [pytest.mark.integration, linux]
DEADLINE = 15.0
"""Seconds within which all ranks must be gone, as promised."""

SILENCE = ("--distributed-timeout-s", "4")
STEP = ("--distributed-step-timeout-s", "4")
PLUGIN = Path(__file__).with_name("hardship.py")
LONG = {"max_tokens": 2000}
Start = Callable[..., AbstractContextManager[LiveServer]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin") / "site"
    return install(PLUGIN, folder, plugin="Hardship", name="hardship")


def variables(site: Path, orders: Path) -> dict[str, str]:
    path = os.pathsep.join((str(site), os.environ.get("PYTHONPATH", ""))).rstrip(os.pathsep)
    return {"PYTHONPATH": path, "RANK_HARDSHIP": str(orders), "MLX_RING_VERBOSE": "1"}


@pytest.fixture
def start(tiny_folder: Path, tmp_path: Path, site: Path) -> Start:
    def begin(*words: str) -> AbstractContextManager[LiveServer]:
        plugin = ("--plugins", "hardship")
        line = flags(tiny_folder, *ring(2), *plugin, *words)
        return serving(tmp_path, *line, variables=variables(site, tmp_path))

    return begin


@contextmanager
def begun(server: LiveServer) -> Iterator["Future[Reading]"]:
    """Yield a stream that has begun and will take a while."""
    with ThreadPoolExecutor(1) as pool:
        yield open_streams(server, pool, 1, **LONG)[0]


def fatal(server: LiveServer) -> bool:
    """Watch the server until its end; return whether it said that the ranks cannot go on."""
    said = False
    begun_at = time.monotonic()
    while server.process.poll() is None and time.monotonic() - begun_at < DEADLINE:
        try:
            said = said or server.metrics().get("dist_fatal") == 1.0
        except httpx.HTTPError:
            break
        time.sleep(0.1)
    return said


def all_end(server: LiveServer, members: dict[int, int], since: float) -> None:
    """Check that every process is gone in time, and that it was no success."""
    assert server.ended(DEADLINE) != 0
    assert time.monotonic() - since < DEADLINE
    until(lambda: not any(alive(pid) for pid in members.values()), 5.0)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_gone_ends_all_with_an_error(
    start: Start, how: signal.Signals, victim: int
) -> None:
    with start(*SILENCE) as server, begun(server) as stream:
        members = ranks(server)
        since = time.monotonic()
        os.kill(members[victim], how)
        said = fatal(server) if victim else True
        all_end(server, members, since)
        assert said
        if victim:
            error = stream.result().error
            assert error is not None
            assert error["code"] == "dist_fatal"
        else:
            with pytest.raises(httpx.HTTPError):
                stream.result()


@pytest.mark.alone
def test_idle_ranks_sleep_slow_ones_are_waited_for_and_stuck_ones_are_not(
    start: Start, tmp_path: Path
) -> None:
    with start(*SILENCE, *STEP) as server:
        members = ranks(server)
        wanted = ask(server, ("long", 3))
        server.rest()

        before = processor_seconds(list(members.values()))
        time.sleep(3)
        used = processor_seconds(list(members.values())) - before
        assert used / 3 < 0.3, "share of a core, both ranks together"

        with ThreadPoolExecutor(1) as pool:
            (tmp_path / "sleep-1").write_text("0.02")  # every step: slow, and nothing is wrong
            answer = pool.submit(ask, server, ("long", 3))
            pulse(members[1], stopped=1.0, running=0.2, times=2)  # and no heartbeat meanwhile
            assert answer.result(60) == wanted
        assert server.metrics()["dist_fatal"] == 0.0
        assert server.get("/readyz").status_code == 200

        since = time.monotonic()
        (tmp_path / "sleep-1").write_text("60")  # its heart beats on
        with begun(server) as stream:
            assert fatal(server)
            all_end(server, members, since)
            error = stream.result().error
        assert error is not None
        assert error["code"] == "dist_fatal"
        assert "a step has taken" in server.said


def test_a_forward_pass_that_fails_on_one_rank_ends_all(start: Start, tmp_path: Path) -> None:
    with start() as server, begun(server) as stream:
        members = ranks(server)
        since = time.monotonic()
        (tmp_path / "fail-1").touch()
        assert fatal(server)
        all_end(server, members, since)
        error = stream.result().error
        assert error is not None
        assert error["code"] == "dist_fatal"
        assert "[hardship] this forward pass fails" in server.said
        assert "rank=1" in server.said or '"rank": 1' in server.said


@pytest.mark.parametrize("leaver", [0, 1])
def test_a_rank_that_leaves_before_it_loads_ends_all_with_a_line(
    tiny_folder: Path, tmp_path: Path, site: Path, leaver: int
) -> None:
    (tmp_path / f"leave-{leaver}").write_text("7")
    line = flags(tiny_folder, *ring(3), "--plugins", "hardship")
    done = subprocess.run(
        [sys.executable, "-m", "mlxserve", "run", *line],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment() | variables(site, tmp_path),
    )
    assert done.returncode == 7
    assert f"rank {leaver} ended with status 7" in done.stderr
    assert "Traceback" not in done.stderr


def test_ranks_that_have_met_do_not_wait_and_none_outlives_its_launcher(start: Start) -> None:
    with start() as server:
        assert "[ring] Rank 1 connecting to 0" in server.said
        # Once, a second, may be lost where rank 0 is quicker than rank 1 listens; never twice.
        assert "[ring] Attempt 1" not in server.said
        members = ranks(server)
        server.signal(signal.SIGKILL)
        server.ended(10)
        until(lambda: not any(alive(pid) for pid in members.values()), 10.0)


def test_heads_that_cannot_be_shared_are_refused_before_weights_load(tiny_folder: Path) -> None:
    command = [sys.executable, "-m", "mlxserve", "run", *flags(tiny_folder, *ring(3))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "num_attention_heads = 4, which 3 ranks cannot share evenly" in done.stderr
    assert "Traceback" not in done.stderr
