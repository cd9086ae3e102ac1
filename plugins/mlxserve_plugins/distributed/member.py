"""What the plugins of all backends do alike: be a rank, or launch ranks."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from attrs import define, field

from mlxserve_hookspecs import Group, Rank, RankPlan, hookimpl
from mlxserve_plugins.distributed import leash
from mlxserve_plugins.distributed.environment import (
    Membership,
    refuse_half_a_rank,
    take_membership,
)
from mlxserve_plugins.distributed.local import UnavailableError


def _membership() -> Membership | None:
    return take_membership(os.environ)


@define
class Member:
    """This process as one of several, or as the one that starts them."""

    membership: Membership | None = field(factory=_membership)

    def launch(self, plan: RankPlan, run: Callable[[], int]) -> int | None:
        """Return what ``run`` returns, or ``None`` where this process is to serve.

        Raises:
            SettingError: What was asked for contradicts itself, or cannot be had and the plan is
                strict.
        """
        if self.membership:
            return None
        refuse_half_a_rank(os.environ)
        try:
            return run()
        except UnavailableError as error:
            if plan.strict:
                raise
            sys.stderr.write(f"mlxserve: warning: {error}; going on with one rank\n")
            return None

    def rank(self) -> Rank | None:
        """Return which rank this is; from now on it ends with its launcher."""
        if self.membership is None:
            return None
        if self.membership.leash is not None:
            leash.hold(self.membership.leash)
        return self.membership.rank


@define
class Backend(ABC):
    """A plugin that runs a model on several ranks.

    Attributes:
        name: The backend's, in MLX's words.
        member: Whether this process is a rank already.
    """

    name: ClassVar[str]
    member: Member = field(factory=Member, kw_only=True)

    @hookimpl
    def launch_ranks(self, argv: Sequence[str], plan: RankPlan) -> int | None:
        """Launch, unless this is a rank already."""
        return self.member.launch(plan, lambda: self.run_ranks(argv, plan))

    @hookimpl
    def this_rank(self) -> Rank | None:
        """Answer with what the launcher left."""
        return self.member.rank()

    @hookimpl
    def join_group(self) -> Group | None:
        """Join the others; they may take a while."""
        if self.member.membership is None:
            return None
        import mlx.core as mx  # noqa: PLC0415 - heavy

        return mx.distributed.init(strict=True, backend=self.name)

    @abstractmethod
    def run_ranks(self, argv: Sequence[str], plan: RankPlan) -> int:
        """Run all ranks; return the status of the whole.

        Raises:
            SettingError: What was asked for contradicts itself, or cannot be had.
        """
