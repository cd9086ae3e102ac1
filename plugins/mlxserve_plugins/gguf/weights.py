"""From GGUF's tensors to mlx-lm's: names, order of rows, and blocks of quantized numbers."""

from collections.abc import Iterator
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from attrs import frozen
from gguf import ReaderTensor, dequantize

from mlxserve_hookspecs import ModelError
from mlxserve_plugins.gguf.reader import GgufFile

Weights: TypeAlias = Literal["float32", "float16", "packed"]
Array: TypeAlias = npt.NDArray[Any]

GLOBAL_NAMES: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER_NAMES: Final = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}
# Gemma norms both before and after each block, and so names them otherwise.
GEMMA_NAMES: Final = LAYER_NAMES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
GROUP: Final = 32
BLOCK_BYTES: Final = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34}
"""The block formats that mlx's affine quantization holds exactly, all in groups of 32."""


@frozen
class Packed:
    """A quantized matrix: value = scale * code + bias, in groups of 32 along a row.

    Attributes:
        codes: ``[rows, columns]`` uint8.
        scales: ``[rows, columns / 32]`` float32.
        biases: Likewise.
        bits: Bits of a code.
    """

    codes: Array
    scales: Array
    biases: Array
    bits: int


@frozen
class Converted:
    """One tensor, done.

    Attributes:
        path: The module's path in mlx-lm's model.
        arrays: By full name.
        bits: Bits of a code if it stayed quantized.
    """

    path: str
    arrays: dict[str, Array]
    bits: int | None = None


def convert_tensors(file: GgufFile, form: Weights) -> Iterator[Converted]:
    """Yield every tensor in mlx-lm's form, one at a time.

    Args:
        file: The open file.
        form: ``packed`` keeps blocks that can be kept and makes float32 of the rest.

    Raises:
        ModelError: A tensor that this architecture should not have, or an unknown format.
    """
    for name, tensor in file.tensors.items():
        target = mlx_name(name, file)
        packed = unpack(tensor) if form == "packed" and name.endswith(".weight") else None
        if packed is None:
            kind = np.float16 if form == "float16" else np.float32
            values = _restore(name, file, _values(name, tensor))
            yield Converted(target.rpartition(".")[0], {target: _solid(values, kind)})
        else:
            yield _packed(target.removesuffix(".weight"), name, file, packed)


def mlx_name(name: str, file: GgufFile) -> str:
    """Return mlx-lm's name: ``model.layers.3.self_attn.q_proj.weight`` for ``blk.3.attn_q.weight``.

    Raises:
        ModelError: The architecture has no such tensor in mlx-lm.
    """
    names = GEMMA_NAMES if file.architecture == "gemma3" else LAYER_NAMES
    match name.split("."):
        case ["blk", layer, part, kind] if part in names and layer.isdigit():
            return f"model.layers.{layer}.{names[part]}.{kind}"
        case [part, kind] if part in GLOBAL_NAMES:
            return f"{GLOBAL_NAMES[part]}.{kind}"
    raise ModelError(
        f"{file.name} cannot be converted: tensor {name!r} is unknown in {file.architecture!r}"
    )


def unpermute(rows: Array, heads: int) -> Array:
    """Undo llama.cpp's order of q and k rows: from interleaved rotation to split halves."""
    out, rest = rows.shape[0], rows.shape[1:]
    return rows.reshape(heads, out // heads // 2, 2, *rest).swapaxes(1, 2).reshape(out, *rest)


def unpack(tensor: ReaderTensor) -> Packed | None:
    """Return a tensor's codes, scales and biases, or ``None`` if mlx cannot hold its format."""
    kind = tensor.tensor_type.name
    size = BLOCK_BYTES.get(kind)
    if size is None:
        return None
    blocks = tensor.data.reshape(tensor.data.shape[0], -1, size)
    scales = _half(blocks, 0)
    if kind == "Q8_0":
        signed = blocks[..., 2:].view(np.int8).astype(np.int16)
        return Packed(_flat((signed + 128).astype(np.uint8)), scales, scales * -128, 8)
    bits = int(kind[1])
    codes = np.concatenate([blocks[..., -16:] & 15, blocks[..., -16:] >> 4], axis=-1)
    if kind.startswith("Q5"):
        at = 4 if kind == "Q5_1" else 2
        high = np.unpackbits(blocks[..., at : at + 4], axis=-1, bitorder="little")
        codes = codes | (high << 4)
    biases = _half(blocks, 2) if kind.endswith("_1") else scales * -(1 << (bits - 1))
    return Packed(_flat(codes), scales, biases, bits)


def pack(codes: Array, bits: int) -> Array:
    """Pack codes as mlx does: a little-endian stream of bits in uint32 words."""
    as_bits = np.unpackbits(codes[..., None], axis=-1, bitorder="little")[..., :bits]
    stream = as_bits.reshape(codes.shape[0], -1)
    return np.packbits(stream, axis=-1, bitorder="little").view(np.uint32)


def _packed(path: str, name: str, file: GgufFile, packed: Packed) -> Converted:
    arrays = {
        f"{path}.weight": pack(_restore(name, file, packed.codes), packed.bits),
        f"{path}.scales": _solid(_restore(name, file, packed.scales), np.float32),
        f"{path}.biases": _solid(_restore(name, file, packed.biases), np.float32),
    }
    return Converted(path, arrays, packed.bits)


def _restore(name: str, file: GgufFile, rows: Array) -> Array:
    """Take back what GGUF changed: the order of rows in llama, the ones in Gemma's norms."""
    heads = file.of_model("attention.head_count")
    if file.architecture == "llama" and ".attn_q." in name:
        return unpermute(rows, heads)
    if file.architecture == "llama" and ".attn_k." in name:
        return unpermute(rows, file.of_model("attention.head_count_kv", heads))
    if file.architecture == "gemma3" and name.endswith("norm.weight"):
        return rows - np.float32(1)
    return rows


def _values(name: str, tensor: ReaderTensor) -> Array:
    try:
        return np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    except NotImplementedError as error:
        kind = tensor.tensor_type.name
        raise ModelError(f"tensor {name!r} has format {kind}, which cannot be read") from error


def _half(blocks: Array, at: int) -> Array:
    half: Array = blocks[..., at : at + 2].copy().view(np.float16)[..., 0]
    return half.astype(np.float32)


def _flat(codes: Array) -> Array:
    return codes.reshape(codes.shape[0], -1)


def _solid(values: Array, kind: type[np.floating[Any]]) -> Array:
    return np.ascontiguousarray(values, dtype=kind)
