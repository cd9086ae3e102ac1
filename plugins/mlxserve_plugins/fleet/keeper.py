"""Which models are loaded: on demand, within the budget, the least recently used leaving first."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeAlias

from attrs import define, field

from mlxserve_hookspecs import MlxserveError, RequestError
from mlxserve_plugins.bench.watch import resident
from mlxserve_plugins.fleet.child import Child, StartError
from mlxserve_plugins.fleet.file import GB, FleetFile
from mlxserve_plugins.fleet.models import Model

Tell: TypeAlias = Callable[[float], Awaitable[None]]
"""Told, now and then, how many seconds a request has waited for its model."""

LOOK_S: Final = 1.0
"""Seconds between two looks at who is idle and at what memory is used."""

STOPPING: Final = RequestError(status=503, message="the server is shutting down", retry_after=5.0)


@define(eq=False)
class Keeper:
    """Loads and unloads. Event loop only.

    One model at a time looks for room, in the order in which they were first asked for; who has
    room loads beside others. A model that has to leave gets no more requests and answers those
    that it has.

    Attributes:
        file: What may be used.
        make: Makes a process that is not started yet, of its words and the leash.
        models: By name.
        stopping: Whether the front is about to end.
    """

    file: FleetFile
    make: Callable[[tuple[str, ...], int], Child] = Child
    models: Mapping[str, Model] = field(init=False)
    stopping: bool = False
    _room: asyncio.Lock = field(factory=asyncio.Lock)
    _changed: asyncio.Event = field(factory=asyncio.Event)
    _tasks: set["asyncio.Task[Any]"] = field(factory=set)
    _leash: tuple[int, int] = field(factory=os.pipe)

    def __attrs_post_init__(self) -> None:
        """Make the models."""
        self.models = {
            name: Model(
                name,
                table,
                self.file.keep_alive if table.keep_alive is None else table.keep_alive,
            )
            for name, table in self.file.models.items()
        }

    @asynccontextmanager
    async def lease(self, model: Model, tell: Tell) -> AsyncIterator[str]:
        """Yield the address of a server of ``model``, which stays there until the block ends.

        Raises:
            RequestError: The model cannot be had now.
        """
        model.requests += 1
        if model.table.url is not None:
            yield model.table.url.rstrip("/").removesuffix("/v1")
            return
        model.waiting += 1
        try:
            child = await self._served(model, tell)
            child.users += 1
        finally:
            model.waiting -= 1
        model.used_at = time.monotonic()
        try:
            yield child.url
        finally:
            child.users -= 1
            model.used_at = time.monotonic()
            self._pulse()

    async def look_after(self) -> None:
        """Measure what is loaded and unload what is idle, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            for model in self.models.values():
                await measure(model)
                idle = model.idle
                if 0 < model.keep_alive < idle:
                    say(f"{model.name} was idle for {idle:.0f} s: it is unloaded")
                    self._go(self._unload(model))
            if self._room.locked() or (victim := self._victim()) is None:
                continue
            if self._taken() > self._budget and len(self._alive()) > 1:
                say(f"{victim.name} leaves: the models take more memory than they were to")
                self._go(self._unload(victim))

    async def stop(self) -> None:
        """Unload everything; replies that are not finished are cut off."""
        self.stopping = True
        children = [model.child for model in self._alive() if model.child]
        await asyncio.gather(*(child.stop() for child in children))
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def kill(self) -> None:
        """End every process at once."""
        for model in self._alive():
            if model.child is not None:
                model.child.kill()

    # -- one model ---------------------------------------------------------------------------------

    async def _served(self, model: Model, tell: Tell) -> Child:
        begun = time.monotonic()
        while True:
            if self.stopping:
                raise STOPPING
            if model.child is not None and model.child.ready:
                return model.child
            if model.opening is None:
                if refusal := model.refusal():
                    raise refusal
                model.opening = self._go(self._open(model))
            opening = model.opening
            while not opening.done():
                await asyncio.wait({opening}, timeout=self.file.keepalive_s)
                if not opening.done():
                    await tell(time.monotonic() - begun)
            if refused := opening.result():
                raise refused

    async def _open(self, model: Model, *, again: bool = False) -> RequestError | None:
        """Load a model, unless nobody waits for it any more; return why it could not be."""
        try:
            async with self._room:
                if not (model.waiting or again):
                    return None
                await self._until(lambda: model.child is None)
                await self._make_room(model)
                child = model.child = self.make(self.file.command(model.name), self._leash[0])
            model.loads += 1
            say(f"loading {model.name}")
            await child.start(self.file.load_timeout_s)
            await measure(model)
            self._check_size(model)
        except StartError as error:
            await self._abandon(model)
            say(f"{model.name} could not be loaded: {error}")
            return model.unavailable(model.failed(str(error)))
        else:
            model.loaded()
            say(f"{model.name} is ready")
            self._go(self._watch(model, child))
            return None
        finally:
            model.opening = None
            self._pulse()

    async def _abandon(self, model: Model) -> None:
        if model.child is not None:
            await model.child.stop()
            model.child = None

    async def _watch(self, model: Model, child: Child) -> None:
        """Wait for the end of a server; start it again after a pause if nobody asked for that."""
        status = await child.ended()
        model.child = None
        self._pulse()
        if child.leaving:
            model.unloads += 1
            return
        model.crashes += 1
        wait = model.failed(f"its server ended with status {status}; it is started again")
        say(f"{model.name} ended with status {status}; it is started again in {wait:g} s")
        await asyncio.sleep(wait)
        fits = self._taken() + self._need(model) <= self._budget
        if fits and model.child is None and model.opening is None and not self.stopping:
            model.opening = self._go(self._open(model, again=True))

    async def _unload(self, model: Model) -> None:
        """End a model's server when it has answered what it was asked."""
        child = model.child
        if child is None or child.leaving:
            return
        child.leaving = True
        await self._until(lambda: child.users == 0)
        await child.stop()
        await self._until(lambda: model.child is not child)

    # -- the budget --------------------------------------------------------------------------------

    @property
    def _budget(self) -> float:
        budget = self.file.memory_budget_gb
        return float("inf") if budget is None else budget * GB

    def _need(self, model: Model) -> float:
        """Return what a model takes: all there is, as long as nobody knows."""
        need = model.need
        if need is not None:
            return need
        return 0 if self.file.memory_budget_gb is None else self._budget

    def _alive(self) -> list[Model]:
        return [model for model in self.models.values() if model.child is not None]

    def _taken(self) -> float:
        return sum(map(self._need, self._alive()))

    def _victim(self) -> Model | None:
        """Return who leaves first: the least recently used, idle ones before those at work."""
        able = [m for m in self._alive() if m.child and m.child.ready and not m.waiting]
        return min(able, key=lambda m: (m.in_use, m.used_at), default=None)

    async def _make_room(self, model: Model) -> None:
        while self._taken() + self._need(model) > self._budget:
            self._check_size(model)
            victim = self._victim()
            if victim is not None:
                say(f"{victim.name} leaves for {model.name}")
                await self._unload(victim)
            elif self._alive():
                await self._change()
            else:  # what was measured, with its margin, is a little more than there is
                return

    def _check_size(self, model: Model) -> None:
        if model.measured > self._budget:
            raise StartError(
                f"it takes {model.measured / GB:.2f} GB by itself, more than memory_budget_gb = "
                f"{self.file.memory_budget_gb:g}"
            )

    # -- waiting -----------------------------------------------------------------------------------

    def _go(self, work: "Coroutine[Any, Any, Any]") -> "asyncio.Task[Any]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _pulse(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self) -> None:
        await self._changed.wait()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._change()


async def measure(model: Model) -> None:
    """Look at the memory of a model's process, in another thread."""
    if model.child is not None and model.child.pid is not None and model.child.ready:
        with suppress(MlxserveError):  # it has just ended
            now = await asyncio.to_thread(resident, model.child.pid)
            model.measured = max(model.measured, now)


def say(what: str) -> None:
    """Tell the operator."""
    sys.stderr.write(f"mlxserve fleet: {what}\n")
    sys.stderr.flush()
