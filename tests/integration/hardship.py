"""A plugin that brings trouble to one rank when a test asks for it, through files in a folder.

The folder is ``$RANK_HARDSHIP``. ``sleep-1`` with ``0.2`` in it lets rank 1 sleep so many seconds
in each iteration; ``fail-1`` lets its next forward pass fail; ``leave-1`` lets it exit with the
status in it, before it loads anything.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from attrs import define, field, frozen

from mlxserve_hookspecs import Iteration, KvSide, PlaneSpec, Side, hookimpl


@frozen
class Orders:
    """What this rank is to suffer."""

    rank: str = field(factory=lambda: os.environ.get("MLX_RANK", ""))
    folder: Path = field(factory=lambda: Path(os.environ["RANK_HARDSHIP"]))

    def read(self, what: str) -> str | None:
        path = self.folder / f"{what}-{self.rank}"
        return path.read_text() if self.rank and path.exists() else None


@frozen(eq=False)
class Fragile:
    """The plain layout of KV, whose forward passes fail when told to."""

    orders: Orders
    name: str = "fragile"
    words: None = None

    def planes(self, side: KvSide) -> tuple[PlaneSpec, ...]:
        return (PlaneSpec(side.width, side.dtype),)

    def encode(self, x: Any, side: Side) -> tuple[Any, ...]:
        del side
        if self.orders.read("fail") is not None:
            raise RuntimeError("[hardship] this forward pass fails")
        return (x,)

    def decode(self, planes: Sequence[Any], side: Side) -> Any:
        del side
        return planes[0]

    def attend(
        self,
        queries: Any,
        keys: Sequence[Any],
        values: Sequence[Any],
        *,
        scale: float,
        mask: Any | Literal["causal"] | None,
        sinks: Any | None,
    ) -> Any:
        import mlx.core as mx

        return mx.fast.scaled_dot_product_attention(
            queries, keys[0], values[0], scale=scale, mask=mask, sinks=sinks
        )


@define
class Hardship:
    """Obeys the orders for its rank."""

    orders: Orders = field(factory=Orders)

    @hookimpl
    def preparing(self) -> None:
        status = self.orders.read("leave")
        if status is not None:
            os._exit(int(status))

    @hookimpl
    def make_kv_codec(self) -> Fragile:
        return Fragile(self.orders)

    @hookimpl
    def iteration_finished(self, iteration: Iteration) -> None:
        seconds = self.orders.read("sleep")
        if seconds is not None:
            time.sleep(float(seconds))
