import io
import json
import logging
import time
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from attrs import evolve
from structlog.contextvars import bound_contextvars

from mlxserve.options import LoggingOptions
from mlxserve.serve.logging import (
    MOST_REMEMBERED,
    RequestLog,
    adopt_libraries,
    configure_logging,
    log_finish,
    mean_itl,
    release_held,
)
from mlxserve_hookspecs import (
    Credentials,
    Finish,
    GenerationRequest,
    RequestError,
    Usage,
)

pytestmark = pytest.mark.usefixtures("tidy_logging")

SECRET = "sk-very-secret"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def out() -> io.StringIO:
    stream = io.StringIO()
    configure_logging(LoggingOptions(log_format="json"), stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def finish_of(**changes: Any) -> Finish:
    usage = Usage(prompt_tokens=9, completion_tokens=5, cached_tokens=4)
    facts: dict[str, Any] = {
        "reason": "stop",
        "usage": usage,
        "stopped_by": "sk-stop",
        "queue_seconds": 0.25,
        "first_token_seconds": 1.0,
        "total_seconds": 3.0,
    }
    return Finish(**(facts | changes))


def test_a_finished_request_is_one_line_of_facts(
    out: io.StringIO, request_of_one: GenerationRequest
) -> None:
    log_finish(request_of_one, 2, finish_of())
    (line,) = lines(out)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "request finished",
        "logger": "mlxserve.requests",
        "level": "info",
        "endpoint": "",
        "status": 200,
        "id": "req-1",
        "choice": 2,
        "prompt_tokens": 9,
        "cached_tokens": 4,
        "completion_tokens": 5,
        "queue_seconds": 0.25,
        "ttft_seconds": 1.0,
        "itl_seconds": 0.5,
        "tokens_per_s": 2.0,
        "total_seconds": 3.0,
        "reason": "stop",
    }


def test_a_request_that_failed_is_a_warning_with_the_errors_code(
    out: io.StringIO, request_of_one: GenerationRequest
) -> None:
    error = RequestError(status=500, message=f"told the client {SECRET}")
    log_finish(request_of_one, 0, finish_of(reason="error", error=error))
    (line,) = lines(out)
    assert (line["level"], line["error"]) == ("warning", 500)
    assert SECRET not in out.getvalue()


def test_a_finished_request_names_the_endpoint_at_which_it_came(
    out: io.StringIO, request_of_one: GenerationRequest
) -> None:
    log = RequestLog()
    request = evolve(request_of_one, choices=2)
    with bound_contextvars(method="POST", path="/v1/x"):
        log.request_received(request)
    for choice in (1, 0):
        log.request_finished(request, choice, finish_of())
    log.request_finished(request, 0, finish_of())
    assert [line["endpoint"] for line in lines(out)] == ["POST /v1/x", "POST /v1/x", ""]


def test_requests_that_never_finish_are_forgotten(request_of_one: GenerationRequest) -> None:
    log = RequestLog()
    for number in range(MOST_REMEMBERED + 5):
        log.request_received(evolve(request_of_one, id=f"r{number}"))
    assert len(log._endpoints) == MOST_REMEMBERED


def test_lines_are_held_until_they_are_released() -> None:
    out = io.StringIO()
    configure_logging(LoggingOptions(log_format="json"), out, hold=True)
    structlog.get_logger("x").warning("one")
    assert out.getvalue() == ""
    release_held()
    structlog.get_logger("x").info("two")
    release_held()
    assert [line["event"] for line in lines(out)] == ["one", "two"]


def test_an_error_is_not_held() -> None:
    out = io.StringIO()
    configure_logging(LoggingOptions(log_format="json"), out, hold=True)
    structlog.get_logger("x").info("one")
    structlog.get_logger("x").error("two")
    assert [line["event"] for line in lines(out)] == ["one", "two"]


def test_a_terminal_gets_local_time_to_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XXX-5")
    time.tzset()
    try:
        out = io.StringIO()
        configure_logging(LoggingOptions(log_format="console"), out)
        before = datetime.now(tz=UTC)
        structlog.get_logger("mlxserve.x").info("hello")
    finally:
        monkeypatch.undo()
        time.tzset()
    there = [before + timedelta(hours=5, seconds=late) for late in (0, 1, 2)]
    assert out.getvalue() in [f"{at:%m-%d %H:%M:%S} hello\n" for at in there]


def test_fewer_than_two_tokens_have_no_latency_between_them() -> None:
    one = Usage(prompt_tokens=9, completion_tokens=1)
    assert mean_itl(finish_of(usage=one)) is None
    assert mean_itl(finish_of(first_token_seconds=None)) is None
    assert mean_itl(finish_of()) == 0.5


def test_neither_prompt_nor_stop_strings_are_logged(
    out: io.StringIO, request_of_one: GenerationRequest
) -> None:
    log_finish(request_of_one, 0, finish_of())
    structlog.get_logger("x").warning("odd request", request=request_of_one)
    assert "3133" not in out.getvalue()
    assert "sk-stop" not in lines(out)[0].values()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_is_logged_by_whatever_path(log_format: Any) -> None:
    out = Terminal()
    configure_logging(LoggingOptions(log_format=log_format, log_level="debug"), out)
    log = structlog.get_logger("x")
    presented = Credentials(headers={"authorization": SECRET}, path="/here")
    log.info("one", who=presented, headers=presented.headers, api_key=SECRET, prompt=SECRET)
    logging.getLogger("httpcore.http11").debug("send_request_headers %s", SECRET)
    try:
        _fail_with(presented)
    except ValueError:
        log.exception("two")
        logging.getLogger("library").exception("three")
    assert SECRET not in out.getvalue()
    for expected in ("one", "/here", "two", "three", "ValueError: a bug"):
        assert expected in out.getvalue()


def _fail_with(presented: Credentials) -> None:
    key = presented.headers["authorization"]
    raise ValueError("a bug" if key else "no key")


def test_lines_of_libraries_have_the_same_form(out: io.StringIO) -> None:
    logging.getLogger("some.library").warning("it is %d o'clock", 7)
    (line,) = lines(out)
    assert (line["event"], line["logger"], line["level"]) == (
        "it is 7 o'clock",
        "some.library",
        "warning",
    )


def test_libraries_with_an_output_of_their_own_are_taken_in(out: io.StringIO) -> None:
    library = logging.getLogger("transformers")
    handlers, propagate = library.handlers[:], library.propagate
    own = io.StringIO()
    library.handlers, library.propagate = [logging.StreamHandler(own)], False
    try:
        adopt_libraries()
        logging.getLogger("transformers.tokens").warning("long prompt")
    finally:
        library.handlers, library.propagate = handlers, propagate
    assert own.getvalue() == ""
    assert lines(out)[0]["event"] == "long prompt"


def test_warnings_are_logged(out: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old ways", stacklevel=1)
    assert "old ways" in lines(out)[0]["event"]


def test_chatter_of_the_http_libraries_is_left_out(out: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    assert [line["event"] for line in lines(out)] == ["Invalid HTTP request received."]


@pytest.mark.parametrize(
    ("level", "seen"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
def test_the_level_is_the_least_severity_that_is_logged(level: Any, seen: int) -> None:
    out = io.StringIO()
    configure_logging(LoggingOptions(log_format="json", log_level=level), out)
    for logger in (structlog.get_logger("ours"), logging.getLogger("theirs")):
        for name in ("debug", "info", "warning", "error"):
            getattr(logger, name)(name)
    assert len(lines(out)) == 2 * seen


def test_auto_is_console_on_a_terminal_and_json_elsewhere() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        configure_logging(LoggingOptions(log_format="auto"), stream)
        structlog.get_logger("x").info("hello", n=1)
    assert "\x1b[" in terminal.getvalue()
    assert lines(file)[0]["n"] == 1


def test_console_output_to_a_file_has_no_colours() -> None:
    out = io.StringIO()
    configure_logging(LoggingOptions(log_format="console"), out)
    structlog.get_logger("x").info("hello")
    assert "hello" in out.getvalue()
    assert "\x1b[" not in out.getvalue()
