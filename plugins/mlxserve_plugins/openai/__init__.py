"""Serve OpenAI's chat and text completions, model list, and tokenisation, over HTTP."""

from collections.abc import Sequence

from attrs import frozen
from attrs.validators import and_, ge, le

from mlxserve_hookspecs import Route, Services, hookimpl, option


@frozen(kw_only=True)
class OpenAiOptions:
    """How replies stream."""

    sse_keepalive_s: float = option(
        15.0,
        "seconds of silence after which a stream sends a comment; 0 sends none",
        flag="--sse-keepalive-s",
        check=and_(ge(0.0), le(3600.0)),
    )


@frozen
class OpenAi:
    """Adds ``/v1/...``, ``/tokenize`` and ``/detokenize``."""

    options: OpenAiOptions = OpenAiOptions()

    @hookimpl
    def routes(self, services: Services) -> Sequence[Route]:
        """Answer with one router."""
        from mlxserve_plugins.openai.routes import make_routes  # noqa: PLC0415 - imports litestar

        return make_routes(services, keepalive=self.options.sse_keepalive_s)
