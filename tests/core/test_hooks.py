import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from mlxserve.door import PluginCrashError
from mlxserve.hooks import ask, failures, gather, tell
from mlxserve.loading import register
from mlxserve_hookspecs import (
    Credentials,
    Identity,
    ModelError,
    ModelSource,
    RequestError,
    Services,
    hookimpl,
)
from mlxserve_hookspecs.admission import authenticate
from mlxserve_hookspecs.lifecycle import preparing, request_refused, stopping
from mlxserve_hookspecs.models import resolve_model
from mlxserve_hookspecs.serving import routes

SOMEBODY = Credentials(headers={}, path="/")


class Knows:
    def __init__(self, tenant: str | None) -> None:
        self.tenant = tenant
        self.heard: list[str] = []

    @hookimpl
    def authenticate(self) -> Identity | None:
        return Identity(self.tenant) if self.tenant else None

    @hookimpl
    def routes(self) -> list[str] | None:
        return [self.tenant] if self.tenant else None

    @hookimpl
    def request_refused(self, code: str) -> None:
        self.heard.append(code)


class Raises:
    def __init__(self, error: Exception) -> None:
        self.error = error

    @hookimpl
    def authenticate(self) -> Identity:
        raise self.error

    @hookimpl
    def routes(self) -> list[str]:
        raise self.error

    @hookimpl
    def request_refused(self) -> None:
        raise self.error

    @hookimpl
    def resolve_model(self) -> ModelSource:
        raise self.error

    @hookimpl
    def preparing(self) -> None:
        raise self.error


def test_first_registered_is_asked_first() -> None:
    manager = register({"one": Knows("a"), "two": Knows("b")})
    assert ask(manager, authenticate)(credentials=SOMEBODY) == Identity("a")


def test_nobody_answering_is_none() -> None:
    assert ask(register({"one": Knows(None)}), authenticate)(credentials=SOMEBODY) is None


def test_gather_lists_answers_in_order_and_leaves_out_none() -> None:
    manager = register({"one": Knows("a"), "two": Knows(None), "three": Knows("c")})
    assert gather(manager, routes)(services=cast(Services, None)) == [["a"], ["c"]]


def test_plugin_that_answers_shields_a_broken_one_behind_it() -> None:
    manager = register({"good": Knows("a"), "bad": Raises(KeyError("x"))})
    assert ask(manager, authenticate)(credentials=SOMEBODY) == Identity("a")


@pytest.mark.parametrize(
    "call",
    [
        lambda manager: ask(manager, authenticate)(credentials=SOMEBODY),
        lambda manager: gather(manager, routes)(services=cast(Services, None)),
    ],
    ids=["ask", "gather"],
)
def test_plugin_that_raises_is_named_with_its_distribution(call: Callable[[Any], Any]) -> None:
    plugins = {"good": Knows(None), "bad": Raises(KeyError("x")), "last": Knows("z")}
    manager = register(plugins, {"bad": "mlxserve-bad"})
    with pytest.raises(PluginCrashError, match=r"^plugin 'bad' \(mlxserve-bad\) failed in \w+: K"):
        call(manager)


def test_cause_of_a_crash_keeps_its_traceback() -> None:
    error = ZeroDivisionError("mine")
    with pytest.raises(PluginCrashError) as caught:
        ask(register({"bad": Raises(error)}), authenticate)(credentials=SOMEBODY)
    assert caught.value.__cause__ is error
    assert error.__traceback__ is not None


@pytest.mark.parametrize(
    "error",
    [RequestError(status=401, message="no key"), ModelError("no such folder")],
    ids=["a refused request", "a user's mistake"],
)
def test_what_a_plugin_means_to_raise_passes_untouched(error: Exception) -> None:
    manager = register({"bad": Raises(error)})
    with pytest.raises(type(error)) as caught:
        ask(manager, resolve_model)(reference="x", progress=lambda *_: None)
    assert caught.value is error


@pytest.mark.parametrize("order", [["bad", "good"], ["good", "bad"]])
def test_everybody_hears_an_event_whatever_others_do(order: list[str]) -> None:
    good = Knows("a")
    plugins: dict[str, object] = {"bad": Raises(KeyError("x")), "good": good}
    manager = register({name: plugins[name] for name in order}, {"bad": "mlxserve-bad"})
    with capture_logs() as logs:
        tell(manager, request_refused)(status=429, code="full", field="")
    assert good.heard == ["full"]
    assert [(log["event"], log["hook"], log["culprit"]) for log in logs] == [
        ("plugin failed", "request_refused", "plugin 'bad' (mlxserve-bad)")
    ]
    assert logging.getLevelName(logs[0]["log_level"].upper()) == logging.ERROR


def test_users_mistake_found_by_an_event_is_not_swallowed() -> None:
    with pytest.raises(ModelError):
        tell(register({"bad": Raises(ModelError("no"))}), preparing)()


def test_event_that_nobody_listens_to_is_nothing() -> None:
    with capture_logs() as logs:
        tell(register({}), stopping)()
    assert logs == []


def test_what_plugins_raise_is_counted_by_plugin_and_hook_in_all_three_kinds() -> None:
    manager = register({"good": Knows(None), "bad": Raises(KeyError("x"))})
    for _ in range(2):
        with pytest.raises(PluginCrashError):
            ask(manager, authenticate)(credentials=SOMEBODY)
    with pytest.raises(PluginCrashError):
        gather(manager, routes)(services=cast(Services, None))
    with capture_logs():
        tell(manager, request_refused)(status=429, code="full", field="")
    assert failures(manager) == {
        ("bad", "authenticate"): 2,
        ("bad", "routes"): 1,
        ("bad", "request_refused"): 1,
    }


def test_what_a_plugin_means_to_raise_is_not_counted() -> None:
    manager = register({"bad": Raises(RequestError(status=401, message="no key"))})
    with pytest.raises(RequestError):
        ask(manager, authenticate)(credentials=SOMEBODY)
    assert failures(manager) == {}


def test_failures_on_many_threads_are_all_counted() -> None:
    manager = register({"bad": Raises(KeyError("x"))})

    def fail(_: int) -> None:
        for _ in range(50):
            with pytest.raises(PluginCrashError):
                ask(manager, authenticate)(credentials=SOMEBODY)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fail, range(8)))
    assert failures(manager) == {("bad", "authenticate"): 400}
