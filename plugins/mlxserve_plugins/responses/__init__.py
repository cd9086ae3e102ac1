"""Serve OpenAI's Responses API, as Codex and the Agents SDK speak it."""

from collections.abc import Sequence

from attrs import frozen
from attrs.validators import ge

from mlxserve_hookspecs import Route, Services, hookimpl, option

SENT_ANYWAY = ("web_search", "web_search_preview", "image_generation", "tool_search")
"""Tools of OpenAI's own servers that agents name in every request, needed or not."""


@frozen(kw_only=True)
class ResponsesOptions:
    """What is kept between requests, and what is overlooked."""

    store_size: int = option(1000, "responses kept for follow-ups; 0 keeps none", check=ge(0))
    store_mb: float = option(64.0, "memory for kept responses, in MB", check=ge(0.0))
    ignored_tools: tuple[str, ...] = option(
        SENT_ANYWAY, "types of hosted tools that are left out of the prompt, not refused"
    )


@frozen
class Responses:
    """Adds ``/v1/responses`` and what belongs to it."""

    options: ResponsesOptions = ResponsesOptions()

    @hookimpl
    def routes(self, services: Services) -> Sequence[Route]:
        """Answer with one router."""
        from mlxserve_plugins.responses.routes import make_routes  # noqa: PLC0415 - litestar

        return make_routes(services, self.options)
