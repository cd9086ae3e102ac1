"""A table of fields, as any API surface has one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from msgspec import Struct

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.openai.bodies import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from mlxserve_plugins.openai.fields import TABLES
from mlxserve_plugins.surface.decoding import read
from mlxserve_plugins.surface.fields import (
    Table,
    alias,
    as_markdown,
    harmless,
    honoured,
    mended,
    read_fields,
    refused,
    whole,
)
from mlxserve_plugins.surface.notes import Note, Notes

DOCUMENT = Path(__file__).parents[3] / "docs" / "fields.md"
BODIES = (ChatBody, CompletionBody, TokenizeBody, DetokenizeBody)

TABLE = Table.of(
    "small",
    honoured("size", off=(-1,)),
    mended(str.upper, *honoured("word")),
    [alias("width", "size")],
    harmless("user"),
    refused("magic", off=(False, 0)),
)


def test_fields_are_taken_dropped_mended_and_read_as_others() -> None:
    notes = Notes()
    body = {"word": "a", "width": 3.0, "user": "x", "magic": False, "none": None, "what": 1}
    assert read_fields(body, TABLE, notes) == {"word": "A", "size": 3}
    assert notes.taken == [
        Note("user", "ignored", "harmless"),
        Note("none", "ignored", "unknown", known=False),
        Note("what", "ignored", "unknown", known=False),
        Note("width", "read as another", "size"),
    ]


@pytest.mark.parametrize("value", [True, 1, "on", {}], ids=repr)
def test_what_would_change_the_text_is_refused_by_name(value: object) -> None:
    with pytest.raises(RequestError) as refusal:
        read_fields({"magic": value}, TABLE, Notes())
    assert (refusal.value.param, refusal.value.code) == ("magic", "unsupported_parameter")


def test_a_bool_is_not_the_number_that_it_equals() -> None:
    table = Table.of("t", refused("one", off=(1,)), refused("no", off=(False,)))
    for name, value in (("one", True), ("no", 0)):
        with pytest.raises(RequestError):
            read_fields({name: value}, table, Notes())
    assert read_fields({"one": 1.0, "no": False}, table, Notes()) == {}


WHOLE: dict[str, tuple[Any, Any]] = {
    "a whole number": (8.0, 8),
    "a fraction": (8.5, 8.5),
    "a list": ([1.0, [2.0], "x"], [1, [2], "x"]),
    "a number beyond 64 bits": (1e30, 1e30),
    "an object, which is the client's own": ({"a": 1.0}, {"a": 1.0}),
}


@pytest.mark.parametrize(("given", "meant"), WHOLE.values(), ids=WHOLE)
def test_integers_may_be_written_as_fractions(given: Any, meant: Any) -> None:
    found = whole(given)
    assert (found, repr(found)) == (meant, repr(meant))


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_a_table_has_each_field_of_its_struct_and_no_more(body: Any) -> None:
    table: Table = body.TABLE
    own = {name for name in table.named("honoured") if table.fields[name].reads_as is None}
    assert own == set(body.__struct_fields__)


def test_a_struct_without_a_table_is_read_as_it_is() -> None:
    class Plain(Struct, forbid_unknown_fields=True):
        a: int = 0

    assert read(b'{"a": 1}', Plain)[0].a == 1
    with pytest.raises(RequestError, match="unknown field `b`"):
        read(b'{"b": 1}', Plain)


def test_any_surface_can_bring_a_table() -> None:
    class Mine(Struct):
        TABLE: ClassVar[Table] = TABLE
        size: int = 0
        word: str = ""

    found, notes = read(b'\xef\xbb\xbf{"width": 4, "user": "ann"}', Mine)
    assert (found.size, [note.field for note in notes.taken]) == (4, ["user", "width"])


def test_the_documentation_has_every_table_as_it_is() -> None:
    text = DOCUMENT.read_text("utf-8")
    for table in TABLES:
        assert as_markdown(table) in text, f"docs/fields.md lacks the table of {table.surface}"


def test_every_fate_is_one_of_three() -> None:
    fates: set[str] = {one.fate for table in TABLES for one in _fields(table).values()}
    assert fates == {"honoured", "harmless", "refused"}


def _fields(table: Table) -> Mapping[str, Any]:
    return table.fields
