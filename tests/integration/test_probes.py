"""What operators look at."""

from collections.abc import Callable

from .live import AT_REST, LiveServer

GAUGES = {*AT_REST, "free_blocks", "cache_hit_rate", "dist_fatal", "shutdown_clean"}


def test_probes_say_that_all_is_well(tiny: LiveServer) -> None:
    tiny.rest()
    assert tiny.get("/livez").json() == {"status": "alive", "reasons": []}
    assert tiny.get("/readyz").json() == {"status": "ready", "reasons": []}
    health = tiny.get("/health").json()
    assert health["status"] == "ok"
    assert (health["running"], health["waiting"], health["used_blocks"]) == (0, 0, 0)
    assert health["total_blocks"] == 2048


def test_metrics_have_the_documented_names_and_count_a_request(tiny: LiveServer) -> None:
    tiny.rest()
    before = tiny.metrics()
    assert before.keys() >= GAUGES
    assert before["shutdown_clean"] == 1
    assert before["dist_fatal"] == 0
    tokens = tiny.post("/tokenize", prompt="count me, please").json()["count"]
    tiny.post("/v1/completions", prompt="count me, please", max_tokens=7, ignore_eos=True)
    tiny.rest()
    after = tiny.metrics()
    grown = {
        "mlxserve_requests_received_total": 1,
        "mlxserve_request_success_total{length}": 1,
        "mlxserve_request_prompt_tokens_sum": tokens,
        "mlxserve_request_generation_tokens_sum": 7,
        "mlxserve_time_to_first_token_seconds_count": 1,
    }
    assert {name: after[name] - before.get(name, 0) for name in grown} == grown
    assert after["free_blocks"] == before["free_blocks"]


def test_the_cache_shows_what_it_holds_and_forgets_it_when_told(tiny: LiveServer) -> None:
    prompt = "remember these words until you are told to forget them " * 4
    asked = {"prompt": prompt, "max_tokens": 2, "temperature": 0}
    tiny.post("/v1/completions", **asked)
    tiny.rest()
    held = tiny.get("/v1/cache/stats").json()
    assert held["cached_blocks"] > 0
    assert held["used_blocks"] == 0
    assert "ram" in held["tiers"]
    warm = tiny.post("/v1/completions", **asked).json()
    assert warm["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert tiny.post("/v1/cache/clear").json()["total"] >= held["cached_blocks"]
    cold = tiny.post("/v1/completions", **asked).json()
    assert cold["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert cold["choices"][0]["text"] == warm["choices"][0]["text"]


def test_the_schema_page_describes_what_is_served(tiny: LiveServer) -> None:
    paths = tiny.get("/schema/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/livez"} <= paths.keys()


def test_each_request_leaves_one_line_in_the_log_and_none_of_its_words(tiny: LiveServer) -> None:
    answer = tiny.post("/v1/completions", prompt="xyzzy plugh", max_tokens=3, ignore_eos=True)
    tiny.rest()
    lines = [line for line in tiny.said.splitlines() if answer.json()["id"] in line]
    assert len(lines) == 1
    assert '"completion_tokens": 3' in lines[0]
    assert "xyzzy" not in tiny.said


def test_speculation_shows_what_it_guessed_and_changes_no_word(
    serve: Callable[..., LiveServer], tiny: LiveServer
) -> None:
    server = serve("--spec-decode", "ngram", "--no-spec-decode-dynamic")
    asked = {"prompt": "one two one two one two", "max_tokens": 40, "temperature": 0}
    guessed = server.post("/v1/completions", **asked, ignore_eos=True).json()
    plain = tiny.post("/v1/completions", **asked, ignore_eos=True).json()
    assert guessed["choices"][0]["text"] == plain["choices"][0]["text"]
    figures = server.get("/v1/spec_decode/metrics").json()
    assert figures["mode"] == "ngram"
    assert 0 <= figures["num_accepted_tokens"] <= figures["num_draft_tokens"] > 0
    drafted = server.metrics()["mlxserve_spec_decode_num_draft_tokens_total"]
    assert drafted == figures["num_draft_tokens"]
