"""What every contract has in common."""

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, ClassVar, TypeAlias, TypeVar, cast

import pytest
from pluggy import PluginManager

from mlxserve.loading import register
from mlxserve_hookspecs import PROJECT

Hook: TypeAlias = Callable[..., Any]
T = TypeVar("T")

PROMPT = "one token, two tokens; the other tokens; one token, two tokens; the other "
"""A prompt with repetitions, longer than a block."""


class Contract:
    """What holds of every plugin of a family; a subclass says which plugin.

    Subclass one contract for each family that your plugin is of, name it ``Test...`` and override
    the fixture ``plugin``. A plugin may be of several families.

    Attributes:
        hooks: The specifications of the family.
    """

    hooks: ClassVar[Sequence[Hook]]

    @pytest.fixture
    def plugin(self) -> object:
        """Return the plugin under test with its options, as the server would make it."""
        raise NotImplementedError("override the fixture `plugin` to return your plugin")

    @pytest.fixture
    def manager(self, plugin: object) -> PluginManager:
        """Return a manager with the plugin and no other."""
        return register({"plugin": plugin})

    def test_plugin_fits_the_hooks(self, plugin: object) -> None:
        """It registers, and implements a hook of the family."""
        register({"plugin": plugin})
        names = [name_of(hook) for hook in self.hooks]
        marked = [name for name in names if hasattr(getattr(plugin, name, None), f"{PROJECT}_impl")]
        assert marked, f"{plugin!r} implements none of: {', '.join(names)}"


def name_of(hook: Hook) -> str:
    """Return a hook's name."""
    return cast(FunctionType, hook).__name__


def call(manager: PluginManager, hook: Hook, **arguments: Any) -> Any:
    """Return what pluggy returns, unguarded: what the plugin raises is raised here."""
    return getattr(manager.hook, name_of(hook))(**arguments)


def answer(manager: PluginManager, hook: Callable[..., T | None], **arguments: Any) -> T:
    """Return what the plugin answers to an Ask; it must not pass."""
    found: T | None = call(manager, hook, **arguments)
    assert found is not None, f"the plugin passes on {name_of(hook)}"
    return found


def added(manager: PluginManager, hook: Callable[..., T | None], **arguments: Any) -> T:
    """Return what the plugin answers to a Gather; it must take part."""
    found: list[T] = call(manager, hook, **arguments)
    assert len(found) == 1, f"the plugin takes no part in {name_of(hook)}"
    return found[0]


def is_word(name: object) -> bool:
    """Return whether ``name`` can stand in metrics and usage: one word."""
    return isinstance(name, str) and bool(name) and not any(map(str.isspace, name))
