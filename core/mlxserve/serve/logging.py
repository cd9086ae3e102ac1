"""Logs: one output for our own lines and the libraries', console or JSON, without secrets."""

import logging
from collections.abc import Sequence
from typing import Final, TextIO

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

from mlxserve.options import LoggingOptions
from mlxserve_hookspecs import Finish, GenerationRequest, hookimpl

HIDDEN: Final = frozenset(
    {"api_key", "authorization", "credentials", "headers", "messages", "password", "prompt"}
)
"""Keys whose values never appear, whoever logs them."""

QUIET: Final = ("httpcore", "httpx", "h11", "uvicorn")
"""Libraries of which only warnings are of interest; below that, some log headers with keys."""

STUBBORN: Final = ("huggingface_hub", "transformers")
"""Libraries that set up an output of their own when they are imported."""

log = structlog.get_logger("mlxserve.requests")


def configure_logging(options: LoggingOptions, stream: TextIO, *, rank: int = 0) -> None:
    """Send all logs of this process to ``stream``, structlog's and the standard library's.

    Args:
        options: Form and level.
        stream: Where to.
        rank: Stands in each line of a rank that serves nobody; ranks share one stream.
    """
    shared = _shared(rank)
    console = options.log_format == "console" or (options.log_format == "auto" and stream.isatty())
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
    root.handlers = [handler]
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


def adopt_libraries() -> None:
    """Take away the outputs that libraries set up for themselves; call it after their import."""
    for name in STUBBORN:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True


def log_finish(request: GenerationRequest, choice: int, finish: Finish) -> None:
    """Log that one choice of a request ended: who waited how long for how many tokens."""
    usage, error = finish.usage, finish.error
    log.log(
        logging.WARNING if finish.reason == "error" else logging.INFO,
        "request finished",
        id=request.id,
        choice=choice,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        queue_seconds=round(finish.queue_seconds, 4),
        ttft_seconds=_rounded(finish.first_token_seconds),
        itl_seconds=_rounded(mean_itl(finish)),
        total_seconds=round(finish.total_seconds, 4),
        reason=finish.reason,
        **({} if error is None else {"error": error.code or error.status}),
    )


class RequestLog:
    """Registered with the plugins by the server, so that every ending is logged once."""

    @hookimpl
    def request_finished(self, request: GenerationRequest, choice: int, finish: Finish) -> None:
        """Log it."""
        log_finish(request, choice, finish)


def mean_itl(finish: Finish) -> float | None:
    """Return the mean seconds between two tokens; ``None`` with fewer than two."""
    gaps = finish.usage.completion_tokens - 1
    if finish.first_token_seconds is None or gaps < 1:
        return None
    return (finish.total_seconds - finish.first_token_seconds) / gaps


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def _shared(rank: int) -> Sequence[Processor]:
    def number(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        if rank:
            event["rank"] = rank
        return event

    return [
        structlog.contextvars.merge_contextvars,
        number,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _hide,
    ]


def _rendering(console: bool, *, colors: bool) -> Sequence[Processor]:
    # Plain tracebacks: the pretty ones print local variables, and those hold prompts and keys.
    if console:
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _hide(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for key in HIDDEN & event.keys():
        event[key] = "***"
    return event
