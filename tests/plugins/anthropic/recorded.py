"""What Claude Code 2.1.197 sent in two turns with tools; its prose and its user's data left out."""

import json
from pathlib import Path
from typing import Any

from attrs import frozen

RECORDED = Path(__file__).parents[2] / "data" / "claude_code.json"


@frozen
class Recorded:
    """A request as it was sent."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


def recorded(model: str) -> list[Recorded]:
    """Return the requests in their order, for a model of that name: a title, then three turns."""
    found = json.loads(RECORDED.read_text("utf-8"))
    requests = [Recorded(**one) for one in found["requests"]]
    for one in requests:
        one.body["model"] = model
        if one.body["tools"] == "shared":
            one.body["tools"] = found["tools"]
    return requests
