"""Render a conversation, also with a template that is particular about roles."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from mlxserve_hookspecs import RequestError, TextCodec

Json: TypeAlias = dict[str, Any]

REFUSED = "chat_template_error"


async def render(
    text: TextCodec,
    messages: Sequence[Json],
    tools: Sequence[Mapping[str, Any]] | None,
    options: Mapping[str, Any] | None,
) -> list[int]:
    """Return the tokens of a conversation, rendered off the event loop.

    Agents send developer messages between others, and two user messages in a row. A template that
    refuses those gets the same texts in roles that it may know.

    Raises:
        RequestError: The template refuses every form; the first refusal is told.
    """
    return await asyncio.to_thread(_render, text, messages, tools, options)


def _render(
    text: TextCodec,
    messages: Sequence[Json],
    tools: Sequence[Mapping[str, Any]] | None,
    options: Mapping[str, Any] | None,
) -> list[int]:
    first: RequestError | None = None
    for form in forms(messages):
        try:
            return text.render_chat(form, tools=tools, template_kwargs=options or None)
        except RequestError as error:
            if error.code != REFUSED:
                raise
            first = first or error
    raise first or RequestError(status=400, message="there are no messages", param="input")


def forms(messages: Sequence[Json]) -> Iterator[list[Json]]:
    """Yield the conversation as it is, then in plainer forms, those that differ only."""
    whole = list(messages)
    yield whole
    plainer = _alternating([_as_user(one) if at else one for at, one in enumerate(whole)])
    if plainer != whole:
        yield plainer
    plainest = _alternating([_as_user(one) for one in whole])
    if plainest != plainer:
        yield plainest


def _as_user(message: Json) -> Json:
    return {**message, "role": "user"} if message["role"] == "system" else message


def _alternating(messages: Sequence[Json]) -> list[Json]:
    """Return the messages with those of a user that follow each other joined."""
    found: list[Json] = []
    for message in messages:
        if found and message["role"] == found[-1]["role"] == "user":
            found[-1] = {**found[-1], "content": f"{found[-1]['content']}\n\n{message['content']}"}
        else:
            found.append(message)
    return found
