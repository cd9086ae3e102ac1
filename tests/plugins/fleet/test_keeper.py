"""Who is loaded, who leaves and who waits, with processes that only pretend."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
from attrs import define, field

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.fleet import keeper, models
from mlxserve_plugins.fleet.child import Child, StartError
from mlxserve_plugins.fleet.file import GB, FleetFile, ModelTable
from mlxserve_plugins.fleet.keeper import Keeper

NAMES = ("a", "b", "c")


@define(eq=False)
class Pretended(Child):
    """A child without a process."""

    world: "World" = field(kw_only=True)
    name: str = field(kw_only=True)
    gone: asyncio.Event = field(factory=asyncio.Event, kw_only=True)
    status: int = 0

    @property
    def pid(self) -> int | None:
        return next(number for number, child in self.world.pids.items() if child is self)

    async def start(self, timeout: float) -> None:
        self.world.seen.append(f"+{self.name}")
        await asyncio.sleep(0.01)
        if self.name in self.world.broken:
            raise StartError("its weights are torn")
        self.url = f"http://{self.name}"
        self.world.most = max(self.world.most, len(self.world.alive()))

    async def ended(self) -> int:
        await self.gone.wait()
        return self.status

    async def stop(self) -> None:
        assert self.users == 0
        self.leaving = True
        self.world.seen.append(f"-{self.name}")
        self.gone.set()

    def crash(self) -> None:
        self.status = -11
        self.gone.set()


@define
class World:
    """What happened to the children."""

    seen: list[str] = field(factory=list)
    broken: set[str] = field(factory=set)
    pids: dict[int, Pretended] = field(factory=dict)
    sizes: dict[str, int] = field(factory=dict)
    most: int = 0
    numbers: "count[int]" = field(factory=lambda: count(1))

    def make(self, words: tuple[str, ...], leash: int) -> Child:
        name = words[words.index("--served-model-name") + 1]
        child = Pretended(words, leash, world=self, name=name)
        self.pids[next(self.numbers)] = child
        return child

    def size(self, pid: int) -> int:
        return self.sizes.get(self.pids[pid].name, 0)

    def alive(self) -> list[Pretended]:
        return [child for child in self.pids.values() if child.url and not child.gone.is_set()]

    def child(self, name: str) -> Pretended:
        return next(child for child in self.alive() if child.name == name)


Kept = Callable[..., "Awaitable[tuple[Keeper, World]]"]


@pytest.fixture
async def kept(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kept]:
    """Return a function that makes a keeper of three models of one gigabyte each."""
    made: list[Keeper] = []

    async def make(
        budget: float | None = 2.0, each: float | None = 1.0, **more: Any
    ) -> tuple[Keeper, World]:
        world = World()
        tables = {name: ModelTable(model=name, memory_gb=each) for name in NAMES}
        file = FleetFile(models=tables, memory_budget_gb=budget, **more)
        monkeypatch.setattr(keeper, "resident", world.size)
        made.append(Keeper(file, world.make))
        return made[-1], world

    yield make
    for each in made:
        await each.stop()


async def silent(_: float) -> None:
    return


async def use(of: Keeper, *names: str) -> None:
    for name in names:
        async with of.lease(of.models[name], silent) as url:
            assert url == f"http://{name}"


async def test_the_least_recently_used_leaves_and_no_more(kept: Kept) -> None:
    it, world = await kept()
    await use(it, "a", "b", "a", "c", "a", "c", "b")
    assert world.seen == ["+a", "+b", "-b", "+c", "-a", "+b"]
    assert world.most == 2


async def test_many_at_once_load_a_model_once(kept: Kept) -> None:
    it, world = await kept()
    await asyncio.gather(*(use(it, name) for name in "abababab"))
    assert sorted(world.seen) == ["+a", "+b"]


async def test_nobody_leaves_in_mid_reply_and_who_waits_has_its_turn(kept: Kept) -> None:
    it, world = await kept(budget=1.0)
    async with of(it, "a"):
        waiting = asyncio.create_task(use(it, "b"))
        await asyncio.sleep(0.02)
        assert it.models["a"].state == "unloading"
        late = asyncio.create_task(use(it, "a"))  # no way round who waits already
        await asyncio.sleep(0.02)
        assert world.seen == ["+a"]
        assert not waiting.done()
    await asyncio.gather(waiting, late)
    assert world.seen == ["+a", "-a", "+b", "-b", "+a"]
    assert world.most == 1


async def test_all_models_at_once_within_room_for_one_are_all_served(kept: Kept) -> None:
    it, world = await kept(budget=1.0)
    await asyncio.wait_for(asyncio.gather(*(use(it, n) for n in "abcabcabc")), 10)
    assert world.most == 1
    assert world.seen.count("+a") == 1


async def test_who_left_before_there_was_room_is_not_loaded_for(kept: Kept) -> None:
    it, world = await kept(budget=1.0)
    async with of(it, "a"):
        first, second = (asyncio.create_task(use(it, name)) for name in "bc")
        await asyncio.sleep(0.02)
        second.cancel()
    await first
    await use(it, "b")
    assert "+c" not in world.seen


async def test_a_model_that_nobody_sized_is_measured_alone_first(kept: Kept) -> None:
    it, world = await kept(budget=2.0, each=None)
    world.sizes = {name: round(0.7 * GB) for name in NAMES}
    await use(it, "a", "b", "a", "b", "c")
    # Each had to be alone once; two that are known fit together.
    assert world.seen == ["+a", "-a", "+b", "+a", "-a", "-b", "+c"]
    assert world.most == 2


async def test_a_model_that_is_larger_than_all_there_is_says_so(kept: Kept) -> None:
    it, world = await kept(budget=2.0, each=None)
    world.sizes = {"a": 3 * GB}
    with pytest.raises(RequestError, match=r"takes 3\.00 GB by itself, more than memory_budget_gb"):
        await use(it, "a")
    assert it.models["a"].state == "failed"
    await use(it, "b")


async def test_a_failed_start_is_told_and_not_tried_again_at_once(kept: Kept) -> None:
    it, world = await kept()
    world.broken = {"a"}
    for _ in range(3):
        with pytest.raises(RequestError, match="its weights are torn") as caught:
            await use(it, "a")
        assert caught.value.status == 503
        assert caught.value.headers["Retry-After"] == "1"
    assert world.seen.count("+a") == 1
    assert it.models["a"].state == "failed"
    await use(it, "b")


async def test_a_crashed_model_comes_back_by_itself_and_the_others_stay(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "FIRST_BACK_OFF_S", 0.05)
    it, world = await kept()
    await use(it, "a", "b")
    world.child("a").crash()
    await asyncio.sleep(0.01)
    assert it.models["a"].state == "failed"
    with pytest.raises(RequestError, match="ended with status -11") as caught:
        await use(it, "a")
    assert caught.value.status == 503
    await asyncio.sleep(0.2)
    assert {model.name: model.state for model in it.models.values()}["a"] == "ready"
    assert world.seen == ["+a", "+b", "+a"]
    assert it.models["a"].crashes == 1


async def test_each_crash_makes_the_pause_longer(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    it, _ = await kept()
    model = it.models["a"]
    assert [model.failed("again") for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_an_idle_model_is_unloaded_and_one_at_work_is_not(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LOOK_S", 0.01)
    it, world = await kept(keep_alive=0.05)
    care = asyncio.create_task(it.look_after())
    await use(it, "a")
    async with of(it, "b"):
        await asyncio.sleep(0.3)
        assert it.models["a"].state == "unloaded"
        assert it.models["b"].state == "ready"
    assert world.seen == ["+a", "+b", "-a"]
    care.cancel()


async def test_more_memory_than_was_said_makes_the_oldest_leave(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LOOK_S", 0.01)
    it, world = await kept()
    await use(it, "a", "b")
    world.sizes = {"b": round(1.5 * GB)}
    care = asyncio.create_task(it.look_after())
    await asyncio.sleep(0.2)
    assert world.seen == ["+a", "+b", "-a"]
    care.cancel()


async def test_who_waits_is_told_now_and_then(kept: Kept) -> None:
    it, _ = await kept(keepalive_s=0.002)
    told: list[float] = []

    async def tell(waited: float) -> None:
        told.append(waited)

    async with it.lease(it.models["a"], tell):
        assert told == sorted(told) != []


@asynccontextmanager
async def of(it: Keeper, name: str) -> AsyncIterator[str]:
    async with it.lease(it.models[name], silent) as url:
        yield url
