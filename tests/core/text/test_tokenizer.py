import threading
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxserve.text.tokenizer import Tokenizer
from mlxserve_hookspecs import RequestError, TextCodec

from .conftest import CHAT, byte_level, wrapped

HELLO = [{"role": "user", "content": "the cat"}]


def rendered(codec: Tokenizer, messages: list[dict[str, Any]], **kwargs: Any) -> str:
    """Return the text of a rendered chat, without the spaces that a family may put in."""
    text = codec.decode(codec.render_chat(messages, **kwargs))
    return text.replace(" ", "")


def test_it_is_a_text_codec(codec: Tokenizer) -> None:
    seen: TextCodec = codec
    assert seen.decode(seen.encode("the cat")) == "the cat"


def test_the_end_of_sequence_tokens_are_the_wrappers(codec: Tokenizer) -> None:
    assert codec.eos_token_ids == frozenset(codec.encode("</s>", add_special_tokens=False)[-1:])


def test_special_tokens_are_left_out_on_demand(codec: Tokenizer) -> None:
    tokens = [*codec.encode("the", add_special_tokens=False), *codec.eos_token_ids]
    assert codec.decode(tokens) == "the</s>"
    assert codec.decode(tokens, skip_special_tokens=True) == "the"


def test_a_rendered_chat_is_ready_for_a_reply(codec: Tokenizer) -> None:
    expected = "<|im_start|>user:thecat</s><|im_start|>assistant:"
    assert rendered(codec, HELLO) == expected
    assert rendered(codec, HELLO, add_generation_prompt=False) == expected.removesuffix(
        "<|im_start|>assistant:"
    )


def test_special_tokens_of_the_template_are_single_tokens(codec: Tokenizer) -> None:
    tokens = codec.render_chat(HELLO)
    assert tokens[0] in codec.encode("<|im_start|>", add_special_tokens=False)
    assert codec.eos_token_ids & set(tokens)


def test_tools_and_template_arguments_reach_the_template(codec: Tokenizer) -> None:
    tools = [{"type": "function", "function": {"name": "cat"}}]
    text = rendered(codec, HELLO, tools=tools, template_kwargs={"mood": "ate"})
    assert "[cat](ate)" in text


IN_SYSTEM = """{% for message in messages %}{{ message.content }}\
{% if message.role == 'system' %}{% for tool in tools or [] %}{{ tool }}{% endfor %}{% endif %}\
{% endfor %}"""


@pytest.mark.parametrize(
    ("template", "ignores"),
    [
        (CHAT, False),
        (IN_SYSTEM, False),
        ("{% for message in messages %}{{ message.content }}{% endfor %}", True),
        ("{% if tools %}{{ raise_exception('no tools') }}{% endif %}x", False),
        (None, False),
    ],
    ids=["lists them", "lists them beside a system message", "ignores", "refuses", "no template"],
)
def test_a_template_that_ignores_tools_is_found(template: str | None, ignores: bool) -> None:
    codec = Tokenizer(wrapped(byte_level(), template))
    assert codec.markup.ignores_tools is ignores


def test_text_parts_are_joined(codec: Tokenizer) -> None:
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "cat"}]
    assert codec.render_chat([{"role": "user", "content": parts}]) == codec.render_chat(HELLO)


@pytest.mark.parametrize("content", [{"content": None}, {}], ids=["null", "missing"])
def test_an_assistant_without_content_is_an_empty_string(
    codec: Tokenizer, content: dict[str, None]
) -> None:
    empty = codec.render_chat([*HELLO, {"role": "assistant", "content": ""}])
    assert codec.render_chat([*HELLO, {"role": "assistant", **content}]) == empty


def test_arguments_of_tool_calls_reach_the_template_as_objects(codec: Tokenizer) -> None:
    call = {"id": "1", "function": {"name": "cat", "arguments": '{"city": "that"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert "assistant:that</s>" in rendered(codec, [*HELLO, message])
    assert call["function"] == {"name": "cat", "arguments": '{"city": "that"}'}


def test_arguments_that_are_no_json_stay_as_they_are(codec: Tokenizer) -> None:
    call = {"id": "1", "function": {"name": "cat", "arguments": "{"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert "assistant:</s>" in rendered(codec, [*HELLO, message])


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages.0.content.0"),
        ([*HELLO, {"role": "user", "content": 7}], "messages.1.content"),
        ([{"role": "user", "content": [7]}], "messages.0.content.0"),
        ([{"role": "user", "content": "\ud800"}], "messages.0.content"),
        ([], "messages"),
    ],
    ids=["image", "number", "number in a list", "half a surrogate pair", "no messages"],
)
def test_what_is_no_text_is_refused_by_name(
    codec: Tokenizer, messages: list[dict[str, Any]], param: str
) -> None:
    with pytest.raises(RequestError) as caught:
        codec.render_chat(messages)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_a_template_that_raises_is_quoted(codec: Tokenizer) -> None:
    with pytest.raises(RequestError, match="no tools here") as caught:
        codec.render_chat([{"role": "tool", "content": "x"}])
    assert caught.value.status == 400


def test_a_model_without_a_template_says_so(mute_codec: Tokenizer) -> None:
    assert not mute_codec.has_chat_template
    with pytest.raises(RequestError, match="no chat template") as caught:
        mute_codec.render_chat(HELLO)
    assert caught.value.status == 400


@pytest.mark.parametrize("name", ["chat_template", "tokenize", "return_dict", "messages"])
def test_a_client_cannot_reach_the_renderer_itself(codec: Tokenizer, name: str) -> None:
    with pytest.raises(RequestError, match=name) as caught:
        codec.render_chat(HELLO, template_kwargs={name: "{{ 7 }}"})
    assert caught.value.param == "chat_template_kwargs"


def test_half_a_surrogate_pair_is_refused(codec: Tokenizer) -> None:
    with pytest.raises(RequestError, match="Unicode at character 1"):
        codec.encode("a\ud800")


@pytest.mark.parametrize("token", [-1, 2**40], ids=["negative", "huge"])
def test_an_impossible_token_is_refused(codec: Tokenizer, token: int) -> None:
    with pytest.raises(RequestError) as caught:
        codec.decode([token])
    assert (caught.value.status, caught.value.param) == (400, "tokens")


def test_the_bytes_of_all_tokens_spell_what_is_decoded(
    codec: Tokenizer, wrapper: TokenizerWrapper
) -> None:
    first = codec.encode("日", add_special_tokens=False)[-1:]
    for token in range(len(wrapper)):
        spelt = b"".join(codec.token_bytes(each) for each in [*first, token])
        text = codec.decode([*first, token])
        assert spelt.decode(errors="replace").removeprefix(" ") == text.removeprefix(" ")


def test_every_byte_has_a_token(codec: Tokenizer, wrapper: TokenizerWrapper) -> None:
    singles = {codec.token_bytes(token) for token in range(len(wrapper))}
    assert singles >= {bytes([byte]) for byte in range(256)}


def test_a_token_beyond_the_vocabulary_has_no_bytes(codec: Tokenizer) -> None:
    assert codec.token_bytes(100_000) == b""
    assert not codec.is_shown(100_000, skip_special_tokens=False)


def test_spaces_before_punctuation_stay(wrapper: TokenizerWrapper) -> None:
    wrapper.clean_up_tokenization_spaces = True
    codec = Tokenizer(wrapper)
    assert codec.decode(codec.encode("the ., cat", add_special_tokens=False)) == "the ., cat"


def test_threads_may_encode_and_decode_at_once(codec: Tokenizer) -> None:
    text = "the cat sat on the mat " * 200
    expected = codec.encode(text)
    wrong: list[str] = []

    def work() -> None:
        for _ in range(5):
            try:
                if codec.encode(text) != expected or codec.decode(expected[:9]) != once:
                    wrong.append("other tokens")
            except Exception as error:
                wrong.append(repr(error))

    once = codec.decode(expected[:9])
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


BROKEN = {
    "a tag that does not end": ("{% for message in messages %}{{ message.content }}", "line 1: "),
    "a filter that does not exist": ("\n{{ messages | no_such_filter }}", "line 2: "),
}


@pytest.mark.parametrize(("template", "line"), BROKEN.values(), ids=BROKEN)
def test_a_broken_template_is_found_before_the_first_chat(template: str, line: str) -> None:
    codec = Tokenizer(wrapped(byte_level(), chat_template=template))
    assert codec.template_fault is not None
    assert codec.template_fault.startswith(line)
    assert not codec.has_chat_template
    with pytest.raises(RequestError) as refused:
        codec.render_chat(HELLO)
    assert (refused.value.status, refused.value.code) == (400, "chat_template_broken")
    assert codec.template_fault in refused.value.message
    assert codec.decode(codec.encode("the cat")) == "the cat"


@pytest.mark.parametrize(
    "template",
    [None, "{{ raise_exception('a system message comes first') }}", "{{ messages[9].content }}"],
    ids=["none", "one that wants other messages", "one that fails"],
)
def test_a_template_that_refuses_messages_is_not_broken(template: str | None) -> None:
    codec = Tokenizer(wrapped(byte_level(), chat_template=template))
    assert codec.template_fault is None
    assert codec.has_chat_template == (template is not None)
