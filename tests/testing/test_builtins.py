"""Every built-in keeps the contract of its family, as a stranger's plugin has to."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mlxserve.testing import (
    AcceptanceRuleContract,
    AdaptationContract,
    AdmissionContract,
    Bytes,
    CacheTierContract,
    Call,
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
from mlxserve.testing.suites import suite
from mlxserve_hookspecs import Markup, hookimpl
from mlxserve_plugins.admission import Admission, AdmissionOptions
from mlxserve_plugins.anthropic import Anthropic
from mlxserve_plugins.auth import Auth, AuthOptions
from mlxserve_plugins.bench import Bench
from mlxserve_plugins.cache_api import CacheApi
from mlxserve_plugins.dashboard import Dashboard
from mlxserve_plugins.distributed.environment import common, own
from mlxserve_plugins.distributed.jaccl import Jaccl, JacclOptions
from mlxserve_plugins.distributed.ring import Ring, RingOptions
from mlxserve_plugins.fcfs import Fcfs
from mlxserve_plugins.fleet import Fleet
from mlxserve_plugins.fused.offer import Offer
from mlxserve_plugins.gguf import Gguf, GgufOptions
from mlxserve_plugins.health import Health, HealthOptions
from mlxserve_plugins.hub import Hub
from mlxserve_plugins.kv_quant import KvQuant, KvQuantOptions
from mlxserve_plugins.launch import Launch
from mlxserve_plugins.metrics import Metrics
from mlxserve_plugins.ngram import Ngram, NgramOptions
from mlxserve_plugins.ollama import Ollama
from mlxserve_plugins.openai import OpenAi
from mlxserve_plugins.prediction import Prediction
from mlxserve_plugins.prefix_cache import PrefixCache
from mlxserve_plugins.priority import Priority, PriorityOptions
from mlxserve_plugins.repetition_guard import RepetitionGuard, RepetitionGuardOptions
from mlxserve_plugins.responses import Responses
from mlxserve_plugins.sequence_cache import SequenceCache, SequenceCacheOptions
from mlxserve_plugins.spec_decode import SpecDecode, SpecDecodeOptions
from mlxserve_plugins.ssd_tier import SsdTier, SsdTierOptions
from mlxserve_plugins.structured import Structured
from mlxserve_plugins.tools import Tools
from mlxserve_plugins.tools.choosing import markup_for

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": [1, "ü"], "deep": {}}}\n</tool_call>'

TestFcfs = suite(SchedulingPolicyContract, Fcfs)
TestPriority = suite(SchedulingPolicyContract, partial(Priority, PriorityOptions()))
TestPrefixCache = suite(EvictionPolicyContract, PrefixCache)
TestSequenceCache = suite(StateStoreContract, partial(SequenceCache, SequenceCacheOptions()))
TestNgram = suite(ProposerContract, partial(Ngram, NgramOptions()))
TestPrediction = suite(ProposerContract, Prediction)
TestRejectionRule = suite(AcceptanceRuleContract, partial(SpecDecode, SpecDecodeOptions()))
TestThresholdRule = suite(
    AcceptanceRuleContract, partial(SpecDecode, SpecDecodeOptions(acceptance="threshold"))
)
TestPlanner = suite(DraftPlannerContract, partial(SpecDecode, SpecDecodeOptions()))
TestFixedPlanner = suite(
    DraftPlannerContract,
    partial(SpecDecode, SpecDecodeOptions(dynamic=False, adaptive_k=False)),
)
TestSpecDecodeListens = suite(ObserverContract, partial(SpecDecode, SpecDecodeOptions()))
TestToolsListens = suite(ObserverContract, Tools)
TestMetricsListens = suite(ObserverContract, Metrics)
TestDashboardListens = suite(ObserverContract, Dashboard)
TestHealthListens = suite(ObserverContract, partial(Health, HealthOptions()))
TestAdmissionListens = suite(ObserverContract, partial(Admission, AdmissionOptions()))
TestAdmission = suite(AdmissionContract, partial(Admission, AdmissionOptions()))
TestAuth = suite(
    AdmissionContract, partial(Auth, AuthOptions(api_key="sk-the-right-key-of-this-server"))
)
TestBench = suite(CommandsContract, Bench)
TestFleet = suite(CommandsContract, Fleet)
TestLaunch = suite(CommandsContract, Launch)
TestSsdCommand = suite(CommandsContract, SsdTier)
TestToolsMarkup = suite(MarkupContract, Tools, template="<tool_call>{{ tools }}</tool_call>")

TestOpenAi = suite(RoutesContract, OpenAi, call=Call("POST", "/v1/chat/completions", CHAT))
TestCompletions = suite(
    RoutesContract,
    OpenAi,
    call=Call("POST", "/v1/completions", {"model": "tiny", "prompt": "hi", "max_tokens": 2}),
)
TestModels = suite(RoutesContract, OpenAi, call=Call("GET", "/v1/models"))
TestAnthropic = suite(RoutesContract, Anthropic, call=Call("POST", "/v1/messages", CHAT))
TestResponses = suite(
    RoutesContract,
    Responses,
    call=Call("POST", "/v1/responses", {"model": "tiny", "input": "hi", "max_output_tokens": 16}),
)
TestOllama = suite(
    RoutesContract,
    Ollama,
    call=Call("POST", "/api/chat", {**CHAT, "stream": False, "options": {"num_predict": 2}}),
)
TestCacheApi = suite(RoutesContract, CacheApi, call=Call("GET", "/v1/cache/stats"))
TestHealth = suite(
    RoutesContract, partial(Health, HealthOptions()), call=Call("GET", "/health"), public=True
)
TestRepetitionGuard = suite(
    StopConditionContract,
    partial(RepetitionGuard, RepetitionGuardOptions("stop")),
    ended=[7, 8, 9] * 500,
    whole=range(4000),
)


class Folding:
    """The part of fused-layers that a CPU can run, offered though it does not pay there."""

    @hookimpl
    def adapt_model(self, model: Any) -> Offer:
        return Offer(model, None, folds=True)


class TestFolding(AdaptationContract):
    @pytest.fixture
    def plugin(self) -> Folding:
        return Folding()

    @pytest.fixture
    def model(self, tiny_model: Path) -> Any:
        from mlx.nn.layers.quantized import quantize
        from mlx_lm.utils import load_model

        model = load_model(tiny_model)[0]
        quantize(model)
        return model


class TestSsdTier(CacheTierContract):
    @pytest.fixture
    def plugin(self, tmp_path: Path) -> SsdTier:
        return SsdTier(SsdTierOptions(cache_dir=tmp_path, min_free_gb=0.0))


class TestSsdStates(StateStoreContract):
    @pytest.fixture
    def plugin(self, tmp_path: Path) -> SsdTier:
        return SsdTier(SsdTierOptions(cache_dir=tmp_path, min_free_gb=0.0))


class TestKvQuant(KvCodecContract):
    @pytest.fixture(params=[(8, "dequantize"), (8, "quantized"), (4, "quantized")], ids=str)
    def plugin(self, request: pytest.FixtureRequest) -> KvQuant:
        bits, attention = request.param
        return KvQuant(KvQuantOptions(bits=bits, attention=attention))


class TestStructured(ConstraintContract):
    @pytest.fixture
    def plugin(self) -> Structured:
        return Structured()

    @pytest.fixture
    def demand(self) -> Mapping[str, Any]:
        shape = {
            "type": "object",
            "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 150}},
            "required": ["age"],
            "additionalProperties": False,
        }
        return {"type": "json_schema", "json_schema": {"name": "person", "schema": shape}}

    @pytest.fixture
    def good(self) -> str:
        return '{"age": 42}'

    @pytest.fixture
    def bad(self) -> str:
        return '{"age": "old"}'


class TestTools(OutputParserContract):
    @pytest.fixture
    def plugin(self) -> Tools:
        return Tools()

    @pytest.fixture
    def text(self) -> Bytes:
        markup: Markup = markup_for(Bytes(), "", "hermes", "think")
        return Bytes(markup)

    @pytest.fixture
    def replies(self) -> Sequence[str]:
        return (
            f"<think>Let me see.</think>I look. {CALL}\n{CALL} Soon.",
            CALL,
            "<think>Nothing",
            "No call at all.",
        )


class TestHub(ModelSourceContract):
    @pytest.fixture
    def plugin(self) -> Hub:
        return Hub()

    @pytest.fixture
    def known(self, tiny_model: Path) -> str:
        return str(tiny_model)

    @pytest.fixture
    def missing(self, tmp_path: Path) -> str:
        return str(tmp_path)


class TestGguf(ModelSourceContract):
    @pytest.fixture
    def plugin(self, tmp_path: Path) -> Gguf:
        return Gguf(GgufOptions(tmp_path / "cache", "float32"))

    @pytest.fixture
    def known(self, tmp_path: Path) -> str:
        from ..plugins.sources.conftest import SHAPE, TinyGguf, llama_tensors

        made = TinyGguf(tensors=llama_tensors(), numbers=dict(SHAPE))
        return str(made.write(tmp_path / "tiny.gguf"))

    @pytest.fixture
    def missing(self, tmp_path: Path) -> str:
        return str(tmp_path / "nowhere.gguf")


class _OutsideOfRanks(RanksContract):
    @pytest.fixture(autouse=True)
    def clean(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MLX_RANK", raising=False)

    @pytest.fixture
    def environment(self) -> Mapping[str, str]:
        return {**common(2, ("127.0.0.1", 32323)), **own(1)}


class TestRing(_OutsideOfRanks):
    @pytest.fixture
    def plugin(self) -> Ring:
        return Ring(RingOptions())


class TestJaccl(_OutsideOfRanks):
    @pytest.fixture
    def plugin(self) -> Jaccl:
        return Jaccl(JacclOptions())
