"""What the loop needs of a cache, and the one that keeps nothing."""

from collections.abc import Iterable
from collections.abc import Sequence as Items
from typing import Protocol

from mlxserve.batch.sequence import Sequence
from mlxserve_hookspecs import CacheTier, StateStore


class Cache(Protocol):
    """What the loop needs of a cache; see ``BlockCache``."""

    @property
    def held(self) -> int: ...  # noqa: D102
    @property
    def tiers(self) -> Items[CacheTier]: ...  # noqa: D102
    @property
    def states(self) -> Items[StateStore]: ...  # noqa: D102

    def prepare(self, sequence: Sequence, leaders: Iterable[Sequence]) -> bool: ...  # noqa: D102
    def fill(self, sequence: Sequence) -> None: ...  # noqa: D102
    def forget(self, sequence: Sequence) -> None: ...  # noqa: D102
    def cut(self, sequence: Sequence) -> int | None: ...  # noqa: D102
    def keep(self, sequence: Sequence) -> None: ...  # noqa: D102
    def keep_state(self, sequence: Sequence, *, known: bool = False) -> None: ...  # noqa: D102
    def tick(self) -> None: ...  # noqa: D102
    def discard(self) -> None: ...  # noqa: D102
    def clear(self) -> dict[str, int]: ...  # noqa: D102
    def stats(self) -> dict[str, dict[str, float]]: ...  # noqa: D102
    def close(self, timeout: float) -> bool: ...  # noqa: D102


class NoCache:
    """Keeps nothing: for rows that have no blocks."""

    held = 0
    tiers: Items[CacheTier] = ()
    states: Items[StateStore] = ()

    def prepare(self, sequence: Sequence, leaders: Iterable[Sequence]) -> bool:
        """Let everybody in."""
        del sequence, leaders
        return True

    def fill(self, sequence: Sequence) -> None:
        """Find nothing."""

    def forget(self, sequence: Sequence) -> None:
        """Have nothing to let go of."""

    def cut(self, sequence: Sequence) -> int | None:
        """Pause nowhere."""
        del sequence
        return None

    def keep(self, sequence: Sequence) -> None:
        """Keep nothing."""

    def keep_state(self, sequence: Sequence, *, known: bool = False) -> None:
        """Keep nothing."""

    def tick(self) -> None:
        """Hand nothing down."""

    def discard(self) -> None:
        """Have nothing to drop."""

    def clear(self) -> dict[str, int]:
        """Forget nothing."""
        return {}

    def stats(self) -> dict[str, dict[str, float]]:
        """Return no figures."""
        return {}

    def close(self, timeout: float) -> bool:
        """Write nothing."""
        del timeout
        return True
