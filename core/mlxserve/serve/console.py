"""Log lines for people at a terminal: local time, the plan as a table, readable requests."""

import re
import shutil
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import define
from structlog.typing import EventDict, WrappedLogger

PLAN: Final = "plan"
FINISHED: Final = "request finished"
REFUSED: Final = "request refused"
OURS: Final = "mlxserve"
LABEL: Final = 14
"""Columns of the plan's first column."""

LONGEST_LABEL: Final = 24
NARROWEST: Final = 60
DIGEST: Final = re.compile(r"[0-9a-f]{20,}")
SHORT_DIGEST: Final = 12

DIM, RED, YELLOW, BOLD, PLAIN = "\x1b[2m", "\x1b[31;1m", "\x1b[33m", "\x1b[1m", "\x1b[0m"
COLOURS: Final = {"warning": YELLOW, "error": RED, "critical": RED}
CONTEXT: Final = frozenset(("request_id", "method", "path"))
"""What lines about a request have for machines, to be joined by."""

NOT_FACTS: Final = CONTEXT | {"event", "level", "logger", "timestamp", "exception", "stack"}


@define(eq=False)
class ConsoleLines:
    """Renders an event as text, the last of structlog's processors.

    Attributes:
        colours: Whether the terminal shows them.
        width: Returns its columns.
    """

    colours: bool
    width: Callable[[], int] = lambda: shutil.get_terminal_size((100, 24)).columns
    _planning: bool = False

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> str:
        """Return the line, or lines where there is a traceback."""
        head = self._paint(DIM, str(event["timestamp"]))
        if event["event"] == PLAN and "detail" in event:
            began, self._planning = self._planning, True
            row = self._plan_row(str(event["detail"]))
            return row if began else f"{head} {self._paint(BOLD, PLAN)}\n{row}"
        self._planning = False
        level = str(event.get("level", ""))
        mark = f"{self._paint(COLOURS[level], level)} " if level in COLOURS else ""
        rest = "".join(f"\n{event[part]}" for part in ("stack", "exception") if event.get(part))
        return f"{head} {mark}{said(event)}{rest}"

    def _plan_row(self, detail: str) -> str:
        label, text = split_label(detail)
        text = DIGEST.sub(lambda found: f"{found[0][:SHORT_DIGEST]}…", text)
        return textwrap.fill(
            text,
            max(self.width(), NARROWEST),
            initial_indent=f"  {label:{LABEL}}  ",
            subsequent_indent=" " * (LABEL + 4),
            break_long_words=False,
            break_on_hyphens=False,
        )

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{PLAIN}" if self.colours else text


def split_label(detail: str) -> tuple[str, str]:
    """Return what a line of the plan is about, and what it says of it."""
    label, colon, text = detail.partition(": ")
    if colon and len(label) <= LONGEST_LABEL and " (" not in label:
        return label, text
    label, _, text = detail.partition(" ")
    return label, text


def said(event: Mapping[str, Any]) -> str:
    """Return an event in words: some have a sentence of their own, others list their facts."""
    if sentence := SENTENCES.get(str(event["event"])):
        return sentence(event)
    logger = str(event.get("logger", ""))
    source = "" if logger.partition(".")[0] == OURS or not logger else f"{logger}: "
    facts = " ".join(f"{k}={shown(v)}" for k, v in event.items() if k not in NOT_FACTS)
    return f"{source}{event['event']}  {facts}".rstrip()


def shown(value: object) -> str:
    """Return a fact's value; text with spaces is quoted."""
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return repr(text) if " " in text or not text else text


def request_line(event: Mapping[str, Any]) -> str:
    """Return how a request ended, in reading order."""
    cached = f" ({event['cached_tokens']} cached)" if event["cached_tokens"] else ""
    parts = [
        f"{event['endpoint'] or event['id']} {event['status']}",
        f"in {event['prompt_tokens']}{cached}",
        f"out {event['completion_tokens']}",
        None if event["ttft_seconds"] is None else f"TTFT {event['ttft_seconds']:.2f} s",
        None if event["tokens_per_s"] is None else f"{event['tokens_per_s']:.1f} tokens/s",
        f"error {event['error']}" if "error" in event else str(event["reason"]),
        f"choice {event['choice']}" if event["choice"] else None,
    ]
    return "  ".join(part for part in parts if part is not None)


def refusal_line(event: Mapping[str, Any]) -> str:
    """Return which request was refused, and why."""
    endpoint = f"{event['method']} {event['path']} " if "method" in event else ""
    field = f" ({event['field']})" if event.get("field") else ""
    return f"{endpoint}{event['status']}  refused: {event['reason'] or 'no reason given'}{field}"


def shutdown_line(event: Mapping[str, Any]) -> str:
    """Return what a signal set off, how long it may take, and what a second one does."""
    count = event["running"] + event["waiting"]
    again = "Ctrl-C again" if event["signal"] == "SIGINT" else "a second signal"
    if not count:
        return f"shutting down: writing what is cached; {again} ends at once and loses it"
    requests = "1 request" if count == 1 else f"{count} requests"
    wait = f"waiting up to {event['timeout_s']:g} s for {requests}, then writing what is cached"
    return f"shutting down: {wait}; {again} ends at once and loses both"


SENTENCES: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    FINISHED: request_line,
    REFUSED: refusal_line,
    "shutting down": shutdown_line,
}
