"""The contract: the hooks a plugin may implement, and the values that travel through them."""

from mlxserve_hookspecs.admission import Admission, Credentials, Identity
from mlxserve_hookspecs.arrays import Array, Dtype, Group
from mlxserve_hookspecs.caching import (
    Block,
    BlockKey,
    CacheLayout,
    CacheTier,
    GroupSpec,
    StateStore,
)
from mlxserve_hookspecs.commands import Command
from mlxserve_hookspecs.distribution import Rank, RankPlan
from mlxserve_hookspecs.engine import (
    Described,
    EngineClient,
    EngineStatus,
    Limits,
    Markup,
    ModelCard,
    TextCodec,
)
from mlxserve_hookspecs.errors import (
    MlxserveError,
    ModelError,
    PluginError,
    RequestError,
    SettingError,
)
from mlxserve_hookspecs.events import Finish, FinishReason, GenerationEvent, TokenLogprob, Usage
from mlxserve_hookspecs.generation import Constraint, OutputDelta, OutputParser
from mlxserve_hookspecs.lifecycle import Iteration
from mlxserve_hookspecs.markers import PROJECT, hookimpl, hookspec
from mlxserve_hookspecs.models import ModelSource, Progress
from mlxserve_hookspecs.options import METADATA_KEY, Option, option
from mlxserve_hookspecs.quantization import KvCodec, KvSide, PlaneSpec
from mlxserve_hookspecs.requests import GenerationRequest, SamplingParams, StopConditions
from mlxserve_hookspecs.scheduling import Candidate, Load, SchedulingPolicy
from mlxserve_hookspecs.serving import AppConfig, Route, Services
from mlxserve_hookspecs.speculation import (
    AcceptanceRule,
    Draft,
    DraftPlanner,
    DraftRequest,
    DraftRoom,
    HostedModel,
    ModelHost,
    Proposer,
    Verdict,
    Verification,
)

__all__ = [
    "METADATA_KEY",
    "PROJECT",
    "AcceptanceRule",
    "Admission",
    "AppConfig",
    "Array",
    "Block",
    "BlockKey",
    "CacheLayout",
    "CacheTier",
    "Candidate",
    "Command",
    "Constraint",
    "Credentials",
    "Described",
    "Draft",
    "DraftPlanner",
    "DraftRequest",
    "DraftRoom",
    "Dtype",
    "EngineClient",
    "EngineStatus",
    "Finish",
    "FinishReason",
    "GenerationEvent",
    "GenerationRequest",
    "Group",
    "GroupSpec",
    "HostedModel",
    "Identity",
    "Iteration",
    "KvCodec",
    "KvSide",
    "Limits",
    "Load",
    "Markup",
    "MlxserveError",
    "ModelCard",
    "ModelError",
    "ModelHost",
    "ModelSource",
    "Option",
    "OutputDelta",
    "OutputParser",
    "PlaneSpec",
    "PluginError",
    "Progress",
    "Proposer",
    "Rank",
    "RankPlan",
    "RequestError",
    "Route",
    "SamplingParams",
    "SchedulingPolicy",
    "Services",
    "SettingError",
    "StateStore",
    "StopConditions",
    "TextCodec",
    "TokenLogprob",
    "Usage",
    "Verdict",
    "Verification",
    "hookimpl",
    "hookspec",
    "option",
]
