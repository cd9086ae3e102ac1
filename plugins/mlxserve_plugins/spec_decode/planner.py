"""How far to guess ahead: as far as it pays, by what passes cost and guesses are worth."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil, prod
from typing import Final

from attrs import define, field, frozen

from mlxserve_hookspecs import DraftRoom, Iteration, Verdict
from mlxserve_plugins.spec_decode.costs import Costs
from mlxserve_plugins.spec_decode.record import Record

FLOOR: Final = 0.95
"""No row may expect less than this share of its plain speed, whatever the others gain."""

MARGIN: Final = 1.05
"""What drafts must promise, in plain speed: of several uncertain promises the best is too good."""

UNSYNCED: Final = 0.05
"""What asking in vain costs, in plain steps: the next step is not launched ahead."""

WORTH: Final = 0.1
"""A draft goes on as long as its next token is this probable to stay."""

FIRST_PAUSE, LAST_PAUSE = 32, 256
"""Steps from one probe to the next: the first time, and when probes keep failing."""

PROBING: Final = 0.01
"""Share of the time that probes may take: what one cost is earned back before the next."""

PROBE: Final = 2
"""Draft tokens of a probe."""

REFRESH: Final = 100
"""Passes after which a plain step is measured again."""

RESTING: Final = 3
"""Steps that measuring a plain one takes: the first is launched late, the next is measured."""

FLEET_FADING: Final = 0.98
"""All rows' record forgets slowly: it is what a new row starts from."""


@frozen(kw_only=True)
class Policy:
    """What the user chose.

    Attributes:
        most: Draft tokens of a row.
        most_rows: Nothing is drafted for more decoding rows than this.
        dynamic: Draft only where it pays.
        adaptive: Choose the length too, not only whether.
    """

    most: int = 5
    most_rows: int = 8
    dynamic: bool = True
    adaptive: bool = True


@frozen
class Outlook:
    """One row as the choice of a width sees it.

    Attributes:
        most: Draft tokens that it can use.
        coverage: How probable it is to have a draft.
        survival: How probable it is that so much of a draft stays, by length.
    """

    most: int
    coverage: float
    survival: Sequence[float]

    def tokens(self, width: int) -> float:
        """Return how many tokens a pass of ``width`` is expected to give."""
        return 1.0 + self.coverage * sum(self.survival[: min(width - 1, self.most)])

    def length(self, width: int) -> int:
        """Return how far to draft within ``width``; at least 1, so that the record stays fresh."""
        worth = sum(1 for chance in self.survival[: width - 1] if chance >= WORTH)
        return min(max(worth, 1), self.most)


def gain(rows: Sequence[Outlook], width: int, plain: float, cost: float) -> float:
    """Return how much faster than plain a pass of ``width`` is expected to be.

    Over all rows together; 0 if one of them would fall below ``FLOOR``.

    Args:
        rows: Everybody in the pass.
        width: Tokens per row.
        plain: Seconds of a step without drafts.
        cost: Seconds of the pass.
    """
    nobody = prod(1.0 - row.coverage for row in rows if row.most)
    expected = (1.0 - nobody) * cost + nobody * plain * (1.0 + UNSYNCED)
    tokens = [row.tokens(width) for row in rows]
    if min(tokens) * plain < FLOOR * expected:
        return 0.0
    return sum(tokens) / len(rows) * plain / expected


def best_width(rows: Sequence[Outlook], costs: Costs, widths: Sequence[int]) -> int:
    """Return the width that gives the most tokens per second; 1 is not to draft."""
    plain = costs.plain(len(rows))
    if plain is None:
        return 1
    gains = {1: MARGIN}
    for width in widths:
        gains[width] = gain(rows, width, plain, costs.of(len(rows), width) or plain)
    return max(gains, key=lambda width: gains[width])


@define(eq=False)
class Planner:
    """The controller: engine thread, but for ``state``.

    Attributes:
        policy: What the user chose.
        costs: What passes cost.
        fleet: All rows' record.
        chosen: How often each draft length was chosen for a row.
        probes: Probes so far.
    """

    policy: Policy
    costs: Costs = field(factory=Costs)
    fleet: Record = field(init=False)
    chosen: Counter[int] = field(factory=Counter)
    probes: int = 0
    _records: dict[int, Record] = field(factory=dict)
    _asked: dict[int, int] = field(factory=dict)
    _steady: int = 0
    _rest: int = 0
    _pause: int = FIRST_PAUSE
    _until_probe: int = FIRST_PAUSE
    _debt: int = 0
    _probing: bool = False
    _clouded: bool = False

    def __attrs_post_init__(self) -> None:
        self.fleet = Record(self.policy.most, fading=FLEET_FADING)

    def plan(self, rows: Sequence[DraftRoom]) -> Mapping[int, int]:
        """Return the draft lengths."""
        self._judge({})
        lengths = self._lengths(rows)
        self._asked = {uid: length for uid, length in lengths.items() if length}
        self.chosen.update(lengths.get(row.uid, 0) for row in rows)
        if self._asked:
            self._steady = 0
        return self._asked

    def learn(self, verdicts: Sequence[Verdict], seconds: float) -> None:
        """Learn what was accepted, and what the pass cost unless a prefill ran beside it."""
        self._steady = 0
        if self._probing:
            self._owe(verdicts, seconds)
        self._judge({v.uid: v for v in verdicts})
        width = 1 + max((v.drafted for v in verdicts), default=0)
        if not self._clouded and width > 1:
            self.costs.took(len(verdicts), width, seconds)

    def iterated(self, iteration: Iteration) -> None:
        """Learn what a plain step costs, where the one before it was plain as well."""
        self._clouded = iteration.prefilled > 0
        if self._clouded:
            self._steady = 0
            return
        if self._steady and iteration.decoded:
            self.costs.took_plain(iteration.decoded, iteration.seconds)
        self._steady += 1

    def finished(self, uids: Sequence[int]) -> None:
        """Forget their records."""
        for uid in uids:
            self._records.pop(uid, None)
            self._asked.pop(uid, None)

    def state(self) -> dict[str, object]:
        """Return what it knows, for people; safe on any thread."""
        return {
            "dynamic": self.policy.dynamic,
            "adaptive": self.policy.adaptive,
            "max_draft_tokens": self.policy.most,
            "disable_batch_size": self.policy.most_rows,
            "expected_acceptance": [round(rate, 4) for rate in self.fleet.survival()],
            "draft_coverage": round(self.fleet.coverage, 4),
            "chosen_draft_tokens": {str(k): n for k, n in sorted(self.chosen.copy().items())},
            "milliseconds_by_rows_and_width": self.costs.table(),
            "probes": self.probes,
            "steps_to_next_probe": max(self._until_probe, self._debt, 0),
        }

    def _lengths(self, rows: Sequence[DraftRoom]) -> dict[int, int]:
        if not 0 < len(rows) <= self.policy.most_rows:
            return {}
        if not self.policy.dynamic:
            return {row.uid: min(row.most, self.policy.most) for row in rows}
        if self._measures_plain(len(rows)):
            return {}
        return self._worthwhile(rows)

    def _worthwhile(self, rows: Sequence[DraftRoom]) -> dict[int, int]:
        looks = {row.uid: self._outlook(row) for row in rows}
        lengths = range(1, self.policy.most + 1) if self.policy.adaptive else [self.policy.most]
        width = best_width(list(looks.values()), self.costs, [k + 1 for k in lengths])
        self._probing = width == 1 and self._probe_is_due()
        if self._probing:
            return {row.uid: min(row.most, PROBE, self.policy.most) for row in rows}
        if width == 1:
            return {}
        self._until_probe = self._pause = FIRST_PAUSE
        self._debt = 0
        if self.policy.adaptive:
            return {uid: look.length(width) for uid, look in looks.items()}
        return {row.uid: min(row.most, width - 1) for row in rows}

    def _measures_plain(self, rows: int) -> bool:
        """Whether this step must be plain, because nobody knows (any more) what that costs."""
        if self._rest == 0 and self.costs.passes_since_plain(rows) >= REFRESH:
            self.costs.restart(rows)
            self._rest = RESTING
        if self._rest:
            self._rest -= 1
            return True
        return self.costs.plain(rows) is None

    def _probe_is_due(self) -> bool:
        self._until_probe -= 1
        self._debt -= 1
        if self._until_probe > 0 or self._debt > 0:
            return False
        self._pause = min(2 * self._pause, LAST_PAUSE)
        self._until_probe = self._pause
        self.probes += 1
        return True

    def _owe(self, verdicts: Sequence[Verdict], seconds: float) -> None:
        """Put the next probe off for as long as this one's price is ``PROBING`` of."""
        plain = self.costs.plain(len(verdicts))
        if plain is not None:
            tokens = 1.0 + sum(v.accepted for v in verdicts) / len(verdicts)
            self._debt = ceil((seconds / plain - tokens) / PROBING)

    def _outlook(self, row: DraftRoom) -> Outlook:
        if not row.most:
            return Outlook(0, 0.0, ())
        record = self._record(row.uid)
        return Outlook(row.most, record.coverage, record.survival())

    def _record(self, uid: int) -> Record:
        record = self._records.get(uid)
        if record is None:
            record = self._records[uid] = Record(self.policy.most, prior=self.fleet)
            self._pause = FIRST_PAUSE
            self._until_probe = min(self._until_probe, FIRST_PAUSE)
        return record

    def _judge(self, verdicts: Mapping[int, Verdict]) -> None:
        """Settle what was asked for; rows without a verdict had no draft."""
        for uid in self._asked:
            verdict = verdicts.get(uid)
            for record in (self._record(uid), self.fleet):
                if verdict is None or not verdict.drafted:
                    record.missed()
                else:
                    record.judged(verdict.drafted, verdict.accepted)
        drafts = [v for v in verdicts.values() if v.drafted]
        if self._probing and drafts and all(v.accepted == v.drafted for v in drafts):
            self._until_probe = 1  # everything stayed: look again at once
        self._asked = {}
