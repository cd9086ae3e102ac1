"""Whatever form a client demands: a constraint that goes on, or a refusal in words."""

import os
import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.structured import Structured
from mlxserve_plugins.structured.fields import chat_constraint

from . import wild
from .formats.test_forced import WIDTH, Family, allowed, asked
from .openai.fake_engine import EOS

EXAMPLES = int(os.environ.get("MLXSERVE_TEST_EXAMPLES", "60"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not os.environ.get("MLXSERVE_TEST_EXAMPLES"),
    suppress_health_check=list(HealthCheck),
)
PLUGINS = {form: (Structured(), Family(form)) for form in ("hermes", "llama3", "qwen3-coder")}


def check(error: RequestError) -> None:
    assert error.status == 400
    assert error.param
    assert 0 < len(error.message) < 700


def demand(fields: Mapping[str, Any], **calls: Any) -> Mapping[str, Any] | None:
    """Return what a surface makes of a body's fields; ``None`` also if it refuses them."""
    try:
        return chat_constraint(fields, **calls)
    except RequestError as error:
        check(error)
        return None


@fuzz
@given(
    field=st.sampled_from(sorted(wild.FIELDS)).flatmap(
        lambda name: st.tuples(st.just(name), wild.FIELDS[name])
    ),
    tools=st.none() | wild.TOOLS,
    choice=st.sampled_from([None, "auto", "none", "required"]),
    parallel=st.none() | st.booleans(),
    form=st.sampled_from(sorted(PLUGINS)),
    seed=st.integers(0, 9),
)
def test_every_form_is_followed_or_refused(
    field: tuple[str, Any], tools: Any, choice: Any, parallel: Any, form: str, seed: int
) -> None:
    fields = {field[0]: field[1]} if seed else {}
    if choice == "required" and (not tools or fields):
        choice = None
    wanted = demand(fields, tools=tools, choice=choice, parallel=parallel)
    if wanted is None:
        return
    plugin, text = PLUGINS[form]
    try:
        made = plugin.make_constraint(asked(wanted), text, WIDTH)
        if made is None:
            assert wanted["type"] == "odd"
            return
        dice = random.Random(seed)
        for _ in range(12):
            if made.finished:
                break
            choices = allowed(made)
            assert choices
            token = dice.choice(choices)
            if token == EOS:
                break
            made.advance((token,))
    except RequestError as error:
        check(error)


@pytest.mark.parametrize("value", [float("nan"), 10**400, "\ud800"], ids=["nan", "huge", "half"])
def test_values_that_no_json_has_are_followed_or_refused(value: Any) -> None:
    plugin, text = PLUGINS["hermes"]
    for schema in ({"const": value}, {"type": "number", "minimum": value}, {"enum": [value]}):
        wanted = demand({"guided_json": schema})
        assert wanted is not None
        try:
            plugin.make_constraint(asked(wanted), text, WIDTH)
        except RequestError as error:
            check(error)
