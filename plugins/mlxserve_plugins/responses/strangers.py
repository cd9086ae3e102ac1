"""Fields that nobody here knows: served without effect, and named in the log once."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import structlog
from attrs import define, field
from msgspec import Struct

MOST: Final = 200
"""Names that are remembered: they are the clients', who may send any number."""

LONGEST: Final = 64


@define(eq=False)
class Strangers:
    """What was named already."""

    _known: set[str] = field(factory=set)

    def meet(self, given: Mapping[str, Any], kind: type[Struct], where: str = "") -> None:
        """Name the keys of ``given`` that a ``kind`` does not have."""
        self.tell(f"{where}{key}" for key in given if key not in kind.__struct_fields__)

    def tell(self, names: Iterable[str]) -> None:
        """Name these, unless that was done before."""
        for name in names:
            short = name[:LONGEST]
            if short in self._known or len(self._known) >= MOST:
                continue
            self._known.add(short)
            structlog.get_logger("mlxserve.responses").warning(
                "a request has a part that this server serves without effect", part=short
            )
