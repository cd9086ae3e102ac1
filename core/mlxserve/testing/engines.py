"""An engine in this process, with plugin objects of a test beside the default set."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from attrs import define, evolve, field, frozen

from mlxserve.cli.resolution import resolve
from mlxserve.engine.service import EngineService
from mlxserve.hooks import Manager, failures
from mlxserve.loading import installed, register
from mlxserve.resolved import Resolved
from mlxserve.testing.logs import log_plainly
from mlxserve_hookspecs import (
    PROJECT,
    EngineClient,
    Finish,
    GenerationEvent,
    GenerationRequest,
    SamplingParams,
    StopConditions,
)

HERE: Final = ("--host", "127.0.0.1")
"""Nobody else reaches it."""

START_S: Final = 120.0
"""Seconds to a loaded model."""

GLANCE_S: Final = 0.2
"""Seconds between two looks at whether the engine still runs."""

T = TypeVar("T")
_ids = itertools.count()


@frozen
class Reply:
    """One choice of a request, once it has ended."""

    events: tuple[GenerationEvent, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """Every token of it."""
        return tuple(token for event in self.events for token in event.tokens)

    @property
    def text(self) -> str:
        """All of its text."""
        return "".join(event.text for event in self.events)

    @property
    def finish(self) -> Finish:
        """How it ended."""
        return next(event.finish for event in self.events if event.finish)


class Loop:
    """An event loop on a thread of its own, for engines whose tests are no coroutines."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="mlxserve-testing")
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout: float = START_S) -> T:
        """Run ``work`` there and return what it returns.

        Raises:
            TimeoutError: It took longer than ``timeout`` seconds.
        """
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def close(self) -> None:
        """End what is left, then the thread."""
        self.run(self._end_tasks())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _end_tasks(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()


@define(eq=False)
class RunningEngine:
    """A loaded engine on its thread.

    Attributes:
        resolved: Its settings and plugins.
        service: Its owner.
        loop: Where its requests are served.
    """

    resolved: Resolved
    service: EngineService
    loop: Loop = field(factory=Loop)

    @property
    def client(self) -> EngineClient:
        """The engine as API surfaces see it; its requests are served on ``loop``."""
        return self.service.client

    def start(self) -> None:
        """Load the model and warm up.

        Raises:
            MlxserveError: Whatever ended the start.
        """
        self.service.attach(self.loop.loop)
        self.service.start()
        if not self.service.loaded.wait(START_S):
            raise TimeoutError(f"the engine was not loaded within {START_S:g} s")
        if self.service.failure is not None:
            raise self.service.failure

    def stop(self) -> None:
        """Drain, and end all threads."""
        self.service.drain(10.0)
        self.service.stop()
        self.loop.close()

    def request(
        self, prompt: str | Sequence[int], max_tokens: int = 8, **changes: Any
    ) -> GenerationRequest:
        """Return a greedy request that goes on past the end of sequence.

        Args:
            prompt: Text, or token ids.
            max_tokens: Tokens of the reply.
            changes: Other fields of ``GenerationRequest``.
        """
        tokens = self.client.text.encode(prompt) if isinstance(prompt, str) else prompt
        fields: dict[str, Any] = {
            "id": f"test-{next(_ids)}",
            "prompt": tuple(tokens),
            "sampling": SamplingParams(temperature=0.0),
            "stop": StopConditions(max_tokens=max_tokens, ignore_eos=True),
        }
        return GenerationRequest(**(fields | changes))

    def reply(self, prompt: str | Sequence[int], max_tokens: int = 8, **changes: Any) -> Reply:
        """Serve one request, made as by ``request``; return its first choice.

        Raises:
            RequestError: It was refused.
        """
        return self.replies(self.request(prompt, max_tokens, **changes))[0]

    def replies(self, *requests: GenerationRequest) -> list[Reply]:
        """Serve ``requests`` at once; return the first choice of each, in their order.

        Raises:
            RequestError: One was refused.
            RuntimeError: The engine stopped.
        """
        return self.loop.run(self._all(requests))

    @property
    def plugin_errors(self) -> Mapping[tuple[str, str], int]:
        """How often a plugin raised what it should not have, by plugin and hook."""
        return failures(self.resolved.plugins)

    async def _all(self, requests: Sequence[GenerationRequest]) -> list[Reply]:
        tasks = [asyncio.ensure_future(self._one(request)) for request in requests]
        while not all(task.done() for task in tasks):
            await asyncio.wait(tasks, timeout=GLANCE_S, return_when=asyncio.FIRST_EXCEPTION)
            if self.service.failure is not None:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                raise RuntimeError("the engine stopped") from self.service.failure
        return [task.result() for task in tasks]

    async def _one(self, request: GenerationRequest) -> Reply:
        stream: AsyncIterator[Sequence[GenerationEvent]] = self.client.generate(request)
        events = [event async for some in stream for event in some]
        return Reply(tuple(event for event in events if event.choice == 0))


@contextmanager
def running_engine(
    plugins: Sequence[object], model: Path, words: Sequence[str] = ()
) -> Iterator[RunningEngine]:
    """Run an engine of ``model`` until the block ends.

    ``preparing`` is not told: mlx is long since imported where tests run.

    Raises:
        MlxserveError: A mistake in ``words``, or a plugin that does not fit.
    """
    log_plainly()
    resolved = resolved_with(plugins, ("--model", str(model), *HERE, *without_tiers(words), *words))
    engine = RunningEngine(resolved, EngineService(resolved))
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()


def without_tiers(words: Sequence[str]) -> tuple[str, ...]:
    """Return words that turn off the default set's cache tiers but for those that ``words`` name.

    Nothing of a test is kept, and nothing of another run is found.
    """
    found = installed(cast(EntryPoints, entry_points()))
    said = {name for word in words for name in word.split(",")}
    tiers = [
        name
        for name in found.default
        if name not in said
        and hasattr(getattr(found.load(name), "make_cache_tier", None), f"{PROJECT}_impl")
    ]
    return ("--plugins", ",".join(f"no:{name}" for name in tiers)) if tiers else ()


def resolved_with(plugins: Sequence[object], words: Sequence[str]) -> Resolved:
    """Return the settings of ``mlxserve run`` with ``words``, and ``plugins`` asked first.

    Of a class that is given, the default set's own plugin does not run. The environment is not
    read: a developer's own settings change no test.

    Raises:
        MlxserveError: A mistake in ``words``, or a plugin that does not fit.
    """
    found = installed(cast(EntryPoints, entry_points()))
    resolved, _ = resolve(words, {}, found, argv=("run", *words))
    given = {f"given-{at}": plugin for at, plugin in enumerate(plugins)}
    manager = resolved.plugins
    others = {
        name: plugin
        for name in resolved.names
        if not isinstance(plugin := manager.get_plugin(name), tuple(map(type, plugins)))
    }
    distributions = manager.distributions if isinstance(manager, Manager) else {}
    return evolve(
        resolved,
        plugins=register({**given, **others}, distributions),
        names=(*given, *others),
    )
