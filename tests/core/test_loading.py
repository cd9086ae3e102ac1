import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from mlxserve.loading import register
from mlxserve_hookspecs import PluginError, hookimpl

if TYPE_CHECKING:
    from tests.conftest import World


class Built:
    """A plugin without options."""


class Strange:
    """Somebody else's."""


def test_stranger_replaces_a_built_in(world: "World") -> None:
    world.add("mlxserve", {"fcfs": Built, "other": Built}).add(
        "mlxserve-strange", {"fcfs": Strange}
    )
    found = world.installed
    assert found.load("fcfs") is Strange
    assert found.load("other") is Built
    assert found.replaced == {"fcfs"}
    assert found.distributions == {"fcfs": "mlxserve-strange", "other": "mlxserve"}


def test_order_of_installation_does_not_matter(world: "World") -> None:
    world.add("a-stranger", {"fcfs": Strange}).add("mlxserve", {"fcfs": Built})
    assert world.installed.load("fcfs") is Strange


def test_two_strangers_of_one_name_are_both_named(world: "World") -> None:
    world.add("one-plugin", {"x": Built}).add("two-plugin", {"x": Strange})
    with pytest.raises(PluginError, match="'x'") as caught:
        _ = world.installed
    assert {"one-plugin", "two-plugin"} <= set(str(caught.value).split())


def test_reading_the_catalogue_imports_nothing(world: "World") -> None:
    (world.folder / "mlxserve_idle_module.py").write_text("raise AssertionError\n")
    world.monkeypatch.syspath_prepend(str(world.folder))
    world.add("idle", {"idle": "mlxserve_idle_module:It"})
    assert "idle" in world.installed.plugins
    assert "mlxserve_idle_module" not in sys.modules


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import a_module_that_is_missing", "ModuleNotFoundError: No module named 'a_module"),
        ("def broken(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("", "AttributeError"),
    ],
    ids=["missing module", "syntax error", "raises", "lacks the name"],
)
def test_import_error_names_plugin_and_distribution(
    world: "World", source: str, reason: str
) -> None:
    (world.folder / "mlxserve_broken_module.py").write_text(source + "\n")
    world.monkeypatch.syspath_prepend(str(world.folder))
    world.monkeypatch.delitem(sys.modules, "mlxserve_broken_module", raising=False)
    world.add("broken-dist", {"broken": "mlxserve_broken_module:It"})
    with pytest.raises(PluginError, match="plugin 'broken' of broken-dist cannot be imported"):
        world.installed.load("broken")
    with pytest.raises(PluginError) as caught:
        world.installed.load("broken")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("nrgam", "did you mean ngram?"), ("zzz", "known: ngram, ssd-tier")],
    ids=["near one", "nothing near"],
)
def test_unknown_plugin_gets_a_hint(world: "World", name: str, hint: str) -> None:
    world.add("mlxserve", {"ngram": Built, "ssd-tier": Built})
    with pytest.raises(PluginError) as caught:
        world.installed.known(name)
    assert hint in str(caught.value)


def test_default_set_is_announced_not_known(world: "World") -> None:
    world.add("mlxserve", {"default": ("one", "two")}, group="mlxserve.sets")
    assert world.installed.default == ("one", "two")


def test_stranger_may_bring_another_default_set(world: "World") -> None:
    world.add("mlxserve", {"default": ("one",)}, group="mlxserve.sets")
    world.add("stranger", {"default": ("two",)}, group="mlxserve.sets")
    assert world.installed.default == ("two",)


def test_unknown_hook_is_refused_with_its_plugin() -> None:
    class Stray:
        @hookimpl
        def make_polices(self) -> None: ...

    with pytest.raises(
        PluginError, match=r"plugin 'stray' \(strays\) .*unknown hook 'make_polices"
    ):
        register({"good": Built(), "stray": Stray()}, {"stray": "strays"})


def test_unknown_argument_is_refused_with_its_plugin() -> None:
    class Stray:
        @hookimpl
        def make_policy(self, engine: object) -> None: ...

    with pytest.raises(PluginError, match=r"plugin 'stray' \(strays\) .*\{'engine'\}"):
        register({"stray": Stray()}, {"stray": "strays"})


def test_wrapper_of_an_event_is_refused_and_of_a_question_is_heard() -> None:
    class WrapsEvent:
        @hookimpl(wrapper=True)
        def preparing(self) -> Iterator[None]:
            yield

    class WrapsQuestion:
        @hookimpl(wrapper=True)
        def admit(self) -> Iterator[None]:
            yield

    with pytest.raises(PluginError, match=r"plugin 'w' \(wraps\) wraps preparing, an event"):
        register({"w": WrapsEvent()}, {"w": "wraps"})
    assert register({"w": WrapsQuestion()}).has_plugin("w")
