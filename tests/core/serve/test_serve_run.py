import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest
import structlog

from mlxserve.resolved import Resolved, SettingRow
from mlxserve.serve.address import Address, address_of, listen
from mlxserve.serve.greeting import greeting
from mlxserve.serve.lifecycle import explained
from mlxserve.serve.run import run, serve
from mlxserve_hookspecs import Credentials, ModelError, RequestError, SettingError, hookimpl

from .conftest import CARD, FakeService, Made, Pages

pytestmark = pytest.mark.usefixtures("tidy_logging")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listen("127.0.0.1", 0) as made:
        yield made


@pytest.fixture
def url(listener: socket.socket) -> str:
    return address_of(listener).url


def served(
    resolved: Resolved,
    service: FakeService,
    listener: socket.socket,
    *,
    beside: Callable[[], None],
    end: signal.Signals | None = signal.SIGTERM,
    leave: Callable[[int], None] | None = None,
) -> int:
    """Serve on the main thread, do something ``beside`` it, then send the signal ``end``."""
    problems: list[BaseException] = []
    over = threading.Event()

    def work() -> None:
        try:
            beside()
        except BaseException as error:
            problems.append(error)
        if not over.is_set() and (end is not None or problems):
            os.kill(os.getpid(), end or signal.SIGTERM)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        status = serve(resolved, service, listener, leave=leave)
    finally:
        over.set()
        thread.join()
    for problem in problems:
        raise problem
    return status


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def read_until(word: str, capsys: pytest.CaptureFixture[str]) -> str:
    printed: list[str] = []

    def seen() -> bool:
        printed.append(capsys.readouterr().out)
        return word in "".join(printed)

    until(seen)
    return "".join(printed)


def test_a_signal_drains_and_ends_with_status_0(
    make_resolved: Made, service: FakeService, listener: socket.socket, url: str
) -> None:
    class Hearing:
        @hookimpl
        def stopping(self) -> None:
            assert threading.current_thread() is threading.main_thread()
            service.calls.append("stopping")

    seen: list[str] = []

    def work() -> None:
        seen.append(httpx.get(f"{url}/card").text)

    resolved = make_resolved(Pages(), Hearing())
    assert served(resolved, service, listener, beside=work) == 0
    assert seen == ["tiny's model"]
    assert service.calls == ["attach", "start", "stopping", "drain 4", "stop"]
    assert listener.fileno() == -1


def test_the_port_is_answered_while_the_model_loads(
    make_resolved: Made,
    service: FakeService,
    listener: socket.socket,
    url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    service.at_start = lambda _: None
    answers: list[int] = []

    def work() -> None:
        answers.append(httpx.get(f"{url}/card").status_code)
        assert "mlxserve serves" not in capsys.readouterr().out
        service.loaded.set()
        answers.append(httpx.get(f"{url}/card").status_code)
        until(lambda: "curl" in capsys.readouterr().out)

    assert served(make_resolved(Pages()), service, listener, beside=work) == 0
    assert answers == [503, 200]


def test_requests_are_answered_during_the_drain(
    make_resolved: Made, service: FakeService, listener: socket.socket, url: str
) -> None:
    service.drain_waits_for = threading.Event()
    answers: list[int] = []

    def work() -> None:
        until(service.loaded.is_set)
        httpx.get(f"{url}/card")
        os.kill(os.getpid(), signal.SIGINT)
        until(lambda: service.draining)
        answers.append(httpx.get(f"{url}/card").status_code)
        assert service.drain_waits_for is not None
        service.drain_waits_for.set()

    assert served(make_resolved(Pages()), service, listener, beside=work, end=None) == 0
    assert answers == [200]


def test_a_shutdown_says_what_it_waits_for_and_that_it_is_over(
    make_resolved: Made, service: FakeService, listener: socket.socket, url: str
) -> None:
    def work() -> None:
        httpx.get(f"{url}/card")

    with structlog.testing.capture_logs() as logs:
        served(make_resolved(Pages()), service, listener, beside=work, end=signal.SIGINT)
    first, last = logs
    assert first == {
        "event": "shutting down",
        "signal": "SIGINT",
        "running": 0,
        "waiting": 0,
        "timeout_s": 4.0,
        "log_level": "info",
    }
    assert (last["event"], last["requests"]) == ("stopped", "finished")


def test_the_log_of_a_start_comes_after_the_mistake_that_ends_it(tmp_path: Path) -> None:
    script = tmp_path / "start.py"
    script.write_text(STARTING)
    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stderr.splitlines() == ["the mistake", '{"event": "a line of the start"}']


STARTING = """
import sys
import structlog
from mlxserve.options import LoggingOptions
from mlxserve.serve.logging import configure_logging

configure_logging(LoggingOptions(log_format="json"), sys.stderr, hold=True)
structlog.configure(processors=[structlog.processors.JSONRenderer()],
    logger_factory=structlog.stdlib.LoggerFactory())
import logging
logging.getLogger().handlers[0].target.setFormatter(logging.Formatter("%(message)s"))
structlog.get_logger("x").info("a line of the start")
print("the mistake", file=sys.stderr, flush=True)
"""


@pytest.mark.parametrize(
    ("row", "failure", "words"),
    [
        (("model", "model", "m", "default"), ModelError("m is away"), "no model was named"),
        (("model", "model", "m", "--model"), ModelError("m is away"), "^m is away"),
        (("model", "model", "m", "default"), SettingError("no room"), "^no room"),
    ],
    ids=["the default", "a named one", "another mistake"],
)
def test_who_named_no_model_is_told_that_the_default_was_meant(
    row: tuple[str, str, str, str], failure: Exception, words: str
) -> None:
    told = explained(failure, [SettingRow(*row)])
    assert isinstance(told, type(failure))
    assert re.match(words, str(told))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_second_signal_ends_the_process_at_once(
    make_resolved: Made,
    service: FakeService,
    listener: socket.socket,
    url: str,
    number: signal.Signals,
) -> None:
    drained = service.drain_waits_for = threading.Event()
    left: list[int] = []

    def leave(status: int) -> None:
        left.append(status)
        drained.set()

    def work() -> None:
        httpx.get(f"{url}/card")
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: service.draining)
        os.kill(os.getpid(), number)

    served(make_resolved(Pages()), service, listener, beside=work, end=None, leave=leave)
    assert left == [128 + number]


def test_a_signal_while_the_model_loads_does_not_wait_for_it(
    make_resolved: Made, service: FakeService, listener: socket.socket, url: str
) -> None:
    service.at_start = lambda _: None
    left: list[int] = []

    def work() -> None:
        assert httpx.get(f"{url}/card").status_code == 503

    resolved = make_resolved(Pages())
    assert served(resolved, service, listener, beside=work, leave=left.append) == 0
    assert left == [0]
    assert "stop" not in service.calls


@pytest.mark.parametrize(
    "failure", [ModelError("no such model"), ZeroDivisionError("a bug")], ids=["mistake", "bug"]
)
def test_a_model_that_does_not_load_ends_the_server_with_its_error(
    make_resolved: Made, service: FakeService, listener: socket.socket, failure: Exception
) -> None:
    service.failure = failure
    closed: list[str] = []
    with pytest.raises(type(failure), match=str(failure)):
        serve(
            make_resolved(Pages()), service, listener, on_loaded=lambda: closed.append("progress")
        )
    assert closed == ["progress"]
    assert listener.fileno() == -1


def test_an_engine_that_dies_later_ends_the_server_with_status_1(
    make_resolved: Made, service: FakeService, listener: socket.socket, url: str
) -> None:
    def work() -> None:
        httpx.get(f"{url}/card")
        service.failure = RuntimeError("the device is gone")

    assert served(make_resolved(Pages()), service, listener, beside=work, end=None) == 1
    assert service.calls[-1] == "stop"


def test_the_printed_command_works(
    make_resolved: Made,
    service: FakeService,
    listener: socket.socket,
    url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers: list[httpx.Response] = []
    printed: list[str] = []

    def work() -> None:
        printed.append(read_until("curl", capsys))
        words = shlex.split(printed[0].split("Try it:")[1])
        assert words[0] == "curl"
        headers = dict(words[i + 1].split(": ") for i, word in enumerate(words) if word == "-H")
        body = words[words.index("-d") + 1]
        answers.append(httpx.post(words[1], content=body, headers=headers))

    served(make_resolved(Pages()), service, listener, beside=work)
    assert f"mlxserve serves tiny's model on {url}" in printed[0]
    assert answers[0].json()["heard"]["model"] == "tiny's model"
    assert answers[0].json()["heard"]["messages"][0]["role"] == "user"


def test_the_printed_command_has_a_key_where_one_is_needed(
    make_resolved: Made,
    service: FakeService,
    listener: socket.socket,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Locked:
        @hookimpl
        def authenticate(self, credentials: Credentials) -> RequestError:
            return RequestError(status=401, message=f"no key for {credentials.path}")

    printed: list[str] = []

    def work() -> None:
        printed.append(read_until("curl", capsys))

    served(make_resolved(Pages(), Locked()), service, listener, beside=work)
    assert '-H "Authorization: Bearer $API_KEY"' in "".join(printed)


def test_the_greeting_names_only_paths_that_are_served() -> None:
    address = Address("127.0.0.1", 80)
    only = greeting(address, CARD, {"/v1/completions"}, needs_key=False)
    assert "curl http://127.0.0.1:80/v1/completions" in only
    assert "curl" not in greeting(address, CARD, {"/metrics"}, needs_key=False)


def test_the_greeting_names_the_page_where_there_is_one() -> None:
    address = Address("127.0.0.1", 80)
    assert "http://127.0.0.1:80/ in a browser" in greeting(address, CARD, {"/"}, needs_key=False)
    assert "browser" not in greeting(address, CARD, {"/metrics"}, needs_key=False)


def test_launched_ranks_are_the_whole_run(make_resolved: Made) -> None:
    heard: list[Sequence[str]] = []

    class Launcher:
        @hookimpl
        def launch_ranks(self, argv: Sequence[str]) -> int:
            heard.append(argv)
            return 3

        @hookimpl
        def preparing(self) -> None:
            heard.append("too late")

    assert run(make_resolved(Launcher())) == 3
    assert heard == [("run", "--port", "0")]


@pytest.mark.parametrize("where", ["rank", "gpu"])
def test_who_fails_where_mlx_ends_badly_says_why_and_is_gone_at_once(
    tmp_path: Path, where: str
) -> None:
    """mlx may wait for a rank that is gone: nothing of the interpreter's own end may run."""
    script = tmp_path / "ranked.py"
    script.write_text(RANKED)
    command = [sys.executable, str(script), where]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "mlxserve: enough\n"


RANKED = """
import atexit, sys
from types import SimpleNamespace
from mlxserve.loading import register
from mlxserve.options import ServerOptions
from mlxserve.resolved import Resolved
from mlxserve.serve.run import run
from mlxserve_hookspecs import Rank, SettingError, hookimpl

class Ranked:
    @hookimpl
    def this_rank(self):
        rank = Rank(rank=1, size=2, control=("127.0.0.1", 1), secret="s")
        return rank if sys.argv[1] == "rank" else None

    @hookimpl
    def preparing(self):
        cuda = SimpleNamespace(is_available=lambda: sys.argv[1] == "gpu")
        sys.modules["mlx.core"] = SimpleNamespace(cuda=cuda)  # as it is on a GPU
        raise SettingError("enough")

atexit.register(print, "the interpreter took its time")
server = ServerOptions(host="127.0.0.1", port=0)
run(Resolved(plugins=register({"ranked": Ranked()}), server=server))
"""


def test_plugins_prepare_before_mlx_is_imported_and_a_taken_port_is_found_first(
    tmp_path: Path,
) -> None:
    script = tmp_path / "prepare.py"
    script.write_text(PREPARING)
    taken = listen("127.0.0.1", 0)
    with taken:
        port = address_of(taken).port
        ended = subprocess.run(
            [sys.executable, str(script), str(port)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    told = json.loads(ended.stdout)
    assert told == {"heavy": [], "refusal": f"port {port} on 127.0.0.1 is in use"}


PREPARING = """
import json, sys
from mlxserve.loading import register
from mlxserve.options import ServerOptions
from mlxserve.resolved import Resolved
from mlxserve.serve.run import run
from mlxserve_hookspecs import SettingError, hookimpl

class Prepared(Exception):
    pass

class Preparing:
    heavy = None

    @hookimpl
    def preparing(self):
        Preparing.heavy = sorted({"mlx", "mlx_lm", "transformers"} & sys.modules.keys())
        raise SettingError("enough")

manager = register({"preparing": Preparing()})

def attempt(port):
    server = ServerOptions(host="127.0.0.1", port=port)
    try:
        run(Resolved(plugins=manager, server=server))
    except SettingError as error:
        return str(error)

refusal = attempt(int(sys.argv[1]))
assert Preparing.heavy is None
assert attempt(0) == "enough"
print(json.dumps({"heavy": Preparing.heavy, "refusal": refusal.partition(";")[0]}))
"""
