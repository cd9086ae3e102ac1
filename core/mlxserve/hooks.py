"""Call hooks with the types of their specifications.

``pluggy`` looks hooks up by name and answers ``Any``. Here the specification itself is the
name, so that an editor and a type checker see through the call to its signature. A plugin that
raises is named with its distribution.
"""

from collections.abc import Callable, Iterator, Mapping
from time import perf_counter
from types import FunctionType, MappingProxyType
from typing import Any, Final, ParamSpec, TypeVar, cast

from pluggy import HookCaller, HookImpl, PluginManager

from mlxserve.door import MEANT, Book, Caller
from mlxserve_hookspecs import PROJECT, MlxserveError

P = ParamSpec("P")
R = TypeVar("R")

HURRIED: Final = frozenset(
    {
        "admit",
        "authenticate",
        "drafts_verified",
        "first_token",
        "iteration_finished",
        "make_output_parser",
        "request_adjusted",
        "request_finished",
        "request_received",
        "request_refused",
        "running_totals",
    }
)
"""Hooks that are called while others wait, on the engine thread or on the event loop."""


class Manager(PluginManager):
    """A plugin manager that knows which distribution each plugin came with, and who failed."""

    def __init__(self, distributions: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(PROJECT)
        self.distributions = dict(distributions)
        self.book = Book()


def ask(manager: PluginManager, spec: Callable[P, R], *, forgiving: bool = False) -> Callable[P, R]:
    """Return the caller of a ``firstresult`` hook: the first plugin to answer is heard.

    The caller takes keyword arguments only. What a plugin raises becomes ``PluginCrashError``;
    where the hook is ``forgiving``, one that fails is logged and counted, and has passed.
    """
    each = _answers(manager, spec, forgiving=forgiving)
    return cast(Callable[P, R], lambda **kwargs: next((it for _, it in each(kwargs)), None))


def gather(
    manager: PluginManager, spec: Callable[P, R | None], *, forgiving: bool = False
) -> Callable[P, list[R]]:
    """Return the caller of a hook that every plugin may answer; raises like ``ask``'s."""
    each = _answers(manager, spec, forgiving=forgiving)
    return cast(Callable[P, list[R]], lambda **kwargs: [it for _, it in each(kwargs)])


def gather_by(
    manager: PluginManager, spec: Callable[P, R | None]
) -> Callable[P, list[tuple[Caller, R]]]:
    """Return the like of ``gather``'s that says with each answer whose it is."""
    each = _answers(manager, spec, forgiving=False)
    return cast(Callable[P, list[tuple[Caller, R]]], lambda **kwargs: list(each(kwargs)))


def tell(manager: PluginManager, spec: Callable[P, None]) -> Callable[P, None]:
    """Return the caller of an event: every plugin hears it, whatever the others do.

    A plugin that raises is logged and counted; only a user's mistake (``MlxserveError``) passes
    through, at the start and at the end.
    """
    hook = _caller(manager, spec)

    def announce(**kwargs: Any) -> None:
        for impl, who in _listeners(manager, hook):
            try:
                _call(impl, who, kwargs)
            except Exception as error:
                if isinstance(error, MlxserveError) and hook.name not in HURRIED:
                    raise
                who.failed(error)

    return cast(Callable[P, None], announce)


def owner(manager: PluginManager, name: str) -> str:
    """Return ``plugin 'name' (distribution version)``: a plugin as an error message names it."""
    distributions = manager.distributions if isinstance(manager, Manager) else {}
    return f"plugin {name!r} ({distributions.get(name, 'an unnamed distribution')})"


def book_of(manager: PluginManager) -> Book:
    """Return who failed and who was slow so far; any thread."""
    return manager.book if isinstance(manager, Manager) else Book()


def failures(manager: PluginManager) -> Mapping[tuple[str, str], int]:
    """Return how often each plugin failed in each hook so far, its objects included; any thread."""
    return dict(book_of(manager).failures)


def _answers(
    manager: PluginManager, spec: Callable[..., object], *, forgiving: bool
) -> Callable[[Mapping[str, Any]], Iterator[tuple[Caller, Any]]]:
    """Return what yields plugins and their answers, in order, through the door."""
    hook = _caller(manager, spec)

    def each(kwargs: Mapping[str, Any]) -> Iterator[tuple[Caller, Any]]:
        for impl, who in _listeners(manager, hook):
            try:
                answer = who.admit(_call(impl, who, kwargs), spec, kwargs)
            except Exception as error:
                if isinstance(error, MEANT) and not forgiving:
                    raise
                # What ends the start is told by whoever ends it.
                who.failed(error, quiet=who.hook not in HURRIED)
                if not forgiving:
                    raise who.crashed(error) from error
                continue
            if answer is not None:
                yield who, answer

    return each


def _listeners(manager: PluginManager, hook: HookCaller) -> Iterator[tuple[HookImpl, Caller]]:
    for impl in reversed(hook.get_hookimpls()):
        name = impl.plugin_name
        yield impl, Caller(book_of(manager), name, owner(manager, name), hook.name)


def _call(impl: HookImpl, who: Caller, kwargs: Mapping[str, Any]) -> object:
    began = perf_counter()
    answer = impl.function(*[kwargs[name] for name in impl.argnames])
    if who.hook in HURRIED:
        who.took(perf_counter() - began)
    return answer


def _caller(manager: PluginManager, spec: Callable[..., object]) -> HookCaller:
    return cast(HookCaller, getattr(manager.hook, cast(FunctionType, spec).__name__))
