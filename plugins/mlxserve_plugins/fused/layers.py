"""Layers that run their products by the kernels where a pass has few rows, else as they did."""

import sys
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias, cast

import mlx.core as mx
from attrs import define, field
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.normalization import RMSNorm
from mlx.nn.layers.positional_encoding import RoPE
from mlx_lm.models.activations import swiglu
from mlx_lm.models.rope_utils import Llama3RoPE

from mlxserve_plugins.fused.forms import form
from mlxserve_plugins.fused.kernels import Few, Turn, takes

Call: TypeAlias = Callable[..., Any]
Norm: TypeAlias = tuple[mx.array, mx.array, float]
Heads: TypeAlias = tuple[tuple[int, int], Turn, Norm | None]
NAME = "scaled_dot_product_attention"
MARK = "mlxserve_fused"
DIMS = (64, 80, 96, 128, 192, 256)


@define(eq=False)
class Fused:
    """What was done to a model, and how to undo it.

    Attributes:
        few: The kernels.
        model: The model, changed in place by ``apply``.
        counts: How many layers of each kind now run by kernels.
    """

    few: Few
    model: Any
    counts: dict[str, int] = field(factory=dict)
    _was: list[tuple[Any, type]] = field(factory=list)

    def apply(self) -> dict[str, int]:
        """Give every layer that the kernels know a class that uses them; count them by kind."""
        modules = [module for _, module in self.model.named_modules()]
        for module in modules:
            self._swap("products", module, _product(self.few, module))
        for module in modules:
            found = form(_kind(module)) if type(module).__module__.startswith("mlx_lm.") else None
            if found and found[0] == "mlp":
                self._swap("gates", module, _gated(self.few, module))
            elif found and found[0] == "attention":
                self._swap("attention", module, _attention(self.few, module))
        for module in modules:
            found = form(_kind(module)) if type(module).__module__.startswith("mlx_lm.") else None
            if found and found[0] == "block":
                self._swap("residuals", module, _block(module))
        return self.counts

    def undo(self) -> None:
        """Give every layer its own class back."""
        for module, kind in self._was:
            module.__class__ = kind
        self._was.clear()
        self.counts = {}

    def _swap(self, what: str, module: Any, methods: dict[str, Call] | None) -> None:
        if methods is None:
            return
        kind = type(module)
        self._was.append((module, kind))
        # the module's name stays: who looks for mlx-lm's functions finds them there
        body = {"__module__": kind.__module__, MARK: what, **methods}
        module.__class__ = type(kind.__name__, (kind,), body)
        self.counts[what] = self.counts.get(what, 0) + 1


def _product(few: Few, module: Any) -> dict[str, Call] | None:
    if type(module) is Linear and takes(module.weight):
        return {"__call__": _linear(few)}
    if type(module) is Embedding and takes(module.weight):

        def as_linear(self: Any, x: mx.array) -> mx.array:
            if not few.fits("product", x, self.weight):
                y: mx.array = Embedding.as_linear(self, x)  # type: ignore[no-untyped-call]
                return y
            return few.product(x, self.weight)

        return {"as_linear": as_linear}
    return None


def _linear(few: Few) -> Call:
    def call(self: Any, x: mx.array, added: mx.array | None = None) -> mx.array:
        if few.fits("product", x, self.weight):
            return few.product(x, self.weight, self.get("bias"), added)
        y: mx.array = Linear.__call__(self, x)
        return y if added is None else added + y

    return call


def _gated(few: Few, module: Any) -> dict[str, Call] | None:
    gate, up, down = (module.get(name) for name in ("gate_proj", "up_proj", "down_proj"))
    if not all(_plain(x) and "bias" not in x for x in (gate, up)) or not _plain(down):
        return None

    def call(self: Any, x: mx.array, added: mx.array | None = None) -> mx.array:
        if not few.fits("gates", x, self.gate_proj.weight, self.up_proj.weight):
            return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)), added)  # type: ignore[no-any-return]
        made = few.gated(x, self.gate_proj.weight, self.up_proj.weight)
        return self.down_proj(made, added)  # type: ignore[no-any-return]

    return {"__call__": call}


def _attention(few: Few, module: Any) -> dict[str, Call] | None:
    inner = [module.get(name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    found = heads_of(module)
    if found is None or not all(_plain(x) for x in inner):
        return None
    return {"__call__": _attend(few, type(module), *found)}


def heads_of(module: Any) -> Heads | None:
    """Return heads of queries and of keys, rotary embedding, norms, of a layer that is known."""
    known = form(_kind(module))
    if known is None or known[0] != "attention":
        return None
    names, inner = known[1], [module.get(name) for name in ("q_proj", "k_proj", "v_proj")]
    heads = (getattr(module, names[0]), getattr(module, names[1]))
    if len({"bias" in x for x in inner}) > 1:
        return None
    dim = inner[0].weight.shape[0] // heads[0]
    turn, norm = _turn(module.get("rope"), dim), _norm(module, names[2:], dim)
    if turn is None or (norm is None and len(names) > 2):  # noqa: PLR2004 - names of norms follow
        return None
    return heads, turn, norm


def _attend(
    few: Few,
    kind: type,
    heads: tuple[int, int],
    turn: Turn,
    norm: Norm | None,
) -> Call:
    plain: Call = kind.__call__
    functions = sys.modules[kind.__module__]
    ahead = sum(heads) * turn.dim

    def call(
        self: Any, x: mx.array, mask: Any = None, cache: Any = None, added: mx.array | None = None
    ) -> mx.array:
        inner = (self.q_proj, self.k_proj, self.v_proj)
        if not few.fits("attention", x, *(p.weight for p in inner)):
            y: mx.array = plain(self, x, mask, cache)
            return y if added is None else added + y
        rows, width, _ = x.shape
        biases = [p.bias for p in inner] if "bias" in inner[0] else []
        made = few.split(x, [p.weight for p in inner], biases)
        starts = _starts(0 if cache is None else cache.offset, rows)
        queries, keys = few.heads(made, heads, turn, starts, norm)
        values = made[..., ahead:].reshape(rows, width, heads[1], turn.dim).transpose(0, 2, 1, 3)
        if cache is not None:
            keys, values = cache.update_and_fetch(keys, values)
        attend = getattr(functions, NAME)
        out = attend(queries, keys, values, cache=cache, scale=self.scale, mask=mask)
        return self.o_proj(out.transpose(0, 2, 1, 3).reshape(rows, width, -1), added)  # type: ignore[no-any-return]

    return call


def _block(module: Any) -> dict[str, Call] | None:
    """Let the last product of attention and of the MLP add what goes past them."""
    attention, mlp = module.get("self_attn"), module.get("mlp")
    both = [hasattr(x, MARK) for x in (attention, mlp)]
    if not any(both):
        return None

    def call(self: Any, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        inner = self.input_layernorm(x)
        if both[0]:
            h = self.self_attn(inner, mask, cache, added=x)
        else:
            h = x + self.self_attn(inner, mask, cache)
        inner = self.post_attention_layernorm(h)
        return self.mlp(inner, added=h) if both[1] else h + self.mlp(inner)  # type: ignore[no-any-return]

    return {"__call__": call}


def _kind(module: Any) -> Hashable:
    return cast(Hashable, type(module))


def _plain(module: Any) -> bool:
    return isinstance(module, Linear) and hasattr(module, MARK)


def _starts(offset: Any, rows: int) -> mx.array:
    starts = offset if isinstance(offset, mx.array) else mx.array(offset)
    return mx.broadcast_to(starts.astype(mx.int32).reshape(-1), (rows,))


def _turn(rope: Any, dim: int) -> Turn | None:
    if type(rope) is RoPE:
        steps = mx.arange(0, rope.dims, 2, dtype=mx.float32) / rope.dims
        inverse, scale = mx.array(rope.base, mx.float32) ** -steps, rope.scale
    elif type(rope) is Llama3RoPE:
        inverse, scale = 1.0 / rope._freqs.astype(mx.float32), 1.0  # noqa: SLF001
    else:
        return None
    if dim not in DIMS or rope.dims > dim:
        return None
    mx.eval(inverse)
    return Turn(dim, rope.dims, bool(rope.traditional), float(scale), inverse)


def _norm(module: Any, names: tuple[str, ...], dim: int) -> Norm | None:
    norms = [module.get(name) for name in names]
    if not norms or any(type(x) is not RMSNorm or x.weight.shape != (dim,) for x in norms):
        return None
    if norms[0].eps != norms[1].eps:
        return None
    return norms[0].weight, norms[1].weight, norms[0].eps
