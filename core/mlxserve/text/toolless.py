"""Find out whether a chat template has a place for tools."""

from typing import Any, Final

NAME: Final = "probe_of_the_template"
TOOL: Final = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "Probe.",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}
USER: Final = {"role": "user", "content": "a"}
CHATS: Final = ([USER], [{"role": "system", "content": "b"}, USER])
"""Some templates list tools only where there is a system message."""


def ignores_tools(wrapper: Any) -> bool:
    """Return whether a tokenizer's chat template leaves a request's tools out of the prompt.

    A template that raises on them does not: the request is refused, and its client told so.
    """
    if not wrapper.has_chat_template:
        return False
    try:
        return not any(_names_tool(wrapper, chat) for chat in CHATS)
    except Exception:  # a template is a program: it may raise anything
        return False


def _names_tool(wrapper: Any, chat: list[dict[str, str]]) -> bool:
    rendered = wrapper.apply_chat_template(
        [dict(message) for message in chat],
        tools=[TOOL],
        add_generation_prompt=True,
        tokenize=False,
    )
    return NAME in rendered
