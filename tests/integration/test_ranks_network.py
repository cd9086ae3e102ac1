"""Ranks on two hosts, each a network namespace of its own, with a cable between them."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from attrs import frozen

from .live import LiveServer, serving
from .ranked import JOBS, body_of

pytestmark = [pytest.mark.integration]
TOOLS = ("ip", "script", "bash")
NETWORK = "10.213.7"
PORT = 8123
DEADLINE = 15.0
SSH = """#!/bin/bash
# As much of ssh as mlx.launch uses: options, host, command. A host is a network namespace.
while [[ $1 == -* ]]; do [[ $1 == -o ]] && shift; shift; done
host=$1; shift
exec ip netns exec "$host" script -qefc "$(printf 'bash -c %q' "$1")" /dev/null
"""
CLIENT = """
import json, sys, urllib.request
url, *bodies = sys.argv[1:]
for body in bodies:
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(url, body.encode(), headers)
    print(json.dumps(json.load(urllib.request.urlopen(asked, timeout=60))["choices"][0]["text"]))
"""


@frozen
class Hosts:
    """Two hosts."""

    names: tuple[str, ...]

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def connect(self) -> None:
        for name in self.names:
            self.ip("netns", "add", name)
        one, other = self.names
        self.ip("link", "add", one, "netns", one, "type", "veth", "peer", other, "netns", other)
        for at, name in enumerate(self.names, 1):
            self.ip("-n", name, "addr", "add", f"{NETWORK}.{at}/24", "dev", name)
            self.ip("-n", name, "link", "set", "lo", "up")
            self.ip("-n", name, "link", "set", name, "up")

    def pull_the_cable(self) -> None:
        self.ip("-n", self.names[0], "link", "set", self.names[0], "down")

    def remove(self) -> None:
        for name in self.names:
            with suppress(subprocess.CalledProcessError):
                self.ip("netns", "delete", name)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: iproute2, util-linux, bash")
    found = Hosts((f"mlx{os.getpid()}a", f"mlx{os.getpid()}b"))
    try:
        found.connect()
    except subprocess.CalledProcessError as error:
        found.remove()
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    yield found
    found.remove()


def texts(command: list[str], url: str) -> list[str]:
    bodies = [json.dumps(body_of(job)) for job in JOBS[:3]]
    line = [*command, sys.executable, "-c", CLIENT, f"{url}/v1/completions", *bodies]
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.splitlines()


def test_ranks_on_two_hosts_answer_as_one_and_end_when_the_cable_is_pulled(
    hosts: Hosts, tiny: LiveServer, tiny_folder: Path, tmp_path: Path
) -> None:
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    listed = [{"ssh": n, "ips": [f"{NETWORK}.{at}"]} for at, n in enumerate(hosts.names, 1)]
    (tmp_path / "hosts.json").write_text(json.dumps(listed))
    words = (
        *("--model", str(tiny_folder), "--no-ssd", "--host", f"{NETWORK}.1", "--port", str(PORT)),
        *("--distributed-mode", "ring", "--distributed-timeout-s", "8"),
        *("--distributed-hostfile", str(tmp_path / "hosts.json")),
    )
    path = f"{ssh.parent}{os.pathsep}{os.environ['PATH']}"
    with serving(tmp_path, *words, variables={"PATH": path}) as server:
        there = ["ip", "netns", "exec", hosts.names[0]]
        assert texts(there, server.url) == texts([], tiny.url)
        hosts.pull_the_cable()
        since = time.monotonic()
        assert server.ended(DEADLINE) != 0
        assert time.monotonic() - since < DEADLINE
    for name in hosts.names:
        left = subprocess.run(["ip", "netns", "pids", name], capture_output=True, check=True)
        assert left.stdout == b""
