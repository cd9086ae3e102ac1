"""The page in a real browser."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from litestar import Request, post
from litestar.response import Stream

from mlxserve.hooks import tell
from mlxserve_hookspecs import EngineStatus, Iteration, RequestError, hookimpl, lifecycle
from mlxserve_plugins.auth import Auth, AuthOptions
from mlxserve_plugins.dashboard import Dashboard

from ..scripted import MakeStage, ScriptedService, Stage, finish_of, request_of, stage_of
from .browser import CHROMIUM, Page, open_page

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")

REPLY = (
    b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n',
    b'data: {"choices": [{"delta": {"content": "<b>Par"}}]}\n',
    b'\n: a comment\n\ndata: {"choices": [{"delta": {"content": "is\xc3',
    b'\xa9</b>"}, "finish_reason": "length"}]}\n\n',
    b'data: {"choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 3}}\n\n',
    b"data: [DONE]\n\n",
)


class Chat:
    """Answers every chat alike, in pieces that split events, lines and characters."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.keys: list[str | None] = []
        self.refuses: RequestError | None = None
        self.hangs = False
        self.replies: tuple[bytes, ...] = REPLY

    @hookimpl
    def routes(self, services: Any) -> list[Any]:
        @post("/v1/chat/completions", status_code=200)
        async def chat(request: Request[Any, Any, Any]) -> Stream:
            if self.refuses:
                raise self.refuses
            self.asked.append(await request.json())
            self.keys.append(request.headers.get("authorization"))
            return Stream(self.reply(), media_type="text/event-stream")

        return [chat]

    async def reply(self) -> AsyncIterator[bytes]:
        for piece in self.replies[:2] if self.hangs else self.replies:
            yield piece
            await asyncio.sleep(0.02)
        while self.hangs:
            await asyncio.sleep(0.02)


@contextmanager
def served(stage: Stage) -> Iterator[str]:
    """Serve the stage's application on a port of its own."""
    config = uvicorn.Config(
        stage.http.app,
        log_config=None,
        ws="none",
        lifespan="off",  # the stage has begun it
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.should_exit = True
            thread.join(10)


Browse = Callable[[Stage], Page]


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Browse]:
    """Return a function that opens the stage's page; what its script complains of fails a test."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def browse(stage: Stage) -> Page:
            url = stack.enter_context(served(stage))
            return stack.enter_context(open_page(url, tmp_path / "profile"))

        yield browse


def say(page: Page, text: str) -> None:
    page.run(f"document.querySelector('#message').value = {text!r}")
    page.run("document.querySelector('#send').click()")


def unlock(page: Page, key: str) -> None:
    page.run(f"document.querySelector('#secret').value = {key!r}")
    page.run("document.querySelector('#unlock').requestSubmit()")


def test_figures_show_what_the_server_does(make_stage: MakeStage, browse: Browse) -> None:
    stage = make_stage(
        Dashboard(),
        engine__max_batch_size=4,
        engine__max_queue_size=8,
    )
    stage.service.tiers = {"ram": {"blocks": 3.0}, "ssd": {"blocks": 40.0}}
    page = browse(stage)
    page.until("document.querySelector('#state').textContent === 'healthy'")
    assert page.text("#speed-empty") == "Nothing generated in the last two minutes"
    stage.becomes(running=3, waiting=2, used_blocks=25, cached_blocks=10)
    status = stage.service.status
    tell(stage.plugins, lifecycle.first_token)(request=request_of(), seconds=0.125)
    tell(stage.plugins, lifecycle.request_finished)(
        request=request_of(), choice=0, finish=finish_of(prompt=8, cached={"ssd": 4})
    )
    tell(stage.plugins, lifecycle.iteration_finished)(
        iteration=Iteration(seconds=0.05, prefilled=8, decoded=12, status=status)
    )
    page.until("document.querySelector('#running').textContent === '3'")
    page.until("document.querySelector('#speed-empty').hidden")
    assert page.text("#waiting") == "2"
    assert page.text("#room") == "up to 4 decode at once, 8 may wait"
    assert page.text("#load-top") == "peak 3 running, 2 waiting"
    assert page.text("#speed-top") == "peak 12 tokens/s"
    assert page.text("#ttft") == "125 ms"
    assert page.text("#itl") == "50 ms"
    assert page.text("#memory") == "25%"
    assert page.text("#memory-rows").split("\n") == [
        "requests",
        "25% · 25 blocks",
        "cache only",
        "10% · 10 blocks",
        "empty",
        "65% · 65 blocks",
    ]
    assert page.text("#ended") == "1"
    assert page.text("#slow tbody td:nth-child(5)") == "8 (4 cached)"
    assert page.text("#hits") == "50%"
    assert page.text("#hits-rows").split("\n")[:4] == [
        "ram (3 blocks)",
        "0%",
        "ssd (40 blocks)",
        "50%",
    ]
    assert page.run("document.querySelector('#speculation').hidden")
    assert "M" in page.run("document.querySelector('#speed-chart .a').getAttribute('d')")
    assert page.problems == []


def test_chat_streams_text_as_text(make_stage: MakeStage, browse: Browse) -> None:
    chat = Chat()
    page = browse(make_stage(Dashboard(), chat))
    page.until("!document.querySelector('#send').disabled")
    say(page, "Where?")
    page.until("document.querySelector('.turn .facts')")
    assert page.text(".turn.user") == "Where?"
    assert page.text(".turn .said") == "<b>Parisé</b>"
    assert page.text(".turn .facts").startswith("3 tokens · first after ")
    assert page.text(".turn .facts").endswith("cut off at max_tokens")
    say(page, "And then?")
    page.until("document.querySelectorAll('.turn .facts').length === 2")
    said = [(turn["role"], turn["content"]) for turn in chat.asked[1]["messages"]]
    assert said == [("user", "Where?"), ("assistant", "<b>Parisé</b>"), ("user", "And then?")]
    assert page.problems == []


def test_peaks_stay_within_their_chart(make_stage: MakeStage, browse: Browse) -> None:
    stage = make_stage(Dashboard())
    page = browse(stage)
    page.until("document.querySelector('#state').textContent === 'healthy'")
    for decoded in (7, 1000, 990):
        tell(stage.plugins, lifecycle.iteration_finished)(
            iteration=Iteration(
                seconds=0.05, prefilled=0, decoded=decoded, status=stage.service.status
            )
        )
    page.until("document.querySelector('#speed-empty').hidden")
    box = "document.querySelector('#speed-chart .a').getBBox()"
    assert page.run(f"{box}.y") >= 1
    assert page.run(f"{box}.y + {box}.height") <= 40.01
    label = "document.querySelector('#speed-top').getBoundingClientRect().bottom"
    chart = "document.querySelector('#speed-chart').getBoundingClientRect().top"
    assert page.run(f"{label} <= {chart} + 1")


def test_refusals_and_failures_are_shown_with_their_reasons(
    make_stage: MakeStage, browse: Browse
) -> None:
    stage = make_stage(Dashboard())
    for _ in range(3):
        tell(stage.plugins, lifecycle.request_refused)(status=429, code="queue_full", field="")
    error = RequestError(status=500, message="secret", code="engine_error")
    tell(stage.plugins, lifecycle.request_finished)(
        request=request_of(), choice=0, finish=finish_of(reason="error", error=error)
    )
    page = browse(stage)
    page.until("document.querySelector('#refused').textContent === '4'")
    assert page.text("#refused-rows").split("\n") == [
        "429 queue_full",
        "3",
        "failed: 500 engine_error",
        "1",
    ]
    assert page.run("document.querySelector('#refusals').classList.contains('alarm')")
    assert "secret" not in page.text("body")


def test_speculation_is_shown_where_it_is_on(make_stage: MakeStage, browse: Browse) -> None:
    page = browse(make_stage(Dashboard(), **{"spec-decode__mode": "ngram"}))
    page.until("document.querySelector('#state').textContent === 'healthy'")
    assert page.text("#drafts-rows") == "No drafts yet"


def test_what_is_wrong_is_said(make_stage: MakeStage, browse: Browse) -> None:
    stage = make_stage(Dashboard())
    stage.becomes(used_blocks=95, last_step_age=70.0)
    page = browse(stage)
    page.until("document.querySelector('#state').textContent === 'overloaded'")
    assert page.text("#notice") == (
        "one step has been running for 70 s; "
        "95% of the memory for KV is in use: requests are turned away"
    )


def test_a_server_that_is_gone_leaves_no_figure_that_looks_fresh(
    make_stage: MakeStage, tmp_path: Path
) -> None:
    stage = make_stage(Dashboard())
    stage.becomes(running=3)
    with served(stage) as url, open_page(url, tmp_path / "profile") as page:
        page.until("document.querySelector('#running').textContent === '3'")
        page.run("window.fetch = () => Promise.reject(new Error('gone')), 0")
        page.until("document.querySelector('#state').textContent === 'unreachable'")
        assert page.text("#running") == "\N{EN DASH}"
        assert page.text("#brief").startswith("as of ")
        assert "unreachable" in page.run("document.title")
        grey = "getComputedStyle(document.querySelector('.cards'))"
        assert page.run(f"{grey}.filter") == "grayscale(1)"
        assert float(page.run(f"{grey}.opacity")) < 0.6


MARKDOWN = """# Title

Some **bold _and_ soft** `code <b>` snake_case_name 2 * 3 * 4
on two lines.

- one
- two
  1. nested
  2. again

> quoted

| a | b |
|---|---|
| 1 | **2** |

```python
print("*not soft*")
```
[site](https://example.org/x) [bad](javascript:alert(1)) https://example.org/y.
<img src=x onerror=alert(1)>"""


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("h.querySelector('h3').textContent", "Title"),
        ("h.querySelector('strong').innerHTML", "bold <em>and</em> soft"),
        ("h.querySelector('p code').textContent", "code <b>"),
        ("h.querySelectorAll('em').length", 1),
        ("h.querySelectorAll('p')[0].querySelectorAll('br').length", 1),
        ("h.querySelectorAll('ul > li').length", 2),
        ("h.querySelectorAll('ul > li > ol > li').length", 2),
        ("h.querySelector('ul > li').textContent", "one"),
        ("h.querySelector('blockquote').textContent", "quoted"),
        ("[...h.querySelectorAll('td')].map((c) => c.innerHTML).join()", "1,<strong>2</strong>"),
        ("h.querySelector('pre code').textContent", 'print("*not soft*")'),
        (
            "[...h.querySelectorAll('a')].map((a) => a.href).join()",
            "https://example.org/x,https://example.org/y",
        ),
        ("h.querySelectorAll('img, script, b').length", 0),
        ("h.textContent.includes('[bad](javascript:alert(1))')", True),
        ("h.textContent.includes('<img src=x onerror=alert(1)>')", True),
    ],
)
def test_markdown_becomes_nodes_and_nothing_else_does(
    markdown_page: Page, script: str, expected: object
) -> None:
    made = f"(() => {{ const h = document.createElement('div'); h.append(rendered({MARKDOWN!r}));"
    assert markdown_page.run(f"{made} return {script}; }})()") == expected


@pytest.mark.parametrize(
    "text",
    [
        "*" * 5000,
        "_a" * 5000,
        "[" * 5000,
        "`" * 4999,
        "> " * 3000,
        "- " * 3000,
        "|-" * 3000,
        "**a " * 3000,
    ],
    ids=["stars", "lines", "brackets", "ticks", "quotes", "items", "cells", "open bold"],
)
def test_markdown_of_nonsense_is_quick(markdown_page: Page, text: str) -> None:
    timed = f"const t = performance.now(); rendered({text!r}); return performance.now() - t;"
    took = markdown_page.run(f"(() => {{ {timed} }})()")
    assert took < 1000


@pytest.fixture(scope="module")
def markdown_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Return an open page whose renderer is called directly."""
    stage = stage_of((Dashboard(),), {}, ScriptedService())
    profile = tmp_path_factory.mktemp("profile")
    with stage.http, served(stage) as url, open_page(url, profile) as page:
        yield page


def test_a_reply_is_rendered_as_markdown(make_stage: MakeStage, browse: Browse) -> None:
    chat = Chat()
    chat.replies = (
        b'data: {"choices": [{"delta": {"content": "a **b"}}]}\n\n',
        b'data: {"choices": [{"delta": {"content": "old**"}}]}\n\n',
        b"data: [DONE]\n\n",
    )
    page = browse(make_stage(Dashboard(), chat))
    page.until("!document.querySelector('#send').disabled")
    say(page, "Where?")
    page.until("document.querySelector('.said strong')")
    assert page.text(".said") == "a bold"
    say(page, "And?")
    page.until("document.querySelectorAll('.said strong').length === 2")
    assert chat.asked[1]["messages"][1]["content"] == "a **bold**"


def test_system_prompt_and_length_are_sent_where_they_are_set(
    make_stage: MakeStage, browse: Browse
) -> None:
    chat = Chat()
    page = browse(make_stage(Dashboard(), chat))
    page.until("!document.querySelector('#send').disabled")
    say(page, "Where?")
    page.until("document.querySelector('.turn .facts')")
    assert "max_tokens" not in chat.asked[0]
    assert [turn["role"] for turn in chat.asked[0]["messages"]] == ["user"]
    assert page.run("document.querySelector('#length').placeholder") == "512"
    page.run("document.querySelector('#system').value = 'Be brief.'")
    page.run("document.querySelector('#length').value = '64'")
    say(page, "Again?")
    page.until("document.querySelectorAll('.turn .facts').length === 2")
    assert chat.asked[1]["max_tokens"] == 64
    assert chat.asked[1]["messages"][0] == {"role": "system", "content": "Be brief."}


def test_a_reply_can_be_stopped(make_stage: MakeStage, browse: Browse) -> None:
    chat = Chat()
    chat.hangs = True
    page = browse(make_stage(Dashboard(), chat))
    page.until("!document.querySelector('#send').disabled")
    say(page, "Where?")
    page.until("document.querySelector('.said')?.textContent")
    assert page.text("#send") == "Stop"
    page.run("document.querySelector('#send').click()")
    page.until("document.querySelector('#send').textContent === 'Send'")
    assert page.text(".turn .facts") == "stopped"
    chat.hangs = False
    say(page, "Again?")
    page.until("document.querySelectorAll('.turn .facts').length === 2")
    assert [turn["role"] for turn in chat.asked[1]["messages"]] == ["user", "assistant", "user"]


def test_a_refusal_is_shown_and_not_repeated(make_stage: MakeStage, browse: Browse) -> None:
    chat = Chat()
    chat.refuses = RequestError(status=429, message="too many requests", retry_after=1.0)
    page = browse(make_stage(Dashboard(), chat))
    page.until("!document.querySelector('#send').disabled")
    say(page, "Where?")
    page.until("document.querySelector('.turn .wrong')")
    assert page.text(".turn .wrong") == "too many requests"
    chat.refuses = None
    say(page, "Again?")
    page.until("document.querySelector('.turn .facts')")
    assert [turn["content"] for turn in chat.asked[0]["messages"]] == ["Again?"]


def test_key_is_asked_for_and_used_for_figures_and_chat(
    make_stage: MakeStage, browse: Browse
) -> None:
    chat = Chat()
    page = browse(make_stage(Dashboard(), Auth(AuthOptions(api_key="sk-1")), chat))
    page.until("!document.querySelector('#locked').hidden")
    assert page.text("#asks") == "This server asks for an API key."
    unlock(page, "sk-2")
    page.until("document.querySelector('#asks').textContent === 'That API key is not valid.'")
    unlock(page, "sk-1")
    page.until("document.querySelector('#state').textContent === 'healthy'")
    assert page.run("document.querySelector('#locked').hidden")
    say(page, "Where?")
    page.until("document.querySelector('.turn .facts')")
    assert chat.keys == ["Bearer sk-1"]


def test_page_says_that_the_model_loads_and_why_it_failed(
    make_stage: MakeStage, browse: Browse
) -> None:
    stage = make_stage(Dashboard())
    stage.service.status = EngineStatus(ready=False)
    page = browse(stage)
    page.until("document.querySelector('#state').textContent === 'loading'")
    assert page.run("document.querySelector('#send').disabled")
    stage.service.status = EngineStatus(ready=False, error="the model has no weights")
    page.until("document.querySelector('#state').textContent === 'failed'")
    assert page.text("#notice") == "the model has no weights"


def test_page_fits_narrow_and_wide_windows(make_stage: MakeStage, browse: Browse) -> None:
    page = browse(make_stage(Dashboard()))
    page.until("document.querySelector('#state').textContent === 'healthy'")
    for width in (360, 820, 1600):
        page.resize(width, 800)
        assert page.run("innerWidth") == width
        assert page.run("document.documentElement.scrollWidth <= innerWidth")


def test_a_phone_has_the_chat_first_and_readable_text(
    make_stage: MakeStage, browse: Browse
) -> None:
    page = browse(make_stage(Dashboard()))
    page.until("document.querySelector('#state').textContent === 'healthy'")
    page.resize(390, 844)
    top = "document.querySelector('{}').getBoundingClientRect().top"
    assert page.run(f"{top.format('.chat')} < {top.format('.cards')}")
    assert page.run(f"{top.format('#send')} < innerHeight")
    for selector in ("body", "#message", "#system", "#length", ".turn, #log"):
        size = f"getComputedStyle(document.querySelector('{selector}')).fontSize"
        assert page.run(f"parseFloat({size})") >= 16
