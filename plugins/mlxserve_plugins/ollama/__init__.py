"""Serve Ollama's API, as editors and home automation speak it: chat, generate, models."""

from collections.abc import Sequence

from attrs import frozen

from mlxserve_hookspecs import AppConfig, Route, Services, hookimpl


@frozen
class Ollama:
    """Adds ``/api/...``; models are neither pulled nor changed, there is the one that is served."""

    @hookimpl
    def routes(self, services: Services) -> Sequence[Route]:
        """Answer with one router."""
        from mlxserve_plugins.ollama.routes import make_routes  # noqa: PLC0415 - imports litestar

        return make_routes(services)

    @hookimpl
    def configure_app(self, config: AppConfig) -> None:
        """Give every error of these paths Ollama's shape, whoever raises it."""
        from mlxserve_plugins.surface.errors import shape_errors  # noqa: PLC0415 - litestar

        shape_errors(config, "/api", lambda _status, error: {"error": error["message"]})
