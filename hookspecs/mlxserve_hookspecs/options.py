"""Declare an option once; the core turns it into a flag, a variable, a TOML key and help."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import field, frozen

METADATA_KEY: Final = "mlxserve"


@frozen
class Option:
    """What a field says about itself beyond its type and default."""

    help: str
    flag: str | None = None
    env: tuple[str, ...] = ()
    secret: bool = False
    switches: Mapping[Any, Sequence[str]] = {}
    common: bool = False


def option(
    default: Any,
    about: str,
    *,
    flag: str | None = None,
    env: str | Sequence[str] = (),
    check: Any = None,
    secret: bool = False,
    switches: Mapping[Any, Sequence[str]] | None = None,
    common: bool = False,
) -> Any:
    """Return an attrs field that a user can set; its annotation is its type.

    Args:
        default: The value when nobody sets one.
        about: One line for ``--help``, lower case, without a full stop.
        flag: The command-line flag, where ``--{plugin}-{field}`` would read badly. A ``bool``
            option named ``--ssd`` has ``--no-ssd`` too.
        env: Variables that set it, besides the ``MLXSERVE_*`` one that follows from the flag.
        check: An attrs validator, or a list of them.
        secret: Mask the value wherever it is printed.
        switches: For a value of this option, plugins to turn on and off, in the words of
            ``--plugins``: ``{"ngram": ["ngram"], "none": ["no:ngram"]}``.
        common: Most people set it: ``--help`` shows it, where ``--help-all`` shows every option.
    """
    names = (env,) if isinstance(env, str) else tuple(env)
    about_it = Option(about, flag, names, secret, switches or {}, common)
    return field(
        default=default, validator=check, metadata={METADATA_KEY: about_it}, repr=not secret
    )
