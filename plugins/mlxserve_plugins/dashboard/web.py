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
from mlxserve_plugins.guarding import Guard, setting
from mlxserve_plugins.health import DEGRADED, THRESHOLD, is_stuck, utilization
from mlxserve_plugins.metrics.endpoint import TierReader

PAGE: Final = "page.html"
STYLE: Final = "page.css"
SCRIPTS: Final = ("figures.js", "markdown.js", "chat.js")
DATA: Final = "/dashboard/data"
PATIENCE_S: Final = 60.0
"""Seconds of one step that are too many, where no plugin has a limit of its own."""

INLINE: Final = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def make_routes(
    services: Services, recorder: Recorder, clock: Callable[[], float], guard: Guard
) -> list[HTTPRouteHandler]:
    """Return the page's handler and that of its data.

    Args:
        services: What the data are read from.
        recorder: What was seen so far.
        clock: The recorder's.
        guard: Lets in who may see the data.
    """
    page = whole_page()
    headers = page_headers(page)
    tiers = TierReader(services.cache_stats, {})

    @get("/", media_type=MediaType.HTML, include_in_schema=False)
    async def dashboard() -> Response[str]:
        return Response(page, headers=headers)

    @get(DATA, guards=[guard], include_in_schema=False)
    async def dashboard_data() -> Response[dict[str, Any]]:
        status = services.engine.status
        body = {
            "version": version("mlxserve"),
            "plugins": list(services.plugins),
            "model": _model(services) if status.ready else None,
            "engine": describe(status, limits(services)),
            "health": health(status, services),
            "speculates": setting(services, "spec-decode", "mode", "none") != "none",
            "tiers": await tiers.read() if status.ready else {},
            **recorder.view(status, clock()),
        }
        return Response(body, headers={"Cache-Control": "no-store"})

    return [dashboard, dashboard_data]


def whole_page() -> str:
    """Return the page with its style and its script inside: one file, and nothing to load."""
    folder = files(__package__)
    style = folder.joinpath(STYLE).read_text("utf-8")
    script = "\n".join(folder.joinpath(name).read_text("utf-8") for name in SCRIPTS)
    page = folder.joinpath(PAGE).read_text("utf-8")
    page = page.replace("<style></style>", f"<style>\n{style}</style>")
    return page.replace("<script></script>", f"<script>\n{script}</script>")


def limits(services: Services) -> Mapping[str, int]:
    """Return how many requests may decode at once, and how many may wait; 0 is not known."""
    return {
        "batch": int(setting(services, "engine", "max_batch_size", 0)),
        "queue": int(setting(services, "engine", "max_queue_size", 0)),
    }


def describe(status: EngineStatus, limits: Mapping[str, int]) -> dict[str, Any]:
    """Return the engine's load."""
    return {
        "running": status.running,
        "waiting": status.waiting,
        **limits,
        "steps": status.steps,
        "step_age_s": status.last_step_age,
        "blocks": {
            "used": status.used_blocks,
            "cached": status.cached_blocks,
            "total": status.total_blocks,
        },
        "preemptions": status.counters.get("preemptions", 0),
    }


def health(status: EngineStatus, services: Services) -> dict[str, Any]:
    """Return the server's state in a word or two, and what is wrong with it, if anything is."""
    patience = float(setting(services, "health", "watchdog_timeout_s", PATIENCE_S))
    threshold = float(setting(services, "admission", "memory_pressure_threshold", THRESHOLD))
    used = utilization(status)
    stuck = is_stuck(status, patience)
    found = {
        status.error or "": bool(status.error),
        f"one step has been running for {status.last_step_age:.0f} s": stuck,
        f"{used:.0%} of the memory for KV is in use: requests are turned away": used >= threshold,
    }
    return {
        "state": state_of(status, stuck=stuck, full=used / threshold if threshold else 0.0),
        "reasons": [reason for reason, holds in found.items() if holds],
    }


def state_of(status: EngineStatus, *, stuck: bool = False, full: float = 0.0) -> str:
    """Return the server's state.

    Args:
        status: The engine's.
        stuck: Whether a step does not end.
        full: The share of the load at which requests are turned away.
    """
    if status.error:
        return "failed"
    if status.draining:
        return "shutting down"
    if not status.ready:
        return "loading"
    if stuck or full >= 1:
        return "overloaded"
    return "degraded" if full >= DEGRADED else "healthy"


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
