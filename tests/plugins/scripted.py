"""An HTTP application over an engine that does what a test says."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from attrs import define, evolve, field
from litestar import Request, post
from litestar.testing import TestClient
from pluggy import PluginManager

from mlxserve.hooks import tell
from mlxserve.loading import register
from mlxserve.options import EngineOptions, ServerOptions
from mlxserve.resolved import Resolved, SettingRow
from mlxserve.serve.app import build_app
from mlxserve_hookspecs import (
    Credentials,
    EngineStatus,
    Finish,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    Limits,
    ModelCard,
    RequestError,
    SamplingParams,
    Services,
    StopConditions,
    TextCodec,
    Usage,
    hookimpl,
    lifecycle,
)

CARD = ModelCard(
    id="org/scripted", created=7, vocab_size=8, limits=Limits(), has_chat_template=True
)
IDLE = EngineStatus(ready=True, total_blocks=100)
_ids = itertools.count()


def request_of(
    prompt: int = 8, max_tokens: int = 8, *, choices: int = 1, tenant: str = "", name: str = ""
) -> GenerationRequest:
    """Return a request of so many prompt tokens."""
    return GenerationRequest(
        id=name or f"request-{next(_ids)}",
        prompt=(1,) * prompt,
        sampling=SamplingParams(),
        stop=StopConditions(max_tokens=max_tokens),
        choices=choices,
        tenant=tenant,
    )


def finish_of(
    tokens: int = 4,
    *,
    prompt: int = 8,
    reason: FinishReason = "stop",
    queued: float = 0.0,
    total: float = 1.0,
    error: RequestError | None = None,
    cached: Mapping[str, int] | None = None,
) -> Finish:
    """Return how a reply ended."""
    usage = Usage(
        prompt_tokens=prompt,
        completion_tokens=tokens,
        cached_tokens=sum((cached or {}).values()),
        cached_by_tier=dict(cached or {}),
    )
    return Finish(
        reason=reason,
        usage=usage,
        error=error,
        queue_seconds=queued,
        first_token_seconds=queued + 0.25 if tokens else None,
        total_seconds=total,
    )


def _open_gate() -> threading.Event:
    gate = threading.Event()
    gate.set()
    return gate


@define(eq=False)
class ScriptedService:
    """An engine and its owner.

    Attributes:
        status: What the engine says of itself.
        refuses: What it raises instead of taking a request.
        submitted: The requests that it took.
        answer: Lets replies end; they do at once without it.
        tiers: Its tiers' figures.
        tiers_fail: Whether asking for them fails.
        gate: While it is not set, calls about the cache block.
    """

    status: EngineStatus = IDLE
    refuses: RequestError | None = None
    submitted: list[GenerationRequest] = field(factory=list)
    answer: asyncio.Event | None = None
    tiers: dict[str, dict[str, float]] = field(factory=dict)
    tiers_fail: bool = False
    gate: threading.Event = field(factory=_open_gate)
    loaded: threading.Event = field(factory=threading.Event)
    failure: BaseException | None = None
    plugins: PluginManager | None = None

    @property
    def client(self) -> "ScriptedService":
        return self

    @property
    def card(self) -> ModelCard:
        if not self.status.ready:
            raise RequestError(status=503, message="the model is still loading", retry_after=2.0)
        return CARD

    @property
    def text(self) -> TextCodec:
        raise NotImplementedError

    async def generate(
        self, request: GenerationRequest
    ) -> AsyncIterator[Sequence[GenerationEvent]]:
        if self.refuses is not None:
            raise self.refuses
        self.submitted.append(request)
        if self.answer is not None:
            await self.answer.wait()
        for choice in range(request.choices):
            finish = finish_of(prompt=len(request.prompt))
            assert self.plugins is not None
            tell(self.plugins, lifecycle.request_finished)(
                request=request, choice=choice, finish=finish
            )
            yield [GenerationEvent(request_id=request.id, choice=choice, finish=finish)]

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        raise NotImplementedError

    def start(self) -> None:
        raise NotImplementedError

    def drain(self, timeout: float) -> bool:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def clear_cache(self) -> dict[str, int]:
        self.gate.wait(10)
        dropped = {name: int(figures["held"]) for name, figures in self.tiers.items()}
        self.tiers = {name: {"held": 0.0} for name in self.tiers}
        return dropped

    def cache_stats(self) -> dict[str, dict[str, float]]:
        self.gate.wait(10)
        if self.tiers_fail:
            raise OSError("the disk is gone")
        return self.tiers


class Generation:
    """A plugin whose route does what an API surface does: authenticate, admit, generate."""

    @hookimpl
    def routes(self, services: Services) -> list[Any]:
        @post("/v1/generate", status_code=200)
        async def generate(request: Request[Any, Any, Any]) -> dict[str, int]:
            headers = dict(request.headers.items())
            credentials = Credentials(headers=headers, path=request.url.path)
            tenant = services.admission.authenticate(credentials).tenant
            replies = 0
            for _ in range(int(request.query_params.get("prompts", "1"))):
                asked = request_of(tenant=tenant)
                services.admission.admit(asked)
                async for events in services.engine.generate(asked):
                    replies += len(events)
            return {"replies": replies}

        return [generate]


@define(eq=False)
class Stage:
    """A server under test."""

    http: TestClient[Any]
    service: ScriptedService
    plugins: PluginManager

    def becomes(self, **changes: Any) -> None:
        """Change the engine's status."""
        self.service.status = evolve(self.service.status, **changes)


def stage_of(
    plugins: Sequence[object], settings: Mapping[str, object], service: ScriptedService
) -> Stage:
    """Serve ``plugins``; settings are ``section__name=value``."""
    named = {f"plugin-{at}": plugin for at, plugin in enumerate((*plugins, Generation()))}
    rows = []
    for key, value in settings.items():
        section, _, name = key.partition("__")
        rows.append(SettingRow(section, name, value, "a test"))
    service.plugins = register(named)
    resolved = Resolved(
        plugins=service.plugins,
        names=tuple(named),
        server=ServerOptions(host="127.0.0.1", port=0),
        engine=EngineOptions(),
        rows=tuple(rows),
    )
    app = build_app(resolved, service)
    return Stage(TestClient(app, raise_server_exceptions=False), service, service.plugins)


MakeStage = Callable[..., Stage]
