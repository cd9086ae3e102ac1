"""What the dashboard counts from the server's start on, and which replies were slow of late."""

import heapq
from collections import Counter, deque
from typing import Any, Final

from attrs import define, field, frozen

from mlxserve_hookspecs import Finish

RECENT_S: Final = 300.0
"""Seconds for which something is of late."""

REPLIES: Final = 1024
SLOWEST: Final = 5
REFUSALS: Final = 4096
REASONS: Final = 64
"""Kinds of refusals that are told apart; whatever plugins think of beyond is one more."""

OTHER: Final = "other"


@frozen
class Reply:
    """A reply that ended: when, and its finish."""

    at: float
    finish: Finish

    def row(self, now: float) -> dict[str, Any]:
        """Return what a table shows of it: nothing of what was said."""
        finish, usage = self.finish, self.finish.usage
        first, more = finish.first_token_seconds, usage.completion_tokens - 1
        decoding = None if first is None else finish.total_seconds - first
        return {
            "ago_s": round(now - self.at, 1),
            "total_s": finish.total_seconds,
            "queued_s": finish.queue_seconds,
            "ttft_s": first,
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "reply_tokens": usage.completion_tokens,
            "tokens_per_s": more / decoding if decoding and more > 0 else None,
            "reason": finish.error.code or finish.reason if finish.error else finish.reason,
        }


@define(eq=False)
class Totals:
    """Counts since ``began``. Its owner holds a lock around every call."""

    began: float
    replies: Counter[str] = field(factory=Counter, init=False)
    refused: Counter[str] = field(factory=Counter, init=False)
    failed: Counter[str] = field(factory=Counter, init=False)
    cached: Counter[str] = field(factory=Counter, init=False)
    prompt_tokens: int = field(default=0, init=False)
    reply_tokens: int = field(default=0, init=False)
    drafted: int = field(default=0, init=False)
    accepted: int = field(default=0, init=False)
    _troubles: deque[float] = field(factory=lambda: deque(maxlen=REFUSALS), init=False)
    _last: deque[Reply] = field(factory=lambda: deque(maxlen=REPLIES), init=False)

    def ended(self, now: float, choice: int, finish: Finish) -> None:
        """Count a choice that ended; a request's prompt counts once."""
        self.replies[finish.reason] += 1
        self.reply_tokens += finish.usage.completion_tokens
        self._last.append(Reply(now, finish))
        if finish.error is not None:
            self._trouble(now, self.failed, finish.error.status, finish.error.code or OTHER)
        if choice == 0:
            self.prompt_tokens += finish.usage.prompt_tokens
            self.cached.update(finish.usage.cached_by_tier)

    def was_refused(self, now: float, status: int, code: str) -> None:
        """Count a request that was not let in."""
        self._trouble(now, self.refused, status, code or OTHER)

    def view(self, now: float) -> dict[str, Any]:
        """Return the counts."""
        return {
            "seconds": round(now - self.began, 1),
            "replies": dict(self.replies),
            "refused": dict(self.refused),
            "failed": dict(self.failed),
            "recent": sum(now - at <= RECENT_S for at in self._troubles),
            "prompt_tokens": self.prompt_tokens,
            "reply_tokens": self.reply_tokens,
            "cached": dict(self.cached),
            "drafts": {"drafted": self.drafted, "accepted": self.accepted},
        }

    def slowest(self, now: float) -> list[dict[str, Any]]:
        """Return the slowest replies of late, the slowest first."""
        late = (reply for reply in self._last if now - reply.at <= RECENT_S)
        found = heapq.nlargest(SLOWEST, late, key=lambda reply: reply.finish.total_seconds)
        return [reply.row(now) for reply in found]

    def _trouble(self, now: float, counts: Counter[str], status: int, code: str) -> None:
        name = f"{status} {code}"
        counts[name if name in counts or len(counts) < REASONS else OTHER] += 1
        self._troubles.append(now)
