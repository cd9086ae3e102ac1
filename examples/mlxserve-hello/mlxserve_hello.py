"""Answer ``GET /hello``."""

from mlxserve_hookspecs import Route, Services, hookimpl


class Hello:
    """Adds a route that greets, and names the model that is served."""

    @hookimpl
    def routes(self, services: Services) -> list[Route]:
        """Add the route; Litestar is imported here, so that ``mlxserve --help`` stays quick."""
        from litestar import get  # noqa: PLC0415

        @get("/hello")
        async def hello() -> dict[str, str]:
            return {"hello": services.engine.card.id}

        return [hello]
