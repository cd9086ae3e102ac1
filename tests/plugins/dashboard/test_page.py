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

from ..scripted import MakeStage, Stage, finish_of, request_of
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
        for piece in REPLY[:2] if self.hangs else REPLY:
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
        engine__prefill_batch_size=2,
        engine__completion_batch_size=8,
    )
    stage.service.tiers = {"ram": {"blocks": 3.0}, "ssd": {"blocks": 40.0}}
    page = browse(stage)
    page.until("document.querySelector('#state').textContent === 'idle'")
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
    assert page.text("#rows") == "of 6 places taken"
    assert page.text("#waiting") == "2"
    assert page.run("document.querySelectorAll('#cells .on').length") == 3
    assert page.text("#ttft") == "125 ms"
    assert page.text("#itl") == "50 ms"
    assert page.text("#memory") == "25%"
    assert page.text("#hits") == "50%"
    assert page.text("#hits-rows").split("\n")[:4] == [
        "ram (3 blocks)",
        "0%",
        "ssd (40 blocks)",
        "50%",
    ]
    assert page.text("#drafts-rows") == "No drafts yet"
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
    page.until("document.querySelector('#state').textContent === 'idle'")
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
    page.until("document.querySelector('#state').textContent === 'idle'")
    for width in (360, 820, 1600):
        page.resize(width, 800)
        assert page.run("innerWidth") == width
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
