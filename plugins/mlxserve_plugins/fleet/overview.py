"""What is told of all models at once: the list, the probes, the figures."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import httpx
import msgspec
from attrs import define

from mlxserve_plugins.fleet.exchange import Ask
from mlxserve_plugins.fleet.figures import exposition
from mlxserve_plugins.fleet.keeper import Keeper
from mlxserve_plugins.fleet.models import Model

Answer: TypeAlias = tuple[int, bytes, str]
JSON: Final = "application/json"
TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
LISTS: Final = ("/v1/models", "/models")
PROBES: Final = ("/readyz", "/health")
OK: Final = 200
UNAVAILABLE: Final = 503
PATIENCE_S: Final = 2.0
"""Seconds that a model's server has to answer what all are asked."""

KEYS: Final = (b"authorization", b"x-api-key")


@define(eq=False)
class Overview:
    """Asks the servers that run, and puts their answers together.

    Attributes:
        keeper: Who has the models.
        client: Asks.
    """

    keeper: Keeper
    client: httpx.AsyncClient

    async def answer(self, ask: Ask) -> Answer | None:
        """Return status, body and media type, or ``None`` where one model is meant."""
        if ask.path in LISTS:
            return await self._list(ask)
        for prefix in LISTS:
            name = ask.path.removeprefix(f"{prefix}/")
            if name != ask.path and name in self.keeper.models:
                await self._fill_cards(ask)
                return OK, msgspec.json.encode(entry(self.keeper.models[name])), JSON
        if ask.path == "/livez":
            return OK, msgspec.json.encode({"status": "alive", "reasons": []}), JSON
        if ask.path in PROBES and ask.model is None:
            return await self._probe(ask)
        if ask.path == "/metrics" and ask.model is None:
            texts = await self._ask_all(ask)
            found = {name: text.text for name, text in texts.items() if text.status_code == OK}
            return OK, exposition(self.keeper.models.values(), found), TEXT
        return None

    async def _list(self, ask: Ask) -> Answer:
        await self._fill_cards(ask)
        data = [entry(model) for model in self.keeper.models.values()]
        return OK, msgspec.json.encode({"object": "list", "data": data}), JSON

    async def _fill_cards(self, ask: Ask) -> None:
        """Learn what the loaded servers say of their models, with the client's own key."""
        lacking = [m for m in self.keeper.models.values() if not m.card]
        told = await self._ask_all(ask, "/v1/models", lacking)
        for name, answer in told.items():
            try:
                self.keeper.models[name].card = dict(answer.json()["data"][0])
            except (ValueError, LookupError, TypeError):
                continue

    async def _probe(self, ask: Ask) -> Answer:
        models = self.keeper.models
        told = await self._ask_all(ask)
        states: dict[str, Any] = {name: {"state": model.state} for name, model in models.items()}
        for name, model in models.items():
            if model.error:
                states[name]["error"] = model.error
            if name in told:
                states[name]["server"] = _json(told[name])
        reasons = ["the server is shutting down"] if self.keeper.stopping else []
        if all(model.state == "failed" for model in models.values()):
            reasons.append("every model has failed")
        status = {"/readyz": ("ready", "not_ready"), "/health": ("ok", "overloaded")}[ask.path]
        body = {"status": status[bool(reasons)], "reasons": reasons, "models": states}
        return UNAVAILABLE if reasons else OK, msgspec.json.encode(body), JSON

    async def _ask_all(
        self, ask: Ask, path: str = "", among: "list[Model] | None" = None
    ) -> Mapping[str, httpx.Response]:
        """Ask the servers that run here; who does not answer in time is left out."""
        headers = [pair for pair in ask.headers if pair[0].lower() in KEYS]
        models = list(self.keeper.models.values()) if among is None else among
        ready = {m.name: m.child.url for m in models if m.child and m.child.ready}

        async def one(url: str) -> httpx.Response | None:
            try:
                return await self.client.get(
                    url + (path or ask.path), headers=headers, timeout=PATIENCE_S
                )
            except httpx.HTTPError:
                return None

        told = await asyncio.gather(*map(one, ready.values()))
        return {
            name: answer for name, answer in zip(ready, told, strict=True) if answer is not None
        }


def entry(model: Model) -> dict[str, Any]:
    """Return what ``/v1/models`` says of a model."""
    found: dict[str, Any] = {
        "id": model.name, "object": "model", "created": 0, "owned_by": "mlxserve", **model.card,
        "state": model.state,
    }  # fmt: skip
    if model.error:
        found["error"] = model.error
    return found


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return {"status": answer.status_code}
