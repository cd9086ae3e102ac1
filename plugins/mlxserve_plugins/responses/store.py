"""Responses that are kept in memory, within bounds, for follow-ups."""

from collections import OrderedDict
from typing import Any, Final, TypeAlias

import msgspec
from attrs import define, field, frozen

from mlxserve_hookspecs import RequestError

Json: TypeAlias = dict[str, Any]

MB: Final = 1_000_000


@frozen
class Kept:
    """One response.

    Attributes:
        tenant: Whose it is; nobody else finds it.
        response: It, as JSON.
        items: What the client sent with it, as JSON: an array of items.
        history: All that a follow-up goes on from, as JSON: earlier items, these and the output.
        ids: The ids of items in ``history`` that came with this response.
    """

    tenant: str
    response: bytes
    items: bytes
    history: bytes
    ids: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.response) + len(self.items) + len(self.history)


@define(eq=False)
class Store:
    """Forgets what was not used for longest when there are too many, or too much.

    Belongs to the event loop.

    Attributes:
        most: Responses.
        most_bytes: Bytes of all of them.
    """

    most: int
    most_bytes: int
    bytes: int = 0
    _kept: OrderedDict[str, Kept] = field(factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, name: str, kept: Kept) -> None:
        """Keep a response, unless it alone is too much."""
        if self.most == 0 or kept.size > self.most_bytes:
            return
        former = self._kept.pop(name, None)
        self._kept[name] = kept
        self.bytes += kept.size - (former.size if former else 0)
        while len(self._kept) > self.most or self.bytes > self.most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.bytes -= oldest.size

    def find(self, name: str, tenant: str) -> Kept:
        """Return a response.

        Raises:
            RequestError: There is none of that name (status 404), or it is somebody else's.
        """
        kept = self._kept.get(name)
        if kept is None or kept.tenant != tenant:
            message = (
                f"there is no response {name!r}: it was not stored, was deleted, or is too old"
            )
            raise RequestError(
                status=404, message=message, param="response_id", code="response_not_found"
            )
        self._kept.move_to_end(name)
        return kept

    def delete(self, name: str, tenant: str) -> None:
        """Forget a response; raises like ``find``."""
        self.bytes -= self.find(name, tenant).size
        del self._kept[name]

    def item(self, name: str, tenant: str) -> Json | None:
        """Return the item of that id that came with a response last; ``None`` if there is none."""
        for kept in reversed(self._kept.values()):
            if kept.tenant == tenant and name in kept.ids:
                history: list[Json] = msgspec.json.decode(kept.history)
                return next((one for one in history if one.get("id") == name), None)
        return None
