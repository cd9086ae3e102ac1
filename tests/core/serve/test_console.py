"""Log lines as a person at a terminal reads them."""

import re
from typing import Any

import pytest

from mlxserve.serve.console import ConsoleLines, split_label

DONE = {
    "event": "request finished",
    "endpoint": "POST /v1/chat/completions",
    "status": 200,
    "id": "r1",
    "choice": 0,
    "prompt_tokens": 36,
    "cached_tokens": 32,
    "completion_tokens": 12,
    "ttft_seconds": 0.0812,
    "tokens_per_s": 41.25,
    "reason": "stop",
}


@pytest.fixture
def render() -> Any:
    lines = ConsoleLines(colours=False, width=lambda: 80)

    def render(**event: Any) -> str:
        facts = {"timestamp": "11-25 17:22:06", "level": "info", "logger": "mlxserve.x"}
        return lines(None, "info", facts | event)

    return render


def test_a_request_is_read_from_endpoint_to_reason(render: Any) -> None:
    assert render(**DONE) == (
        "11-25 17:22:06 POST /v1/chat/completions 200  in 36 (32 cached)  out 12  TTFT 0.08 s"
        "  41.2 tokens/s  stop"
    )


def test_a_request_that_failed_says_what_is_known(render: Any) -> None:
    failed = DONE | {
        "level": "warning",
        "status": 503,
        "cached_tokens": 0,
        "completion_tokens": 0,
        "ttft_seconds": None,
        "tokens_per_s": None,
        "reason": "error",
        "error": "shutting_down",
        "choice": 1,
    }
    assert render(**failed) == (
        "11-25 17:22:06 warning POST /v1/chat/completions 503  in 36  out 0"
        "  error shutting_down  choice 1"
    )


def test_a_refusal_names_endpoint_status_reason_and_field(render: Any) -> None:
    facts = {"status": 400, "reason": "wrong_type", "request_id": "r1"}
    where = {"method": "POST", "path": "/v1/chat/completions"}
    told = render(event="request refused", field="messages[].content", **facts, **where)
    assert told == (
        "11-25 17:22:06 POST /v1/chat/completions 400  refused: wrong_type (messages[].content)"
    )
    assert render(event="request refused", **facts) == "11-25 17:22:06 400  refused: wrong_type"
    assert render(event="x", request_id="r1", **where) == "11-25 17:22:06 x"


def test_the_plan_is_a_table_under_one_heading(render: Any) -> None:
    digest = "b179c9523d0e6a0f98a330c7562b682750a6f8c8"
    rows = [
        render(event="plan", detail=f"model smol (x:{digest}:1) from /models/smol"),
        render(event="plan", detail="KV: plain in 30 layers; " + "46080 bytes a token, " * 4),
        render(event="plan", detail="fallback: eager: why"),
    ]
    assert rows[0].splitlines() == [
        "11-25 17:22:06 plan",
        "  model           smol (x:b179c9523d0e…:1) from /models/smol",
    ]
    first, second, *_ = rows[1].splitlines()
    assert first.startswith("  KV              plain in 30 layers;")
    assert second.startswith(" " * 18 + "4")
    assert max(map(len, rows[1].splitlines())) <= 80
    assert rows[2] == "  fallback        eager: why"
    assert render(event="hello") == "11-25 17:22:06 hello"
    assert render(event="plan", detail="KV: x").startswith("11-25 17:22:06 plan\n")


@pytest.mark.parametrize(
    ("detail", "label"),
    [
        ("cache tiers: ram", "cache tiers"),
        ("model a: b (x)", "model a"),
        ("model m (gguf:12) from x: y", "model"),
        ("word", "word"),
    ],
)
def test_a_row_of_the_plan_has_a_label(detail: str, label: str) -> None:
    assert split_label(detail)[0] == label


def test_facts_follow_the_event_and_others_are_named(render: Any) -> None:
    said = render(event="loading", what="a model", done=3, share=0.50001, level="warning")
    assert said == "11-25 17:22:06 warning loading  what='a model' done=3 share=0.50001"
    assert render(event="x", logger="urllib3.pool").endswith("urllib3.pool: x")


def test_a_traceback_follows_its_line(render: Any) -> None:
    assert render(event="x", exception="Traceback\n  ...") == "11-25 17:22:06 x\nTraceback\n  ..."


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (
            {"signal": "SIGINT", "running": 2, "waiting": 1},
            "waiting up to 30 s for 3 requests, then writing what is cached; "
            "Ctrl-C again ends at once and loses both",
        ),
        ({"signal": "SIGTERM", "running": 0, "waiting": 1}, "for 1 request, then"),
        ({"signal": "SIGTERM", "running": 0, "waiting": 1}, "a second signal ends at once"),
        ({"signal": "SIGINT", "running": 0, "waiting": 0}, "shutting down: writing what is cached"),
    ],
)
def test_a_shutdown_says_how_long_it_takes_and_what_a_second_press_does(
    render: Any, facts: dict[str, Any], words: str
) -> None:
    assert words in render(event="shutting down", timeout_s=30.0, **facts)


def test_colours_are_for_terminals_that_show_them() -> None:
    painted = ConsoleLines(colours=True)(
        None, "error", {"timestamp": "t", "level": "error", "event": "x"}
    )
    assert "\x1b[31;1merror\x1b[0m" in painted
    assert re.sub(r"\x1b\[[0-9;]*m", "", painted) == "t error x"
