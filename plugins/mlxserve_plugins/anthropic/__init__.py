"""Serve Anthropic's Messages API: messages, streamed and whole, and the tokens of a prompt."""

from collections.abc import Sequence
from typing import Any

import attrs
from attrs import frozen
from attrs.validators import deep_iterable

from mlxserve_hookspecs import AppConfig, Route, Services, hookimpl, option


def _beginning(_: Any, its: "attrs.Attribute[Any]", value: str) -> None:
    if not value.strip():
        raise ValueError(f"'{its.name}' must be beginnings of system texts, none of them empty")


@frozen(kw_only=True)
class AnthropicOptions:
    """What of a request does not reach the model."""

    prompt_omit: tuple[str, ...] = option(
        ("x-anthropic-billing-header:",),
        "beginnings of system texts whose line is left out of prompts, for it changes with each "
        "session and would spoil the prefix cache; an empty list leaves out nothing",
        flag="--prompt-omit",
        check=deep_iterable(_beginning),
    )


@frozen
class Anthropic:
    """Adds ``/v1/messages`` and ``/v1/messages/count_tokens``."""

    options: AnthropicOptions = AnthropicOptions()

    @hookimpl
    def routes(self, services: Services) -> Sequence[Route]:
        """Answer with one router."""
        from mlxserve_plugins.anthropic.routes import make_routes  # noqa: PLC0415 - litestar

        return make_routes(services, omit=self.options.prompt_omit)

    @hookimpl
    def configure_app(self, config: AppConfig) -> None:
        """Give every error of these paths Anthropic's shape, whoever raises it."""
        from mlxserve_plugins.anthropic.errors import PREFIX, shaped  # noqa: PLC0415 - msgspec
        from mlxserve_plugins.surface.errors import shape_errors  # noqa: PLC0415 - litestar

        shape_errors(config, PREFIX, shaped)
