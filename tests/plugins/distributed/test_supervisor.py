"""Ranks start, are stopped and end together; nobody is left over."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from attrs import define, field

WAIT = 8.0
GRACE = 0.4

PARENT = """
import os, sys
from mlxserve_plugins.distributed.supervisor import Command, supervise
folder, grace, *roles = sys.argv[1:]
here = os.path.dirname(__file__)
commands = [
    Command((sys.executable, os.path.join(here, "rank.py"), folder, str(at), role), os.environ)
    for at, role in enumerate(roles)
]
sys.exit(supervise(commands, grace=float(grace), patience=float(grace)))
"""

RANK = """
import os, signal, sys, time
from pathlib import Path
from mlxserve_plugins.distributed import leash
folder, at, role = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def say(what):
    (folder / f"{what}-{at}").write_text(str(os.getpid()))
def heard(number, frame):
    say(f"heard{number}")
    if role == "drains":
        for other in folder.glob("ready-*"):
            if other.name != f"ready-{at}":
                os.kill(int(other.read_text()), signal.SIGUSR1)
        sys.exit(0)
    if role == "tells-nobody":
        sys.exit(0)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    if role != "default":
        signal.signal(number, heard)
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(0))
leash.hold(int(os.environ["MLXSERVE_LEASH"]))
say("ready")
if role.startswith("exits"):
    while len(list(folder.glob("ready-*"))) < 2:
        time.sleep(0.01)
    sys.exit(int(role[5:]))
if role == "dies":
    while len(list(folder.glob("ready-*"))) < 2:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGSEGV)
if role == "stops":
    os.kill(os.getpid(), signal.SIGSTOP)
print("rank", at, "says", flush=True)
while True:
    time.sleep(0.05)
"""


@define
class Run:
    """A launcher with its ranks, in processes of their own."""

    folder: Path
    process: "subprocess.Popen[str]" = field(init=False)

    def start(self, *roles: str, grace: float = GRACE) -> "Run":
        (self.folder / "parent.py").write_text(PARENT)
        (self.folder / "rank.py").write_text(RANK)
        words = [sys.executable, str(self.folder / "parent.py"), str(self.folder), str(grace)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([*words, *roles], text=True, stdout=pipe, stderr=pipe)
        return self

    def until(self, *names: str) -> None:
        deadline = time.monotonic() + WAIT
        while not all((self.folder / name).exists() for name in names):
            assert time.monotonic() < deadline, f"not all of {names}"
            time.sleep(0.01)

    def ready(self, count: int) -> None:
        self.until(*(f"ready-{at}" for at in range(count)))

    def ends(self) -> int:
        return self.process.wait(WAIT)

    def is_said(self, name: str) -> bool:
        return (self.folder / name).exists()

    @property
    def pids(self) -> list[int]:
        return [int(text) for f in self.folder.glob("ready-*") if (text := f.read_text())]

    def nobody_left(self) -> bool:
        deadline = time.monotonic() + WAIT
        while any(map(is_alive, self.pids)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    with suppress(OSError):
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    return sys.platform != "linux"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    it = Run(tmp_path)
    yield it
    it.process.kill()
    for pid in filter(is_alive, it.pids):
        os.kill(pid, signal.SIGKILL)
    it.process.communicate(timeout=WAIT)


@pytest.mark.parametrize(
    ("sent", "heard"),
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGHUP, signal.SIGTERM),
    ],
    ids=["term", "int", "hup_as_term"],
)
def test_signal_reaches_rank_0_alone_which_ends_the_others(
    run: Run, sent: signal.Signals, heard: signal.Signals
) -> None:
    run.start("drains", "waits", "waits", grace=5).ready(3)
    run.process.send_signal(sent)
    assert run.ends() == 0
    assert run.is_said(f"heard{heard.value}-0")
    assert not list(run.folder.glob("heard*-[12]"))
    assert run.nobody_left()


def test_second_signal_kills_all_at_once(run: Run) -> None:
    run.start("waits", "waits", grace=60).ready(2)
    run.process.send_signal(signal.SIGTERM)
    run.until("heard15-0")
    run.process.send_signal(signal.SIGINT)
    assert run.ends() == 130
    assert run.nobody_left()


def test_rank_that_fails_ends_the_others_and_gives_the_status(run: Run) -> None:
    run.start("default", "exits7", "default")
    assert run.ends() == 7
    assert run.nobody_left()


def test_rank_that_dies_of_a_signal_counts_128_and_its_number(run: Run) -> None:
    run.start("default", "dies")
    assert run.ends() == 128 + signal.SIGSEGV
    assert run.nobody_left()


@pytest.mark.parametrize("other", ["waits", "stops"], ids=["deaf", "stopped"])
def test_rank_that_does_not_end_is_killed_after_the_grace(run: Run, other: str) -> None:
    run.start(other, "exits3")
    assert run.ends() == 3
    assert run.nobody_left()


def test_others_that_do_not_follow_a_finished_rank_0_are_ended(run: Run) -> None:
    run.start("tells-nobody", "default").ready(2)
    run.process.send_signal(signal.SIGTERM)
    assert run.ends() == 128 + signal.SIGTERM
    assert run.nobody_left()


def test_rank_that_leaves_without_a_word_ends_the_others(run: Run) -> None:
    run.start("default", "exits0")
    assert run.ends() == 1
    assert run.nobody_left()


def test_all_that_end_well_are_a_success(run: Run) -> None:
    run.start("exits0", "exits0")
    assert run.ends() == 0


@pytest.mark.parametrize("role", ["waits", "stops"])
def test_killed_launcher_leaves_nobody(run: Run, role: str) -> None:
    if role == "stops" and sys.platform != "linux":
        pytest.skip("only Linux kills a stopped process with its parent")
    run.start("waits", role, "waits").ready(3)
    run.process.kill()
    assert run.nobody_left()


def test_leash_alone_ends_a_rank() -> None:
    """The pipe, without what Linux does besides."""
    held, end = os.pipe()
    code = f"""
import time
from mlxserve_plugins.distributed import leash
leash.die_with_parent = lambda: None
leash.hold({held})
print("ready", flush=True)
time.sleep({WAIT})
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=(held,), stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        os.close(held)
        os.close(end)
        assert child.wait(WAIT) == 128 + signal.SIGHUP


def test_only_rank_0_writes_to_stdout(run: Run) -> None:
    run.start("drains", "waits").ready(2)
    time.sleep(0.1)
    run.process.send_signal(signal.SIGTERM)
    out, err = run.process.communicate(timeout=WAIT)
    assert out == "rank 0 says\n"
    assert err == "rank 1 says\n"
