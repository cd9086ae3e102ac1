"""Decide which plugins run: the default set, and who was named in or out."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from attrs import field, frozen

from mlxserve_hookspecs import PluginError, SettingError

OUT: Final = "no:"


@frozen
class Word:
    """One plugin, named in or out.

    Attributes:
        name: The plugin.
        on: Whether it is to run.
        strength: How strongly that was meant; the strongest word about a plugin counts.
        origin: Where it was said.
        speaker: The plugin whose option said it; ``None`` for ``--plugins``.
    """

    name: str
    on: bool
    strength: int
    origin: str
    speaker: str | None = None


@frozen
class Choice:
    """The outcome.

    Attributes:
        names: The active plugins, the first asked first.
        verdicts: The word that counted, for every plugin that any word is about.
    """

    names: tuple[str, ...]
    verdicts: dict[str, Word] = field(factory=dict)


def read_words(raw: Any, strength: int, origin: str, speaker: str | None = None) -> list[Word]:
    """Read ``a,b,no:c`` or a list of such words.

    Raises:
        SettingError: It is neither.
    """
    parts = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        raise SettingError(f"plugins must be a list of names, not {raw!r} (set by {origin})")
    names = [name for part in parts if (name := part.strip())]
    return [
        Word(name.removeprefix(OUT), not name.startswith(OUT), strength, origin, speaker)
        for name in names
    ]


def choose(words: Iterable[Word], default: Sequence[str]) -> Choice:
    """Weigh ``words`` against each other and against the default set.

    Plugins named by the user come first, in the order named; then those that an option turned on;
    then the rest of the default set in its own order.

    Raises:
        PluginError: Two equally strong words about a plugin contradict each other.
    """
    ranked = sorted(words, key=lambda word: -word.strength)  # stable: keeps the order named
    verdicts: dict[str, Word] = {}
    for word in ranked:
        rival = verdicts.setdefault(word.name, word)
        if rival.strength == word.strength and rival.on != word.on:
            raise _contradiction(rival, word)
    on = [word for word in verdicts.values() if word.on]
    order = [
        *(word.name for word in on if word.speaker is None),
        *(word.name for word in on if word.speaker and word.name not in default),
        *(name for name in default if name not in verdicts or verdicts[name].on),
    ]
    return Choice(tuple(dict.fromkeys(order)), verdicts)


def _contradiction(one: Word, other: Word) -> PluginError:
    on, off = (one, other) if one.on else (other, one)
    return PluginError(
        f"{on.origin} turns plugin {on.name!r} on and {off.origin} turns it off; choose one"
    )
