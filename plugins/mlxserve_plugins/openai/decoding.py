"""From a body's bytes to its struct: what every surface does, by the name that it has here."""

from mlxserve_plugins.surface.decoding import decode, explain, read

__all__ = ["decode", "explain", "read"]
