"""Find out, once for a device, where mlx's own operations are faster than the kernels."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, TypeAlias

import mlx.core as mx
from attrs import frozen
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx_lm.models.activations import swiglu

from mlxserve_hookspecs.verdicts import Verdicts
from mlxserve_plugins.fused.kernels import Few, Kind, takes, what
from mlxserve_plugins.fused.layers import heads_of

ROWS: Final = (1, 8, 16, 32, 64)
LAYERS, RUNS, CALLS = 8, 4, 3
"""Layers of one shape in a chain, so that no cache holds their weights; and how often it runs."""

Call: TypeAlias = Callable[[mx.array], mx.array]


@frozen
class Contest:
    """One layer's part, both ways.

    Attributes:
        kind: What it is.
        weights: By whose shapes it is named.
        plain: mlx's way, ``[rows, 1, inputs]`` to anything with rows in front.
        ours: The kernels'.
    """

    kind: Kind
    weights: tuple[mx.array, ...]
    plain: Call
    ours: Call


def slower(few: Few, model: Any, digest: str) -> frozenset[str]:
    """Return what the kernels do more slowly than mlx, as ``what`` names it.

    Measured through ``mx.compile``, as passes run, so that the host's share counts.

    Args:
        few: The kernels.
        model: As loaded.
        digest: Names the kernels' text; what was measured is remembered by it.
    """
    info: Any = mx.device_info()
    memory = Verdicts("fused-layers")
    known, found = memory.known(), set()
    for contests in _contests(few, model).values():
        for rows in ROWS:
            name = what(contests[0].kind, rows, *contests[0].weights)
            dtype = contests[0].weights[0].dtype
            question = f"{name}, {dtype}, {info.get('device_name', '')}, {version('mlx')}, {digest}"
            if question not in known:
                known[question] = _faster_plain(contests[:LAYERS], rows)
                memory.put(question, known[question])
            if known[question]:
                found.add(name)
    return frozenset(found)


def _contests(few: Few, model: Any) -> Mapping[str, list[Contest]]:
    found: dict[str, list[Contest]] = {}
    for _, module in model.named_modules():
        for contest in (*_product(few, module), *_gates(few, module), *_attention(few, module)):
            found.setdefault(what(contest.kind, 1, *contest.weights), []).append(contest)
    return found


def _product(few: Few, module: Any) -> Iterator[Contest]:
    if type(module) not in (Linear, Embedding) or not takes(module.weight):
        return
    plain = Linear.__call__ if type(module) is Linear else Embedding.as_linear
    yield Contest(
        "product",
        (module.weight,),
        lambda x: plain(module, x),
        lambda x: few.product(x, module.weight, module.get("bias")),
    )


def _gates(few: Few, module: Any) -> Iterator[Contest]:
    gate, up = (module.get(name) for name in ("gate_proj", "up_proj"))
    if any(type(x) is not Linear or not takes(x.weight) for x in (gate, up)):
        return
    yield Contest(
        "gates",
        (gate.weight, up.weight),
        lambda x: swiglu(gate(x), up(x)),
        lambda x: few.gated(x, gate.weight, up.weight),
    )


def _attention(few: Few, module: Any) -> Iterator[Contest]:
    inner = [module.get(name) for name in ("q_proj", "k_proj", "v_proj")]
    found = heads_of(module)
    if any(type(x) is not Linear or not takes(x.weight) for x in inner) or found is None:
        return
    heads, turn, norm = found
    weights = tuple(p.weight for p in inner)

    def plain(x: mx.array) -> mx.array:
        starts, made = mx.arange(x.shape[0]), []
        for at, projection in enumerate(inner[:2]):
            y = projection(x).reshape(*x.shape[:2], heads[at], turn.dim)
            y = mx.fast.rms_norm(y, norm[:2][at], norm[2]) if norm else y
            made.append(module.rope(y.transpose(0, 2, 1, 3), offset=starts)[:, :1, :, :1])
        total: mx.array = made[0] + made[1] + inner[2](x)[:, None, :, :1]
        return total

    def ours(x: mx.array) -> mx.array:
        biases = [p.bias for p in inner] if "bias" in inner[0] else []
        y = few.split(x, weights, biases)
        q, k = few.heads(y, heads, turn, mx.arange(x.shape[0]).astype(mx.int32), norm)
        return q[:, :1, :, :1] + k[:, :1, :, :1] + y[:, None, :, -1:]

    yield Contest("attention", weights, plain, ours)


def _faster_plain(contests: Sequence[Contest], rows: int) -> bool:
    weight = contests[0].weights[0]
    x = mx.random.normal((rows, 1, weight.shape[1]), key=mx.random.key(0)).astype(weight.dtype)
    ways = [_chain([c.plain for c in contests]), _chain([c.ours for c in contests])]
    for way in ways:
        mx.eval(way(x))
    spent = [[_seconds(way, x) for way in ways] for _ in range(RUNS)]
    return min(plain for plain, _ in spent) < min(ours for _, ours in spent)


def _chain(calls: Sequence[Call]) -> Call:
    def run(x: mx.array) -> mx.array:
        for call in calls:
            y = call(x)
            # each waits for the one before, as layers do
            x = x * (y.reshape(y.shape[0], -1)[:, :1, None] * 0 + 1)
        return x

    return mx.compile(run)


def _seconds(run: Call, x: mx.array) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        x = run(x)
    mx.eval(x)
    return time.perf_counter() - began
