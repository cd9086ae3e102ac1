import sys
from pathlib import Path

import pytest

from mlxserve_plugins.bench.client import BenchError
from mlxserve_plugins.bench.quality import QualityFlags, quality, text_of

FAKE = (sys.executable, str(Path(__file__).with_name("fake_server.py")))


async def test_each_width_is_compared_with_plain_kv(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("some words of a text that is read " * 10)
    flags = QualityFlags(text=str(text), bits=(8, 4), window=10, replies=2, reply_tokens=8)
    report = await quality(flags, ("--model", "m"), FAKE)
    plain, eight, four = report.rows
    assert [row["kv_bits"] for row in report.rows] == [16, 8, 4]
    assert (plain["kl"], plain["change_%"], plain["flips/1000"], plain["other_than_16"]) == (
        0.0, 0.0, 0.0, 0,
    )  # fmt: skip
    assert plain["perplexity"] == pytest.approx(1 / 0.75)
    assert 0.0 < eight["kl"] < four["kl"]
    assert (eight["flips/1000"], four["flips/1000"]) == (0.0, 1000.0)
    assert four["other_than_16"] == 2
    assert four["left/1000"] == pytest.approx(2000 / (2 * 5))
    assert four["other_in_company"] == 0
    assert "text: 80 tokens in 8 windows" in report.notes[0]


async def test_a_text_without_a_second_token_is_one_line(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("one")
    with pytest.raises(BenchError, match="too short"):
        await quality(QualityFlags(text=str(text)), ("--model", "m"), FAKE)


def test_the_text_is_what_the_package_says_of_itself() -> None:
    assert len(text_of("").split()) > 1000
