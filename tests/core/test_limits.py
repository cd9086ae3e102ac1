"""What a request may ask for follows from what was set, and by whom."""

from importlib.metadata import EntryPoints, entry_points
from typing import cast

import pytest

from mlxserve.cli.resolution import resolve
from mlxserve.limits import limits_of
from mlxserve.loading import installed
from mlxserve_hookspecs import Limits

INSTALLED = installed(cast(EntryPoints, entry_points()))
LASTING = ("laptop", "studio", "cluster", "demo")


def limits(*words: str, max_len: int | None = 131072, kv: int | None = None) -> Limits:
    return limits_of(resolve([*words], {}, INSTALLED)[0], max_len, kv)


def test_the_longest_prompt_is_the_models_own_limit_where_nobody_sets_one() -> None:
    assert limits().max_prompt_tokens == 131071
    assert limits(max_len=2048).max_prompt_tokens == 2047
    assert limits(max_len=None).max_prompt_tokens == 32768


def test_the_longest_prompt_is_what_was_set_where_somebody_did() -> None:
    assert limits("--max-prompt-tokens", "32768").max_prompt_tokens == 32768
    assert limits("--preset", "ci").max_prompt_tokens == 2048


def test_without_a_preset_a_reply_has_the_documented_default() -> None:
    assert (limits().default_max_tokens, limits().request_timeout) == (512, 120.0)


@pytest.mark.parametrize("name", LASTING)
def test_presets_let_a_reply_use_what_the_context_leaves_and_take_its_time(name: str) -> None:
    found = limits("--preset", name)
    assert (found.default_max_tokens, found.request_timeout) == (None, None)
    assert found.first_token_timeout is not None
    assert found.max_prompt_tokens == 131071


@pytest.mark.parametrize("name", LASTING)
def test_a_flag_beats_a_presets_choice(name: str) -> None:
    flags = ("--default-max-tokens", "64", "--request-timeout-s", "9")
    found = limits("--preset", name, *flags)
    assert (found.default_max_tokens, found.request_timeout) == (64, 9.0)


@pytest.mark.parametrize("name", LASTING)
def test_presets_serve_a_model_of_any_name(name: str) -> None:
    resolved, _ = resolve(["--preset", name], {}, INSTALLED)
    assert resolved.model.model_name_check == "off"
    assert resolve([], {}, INSTALLED)[0].model.model_name_check == "on"


def test_what_kv_holds_is_told() -> None:
    assert limits(kv=4096).max_kv_tokens == 4096
