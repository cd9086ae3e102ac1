"""Turn what a user typed into the type that an option was declared with."""

from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

import msgspec

SWITCH_WORDS: Final = {"yes": True, "on": True, "no": False, "off": False}
NOTHING: Final = "none"
WORDS: Final = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    NoneType: NOTHING,
}


def convert(kind: Any, raw: Any) -> Any:
    """Return ``raw``, from a flag, a variable or a TOML file, as a value of type ``kind``.

    Text is read as what ``kind`` wants: numbers, ``true``, ``yes`` and ``on``, comma-separated
    words for a tuple, ``none`` where ``None`` is allowed beside something that is not text.

    Raises:
        ValueError: It is none; the message says what it must be.
    """
    value = _read(kind, raw) if isinstance(raw, str) else raw
    try:
        return msgspec.convert(value, kind, strict=False, dec_hook=_make)
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise ValueError(f"must be {describe(kind)}") from error


def members(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, or ``kind`` alone."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def choices(kind: Any) -> tuple[Any, ...]:
    """Return the values that a literal type allows; nothing for any other type."""
    return tuple(
        value
        for member in members(kind)
        if get_origin(member) is Literal
        for value in get_args(member)
    )


def describe(kind: Any) -> str:
    """Return what a value must be, in words: ``a whole number or none``."""
    return " or ".join(_describe(member) for member in members(kind))


def is_switch(kind: Any) -> bool:
    """Return whether an option of this type is turned on and off by two flags."""
    return bool in members(kind)


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        words = [str(value) for value in get_args(kind)]
        return words[0] if len(words) == 1 else f"one of {', '.join(words)}"
    if _is_list(kind):
        return f"a list, each {describe(get_args(kind)[0])}" if get_args(kind) else "a list"
    return WORDS.get(kind, "a table" if get_origin(kind) else str(kind))


def _is_list(kind: Any) -> bool:
    return (get_origin(kind) or kind) in (tuple, list, frozenset, set)


def _read(kind: Any, text: str) -> Any:
    parts = members(kind)
    if NoneType in parts and str not in parts and text.lower() == NOTHING:
        return None
    if any(_is_list(part) for part in parts):
        return [word.strip() for word in text.split(",") if word.strip()]
    if bool in parts:
        return SWITCH_WORDS.get(text.lower(), text)
    return text


def _make(kind: Any, raw: Any) -> Any:
    if kind is Path and isinstance(raw, str):
        return Path(raw).expanduser()
    raise TypeError
