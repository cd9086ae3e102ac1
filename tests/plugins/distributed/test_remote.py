"""Several machines: the hostfile and line for ``mlx.launch``, and the real one with local ranks."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlxserve_hookspecs import SettingError
from mlxserve_plugins.distributed.environment import CONTROL, RANKS, SECRET
from mlxserve_plugins.distributed.hostfile import Hostfile, parse_hostfile
from mlxserve_plugins.distributed.remote import (
    Launch,
    check_hosts,
    find_launcher,
    hostfile_of,
    launch_line,
)

WAIT = 12.0
HOSTS = [{"ssh": "a.local", "ips": ["10.0.0.1"]}, {"ssh": "b.local", "ips": ["10.0.0.2"]}]

RUN = """
import json, sys
from pathlib import Path
from mlxserve_plugins.distributed import remote
from mlxserve_plugins.distributed.hostfile import parse_hostfile
hosts = parse_hostfile([{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}] * 2, "it")
command = (sys.executable, sys.argv[1], *sys.argv[2:])
sys.exit(remote.run_there(remote.Launch(backend="ring", hosts=hosts, port=32323, command=command)))
"""

RANK = """
import os, signal, sys, time
from pathlib import Path
from mlxserve_plugins.distributed.environment import take_membership
from mlxserve_plugins.distributed import leash
folder, fails = Path(sys.argv[1]), sys.argv[2:]
me = take_membership(os.environ)
at = me.rank.rank
def leave(*_):
    os.kill(int((folder / "ready-1").read_text()), signal.SIGUSR1)
    sys.exit(0)
signal.signal(signal.SIGINT, leave if at == 0 else signal.SIG_IGN)
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(0))
leash.hold(me.leash)
half = folder / f"half-{at}"
half.write_text(str(os.getpid()))
half.rename(folder / f"ready-{at}")
while fails and not (folder / f"ready-{1 - at}").exists():  # its end is the other's, too
    time.sleep(0.02)
if fails and at == 1:
    sys.exit(5)
while True:
    time.sleep(0.05)
"""


def launch(hosts: Hostfile | None = None) -> Launch:
    listed = hosts or parse_hostfile(HOSTS, "it")
    return Launch(backend="ring", hosts=listed, port=5000, command=("python", "-m", "it"))


def test_hostfile_for_the_launcher_has_hosts_settings_and_what_ranks_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLXSERVE_MAX_BATCH_SIZE", "3")
    monkeypatch.setenv("MLX_HOSTFILE", "/elsewhere")
    monkeypatch.setenv("HF_TOKEN", "hidden")
    written = hostfile_of(launch(parse_hostfile({"hosts": HOSTS, "envs": ["A=b"]}, "it")))
    envs = dict(each.split("=", 1) for each in written["envs"])
    assert [host["ssh"] for host in written["hosts"]] == ["a.local", "b.local"]
    assert envs["MLXSERVE_MAX_BATCH_SIZE"] == "3"
    assert envs["A"] == "b"
    assert (envs[RANKS], envs[CONTROL]) == ("2", "10.0.0.1:6000")
    assert len(envs[SECRET]) == 64
    assert not {"MLX_HOSTFILE", "HF_TOKEN"} & envs.keys()


def test_key_in_the_environment_is_not_sent_to_other_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXSERVE_API_KEY", "hidden")
    with pytest.raises(SettingError, match=r"MLXSERVE_API_KEY .*--api-key-file"):
        hostfile_of(launch())


def test_launch_line_names_launcher_backend_hostfile_port_and_command() -> None:
    line = launch_line("/bin/mlx.launch", launch(), Path("hosts.json"))
    assert line[3:] == (
        *("/bin/mlx.launch", "--backend", "ring", "--hostfile", "hosts.json"),
        *("--starting-port", "5000", "--", "python", "-m", "it"),
    )


def test_launcher_of_this_python_is_found() -> None:
    assert Path(find_launcher()).exists()


@pytest.mark.parametrize(
    ("content", "lacks"),
    [([["10.0.0.1:5"], ["10.0.0.2:5"]], "'ssh'"), ([{"ssh": "a"}, {"ssh": "b"}], "'ips'")],
    ids=["addresses_only", "names_only"],
)
def test_hosts_without_name_or_address_are_refused(content: object, lacks: str) -> None:
    with pytest.raises(SettingError, match=f"host 0 lacks {lacks}"):
        check_hosts(parse_hostfile(content, "it"))


@contextmanager
def started(folder: Path, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    (folder / "rank.py").write_text(RANK)
    argv = [sys.executable, "-c", RUN, str(folder / "rank.py"), str(folder), *words]
    run = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        yield run
    finally:
        run.kill()
        run.wait(WAIT)


def pids(folder: Path) -> list[int]:
    deadline = time.monotonic() + WAIT
    while len(found := list(folder.glob("ready-*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [int(each.read_text()) for each in found]


def gone(each: list[int]) -> bool:
    deadline = time.monotonic() + WAIT
    while any(Path(f"/proc/{pid}/cwd").exists() for pid in each):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@linux
def test_signal_passes_through_mlx_launch_and_all_end_well(tmp_path: Path) -> None:
    with started(tmp_path) as run:
        ranks = pids(tmp_path)
        run.terminate()
        assert run.wait(WAIT) == 0
    assert gone(ranks)


@linux
def test_killed_launcher_leaves_nobody_under_mlx_launch(tmp_path: Path) -> None:
    with started(tmp_path) as run:
        ranks = pids(tmp_path)
        run.kill()
    assert gone(ranks)


@linux
def test_rank_that_fails_under_mlx_launch_is_a_failure(tmp_path: Path) -> None:
    with started(tmp_path, "fails") as run:
        assert run.wait(WAIT) == 1
    assert gone(pids(tmp_path))


def test_hostfile_is_what_mlx_reads(tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps(hostfile_of(launch())))
    code = "import sys; from mlx._distributed_utils.common import Hostfile; "
    code += "print([h.ips for h in Hostfile.from_file(sys.argv[1]).hosts])"
    argv = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[['10.0.0.1'], ['10.0.0.2']]"
