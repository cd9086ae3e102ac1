"""Serve a model from a ``.gguf`` file: converted once into a folder that mlx-lm loads."""

from pathlib import Path
from typing import Literal, TypeAlias

from attrs import define, frozen

from mlxserve_hookspecs import ModelError, ModelSource, Progress, hookimpl, option
from mlxserve_plugins.folders import cache_home

Form: TypeAlias = Literal["auto", "float32", "float16", "packed"]


@frozen
class GgufOptions:
    """How GGUF files are converted."""

    model_cache_dir: Path | None = option(
        None,
        "folder that keeps models converted from .gguf files [~/.cache/mlxserve/models]",
        flag="--model-cache-dir",
    )
    gguf_weights: Form = option(
        "auto",
        "what becomes of a GGUF's weights; packed keeps 4, 5 and 8 bit blocks as they are",
        flag="--gguf-weights",
    )


@define
class Gguf:
    """Answers for names that end in ``.gguf``."""

    options: GgufOptions

    @hookimpl
    def resolve_model(self, reference: str, progress: Progress) -> ModelSource | None:
        """Convert the file unless that was done before."""
        if reference.startswith("pypi:") or not reference.lower().endswith(".gguf"):
            return None
        path = Path(reference).expanduser()
        if not path.is_file():
            raise ModelError(f"--model {reference}: there is no such file")
        cache = self.options.model_cache_dir or models_home()
        # Brings in the converter, and with it numpy.
        from mlxserve_plugins.gguf.convert import converted  # noqa: PLC0415

        return converted(path, cache.expanduser(), self.options.gguf_weights, progress)


def models_home() -> Path:
    """Return where converted models are kept when nobody says otherwise."""
    return cache_home() / "models"
