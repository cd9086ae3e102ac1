"""Hooks that put the engine on the network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from attrs import frozen

from mlxserve_hookspecs.admission import Admission
from mlxserve_hookspecs.engine import EngineClient
from mlxserve_hookspecs.markers import hookspec
from mlxserve_hookspecs.markup import OutputParser

Route: TypeAlias = Any
"""Anything that Litestar takes as a route handler: a handler, a controller or a router."""

AppConfig: TypeAlias = Any
"""A ``litestar.config.app.AppConfig``."""

CHAT_PATH: Final = "/v1/chat/completions"
COMPLETIONS_PATH: Final = "/v1/completions"
"""Where clients of every kind look for chat and for plain completions: a user is shown a command
for the one that is served."""

REPLY_HEADERS: Final = "reply_headers"
"""Where a request's ``state`` has a dictionary of headers, empty at first, that its reply is sent
with, whatever sends it. A route adds to it before the reply begins."""


@frozen(kw_only=True)
class Services:
    """What a route may use.

    Attributes:
        engine: The engine.
        admission: Authenticates and admits requests by asking the plugins.
        settings: Returns the resolved options: ``(section, name, value, origin)`` rows, secrets
            masked.
        plugins: The active plugins' names.
        clear_cache: Forgets cached blocks in every tier; returns how many, by tier.
        cache_stats: Each tier's figures, by tier.
        make_parser: Asks the plugins for the parser of one choice's text, as
            ``make_output_parser`` says, whose arguments it takes in order (``forced`` is false
            where it is left out); ``None``: all text is content.
        hook_errors: How often a plugin raised in a hook what it should not have, or answered
            against the contract, it or an object of its making, by plugin and hook; any thread.
        hook_delays: How often others had to wait for a plugin, likewise.
        tell_adjusted: Tells the plugins of ``request_adjusted``, with its surface, field and how.
        running_totals: What the plugins have counted, by name, as ``running_totals`` says.
    """

    engine: EngineClient
    admission: Admission
    settings: Callable[[], Sequence[tuple[str, str, Any, str]]]
    plugins: Sequence[str]
    clear_cache: Callable[[], "dict[str, int]"]
    cache_stats: Callable[[], "dict[str, dict[str, float]]"]
    make_parser: Callable[..., OutputParser | None]
    hook_errors: Callable[[], Mapping[tuple[str, str], int]] = dict
    hook_delays: Callable[[], Mapping[tuple[str, str], int]] = dict
    tell_adjusted: Callable[[str, str, str], None] = lambda _surface, _field, _how: None
    running_totals: Callable[[], Mapping[str, float]] = dict


@hookspec
def routes(services: Services) -> Sequence[Route] | None:
    """Add routes to the HTTP application.

    **Gather.** Every plugin is asked.

    Called once at start, on the main thread, before the model is loaded: a handler finds out at
    each request whether the engine is ready.
    """


@hookspec
def configure_app(config: AppConfig) -> None:
    """Change the application's configuration in place: middleware, exception handlers, hooks.

    **Tell.** Every plugin hears it; return nothing.

    Called once at start, on the main thread, after ``routes``.
    """
