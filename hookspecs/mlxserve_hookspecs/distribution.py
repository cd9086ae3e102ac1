"""Hooks that spread a model over ranks."""

from collections.abc import Sequence

from mlxserve_hookspecs.arrays import Group
from mlxserve_hookspecs.markers import hookspec


@hookspec(firstresult=True)
def launch_ranks(argv: Sequence[str]) -> int | None:
    """Run ``mlxserve`` with these arguments once per rank and wait for all of them.

    **Ask.** The first plugin to answer is heard; its answer is the exit status of the whole.
    Return ``None`` when nothing is to be launched: one rank, or already a rank.

    Called once, on the main thread, before anything else happens and before mlx is imported.
    """


@hookspec(firstresult=True)
def join_group() -> Group | None:
    """Join the group of ranks that share the model.

    **Ask.** The first plugin to answer is heard; return ``None`` when there is one rank only.

    Called once at start, on the engine thread, before the model is loaded.
    """
