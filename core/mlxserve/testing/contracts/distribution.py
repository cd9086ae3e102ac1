"""The contract of a distributed backend, as far as one process can tell."""

from collections.abc import Mapping

import pytest
from pluggy import PluginManager

from mlxserve.loading import register
from mlxserve.testing.contracts.base import Contract, call
from mlxserve_hookspecs import Rank, RankPlan, SettingError
from mlxserve_hookspecs.distribution import join_group, launch_ranks, this_rank


class RanksContract(Contract):
    """Of ``launch_ranks``, ``this_rank`` and ``join_group``: who is not asked stays out of the way.

    Override ``environment`` with what a rank of two finds, to have that read too.
    """

    hooks = (launch_ranks, this_rank, join_group)

    @pytest.fixture
    def environment(self) -> Mapping[str, str] | None:
        """Return the variables that a launcher leaves for rank 1 of 2."""
        return None

    @pytest.mark.parametrize("ranks", [None, 1], ids=["unsaid", "one"])
    def test_one_rank_is_not_launched(self, manager: PluginManager, ranks: int | None) -> None:
        """Without several ranks ``launch_ranks`` passes, or says in one line what it lacks."""
        refusal: SettingError | None = None
        found = None
        try:
            found = call(manager, launch_ranks, argv=("run",), plan=RankPlan(local_ranks=ranks))
        except SettingError as error:
            refusal = error
        assert found is None
        assert refusal is None or (str(refusal) and "\n" not in str(refusal))

    def test_alone_is_no_rank(self, manager: PluginManager) -> None:
        """Without a launcher ``this_rank`` passes."""
        assert call(manager, this_rank) is None

    def test_alone_joins_no_group(self, manager: PluginManager) -> None:
        """Without other ranks ``join_group`` passes, and waits for nobody."""
        assert call(manager, join_group) is None

    @pytest.fixture
    def a_rank(
        self,
        environment: Mapping[str, str] | None,
        monkeypatch: pytest.MonkeyPatch,
        request: pytest.FixtureRequest,
    ) -> PluginManager:
        """Return a manager with the plugin, made in a process that a launcher started."""
        if environment is None:
            pytest.skip("`environment` is not overridden")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return register({"plugin": request.getfixturevalue("plugin")})

    def test_rank_is_one_of_the_ranks(self, a_rank: PluginManager) -> None:
        """A rank reads from its environment which one it is; its secret is not shown."""
        found = call(a_rank, this_rank)
        assert isinstance(found, Rank)
        assert (found.rank, found.size) == (1, 2)
        assert found.secret
        assert found.secret not in repr(found)

    def test_a_rank_launches_no_ranks(self, a_rank: PluginManager) -> None:
        """A process that is a rank already passes on ``launch_ranks``."""
        assert call(a_rank, launch_ranks, argv=("run",), plan=RankPlan(local_ranks=2)) is None
