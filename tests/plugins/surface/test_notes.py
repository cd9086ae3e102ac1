"""What was not taken by its word is counted always, and logged once for each client."""

import pytest
from structlog.testing import capture_logs

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.surface import notes as module
from mlxserve_plugins.surface.notes import Desk, Notes, UnknownFields


class Ear:
    """Hears what plugins are told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, str]] = []

    def tell(self, surface: str, field: str, how: str) -> None:
        self.heard.append((surface, field, how))


def noted() -> Notes:
    notes = Notes()
    notes.add("max_tokens", "clamped", "7 tokens")
    notes.add("max_tokens", "clamped", "8 tokens")
    notes.unknown("strange")
    return notes


def test_a_field_is_logged_once_per_client_and_counted_each_time() -> None:
    ear = Ear()
    desk = Desk("chat", ear.tell)
    with capture_logs() as logs:
        for client in ("ann", "ann", "bob"):
            desk.file(noted().taken, client)
    told = [(log["client"], log["field"], log["how"], log["log_level"]) for log in logs]
    assert told == [
        ("ann", "max_tokens", "clamped", "info"),
        ("ann", "strange", "ignored", "warning"),
        ("bob", "max_tokens", "clamped", "info"),
        ("bob", "strange", "ignored", "warning"),
    ]
    assert ear.heard == [("chat", "max_tokens", "clamped"), ("chat", "unknown", "ignored")] * 3


MODES: dict[UnknownFields, int] = {"ignore": 1, "warn": 2}


@pytest.mark.parametrize("mode", MODES)
def test_unknown_fields_are_named_or_not(mode: UnknownFields) -> None:
    ear = Ear()
    desk = Desk("chat", ear.tell, mode)
    desk.check_unknown(noted().taken)
    with capture_logs() as logs:
        desk.file(noted().taken, "ann")
    assert len(logs) == MODES[mode]
    assert len(ear.heard) == 2


def test_unknown_fields_can_be_refused() -> None:
    desk = Desk("chat", Ear().tell, "refuse")
    with pytest.raises(RequestError) as refusal:
        desk.check_unknown(noted().taken)
    assert (refusal.value.param, refusal.value.code) == ("strange", "unknown_parameter")
    known = Notes()
    known.add("user", "ignored")
    desk.check_unknown(known.taken)


def test_a_long_name_is_cut_in_the_log_and_memory_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_SEEN", 3)
    desk = Desk("chat", Ear().tell)
    with capture_logs() as logs:
        for at in range(5):
            notes = Notes()
            notes.unknown("x" * 500 if at == 0 else f"field-{at}")
            desk.file(notes.taken, "ann")
        notes = Notes()
        notes.unknown("field-4")
        desk.file(notes.taken, "ann")
        notes = Notes()
        notes.unknown("field-1")
        desk.file(notes.taken, "ann")
    assert len(logs[0]["field"]) == 64
    assert [log["field"] for log in logs[1:]] == [*(f"field-{at}" for at in range(1, 5)), "field-1"]
