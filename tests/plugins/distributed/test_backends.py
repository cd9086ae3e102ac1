"""Flags become ranks, environments and launch lines; contradictions become one line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from attrs import define, field

from mlxserve.hooks import ask
from mlxserve.loading import register
from mlxserve_hookspecs import RankPlan, SettingError, distribution
from mlxserve_plugins.distributed import DistributedMode, DistributedOptions
from mlxserve_plugins.distributed.environment import (
    LEASH,
    MLX_RANK,
    OURS,
    RANK,
    SECRET,
    common,
    own,
    split_address,
    take_membership,
)
from mlxserve_plugins.distributed.hostfile import check_devices, parse_hostfile
from mlxserve_plugins.distributed.jaccl import Jaccl, JacclOptions, fill_environment
from mlxserve_plugins.distributed.local import UnavailableError, free_ports, rank_commands
from mlxserve_plugins.distributed.member import Backend, Member
from mlxserve_plugins.distributed.nccl import Nccl, nccl_size, nccl_variables
from mlxserve_plugins.distributed.probe import Abilities, abilities
from mlxserve_plugins.distributed.remote import Launch
from mlxserve_plugins.distributed.ring import Ring, RingOptions, ring_of
from mlxserve_plugins.distributed.supervisor import Command, supervise

ARGV = ("run", "--model", "m")
NOBODY = Member(None)
RDMA = [[None, "rdma_en5"], ["rdma_en5", None]]
MACS: list[dict[str, Any]] = [
    {"ssh": f"mac{at}", "ips": [f"10.0.0.{at + 1}"], "rdma": RDMA[at]} for at in range(2)
]


@pytest.fixture(autouse=True)
def _no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*OURS, MLX_RANK, "CUDA_VISIBLE_DEVICES", "MLX_IBV_DEVICES"):
        monkeypatch.delenv(name, raising=False)


@define
class Calls:
    """Stands in for what starts processes, and notes what it was to start."""

    here: list[tuple[tuple[str, ...], int]] = field(factory=list)
    there: list[Launch] = field(factory=list)

    def run_here(self, argv: Sequence[str], size: int) -> int:
        self.here.append((tuple(argv), size))
        return 11

    def run_there(self, launch: Launch) -> int:
        self.there.append(launch)
        return 12

    def ring(self, hostfile: Path | None = None) -> Ring:
        return Ring(RingOptions(hostfile), self.run_here, self.run_there, member=NOBODY)

    def jaccl(
        self, devices: Path | None, coordinator: str | None = None, has: bool = True
    ) -> Jaccl:
        options = JacclOptions(devices, coordinator or None)
        return Jaccl(options, lambda _: Abilities(is_available=has), self.run_there, member=NOBODY)


@pytest.fixture
def calls() -> Calls:
    return Calls()


def write(folder: Path, content: Any) -> Path:
    path = folder / "hosts.json"
    path.write_text(json.dumps(content))
    return path


def test_variables_of_a_rank_come_back_as_the_rank_and_are_gone() -> None:
    environ = {**common(3, ("10.0.0.1", 77)), **own(2), LEASH: "9", "PATH": "x"}
    secret = environ[SECRET]
    found = take_membership(environ)
    assert found is not None
    assert (found.rank.rank, found.rank.size) == (2, 3)
    assert (found.rank.control, found.rank.secret) == (("10.0.0.1", 77), secret)
    assert found.leash == 9
    assert environ == {"PATH": "x", MLX_RANK: "2"}
    assert take_membership(environ) is None
    assert secret not in repr(found)


def test_rank_0_may_have_an_address_of_ipv6() -> None:
    found = take_membership({**common(2, ("fd00::1", 77)), **own(0)})
    assert found is not None
    assert found.rank.control == ("fd00::1", 77)


def test_rank_started_by_mlx_launch_is_known_by_its_variable() -> None:
    found = take_membership({**common(2, ("h", 1)), MLX_RANK: "1"})
    assert found is not None
    assert found.rank.rank == 1


def test_each_run_has_a_new_secret() -> None:
    assert common(2, ("h", 1))[SECRET] != common(2, ("h", 1))[SECRET]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({RANK: "2"}, "not below"),
        ({RANK: "-1"}, "whole number"),
        ({SECRET: ""}, "MLXSERVE_SECRET is not set"),
        ({"MLXSERVE_CONTROL": "nowhere"}, "MLXSERVE_CONTROL must be like"),
        ({"MLXSERVE_RANKS": "two"}, "whole number"),
    ],
    ids=["rank_too_large", "rank_negative", "no_secret", "no_port", "size_in_words"],
)
def test_broken_variables_of_a_rank_are_one_line(change: dict[str, str], said: str) -> None:
    with pytest.raises(SettingError, match=said) as caught:
        take_membership({**common(2, ("h", 1)), **own(0), **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["host", "host:", ":5", "host:0", "host:65536", "host:x", "::1:5", "a:b:5"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="--flag"):
        split_address(text, "--flag")


def test_addresses_are_read() -> None:
    assert split_address("10.0.0.1:5", "it") == ("10.0.0.1", 5)
    assert split_address("[fe80::1]:65535", "it") == ("fe80::1", 65535)


@pytest.mark.parametrize(
    "make",
    [lambda: Ring(RingOptions()), lambda: Jaccl(JacclOptions()), Nccl],
    ids=["ring", "jaccl", "nccl"],
)
def test_rank_launches_nothing_and_knows_itself(
    make: Callable[[], Ring | Jaccl | Nccl], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**common(2, ("h", 1)), **own(1)}.items():
        monkeypatch.setenv(name, value)
    made = make()
    assert made.launch_ranks(ARGV, RankPlan(local_ranks=2)) is None
    rank = made.this_rank()
    assert rank is not None
    assert rank.rank == 1
    assert SECRET not in os.environ


def test_outside_of_ranks_there_is_no_rank_and_no_group(calls: Calls) -> None:
    assert calls.ring().this_rank() is None
    assert calls.ring().join_group() is None
    assert calls.jaccl(None).join_group() is None
    assert Nccl(member=NOBODY).join_group() is None


def test_mlx_rank_alone_is_refused_rather_than_launched_again(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MLX_RANK, "0")
    with pytest.raises(SettingError, match="start mlxserve once without"):
        calls.ring().launch_ranks(ARGV, RankPlan(local_ranks=2))
    assert not calls.here


def test_ring_runs_as_many_ranks_as_asked(calls: Calls) -> None:
    assert calls.ring().launch_ranks(ARGV, RankPlan(local_ranks=3)) == 11
    assert calls.here == [(ARGV, 3)]


LOOPS = [["127.0.0.1:5001"], ["127.0.0.1:5002"]]
LOCAL = [{"ssh": "localhost", "ips": ["127.0.0.1"]}] * 2


@pytest.mark.parametrize("content", [LOOPS, LOCAL, {"hosts": LOCAL}], ids=["mlx", "list", "table"])
def test_hostfile_of_this_machine_runs_its_ranks_here(
    content: Any, tmp_path: Path, calls: Calls
) -> None:
    ring = calls.ring(write(tmp_path, content))
    assert ring.launch_ranks(ARGV, RankPlan()) == 11
    assert calls.here == [(ARGV, 2)]


def test_hostfile_of_other_machines_goes_to_mlx_launch(tmp_path: Path, calls: Calls) -> None:
    assert calls.ring(write(tmp_path, MACS)).launch_ranks(ARGV, RankPlan()) == 12
    (launch,) = calls.there
    assert (launch.backend, launch.control) == ("ring", ("10.0.0.1", 33323))
    assert launch.command == (sys.executable, "-m", "mlxserve", *ARGV)


@pytest.mark.parametrize(
    ("content", "ranks", "said"),
    [
        (None, None, "add --num-local-ranks 2 or --distributed-hostfile FILE"),
        (None, 1, "one rank"),
        (LOCAL, 3, "--num-local-ranks 3 contradicts --distributed-hostfile .* lists 2"),
        (LOCAL[:1], None, "one rank"),
        ([], None, "must list hosts"),
        ("text", None, "must list hosts"),
        ([*LOCAL, ["10.0.0.1:5"]], None, "mixes two formats"),
        ([{"ips": ["10.0.0.1"]}], None, "host 0 must be"),
        ([{"ssh": "a", "ips": ["somewhere"]}], None, "list of addresses"),
        ([["10.0.0.1"]], None, "host 0 must be like"),
        ({"hosts": LOCAL, "envs": ["A"]}, None, "NAME=VALUE"),
    ],
)
def test_contradictions_of_a_ring_are_one_line(
    content: Any, ranks: int | None, said: str, tmp_path: Path, calls: Calls
) -> None:
    ring = calls.ring(None if content is None else write(tmp_path, content))
    with pytest.raises(SettingError, match=said) as caught:
        ring.launch_ranks(ARGV, RankPlan(local_ranks=ranks))
    assert "\n" not in str(caught.value)
    assert not calls.here
    assert not calls.there


@pytest.mark.parametrize(("text", "said"), [(None, "cannot be read"), ("[", "no JSON")])
def test_file_that_is_not_there_or_no_json_is_named(
    text: str | None, said: str, tmp_path: Path, calls: Calls
) -> None:
    path = tmp_path / "hosts.json"
    if text is not None:
        path.write_text(text)
    for plugin in (calls.ring(path), calls.jaccl(path)):
        with pytest.raises(SettingError, match=rf"hosts\.json .*{said}"):
            plugin.launch_ranks(ARGV, RankPlan())


def test_without_strictness_what_cannot_be_had_is_one_rank_and_a_warning(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = RankPlan(local_ranks=1, strict=False)
    assert calls.ring().launch_ranks(ARGV, plan) is None
    assert capsys.readouterr().err.endswith("going on with one rank\n")


def test_without_strictness_a_contradiction_is_still_refused(calls: Calls) -> None:
    with pytest.raises(SettingError):
        calls.ring().launch_ranks(ARGV, RankPlan(strict=False))


def test_ring_file_is_in_mlx_format_and_ports_differ() -> None:
    ports = free_ports(4)
    assert len(set(ports)) == 4
    assert json.loads(ring_of(2, ports)) == [[f"127.0.0.1:{port}"] for port in ports[:2]]


def test_commands_of_ranks_differ_in_their_rank_alone() -> None:
    first, second = rank_commands(ARGV, [{"MLX_HOSTFILE": "f"}] * 2, 5)
    assert first.argv == second.argv == (sys.executable, "-m", "mlxserve", *ARGV)
    differing = {name for name in first.env if first.env[name] != second.env.get(name)}
    assert differing == {MLX_RANK, RANK}
    assert first.env["MLXSERVE_CONTROL"] == "127.0.0.1:5"


def test_ranks_without_a_mode_are_refused() -> None:
    mode = DistributedMode(DistributedOptions())
    with pytest.raises(SettingError, match="--num-local-ranks 2 needs a backend"):
        mode.launch_ranks(ARGV, RankPlan(local_ranks=2))
    assert mode.launch_ranks(ARGV, RankPlan(local_ranks=1)) is None
    assert mode.launch_ranks(ARGV, RankPlan()) is None


def test_jaccl_goes_to_mlx_launch_with_devices_and_port(tmp_path: Path, calls: Calls) -> None:
    jaccl = calls.jaccl(write(tmp_path, {"hosts": MACS}), "10.0.0.1:4000")
    assert jaccl.launch_ranks(ARGV, RankPlan()) == 12
    (launch,) = calls.there
    assert (launch.backend, launch.port) == ("jaccl", 4000)
    assert [host.rdma for host in launch.hosts.hosts] == RDMA


@pytest.mark.parametrize(
    ("content", "coordinator", "ranks", "said"),
    [
        (None, "", None, "add --distributed-ibv-devices"),
        (RDMA, "", None, "no machines"),
        ([[None], [None]], "", None, "rank 0 has 1 entries"),
        (MACS, "10.0.0.2:4000", None, "is not rank 0"),
        (MACS, "10.0.0.1", None, "--distributed-jaccl-coordinator must be like"),
        (MACS, "", 3, "--num-local-ranks 3 contradicts"),
        (LOCAL, "", None, "square of devices"),
        ([{**mac, "ips": []} for mac in MACS], "", None, "host 0 needs 'ips'"),
    ],
)
def test_contradictions_of_jaccl_are_one_line(
    content: Any,
    coordinator: str,
    ranks: int | None,
    said: str,
    tmp_path: Path,
    calls: Calls,
) -> None:
    devices = None if content is None else write(tmp_path, content)
    with pytest.raises(SettingError, match=said) as caught:
        calls.jaccl(devices, coordinator).launch_ranks(ARGV, RankPlan(local_ranks=ranks))
    assert "\n" not in str(caught.value)
    assert not calls.there


def test_jaccl_without_rdma_says_what_is_missing(tmp_path: Path, calls: Calls) -> None:
    with pytest.raises(UnavailableError, match="finds no RDMA"):
        calls.jaccl(write(tmp_path, MACS), has=False).launch_ranks(ARGV, RankPlan())


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        ([["self", "a"], ["a", None]], "device to itself"),
        ([[None, None], ["a", None]], "rank 0 has no device to rank 1"),
        ([[None, 5], ["a", None]], "must be null, a device"),
        ([], "square"),
    ],
)
def test_devices_that_join_nothing_are_refused(matrix: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        check_devices(matrix, "it")


def test_devices_of_a_ring_with_two_cables_are_accepted() -> None:
    four = [
        [["a", "b"] if (to - rank) % 4 in (1, 3) else None for to in range(4)] for rank in range(4)
    ]
    assert check_devices(four, "it")[0] == ((), ("a", "b"), (), ("a", "b"))


def test_what_a_launcher_wrote_for_jaccl_beats_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_IBV_DEVICES", "launcher.json")
    monkeypatch.setenv("MLX_JACCL_COORDINATOR", "unset")
    monkeypatch.delenv("MLX_JACCL_COORDINATOR")
    fill_environment(JacclOptions(Path("flag.json"), "h:1"))
    assert os.environ["MLX_IBV_DEVICES"] == "launcher.json"
    assert os.environ["MLX_JACCL_COORDINATOR"] == "h:1"


def test_nccl_gives_each_rank_a_gpu_of_the_visible_ones() -> None:
    plain, chosen = nccl_variables(2, 9, {}), nccl_variables(2, 9, {"CUDA_VISIBLE_DEVICES": "5, 7"})
    assert [each["CUDA_VISIBLE_DEVICES"] for each in plain] == ["0", "1"]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in chosen] == ["5", "7"]
    assert plain[0] | {"CUDA_VISIBLE_DEVICES": ""} == {
        "NCCL_HOST_IP": "127.0.0.1",
        "NCCL_PORT": "9",
        "MLX_WORLD_SIZE": "2",
        "CUDA_VISIBLE_DEVICES": "",
    }


def test_nccl_takes_all_gpus_unless_told() -> None:
    assert nccl_size(None, Abilities(is_available=True, gpus=4)) == 4
    assert nccl_size(2, Abilities(is_available=True, gpus=4)) == 2


@pytest.mark.parametrize(
    ("asked", "has", "said"),
    [
        (2, Abilities(is_available=False), "needs MLX with CUDA"),
        (2, Abilities(is_available=True, gpus=1), "MLX sees 1"),
        (None, Abilities(is_available=True, gpus=1), "two GPUs or more, and MLX sees 1"),
        (1, Abilities(is_available=True, gpus=2), "--num-local-ranks is 1"),
    ],
)
def test_nccl_without_enough_gpus_says_so(asked: int | None, has: Abilities, said: str) -> None:
    with pytest.raises(UnavailableError, match=said):
        nccl_size(asked, has)


def test_mlx_is_asked_elsewhere_and_not_imported_here() -> None:
    code = "import sys; from mlxserve_plugins.distributed.probe import abilities; "
    code += "from mlxserve_plugins.distributed import ring, jaccl, nccl; "
    code += "print(abilities('ring').is_available, 'mlx.core' in sys.modules)"
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
    assert not abilities("no-such-backend").is_available


def test_hosts_here_and_elsewhere_are_told_apart() -> None:
    assert parse_hostfile(LOCAL, "it").is_here
    assert not parse_hostfile([*LOCAL, *MACS], "it").is_here
    assert not parse_hostfile([{"ssh": "localhost", "ips": ["10.0.0.1"]}], "it").is_here


@define
class Threads(Backend):
    """A stranger's backend: all that it has to say is how ranks are started."""

    name: ClassVar[str] = "threads"

    def run_ranks(self, argv: Sequence[str], plan: RankPlan) -> int:
        line = [sys.executable, "-c", "import os; os._exit(3 + int(os.environ['MLXSERVE_RANK']))"]
        each = [own(at) for at in range(plan.local_ranks or 1)]
        return supervise([Command(tuple(line), {**os.environ, **mine}) for mine in each])


def test_a_backend_of_somebody_elses_launches_by_what_is_public() -> None:
    plugins = register({"threads": Threads()})
    status = ask(plugins, distribution.launch_ranks)(argv=ARGV, plan=RankPlan(local_ranks=2))
    assert status in (3, 4)
    assert ask(plugins, distribution.this_rank)() is None
    assert ask(plugins, distribution.join_group)() is None
