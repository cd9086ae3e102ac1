"""The model that is served, as Ollama describes those that it has."""

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from mlxserve_hookspecs import Described, EngineClient, ModelCard
from mlxserve_plugins.ollama.translating import TAG

API_VERSION: Final = "0.12.6"
"""The version of Ollama whose API this is: clients look whether it is new enough for them."""

FAMILY: Final = "mlx"
FOREVER: Final = "2100-01-01T00:00:00Z"


def tags(card: ModelCard) -> dict[str, Any]:
    """Return the list of models: the one that is served."""
    return {"models": [_about(card.id, card)]}


def running(card: ModelCard) -> dict[str, Any]:
    """Return the list of models that are in memory."""
    more = {"expires_at": FOREVER, "size_vram": 0}
    return {"models": [{**_about(card.id, card), **more}]}


def shown(engine: EngineClient) -> dict[str, Any]:
    """Return what there is to know of the model."""
    card, text = engine.card, engine.text
    facts: Mapping[str, Any] = text.facts if isinstance(text, Described) else {}
    template = facts.get("chat_template") or ""
    abilities = {
        "completion": True,
        "tools": bool(text.markup.tool_start) or "tools" in template,
        "thinking": bool(text.markup.think_start),
    }
    return {
        "modelfile": "",
        "parameters": "",
        "template": template,
        "details": _details(),
        "model_info": {
            "general.architecture": FAMILY,
            "general.basename": card.id,
            f"{FAMILY}.context_length": card.limits.max_model_len,
        },
        "capabilities": [name for name, has in abilities.items() if has],
        "modified_at": _time(card),
    }


def _about(name: str, card: ModelCard) -> dict[str, Any]:
    full = name if ":" in name else f"{name}{TAG}"
    return {
        "name": full,
        "model": full,
        "modified_at": _time(card),
        "size": 0,
        "digest": sha256((card.identity or card.id).encode()).hexdigest(),
        "details": _details(),
    }


def _details() -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": FAMILY,
        "family": FAMILY,
        "families": [FAMILY],
        "parameter_size": "",
        "quantization_level": "",
    }


def _time(card: ModelCard) -> str:
    return datetime.fromtimestamp(card.created, UTC).isoformat()
