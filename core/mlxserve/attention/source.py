"""The text of each kernel: constants of a shape, the verbs of a dialect, one of the bodies."""

from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files

from mlxserve.attention.dialect import DIALECTS, Dialect, DialectName, KernelSource
from mlxserve.attention.shape import Shape

NAME_DIGITS = 16


@cache
def attend_source(dialect: DialectName, shape: Shape) -> KernelSource:
    """Return the attention kernel of ``shape``, or of one part of its context.

    Raises:
        ValueError: The kernel would need more threadgroup memory than the dialect's devices have.
    """
    to = DIALECTS[dialect]
    if shape.shared_bytes > to.shared_limit:
        raise ValueError(f"{shape.shared_bytes} bytes of threadgroup memory, {to.shared_limit} are")
    body = _text("words") + _text("attend")
    inputs = ("queries", "plane", "table", "starts", "facts", "scale")
    if shape.partial:
        return _kernel(to, "attend", shape, body, (inputs, ("sums", "stats")))
    return _kernel(to, "attend", shape, body, (_with_sinks(shape, inputs), ("out",)))


@cache
def merge_source(dialect: DialectName, shape: Shape) -> KernelSource:
    """Return the kernel that merges the parts of ``shape``'s context."""
    inputs = _with_sinks(shape, ("sums", "stats", "facts"))
    return _kernel(DIALECTS[dialect], "merge", shape, _text("merge"), (inputs, ("out",)))


@cache
def pack_source(dialect: DialectName, shape: Shape) -> KernelSource:
    """Return the kernel that makes words of keys and values, quantized or as they are."""
    names = (("keys", "values", "facts"), ("out",))
    body = "lay" if shape.format.plain else "pack"
    return _kernel(DIALECTS[dialect], body, shape, _text(body), names, strided=True)


def _with_sinks(shape: Shape, inputs: tuple[str, ...]) -> tuple[str, ...]:
    return (*inputs, "sinks") if shape.sinks else inputs


def _kernel(
    dialect: Dialect,
    purpose: str,
    shape: Shape,
    body: str,
    names: tuple[tuple[str, ...], tuple[str, ...]],
    *,
    strided: bool = False,
) -> KernelSource:
    """Put the text together; constants that it does not mention stay out of it and its name."""
    kind = dialect.types[shape.dtype]
    text = f"{_defines(shape.constants(), body)}typedef {kind} T;\n{dialect.prologue}{body}"
    digest = sha256(f"{dialect.header}{text}{names}".encode()).hexdigest()[:NAME_DIGITS]
    return KernelSource(f"ragged_{purpose}_{digest}", *names, dialect.header, text, strided)


def _defines(constants: Mapping[str, int], body: str) -> str:
    return "".join(f"#define {key} {value}\n" for key, value in constants.items() if key in body)


def _text(body: str) -> str:
    return files(__package__).joinpath("bodies", f"{body}.body").read_text(encoding="utf-8")
