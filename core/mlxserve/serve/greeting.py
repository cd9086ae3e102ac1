"""What a user is told once the model is there: the address, and a command that works."""

import json
import shlex
from collections.abc import Collection
from typing import Any

from mlxserve.serve.address import Address
from mlxserve_hookspecs import ModelCard
from mlxserve_hookspecs.serving import CHAT_PATH, COMPLETIONS_PATH

PAGE = "/"


def greeting(address: Address, card: ModelCard, paths: Collection[str], *, needs_key: bool) -> str:
    """Return the lines to print; no page and no command where no plugin serves their paths."""
    first = f"mlxserve serves {card.id} on {address.url}"
    if PAGE in paths:
        first += f"\n\nOpen {address.url}{PAGE} in a browser to watch it and to try it out."
    path = _path(card, paths)
    if path is None:
        return first
    body: dict[str, Any] = {"model": card.id}
    if path == CHAT_PATH:
        body["messages"] = [{"role": "user", "content": "What is the capital of France?"}]
    else:
        body["prompt"] = "The capital of France is"
    body["temperature"] = 0  # a small model's first words should be its best
    key = '-H "Authorization: Bearer $API_KEY" ' if needs_key else ""
    data = shlex.quote(json.dumps(body, ensure_ascii=False))
    command = (
        f"curl {shlex.quote(address.url + path)} -H 'Content-Type: application/json' {key}-d {data}"
    )
    return f"{first}\n\nTry it:\n  {command}\n"


def _path(card: ModelCard, paths: Collection[str]) -> str | None:
    if CHAT_PATH in paths and card.has_chat_template:
        return CHAT_PATH
    return COMPLETIONS_PATH if COMPLETIONS_PATH in paths else None
