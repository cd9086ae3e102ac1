"""LoRA weights change the model, and the identity of its KV."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from structlog.testing import capture_logs

from mlxserve.loading import register
from mlxserve.model.finding import find
from mlxserve.model.load import load
from mlxserve.options import ModelOptions
from mlxserve.testing.models import write_model
from mlxserve_hookspecs import ModelError
from mlxserve_plugins.hub import Hub


def adapter(folder: Path, model: Path) -> Path:
    """Write LoRA weights for ``model`` that are not zero."""
    from mlx_lm import load as mlx_load
    from mlx_lm.tuner.utils import linear_to_lora_layers

    config = {"rank": 4, "scale": 10.0, "dropout": 0.0}
    loaded: Any = mlx_load(str(model))
    linear_to_lora_layers(loaded[0], 2, config)
    weights: Any = tree_flatten(loaded[0].trainable_parameters())
    mx.random.seed(1)
    changed = {n: mx.random.normal(w.shape) * 0.1 for n, w in weights if "lora" in n}
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), changed)
    facts = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": config}
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    return folder


def loaded(model: Path, lora: Path | None) -> Any:
    plugins = register({"hub": Hub()})
    options = ModelOptions(model=str(model), adapter_path=lora)
    return load(plugins, options, find(plugins, options.model, lambda *_: None))


def test_an_adapter_changes_logits_as_it_does_in_mlx_lm(tmp_path: Path) -> None:
    from mlx_lm import load as mlx_load

    model = write_model(tmp_path / "model")
    lora = adapter(tmp_path / "lora", model)
    plain, adapted = loaded(model, None), loaded(model, lora)
    theirs: Any = mlx_load(str(model), adapter_path=str(lora))
    tokens = mx.array([[5, 6, 7]])
    mine = adapted.model(tokens, cache=None)
    assert mx.allclose(mine, theirs[0](tokens), atol=1e-4)
    assert not mx.allclose(mine, plain.model(tokens, cache=None), atol=1e-2)
    assert adapted.identity != plain.identity


def test_a_folder_without_adapter_is_one_clear_line(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    with pytest.raises(ModelError, match=r"no adapters\.safetensors"):
        loaded(model, tmp_path)


def test_a_model_with_a_broken_chat_template_loads_with_one_warning(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", chat_template="{% for message in messages %}")
    with capture_logs() as logs:
        found = loaded(model, None)
    assert not found.text.has_chat_template
    warnings = [(log["event"], log["fault"]) for log in logs if log["log_level"] == "warning"]
    assert warnings == [("the chat template is broken: no chat", found.text.template_fault)]
