"""The page and its data."""

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Final

from litestar import MediaType, Response, get
from litestar.handlers import HTTPRouteHandler

from mlxserve_hookspecs import EngineStatus, ModelCard, RequestError, Services
from mlxserve_plugins.dashboard.recorder import Recorder
from mlxserve_plugins.guarding import Guard
from mlxserve_plugins.metrics.endpoint import TierReader

PAGE: Final = "page.html"
DATA: Final = "/dashboard/data"
INLINE: Final = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def make_routes(
    services: Services, look: Callable[[], Recorder], guard: Guard, rows: int
) -> list[HTTPRouteHandler]:
    """Return the page's handler and that of its data.

    Args:
        services: What the data are read from.
        look: Returns the recorder; somebody looks from now on.
        guard: Lets in who may see the data.
        rows: Most requests that run at once; 0 is unknown.
    """
    page = files(__package__).joinpath(PAGE).read_text("utf-8")
    headers = page_headers(page)
    tiers = TierReader(services.cache_stats, {})

    @get("/", media_type=MediaType.HTML, include_in_schema=False)
    async def dashboard() -> Response[str]:
        return Response(page, headers=headers)

    @get(DATA, guards=[guard], include_in_schema=False)
    async def dashboard_data() -> Response[dict[str, Any]]:
        recorder = look()
        engine = services.engine
        status = engine.status
        body = {
            "version": version("mlxserve"),
            "plugins": list(services.plugins),
            "model": _model(services) if status.ready else None,
            "engine": describe(status, rows),
            "tiers": await tiers.read() if status.ready else {},
            **recorder.view(status),
        }
        return Response(body, headers={"Cache-Control": "no-store"})

    return [dashboard, dashboard_data]


def describe(status: EngineStatus, rows: int) -> dict[str, Any]:
    """Return the engine's load."""
    return {
        "state": state_of(status),
        "error": status.error,
        "running": status.running,
        "rows": rows,
        "waiting": status.waiting,
        "steps": status.steps,
        "step_age_s": status.last_step_age,
        "blocks": {
            "used": status.used_blocks,
            "cached": status.cached_blocks,
            "total": status.total_blocks,
        },
        "preemptions": status.counters.get("preemptions", 0),
    }


def state_of(status: EngineStatus) -> str:
    """Return the engine's state in a word."""
    if status.error:
        return "failed"
    if status.draining:
        return "draining"
    if not status.ready:
        return "loading"
    return "busy" if status.running or status.waiting else "idle"


def page_headers(page: str) -> Mapping[str, str]:
    """Return headers that let ``page`` run its own script and style, and talk to us only."""
    allowed: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in INLINE.findall(page):
        digest = b64encode(sha256(text.encode()).digest()).decode()
        allowed[kind].append(f"'sha256-{digest}'")
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(allowed["script"]),
        "style-src": " ".join(allowed["style"]),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def _model(services: Services) -> dict[str, Any] | None:
    try:
        card: ModelCard = services.engine.card
    except RequestError:
        return None  # it is not loaded yet, or no more
    return {
        "id": card.id,
        "chat": card.has_chat_template,
        "layout": list(card.layout),
        "max_tokens": card.limits.default_max_tokens,
        "max_prompt_tokens": card.limits.max_prompt_tokens,
    }
