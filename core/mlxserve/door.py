"""The door: everything that a hook returns is looked at here, and answers for itself from then on.

An object that a plugin hands over is checked against its Protocol once. Then each of its calls is
seen: what it raises, or answers against its contract, is laid at the plugin's door, in the log and
in the figures, and what the hook's specification promises for that case happens instead.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import cache
from typing import Any, Final, get_args, get_origin, get_type_hints

from attrs import define, evolve, field, frozen

from mlxserve.families import FAMILIES, LOOSE, Family
from mlxserve.fitting import Member, fits, is_protocol, lacks, members, shown, spoken
from mlxserve_hookspecs import MlxserveError, PluginError, RequestError

SLOW: Final = 0.25
"""Seconds that a call may take while others wait for it, before the plugin is named for it."""

MEANT: Final = (MlxserveError, RequestError)
"""What a plugin may raise on purpose: passes through as it is."""

Kind = tuple[str, str]


class PluginCrashError(PluginError):
    """A plugin raised what it should not have: a bug, to be shown with its traceback."""


class MisfitError(TypeError):
    """A plugin answered with something else than its hook's contract says."""


@define(eq=False)
class Book:
    """Who failed and who was slow, by plugin and hook. Any thread.

    Attributes:
        failures: Calls that raised, or answered against their contract.
        delays: Calls that others had to wait for.
    """

    failures: Counter[Kind] = field(factory=Counter)
    delays: Counter[Kind] = field(factory=Counter)
    _lock: threading.Lock = field(factory=threading.Lock)

    def add(
        self, counts: Counter[Kind], who: "Caller", event: str, *, quiet: bool, **facts: Any
    ) -> None:
        """Count one more, and log the first, the second, the fourth, ...: no disk is filled."""
        with self._lock:
            counts[who.plugin, who.hook] += 1
            count = counts[who.plugin, who.hook]
        if quiet or count & (count - 1):
            return
        import structlog  # noqa: PLC0415 - not worth its import time when nothing fails

        note = structlog.get_logger("mlxserve.plugins").error
        note(event, hook=who.hook, plugin=who.plugin, culprit=who.owner, count=count, **facts)


@frozen
class Caller:
    """One plugin in one hook.

    Attributes:
        book: Where it is counted.
        plugin: The plugin's name.
        owner: The plugin as an error message names it, distribution and version included.
        hook: The hook's name.
    """

    book: Book = field(repr=False)
    plugin: str
    owner: str
    hook: str

    def failed(self, error: Exception, call: str = "", *, quiet: bool = False) -> None:
        """Count a failure, and log it unless somebody else does."""
        facts = {"call": call} if call else {}
        self.book.add(
            self.book.failures, self, "plugin failed", quiet=quiet, exc_info=error, **facts
        )

    def took(self, seconds: float, call: str = "") -> None:
        """Count and log a call that others had to wait for too long."""
        if seconds > SLOW:
            facts = {"seconds": round(seconds, 3)} | ({"call": call} if call else {})
            self.book.add(self.book.delays, self, "plugin is slow", quiet=False, **facts)

    def crashed(self, error: Exception, where: str = "") -> PluginCrashError:
        """Return what is raised in place of ``error``."""
        name = type(error).__name__
        words = str(error) if isinstance(error, MisfitError) else f"{name}: {error}".rstrip(": ")
        place = f"{self.hook} ({where})" if where else self.hook
        return PluginCrashError(f"{self.owner} failed in {place}: {words}")

    def admit(self, answer: Any, spec: Callable[..., object], asked: Mapping[str, Any]) -> Any:
        """Return ``answer`` as the core may use it.

        Args:
            answer: What the plugin returned from its hook.
            spec: The hook's specification.
            asked: The arguments that it was called with.

        Raises:
            MisfitError: It is not what the specification says.
        """
        hint, protocol = _promise(spec)
        if answer is None or protocol is None:
            if not fits(answer, hint):
                raise MisfitError(f"it answered {shown(answer)}, not {spoken(hint)}")
            return answer
        family = FAMILIES.get(protocol, LOOSE)
        if fault := lacks(answer, protocol):
            raise MisfitError(f"the {type(answer).__name__} that it made {fault}")
        return Guarded(answer, protocol, family, self, asked)


class Guarded:
    """A plugin's object in the core: has the same methods, and none of them can do harm.

    Other attributes than those of its Protocol are the object's own.
    """

    def __init__(
        self,
        inner: object,
        protocol: type,
        family: Family,
        caller: Caller,
        asked: Mapping[str, Any],
    ) -> None:
        self._inner, self._family = inner, family
        self._kinds = members(family.whole or protocol)
        self._caller, self._asked, self._gone = caller, asked, False
        for name, member in self._kinds.items():
            if member.words is not None:
                self.__dict__[name] = self._method(member)
            elif name not in members(protocol) and not hasattr(inner, name):
                self.__dict__[name] = self._instead(member, ())  # it may be left out, and is

    def __getattr__(self, name: str) -> Any:
        member = self._kinds.get(name)
        if member is None:
            return getattr(self._inner, name)
        return self._answer(member, lambda: getattr(self._inner, name), ())

    def _method(self, member: Member) -> Callable[..., Any]:
        method = getattr(self._inner, member.name, None)
        timed = member.name not in self._family.patient

        def call(*args: Any, **kwargs: Any) -> Any:
            if method is None:  # it may be left out, and is
                return self._instead(member, args)
            began = time.perf_counter()
            answer = self._answer(member, lambda: method(*args, **kwargs), args)
            if timed:
                self._caller.took(time.perf_counter() - began, member.name)
            return answer

        return call

    def _answer(self, member: Member, ask: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        """Return the object's answer, or what counts as one where it fails."""
        if self._gone:
            return self._instead(member, args)
        try:
            answer = ask()
            if isinstance(answer, Future) and (brought := _brought(member.hint)):
                late = evolve(member, hint=brought[0])
                return Later(answer, lambda ask: self._answer(late, ask, args))
            self._check(member, answer, args)
        except Exception as error:
            return self._failed(member, error, args)
        return answer

    def _check(self, member: Member, answer: Any, args: tuple[Any, ...]) -> None:
        if member.hint is not type(None) and not fits(answer, member.hint):
            words = f"{member.name} answered {shown(answer)}, not {spoken(member.hint)}"
            raise MisfitError(words)
        sound = self._family.sound.get(member.name)
        if sound is not None and (fault := sound(answer, args, self._asked)):
            raise MisfitError(f"{member.name} {fault}")

    def _failed(self, member: Member, error: Exception, args: tuple[Any, ...]) -> Any:
        told = member.name not in self._family.instead
        if told and isinstance(error, MEANT):
            raise error
        self._caller.failed(error, member.name)
        if told:
            raise self._caller.crashed(error, member.name) from error
        self._gone = self._family.final
        return self._instead(member, args)

    def _instead(self, member: Member, args: tuple[Any, ...]) -> Any:
        answer = self._family.instead[member.name]
        answer = answer(*args) if callable(answer) else answer
        if get_origin(member.hint) is not Future:
            return answer
        brought: Future[Any] = Future()
        brought.set_result(answer)
        return brought


def behind(thing: object) -> object:
    """Return the plugin's own object, for who must know what it is and asks it nothing."""
    return thing._inner if isinstance(thing, Guarded) else thing  # noqa: SLF001 - its own door


class Later(Future[Any]):
    """What a plugin brings later; read as if it could not fail.

    Args:
        future: The plugin's own.
        read: Reads it, or what counts as its answer.
    """

    def __init__(self, future: "Future[Any]", read: Callable[[Callable[[], Any]], Any]) -> None:
        super().__init__()
        self._theirs, self._read = future, read

    def done(self) -> bool:
        """Return whether it has come, or will not."""
        return self._theirs.done()

    def cancel(self) -> bool:
        """Tell the plugin that nobody waits any more."""
        return self._theirs.cancel()

    def add_done_callback(self, fn: Callable[["Future[Any]"], object]) -> None:
        """Call ``fn`` when it has come, on any thread."""
        self._theirs.add_done_callback(fn)

    def result(self, timeout: float | None = 0.0) -> Any:
        """Return what came; what has not come by now has failed."""
        return self._read(lambda: self._theirs.result(timeout))


@cache
def _brought(hint: Any) -> tuple[Any, ...]:
    """Return what a future brings, for an answer that may be one."""
    return next((get_args(h) for h in (hint, *get_args(hint)) if get_origin(h) is Future), ())


@cache
def _promise(spec: Callable[..., object]) -> tuple[Any, type | None]:
    """Return what a hook answers with, and the Protocol that this is, if it is one."""
    hint = get_type_hints(spec).get("return", Any)
    return hint, next(filter(is_protocol, get_args(hint)), None)
