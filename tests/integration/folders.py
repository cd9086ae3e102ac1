"""Folders that stand for what a user has installed."""

import shutil
from pathlib import Path


def install(module: Path, folder: Path, *, plugin: str, name: str) -> Path:
    """Make ``folder`` a place of installed packages with one plugin; return it.

    Args:
        module: The plugin's source.
        folder: To be put on ``PYTHONPATH``; must not exist.
        plugin: The class in ``module``.
        name: What it is announced as.
    """
    info = folder / f"mlxserve_{name}-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(module, folder / f"mlxserve_{name}.py")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mlxserve-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mlxserve]\n{name} = mlxserve_{name}:{plugin}\n")
    return folder
