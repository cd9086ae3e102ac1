"""What a test's log shows of exceptions."""

import structlog
from structlog.dev import ConsoleRenderer, plain_traceback


def log_plainly() -> None:
    """Log exceptions without the locals of their frames, unless somebody has said how to log.

    ``rich``, where it is installed, draws them, and evaluates every array among them: seconds for
    each exception, in which an engine or event loop under test does nothing else.
    """
    if not structlog.is_configured():
        *before, _ = structlog.get_config()["processors"]
        renderer = ConsoleRenderer(exception_formatter=plain_traceback)
        structlog.configure(processors=[*before, renderer])
