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
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._watches = [_Watch(string) for string in dict.fromkeys(strings) if string]
        self._held = ""
        self._found: str | None = None

    def feed(self, text: str) -> tuple[str, str | None]:
        """Take the next piece of the reply.

        Returns:
            Text that is safe to show, and the stop string that was found, if one was. What
            cannot be told from the start of a stop string yet is held back; a stop string and
            all that follows it is dropped.
        """
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
