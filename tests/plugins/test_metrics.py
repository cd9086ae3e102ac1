import asyncio
from collections.abc import Iterable, Sequence

import pytest
from attrs import evolve
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mlxserve.hooks import tell
from mlxserve_hookspecs import (
    EngineStatus,
    Finish,
    Iteration,
    Pooling,
    RequestError,
    Usage,
    Verdict,
    hookimpl,
    lifecycle,
    speculation,
)
from mlxserve_plugins.admission import Admission, AdmissionOptions
from mlxserve_plugins.auth import Auth, AuthOptions
from mlxserve_plugins.metrics import Metrics
from mlxserve_plugins.metrics.collectors import Weighted, documented, totals
from mlxserve_plugins.metrics.endpoint import TierReader
from mlxserve_plugins.tools import Tools

from .openai.fake_engine import FakeText
from .scripted import CARD, IDLE, MakeStage, Stage, finish_of, request_of

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(stage: Stage) -> Samples:
    answer = stage.http.get("/metrics")
    assert answer.status_code == 200
    return flat(parse_text(answer.text))


def flat(families: Iterable[Metric]) -> Samples:
    """Return every sample by name and labels; a name that occurs twice is an error."""
    found: Samples = {}
    names = []
    for family in families:
        names.append(family.name)
        for sample in family.samples:
            found[(sample.name, frozenset(sample.labels.items()))] = sample.value
    assert len(names) == len(set(names))
    return found


def of(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


# -- the documented gauges -----------------------------------------------------------------------


def test_the_seven_documented_gauges_have_their_exact_names(make_stage: MakeStage) -> None:
    stage = make_stage(Metrics())
    stage.becomes(running=3, waiting=5, used_blocks=30, cached_blocks=20, total_blocks=100)
    found = scraped(stage)
    expected = {
        "active_sequences": 3,
        "queued_requests": 5,
        "used_blocks": 30,
        "free_blocks": 70,
        "cache_hit_rate": 0,
        "dist_fatal": 0,
        "shutdown_clean": 1,
    }
    assert {name: found[of(name)] for name in expected} == expected
    types = stage.http.get("/metrics").text
    assert all(f"# TYPE {name} gauge" in types for name in expected)


def test_dist_fatal_is_what_the_engine_counts() -> None:
    status = EngineStatus(ready=True, counters={"dist_fatal": 1.0})
    assert documented(status, 0.0, clean=True)["dist_fatal"][1] == 1.0
    assert not [m for m in totals(status.counters) if "dist_fatal" in m.name]


def test_the_hit_rate_is_cached_prompt_tokens_among_all_and_counts_a_prompt_once(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(Metrics())
    finished = tell(stage.plugins, lifecycle.request_finished)
    hit = finish_of(prompt=60, cached={"ram": 20, "ssd": 10})
    finished(request=request_of(choices=2), choice=0, finish=hit)
    finished(request=request_of(choices=2), choice=1, finish=hit)
    finished(request=request_of(), choice=0, finish=finish_of(prompt=40))
    found = scraped(stage)
    assert found[of("cache_hit_rate")] == pytest.approx(0.3)
    assert found[of("mlxserve_prefix_cache_queries_total")] == 100
    assert found[of("mlxserve_prefix_cache_hits_total", tier="ram")] == 20
    assert found[of("mlxserve_prefix_cache_hits_total", tier="ssd")] == 10
    assert found[of("mlxserve_request_prompt_tokens_count")] == 2
    assert found[of("mlxserve_request_generation_tokens_count")] == 3


def test_a_shutdown_that_cuts_a_reply_off_is_not_clean(make_stage: MakeStage) -> None:
    stage = make_stage(Metrics())
    cut = RequestError(status=503, message="", code="shutting_down")
    tell(stage.plugins, lifecycle.request_finished)(
        request=request_of(), choice=0, finish=finish_of(reason="error", error=cut)
    )
    found = scraped(stage)
    assert found[of("shutdown_clean")] == 0
    errors = of("mlxserve_request_errors_total", status="503", reason="shutting_down")
    assert found[errors] == 1


# -- what is counted -----------------------------------------------------------------------------


def test_latencies_go_into_vllms_histograms(make_stage: MakeStage) -> None:
    stage = make_stage(Metrics())
    request = request_of(max_tokens=77)
    tell(stage.plugins, lifecycle.request_received)(request=request)
    tell(stage.plugins, lifecycle.first_token)(request=request, seconds=0.75)
    finish = finish_of(11, queued=0.5, total=2.75)  # the first token at 0.75
    tell(stage.plugins, lifecycle.request_finished)(request=request, choice=0, finish=finish)
    found = scraped(stage)
    sums = {
        "time_to_first_token_seconds": 0.75,
        "e2e_request_latency_seconds": 2.75,
        "request_queue_time_seconds": 0.5,
        "request_prefill_time_seconds": 0.25,
        "request_decode_time_seconds": 2.0,
        "request_time_per_output_token_seconds": 0.2,
        "request_generation_tokens": 11,
        "request_params_max_tokens": 77,
    }
    for name, value in sums.items():
        assert found[of(f"mlxserve_{name}_sum")] == pytest.approx(value), name
        assert found[of(f"mlxserve_{name}_count")] == 1, name
    assert found[of("mlxserve_time_to_first_token_seconds_bucket", le="0.75")] == 1
    assert found[of("mlxserve_time_to_first_token_seconds_bucket", le="0.5")] == 0


def test_a_reply_without_a_token_is_timed_as_far_as_it_came(make_stage: MakeStage) -> None:
    stage = make_stage(Metrics())
    tell(stage.plugins, lifecycle.request_finished)(
        request=request_of(), choice=0, finish=finish_of(0, reason="cancelled", total=3.0)
    )
    found = scraped(stage)
    assert found[of("mlxserve_e2e_request_latency_seconds_sum")] == 3.0
    assert found[of("mlxserve_request_decode_time_seconds_count")] == 0


def test_iterations_count_their_tokens_and_time_each_of_them(make_stage: MakeStage) -> None:
    stage = make_stage(Metrics())
    heard = tell(stage.plugins, lifecycle.iteration_finished)
    heard(iteration=Iteration(seconds=0.02, prefilled=100, decoded=8, status=IDLE))
    heard(iteration=Iteration(seconds=0.3, prefilled=0, decoded=2, status=IDLE))
    heard(iteration=Iteration(seconds=9.0, prefilled=512, decoded=0, status=IDLE))
    found = scraped(stage)
    assert found[of("mlxserve_prefilled_tokens_total")] == 612
    assert found[of("mlxserve_decoded_tokens_total")] == 10
    assert found[of("mlxserve_engine_busy_seconds_total")] == pytest.approx(9.32)
    assert found[of("mlxserve_inter_token_latency_seconds_count")] == 10
    assert found[of("mlxserve_inter_token_latency_seconds_sum")] == pytest.approx(0.76)
    assert found[of("mlxserve_inter_token_latency_seconds_bucket", le="0.025")] == 8
    assert found[of("mlxserve_inter_token_latency_seconds_bucket", le="+Inf")] == 10


def test_speculation_is_counted(make_stage: MakeStage) -> None:
    stage = make_stage(Metrics())
    verdicts = [Verdict(uid=1, drafted=5, accepted=3), Verdict(uid=2, drafted=2, accepted=0)]
    tell(stage.plugins, speculation.drafts_verified)(verdicts=verdicts, seconds=0.1)
    found = scraped(stage)
    assert found[of("mlxserve_spec_decode_num_drafts_total")] == 2
    assert found[of("mlxserve_spec_decode_num_draft_tokens_total")] == 7
    assert found[of("mlxserve_spec_decode_num_accepted_tokens_total")] == 3


def test_refusals_are_counted_by_reason_with_other_plugins(make_stage: MakeStage) -> None:
    limits = AdmissionOptions(requests_per_minute=1)
    stage = make_stage(Metrics(), Auth(AuthOptions(api_key="sk-1")), Admission(limits))
    key = {"Authorization": "Bearer sk-1"}
    assert stage.http.post("/v1/generate").status_code == 401
    assert stage.http.post("/v1/generate", headers=key).status_code == 200
    assert stage.http.post("/v1/generate", headers=key).status_code == 429
    found = scraped(stage)
    name = "mlxserve_requests_rejected_total"
    assert found[of(name, status="401", reason="invalid_api_key", field="")] == 1
    assert found[of(name, status="429", reason="requests_per_minute", field="")] == 1
    assert found[of("mlxserve_requests_received_total")] == 1


def test_the_engines_totals_become_counters_and_endings_are_told_apart(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(Metrics())
    counters = {
        "preemptions": 2.0,
        "prompt_tokens": 50.0,
        "generation_tokens": 60.0,
        "failed_steps": 1.0,
        "finished_stop": 4.0,
        "finished_length": 3.0,
        "finished_cancelled": 2.0,
        "odd name!": 1.0,
    }
    stage.becomes(counters=counters, steps=9)
    found = scraped(stage)
    assert found[of("mlxserve_num_preemptions_total")] == 2
    assert found[of("mlxserve_prompt_tokens_total")] == 50
    assert found[of("mlxserve_generation_tokens_total")] == 60
    assert found[of("mlxserve_failed_steps_total")] == 1
    assert found[of("mlxserve_odd_name__total")] == 1
    assert found[of("mlxserve_engine_steps_total")] == 9
    assert found[of("mlxserve_request_success_total", finished_reason="stop")] == 4
    assert found[of("mlxserve_request_success_total", finished_reason="length")] == 3
    assert found[of("mlxserve_request_failure_total", finished_reason="cancelled")] == 2


@pytest.mark.parametrize(
    "name",
    [
        "spec_decode_num_drafts",
        "prefix_cache_hits",
        "requests_received",
        "engine_steps",
        "build",
        "engine_ready",
        "total_blocks",
        "inter_token_latency_seconds",
        "iteration_tokens",
        "e2e_request_latency_seconds",
        "num_preemptions",
        "request_success",
        "cache_tier",
    ],
)
def test_an_engine_total_of_a_name_that_is_taken_breaks_no_scrape(
    make_stage: MakeStage, name: str
) -> None:
    stage = make_stage(Metrics())
    stage.becomes(counters={name: 7.0, "preemptions": 1.0})
    families = [f.name for f in parse_text(stage.http.get("/metrics").text)]
    assert len(families) == len(set(families))


# -- the tiers -----------------------------------------------------------------------------------


def test_tiers_figures_are_shown_by_tier(make_stage: MakeStage) -> None:
    stage = make_stage(Metrics())
    stage.service.tiers = {"ram": {"held": 3.0}, "ssd": {"held": 4.0, "bytes_written": 5e9}}
    found = scraped(stage)
    assert found[of("mlxserve_cache_tier", tier="ram", figure="held")] == 3
    assert found[of("mlxserve_cache_tier", tier="ssd", figure="bytes_written")] == 5e9


def test_tiers_that_fail_do_not_fail_the_scrape(make_stage: MakeStage) -> None:
    stage = make_stage(Metrics())
    stage.service.tiers_fail = True
    assert of("active_sequences") in scraped(stage)


async def test_tiers_that_block_are_asked_once_and_their_last_figures_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import threading

    monkeypatch.setattr("mlxserve_plugins.metrics.endpoint.PATIENCE", 0.02)
    gate, asked = threading.Event(), 0

    def ask() -> dict[str, dict[str, float]]:
        nonlocal asked
        asked += 1
        gate.wait(10)
        return {"ram": {"held": float(asked)}}

    reader = TierReader(ask, {"ram": {"held": 0.0}})
    heard = await asyncio.gather(*(reader.read() for _ in range(5)))
    assert (heard, asked) == ([{"ram": {"held": 0.0}}] * 5, 1)
    gate.set()
    async with asyncio.timeout(10):
        while (await reader.read())["ram"]["held"] == 0.0:
            pass
    assert (await reader.read())["ram"]["held"] >= 2


# -- the endpoint --------------------------------------------------------------------------------


def test_a_scraper_gets_the_format_that_it_asks_for(make_stage: MakeStage) -> None:
    stage = make_stage(Metrics())
    tell(stage.plugins, lifecycle.started)(card=CARD, text=FakeText())
    stage.service.tiers = {"ram": {"held": 3.0}}
    stage.becomes(counters={"preemptions": 2.0, "finished_stop": 4.0})
    tell(stage.plugins, lifecycle.first_token)(request=request_of(), seconds=0.1)
    plain = stage.http.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert plain.headers.get_list("content-type")[0].count("charset=") == 1
    assert of("mlxserve_num_preemptions_total") in flat(parse_text(plain.text))
    accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    opened = stage.http.get("/metrics", headers=accept)
    assert opened.headers["content-type"].startswith("application/openmetrics-text")
    assert opened.headers["content-type"].count("charset=") == 1
    found = flat(parse_openmetrics(opened.text))  # type: ignore[no-untyped-call]
    assert found[of("mlxserve_num_preemptions_total")] == 2
    assert found[of("mlxserve_cache_tier", tier="ram", figure="held")] == 3
    (build,) = [dict(labels) for name, labels in found if name == "mlxserve_build_info"]
    assert build["model"] == "org/scripted"


def test_metrics_are_there_while_the_model_loads(make_stage: MakeStage) -> None:
    stage = make_stage(Metrics())
    stage.service.status = EngineStatus(ready=False)
    found = scraped(stage)
    assert found[of("mlxserve_engine_ready")] == 0
    assert found[of("free_blocks")] == 0


def test_texts_of_which_vectors_are_made_are_no_replies_and_miss_no_cache(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(Metrics())
    asked = evolve(request_of(), pooling=Pooling(lengths=(1, 2)))
    done = Finish(reason="stop", usage=Usage(prompt_tokens=3, completion_tokens=0))
    tell(stage.plugins, lifecycle.request_received)(request=asked)
    tell(stage.plugins, lifecycle.request_finished)(request=asked, choice=0, finish=done)
    found = scraped(stage)
    assert found[of("mlxserve_pooled_texts_total")] == 2
    assert found[of("mlxserve_requests_received_total")] == 1
    assert found[of("mlxserve_prefix_cache_queries_total")] == 0
    assert found[of("mlxserve_request_generation_tokens_count")] == 0
    assert found[of("mlxserve_request_prompt_tokens_sum")] == 3


def test_two_servers_in_one_process_do_not_share_figures(make_stage: MakeStage) -> None:
    one, other = make_stage(Metrics()), make_stage(Metrics())
    tell(one.plugins, lifecycle.request_received)(request=request_of())
    assert scraped(one)[of("mlxserve_requests_received_total")] == 1
    assert scraped(other)[of("mlxserve_requests_received_total")] == 0


def test_hooks_before_the_routes_are_harmless() -> None:
    metrics = Metrics()
    metrics.request_received(request_of())
    metrics.first_token(0.1)
    metrics.request_finished(request_of(), 0, finish_of())
    assert metrics.instruments is None


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 1.0, 1.5, 99.0]])
def test_a_weighted_histogram_equals_one_that_takes_values_one_by_one(
    values: Sequence[float],
) -> None:
    from prometheus_client import CollectorRegistry, Histogram

    bounds = (0.5, 1.0, 2.0)
    registry = CollectorRegistry()
    plain = Histogram("h", "h", buckets=bounds, registry=registry)
    weighted = Weighted("h", "h", bounds)
    for value in values:
        weighted.add(value, 3)
        for _ in range(3):
            plain.observe(value)

    def of_it(families: Iterable[Metric]) -> Samples:
        return {k: v for k, v in flat(families).items() if not k[0].endswith("_created")}

    assert of_it(weighted.collect()) == of_it(registry.collect())


def test_plugins_that_fail_are_counted_by_plugin_and_hook(make_stage: MakeStage) -> None:
    class Deaf:
        @hookimpl
        def first_token(self) -> None:
            raise ZeroDivisionError

        @hookimpl
        def admit(self) -> RequestError | None:
            raise ZeroDivisionError

    stage = make_stage(Metrics(), Deaf())
    assert "# TYPE mlxserve_plugin_errors_total counter" in stage.http.get("/metrics").text
    assert not [name for name, _ in scraped(stage) if name == "mlxserve_plugin_errors_total"]
    for _ in range(3):
        tell(stage.plugins, lifecycle.first_token)(request=request_of(), seconds=0.1)
    assert stage.http.post("/v1/generate").status_code == 500
    found = scraped(stage)
    name = "mlxserve_plugin_errors_total"
    assert found[of(name, plugin="plugin-1", hook="first_token")] == 3
    assert found[of(name, plugin="plugin-1", hook="admit")] == 1
    assert found[of("mlxserve_time_to_first_token_seconds_count")] == 3


def test_fields_that_were_not_taken_by_their_word_are_counted(make_stage: MakeStage) -> None:
    metrics = Metrics()
    stage = make_stage(metrics)
    for _ in range(2):
        metrics.request_adjusted("chat", "max_tokens", "clamped")
    name = "mlxserve_request_fields_adjusted_total"
    assert scraped(stage)[of(name, surface="chat", field="max_tokens", how="clamped")] == 2


def test_fields_at_fault_are_told_apart_as_long_as_they_are_few(make_stage: MakeStage) -> None:
    metrics = Metrics()
    stage = make_stage(metrics)
    for at in range(300):
        metrics.request_refused(400, "bad", f"field{at}")
    metrics.request_refused(400, "bad", "field7")
    found = scraped(stage)
    name = "mlxserve_requests_rejected_total"
    assert found[of(name, status="400", reason="bad", field="field7")] == 2
    assert found[of(name, status="400", reason="bad", field="other")] == 44
    assert len([sample for sample in found if sample[0] == name]) == 257


def test_what_plugins_count_is_shown_among_the_totals(make_stage: MakeStage) -> None:
    stage = make_stage(Metrics(), Tools())
    assert scraped(stage)[of("mlxserve_broken_tool_calls_total")] == 0
