"""A rank other than 0: the same engine, fed by rank 0's turns, told to nobody."""

import os
import signal

import structlog

from mlxserve.engine.build import build
from mlxserve.engine.engine import Engine
from mlxserve.engine.service import silent
from mlxserve.engine.warming import warm_passes
from mlxserve.model.finding import find
from mlxserve.ranks.frames import LinkBrokenError
from mlxserve.ranks.inboxes import FollowerInbox
from mlxserve.ranks.link import Links, follow
from mlxserve.resolved import Resolved
from mlxserve_hookspecs import MlxserveError, Rank

log = structlog.get_logger("mlxserve.ranks")
FLUSH_TIMEOUT = 10.0


def follow_leader(resolved: Resolved, rank: Rank, patience: float) -> int:
    """Join, load, and take rank 0's turns until it says that it was the last.

    Args:
        resolved: The run's settings, the same on every rank.
        rank: Which one this is.
        patience: Seconds to find rank 0.

    Returns:
        The exit status: 0 after rank 0's goodbye.
    """
    try:
        link = follow(rank, patience)
    except LinkBrokenError as error:
        raise MlxserveError(f"rank {rank.rank} finds no rank 0: {error}") from error
    # Signals may reach every rank; rank 0 drains, and says goodbye or is gone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    asked = resolved.distributed
    links = Links([link], asked.distributed_timeout_s, _leave, asked.distributed_step_timeout_s)
    links.watch()
    inbox = FollowerInbox(link=link, last=rank.rank == rank.size - 1)
    try:
        source = find(resolved.plugins, resolved.model.model, silent)
        built = build(resolved, source, silent, inbox, lambda _events: None)
    except MlxserveError as error:
        raise MlxserveError(f"rank {rank.rank}: {error}") from error
    warm_passes(built.engine)
    log.info("following", of=rank.size)
    links.loaded, links.age = True, lambda: inbox.age
    _step(built.engine, inbox)
    links.close()
    built.engine.scheduler.cache.close(FLUSH_TIMEOUT)
    return 0


def _step(engine: Engine, inbox: FollowerInbox) -> None:
    """Run until rank 0's goodbye, or end the process."""
    try:
        while not inbox.closed:
            engine.step()
    except Exception as error:
        log.exception("the engine stopped")
        _leave(f"{type(error).__name__}: {error}")


def _leave(reason: str) -> None:
    """End this process at once: its engine may wait in a collective for a rank that is gone."""
    log.error("the ranks cannot go on", reason=reason)
    os._exit(1)
