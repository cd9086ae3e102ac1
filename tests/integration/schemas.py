"""JSON schemas to hold replies to: those of public types, and made ones that ask for more.

The public ones are what ``pydantic`` writes for the types of the packages ``openai`` and
``anthropic``: references, unions, constants, nested lists, as people's own models have them.
"""

import importlib
import json
import pkgutil
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]
PACKAGES = ("openai.types.chat", "openai.types.responses", "anthropic.types")
MOST = 6000
"""Characters of a public schema: larger ones are whole API objects, whose replies take minutes."""

WORDS = ("name", "city", "count", "price", "tags", "when", "mail", "notes", "Größe", "a b", "x-y")
PATTERNS = ("^[a-z]{2,8}$", "^[A-Z]{3}-[0-9]{2,4}$", "^(red|green|blue)$", "^\\d{3}$")
FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "email")


def schemas(count: int) -> list[tuple[str, Schema]]:
    """Return so many with their names: three public ones for each two that are made."""
    public = list(islice(_public(), count * 3 // 5))
    return [*public, *((f"made {seed}", made(seed)) for seed in range(count - len(public)))]


def _public() -> Iterator[tuple[str, Schema]]:
    found = {f"{cls.__module__}.{cls.__name__}": cls for one in PACKAGES for cls in _models(one)}
    names, seen = sorted(found), set[str]()
    random.Random(0).shuffle(names)  # those of one module are alike
    for name in names:
        schema = found[name].model_json_schema()
        text = json.dumps(schema, sort_keys=True)
        if text not in seen and len(text) <= MOST and schema.get("properties"):
            seen.add(text)
            yield name, schema


def _models(package: str) -> set[type[BaseModel]]:
    root = importlib.import_module(package)
    found: set[type[BaseModel]] = set()
    for module in pkgutil.iter_modules(root.__path__, f"{package}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, BaseModel):
                found.add(value)
    return found - {BaseModel}


def made(seed: int) -> Schema:
    """Return an object's schema with bounds, patterns, formats, unions, tuples and references."""
    dice = random.Random(seed)
    schema = _object(dice, 2)
    if seed % 4 == 0:
        schema["properties"]["next"] = {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
        schema["$defs"] = {"node": _object(dice, 0)}
        schema["required"].append("next")
    return schema


def _object(dice: random.Random, depth: int) -> Schema:
    names = dice.sample(WORDS, dice.randrange(1, 4))
    schema: Schema = {
        "type": "object",
        "properties": {name: _value(dice, depth) for name in names},
        "required": names[: dice.randrange(1, len(names) + 1)],
    }
    if dice.random() < 0.5:
        schema["additionalProperties"] = False
    return schema


def _value(dice: random.Random, depth: int) -> Schema:
    kinds = (_text, _number, _choice, _list, _tuple, _union, _object)
    kind = dice.choice(kinds if depth else kinds[:3])
    found = kind(dice, depth - 1)
    if dice.random() < 0.2:
        found["description"] = "What it is."
    return found


def _text(dice: random.Random, depth: int) -> Schema:
    return dice.choice(
        [
            {"type": "string", "maxLength": dice.randrange(1, 20)},
            {"type": "string", "minLength": 2, "maxLength": 12},
            {"type": "string", "pattern": dice.choice(PATTERNS)},
            {"type": "string", "format": dice.choice(FORMATS)},
        ]
    )


def _number(dice: random.Random, depth: int) -> Schema:
    low = dice.randrange(-50, 50)
    return dice.choice(
        [
            {"type": "integer", "minimum": low, "maximum": low + dice.randrange(1, 500)},
            {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + 9},
            {"type": "number", "minimum": low, "maximum": low + 1},
            {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 500},
        ]
    )


def _choice(dice: random.Random, depth: int) -> Schema:
    return dice.choice(
        [{"enum": ["low", "high", 3, None, True]}, {"const": {"a": [1, 2]}}, {"type": "boolean"}]
    )


def _list(dice: random.Random, depth: int) -> Schema:
    return {
        "type": "array",
        "items": _value(dice, depth),
        "minItems": dice.randrange(2),
        "maxItems": dice.randrange(2, 4),
    }


def _tuple(dice: random.Random, depth: int) -> Schema:
    first = [_value(dice, 0) for _ in range(2)]
    return {"type": "array", "prefixItems": first, "items": False, "minItems": 2, "maxItems": 2}


def _union(dice: random.Random, depth: int) -> Schema:
    return {"anyOf": [_text(dice, depth), {"type": ["integer", "null"]}, _object(dice, 0)]}
