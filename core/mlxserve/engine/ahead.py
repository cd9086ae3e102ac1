"""Trace passes ahead of time, one whenever the engine has nothing else to do."""

from collections.abc import Iterator

import structlog

log = structlog.get_logger("mlxserve.engine")


def traced_one(spare: Iterator[None]) -> Iterator[None] | None:
    """Trace one more class; return what is left, if anything is. Engine thread."""
    try:
        return spare if next(spare, spare) is None else None
    except Exception:  # out of memory, say: then it is traced when it is needed, or never
        log.exception("a pass cannot be traced ahead of time")
        return None
