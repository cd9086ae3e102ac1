"""Call hooks with the types of their specifications.

``pluggy`` looks hooks up by name and answers ``Any``. Here the specification itself is the
name, so that an editor and a type checker see through the call to its signature. A plugin that
raises is named with its distribution.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from types import FunctionType, MappingProxyType, TracebackType
from typing import Any, ParamSpec, TypeVar, cast

from pluggy import HookCaller, HookImpl, PluginManager

from mlxserve_hookspecs import PROJECT, MlxserveError, PluginError, RequestError

P = ParamSpec("P")
R = TypeVar("R")

MEANT = (MlxserveError, RequestError)
"""What a hook may raise on purpose: passes through as it is."""


class PluginCrashError(PluginError):
    """A plugin raised what it should not have: a bug, to be shown with its traceback."""


class Failures:
    """Counts what plugins raised and should not have, by plugin and hook. Safe on any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counter[tuple[str, str]]()

    def add(self, plugin: str, hook: str) -> None:
        """Count one."""
        with self._lock:
            self._counts[plugin, hook] += 1

    def counted(self) -> dict[tuple[str, str], int]:
        """Return the counts so far, by plugin and hook."""
        with self._lock:
            return dict(self._counts)


class Manager(PluginManager):
    """A plugin manager that knows which distribution each plugin came with, and who failed."""

    def __init__(self, distributions: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(PROJECT)
        self.distributions = dict(distributions)
        self.failures = Failures()


def ask(manager: PluginManager, spec: Callable[P, R]) -> Callable[P, R]:
    """Return the caller of a ``firstresult`` hook: the first plugin to answer is heard.

    The caller takes keyword arguments only. What a plugin raises becomes ``PluginCrashError``.
    """
    return cast(Callable[P, R], _guarded(manager, spec))


def gather(manager: PluginManager, spec: Callable[P, R | None]) -> Callable[P, list[R]]:
    """Return the caller of a hook that every plugin may answer; raises like ``ask``'s."""
    return cast(Callable[P, list[R]], _guarded(manager, spec))


def tell(manager: PluginManager, spec: Callable[P, None]) -> Callable[P, None]:
    """Return the caller of an event: every plugin hears it, whatever the others do.

    A plugin that raises is logged and counted; only a user's mistake (``MlxserveError``) passes
    through.
    """
    each = answers(manager, cast(Callable[P, object], spec))

    def announce(*args: P.args, **kwargs: P.kwargs) -> None:
        each(*args, **kwargs)

    return announce


def answers(
    manager: PluginManager, spec: Callable[P, R | None]
) -> Callable[P, list[tuple[str, R]]]:
    """Return the caller of a hook whose answers come with their plugins' names.

    A plugin that raises gives none, as with ``tell``.
    """
    caller = _caller(manager, spec)

    def each(**kwargs: Any) -> list[tuple[str, R]]:
        found = []
        for impl in reversed(caller.get_hookimpls()):
            arguments = [kwargs[name] for name in impl.argnames]
            try:
                answer = impl.function(*arguments)
            except MlxserveError:
                raise
            except Exception as error:
                failed(manager, impl.plugin_name, spec, error)
            else:
                found += [] if answer is None else [(impl.plugin_name, cast(R, answer))]
        return found

    return cast(Callable[P, list[tuple[str, R]]], each)


def failed(
    manager: PluginManager, plugin: str, spec: Callable[..., object], error: Exception
) -> None:
    """Count and log what a plugin, or an object that its hook returned, raised; any thread."""
    import structlog  # noqa: PLC0415 - not worth its import time when nothing fails

    hook = _caller(manager, spec).name
    _count_failure(manager, hook, plugin)
    structlog.get_logger().error(
        "plugin failed",
        hook=hook,
        plugin=plugin,
        culprit=owner(manager, plugin),
        exc_info=error,
    )


def owner(manager: PluginManager, name: str) -> str:
    """Return ``plugin 'name' (distribution)``: a plugin as an error message names it."""
    distributions = manager.distributions if isinstance(manager, Manager) else {}
    return f"plugin {name!r} ({distributions.get(name, 'an unnamed distribution')})"


def failures(manager: PluginManager) -> Mapping[tuple[str, str], int]:
    """Return how often each plugin failed in each hook so far; any thread."""
    return manager.failures.counted() if isinstance(manager, Manager) else {}


def _guarded(manager: PluginManager, spec: Callable[..., object]) -> Callable[..., object]:
    caller = _caller(manager, spec)

    def call(**kwargs: Any) -> object:
        try:
            return caller(**kwargs)
        except MEANT:
            raise
        except Exception as error:
            culprit = _culprit(error.__traceback__)
            who = owner(manager, culprit.plugin_name) if culprit else "a plugin"
            if culprit is not None:
                _count_failure(manager, caller.name, culprit.plugin_name)
            raise PluginCrashError(f"{who} failed in {caller.name}: {_words(error)}") from error

    return call


def _caller(manager: PluginManager, spec: Callable[..., object]) -> HookCaller:
    return cast(HookCaller, getattr(manager.hook, cast(FunctionType, spec).__name__))


def _culprit(trace: TracebackType | None) -> HookImpl | None:
    """Find the implementation that pluggy was calling: it puts no name on an exception."""
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        if frame.f_code.co_name == "_multicall":
            return cast("HookImpl | None", frame.f_locals.get("hook_impl"))
    return None


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _count_failure(manager: PluginManager, hook: str, plugin: str) -> None:
    if isinstance(manager, Manager):
        manager.failures.add(plugin, hook)
