"""The HTTP application: what the plugins add, in a frame that bounds and answers for it."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from litestar import Litestar
from litestar.config.app import AppConfig

from mlxserve.hooks import ask, book_of, gather, gather_by, tell
from mlxserve.resolved import Resolved
from mlxserve.serve.admission import HookAdmission
from mlxserve.serve.description import description
from mlxserve.serve.errors import make_handlers, owned
from mlxserve.serve.frame import FramedApp
from mlxserve.serve.refusals import TellRefused
from mlxserve.serve.service import Service
from mlxserve_hookspecs import (
    PROJECT,
    OutputParser,
    Services,
    TextCodec,
    generation,
    lifecycle,
    serving,
)


def build_app(resolved: Resolved, service: Service) -> Litestar:
    """Return the application of a run: the plugins' routes, then their changes to it.

    Raises:
        PluginError: A plugin failed to add its routes.
    """
    services = services_of(resolved, service)
    added = gather_by(resolved.plugins, serving.routes)(services=services)
    owners = {who.plugin: who for who, _ in added}
    config = AppConfig(
        route_handlers=[owned(route, who.plugin) for who, routes in added for route in routes],
        request_max_body_size=resolved.server.max_request_bytes,
        exception_handlers=make_handlers(_refusal_teller(resolved), owners),
        openapi_config=description(PROJECT, version(PROJECT), services.admission),
    )
    tell(resolved.plugins, serving.configure_app)(config=config)
    app = FramedApp.from_config(config)
    app.owners = owners
    return app


def services_of(resolved: Resolved, service: Service) -> Services:
    """Return what the plugins' routes may use."""
    engine = service.client
    parser = ask(resolved.plugins, generation.make_output_parser, forgiving=True)
    totals = gather(resolved.plugins, lifecycle.running_totals, forgiving=True)
    book = book_of(resolved.plugins)

    def make_parser(
        text: TextCodec,
        tools: Sequence[Mapping[str, Any]] | None,
        reasoning: bool,
        forced: bool = False,
    ) -> OutputParser | None:
        return parser(text=text, tools=tools, reasoning=reasoning, forced=forced)

    announce = tell(resolved.plugins, lifecycle.request_adjusted)

    def tell_adjusted(surface: str, field: str, how: str) -> None:
        announce(surface=surface, field=field, how=how)

    return Services(
        engine=engine,
        admission=HookAdmission(resolved.plugins, lambda: engine.status),
        settings=lambda: resolved.rows,
        plugins=resolved.names,
        clear_cache=service.clear_cache,
        cache_stats=service.cache_stats,
        make_parser=make_parser,
        hook_errors=lambda: dict(book.failures),
        hook_delays=lambda: dict(book.delays),
        tell_adjusted=tell_adjusted,
        running_totals=lambda: {name: value for one in totals() for name, value in one.items()},
    )


def _refusal_teller(resolved: Resolved) -> TellRefused:
    announce = tell(resolved.plugins, lifecycle.request_refused)

    def tell_refused(status: int, code: str, field: str) -> None:
        announce(status=status, code=code, field=field)

    return tell_refused
