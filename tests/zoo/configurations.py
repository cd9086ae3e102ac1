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


@cache
def tiny(name: str) -> Any:
    """Return the model of a configuration, with seeded spread-out weights."""
    return CONFIGURATIONS[name].build()
