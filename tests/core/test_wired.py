"""Memory that stays wired on Metal, with a made-up machine."""

from typing import Any

import mlx.core as mx
import pytest

from mlxserve.model.wired import wire, wired
from mlxserve.values import convert
from mlxserve_hookspecs import SettingError

MAC = {"max_recommended_working_set_size": 24_000_000_000, "memory_size": 32_000_000_000}


@pytest.mark.parametrize(
    ("limit", "device", "size", "said"),
    [
        ("auto", MAC, 24_000_000_000, "wired limit: 24.0 GB of 32.0"),
        (12.5, MAC, 12_500_000_000, "wired limit: 12.5 GB of 32.0"),
        (2, {}, 2_000_000_000, "wired limit: 2.0 GB"),
        ("off", MAC, None, "wired limit: off"),
        ("auto", {}, None, "wired limit: off"),
    ],
    ids=["recommended", "gigabytes", "a machine that says nothing", "off", "nothing recommended"],
)
def test_limit_is_set_and_told(limit: Any, device: Any, size: int | None, said: str) -> None:
    told: list[int] = []
    assert wired(limit, device, told.append).startswith(said)
    assert told == ([] if size is None else [size])


def test_more_than_the_machine_allows_is_a_mistake() -> None:
    told: list[int] = []
    with pytest.raises(SettingError, match=r"--wired-limit 28.* 24\.0 GB .*iogpu\.wired_limit_mb"):
        wired(28.0, MAC, told.append)
    assert told == []


def test_where_no_metal_is_only_who_asked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    monkeypatch.setattr(mx, "set_wired_limit", lambda _: pytest.fail("it was set"))
    assert wire("auto") is None
    assert wire("off") is None
    assert wire(4.0) == "wired limit: none, for there is no Metal here"


@pytest.mark.parametrize(("word", "value"), [("auto", "auto"), ("off", "off"), ("12", 12.0)])
def test_words_and_numbers_are_told_apart(word: str, value: object) -> None:
    from mlxserve.options import WiredLimit

    assert convert(WiredLimit, word) == value
