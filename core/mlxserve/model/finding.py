"""Where a model's files are. Imports no mlx: what is not there is told before that is imported."""

from typing import Final

from pluggy import PluginManager

from mlxserve.hooks import ask
from mlxserve_hookspecs import ModelError, ModelSource, Progress, models

FORMS: Final = "a hub id (org/name), an existing folder, or a form that an active plugin knows"


def find(plugins: PluginManager, reference: str, progress: Progress) -> ModelSource:
    """Return where a model's files are, fetched and converted if they were not.

    Raises:
        ModelError: The reference leads nowhere.
    """
    source = ask(plugins, models.resolve_model)(reference=reference, progress=progress)
    if source is None:
        raise ModelError(f"--model {reference!r} is not {FORMS}")
    return source
