"""Say that a request's tools reach nobody: the chat template has no place for them."""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Final

import structlog
from attrs import define

from mlxserve_hookspecs import Markup
from mlxserve_hookspecs.serving import REPLY_HEADERS

HEADER: Final = "X-Mlxserve-Note"
NOTE: Final = "tools are ignored: the model's chat template has no place for them"

log = structlog.get_logger("mlxserve.tools")


@define(eq=False)
class IgnoredTools:
    """Tells every client in a header, and the log once."""

    _told: bool = False

    def tell(
        self,
        tools: Sequence[Mapping[str, Any]] | None,
        markup: Markup,
        state: MutableMapping[str, Any],
    ) -> None:
        """Tell it if it is so.

        Args:
            tools: What the request has.
            markup: The model's.
            state: The request's, where its reply's headers are.
        """
        if not tools or not markup.ignores_tools:
            return
        state.setdefault(REPLY_HEADERS, {})[HEADER] = NOTE
        if not self._told:
            self._told = True
            log.warning(NOTE, advice="serve a model that was trained to call tools")
