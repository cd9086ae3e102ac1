"""An engine in this process, over HTTP on a free port."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from attrs import frozen

from mlxserve.resolved import Resolved
from mlxserve.serve.address import address_of, listen
from mlxserve.serve.app import build_app
from mlxserve.serve.lifecycle import make_server
from mlxserve.serve.service import Service
from mlxserve.testing.engines import Loop, running_engine

ANSWER_S = 60.0
"""Seconds to an answer."""


@frozen(eq=False)
class RunningServer:
    """A server that answers.

    Attributes:
        url: Where it answers, without a slash at the end.
        resolved: Its settings and plugins.
        service: Its engine's owner.
        http: A client of it.
    """

    url: str
    resolved: Resolved
    service: Service
    http: httpx.Client

    def get(self, path: str, **more: Any) -> httpx.Response:
        """Return the answer to ``GET path``; ``more`` as ``httpx.request`` takes it."""
        return self.call("GET", path, **more)

    def post(self, path: str, **body: object) -> httpx.Response:
        """Return the answer to ``POST path`` with a JSON object."""
        return self.call("POST", path, json=body)

    def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Return the answer to any request; ``more`` as ``httpx.request`` takes it."""
        return self.http.request(method, path, **more)


@contextmanager
def running_server(
    plugins: Sequence[object], model: Path, words: Sequence[str] = ()
) -> Iterator[RunningServer]:
    """Serve ``model`` until the block ends.

    Raises:
        MlxserveError: A mistake in ``words``, or a plugin that does not fit.
    """
    with (
        running_engine(plugins, model, words) as engine,
        serving_app(engine.resolved, engine.service, engine.loop) as server,
    ):
        yield server


@contextmanager
def serving_app(resolved: Resolved, service: Service, loop: Loop) -> Iterator[RunningServer]:
    """Serve the application of ``resolved`` over an engine until the block ends.

    Args:
        resolved: The settings and plugins.
        service: The engine's owner, attached to ``loop``; not started: it is loading.
        loop: Where requests are served.
    """
    with listen("127.0.0.1", 0) as listener:
        server = make_server(build_app(resolved, service))
        http = asyncio.run_coroutine_threadsafe(server.serve([listener]), loop.loop)
        url = address_of(listener).url
        client = httpx.Client(base_url=url, timeout=ANSWER_S, trust_env=False, verify=False)
        try:
            with client:
                yield RunningServer(url, resolved, service, client)
        finally:
            server.should_exit = True
            http.result(ANSWER_S)
