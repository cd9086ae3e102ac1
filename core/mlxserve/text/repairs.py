"""What a person would change about messages that a chat template refuses; the words stay."""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any, Final, TypeAlias

from mlxserve_hookspecs.markup import CALLS

Message: TypeAlias = dict[str, Any]
Chat: TypeAlias = list[Message]

BETWEEN: Final = "\n\n"
TURNS: Final = ("user", "assistant")


def attempts(chat: Chat) -> Iterator[tuple[tuple[str, ...], Chat]]:
    """Yield the chat as it is, then with ever more repairs; what a repair leaves alone once only.

    Each comes with the names of the repairs that changed it. The caller stops at the first that
    its template takes, so that nothing is changed that need not be.
    """
    seen: list[Chat] = []
    for count in range(len(REPAIRS) + 1):
        for chosen in combinations(REPAIRS, count):
            tried = chat
            for repair in chosen:
                tried = repair(tried)
            if tried not in seen:
                seen.append(tried)
                yield tuple(repair.__name__ for repair in chosen), tried


def system_first(chat: Chat) -> Chat:
    """Return the chat with all system messages as one, at the front."""
    systems = [message for message in chat if message["role"] == "system"]
    if not systems or (len(systems) == 1 and chat[0] is systems[0]):
        return chat
    others = [message for message in chat if message["role"] != "system"]
    return [{**systems[0], "content": _joined(systems)}, *others]


def system_in_user(chat: Chat) -> Chat:
    """Return the chat with a leading system message at the front of the user's first."""
    if chat[0]["role"] != "system":
        return chat
    system, *rest = chat
    if not rest or rest[0]["role"] != "user":
        return [{**system, "role": "user"}, *rest]
    return [{**rest[0], "content": _joined([system, rest[0]])}, *rest[1:]]


def turns_merged(chat: Chat) -> Chat:
    """Return the chat with neighbouring turns of one role as one."""
    merged: Chat = []
    for message in chat:
        last = merged[-1] if merged else None
        if last is not None and message["role"] == last["role"] and message["role"] in TURNS:
            merged[-1] = _merge(last, message)
        else:
            merged.append(message)
    return merged


def arguments_wrapped(chat: Chat) -> Chat:
    """Return the chat with each call's arguments an object, where they were text and no JSON."""
    return [
        {**message, CALLS: [_wrapped(call) for call in message[CALLS]]}
        if message.get(CALLS)
        else message
        for message in chat
    ]


REPAIRS: Final[tuple[Callable[[Chat], Chat], ...]] = (
    system_first,
    turns_merged,
    arguments_wrapped,
    system_in_user,
)
"""In the order in which they are applied; the last changes most."""


def _merge(first: Message, second: Message) -> Message:
    both = {**first, **second, "content": _joined([first, second])}
    calls = [*(first.get(CALLS) or []), *(second.get(CALLS) or [])]
    return {**both, CALLS: calls} if calls else both


def _joined(messages: Chat) -> str:
    return BETWEEN.join(message["content"] for message in messages if message["content"])


def _wrapped(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    return {**call, "function": {**function, "arguments": {"arguments": function["arguments"]}}}
