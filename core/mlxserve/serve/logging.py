"""Logs: one output for our own lines and the libraries', console or JSON, without secrets."""

import logging
from collections.abc import Sequence
from http import HTTPStatus
from logging.handlers import MemoryHandler
from typing import Final, TextIO

import structlog
from attrs import define, field
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

from mlxserve.options import LoggingOptions
from mlxserve.serve.console import FINISHED, ConsoleLines
from mlxserve.serve.frame import present_endpoint
from mlxserve_hookspecs import Finish, GenerationRequest, hookimpl

HIDDEN: Final = frozenset(
    {"api_key", "authorization", "credentials", "headers", "messages", "password", "prompt"}
)
"""Keys whose values never appear, whoever logs them."""

QUIET: Final = ("httpcore", "httpx", "h11", "uvicorn")
"""Libraries of which only warnings are of interest; below that, some log headers with keys."""

STUBBORN: Final = ("huggingface_hub", "transformers")
"""Libraries that set up an output of their own when they are imported."""

LOCAL_TIME: Final = "%m-%d %H:%M:%S"
MOST_HELD: Final = 1000
MOST_REMEMBERED: Final = 10_000

log = structlog.get_logger("mlxserve.requests")


def configure_logging(
    options: LoggingOptions, stream: TextIO, *, rank: int = 0, hold: bool = False
) -> None:
    """Send all logs of this process to ``stream``, structlog's and the standard library's.

    Args:
        options: Form and level.
        stream: Where to.
        rank: Stands in each line of a rank that serves nobody; ranks share one stream.
        hold: Keep lines back until ``release_held``, an error, or the end of the process: a
            mistake that ends the start is then the first thing that is read.
    """
    console = options.log_format == "console" or (options.log_format == "auto" and stream.isatty())
    shared = _shared(rank, console)
    level = logging.getLevelNamesMapping()[options.log_level.upper()]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                ProcessorFormatter.remove_processors_meta,
                *_rendering(console, colors=stream.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [_held_back(handler) if hold else handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[*shared, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _held_back(handler: logging.Handler) -> MemoryHandler:
    return MemoryHandler(MOST_HELD, flushLevel=logging.ERROR, target=handler)


def release_held() -> None:
    """Write the lines that were held back, and hold none from now on."""
    root = logging.getLogger()
    for held in root.handlers[:]:
        if isinstance(held, MemoryHandler) and held.target is not None:
            target = held.target
            root.handlers = [target if other is held else other for other in root.handlers]
            held.close()


def adopt_libraries() -> None:
    """Take away the outputs that libraries set up for themselves; call it after their import."""
    for name in STUBBORN:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True


def log_finish(request: GenerationRequest, choice: int, finish: Finish, endpoint: str = "") -> None:
    """Log that one choice of a request ended: who waited how long for how many tokens."""
    usage, error, itl = finish.usage, finish.error, mean_itl(finish)
    log.log(
        logging.WARNING if finish.reason == "error" else logging.INFO,
        FINISHED,
        endpoint=endpoint,
        status=HTTPStatus.OK.value if error is None else error.status,
        id=request.id,
        choice=choice,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        queue_seconds=round(finish.queue_seconds, 4),
        ttft_seconds=_rounded(finish.first_token_seconds),
        itl_seconds=_rounded(itl),
        tokens_per_s=round(1 / itl, 2) if itl else None,
        total_seconds=round(finish.total_seconds, 4),
        reason=finish.reason,
        **({} if error is None else {"error": error.code or error.status}),
    )


@define(eq=False)
class RequestLog:
    """Registered with the plugins by the server, so that every ending is logged once."""

    _endpoints: dict[str, str] = field(factory=dict, init=False)
    _ended: dict[str, int] = field(factory=dict, init=False)

    @hookimpl
    def request_received(self, request: GenerationRequest) -> None:
        """Remember where it came in; one that the engine then refuses is forgotten in time."""
        while len(self._endpoints) >= MOST_REMEMBERED:
            self._endpoints.pop(next(iter(self._endpoints)), None)
        self._endpoints[request.id] = present_endpoint()

    @hookimpl
    def request_finished(self, request: GenerationRequest, choice: int, finish: Finish) -> None:
        """Log it."""
        log_finish(request, choice, finish, self._endpoints.get(request.id, ""))
        ended = self._ended.pop(request.id, 0) + 1
        if ended < request.choices:
            self._ended[request.id] = ended
        else:
            self._endpoints.pop(request.id, None)


def mean_itl(finish: Finish) -> float | None:
    """Return the mean seconds between two tokens; ``None`` with fewer than two."""
    gaps = finish.usage.completion_tokens - 1
    if finish.first_token_seconds is None or gaps < 1:
        return None
    return (finish.total_seconds - finish.first_token_seconds) / gaps


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def _shared(rank: int, console: bool) -> Sequence[Processor]:
    def number(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        if rank:
            event["rank"] = rank
        return event

    return [
        structlog.contextvars.merge_contextvars,
        number,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt=LOCAL_TIME, utc=False)
        if console
        else structlog.processors.TimeStamper(fmt="iso", utc=True),
        _hide,
    ]


def _rendering(console: bool, *, colors: bool) -> Sequence[Processor]:
    # Plain tracebacks: the pretty ones print local variables, and those hold prompts and keys.
    last = ConsoleLines(colors) if console else structlog.processors.JSONRenderer()
    return [structlog.processors.format_exc_info, last]


def _hide(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for key in HIDDEN & event.keys():
        event[key] = "***"
    return event
