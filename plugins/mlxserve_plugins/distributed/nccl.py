"""Split a model over the NVIDIA GPUs of this machine."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final

from attrs import define

from mlxserve_hookspecs import RankPlan
from mlxserve_plugins.distributed.local import (
    LOOPBACK,
    UnavailableError,
    free_ports,
    run_here,
)
from mlxserve_plugins.distributed.member import Backend
from mlxserve_plugins.distributed.probe import Abilities, abilities

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"


@define
class Nccl(Backend):
    """Launches one rank for each GPU."""

    name: ClassVar[str] = "nccl"
    probe: Callable[[str], Abilities] = abilities

    def run_ranks(self, argv: Sequence[str], plan: RankPlan) -> int:
        """Run one for each GPU."""
        size = nccl_size(plan.local_ranks, self.probe("nccl"))
        port, control = free_ports(2)
        return run_here(argv, nccl_variables(size, port, os.environ), control)


def nccl_size(asked: int | None, has: Abilities) -> int:
    """Return how many ranks there are: one per GPU if nobody says.

    Raises:
        UnavailableError: There are not as many GPUs, or MLX has no NCCL.
    """
    if not has.is_available:
        raise UnavailableError(
            "--distributed-mode nccl needs MLX with CUDA, which this one is not; "
            "pip install 'mlxserve[cuda]', or use --distributed-mode ring"
        )
    size = has.gpus if asked is None else asked
    if size > has.gpus:
        raise UnavailableError(
            f"--num-local-ranks {size} needs a GPU for each rank, and MLX sees {has.gpus}"
        )
    if size < 2:  # noqa: PLR2004 - one rank has nobody to talk to
        said = "MLX sees" if asked is None else "--num-local-ranks is"
        raise UnavailableError(f"--distributed-mode nccl needs two GPUs or more, and {said} {size}")
    return size


def nccl_variables(size: int, port: int, environ: Mapping[str, str]) -> list[dict[str, str]]:
    """Return each rank's variables: where rank 0 is, and the GPU that this one has.

    Args:
        size: How many ranks.
        port: Where rank 0 meets the others.
        environ: Its ``CUDA_VISIBLE_DEVICES``, if set, is the list that GPUs are taken from.
    """
    visible = environ.get(VISIBLE, "")
    gpus = [gpu.strip() for gpu in visible.split(",")] if visible else list(map(str, range(size)))
    shared = {"NCCL_HOST_IP": LOOPBACK, "NCCL_PORT": str(port), "MLX_WORLD_SIZE": str(size)}
    return [{**shared, VISIBLE: gpus[at]} for at in range(size)]
