"""Fewer operations a layer: kernels for passes of few rows, quantized products folded."""

import sys
from functools import cached_property
from typing import Any, Literal

from attrs import define, frozen

from mlxserve_hookspecs import hookimpl, option
from mlxserve_hookspecs.models import Adaptation
from mlxserve_hookspecs.verdicts import Verdicts, tried

SECONDS = 120.0
"""How long the trial of the kernels may take, in a process of its own."""


@frozen
class FusedLayersOptions:
    """Fused layers; nothing is changed on a CPU."""

    fused_layers: Literal["auto", "kernels", "off"] = option(
        "auto",
        "auto: quantized layers run a batch's rows as one product where that is faster; kernels: "
        "on an NVIDIA GPU also products, norms and rotary embeddings of few rows by own kernels, "
        "where a measurement at the first start says so",
        flag="--fused-layers",
    )


@define(slots=False)
class FusedLayers:
    """Offers what there is for the device."""

    options: FusedLayersOptions

    @hookimpl
    def adapt_model(self, model: Any) -> Adaptation | None:
        """Fold quantized layers wherever that pays; offer kernels where they were asked for."""
        import mlx.core as mx  # noqa: PLC0415 - the module is read by people without mlx

        if self.options.fused_layers == "off" or mx.default_device().type == mx.DeviceType.cpu:
            return None
        from mlxserve_plugins.fused.offer import offer  # noqa: PLC0415

        kernels = self.options.fused_layers == "kernels" and mx.cuda.is_available()
        return offer(model, kernels and self.kernels_are_right)

    @cached_property
    def kernels_are_right(self) -> bool:
        """Whether this device runs the kernels; tried once, then remembered."""
        from mlxserve_plugins.fused.trial import QUESTION  # noqa: PLC0415

        memory = Verdicts("kernels")
        known = memory.known()
        if QUESTION not in known:
            command = (sys.executable, "-m", "mlxserve_plugins.fused.trial")
            known[QUESTION] = tried(command, SECONDS)
            memory.put(QUESTION, known[QUESTION])
        return known[QUESTION] is None
