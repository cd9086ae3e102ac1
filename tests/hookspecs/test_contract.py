"""What must hold of every hook, and of every built-in plugin that implements it."""

import inspect
import pkgutil
import re
from importlib.metadata import EntryPoints, entry_points
from types import FunctionType
from typing import Any, cast, get_type_hints

import pytest

import mlxserve_hookspecs
from mlxserve.loading import SPECS, installed
from mlxserve_hookspecs import PROJECT

HOOKS: dict[str, FunctionType] = {
    name: function
    for spec in SPECS
    for name, function in vars(spec).items()
    if hasattr(function, f"{PROJECT}_spec")
}
INSTALLED = installed(cast(EntryPoints, entry_points()))
SHAPES = {
    name: set(re.findall(r"\*\*(Ask|Tell|Gather)\.\*\*", hook.__doc__ or ""))
    for name, hook in HOOKS.items()
}


def implementations(plugin: object) -> dict[str, Any]:
    """Return the hooks that ``plugin`` implements."""
    return {
        name: getattr(plugin, name)
        for name in HOOKS
        if hasattr(getattr(plugin, name, None), f"{PROJECT}_impl")
    }


def test_every_module_with_hooks_is_known_to_the_loader() -> None:
    modules = {
        module.name
        for module in pkgutil.iter_modules(mlxserve_hookspecs.__path__, "mlxserve_hookspecs.")
    }
    with_hooks = {
        name
        for name in modules
        for value in vars(__import__(name, fromlist=["x"])).values()
        if hasattr(value, f"{PROJECT}_spec")
    }
    assert with_hooks == {spec.__name__ for spec in SPECS}


def test_no_two_families_have_a_hook_of_the_same_name() -> None:
    names = [
        name
        for spec in SPECS
        for name, value in vars(spec).items()
        if hasattr(value, f"{PROJECT}_spec") and value.__module__ == spec.__name__
    ]
    assert sorted(names) == sorted(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_says_its_shape_and_means_it(hook: str) -> None:
    first_answer_counts = getattr(HOOKS[hook], f"{PROJECT}_spec")["firstresult"]
    assert len(SHAPES[hook]) == 1
    assert (SHAPES[hook] == {"Ask"}) == first_answer_counts


@pytest.mark.parametrize("hook", [name for name in HOOKS if SHAPES[name] == {"Tell"}])
def test_event_has_no_answer(hook: str) -> None:
    assert get_type_hints(HOOKS[hook])["return"] is type(None)


@pytest.mark.parametrize("hook", [name for name in HOOKS if SHAPES[name] != {"Tell"}])
def test_question_says_what_none_means(hook: str) -> None:
    assert type(None) in getattr(get_type_hints(HOOKS[hook])["return"], "__args__", ())


@pytest.mark.parametrize("hook", [name for name in HOOKS if SHAPES[name] == {"Ask"}])
def test_ask_explains_none(hook: str) -> None:
    assert "``None``" in (HOOKS[hook].__doc__ or "")


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_says_when_and_on_which_thread(hook: str) -> None:
    words = " ".join((HOOKS[hook].__doc__ or "").split())
    assert re.search(r"\bCalled\b.*\b(thread|event loop)\b", words)


@pytest.mark.parametrize("name", sorted(INSTALLED.plugins))
def test_plugin_agrees_with_the_specifications(name: str) -> None:
    found = implementations(INSTALLED.load(name))
    assert found, "a plugin without hooks does nothing"
    for hook, implementation in found.items():
        spec = inspect.signature(HOOKS[hook]).parameters.keys()
        mine = inspect.signature(implementation).parameters.keys() - {"self"}
        assert mine <= spec
        hints, expected = get_type_hints(implementation), get_type_hints(HOOKS[hook])
        assert {arg: hints[arg] for arg in mine} == {arg: expected[arg] for arg in mine}


@pytest.mark.parametrize("name", sorted(INSTALLED.plugins))
def test_plugin_says_what_it_does_in_one_line(name: str) -> None:
    first = (INSTALLED.load(name).__doc__ or "").partition("\n")[0]
    assert first.endswith(".")


def test_every_default_plugin_is_announced() -> None:
    assert set(INSTALLED.default) <= INSTALLED.plugins.keys()
