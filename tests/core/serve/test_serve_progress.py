import io

import structlog

from mlxserve.serve.progress import Bars, Lines, make_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_bars_and_a_file_gets_lines() -> None:
    assert isinstance(make_progress(Terminal()), Bars)
    assert isinstance(make_progress(io.StringIO()), Lines)


def test_a_bar_is_drawn_for_each_thing() -> None:
    out = Terminal()
    bars = Bars(out)
    for done in (0, 50, 100, 100):
        bars("downloading", done, 100)
    bars("converting", 3, None)
    bars.close()
    bars.close()
    shown = out.getvalue()
    assert "downloading: 100%" in shown
    assert shown.count("\n") == 2
    assert "converting: 3.00" in shown


def test_lines_tell_start_and_end_and_sometimes_between() -> None:
    now = [0.0]
    lines = Lines(interval=10.0, clock=lambda: now[0])
    with structlog.testing.capture_logs() as logs:
        for second in range(26):
            now[0] = float(second)
            lines("downloading", second * 4, 100)
        lines("downloading", 100, 100)
        lines("converting", 0, None)
        lines.close()
    assert [(entry["what"], entry["done"]) for entry in logs] == [
        ("downloading", 0),
        ("downloading", 40),
        ("downloading", 80),
        ("downloading", 100),
        ("converting", 0),
    ]
