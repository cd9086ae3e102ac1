"""The command line: ``mlxserve run | plugins | config`` and what plugins add."""

from mlxserve.cli.program import main

__all__ = ["main"]
