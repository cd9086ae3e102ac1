"""Every architecture of mlx-lm gives mlx-lm's greedy tokens, whatever else runs."""

import pkgutil
from collections.abc import Iterator
from typing import Any

import mlx_lm.models
import pytest

from mlxserve.batch.plan import plan_kv
from mlxserve.engine.build import pool_limits
from mlxserve.model.backbone import backbone_of

from ..engine.harness import capacity
from .checks import CHECKS, LEAST, trimmable
from .configurations import CONFIGURATIONS, UNBUILT, tiny
from .report import served

USUAL = (
    "qwen3",
    "qwen3_next",
    "gemma2",
    "gemma3_text",
    "gemma3n",
    "gemma4_text-shared",
    "gpt_oss",
    "glm4_moe",
    "deepseek_v3",
    "kimi_linear",
    "minimax",
    "llama",
    "ministral3-sliding",
    "lfm2",
    "granitemoehybrid",
    "nemotron_h",
)
"""The most used: checked in every run, the others with ``-m zoo``."""
OWN = {"deepseek_v41"}
"""What keeps a different number of arrays for every row: mlx-lm's own caches, one row a pass."""
HEADLESS = {"gemma3n", "gpt_neox", "lille-130m", "phi3small", "phixtral", "talkie"}
"""What makes its logits of states that no part of it returns: no embeddings."""
PARTS = {
    "activations",
    "base",
    "bitlinear_layers",
    "cache",
    "gated_delta",
    "mla",
    "pipeline",
    "rope_utils",
    "ssm",
    "switch_layers",
}
"""Modules of ``mlx_lm.models`` that are no models."""


def cases() -> Iterator[Any]:
    for name, configuration in CONFIGURATIONS.items():
        marks = () if name in USUAL else (pytest.mark.zoo,)
        for check in CHECKS:
            if check not in configuration.excused:
                yield pytest.param(name, check, marks=marks, id=f"{name}, {check}")


@pytest.mark.parametrize(("name", "check"), list(cases()))
def test_greedy_tokens_are_mlx_lms_and_what_can_be_saved_is(name: str, check: str) -> None:
    saved = CHECKS[check](name)
    if check in LEAST and (saved or trimmable(name)):
        assert saved >= LEAST[check]


@pytest.mark.parametrize(
    "name",
    [n if n in USUAL else pytest.param(n, marks=pytest.mark.zoo) for n in CONFIGURATIONS],
)
def test_hidden_states_are_found_or_known_to_be_out_of_reach(name: str) -> None:
    assert (backbone_of(tiny(name)) is None) == (name in HEADLESS)


def test_every_model_of_mlx_lm_has_a_configuration_or_a_reason() -> None:
    modules = {found.name for found in pkgutil.iter_modules(mlx_lm.models.__path__)} - PARTS
    covered = {configuration.module for configuration in CONFIGURATIONS.values()}
    assert modules == covered | set(UNBUILT)
    assert not covered & set(UNBUILT)


def test_the_usual_ones_are_excused_from_nothing() -> None:
    assert [name for name in USUAL if CONFIGURATIONS[name].excused] == []


@pytest.mark.zoo
@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if name not in OWN])
def test_it_is_served_from_the_pool(name: str) -> None:
    limits = pool_limits(capacity())
    how, _ = served(plan_kv(tiny(name), lambda keys, values: None, limits, compiled=False))
    assert not how.startswith("alone")
