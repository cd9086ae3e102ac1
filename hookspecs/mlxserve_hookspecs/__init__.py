"""The contract: the hooks a plugin may implement, and the values that travel through them."""

from mlxserve_hookspecs.admission import Admission, Credentials, Identity
from mlxserve_hookspecs.arrays import Array, Dtype, Group
from mlxserve_hookspecs.caching import (
    Block,
    BlockArray,
    BlockKey,
    CacheLayout,
    CacheTier,
    EvictionPolicy,
    RemoteCacheTier,
    StateStore,
)
from mlxserve_hookspecs.commands import Command
from mlxserve_hookspecs.distribution import Rank, RankPlan
from mlxserve_hookspecs.engine import (
    Described,
    EngineClient,
    EngineStatus,
    Limits,
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
from mlxserve_hookspecs.events import (
    Finish,
    FinishReason,
    GenerationEvent,
    Pooled,
    TokenLogprob,
    Usage,
)
from mlxserve_hookspecs.generation import Constraint, StopCondition, StopReason
from mlxserve_hookspecs.lifecycle import Iteration
from mlxserve_hookspecs.markers import (
    PROJECT,
    HookChangeWarning,
    hook_version,
    hookimpl,
    hookspec,
)
from mlxserve_hookspecs.markup import CallFormat, Markup, OutputDelta, OutputParser, ReplyPart
from mlxserve_hookspecs.models import ModelSource, Progress
from mlxserve_hookspecs.offline import CommandHost, EngineBench, EngineFacts, StepCost, TurnCost
from mlxserve_hookspecs.options import METADATA_KEY, Option, option
from mlxserve_hookspecs.quantization import KvCodec, KvSide, PagedKvCodec, PlaneSpec, Side
from mlxserve_hookspecs.requests import (
    GenerationRequest,
    Pooling,
    SamplingParams,
    StopConditions,
)
from mlxserve_hookspecs.scheduling import Candidate, Load, SchedulingPhase, SchedulingPolicy
from mlxserve_hookspecs.serving import AppConfig, Route, Services
from mlxserve_hookspecs.speculation import (
    AcceptanceRule,
    Draft,
    DraftPlanner,
    DraftRequest,
    DraftRoom,
    HiddenStateProposer,
    HiddenStates,
    HostedModel,
    ModelHost,
    Proposer,
    TokenProposer,
    Verdict,
    Verification,
)
from mlxserve_hookspecs.words import WordFormat

__all__ = [
    "METADATA_KEY",
    "PROJECT",
    "AcceptanceRule",
    "Admission",
    "AppConfig",
    "Array",
    "Block",
    "BlockArray",
    "BlockKey",
    "CacheLayout",
    "CacheTier",
    "CallFormat",
    "Candidate",
    "Command",
    "CommandHost",
    "Constraint",
    "Credentials",
    "Described",
    "Draft",
    "DraftPlanner",
    "DraftRequest",
    "DraftRoom",
    "Dtype",
    "EngineBench",
    "EngineClient",
    "EngineFacts",
    "EngineStatus",
    "EvictionPolicy",
    "Finish",
    "FinishReason",
    "GenerationEvent",
    "GenerationRequest",
    "Group",
    "HiddenStateProposer",
    "HiddenStates",
    "HookChangeWarning",
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
    "PagedKvCodec",
    "PlaneSpec",
    "PluginError",
    "Pooled",
    "Pooling",
    "Progress",
    "Proposer",
    "Rank",
    "RankPlan",
    "RemoteCacheTier",
    "ReplyPart",
    "RequestError",
    "Route",
    "SamplingParams",
    "SchedulingPhase",
    "SchedulingPolicy",
    "Services",
    "SettingError",
    "Side",
    "StateStore",
    "StepCost",
    "StopCondition",
    "StopConditions",
    "StopReason",
    "TextCodec",
    "TokenLogprob",
    "TokenProposer",
    "TurnCost",
    "Usage",
    "Verdict",
    "Verification",
    "WordFormat",
    "hook_version",
    "hookimpl",
    "hookspec",
    "option",
]
