"""Fields that a body has and nobody reads: they are served, and named in the log once."""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Final, TypeAlias

import structlog
from attrs import define, field
from msgspec import Struct, inspect

log = structlog.get_logger("mlxserve.anthropic")

MOST_KNOWN: Final = 4096
MOST_CHARACTERS: Final = 80

Fields: TypeAlias = dict[str, inspect.Type]


def strays_of(body: Any, kind: type[Struct]) -> set[str]:
    """Return the paths of fields in ``body`` that a ``kind`` does not have.

    Args:
        body: A body that was found to be a ``kind``, as plain lists and dictionaries.
        kind: What it was decoded as.
    """
    return set(_strays(body, _type_of(kind), ""))


@define(eq=False)
class Notes:
    """Names in the log, once for each client and field, what was served in another way than sent.

    Lives on the event loop.
    """

    _told: set[tuple[str, str, str]] = field(factory=set)

    def tell(self, what: str, client: str, fields: Iterable[str]) -> None:
        """Log the fields that this client has not been told of, with ``what`` as the event."""
        client = client[:MOST_CHARACTERS]
        new = sorted(
            name
            for name in {name[:MOST_CHARACTERS] for name in fields}
            if (what, client, name) not in self._told
        )
        if new and len(self._told) < MOST_KNOWN:
            self._told.update((what, client, name) for name in new)
            log.info(what, fields=new, client=client)


@cache
def _type_of(kind: type[Struct]) -> inspect.Type:
    return inspect.type_info(kind)


def _strays(value: Any, kind: inspect.Type, path: str) -> Iterator[str]:
    if isinstance(kind, inspect.UnionType):
        kind = _member(value, kind)
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        known: Fields = {one.encode_name: one.type for one in kind.fields}
        for name, inner in value.items():
            where = f"{path}.{name}" if path else name
            if name in known:
                yield from _strays(inner, known[name], where)
            elif name != kind.tag_field:
                yield where
    elif isinstance(kind, inspect.ListType) and isinstance(value, list):
        for inner in value:
            yield from _strays(inner, kind.item_type, f"{path}[]")


def _member(value: Any, union: inspect.UnionType) -> inspect.Type:
    """Return the member of a union that a value was decoded as, as far as it has fields."""
    for member in union.types:
        bare = member.type if isinstance(member, inspect.Metadata) else member
        if isinstance(bare, inspect.ListType) and isinstance(value, list):
            return bare
        if isinstance(bare, inspect.StructType) and _is_tagged(value, bare):
            return bare
    return inspect.AnyType()


def _is_tagged(value: Any, kind: inspect.StructType) -> bool:
    if not isinstance(value, dict):
        return False
    return kind.tag_field is None or value.get(kind.tag_field) == kind.tag
