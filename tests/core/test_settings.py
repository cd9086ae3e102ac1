import re
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from attrs import frozen
from attrs.validators import ge, in_, matches_re, min_len
from hypothesis import given
from hypothesis import strategies as st

from mlxserve.options import SECTIONS
from mlxserve.settings import (
    FILE,
    PRESET,
    Section,
    SettingsFile,
    Sources,
    build,
    check_flags,
    check_keys,
    options_class,
)
from mlxserve.values import choices, convert, describe
from mlxserve_hookspecs import PluginError, SettingError, option


@frozen
class NgramOptions:
    """Look things up."""

    longest: int = option(4, "longest match", flag="--ngram-max", env="OLD_MAX", check=ge(1))
    lookup: bool = option(True, "look into the prompt", flag="--ngram-prompt-lookup")
    folder: Path | None = option(None, "where")
    words: tuple[str, ...] = option(("a",), "which")
    mode: Literal["fast", "good"] = option("fast", "how")


NGRAM = Section("ngram", NgramOptions)


def files(config: dict[str, Any] | None, preset: dict[str, Any] | None) -> tuple[SettingsFile, ...]:
    return (
        SettingsFile("my.toml", FILE, {"ngram": config or {}}),
        SettingsFile("preset demo", PRESET, {"ngram": preset or {}}),
    )


@pytest.mark.parametrize(
    ("flags", "variables", "config", "preset", "value", "origin"),
    [
        (7, "6", 5, 4, 7, "--ngram-max"),
        (None, "6", 5, 4, 6, "$MLXSERVE_NGRAM_MAX"),
        (None, None, 5, 4, 5, "[ngram] longest in my.toml"),
        (None, None, None, 3, 3, "[ngram] longest in preset demo"),
        (None, None, None, None, 4, "default"),
    ],
    ids=["flag", "variable", "file", "preset", "default"],
)
def test_flag_beats_variable_beats_file_beats_preset_beats_default(
    flags: Any, variables: Any, config: Any, preset: Any, value: int, origin: str
) -> None:
    sources = Sources(
        {"--ngram-max": flags} if flags else {},
        {"MLXSERVE_NGRAM_MAX": variables} if variables else {},
        files({"longest": config} if config else None, {"longest": preset} if preset else None),
    )
    options, rows = build(NGRAM, sources)
    assert options == NgramOptions(longest=value)
    assert rows["longest"] == (value, origin)


def test_older_variable_is_heard_after_our_own() -> None:
    assert build(NGRAM, Sources({}, {"OLD_MAX": "9"}))[1]["longest"] == (9, "$OLD_MAX")
    both = Sources({}, {"OLD_MAX": "9", "MLXSERVE_NGRAM_MAX": "8"})
    assert build(NGRAM, both)[1]["longest"] == (8, "$MLXSERVE_NGRAM_MAX")


def test_empty_variable_sets_nothing() -> None:
    options, rows = build(NGRAM, Sources({}, {"MLXSERVE_NGRAM_MAX": ""}))
    assert (options.longest, rows["longest"][1]) == (4, "default")


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        (int, "7", 7),
        (int, 7, 7),
        (float, "0.5", 0.5),
        (float, 3, 3.0),
        (bool, "yes", True),
        (bool, "OFF", False),
        (bool, "true", True),
        (bool, "0", False),
        (bool, False, False),
        (str, "none", "none"),
        (str | None, "none", "none"),
        (int | None, "none", None),
        (int | None, "7", 7),
        (float | None, "None", None),
        (Path, "a/b", Path("a/b")),
        (Path | None, "~/x", Path("~/x").expanduser()),
        (tuple[str, ...], "a, b,", ("a", "b")),
        (tuple[str, ...], ["a", "b"], ("a", "b")),
        (tuple[str, ...], "", ()),
        (tuple[int, ...], "1,2", (1, 2)),
        (tuple[Path, ...], ["a"], (Path("a"),)),
        (Literal["a", "b"], "b", "b"),
        (Literal[4, 8], "8", 8),
        (Literal["a"] | None, "none", None),
        (int | Literal["auto"], "auto", "auto"),
        (int | Literal["auto"], "3", 3),
    ],
    ids=repr,
)
def test_text_and_toml_become_the_declared_type(kind: Any, raw: Any, value: Any) -> None:
    assert convert(kind, raw) == value
    assert type(convert(kind, raw)) is type(value)


@pytest.mark.parametrize(
    ("kind", "raw", "message"),
    [
        (int, "six", "must be a whole number"),
        (int, "6.5", "must be a whole number"),
        (int, True, "must be a whole number"),
        (float, "fast", "must be a number"),
        (bool, "maybe", "must be true or false"),
        (str, 7, "must be text"),
        (Path, 7, "must be a path"),
        (int | None, "x", "must be a whole number or none"),
        (tuple[int, ...], "1,x", "must be a list, each a whole number"),
        (tuple[str, ...], 5, "must be a list, each text"),
        (Literal["a", "b"], "c", "must be one of a, b"),
        (dict[str, int], "x", "must be a table"),
    ],
    ids=repr,
)
def test_what_is_not_of_the_type_is_told_in_words(kind: Any, raw: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        convert(kind, raw)


@given(st.integers(-(2**62), 2**62))
def test_whole_number_survives_its_text(number: int) -> None:
    assert convert(int, str(number)) == number


@given(st.floats(allow_nan=False))
def test_number_survives_its_text(number: float) -> None:
    assert convert(float, repr(number)) == number


@given(st.text(), st.sampled_from([int, float, bool, int | None, Literal["a", "b"]]))
def test_text_is_read_or_refused_but_never_crashes(text: str, kind: Any) -> None:
    try:
        value = convert(kind, text)
    except ValueError as error:
        value = str(error)
    allowed = (*choices(kind), f"must be {describe(kind)}", None)
    assert value in allowed or type(value) in (int, float, bool)


def test_literals_give_choices() -> None:
    assert choices(Literal["a", "b"] | None) == ("a", "b")
    assert choices(int | None) == ()


@frozen
class Checked:
    """Options with checks."""

    count: int = option(1, "how many", check=ge(1))
    mode: str = option("a", "which", check=in_(("a", "b")))
    word: str = option("ab", "what", check=[min_len(1), matches_re("[a-z]*")])
    key: str = option("", "a secret", secret=True, check=matches_re("[a-z]*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"--c-count": "0"}, "--c-count must be >= 1, not '0' (set by --c-count)"),
        ({"--c-mode": "c"}, "--c-mode must be in ('a', 'b'), not 'c' (set by --c-mode)"),
        ({"--c-word": "A"}, "--c-word must match regex"),
        ({"--c-count": "x"}, "--c-count must be a whole number, not 'x' (set by --c-count)"),
    ],
    ids=["too small", "not among them", "second check", "wrong type"],
)
def test_refused_value_is_one_line_that_names_it(flags: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        build(Section("c", Checked), Sources(flags))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_origin_of_a_refused_value_is_named() -> None:
    file = SettingsFile("my.toml", FILE, {"c": {"count": 0}})
    with pytest.raises(SettingError, match=r"not 0 \(set by \[c\] count in my.toml\)$"):
        build(Section("c", Checked), Sources(files=(file,)))


def test_secret_is_masked_everywhere() -> None:
    section = Section("c", Checked)
    _, rows = build(section, Sources({"--c-key": "abc"}))
    assert rows["key"] == ("****", "--c-key")
    with pytest.raises(SettingError) as caught:
        build(section, Sources({"--c-key": "SECRET"}))
    assert "SECRET" not in str(caught.value)
    assert build(section, Sources())[1]["key"] == ("", "default")


def test_values_that_contradict_each_other_are_a_mistake_of_their_section() -> None:
    @frozen
    class Span:
        """From, to."""

        low: int = option(1, "least")
        high: int = option(4, "most")

        def __attrs_post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low must not exceed high")

    with pytest.raises(SettingError, match=r"^\[s\]: low must not exceed high \(set by --s-low\)$"):
        build(Section("s", Span), Sources({"--s-low": "9"}))


def test_unknown_key_suggests_a_near_one() -> None:
    file = SettingsFile("my.toml", FILE, {"ngram": {"longets": 3}})
    with pytest.raises(SettingError, match=r"\[ngram\] in my.toml .*'longets'; did you mean long"):
        check_keys(NGRAM, (file,))


def test_section_must_be_a_table() -> None:
    with pytest.raises(SettingError, match="must be a table"):
        check_keys(NGRAM, (SettingsFile("my.toml", FILE, {"ngram": 3}),))


def test_two_options_of_one_flag_are_refused() -> None:
    @frozen
    class Rival:
        """Wants the same."""

        most: int = option(1, "x", flag="--ngram-max")

    with pytest.raises(PluginError, match="both 'ngram' and 'rival' declare --ngram-max"):
        check_flags((NGRAM, Section("rival", Rival)))


def test_flag_of_the_core_cannot_be_declared() -> None:
    @frozen
    class Rival:
        """Wants too much."""

        most: str = option("", "x", flag="--preset")

    with pytest.raises(PluginError, match="'rival' declares --preset"):
        check_flags((Section("rival", Rival),))


def test_switch_has_two_flags_and_others_one() -> None:
    assert NGRAM.settings["lookup"].flags == ("--ngram-prompt-lookup", "--no-ngram-prompt-lookup")
    assert NGRAM.settings["folder"].flags == ("--ngram-folder",)
    off = Sources({"--ngram-prompt-lookup": False})
    assert build(NGRAM, off)[1]["lookup"] == (False, "--no-ngram-prompt-lookup")


def test_default_made_by_a_factory_is_shown_as_its_value() -> None:
    @frozen
    class Lists:
        """A factory."""

        many: list[str] = option(attrs.Factory(list), "x")

    assert build(Section("l", Lists), Sources())[0].many == []


def test_options_class_is_what_a_plugin_says_its_options_are() -> None:
    @frozen
    class With:
        options: NgramOptions

    @frozen
    class Without:
        pass

    assert options_class(With) is NgramOptions
    assert [options_class(plugin) for plugin in (Without, re, object(), int)] == [None] * 4


DOCUMENTED = {
    "--model": "mlx-community/Qwen3-4B-4bit",
    "--adapter-path": None,
    "--host": "0.0.0.0",
    "--port": 8000,
    "--max-request-bytes": 1048576,
    "--block-size": 16,
    "--num-blocks": 2048,
    "--max-kv-size": None,
    "--max-batch-size": 8,
    "--prefill-batch-size": 4,
    "--max-queue-size": 128,
    "--completion-batch-size": 32,
    "--default-max-tokens": 512,
    "--max-prompt-tokens": 32768,
    "--max-generation-tokens": 32768,
    "--request-timeout-s": 120.0,
    "--first-token-timeout-s": 300.0,
}


def test_documented_flags_of_the_core_have_their_documented_defaults() -> None:
    sections = [Section(name, options, core=True) for name, options in SECTIONS.items()]
    defaults = {s.flag: s.default for section in sections for s in section.settings.values()}
    assert DOCUMENTED.items() <= defaults.items()


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--port", "-1"),
        ("--port", "65536"),
        ("--block-size", "0"),
        ("--num-blocks", "99999999999999999999"),
        ("--request-timeout-s", "nan"),
        ("--request-timeout-s", "inf"),
        ("--request-timeout-s", "-1"),
        ("--model", ""),
        ("--served-model-name", "x" * 300),
        ("--dtype", "int8"),
    ],
)
def test_impossible_values_of_the_core_are_refused(flag: str, value: str) -> None:
    for name, options in SECTIONS.items():
        section = Section(name, options, core=True)
        if flag in section.flags:
            with pytest.raises(SettingError, match=f"^{flag} "):
                build(section, Sources({flag: value}))
            return
    pytest.fail(f"nobody has {flag}")
