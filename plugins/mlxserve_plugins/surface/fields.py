"""A surface's fields as data: what each does here, and what a body comes to by that table."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

from attrs import evolve, field, frozen

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.surface.notes import Notes

Fate: TypeAlias = Literal["honoured", "harmless", "refused"]
Reading: TypeAlias = Callable[[Any], Mapping[str, Any]]
"""From a field's value to the fields that say the same here."""

LARGEST: Final = 2**63
"""From which on floating-point numbers are not taken for the integers that they equal."""


@frozen
class Field:
    """One field of a request's body.

    Attributes:
        name: Its name.
        fate: ``honoured``: does what it says. ``harmless``: accepted, and has no effect on the
            text. ``refused``: would change the text, and cannot be done.
        about: What it does here, in a line.
        off: Values that mean what leaving it out means; ``null`` always does.
        reads_as: Says the same in other fields, for one that other servers have by this name.
        mend: Returns a value that is spelt as elsewhere the way that it is spelt here.
    """

    name: str
    fate: Fate
    about: str = ""
    off: tuple[Any, ...] = ()
    reads_as: Reading | None = None
    mend: Callable[[Any], Any] = lambda value: value


@frozen
class Table:
    """The fields of one surface.

    Attributes:
        surface: Its name, for logs and figures.
        fields: By name.
    """

    surface: str
    fields: Mapping[str, Field] = field(repr=False)

    @classmethod
    def of(cls, surface: str, *groups: Iterable[Field]) -> "Table":
        """Return a table; of two fields of one name the later counts."""
        return cls(surface, {one.name: one for group in groups for one in group})

    def named(self, fate: Fate) -> list[str]:
        """Return the names of the fields of that fate."""
        return [one.name for one in self.fields.values() if one.fate == fate]


def honoured(*names: str, about: str = "", off: tuple[Any, ...] = ()) -> tuple[Field, ...]:
    """Return fields that do what they say."""
    return tuple(Field(name, "honoured", about, off) for name in names)


def harmless(*names: str, about: str = "") -> tuple[Field, ...]:
    """Return fields that have no effect on the text."""
    return tuple(Field(name, "harmless", about) for name in names)


def refused(*names: str, about: str = "", off: tuple[Any, ...] = ()) -> tuple[Field, ...]:
    """Return fields that would change the text and cannot be had."""
    return tuple(Field(name, "refused", about, off) for name in names)


def alias(name: str, of: str, off: tuple[Any, ...] = ()) -> Field:
    """Return a field that is another by the name that it has elsewhere."""
    return Field(name, "honoured", f"as `{of}`", off, lambda value: {of: value})


def mended(mend: Callable[[Any], Any], *fields: Field) -> tuple[Field, ...]:
    """Return the fields with values that are spelt as elsewhere put in order by ``mend``."""
    return tuple(evolve(one, mend=mend) for one in fields)


def read_fields(body: Mapping[str, Any], table: Table, notes: Notes) -> dict[str, Any]:
    """Return the fields of ``body`` that are honoured; what became of the others is noted.

    A field that is ``null`` or means nothing is left out. One that says what another says counts
    only where that other is not there.

    Raises:
        RequestError: A field would change the text, and cannot be had (status 400).
    """
    found: dict[str, Any] = {}
    readings: list[tuple[Field, Any]] = []
    for name, value in body.items():
        known = table.fields.get(name)
        if known is None:
            notes.unknown(name)
        elif value is None:
            continue
        elif _means(value, known.off):
            if known.fate == "honoured":
                notes.add(name, "read as off")
        elif known.fate == "refused":
            raise unsupported(name)
        elif known.fate == "harmless":
            notes.add(name, "ignored", "harmless")
        elif known.reads_as is not None:
            readings.append((known, value))
        else:
            found[name] = whole(known.mend(value))
    for known, value in readings:
        _take(known, value, found, notes)
    return found


def unsupported(name: str) -> RequestError:
    """Return the refusal of a field that would change the text and cannot be had."""
    message = f"`{name}` is not supported by this server"
    return RequestError(status=400, message=message, param=name, code="unsupported_parameter")


def whole(value: Any) -> Any:
    """Return ``8.0`` as ``8``, in lists too: fields of fractions take either."""
    if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST:
        return int(value)
    if isinstance(value, list):
        return [whole(one) if isinstance(one, float | list) else one for one in value]
    return value


def as_markdown(table: Table) -> str:
    """Return the table as documentation has it."""
    rows = [f"| `{one.name}` | {one.fate} | {_words(one)} |" for one in table.fields.values()]
    return "\n".join(["| Field | Fate | What it does |", "|---|---|---|", *rows])


def _take(known: Field, value: Any, found: dict[str, Any], notes: Notes) -> None:
    said = known.reads_as(value) if known.reads_as else {}
    for name, meant in said.items():
        if name in found:
            notes.add(known.name, "ignored", f"{name} is set")
        else:
            found[name] = whole(meant)
            notes.add(known.name, "read as another", name)
    if not said:
        notes.add(known.name, "ignored")


def _means(value: Any, off: tuple[Any, ...]) -> bool:
    # True equals 1 in Python; a client that sends one does not mean the other.
    return any(isinstance(value, bool) == isinstance(one, bool) and value == one for one in off)


def _words(one: Field) -> str:
    values = ", ".join(f"`{_json(value)}`" for value in one.off)
    nothing = f"{values} {'are' if len(one.off) > 1 else 'is'} as if left out" if one.off else ""
    return "; ".join(filter(None, (one.about, nothing)))


def _json(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')
