"""The body of ``mlxserve run``: from resolved settings to the exit status."""

import asyncio
import os
import socket
import sys
from collections.abc import Callable

from mlxserve.hooks import ask, tell
from mlxserve.resolved import Resolved
from mlxserve.serve.address import listen
from mlxserve.serve.lifecycle import Lifecycle
from mlxserve.serve.logging import RequestLog, configure_logging
from mlxserve.serve.progress import make_progress
from mlxserve.serve.service import Service
from mlxserve_hookspecs import distribution, lifecycle


def run(resolved: Resolved) -> int:
    """Serve until a signal comes; return the exit status.

    The port is taken before anything slow happens, and is answered while the model loads.

    Raises:
        MlxserveError: A user's mistake: a port in use, a model that is not there.
    """
    status = ask(resolved.plugins, distribution.launch_ranks)(argv=resolved.argv)
    if status is not None:
        return status
    configure_logging(resolved.logging, sys.stderr)
    with listen(resolved.server.host, resolved.server.port) as listener:
        tell(resolved.plugins, lifecycle.preparing)()
        from mlxserve.engine.service import EngineService  # noqa: PLC0415 - after preparing

        progress = make_progress(sys.stderr)
        service = EngineService(resolved, progress)
        return serve(resolved, service, listener, on_loaded=progress.close)


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
    resolved.plugins.register(RequestLog(), "request-log")
    run_of_it = Lifecycle(
        resolved=resolved,
        service=service,
        listener=listener,
        on_loaded=on_loaded,
        leave=leave or leave_at_once,
    )
    return asyncio.run(run_of_it.main())


def leave_at_once(status: int) -> None:
    """End the process without waiting for the engine's thread, which may be far from a pause."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
