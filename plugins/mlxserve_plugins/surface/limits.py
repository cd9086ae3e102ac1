"""How long a reply may get: what was asked, within what server, model and KV leave."""

from attrs import frozen

from mlxserve_hookspecs import Limits, RequestError
from mlxserve_plugins.surface.notes import Notes

TOO_LONG = "context_length_exceeded"


@frozen
class Room:
    """What a prompt leaves to its reply.

    Attributes:
        tokens: Most tokens of the reply; none or less if the prompt leaves none.
        bound: What bounds it, in words.
        whole: Most tokens of prompt and reply together; ``None`` if the reply alone is bounded.
    """

    tokens: int
    bound: str
    whole: int | None = None


def room_after(prompt: int, limits: Limits) -> Room:
    """Return what a prompt of ``prompt`` tokens leaves to its reply."""
    rooms = [Room(limits.max_generation_tokens, "the server's limit")]
    for whole, bound in (
        (limits.max_model_len, "the model's context"),
        (limits.max_kv_tokens, "the server's KV"),
    ):
        if whole is not None:
            rooms.append(Room(whole - prompt, bound, whole))
    return min(rooms, key=lambda room: room.tokens)


def reply_tokens(
    asked: int | None, limits: Limits, prompt: int, *, name: str, where: str, notes: Notes
) -> int:
    """Return the most tokens to generate; what is asked beyond the room is cut to it, and noted.

    Args:
        asked: What the client asked for; ``None`` is the default.
        limits: The server's.
        prompt: Tokens of the prompt.
        name: The field that asks.
        where: The field that the prompt came in.
        notes: Told when less is generated than was asked.

    Raises:
        RequestError: The prompt leaves no room at all (status 400).
    """
    room = room_after(prompt, limits)
    if room.tokens < min(1, 1 if asked is None else asked):
        raise no_room(where, prompt, room)
    if asked is None:
        default = limits.default_max_tokens
        return room.tokens if default is None else min(default, room.tokens)
    if asked > room.tokens:
        notes.add(name, "clamped", f"{room.tokens} tokens: {room.bound}")
    return min(asked, room.tokens)


def no_room(where: str, prompt: int, room: Room) -> RequestError:
    """Return the refusal of a prompt after which nothing fits."""
    message = (
        f"`{where}` has {prompt} tokens, which leaves none for a reply: "
        f"{room.bound} is {room.whole} tokens"
    )
    return RequestError(status=400, message=message, param=where, code=TOO_LONG)
