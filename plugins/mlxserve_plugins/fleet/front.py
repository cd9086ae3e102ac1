"""The front: an ASGI application that hands each request to the server of its model."""

from collections.abc import Mapping
from typing import Any, Final

import httpx
from attrs import define, field

from mlxserve_hookspecs import Credentials, RequestError
from mlxserve_plugins.auth import Auth
from mlxserve_plugins.fleet.exchange import Ask, Headers, Reply, end_to_end, read_ask
from mlxserve_plugins.fleet.keeper import Keeper, say
from mlxserve_plugins.fleet.models import Model
from mlxserve_plugins.fleet.overview import Overview
from mlxserve_plugins.fleet.shapes import event_of
from mlxserve_plugins.surface.transport import ClientLeftError, while_connected

CONNECT_S: Final = 10.0
OK: Final = 200
NOT_FOUND: Final = 404
LENGTH: Final = (b"host", b"content-length")
RESPONSES: Final = "/v1/responses/"


def open_client() -> httpx.AsyncClient:
    """Return a client that waits as long as its own client does."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    timeout = httpx.Timeout(None, connect=CONNECT_S)
    return httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=False)


@define(eq=False)
class Front:
    """Answers what concerns all models, and passes on what concerns one.

    Attributes:
        keeper: Who has the models.
        auth: Knows the keys.
        client: Asks the children.
    """

    keeper: Keeper
    auth: Auth
    client: httpx.AsyncClient = field(factory=open_client)
    overview: Overview = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make what answers for all."""
        self.overview = Overview(self.keeper, self.client)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one exchange."""
        if scope["type"] != "http":
            return
        reply = Reply(send, scope["path"])
        try:
            self._authenticate(scope)
            ask = await read_ask(scope, receive, self.keeper.file.max_request_bytes)
            await while_connected(receive, self._answer(ask, reply))
        except ClientLeftError:
            return
        except RequestError as error:
            await reply.fail(error)
        except httpx.HTTPError as error:
            say(f"{scope['path']} failed: {type(error).__name__} {error}")
            message = "the model's server ended before its answer did; try again"
            await reply.fail(RequestError(status=503, message=message, retry_after=1.0))

    def _authenticate(self, scope: Any) -> None:
        headers = {
            name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        client = (scope.get("client") or [""])[0]
        found = self.auth.authenticate(
            Credentials(headers=headers, path=scope["path"], client=client)
        )
        if isinstance(found, RequestError):
            raise found

    async def _answer(self, ask: Ask, reply: Reply) -> None:
        if ask.method in ("GET", "HEAD") and (own := await self.overview.answer(ask)):
            status, body, kind = own
            await reply.whole(status, body, [(b"content-type", kind.encode())])
        elif ask.model is None and ask.path.startswith(RESPONSES):
            await self._ask_around(ask, reply)
        else:
            await self._forward(self._model(ask), ask, reply)

    def _model(self, ask: Ask) -> Model:
        """Return the model that is asked for.

        Raises:
            RequestError: There is no such model, or none is named.
        """
        models, default = self.keeper.models, self.keeper.file.default
        known = ", ".join(models)
        name = ask.model or default
        if name is None:
            message = f"name a model, in the body or as ?model=; this server has {known}"
            raise RequestError(status=400, message=message, param="model", code="model_required")
        found = models.get(name) or models.get(name.removesuffix(":latest"))
        if found is None:
            message = f"the model {name!r} is not served here; this server has {known}"
            raise RequestError(status=404, message=message, param="model", code="model_not_found")
        return found

    async def _forward(self, model: Model, ask: Ask, reply: Reply) -> None:
        async def tell(waited: float) -> None:
            if ask.streams:
                await reply.comment(f"{model.name} is {model.state}, {waited:.0f} s")

        async with self.keeper.lease(model, tell) as url:
            request = _request(ask, url, model)
            try:
                answer = await self.client.send(request, stream=True)
            except httpx.TransportError as error:
                if model.table.url is not None:
                    model.error = f"{url} does not answer: {type(error).__name__}"
                    raise model.unavailable(1.0) from error
                raise
            if model.table.url is not None:
                model.error = ""
            try:
                await _pass_on(answer, ask, reply)
            finally:
                await answer.aclose()

    async def _ask_around(self, ask: Ask, reply: Reply) -> None:
        """Ask the loaded models in turn for what only one of them has kept."""
        for model in self.keeper.models.values():
            if model.child is None or not model.child.ready:
                continue
            async with self.keeper.lease(model, _silent) as url:
                answer = await self.client.send(_request(ask, url, model), stream=True)
                try:
                    if answer.status_code != NOT_FOUND:
                        await _pass_on(answer, ask, reply)
                        return
                finally:
                    await answer.aclose()
        raise RequestError(status=404, message="no loaded model has kept this response")


async def _silent(_: float) -> None:
    return


async def _pass_on(answer: httpx.Response, ask: Ask, reply: Reply) -> None:
    """Send an answer on as it comes, byte for byte."""
    if reply.begun and answer.status_code != OK:
        await reply.part(event_of(ask.path, await answer.aread()))
        await reply.end()
        return
    if not reply.begun:
        await reply.start(answer.status_code, end_to_end(answer.headers.raw))
    async for data in answer.aiter_raw():
        await reply.part(data)
    await reply.end()


def _request(ask: Ask, url: str, model: Model) -> httpx.Request:
    """Return the request for a child: the client's own, but for what is between neighbours."""
    remote = model.table.url is not None and model.table.model is not None
    body = ask.renamed(str(model.table.model)) if remote and ask.body else ask.body
    headers: Headers = [pair for pair in end_to_end(ask.headers) if pair[0] not in LENGTH]
    if all(name != b"accept-encoding" for name, _ in headers):
        headers.append((b"accept-encoding", b"identity"))
    content: Mapping[str, Any] = {"content": body} if body or ask.method == "POST" else {}
    return httpx.Request(ask.method, url + ask.target, headers=headers, **content)
