"""The body of ``mlxserve run``: from resolved settings to the exit status."""

import asyncio
import gc
import socket
import sys
from collections.abc import Callable
from typing import Final

from mlxserve.hooks import ask, tell
from mlxserve.ranks.frames import LinkBrokenError
from mlxserve.ranks.link import Links, lead
from mlxserve.resolved import Resolved
from mlxserve.serve.address import listen
from mlxserve.serve.leaving import leave_at_once, mlx_ends_badly, report
from mlxserve.serve.lifecycle import Lifecycle
from mlxserve.serve.logging import RequestLog, configure_logging, release_held
from mlxserve.serve.progress import ShownProgress, make_progress
from mlxserve.serve.refusals import RefusalLog
from mlxserve.serve.service import Service
from mlxserve_hookspecs import MlxserveError, Progress, Rank, RankPlan, distribution, lifecycle

STARTING = 120.0
"""Seconds for the ranks of a run to find each other."""

SWITCHING: Final = 0.0005
"""Seconds for which a thread keeps Python to itself while another waits. Between two steps the
engine is busy in Python, and the event loop asks for it after each system call: at Python's own
5 ms, a reply of a few bytes takes tens of them."""


def run(resolved: Resolved) -> int:
    """Serve until a signal comes; return the exit status.

    The port is taken before anything slow happens, and is answered while the model loads.

    Raises:
        MlxserveError: A user's mistake: a port in use, a model that is not there.
    """
    asked = resolved.distributed
    plan = RankPlan(
        local_ranks=asked.num_local_ranks,
        sharding=asked.distributed_sharding,
        strict=asked.distributed_strict,
    )
    status = ask(resolved.plugins, distribution.launch_ranks)(argv=resolved.argv, plan=plan)
    if status is not None:
        return status
    rank = ask(resolved.plugins, distribution.this_rank)()
    configure_logging(
        resolved.logging, sys.stderr, rank=rank.rank if rank else 0, hold=rank is None
    )
    try:
        if rank is not None and rank.rank > 0:
            status = follow_rank(resolved, rank)
        else:
            status = _serve_here(resolved, rank)
    except MlxserveError as error:
        if not _leaves_at_once(rank):
            raise
        status = report(error)
    if _leaves_at_once(rank):
        leave_at_once(status)
    return status


def _leaves_at_once(rank: Rank | None) -> bool:
    """Return whether nothing of the interpreter's own end may run.

    A rank may leave while mlx waits in a collective for one that is gone, and its threads would be
    destroyed with the process's statics.
    """
    return rank is not None or mlx_ends_badly()


def _serve_here(resolved: Resolved, rank: Rank | None) -> int:
    """Take the port and serve; return the exit status."""
    with listen(resolved.server.host, resolved.server.port) as listener:
        tell(resolved.plugins, lifecycle.preparing)()
        from mlxserve.engine.service import EngineService  # noqa: PLC0415 - after preparing

        progress = make_progress(sys.stderr)
        service = EngineService(resolved, _after_held(progress), links_of(resolved, rank))
        return serve(resolved, service, listener, on_loaded=_settled(progress))


def _settled(progress: ShownProgress) -> Callable[[], None]:
    """Return what is done when all is loaded.

    What was imported and loaded stays as long as the process, and needs no garbage collection: to
    look through all of it takes 60 ms, in which no stream gets a token.
    """

    def settle() -> None:
        progress.close()
        gc.collect()
        gc.freeze()

    return settle


def _after_held(progress: Progress) -> Progress:
    """Return ``progress``, which begins with the log lines that were held back."""

    def tell_all(what: str, done: int, total: int | None) -> None:
        release_held()
        progress(what, done, total)

    return tell_all


def links_of(resolved: Resolved, rank: Rank | None) -> Links | None:
    """Wait for the other ranks, if there are any.

    Raises:
        MlxserveError: They did not come.
    """
    if rank is None:
        return None
    try:
        links = lead(rank, STARTING)
    except LinkBrokenError as error:
        raise MlxserveError(f"rank 0 stays alone: {error}") from error
    asked = resolved.distributed
    return Links(
        links,
        asked.distributed_timeout_s,
        lambda _reason: None,
        asked.distributed_step_timeout_s,
    )


def follow_rank(resolved: Resolved, rank: Rank) -> int:
    """Run this rank's share of the model for rank 0, which serves; return the exit status."""
    tell(resolved.plugins, lifecycle.preparing)()
    from mlxserve.engine.following import follow_leader  # noqa: PLC0415 - after preparing

    return follow_leader(resolved, rank, STARTING)


def serve(
    resolved: Resolved,
    service: Service,
    listener: socket.socket,
    *,
    on_loaded: Callable[[], None] = lambda: None,
    leave: Callable[[int], None] | None = None,
) -> int:
    """Serve ``service`` on ``listener``; return the exit status.

    Args:
        resolved: The run's settings.
        service: The engine's owner, not started yet.
        listener: Where to listen; closed at the end.
        on_loaded: Called when the model is loaded, or loading failed.
        leave: Ends the process at once; for tests.
    """
    sys.setswitchinterval(SWITCHING)
    resolved.plugins.register(RequestLog(), "request-log")
    resolved.plugins.register(RefusalLog(), "refusal-log")
    run_of_it = Lifecycle(
        resolved=resolved,
        service=service,
        listener=listener,
        on_loaded=on_loaded,
        leave=leave or leave_at_once,
    )
    return asyncio.run(run_of_it.main())
