"""The program as a user calls it."""

import json
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from attrs import define, frozen

from mlxserve.cli import main
from mlxserve.cli.program import Cli
from mlxserve.resolved import Resolved
from mlxserve_hookspecs import Command, SettingError, hookimpl, option

if TYPE_CHECKING:
    from tests.conftest import World

HEAVY = {"mlx", "mlx_lm", "litestar", "uvicorn", "transformers", "numpy", "openai"}


@frozen
class BenchOptions:
    """Measure."""

    rounds: int = option(3, "how often", common=True)
    key: str = option("", "a secret", flag="--api-key", secret=True)


@define
class Bench:
    """Adds a command."""

    options: BenchOptions

    @hookimpl
    def commands(self) -> list[Command]:
        starter = Command(
            name="start", help="starts", add_arguments=self.rest, run=self.rests, starts=True
        )
        bench = Command(
            name="bench", help="measure 100%", add_arguments=self.arguments, run=self.measure
        )
        return [bench, starter]

    def rest(self, parser: ArgumentParser) -> None:
        parser.add_argument("--rounds", type=int)
        parser.add_argument("flags", nargs="*")

    def rests(self, asked: Namespace) -> int:
        sys.stdout.write(f"{asked.rounds} {asked.flags}\n")
        return 0

    def arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("what")
        parser.add_argument("--concurrency", type=int, default=1)
        parser.add_argument("--port", type=int, help="our own")

    def measure(self, asked: Namespace) -> int:
        words = (asked.what, asked.concurrency, asked.port, self.options.rounds)
        sys.stdout.write(f"{words}\n")
        return 7


@define
class Crashes:
    """Breaks at the first question."""

    @hookimpl
    def commands(self) -> list[Command]:
        raise ZeroDivisionError("not my day")


class Plain:
    """Does nothing."""


@pytest.fixture
def call(
    world: "World", capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that calls the program in a world with three plugins."""
    world.add("mlxserve", {"bench": Bench, "plain": Plain, "crashes": Crashes})
    world.add("broken-dist", {"broken": "a_module_that_is_missing:It"})
    world.add("sets", {"default": ("bench",)}, group="mlxserve.sets")
    presets = tmp_path / "few_presets"
    presets.mkdir()
    (presets / "__init__.py").touch()
    (presets / "small.toml").touch()
    world.monkeypatch.syspath_prepend(tmp_path)
    world.add("presets", {"few": "few_presets"}, group="mlxserve.presets")
    world.monkeypatch.setattr("mlxserve.cli.program.entry_points", lambda: world.points)

    def program(*words: str) -> tuple[int, str, str]:
        status = main(words)
        said = capsys.readouterr()
        return status, said.out, said.err

    return program


Call = Callable[..., tuple[int, str, str]]


def test_command_of_a_plugin_runs_with_its_options_and_arguments(call: Call) -> None:
    words = ["bench", "--concurrency", "4", "--bench-rounds", "5", "chat", "--model", "m"]
    assert call(*words) == (7, "('chat', 4, None, 5)\n", "")


def test_command_of_a_plugin_keeps_its_own_flag_of_the_same_name(call: Call) -> None:
    assert call("bench", "chat", "--port", "9") == (7, "('chat', 1, 9, 3)\n", "")


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (("--rounds", "2", "--", "--bench-rounds", "5"), "2 ['--bench-rounds', '5']"),
        (("--rounds=2", "--", "--port", "9"), "2 ['--port', '9']"),
        (("--rounds", "2"), "2 []"),
    ],
)
def test_flags_of_the_servers_a_command_starts_stand_after_the_dashes(
    call: Call, words: tuple[str, ...], flags: str
) -> None:
    assert call("start", *words) == (0, f"{flags}\n", "")


def test_flags_that_a_started_server_would_never_see_are_refused(call: Call) -> None:
    status, out, err = call("start", "--bench-rounds", "5", "--", "--port", "9")
    assert (status, out) == (2, "")
    assert "--bench-rounds is for the server that this starts: put it after --" in err


def test_help_of_a_plugins_command_lists_its_arguments(call: Call) -> None:
    status, out, _ = call("bench", "--help")
    assert status == 0
    assert "--concurrency" in out
    assert "measure 100%" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench"], "the following arguments are required: what"),
        (["bench", "chat", "--concurency", "1"], "unrecognized arguments: --concurency 1"),
        (["bnch"], "unknown command 'bnch'; did you mean bench?"),
        (["zzz"], "unknown command 'zzz'; known: bench, config, plugins, run"),
        (["serve"], "unknown command 'serve'; did you mean mlxserve run?"),
        (["help"], "unknown command 'help'; did you mean mlxserve --help?"),
        (["run", "small"], "unexpected argument 'small'; did you mean --preset small?"),
        (["run", "smal"], "unexpected argument 'smal'; did you mean --preset small?"),
        (["run", "org/name"], "unexpected argument 'org/name'; did you mean --model org/name?"),
        (["run", "zzz"], "unexpected argument 'zzz'"),
        (["--hlep"], "unknown flag --hlep; did you mean --help or --help-all?"),
        (["run", "--hlep"], "unknown flag --hlep; did you mean --help or --help-all?"),
        (["run", "-p", "1"], "unknown flag -p; did you mean --port?"),
        (["config", "--prot", "1"], "unknown flag --prot; did you mean --port"),
        (["config", "--preset", "none-such"], "no preset or file named 'none-such'"),
        (["config", "--plugins", "broken"], "plugin 'broken' of broken-dist cannot be imported"),
        (["plugins", "--plugins", "x"], "no plugin named 'x' is installed"),
    ],
)
def test_mistake_is_one_line_and_status_two(call: Call, words: list[str], message: str) -> None:
    status, out, err = call(*words)
    assert (status, out) == (2, "")
    assert err.startswith("mlxserve: ")
    assert message in err
    assert err.count("\n") == 1


def test_plugin_that_crashes_keeps_its_traceback_and_is_named(call: Call) -> None:
    status, _, err = call("bench", "x", "--plugins", "crashes")
    assert status == 2
    assert "Traceback" in err
    assert err.endswith(
        "mlxserve: plugin 'crashes' (mlxserve 1.5) failed in commands: "
        "ZeroDivisionError: not my day\n"
    )


def test_plugins_lists_active_first_with_hooks_and_broken_ones_with_the_reason(call: Call) -> None:
    status, out, _ = call("plugins", "--json", "--plugins", "plain")
    rows = {row["name"]: row for row in json.loads(out)}
    assert status == 0
    assert list(rows) == ["plain", "bench", "broken", "crashes"]
    assert [row["active"] for row in rows.values()] == [True, True, False, False]
    assert rows["bench"]["hooks"] == ["commands"]
    assert rows["bench"]["distribution"] == "mlxserve"
    assert rows["bench"]["version"] == "1.5"
    assert rows["bench"]["options"][0]["flags"] == ["--bench-rounds"]
    assert "No module named 'a_module_that_is_missing'" in rows["broken"]["error"]


def test_plugins_prints_a_table(call: Call) -> None:
    _, out, _ = call("plugins")
    lines = out.splitlines()
    assert lines[0].split() == ["plugin", "distribution", "hooks", "options"]
    assert lines[1].split()[:5] == ["bench", "active", "mlxserve", "1.5", "commands"]
    assert lines[1].endswith("--bench-rounds, --api-key")
    assert any(line.startswith("broken   broken") for line in lines)


def test_config_shows_values_and_origins_and_masks_secrets(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXSERVE_API_KEY", "hush")
    status, out, _ = call("config", "--port", "81")
    lines = [line.split() for line in out.splitlines()]
    assert status == 0
    assert ["server.port", "81", "--port"] in lines
    assert ["server.host", "0.0.0.0", "default"] in lines
    assert ["bench.key", "****", "$MLXSERVE_API_KEY"] in lines
    assert "hush" not in out + call("config", "--json")[1]


def test_config_as_json(call: Call) -> None:
    told = json.loads(call("config", "--json", "--adapter-path", "a/b")[1])
    assert told["plugins"] == ["bench"]
    row = {"section": "model", "name": "adapter_path", "value": "a/b", "origin": "--adapter-path"}
    assert row in told["settings"]


def test_variables_that_set_nothing_are_pointed_at(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXSERVE_PROT", "1")
    status, _, err = call("config")
    assert status == 0
    assert err.startswith(
        "mlxserve: warning: $MLXSERVE_PROT sets nothing; did you mean MLXSERVE_PORT"
    )
    monkeypatch.delenv("MLXSERVE_PROT")
    monkeypatch.setenv("MLXSERVE_BENCH_ROUNDS", "1")
    assert "belongs to plugin 'bench'" in call("config", "--plugins", "no:bench")[2]


def test_help_is_short_and_names_the_groups_of_the_rest(call: Call) -> None:
    status, out, _ = call("run", "--help")
    flags, groups = out.split("groups of flags (mlxserve run --help-all lists every flag):")
    assert status == 0
    assert "--bench-rounds N" in flags
    assert "--port N" in flags
    assert "--api-key" not in flags
    assert "--max-queue-size" not in flags
    assert [line.split()[0] for line in groups.strip().splitlines()] == [
        "model",
        "server",
        "engine",
        "generation",
        "logging",
        "distributed",
        "bench",
    ]
    assert "Presets: small." in flags
    assert len(out.splitlines()) < 80


def test_help_of_everything_is_whole(call: Call) -> None:
    status, out, _ = call("run", "--help-all")
    assert status == 0
    assert "\nbench:\n" in out
    assert "--api-key" in out
    assert "--max-queue-size" in out
    assert "groups of flags" not in out


@pytest.mark.parametrize("words", [["--version"], ["run", "--version"], ["config", "--version"]])
def test_version_is_told_wherever_it_is_asked(call: Call, words: list[str]) -> None:
    assert call(*words)[:2] == (0, f"mlxserve {version('mlxserve')}\n")


def test_help_marks_plugins_that_do_not_run(call: Call) -> None:
    _, out, _ = call("run", "--help-all")
    assert "\nbench:\n" in out
    assert "bench (not active)" in call("run", "--help", "--plugins", "no:bench")[1]
    _, out, _ = call("run", "--help-all", "--plugins", "no:bench")
    assert "\nbench (not active):\n" in out
    assert "--api-key" in out


def test_help_of_settings_that_do_not_work_says_so(call: Call) -> None:
    status, out, _ = call("run", "--help", "--plugins", "x")
    assert status == 0
    assert "These settings do not work: no plugin named 'x'" in out
    assert "--port" in out


def test_overview_lists_every_command(call: Call) -> None:
    status, out, _ = call("--help")
    assert status == 0
    assert [name for name in ("run", "plugins", "config", "bench") if f"  {name} " not in out] == []


def test_no_words_at_all_print_the_overview(call: Call) -> None:
    assert call()[0] == 2


@pytest.mark.parametrize("words", [["run", "--port", "81"], ["--port", "81"]])
def test_run_serves_what_was_resolved(
    call: Call, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    served: list[Resolved] = []

    def run(resolved: Resolved) -> int:
        served.append(resolved)
        return 5

    monkeypatch.setitem(sys.modules, "mlxserve.serve", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mlxserve.serve.run", SimpleNamespace(run=run))
    assert call(*words)[0] == 5
    assert served[0].server.port == 81
    assert served[0].argv == tuple(words)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, ""),
        (SettingError("no"), 2, "mlxserve: no\n"),
        (ImportError("libmlx.so: cannot open"), 2, "mlxserve: mlx is installed without a backend"),
    ],
    ids=["interrupted", "mistake", "no backend"],
)
def test_how_a_run_ends(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, said: str
) -> None:
    def fail(_: Cli) -> int:
        raise error

    monkeypatch.setattr(Cli, "run", fail)
    ended, _, err = call("run")
    assert ended == status
    assert err.startswith(said)
    assert err.count("\n") == (1 if said else 0)


@pytest.mark.parametrize(
    "words", ["plugins", "plugins --json", "--help", "run --help", "--version"]
)
def test_answers_without_importing_anything_heavy(words: str) -> None:
    code = (
        "import sys\nfrom mlxserve.cli import main\n"
        f"status = main({words.split()!r})\n"
        "print('\\n' + ' '.join(m for m in sys.modules if '.' not in m))\nsys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.splitlines()[-1].split()) == set()


def test_module_and_program_are_the_same() -> None:
    command = [sys.executable, "-m", "mlxserve", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"mlxserve {version('mlxserve')}\n"
