"""Bodies from bytes, with words of this API where its kinds of blocks are at fault."""

from typing import TypeVar

from attrs import evolve

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.openai.decoding import decode
from mlxserve_plugins.openai.transport import JsonBody

T = TypeVar("T")


class MessageBody(JsonBody[T]):
    """Decodes a body strictly as to the fields that it knows."""

    def decode_bytes(self, value: bytes) -> T:
        """Return the body as the handler's struct."""
        return decode_body(value, self.model_type)


def decode_body(value: bytes, kind: type[T]) -> T:
    """Return a body as a ``kind``.

    Raises:
        RequestError: It is none (status 400).
    """
    try:
        return decode(value, kind)
    except RequestError as error:
        if (error.param or "").endswith(".type"):
            raise evolve(error, message=f"`{error.param}` is of a kind unknown here") from None
        raise
