"""What each benchmark can be told, declared once: flag, default, help, reading."""

from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from attrs import field, fields, frozen

from mlxserve_hookspecs import SettingError

HELP: Final = "help"
READ: Final = "read"
T = TypeVar("T")


def flag(default: Any, about: str, read: Callable[[str], Any] = str) -> Any:
    """Declare a flag: an attrs field whose name, with hyphens, is the flag's.

    Args:
        default: Its value if it is not given; ``False`` makes it a switch.
        about: One line of help.
        read: Turns what was typed into a value; raises ``ValueError`` with a reason.
    """
    return field(default=default, metadata={HELP: about, READ: read})


def count(text: str) -> int:
    """Read a whole number of at least 1."""
    return _at_least(int(text), 1)


def natural(text: str) -> int:
    """Read a whole number of at least 0."""
    return _at_least(int(text), 0)


def counts(text: str) -> tuple[int, ...]:
    """Read whole numbers with commas between them."""
    return tuple(count(word) for word in text.split(","))


def naturals(text: str) -> tuple[int, ...]:
    """Read whole numbers of at least 0 with commas between them."""
    return tuple(natural(word) for word in text.split(","))


def positive(text: str) -> float:
    """Read a finite number above 0."""
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise ValueError(f"{text} is not a number above 0")
    return value


def address(text: str) -> str:
    """Read a server's address; ``/v1`` at its end is not needed."""
    if not text.startswith(("http://", "https://")):
        raise ValueError(f"{text} is no address: write http://HOST:PORT")
    return text.rstrip("/").removesuffix("/v1")


def addresses(text: str) -> tuple[str, ...]:
    """Read addresses with commas between them."""
    return tuple(address(word) for word in text.split(","))


def add_flags(parser: ArgumentParser, kinds: Mapping[str, type[Any]]) -> None:
    """Add every flag of every benchmark, each with the names of those that have it."""
    users: dict[str, list[str]] = {}
    declared: dict[str, Any] = {}
    for name, kind in kinds.items():
        for one in fields(kind):
            users.setdefault(one.name, []).append(name)
            declared.setdefault(one.name, one)
    for name, one in declared.items():
        whose = "" if len(users[name]) == len(kinds) else f" [{', '.join(users[name])}]"
        about = f"{one.metadata[HELP]}{_shown(name, users[name], kinds)}{whose}"
        how: dict[str, Any] = {"action": "store_true"} if one.default is False else {}
        parser.add_argument(
            _spelled(name), dest=name, default=SUPPRESS, help=about.replace("%", "%%"), **how
        )


def read_flags(kind: type[T], name: str, typed: Mapping[str, Any]) -> T:
    """Return a benchmark's settings.

    Args:
        kind: Its class of settings.
        name: The benchmark.
        typed: What was typed, by field.

    Raises:
        SettingError: A value is wrong, or belongs to another benchmark.
    """
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    values = {}
    for key, raw in typed.items():
        if key not in known:
            raise SettingError(f"bench {name} has no flag {_spelled(key)}")
        try:
            values[key] = raw if isinstance(raw, bool) else known[key].metadata[READ](raw)
        except ValueError as error:
            raise SettingError(f"{_spelled(key)} {raw}: {error}") from error
    return kind(**values)


@frozen(kw_only=True)
class Common:
    """What every benchmark can be told."""

    json: bool = flag(False, "print JSON")
    output: str = flag("", "folder that gets everything as NAME.json, for bench report")
    name: str = flag("", "name of that file; by default the benchmark's")
    plots: bool = flag(False, "draw PNG plots there too; needs matplotlib (extra bench)")
    seed: int | None = flag(None, "make the same prompts again; by default new ones", natural)
    api_key: str = flag("", "a key of the server ($OPENAI_API_KEY)")
    model: str = flag("", "the model to ask for; by default the first that the server lists")


@frozen(kw_only=True)
class Target(Common):
    """Which server is measured."""

    url: str = flag("http://127.0.0.1:8000", "the server", address)


@frozen(kw_only=True)
class Compared(Target):
    """Which servers are measured in turns."""

    baseline_url: tuple[str, ...] = flag(
        (), "servers to measure in turns with --url, commas between them", addresses
    )

    @property
    def urls(self) -> Sequence[str]:
        """The servers, the one of interest first."""
        return (self.url, *self.baseline_url)


def need_words(name: str, words: Sequence[str]) -> None:
    """Return if it is said what a benchmark that starts servers is to serve.

    Raises:
        SettingError: It is not.
    """
    if not words:
        raise SettingError(f"say what to serve: bench {name} -- --model MODEL")


def _at_least(value: int, least: int) -> int:
    if value < least:
        raise ValueError(f"{value} is below {least}")
    return value


def _spelled(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shown(name: str, users: Sequence[str], kinds: Mapping[str, type[Any]]) -> str:
    defaults = {user: getattr(fields(kinds[user]), name).default for user in users}
    shown = {_default_text(value) for value in defaults.values()}
    if len(shown) == 1:
        (text,) = shown
        return f" (default: {text})" if text else ""
    each = (f"{user} {_default_text(value)}" for user, value in defaults.items())
    return f" (default: {', '.join(each)})"


def _default_text(value: Any) -> str:
    if value is None or value is False or not value:
        return ""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
