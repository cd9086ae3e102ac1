"""Convert a GGUF file once, and find the result again."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from safetensors.numpy import save_file

from mlxserve_hookspecs import ModelError, ModelSource, Progress
from mlxserve_plugins.folders import intact, locked, remembered_sha256, replaced
from mlxserve_plugins.gguf import Form
from mlxserve_plugins.gguf.config import check_supported, model_config
from mlxserve_plugins.gguf.reader import GgufFile, read
from mlxserve_plugins.gguf.tokenizer import stop_tokens, write_tokenizer
from mlxserve_plugins.gguf.weights import Weights, convert_tensors

VERSION: Final = 1
"""Raised when the converter writes something else for the same file."""
SHARD_BYTES: Final = 1 << 30
NAME_LENGTH: Final = 64
GROWTH: Final = 8
"""How much larger float32 can be than the blocks that stay packed, of 4.5 bits and more."""


def converted(
    path: Path, cache: Path, form: Form, progress: Progress, *, name: str | None = None
) -> ModelSource:
    """Return the folder that ``path`` was converted to, after converting it if need be.

    Several processes may ask at once: one converts. A process that dies leaves nothing that a
    later one would take for whole.

    Args:
        path: The GGUF file.
        cache: Where converted models are kept.
        form: What becomes of the weights.
        progress: Told how far it is.
        name: The model's public name, else the file's.

    Raises:
        ModelError: The file cannot be converted, or the cache cannot be written.
    """
    try:
        return _converted(path, cache, form, progress, name or path.stem)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be converted: {error.strerror or error}"
            f"{f' ({error.filename})' if error.filename else ''}; see --model-cache-dir"
        ) from error


def _converted(path: Path, cache: Path, form: Form, progress: Progress, name: str) -> ModelSource:
    sha256 = remembered_sha256(path, cache / "hashes", progress)
    weights = choose_form(path) if form == "auto" else form
    facts = {"source": sha256, "weights": weights, "converter": VERSION}
    stem = re.sub(r"[^\w.-]", "_", path.stem)[:NAME_LENGTH]
    folder = cache / f"{stem}-{sha256[:12]}-{weights}"
    with locked(folder, lambda: progress(f"waiting for another process: {stem}", 0, None)):
        if not intact(folder, facts):
            file = read(path)
            check_supported(file)
            with replaced(folder, facts, progress) as made:
                convert(file, made, weights, progress)
    return ModelSource(folder=folder, identity=f"gguf:{sha256}:{weights}:{VERSION}", name=name)


def convert(file: GgufFile, folder: Path, form: Weights, progress: Progress) -> None:
    """Write ``file`` into ``folder`` as mlx-lm reads it.

    Raises:
        ModelError: It holds what we cannot convert exactly.
    """
    write_tokenizer(file, folder)
    bits = _write_weights(file, folder, form, progress)
    dtype = "float16" if form == "float16" else "float32"
    _write_json(folder / "config.json", model_config(file, dtype, bits))
    _write_json(folder / "generation_config.json", {"eos_token_id": stop_tokens(file)})


def choose_form(path: Path) -> Weights:
    """Return what is best on this machine, and equal in value.

    float32 on the CPU, where products of packed weights were 10 to 15 times slower, unless that
    would take more than half of the memory; packed on a GPU, which is bound by memory.
    """
    import mlx.core as mx  # noqa: PLC0415 - not imported before `preparing`

    if mx.default_device().type != mx.DeviceType.cpu:
        return "packed"
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return "float32" if path.stat().st_size * GROWTH <= memory // 2 else "packed"


def _write_weights(
    file: GgufFile, folder: Path, form: Weights, progress: Progress
) -> dict[str, int]:
    """Write shards of bounded size; return the bits of what stayed quantized, by module."""
    bits: dict[str, int] = {}
    for number, arrays in enumerate(_shards(file, form, progress, bits), 1):
        save_file(arrays, folder / f"model-{number:05}.safetensors", metadata={"format": "mlx"})
    return bits


def _shards(
    file: GgufFile, form: Weights, progress: Progress, bits: dict[str, int]
) -> Iterator[dict[str, Any]]:
    held: dict[str, Any] = {}
    done, total = 0, sum(int(tensor.n_bytes) for tensor in file.tensors.values())
    sizes = (int(tensor.n_bytes) for tensor in file.tensors.values())
    for found, size in zip(convert_tensors(file, form), sizes, strict=True):
        held |= found.arrays
        if found.bits is not None:
            bits[found.path] = found.bits
        done += size
        progress(f"converting {file.name}", done, total)
        if sum(array.nbytes for array in held.values()) >= SHARD_BYTES:
            yield held
            held = {}
    if held:
        yield held


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
