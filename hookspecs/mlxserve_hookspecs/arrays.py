"""Names for what this floor must not import: ``mlx`` is heavy, and missing on a bare machine."""

from typing import Any, TypeAlias

Array: TypeAlias = Any
"""An ``mlx.core.array``. Only the engine thread makes, reads or evaluates one."""

Dtype: TypeAlias = Any
"""An ``mlx.core.Dtype``."""

Group: TypeAlias = Any
"""An ``mlx.core.distributed.Group``."""
