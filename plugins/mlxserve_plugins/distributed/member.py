"""What the plugins of all backends do alike: be a rank, or launch ranks."""

import os
import sys
from collections.abc import Callable

from attrs import define, field

from mlxserve_hookspecs import Rank, RankPlan
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
