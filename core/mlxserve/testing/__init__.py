"""What a plugin's author tests with: contracts, and engines and servers of a tiny model.

Subclass the contract of your plugin's family, and override its fixture ``plugin``:

    class TestMine(SchedulingPolicyContract):
        @pytest.fixture
        def plugin(self) -> Mine:
            return Mine(MineOptions())

The fixtures ``tiny_model``, ``engine_of``, ``server_of`` and ``process_of`` come with pytest's
plugin ``mlxserve``, which pytest finds by itself. mlx is imported by the first test that needs it.
"""

from mlxserve.testing.contracts import (
    CONTRACTS,
    AcceptanceRuleContract,
    AdaptationContract,
    AdmissionContract,
    CacheTierContract,
    Call,
    CommandsContract,
    ConstraintContract,
    Contract,
    DraftPlannerContract,
    EvictionPolicyContract,
    KvCodecContract,
    MarkupContract,
    ModelSourceContract,
    ObserverContract,
    OutputParserContract,
    ProposerContract,
    RanksContract,
    RoutesContract,
    SchedulingPolicyContract,
    StateStoreContract,
    StopConditionContract,
)
from mlxserve.testing.engines import Reply, RunningEngine, running_engine
from mlxserve.testing.models import write_model
from mlxserve.testing.processes import ServerProcess, serving, until
from mlxserve.testing.servers import RunningServer, running_server
from mlxserve.testing.texts import Bytes

__all__ = [
    "CONTRACTS",
    "AcceptanceRuleContract",
    "AdaptationContract",
    "AdmissionContract",
    "Bytes",
    "CacheTierContract",
    "Call",
    "CommandsContract",
    "ConstraintContract",
    "Contract",
    "DraftPlannerContract",
    "EvictionPolicyContract",
    "KvCodecContract",
    "MarkupContract",
    "ModelSourceContract",
    "ObserverContract",
    "OutputParserContract",
    "ProposerContract",
    "RanksContract",
    "Reply",
    "RoutesContract",
    "RunningEngine",
    "RunningServer",
    "SchedulingPolicyContract",
    "ServerProcess",
    "StateStoreContract",
    "StopConditionContract",
    "running_engine",
    "running_server",
    "serving",
    "until",
    "write_model",
]
