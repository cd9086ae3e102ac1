"""What holds of every plugin of a family: one class of tests for each."""

from mlxserve.testing.contracts.adapting import AdaptationContract
from mlxserve.testing.contracts.admission import AdmissionContract
from mlxserve.testing.contracts.base import Contract
from mlxserve.testing.contracts.caching import CacheTierContract, EvictionPolicyContract
from mlxserve.testing.contracts.commands import CommandsContract
from mlxserve.testing.contracts.distribution import RanksContract
from mlxserve.testing.contracts.generation import (
    ConstraintContract,
    MarkupContract,
    OutputParserContract,
)
from mlxserve.testing.contracts.lifecycle import ObserverContract
from mlxserve.testing.contracts.models import ModelSourceContract
from mlxserve.testing.contracts.quantization import KvCodecContract
from mlxserve.testing.contracts.scheduling import SchedulingPolicyContract
from mlxserve.testing.contracts.serving import Call, RoutesContract
from mlxserve.testing.contracts.speculation import (
    AcceptanceRuleContract,
    DraftPlannerContract,
    ProposerContract,
)
from mlxserve.testing.contracts.states import StateStoreContract
from mlxserve.testing.contracts.stopping import StopConditionContract

CONTRACTS: tuple[type[Contract], ...] = (
    AcceptanceRuleContract,
    AdaptationContract,
    AdmissionContract,
    CacheTierContract,
    CommandsContract,
    ConstraintContract,
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
"""Every contract there is."""

__all__ = [
    "CONTRACTS",
    "AcceptanceRuleContract",
    "AdaptationContract",
    "AdmissionContract",
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
    "RoutesContract",
    "SchedulingPolicyContract",
    "StateStoreContract",
    "StopConditionContract",
]
