"""``mlxserve launch``: what agents are told, and that they are started so."""

import json
import os
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from mlxserve_plugins.launch.command import write_files
from mlxserve_plugins.launch.recipes import KEY, RECIPES, Target

SECRET = "sk-$e`cre't"
AGENTS = sorted(RECIPES)
FAKE = """#!{python}
import json, os, sys
print(json.dumps({{"words": sys.argv[1:], "variables": dict(os.environ)}}))
sys.exit(7)
"""


@frozen
class Models:
    """A server that lists models."""

    url: str
    keys: list[str | None]


@pytest.fixture
def models() -> Iterator[Models]:
    keys: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers["Authorization"])
            status = 401 if self.headers["Authorization"] == "Bearer none" else 200
            data = [{"id": "org/big", "max_model_len": 32768}, {"id": "small"}]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"data": data}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Models(f"http://127.0.0.1:{server.server_address[1]}", keys)
        server.shutdown()
        thread.join()


def launch(*words: str, folder: Path, key: str = SECRET) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "PATH": f"{folder / 'bin'}:/usr/bin:/bin", KEY: key, "HOME": str(folder)}
    command = [sys.executable, "-m", "mlxserve", "launch", *words]
    return subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=60)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return a folder in whose ``bin`` each agent is, and says how it was started."""
    (tmp_path / "bin").mkdir()
    for name in AGENTS:
        program = tmp_path / "bin" / name
        program.write_text(FAKE.format(python=sys.executable))
        program.chmod(0o755)
    return tmp_path


def target(folder: Path, *, context: int | None = 32768) -> Target:
    output = None if context is None else context // 4
    return Target(
        url="http://h:1", key=SECRET, model="org/big", context=context, output=output,
        folder=folder,
    )  # fmt: skip


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("context", [32768, None], ids=["known", "unknown"])
def test_every_agent_is_told_of_server_model_and_limits(
    name: str, context: int | None, tmp_path: Path
) -> None:
    recipe = RECIPES[name][0](target(tmp_path, context=context))
    told = " ".join([*recipe.command, *recipe.variables.values(), *recipe.files.values()])
    assert recipe.command[0] == name
    assert "http://h:1" in told
    assert "org/big" in told
    assert ("32768" in told) == (context is not None and name not in ("cline", "qwen"))
    assert "None" not in told
    for file, text in recipe.files.items():
        (tomllib.loads if file.endswith(".toml") else json.loads)(text)


@pytest.mark.parametrize("name", AGENTS)
def test_the_script_does_what_the_command_does(name: str, models: Models, installed: Path) -> None:
    flags = ("--url", models.url, "--folder", str(installed / "state"), "--", "-p", "it's $HOME")
    started = launch(name, *flags, folder=installed)
    assert started.returncode == 7, started.stderr
    files = {path: path.read_text() for path in (installed / "state").rglob("*") if path.is_file()}
    for path in files:
        path.unlink()
    printed = launch(name, "--print", *flags, folder=installed)
    assert printed.returncode == 0, printed.stderr
    assert SECRET not in printed.stdout
    env = {KEY: SECRET, "PATH": f"{installed / 'bin'}:/usr/bin:/bin"}
    ran = subprocess.run(
        ["/bin/sh", "-c", printed.stdout], check=False, env=env, capture_output=True, text=True
    )
    assert ran.returncode == 7, ran.stderr
    assert {path: path.read_text() for path in files} == files
    first, second = json.loads(started.stdout), json.loads(ran.stdout)
    assert first["words"] == second["words"]
    assert first["words"][-2:] == ["-p", "it's $HOME"]
    recipe = RECIPES[name][0](target(installed / "state" / name))
    for variable in recipe.variables:
        assert first["variables"][variable] == second["variables"][variable]


def test_clines_settings_have_a_date_or_it_would_drop_them(tmp_path: Path) -> None:
    settings = json.loads(RECIPES["cline"][0](target(tmp_path)).files["settings/providers.json"])
    (provider,) = settings["providers"].values()
    assert datetime.fromisoformat(provider["updatedAt"])


def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    recipe = RECIPES["cline"][0](target(tmp_path))
    write_files(recipe, tmp_path / "cline")
    (path,) = tmp_path.rglob("*.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SECRET in path.read_text()


def test_the_first_model_is_meant_and_half_of_its_limits_may_be_said(
    models: Models, installed: Path
) -> None:
    shown = launch("claude", "--print", "--url", f"{models.url}/v1/", folder=installed).stdout
    assert "export ANTHROPIC_MODEL=org/big\n" in shown
    assert f"export ANTHROPIC_BASE_URL={models.url}\n" in shown
    assert "export CLAUDE_CODE_MAX_OUTPUT_TOKENS=8192\n" in shown
    assert models.keys == [f"Bearer {SECRET}"]
    words = ("--print", "--url", models.url, "--model", "small", "--context", "4000")
    shown = launch("claude", *words, folder=installed).stdout
    assert "export ANTHROPIC_MODEL=small\n" in shown
    assert "export CLAUDE_CODE_MAX_OUTPUT_TOKENS=1000\n" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no agent is named: mlxserve launch knows claude"),
        (("clyde",), "unknown agent 'clyde'"),
        (("claude", "--prnt"), "unrecognized arguments: --prnt"),
        (("claude", "--url", "http://127.0.0.1:9"), "no server of models answers"),
        (("claude", "--url", "{url}", "--model", "other"), "does not serve 'other'; it serves"),
        (("goose", "--url", "{url}"), "goose is not installed: see https://"),
    ],
    ids=["nothing", "unknown", "a bad flag", "no server", "another model", "not installed"],
)
def test_a_mistake_is_one_line(
    words: tuple[str, ...], said: str, models: Models, tmp_path: Path
) -> None:
    done = launch(*(word.format(url=models.url) for word in words), folder=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_server_that_asks_for_a_key_says_where_to_put_it(models: Models, tmp_path: Path) -> None:
    done = launch("claude", "--url", models.url, folder=tmp_path, key="none")
    assert done.returncode == 2
    assert f"answers with status 401; set ${KEY}" in done.stderr
