"""Resume recurrent and hybrid models: keep their state at the ends of prompts and replies."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Literal, TypeAlias

from attrs import define, field, frozen
from attrs.validators import ge

from mlxserve_hookspecs import Array, BlockKey, CacheLayout, StateStore, hookimpl, option

State: TypeAlias = tuple[Array | bytes, ...]


@frozen
class SequenceCacheOptions:
    """State checkpoints of recurrent layers."""

    size: int = option(50, "max cached sequence states", flag="--sequence-cache-size", check=ge(1))


@define
class SequenceCache:
    """The second turn of a chat on a hybrid model does not prefill from zero."""

    options: SequenceCacheOptions

    @hookimpl
    def make_state_store(self, layout: CacheLayout) -> StateStore | None:
        """Answer for models with state."""
        return RamStates(self.options.size) if layout.state else None


@define(eq=False)
class RamStates:
    """Checkpoints as device arrays, least recently used go first."""

    size: int
    name: str = "sequence"
    medium: Literal["device", "host"] = "device"
    evicted: int = 0
    _states: OrderedDict[bytes, tuple[BlockKey, State]] = field(factory=OrderedDict)

    def lookup(self, keys: Sequence[BlockKey]) -> int:
        """Return the longest prefix whose state is here."""
        for count in range(len(keys), 0, -1):
            held = self._states.get(keys[count - 1].hash)
            if held is not None and held[0] == keys[count - 1]:
                return count
        return 0

    def fetch(self, key: BlockKey) -> Future[State | None]:
        """Return the state at once."""
        future: Future[State | None] = Future()
        self._states.move_to_end(key.hash)
        future.set_result(self._states[key.hash][1])
        return future

    def store(self, key: BlockKey, state: State) -> Sequence[tuple[BlockKey, State]]:
        """Take a state; return what gave way."""
        self._states[key.hash] = (key, state)
        self._states.move_to_end(key.hash)
        return self.shrink(len(self._states) - self.size)

    def shrink(self, states: int) -> Sequence[tuple[BlockKey, State]]:
        """Drop the least recently used."""
        count = min(max(states, 0), len(self._states))
        self.evicted += count
        return [self._states.popitem(last=False)[1] for _ in range(count)]

    def clear(self) -> int:
        """Forget everything."""
        count = len(self._states)
        self._states.clear()
        return count

    def stats(self) -> Mapping[str, float]:
        """Return totals and the present count."""
        return {"states": len(self._states), "evicted": self.evicted}

    def close(self) -> None:
        """Drop everything."""
        self._states.clear()
