"""From a model's files to weights in memory: load through mlx-lm, split, cast."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import structlog
from attrs import frozen
from mlx.utils import tree_flatten, tree_map_with_path
from pluggy import PluginManager

from mlxserve.hooks import ask
from mlxserve.model.causal import CausalModel
from mlxserve.model.marks import unmarked
from mlxserve.model.wired import wire
from mlxserve.options import ModelOptions
from mlxserve.text.tokenizer import Tokenizer
from mlxserve_hookspecs import Group, ModelError, ModelSource, generation

log = structlog.get_logger("mlxserve.model")

PLAN = "plan"
"""The event whose lines say what was decided."""

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
SPLIT = (
    "num_attention_heads",
    "num_key_value_heads",
    "num_attention_groups",
    "linear_num_key_heads",
    "linear_num_value_heads",
)
"""What tensor parallelism splits: whole heads go to a rank."""


@frozen
class LoadedModel:
    """A model in memory.

    Attributes:
        model: The module, evaluated.
        text: Its tokenizer.
        config: ``config.json`` as mlx-lm reads it.
        source: Where it came from.
        name: Its public name.
        created: Unix time.
    """

    model: CausalModel
    text: Tokenizer
    config: dict[str, Any]
    source: ModelSource
    name: str
    created: int

    @property
    def max_len(self) -> int | None:
        """Longest sequence that the model was made for."""
        text = self.config.get("text_config", {})
        found = self.config.get("max_position_embeddings") or text.get("max_position_embeddings")
        return int(found) if found else None

    @property
    def identity(self) -> str:
        """Names weights, adapter and dtype."""
        return self.source.identity


def load(
    plugins: PluginManager, options: ModelOptions, source: ModelSource, group: Group = None
) -> LoadedModel:
    """Load, split over ``group`` and cast a model that was found; takes seconds to minutes.

    Raises:
        ModelError: What was found cannot be loaded.
    """
    if line := wire(options.wired_limit):
        log.info(PLAN, detail=line)
    size = 1 if group is None else group.size()
    if size > 1:
        check_shardable(source.folder, options, size)
    adapter = Path(options.adapter_path) if options.adapter_path else None
    with unmarked(source.folder) as folder, unmarked(adapter or source.folder) as adapters:
        model, wrapper, config = _load(folder, adapters if adapter else None, source, options)
        if size > 1:
            shard(model, group)
        _cast(model, options.dtype)
        mx.eval(model.parameters())
    identity = source.identity
    if adapter:
        identity += f"+{_fingerprint(adapter)}"
    weights: Any = tree_flatten(model.parameters())
    dtype = str(weights[0][1].dtype)
    source = ModelSource(folder=source.folder, identity=f"{identity}@{dtype}", name=source.name)
    name = options.served_model_name or source.name or options.model
    text = Tokenizer(wrapper, options.chat_special_tokens)
    described = ask(plugins, generation.describe_markup)(text=text, template=text.chat_template)
    if described is not None:
        text.markup = described
    if text.template_fault is not None:
        log.warning("the chat template is broken: no chat", model=name, fault=text.template_fault)
    return LoadedModel(model, text, config, source, name, int(time.time()))


def _load(
    folder: Path, adapter: Path | None, source: ModelSource, options: ModelOptions
) -> tuple[Any, Any, dict[str, Any]]:
    # 1.3 s: nobody pays it who only asks for help
    from mlx_lm import load as mlx_load  # noqa: PLC0415

    if adapter and not (adapter / "adapters.safetensors").is_file():
        raise ModelError(f"--adapter-path {options.adapter_path}: no adapters.safetensors there")
    try:
        loaded: Any = mlx_load(
            str(folder),
            adapter_path=str(adapter) if adapter else None,
            lazy=True,
            return_config=True,
            tokenizer_config={"trust_remote_code": options.trust_remote_code},
        )
    except (ValueError, FileNotFoundError, KeyError, RuntimeError, TypeError, OSError) as error:
        raise ModelError(f"{source.folder} cannot be loaded: {_line(error)}") from error
    model, wrapper, config = loaded
    return model, wrapper, config


def check_shardable(folder: Path, options: ModelOptions, size: int) -> None:
    """Refuse, before any weight is read, what cannot be split over ``size`` ranks.

    Raises:
        ModelError: Heads that ``size`` does not divide, or an adapter.
    """
    if options.adapter_path:
        raise ModelError("LoRA adapters are not supported in distributed mode; drop --adapter-path")
    try:
        config = json.loads((folder / "config.json").read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {error}") from error
    config |= config.get("text_config") or {}
    for name in SPLIT:
        count = config.get(name)
        if isinstance(count, int) and count % size:
            raise ModelError(
                f"the model has {name} = {count}, which {size} ranks cannot share evenly; "
                f"choose a number of ranks that divides it"
            )


def shard(model: Any, group: Any) -> None:
    """Split a model whose weights were not read yet: shapes that do not fit show before they are.

    Raises:
        ModelError: The architecture cannot be split, or this model not over as many ranks.
    """
    if not hasattr(model, "shard"):
        raise ModelError(
            f"models of this architecture ({getattr(model, 'model_type', 'unknown')}) cannot be "
            "split over ranks; serve it on one"
        )
    try:
        model.shard(group)
    except (ValueError, AssertionError) as error:
        raise ModelError(
            f"{group.size()} ranks cannot share the layers of this model evenly (quantized ones go "
            f"by whole groups); choose another number of ranks: {_line(error)}"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]


def _cast(model: Any, dtype: str) -> None:
    """Cast floating weights; ``auto`` is float32 on the CPU, the checkpoint's own elsewhere.

    On the CPU half precision is emulated: quantized weights with half-precision scales were 10
    to 60 times slower there than with float32 scales.
    """
    if dtype == "auto":
        if mx.default_device().type != mx.DeviceType.cpu:
            return
        dtype = "float32"
    target = DTYPES[dtype]
    keep = getattr(model, "cast_predicate", lambda _: True)

    def cast(path: str, value: mx.array) -> mx.array:
        floats = mx.issubdtype(value.dtype, mx.floating)
        return value.astype(target) if floats and keep(path) else value

    model.update(tree_map_with_path(cast, model.parameters()))


def _fingerprint(folder: Path) -> str:

    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.glob("adapter*")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
