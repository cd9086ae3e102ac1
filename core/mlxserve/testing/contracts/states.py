"""The contract of a store of recurrent state."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from attrs import evolve
from pluggy import PluginManager

from mlxserve.testing.contracts.base import Contract, added, is_word
from mlxserve.testing.contracts.caching import SETTLED_S, chain, layout_of, numbers
from mlxserve.testing.processes import until
from mlxserve_hookspecs import CacheLayout, StateStore
from mlxserve_hookspecs.caching import make_state_store

MANY = 8
SHAPES = ((4, 8), (2, 3))


class StateStoreContract(Contract):
    """Of ``make_state_store``: a checkpoint comes back as it was, or is said to be gone."""

    hooks = (make_state_store,)

    @pytest.fixture
    def layout(self) -> CacheLayout:
        """Return a layout with state."""
        return layout_of(state=tuple((shape, "F32") for shape in SHAPES))

    @pytest.fixture
    def states(self, manager: PluginManager, layout: CacheLayout) -> Iterator[StateStore]:
        """Return the store."""
        states = added(manager, make_state_store, layout=layout)
        yield states
        states.close()

    def test_name_is_a_word(self, states: StateStore) -> None:
        """``name`` is one word: metrics show it."""
        assert is_word(states.name)

    def test_medium_is_known(self, states: StateStore) -> None:
        """``medium`` is ``device`` or ``host``."""
        assert states.medium in ("device", "host")

    def test_nothing_is_found_at_first(self, states: StateStore) -> None:
        """A store does not have what nobody stored."""
        assert states.lookup(chain(3)) == 0

    def test_a_state_comes_back_as_it_was(self, states: StateStore) -> None:
        """What was stored is fetched bit for bit."""
        keys = chain(2)
        store(states, keys[-1], 3)
        until(lambda: states.lookup(keys) == 2, SETTLED_S, lambda: "not found")
        found = states.fetch(keys[-1]).result(SETTLED_S)
        assert found is not None
        assert plain(found) == plain(state_of(states, 3))

    def test_the_longest_prefix_counts(self, states: StateStore) -> None:
        """``lookup`` returns the largest n whose state is here, though n - 1 has none."""
        keys = chain(6)
        store(states, keys[1], 1)
        store(states, keys[4], 2)
        until(lambda: states.lookup(keys) == 5, SETTLED_S, lambda: str(states.lookup(keys)))
        assert states.lookup(keys[:4]) == 2
        assert states.lookup(keys[:1]) == 0

    def test_tokens_are_compared(self, states: StateStore) -> None:
        """A state of the same hash and other tokens is not found."""
        (key,) = chain(1)
        store(states, key, 1)
        until(lambda: states.lookup([key]) == 1, SETTLED_S, lambda: "not found")
        assert states.lookup([evolve(key, tokens=key.tokens[::-1])]) == 0

    def test_what_gives_way_is_handed_on(self, states: StateStore) -> None:
        """``shrink`` hands back at most as many as were asked for, which are not found after."""
        keys = [chain(1, 100 * at)[0] for at in range(MANY)]
        for at, key in enumerate(keys):
            store(states, key, at)
        given = states.shrink(3)
        assert len(given) <= 3
        for key, state in given:
            assert states.lookup([key]) == 0
            assert plain(state) == plain(state_of(states, keys.index(key)))

    def test_clear_forgets(self, states: StateStore) -> None:
        """``clear`` forgets every checkpoint and returns how many; none is found after."""
        keys = [chain(1, 100 * at)[0] for at in range(3)]
        for at, key in enumerate(keys):
            store(states, key, at)
            until(partial(states.lookup, [key]), SETTLED_S, lambda: "not found")
        assert states.clear() == 3
        assert [states.lookup([key]) for key in keys] == [0, 0, 0]

    def test_stats_are_numbers_by_name(self, states: StateStore) -> None:
        """``stats`` are finite numbers by name."""
        assert numbers(dict(states.stats()))


def state_of(states: StateStore, seed: int) -> tuple[Any, ...]:
    """Return a state in the form that the store is given."""
    import mlx.core as mx
    import numpy as np

    arrays = [mx.full(shape, seed + 0.5 * at) for at, shape in enumerate(SHAPES)]
    if states.medium == "device":
        return tuple(arrays)
    return tuple(np.array(array).tobytes() for array in arrays)


def store(states: StateStore, key: Any, seed: int) -> None:
    """Store a state after ``key``."""
    states.store(key, state_of(states, seed))


def plain(state: tuple[Any, ...]) -> list[Any]:
    """Return a state as what can be compared."""
    return [part if isinstance(part, bytes) else part.tolist() for part in state]
