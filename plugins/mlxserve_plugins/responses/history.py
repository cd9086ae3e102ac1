"""What a conversation consists of: kept items, then those of the request."""

from typing import Any, TypeAlias

import msgspec
from attrs import frozen

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.responses.bodies import ResponsesBody
from mlxserve_plugins.responses.drafts import name
from mlxserve_plugins.responses.items import Placed, read_items
from mlxserve_plugins.responses.store import Store
from mlxserve_plugins.surface.checks import refusal

Json: TypeAlias = dict[str, Any]


@frozen
class Past:
    """All that was said before the reply.

    Attributes:
        earlier: Items of the responses that this one follows, as JSON objects.
        given: The request's own, references resolved.
        items: Both, read.
    """

    earlier: list[Json]
    given: list[Json]
    items: list[Placed]


def known_items(body: ResponsesBody, store: Store, tenant: str) -> Past:
    """Return what a request's reply goes on from.

    Raises:
        RequestError: An item is malformed, or refers to what is not kept (status 400).
    """
    earlier = _earlier(body.previous_response_id, store, tenant)
    given = [_resolved(one, at, store, tenant) for at, one in enumerate(_listed(body.input))]
    items = [*read_items(earlier, "previous_response_id"), *read_items(given)]
    if not items and not body.instructions:
        raise refusal("input", "`input` is empty: send a text, or at least one item")
    return Past(earlier, given, items)


def _listed(given: str | list[Json] | None) -> list[Json]:
    if not isinstance(given, str):
        return given or []
    part = {"type": "input_text", "text": given}
    return [{"type": "message", "role": "user", "content": [part], "id": name("msg")}]


def _earlier(previous: str | None, store: Store, tenant: str) -> list[Json]:
    if previous is None:
        return []
    try:
        found: list[Json] = msgspec.json.decode(store.find(previous, tenant).history)
    except RequestError:
        message = f"the previous response {previous!r} is not kept here: send its items instead"
        raise refusal("previous_response_id", message, "previous_response_not_found") from None
    return found


def _resolved(item: Json, at: int, store: Store, tenant: str) -> Json:
    """Return the item that a reference means, and any other as it is; each gets an id."""
    if item.get("type") != "item_reference" and ("type" in item or "role" in item):
        return item if item.get("id") else {**item, "id": name("item")}
    own = item.get("id")
    found = store.item(own, tenant) if isinstance(own, str) else None
    if found is None:
        message = f"`input[{at}]` refers to {own!r}, which is not kept here: send the item itself"
        raise refusal(f"input[{at}].id", message, "item_not_found")
    return found
