"""Choose how the ranks of a tensor-parallel run talk to each other.

Public, for a backend in a package of its own: ``member.Backend``, a plugin that lacks only
``run_ranks``; ``supervisor.supervise`` with its ``Command``, which runs one process for each rank
as one; ``environment.Membership``, what tells a process which rank it is, and ``member.Member``,
which reads it; ``local`` for ranks on this machine and ``hostfile`` for those on others.
"""

from collections.abc import Sequence
from typing import Literal

from attrs import define, frozen

from mlxserve_hookspecs import RankPlan, SettingError, hookimpl, option


@frozen
class DistributedOptions:
    """One model on several ranks: processes, GPUs or machines."""

    mode: Literal["off", "ring", "jaccl", "nccl"] = option(
        "off",
        "split the model over ranks that talk by TCP (ring), by RDMA over Thunderbolt (jaccl) "
        "or between NVIDIA GPUs (nccl)",
        flag="--distributed-mode",
        switches={"off": [], "ring": ["ring"], "jaccl": ["jaccl"], "nccl": ["nccl"]},
    )


@define
class DistributedMode:
    """Turns the plugin of a backend on; ranks without any backend are refused."""

    options: DistributedOptions

    @hookimpl(trylast=True)
    def launch_ranks(self, argv: Sequence[str], plan: RankPlan) -> int | None:
        """Launch nothing; asked last, so that a backend has had its chance."""
        del argv
        if self.options.mode == "off" and (plan.local_ranks or 1) > 1:
            raise SettingError(
                f"--num-local-ranks {plan.local_ranks} needs a backend between the ranks; "
                "add --distributed-mode ring (or nccl, with one GPU for each)"
            )
        return None
