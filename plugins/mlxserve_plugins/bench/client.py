"""A client of any server with OpenAI's API, which notes when text arrives."""

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from os import environ
from typing import TYPE_CHECKING, Any, Final

from attrs import define, evolve, field, frozen

from mlxserve_hookspecs import MlxserveError
from mlxserve_plugins.bench.figures import Trace
from mlxserve_plugins.bench.flags import Common

if TYPE_CHECKING:
    import httpx

TIMEOUT_S: Final = 900.0
BAD_REQUEST: Final = 400
REFUSED: Final = (401, 403)
PREFIX: Final = "data: "
DONE: Final = "[DONE]"
THOUGHTS: Final = ("reasoning", "reasoning_content")


class BenchError(MlxserveError):
    """Nothing can be measured."""


@frozen(kw_only=True)
class Ask:
    """A request.

    Attributes:
        prompt: The text.
        max_tokens: Tokens to generate.
        chat: Whether the text is a user's message rather than the beginning of a text.
        whole: Whether to go on past the end-of-sequence token, where the server can.
        extra: Further fields of the body.
        leave_after: Arrivals of text after which the client hangs up.
        history: Messages before the user's, of a chat.
    """

    prompt: str = field(repr=False)
    max_tokens: int
    chat: bool = False
    whole: bool = True
    extra: Mapping[str, Any] = field(factory=dict)
    leave_after: int | None = None
    history: Sequence[Mapping[str, Any]] = field(default=(), repr=False)

    @property
    def path(self) -> str:
        """The route."""
        return "/v1/chat/completions" if self.chat else "/v1/completions"

    def body(self, model: str, *, whole: bool) -> dict[str, Any]:
        """Return the body of a streamed request."""
        messages = [*self.history, {"role": "user", "content": self.prompt}]
        return {
            **({"model": model} if model else {}),
            "max_tokens": self.max_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"messages": messages} if self.chat else {"prompt": self.prompt}),
            **({"ignore_eos": True} if whole else {}),
            **self.extra,
        }


@define
class Server:
    """A server under measurement.

    Attributes:
        url: Its address.
        model: The model that is asked for; empty leaves it to the server.
        whole: Whether it takes ``ignore_eos``; servers that do not know it may refuse it.
    """

    url: str
    model: str
    http: "httpx.AsyncClient" = field(repr=False)
    whole: bool = True

    async def stream(self, ask: Ask) -> Trace:
        """Send a request and read the reply to its end."""
        import httpx  # noqa: PLC0415 - only where something is measured

        sent = time.perf_counter()
        body = ask.body(self.model, whole=ask.whole and self.whole)
        try:
            async with self.http.stream("POST", ask.path, json=body) as response:
                if response.status_code >= BAD_REQUEST:
                    await response.aread()
                    return _refused(sent, response.status_code, response.text)
                return await _read(response, sent, ask.leave_after)
        except httpx.HTTPError as error:
            now = time.perf_counter()
            return Trace(sent=sent, ended=now, status=0, error=f"{type(error).__name__}: {error}")

    async def checked(self, ask: Ask) -> Trace:
        """Send a request that must succeed.

        Raises:
            BenchError: It did not.
        """
        trace = await self.stream(ask)
        if trace.error is None and not trace.arrivals:
            trace = evolve(trace, error="the reply had no text")
        if trace.error is not None:
            raise BenchError(f"{self.url}{ask.path}: {trace.error}")
        return trace


def open_http(url: str, api_key: str = "") -> "httpx.AsyncClient":
    """Return a client of ``url`` that holds as many connections as there are requests."""
    import httpx  # noqa: PLC0415 - only where something is measured

    key = api_key or environ.get("OPENAI_API_KEY", "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(
        base_url=url,
        headers=headers,
        timeout=TIMEOUT_S,
        limits=limits,
        trust_env=False,
        verify=url.startswith("https"),  # certificates take a tenth of a second to read
    )


@asynccontextmanager
async def connect(url: str, flags: Common) -> AsyncIterator[Server]:
    """Yield a server, having asked for its model and whether it takes ``ignore_eos``.

    Raises:
        BenchError: It does not answer.
    """
    async with open_http(url, flags.api_key) as http:
        server = Server(url, flags.model or await _first_model(url, http), http)
        probe = Ask(prompt="Hello", max_tokens=1)
        if (await server.stream(probe)).status == BAD_REQUEST:
            server.whole = False
        yield server


async def _first_model(url: str, http: "httpx.AsyncClient") -> str:
    import httpx  # noqa: PLC0415 - only where something is measured

    try:
        answer = await http.get("/v1/models")
    except httpx.HTTPError as error:
        raise BenchError(f"{url} does not answer: {error}") from error
    if answer.status_code in REFUSED:
        raise BenchError(f"{url} wants a key: give one with --api-key, or in $OPENAI_API_KEY")
    try:
        return str(answer.json()["data"][0]["id"])
    except (ValueError, LookupError, TypeError):
        return ""  # mlx_lm.server without a hub's cache


async def _read(response: "httpx.Response", sent: float, leave_after: int | None) -> Trace:
    arrivals: list[float] = []
    text: list[str] = []
    usage: Mapping[str, Any] = {}
    error = None
    async for line in response.aiter_lines():
        if not line.startswith(PREFIX) or line == PREFIX + DONE:
            continue
        event = json.loads(line.removeprefix(PREFIX))
        if "error" in event:
            error = _message(event["error"])
        if piece := _text(event):
            arrivals.append(time.perf_counter())
            text.append(piece)
        usage = event.get("usage") or usage
        if len(arrivals) == leave_after:
            break
    details = usage.get("prompt_tokens_details") or {}
    return Trace(
        sent=sent,
        arrivals=tuple(arrivals),
        ended=time.perf_counter(),
        prompt_tokens=usage.get("prompt_tokens", 0),
        completion_tokens=usage.get("completion_tokens", len(arrivals)),
        cached_tokens=details.get("cached_tokens", 0) or 0,
        text="".join(text),
        error=error,
    )


def _text(event: Mapping[str, Any]) -> str:
    choices: Sequence[Mapping[str, Any]] = event.get("choices") or ({},)
    choice = choices[0]
    delta = choice.get("delta") or {}
    said = (choice.get("text"), *(delta.get(name) for name in ("content", *THOUGHTS)))
    calls = (call.get("function") or {} for call in delta.get("tool_calls") or ())
    called = (call.get(name) for call in calls for name in ("name", "arguments"))
    return "".join(str(piece) for piece in (*said, *called) if piece)


def _message(error: Any) -> str:
    """Return an error's words: OpenAI sends an object, mlx_lm.server a string."""
    return str(error.get("message", error) if isinstance(error, dict) else error)


def _refused(sent: float, status: int, text: str) -> Trace:
    try:
        message = _message(json.loads(text)["error"])
    except (ValueError, LookupError, TypeError):
        message = text[:200]
    error = f"status {status}: {message}"
    return Trace(sent=sent, ended=time.perf_counter(), status=status, error=error)
