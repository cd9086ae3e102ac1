"""Find stop strings in text that arrives piece by piece."""

from collections.abc import Sequence

from attrs import define, field


class StopMatcher:
    """Watches one reply for stop strings, across the borders of tokens.

    The stop string that is complete first ends the reply; of several that end at the same
    character the longest, which starts first. The outcome does not depend on how the text was
    cut into pieces. Empty strings never match.

    Each string has a Knuth-Morris-Pratt automaton, so that a character costs constant time
    however long the strings are.

    Args:
        strings: The stop strings.
        skip: Pairs of markers between which, and in which, nothing is looked for; an empty second
            one stands for the end of the reply. What may be the start of a first one is held back.
        within: Whether the reply begins between the first pair.
    """

    def __init__(
        self,
        strings: Sequence[str],
        skip: Sequence[tuple[str, str]] = (),
        *,
        within: bool = False,
    ) -> None:
        self._watches = [_Watch(string) for string in dict.fromkeys(strings) if string]
        self._held = ""
        self._found: str | None = None
        pairs = [(first, last) for first, last in skip if first and self._watches]
        self._spans = Spans(pairs, within=within) if pairs else None

    def feed(self, text: str) -> tuple[str, str | None]:
        """Take the next piece of the reply.

        Returns:
            Text that is safe to show, and the stop string that was found, if one was. What
            cannot be told from the start of a stop string yet is held back; a stop string and
            all that follows it is dropped.
        """
        if self._spans is None or self._found is not None:
            return self._feed(text)
        shown = ""
        for skipped, piece in self._spans.feed(text):
            if skipped:
                shown += self._rest() + piece
                continue
            safe, found = self._feed(piece)
            shown += safe
            if found is not None:
                return shown, found
        return shown, None

    def _feed(self, text: str) -> tuple[str, str | None]:
        if self._found is not None:
            return "", self._found
        if not self._held and not any(watch.string[0] in text for watch in self._watches):
            return text, None
        for position, char in enumerate(text):
            found = self._step(char)
            if found is not None:
                return self._stop(self._held + text[: position + 1], found)
        return self._release(self._held + text)

    def flush(self) -> str:
        """Return what was held back: the reply ended, and no stop string came of it."""
        if self._found is not None:
            return ""
        held = "" if self._spans is None else self._spans.flush()
        # What may have been the start of a marker and was none is text like any other.
        shown, found = self._feed(held)
        return shown if found is not None else shown + self._rest()

    def _rest(self) -> str:
        text, self._held = self._held, ""
        for watch in self._watches:
            watch.matched = 0
        return text

    def _step(self, char: str) -> str | None:
        done = [watch.string for watch in self._watches if watch.advance(char)]
        return max(done, key=len) if done else None

    def _stop(self, text: str, found: str) -> tuple[str, str]:
        self._found, self._held = found, ""
        return text[: len(text) - len(found)], found

    def _release(self, text: str) -> tuple[str, None]:
        safe = len(text) - max(watch.matched for watch in self._watches)
        self._held = text[safe:]
        return text[:safe], None


class Spans:
    """Tells what stands between markers from what does not, as text arrives.

    Args:
        pairs: First and last markers.
        within: Whether the text begins between the first pair.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]], *, within: bool = False) -> None:
        self._pairs = pairs
        self._last: str | None = pairs[0][1] if within else None
        self._held = ""

    def feed(self, text: str) -> list[tuple[bool, str]]:
        """Return pieces in order, each with whether it is within a span or a marker of one."""
        self._held += text
        found: list[tuple[bool, str]] = []
        while True:
            inside = self._last is not None
            marks = [self._last or ""] if inside else [first for first, _ in self._pairs]
            at, mark = _first_of(self._held, marks)
            if not mark:
                keep = _open_end(self._held, marks)
                piece, self._held = _cut(self._held, len(self._held) - keep)
                return [*found, (inside, piece)] if piece else found
            before, self._held = self._held[:at], self._held[at + len(mark) :]
            found += [(inside, before), (True, mark)]
            self._last = None if inside else dict(self._pairs)[mark]

    def flush(self) -> str:
        """Return what was held back: nothing comes of it."""
        text, self._held = self._held, ""
        return text


def _first_of(text: str, marks: Sequence[str]) -> tuple[int, str]:
    """Return where the first of ``marks`` is, the longer of two at one place, and which."""
    found = [(at, -len(mark), mark) for mark in marks if mark and (at := text.find(mark)) >= 0]
    return (min(found)[0], min(found)[2]) if found else (-1, "")


def _open_end(text: str, marks: Sequence[str]) -> int:
    """Return how much of the end of ``text`` may be the start of a mark."""
    most = min(len(text), max(map(len, marks)) - 1)
    tails = (size for size in range(most, 0, -1) if any(m.startswith(text[-size:]) for m in marks))
    return next(tails, 0)


def _cut(text: str, at: int) -> tuple[str, str]:
    return text[:at], text[at:]


@define
class _Watch:
    """One stop string, and how much of it the text so far ends with."""

    string: str
    matched: int = 0
    _borders: list[int] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._borders = _borders_of(self.string)

    def advance(self, char: str) -> bool:
        """Take one character; return whether the string is complete."""
        while self.matched and self.string[self.matched] != char:
            self.matched = self._borders[self.matched - 1]
        if self.string[self.matched] == char:
            self.matched += 1
        return self.matched == len(self.string)


def _borders_of(string: str) -> list[int]:
    """Return, for each prefix, the length of its longest proper prefix that is its suffix too."""
    borders = [0] * len(string)
    length = 0
    for index in range(1, len(string)):
        while length and string[index] != string[length]:
            length = borders[length - 1]
        if string[index] == string[length]:
            length += 1
        borders[index] = length
    return borders
