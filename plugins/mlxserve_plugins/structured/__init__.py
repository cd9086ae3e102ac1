"""Make replies follow a JSON schema, or be the tool call that the client forces."""

from importlib.util import find_spec
from typing import Any

from attrs import define, field

from mlxserve_hookspecs import (
    Constraint,
    GenerationRequest,
    ModelCard,
    RequestError,
    TextCodec,
    hookimpl,
)
from mlxserve_plugins.structured.demands import demand_of


def _is_installed() -> bool:
    return find_spec("llguidance") is not None


@define(eq=False)
class Structured:
    """Constrains with the library llguidance.

    Attributes:
        installed: Whether the library is there; without it every demand is left to others.
    """

    installed: bool = field(factory=_is_installed)
    _grammars: Any = field(default=None, init=False)

    @hookimpl
    def preparing(self) -> None:
        """Say what is missing, if anything is."""
        if self.installed:
            return
        import structlog  # noqa: PLC0415 - not worth its import time where nothing is missing

        structlog.get_logger("mlxserve.structured").warning(
            "response_format and a forced tool_choice are refused: llguidance is missing",
            install="pip install llguidance",
        )

    @hookimpl
    def started(self, card: ModelCard, text: TextCodec) -> None:
        """Begin to prepare the vocabulary, so that the first demand does not wait for it."""
        if self.installed:
            self._for(text, card.vocab_size)

    @hookimpl
    def make_constraint(
        self, request: GenerationRequest, text: TextCodec, vocab_size: int
    ) -> Constraint | None:
        """Answer demands that are JSON, a schema, a grammar or a call.

        Raises:
            RequestError: The demand is malformed, unsupported or too large (status 400).
        """
        demand = demand_of(request, text) if self.installed else None
        if demand is None:
            return None
        from mlxserve_plugins.tools.budget import Unlimited, limited  # noqa: PLC0415 - mlx

        made: Constraint = Unlimited()
        try:
            if demand.grammar or demand.bare:
                made = self._for(text, vocab_size).constraint(demand)
        except RequestError:
            if not demand.lenient:
                raise
        found: Constraint = limited(made, request, text, vocab_size)
        return found

    def _for(self, text: TextCodec, vocab_size: int) -> Any:
        # Imports the library, numpy and mlx.
        from mlxserve_plugins.structured.grammars import Grammars  # noqa: PLC0415

        if self._grammars is None or not self._grammars.serves(text, vocab_size):
            self._grammars = Grammars(text, vocab_size)
        return self._grammars
