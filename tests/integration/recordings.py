"""What command-line agents and libraries sent, as files: ``tests/data/clients/NAME.json``.

A file is ``{"client", "shared", "requests": [{"path", "headers", "body"}]}``; a value that stands
in several places is in ``shared``, and ``{"$shared": n}`` in theirs. ``tests.integration.record``
makes them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

FOLDER = Path(__file__).parents[1] / "data" / "clients"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
SHARED = "$shared"


@frozen
class Sent:
    """A request as it was sent.

    Attributes:
        path: With its query.
        headers: Those that say what the client speaks.
        body: The JSON object.
    """

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


def recorded(name: str, model: str) -> list[Sent]:
    """Return a client's requests in their order, for a model of that name."""
    found = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [whole(one) for one in value]
        if not isinstance(value, dict):
            return value
        if SHARED in value:
            return whole(found["shared"][value[SHARED]])
        return {key: whole(one) for key, one in value.items()}

    requests = [Sent(**whole(one)) for one in found["requests"]]
    for one in requests:
        one.body["model"] = model
    return requests


def loops_of(requests: Sequence[Sent]) -> list[list[Sent]]:
    """Return the requests of an agent's loop, those with tools, apart by API."""
    found: dict[str, list[Sent]] = {}
    for one in requests:
        if one.body.get("tools"):
            found.setdefault(one.path, []).append(one)
    return list(found.values())


def brief(sent: Sent, tools: int | None = None) -> Sent:
    """Return a request for a reply of two tokens, with so many of its tools."""
    most = "max_output_tokens" if "/responses" in sent.path else "max_tokens"
    body = {**sent.body, most: 2}
    if tools is not None and "tools" in body:
        body["tools"] = body["tools"][:tools]
    return evolve(sent, body=body)
