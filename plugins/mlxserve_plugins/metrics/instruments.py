"""What is measured. Stems are vLLM's, so that dashboards carry over."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)

from mlxserve_hookspecs import (
    EngineStatus,
    Finish,
    GenerationRequest,
    Iteration,
    ModelCard,
    Usage,
    Verdict,
)
from mlxserve_plugins.metrics.collectors import (
    Counts,
    EngineCollector,
    HookCollector,
    TierCollector,
    Weighted,
)

PREFIX: Final = "mlxserve_"
ERRORS: Final = "Errors of plugins in hooks, and of what they made"
DELAYS: Final = "Calls of plugins that others had to wait for"

TTFT_S: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0,
)  # fmt: skip
ITL_S: Final = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
    0.75, 1.0, 2.5, 5.0, 10.0, 40.0,
)  # fmt: skip
REQUEST_S: Final = (
    0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0,
    50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
)  # fmt: skip
TOKENS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)
CHOICES: Final = (1, 2, 5, 10, 20)
OTHER: Final = "other"
MOST_FIELDS: Final = 256
"""Names of fields at fault that are told apart: clients make some of them up."""

CUT_OFF: Final = "shutting_down"


class Instruments:
    """The figures of one server.

    Counters and histograms take any thread; the gauges are read from the engine's status when
    somebody looks.
    """

    def __init__(
        self,
        get_status: Callable[[], EngineStatus],
        get_hook_errors: Counts = dict,
        get_hook_delays: Counts = dict,
    ) -> None:
        self.registry = CollectorRegistry()
        self.tiers = TierCollector()
        self.itl = Weighted(
            f"{PREFIX}inter_token_latency_seconds",
            "Seconds of the iterations that brought tokens, once per token",
            ITL_S,
        )
        self._add_requests()
        self._add_latencies()
        self._add_tokens()
        self._model = Info(f"{PREFIX}build", "The server and its model", registry=self.registry)
        self._model.info({"version": version("mlxserve")})
        self._cached = self._prompted = 0
        self._cut_off = False
        self._fields: set[str] = set()
        self.registry.register(self.itl)
        self.registry.register(self.tiers)
        self.registry.register(HookCollector("plugin_errors", ERRORS, get_hook_errors))
        self.registry.register(HookCollector("plugin_delays", DELAYS, get_hook_delays))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        taken = {metric.name for metric in self.registry.collect()}
        self.registry.register(
            EngineCollector(get_status, self.cache_hit_rate, self.is_clean, taken)
        )

    def _add_requests(self) -> None:
        self._received = self._counter("requests_received", "Requests that were let in")
        self._refused = self._counter(
            "requests_rejected", "Requests that were refused", "status", "reason", "field"
        )
        self._adjusted = self._counter(
            "request_fields_adjusted",
            "Fields of requests that were ignored, clamped or read as another",
            "surface", "field", "how",
        )  # fmt: skip
        self._errors = self._counter(
            "request_errors", "Replies that ended with an error", "status", "reason"
        )
        self._choices = self._histogram("request_params_n", "Replies per request", CHOICES)
        self._max_tokens = self._histogram(
            "request_params_max_tokens", "max_tokens of requests", TOKENS
        )
        self._prompt_lengths = self._histogram(
            "request_prompt_tokens", "Prompt tokens of requests", TOKENS
        )
        self._reply_lengths = self._histogram(
            "request_generation_tokens", "Tokens of replies", TOKENS
        )

    def _add_latencies(self) -> None:
        self.ttft = self._histogram(
            "time_to_first_token_seconds", "From arrival to the first token", TTFT_S
        )
        self._per_token = self._histogram(
            "request_time_per_output_token_seconds", "Mean of a reply's tokens but the first", ITL_S
        )
        self._total = self._histogram(
            "e2e_request_latency_seconds", "From arrival to the end of a reply", REQUEST_S
        )
        self._queued = self._histogram(
            "request_queue_time_seconds", "From arrival to the first prefill", REQUEST_S
        )
        self._prefill = self._histogram(
            "request_prefill_time_seconds", "From the queue to the first token", REQUEST_S
        )
        self._decode = self._histogram(
            "request_decode_time_seconds", "From the first token to the last", REQUEST_S
        )

    def _add_tokens(self) -> None:
        self._prefilled = self._counter("prefilled_tokens", "Prompt tokens that were computed")
        self._pooled = self._counter("pooled_texts", "Texts of which vectors were made")
        self._decoded = self._counter("decoded_tokens", "Tokens that iterations brought")
        self._iteration = self._histogram(
            "iteration_tokens", "Tokens of an iteration, prompt and reply", TOKENS
        )
        self._busy = self._counter("engine_busy_seconds", "Seconds spent in iterations")
        self._queries = self._counter("prefix_cache_queries", "Prompt tokens looked up")
        self._hits = self._counter("prefix_cache_hits", "Prompt tokens found, by tier", "tier")
        self._drafts = self._counter("spec_decode_num_drafts", "Drafts that were verified")
        self._drafted = self._counter("spec_decode_num_draft_tokens", "Draft tokens verified")
        self._accepted = self._counter("spec_decode_num_accepted_tokens", "Draft tokens kept")

    # -- what happens ------------------------------------------------------------------------

    def name_model(self, card: ModelCard) -> None:
        """Name the model that is served."""
        self._model.info({"version": version("mlxserve"), "model": card.id})

    def received(self, request: GenerationRequest) -> None:
        """Count a request."""
        self._received.inc()
        self._choices.observe(request.choices)
        if request.pooling is None:
            self._max_tokens.observe(request.stop.max_tokens)

    def refused(self, status: int, code: str, field: str) -> None:
        """Count a refusal; its field too, as long as there are few of them."""
        if len(self._fields) < MOST_FIELDS:
            self._fields.add(field)
        shown = field if field in self._fields else OTHER
        self._refused.labels(str(status), code or OTHER, shown).inc()

    def adjusted(self, surface: str, field: str, how: str) -> None:
        """Count a field that was not taken by its word."""
        self._adjusted.labels(surface, field, how).inc()

    def finished(self, request: GenerationRequest, choice: int, finish: Finish) -> None:
        """Count and time one reply; its prompt counts once per request."""
        usage = finish.usage
        self._queued.observe(finish.queue_seconds)
        self._total.observe(finish.total_seconds)
        if request.pooling is None:
            self._reply_lengths.observe(usage.completion_tokens)
        if finish.first_token_seconds is not None:
            decode = max(finish.total_seconds - finish.first_token_seconds, 0.0)
            self._prefill.observe(max(finish.first_token_seconds - finish.queue_seconds, 0.0))
            self._decode.observe(decode)
            if usage.completion_tokens > 1:
                self._per_token.observe(decode / (usage.completion_tokens - 1))
        if finish.error is not None:
            self._errors.labels(str(finish.error.status), finish.error.code or "other").inc()
            self._cut_off = self._cut_off or finish.error.code == CUT_OFF
        if request.pooling is not None:
            self._prompt_lengths.observe(usage.prompt_tokens)
            self._pooled.inc(len(request.pooling.lengths) if finish.reason == "stop" else 0)
        elif choice == 0:
            self._prompt(usage)

    def iterated(self, iteration: Iteration) -> None:
        """Count and time one iteration."""
        self._busy.inc(iteration.seconds)
        self._prefilled.inc(iteration.prefilled)
        self._decoded.inc(iteration.decoded)
        self._iteration.observe(iteration.prefilled + iteration.decoded)
        self.itl.add(iteration.seconds, iteration.decoded)

    def verified(self, verdicts: Sequence[Verdict]) -> None:
        """Count guesses."""
        self._drafts.inc(len(verdicts))
        self._drafted.inc(sum(verdict.drafted for verdict in verdicts))
        self._accepted.inc(sum(verdict.accepted for verdict in verdicts))

    # -- what follows from it ----------------------------------------------------------------

    def cache_hit_rate(self) -> float:
        """Return the share of all prompt tokens that came from a cache."""
        return self._cached / self._prompted if self._prompted else 0.0

    def is_clean(self) -> bool:
        """Return whether no shutdown has cut a reply off."""
        return not self._cut_off

    def _prompt(self, usage: Usage) -> None:
        self._prompt_lengths.observe(usage.prompt_tokens)
        self._queries.inc(usage.prompt_tokens)
        self._prompted += usage.prompt_tokens
        self._cached += usage.cached_tokens
        for tier, tokens in usage.cached_by_tier.items():
            self._hits.labels(tier).inc(tokens)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}{name}", about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"{PREFIX}{name}", about, buckets=buckets, registry=self.registry)
