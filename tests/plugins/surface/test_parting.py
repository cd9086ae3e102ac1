"""Where other conversations part from a prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlxserve_hookspecs import RequestError
from mlxserve_plugins.surface.parting import parting

TOOLS = [{"type": "function", "function": {"name": "look"}}]


class Template:
    """Renders one character per token, and opens a reply with an empty thinking."""

    refuses = False

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = True,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        if self.refuses and len(messages) == 1:
            raise RequestError(status=400, message="a system message comes first")
        text = str(tools or "") + "".join(f"<{one['role']}>{one['content']}" for one in messages)
        reply = "<assistant>" + ("(no thought)" if not template_kwargs else "")
        return [ord(c) for c in text + (reply if add_generation_prompt else "")]


def found(template: Any, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[str]:
    prompt = template.render_chat(messages, tools=TOOLS, template_kwargs=options)
    places = parting(template, prompt, messages, TOOLS, options)
    return ["".join(map(chr, prompt[:at])) for at in places]


SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Hi"}


def test_they_part_after_what_the_agent_is_told_and_before_its_reply() -> None:
    told, said = found(Template(), [SYSTEM, USER])
    assert told == f"{TOOLS}<system>Be brief.<user>"
    assert said == f"{TOOLS}<system>Be brief.<user>Hi"


def test_the_replys_opening_is_as_the_options_make_it() -> None:
    assert found(Template(), [USER], thinking=True)[-1] == f"{TOOLS}<user>Hi"


def test_a_template_that_refuses_the_question_names_no_place() -> None:
    template = Template()
    template.refuses = True
    assert found(template, [SYSTEM, USER]) == []
