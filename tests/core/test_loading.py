import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from mlxserve.loading import register
from mlxserve_hookspecs import PluginError, hook_version, hookimpl, hookspec

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
    assert found.distributions == {"fcfs": "mlxserve-strange 1.5", "other": "mlxserve 1.5"}


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
    [("nrgam", "did you mean ngram?"), ("zzz", "`mlxserve plugins` lists them")],
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


def test_wrapper_of_a_hook_is_refused() -> None:
    class WrapsEvent:
        @hookimpl(wrapper=True)
        def preparing(self) -> Iterator[None]:
            yield

    class WrapsQuestion:
        @hookimpl(wrapper=True)
        def admit(self) -> Iterator[None]:
            yield

    with pytest.raises(PluginError, match=r"plugin 'w' \(wraps\) wraps preparing: answer it"):
        register({"w": WrapsEvent()}, {"w": "wraps"})
    with pytest.raises(PluginError, match=r"plugin 'w' \(wraps\) wraps admit: answer it"):
        register({"w": WrapsQuestion()}, {"w": "wraps"})


def test_plugin_that_needs_another_says_so_at_the_start_and_runs_beside_it() -> None:
    class Needy:
        requires = ("built", "missing")

    with pytest.raises(PluginError, match=r"plugin 'needy' \(d 1\) needs missing, which does not"):
        register({"built": Built(), "needy": Needy()}, {"needy": "d 1"})
    both = {"needy": Needy(), "built": Built(), "missing": Built()}
    assert register(both).has_plugin("needy")


class Changing:
    """A family of hooks: one was changed, one has lost an argument, one is as it was."""

    @staticmethod
    @hookspec(version=3, changed="return a list from 2.0 on")
    def changed(one: int) -> None: ...

    @staticmethod
    @hookspec(version=2, changed_arguments={"old": "gone in 2.0: take `new`"})
    def narrowed(old: int, new: int) -> None: ...

    @staticmethod
    @hookspec
    def same(one: int) -> None: ...


class Written:
    """A plugin from before the changes."""

    @hookimpl
    def changed(self, one: int) -> None: ...

    @hookimpl
    def narrowed(self, old: int) -> None: ...

    @hookimpl
    def same(self, one: int) -> None: ...


class Rewritten:
    @hookimpl
    def narrowed(self, new: int) -> None: ...


def test_plugin_that_implements_a_changed_hook_is_named_and_others_are_not() -> None:
    with capture_logs() as logs:
        plugins = {"old": Written(), "new": Rewritten()}
        register(plugins, {"old": "mlxserve-old 1.2"}, specs=[Changing])
    assert {log["culprit"] for log in logs} == {"plugin 'old' (mlxserve-old 1.2)"}
    assert sorted(log["change"] for log in logs) == [
        "changed (version 3): return a list from 2.0 on",
        "narrowed (version 2): gone in 2.0: take `new`",
    ]
    versions = [hook_version(hook) for hook in (Changing.changed, Changing.same)]
    assert versions == [3, 1]
