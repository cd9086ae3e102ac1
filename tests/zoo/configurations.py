"""A tiny float32 configuration for every text model of mlx-lm 0.32.2."""

from functools import cache
from typing import Any

from .building import Configuration
from .dense import DENSE
from .experts import MOE
from .inside import WRAPPED
from .latent import MULTI_LATENT
from .recurrent import RECURRENT
from .sliding import WINDOWED

CONFIGURATIONS: dict[str, Configuration] = {
    **DENSE,
    **WINDOWED,
    **MOE,
    **MULTI_LATENT,
    **RECURRENT,
    **WRAPPED,
}

UNBUILT: dict[str, str] = {
    "bitnet": "its linear layers are a Metal kernel, without another way",
    "muse_spark": "its norms and rotations are Metal kernels, without another way",
    "olmo": "needs the package ai2-olmo, and exits the interpreter where that is missing",
}
"""Modules that a CPU cannot run or that cannot be imported, and why."""


@cache
def tiny(name: str) -> Any:
    """Return the model of a configuration, with seeded spread-out weights."""
    return CONFIGURATIONS[name].build()
