"""What ``fleet.toml`` says: the models, and what they may use together."""

import tomllib
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from mlxserve_hookspecs import SettingError

GB: Final = 10**9
Amount = Annotated[float, Meta(gt=0)]
Seconds = Annotated[float, Meta(ge=0)]
OURS: Final = frozenset({"--model", "--served-model-name", "--host", "--port", "--preset"})
"""Flags that the front sets itself."""


class ModelTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model of the file.

    Attributes:
        model: Its reference, as for ``mlxserve run``; with ``url``, its name there.
        url: A server that runs elsewhere; nothing is started then.
        preset: As for ``mlxserve run``.
        flags: More words for ``mlxserve run``.
        memory_gb: Gigabytes (1e9 bytes) that its process may take; measured where nobody says.
        keep_alive: Seconds without a request after which it is unloaded; 0 is never.
    """

    model: str | None = None
    url: str | None = None
    preset: str | None = None
    flags: tuple[str, ...] = ()
    memory_gb: Amount | None = None
    keep_alive: Seconds | None = None


class FleetFile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file.

    Attributes:
        models: By the names that clients use.
        host: Address to listen on.
        port: Port to listen on.
        default: The model of requests that name none.
        flags: Words for every ``mlxserve run``, before the model's own.
        memory_budget_gb: Gigabytes for all processes together; no limit without it.
        keep_alive: For models that do not say.
        api_key_file: As for ``mlxserve run``; asked for by the front and by its children.
        keepalive_s: Seconds between two comments to a streaming client whose model loads.
        load_timeout_s: Seconds that a model has to load.
        shutdown_timeout_s: Seconds that replies get to finish when the front is stopped.
        max_request_bytes: The largest body.
    """

    models: Annotated[dict[str, ModelTable], Meta(min_length=1)]
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, lt=1 << 16)] = 8000
    default: str | None = None
    flags: tuple[str, ...] = ()
    memory_budget_gb: Amount | None = None
    keep_alive: Seconds = 0.0
    api_key_file: str | None = None
    keepalive_s: Amount = 5.0
    load_timeout_s: Amount = 1800.0
    shutdown_timeout_s: Seconds = 30.0
    max_request_bytes: Annotated[int, Meta(gt=0)] = 1 << 26

    def command(self, name: str) -> tuple[str, ...]:
        """Return the words of ``mlxserve`` that serve the model of this name."""
        table = self.models[name]
        preset = () if table.preset is None else ("--preset", table.preset)
        keys = () if self.api_key_file is None else ("--api-key-file", self.api_key_file)
        own = ("--model", str(table.model), "--served-model-name", name)
        place = ("--host", "127.0.0.1", "--port", "0")
        return ("run", *preset, *keys, *self.flags, *table.flags, *own, *place)


def read_file(path: Path) -> FleetFile:
    """Return what a file says.

    Raises:
        SettingError: It cannot be read, or says what cannot be; in one line.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8-sig"))
        found = msgspec.convert(table, FleetFile)
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, msgspec.ValidationError) as error:
        raise SettingError(f"{path}: {error}") from error
    _check(found, path)
    return found


def _check(file: FleetFile, path: Path) -> None:
    for name, table in file.models.items():
        where = f"{path}: models.{name}"
        if not name.strip() or not name.isprintable():
            raise SettingError(f"{path}: a model's name must be printable, not {name!r}")
        if table.url is None and table.model is None:
            raise SettingError(f"{where} needs 'model', or the 'url' of a server that has it")
        if table.url is not None:
            _check_remote(table, table.url, where)
        ours = OURS & {word.partition("=")[0] for word in (*file.flags, *table.flags)}
        if ours:
            raise SettingError(f"{where}: {min(ours)} is not for 'flags': the fleet sets it")
        budget = file.memory_budget_gb
        if budget is not None and table.memory_gb is not None and table.memory_gb > budget:
            raise SettingError(
                f"{where} alone needs memory_gb = {table.memory_gb:g}, more than "
                f"memory_budget_gb = {budget:g}; raise the budget or take a smaller model"
            )
    if file.default is not None and file.default not in file.models:
        known = ", ".join(file.models)
        raise SettingError(f"{path}: default = {file.default!r} is none of the models: {known}")


def _check_remote(table: ModelTable, url: str, where: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise SettingError(f"{where}: url must begin with http:// or https://, not {url!r}")
    local = ("preset", "flags", "memory_gb", "keep_alive")
    said = [field for field in local if getattr(table, field)]
    if said:
        raise SettingError(f"{where}: {said[0]!r} is for models that run here, not for a url")
