"""The outcome of the command line: what was chosen, and where each value came from."""

from typing import Any, NamedTuple

from attrs import field, frozen
from pluggy import PluginManager

from mlxserve.options import (
    DistributedOptions,
    EngineOptions,
    GenerationOptions,
    LoggingOptions,
    ModelOptions,
    ServerOptions,
)


class SettingRow(NamedTuple):
    """One option of one section; ``value`` is masked if it is a secret."""

    section: str
    name: str
    value: Any
    origin: str


@frozen(kw_only=True)
class Resolved:
    """Everything that a run needs to know about its settings.

    Attributes:
        plugins: The active plugins; the first one named is asked first.
        names: Their names, in that order.
        rows: Every option of core and active plugins.
        argv: The command line that led here, without the program's name.
    """

    plugins: PluginManager = field(repr=False)
    names: tuple[str, ...] = ()
    model: ModelOptions = field(factory=ModelOptions)
    server: ServerOptions = field(factory=ServerOptions)
    engine: EngineOptions = field(factory=EngineOptions)
    generation: GenerationOptions = field(factory=GenerationOptions)
    logging: LoggingOptions = field(factory=LoggingOptions)
    distributed: DistributedOptions = field(factory=DistributedOptions)
    rows: tuple[SettingRow, ...] = field(default=(), repr=False)
    argv: tuple[str, ...] = field(default=(), repr=False)
