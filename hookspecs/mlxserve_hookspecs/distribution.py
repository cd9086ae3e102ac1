"""Hooks that spread a model over ranks."""

from collections.abc import Sequence

from attrs import field, frozen

from mlxserve_hookspecs.arrays import Group
from mlxserve_hookspecs.markers import hookspec


@frozen(kw_only=True)
class RankPlan:
    """What the user asked for, whatever the backend.

    Attributes:
        local_ranks: Ranks to start on this machine; ``None`` if not said.
        sharding: How the model is split; ``tensor``.
        strict: Refuse what cannot be had, instead of running on one rank.
    """

    local_ranks: int | None = None
    sharding: str = "tensor"
    strict: bool = True


@frozen(kw_only=True)
class Rank:
    """Which of several processes this one is.

    Attributes:
        rank: 0 serves HTTP; the others follow it.
        size: How many ranks.
        control: Where rank 0 listens for the others, as (host, port).
        secret: What a rank shows when it connects.
    """

    rank: int
    size: int
    control: tuple[str, int]
    secret: str = field(repr=False)


@hookspec(firstresult=True)
def launch_ranks(argv: Sequence[str], plan: RankPlan) -> int | None:
    """Run ``mlxserve`` with these arguments once per rank and wait for all of them.

    **Ask.** The first plugin to answer is heard; its answer is the exit status of the whole.
    Return ``None`` when nothing is to be launched: one rank, or already a rank.

    Called once, on the main thread, before anything else happens and before mlx is imported. A
    launcher passes signals on, lets no rank outlive it, and ends all when one ends badly.

    Raises:
        SettingError: What was asked for contradicts itself, or cannot be had here.
    """


@hookspec(firstresult=True)
def this_rank() -> Rank | None:
    """Say which rank this process is, from what its launcher left in the environment.

    **Ask.** The first plugin to answer is heard; return ``None`` when there is one rank only.

    Called once, on the main thread, before mlx is imported.
    """


@hookspec(firstresult=True)
def join_group() -> Group | None:
    """Join the group of ranks that share the model.

    **Ask.** The first plugin to answer is heard; return ``None`` when there is one rank only.

    Called once at start, on the engine thread, before the model is loaded. Waits for the others.
    """
