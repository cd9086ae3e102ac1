"""Whether an answer is what an annotation of the contract promises."""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from inspect import Parameter, signature
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Final, Literal, Protocol, Union, get_args, get_origin, get_type_hints

from attrs import frozen

LONGEST: Final = 80
"""Characters of a value in a message."""

NUMBERS: Final[Mapping[Any, Any]] = {float: Real, int: Integral}
NOT: Final[Mapping[Any, Any]] = {Integral: bool, Real: bool, Sequence: str}
"""What Python takes for a number, or for a sequence, and the contract does not."""


@frozen
class Member:
    """One method or attribute of a Protocol.

    Attributes:
        name: Its name.
        hint: What it answers.
        words: Names of its positional arguments; ``None`` for an attribute.
        keys: Names of those that are given by name.
    """

    name: str
    hint: Any
    words: tuple[str, ...] | None = None
    keys: tuple[str, ...] = ()


@cache
def members(protocol: type) -> Mapping[str, Member]:
    """Return what a Protocol demands, its bases included."""
    found: dict[str, Member] = {}
    for base in filter(is_protocol, protocol.__mro__):
        mine = {n: v for n, v in vars(base).items() if not n.startswith("_")}
        hints = {n: h for n, h in get_type_hints(base).items() if n in base.__annotations__}
        found = {name: Member(name, hint) for name, hint in hints.items()} | found
        found = {name: _member(name, value) for name, value in mine.items()} | found
    return found


def is_protocol(hint: Any) -> bool:
    """Return whether ``hint`` is a Protocol: what answers to it is told by its members."""
    return isinstance(hint, type) and hint is not Protocol and getattr(hint, "_is_protocol", False)


def lacks(value: object, protocol: type) -> str:
    """Return what ``value`` lacks to be a ``protocol``, in words; empty if nothing."""
    for member in members(protocol).values():
        if not hasattr(value, member.name):
            return f"has no {member.name}{_arguments(member)}"
        found = getattr(value, member.name)
        if member.words is None and not fits(found, member.hint):
            return f"has a {member.name} that is {shown(found)}, not {spoken(member.hint)}"
        if member.words is not None and not _takes(found, member):
            return f"has a {member.name} that does not take {_arguments(member)}"
    return ""


def fits(value: object, hint: Any) -> bool:
    """Return whether ``value`` is of the type ``hint``; elements of a container are looked at.

    What is annotated as ``Any`` fits always; so do arrays, whose type this floor does not import.
    """
    if hint is Any or value is hint or type(value) is hint:
        return True
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if is_protocol(hint):
        return not lacks(value, hint)
    kind = NUMBERS.get(hint, origin or hint or NoneType)
    if not isinstance(value, kind) or isinstance(value, NOT.get(kind, ())):
        return False
    return not args or _elements_fit(value, origin, args)


def _elements_fit(value: Any, origin: Any, args: tuple[Any, ...]) -> bool:
    if isinstance(value, Mapping):
        return all(fits(k, args[0]) and fits(v, args[1]) for k, v in value.items())
    if origin is tuple and args[-1] is not Ellipsis:
        return len(value) == len(args) and all(map(fits, value, args))
    if isinstance(value, Collection) and args[0] is not Any:
        return all(fits(each, args[0]) for each in value)
    return True


def spoken(hint: Any) -> str:
    """Return a type as a message names it."""
    return str(hint.__name__) if isinstance(hint, type) and not get_args(hint) else str(hint)


def shown(value: object) -> str:
    """Return a value as a message shows it."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= LONGEST else f'{text[:LONGEST]}...'}"


def _member(name: str, value: Any) -> Member:
    if isinstance(value, property):
        return Member(name, get_type_hints(value.fget).get("return", Any))
    parameters = list(signature(value).parameters.values())[1:]
    keys = tuple(p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY)
    words = tuple(p.name for p in parameters if p.name not in keys)
    return Member(name, get_type_hints(value).get("return", Any), words, keys)


def _arguments(member: Member) -> str:
    return "" if member.words is None else f"({', '.join((*member.words, *member.keys))})"


def _takes(method: Any, member: Member) -> bool:
    try:
        signature(method).bind(*(member.words or ()), **dict.fromkeys(member.keys))
    except TypeError:
        return False
    except ValueError:  # a builtin tells nothing of its arguments
        return callable(method)
    return True
