"""API keys: what a file of them means, and who presents one."""

import hmac
import time
from collections.abc import Callable
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Final, TypeAlias

from attrs import define, field, frozen

from mlxserve_hookspecs import SettingError

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at whether the file has changed."""

Stamp: TypeAlias = tuple[int, int, int]


@frozen
class Key:
    """A key that is known by its digest only.

    Attributes:
        tenant: Whose it is.
        digest: Equally long for every key, so that comparing tells nothing of their lengths.
    """

    tenant: str
    digest: bytes = field(repr=False)

    @classmethod
    def of(cls, tenant: str, key: str) -> "Key":
        """Return the key of ``tenant``."""
        return cls(tenant, sha256(key.encode()).digest())


def check_key(key: str) -> str | None:
    """Return what is wrong with ``key``, if something is: it must survive an HTTP header."""
    if not key:
        return "must not be empty"
    if not (key.isascii() and key.isprintable()) or " " in key:
        return "must be printable ASCII without spaces"
    return None


def parse_keys(text: str, where: str) -> tuple[Key, ...]:
    """Return the keys of a file's text: ``KEY`` or ``NAME:KEY`` a line, ``#`` begins a comment.

    Several keys of one name belong to one tenant, so that a key can be replaced without a gap. A
    key without a name is called by its line.

    Raises:
        SettingError: A line is neither; the message does not quote it.
    """
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        name, colon, key = entry.partition(":")
        if not colon:
            name, key = "", entry
        if reason := check_key(key.strip()):
            raise SettingError(f"line {number} of {where}: the key {reason}")
        keys.append(Key.of(name.strip() or f"key-{number}", key.strip()))
    return tuple(keys)


def find_tenant(keys: tuple[Key, ...], token: str) -> str | None:
    """Return whose key ``token`` is; compares with every key, in the same time for each."""
    # Headers are decoded as Latin-1; a key is ASCII, so that another character never matches.
    digest = sha256(token.encode("utf-8", "surrogateescape")).digest()
    found = [key.tenant for key in keys if hmac.compare_digest(key.digest, digest)]
    return found[0] if found else None


@define
class Keyring:
    """The keys of a run: one that is fixed, and a file's, read again when the file changes.

    Lives on the event loop. A file that cannot be read, or has a line that is no key, leaves the
    keys as they were; a file without keys means that none of its keys is valid any more.

    Attributes:
        fixed: Keys that do not change.
        path: The file.
        clock: Monotonic seconds.
    """

    fixed: tuple[Key, ...] = ()
    path: Path | None = None
    clock: Callable[[], float] = time.monotonic
    _read: tuple[Key, ...] = ()
    _stamp: Stamp | None = None
    _looked: float = -inf
    _complaint: str = ""

    @property
    def required(self) -> bool:
        """Whether clients need a key: also when the file holds none for the moment."""
        return bool(self.fixed) or self.path is not None

    def load(self) -> None:
        """Read the file now.

        Raises:
            SettingError: It cannot be read, has a line that is no key, or has no key.
        """
        if self.path is None:
            return
        self._reread(self.path)
        if not self._read:
            raise SettingError(f"--api-key-file {self.path} holds no key; write one per line")

    def tenant(self, token: str) -> str | None:
        """Return whose key ``token`` is; ``None`` is nobody's."""
        self._look()
        return find_tenant((*self.fixed, *self._read), token)

    def _look(self) -> None:
        now = self.clock()
        if self.path is None or now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        try:
            self._reread(self.path)
        except SettingError as error:
            self._complain(str(error))

    def _reread(self, path: Path) -> None:
        try:
            about = path.stat()
            stamp = (about.st_mtime_ns, about.st_size, about.st_ino)
            if stamp == self._stamp:
                return
            text = path.read_text("utf-8-sig")
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            words = f"--api-key-file {path} cannot be read: {reason}"
            raise SettingError(f"{words}; name a file with one key per line") from error
        self._read = parse_keys(text, f"--api-key-file {path}")
        self._stamp, self._complaint = stamp, ""

    def _complain(self, words: str) -> None:
        """Log a complaint once, not every second."""
        if words != self._complaint:
            import structlog  # noqa: PLC0415 - not worth its import time when nothing fails

            self._complaint = words
            structlog.get_logger("mlxserve.auth").error("API keys stay as they were", reason=words)
