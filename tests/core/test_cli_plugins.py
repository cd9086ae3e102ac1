"""Which plugins run: the default set, --plugins, and what options turn on and off."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import pytest
from attrs import define, frozen

from mlxserve.choice import choose, read_words
from mlxserve.cli.resolution import resolve
from mlxserve.cli.selection import select
from mlxserve.settings import FILE, FLAG
from mlxserve_hookspecs import MlxserveError, PluginError, SettingError, option

if TYPE_CHECKING:
    from tests.conftest import World


class Plain:
    """No options."""


@frozen
class SpeculationOptions:
    """Guess ahead."""

    mode: Literal["none", "ngram", "draft"] = option(
        "none",
        "who guesses",
        flag="--spec-decode",
        switches={"ngram": ["ngram"], "draft": ["draft", "no:ngram"], "none": []},
    )


@frozen
class NgramOptions:
    """Look things up."""

    longest: int = option(4, "longest match", flag="--ngram-max")


@frozen
class TierOptions:
    """Keep KV on disk."""

    ssd: bool = option(
        True, "keep it", flag="--ssd", switches={True: ["ssd-tier"], False: ["no:ssd-tier"]}
    )
    ttl: int = option(7, "days", flag="--ssd-ttl-days")


@define
class Speculation:
    """Choose who guesses."""

    options: SpeculationOptions


@define
class Ngram:
    """Guess from the prompt."""

    options: NgramOptions


@define
class Tier:
    """Keep."""

    options: TierOptions


@pytest.fixture
def many(world: "World") -> "World":
    """Return a world of five built-ins, three of which run by default."""
    points = {
        "first": Plain,
        "speculation": Speculation,
        "ssd-tier": Tier,
        "ngram": Ngram,
        "draft": Plain,
    }
    world.add("mlxserve", points)
    return world.add(
        "mlxserve-sets", {"default": ("first", "speculation", "ssd-tier")}, group="mlxserve.sets"
    )


def names(world: "World", *words: str, **variables: str) -> tuple[str, ...]:
    return select(words, variables, world.installed).choice.names


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ["first", "speculation", "ssd-tier"]),
        (["--plugins", "ngram"], ["ngram", "first", "speculation", "ssd-tier"]),
        (["--plugins", "draft, ngram"], ["draft", "ngram", "first", "speculation", "ssd-tier"]),
        (["--plugins", "ssd-tier"], ["ssd-tier", "first", "speculation"]),
        (["--plugins", "no:first,ngram"], ["ngram", "speculation", "ssd-tier"]),
        (["--plugins", "ngram", "--plugins", "no:first"], ["ngram", "speculation", "ssd-tier"]),
        (["--plugins=no:speculation,no:first,no:ssd-tier"], []),
        (["--spec-decode", "ngram"], ["ngram", "first", "speculation", "ssd-tier"]),
        (["--no-ssd"], ["first", "speculation"]),
        (["--ssd"], ["first", "speculation", "ssd-tier"]),
        (["--plugins", "no:ssd-tier"], ["first", "speculation"]),
        (["--plugins", "ngram", "--spec-decode", "draft", "--plugins", "no:first"], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_default_set_words_and_switches(
    many: "World", flags: list[str], expected: list[str] | None
) -> None:
    if expected is None:
        with pytest.raises(
            PluginError, match="--plugins turns plugin 'ngram' on and --spec-decode"
        ):
            names(many, *flags)
    else:
        assert list(names(many, *flags)) == expected


def test_explicit_word_beats_a_default_switch(many: "World") -> None:
    assert "ssd-tier" not in names(many, "--plugins", "no:ssd-tier")


def test_variable_turns_a_switch(many: "World") -> None:
    assert "ngram" in names(many, MLXSERVE_SPEC_DECODE="ngram")
    assert "ngram" in names(many, MLXSERVE_PLUGINS="ngram")


def test_stronger_source_beats_a_weaker_one(many: "World", toml: Callable[[str], str]) -> None:
    path = toml('plugins = ["ngram"]\n[speculation]\nmode = "draft"\n[ssd-tier]\nssd = false')
    with pytest.raises(PluginError, match="choose one"):
        names(many, "--config", path)
    assert names(many, "--config", path, "--plugins", "no:ngram,ssd-tier") == (
        "ssd-tier",
        "draft",
        "first",
        "speculation",
    )


def test_switch_of_a_plugin_taken_out_says_nothing(many: "World") -> None:
    chosen = names(many, "--plugins", "no:speculation", MLXSERVE_SPEC_DECODE="ngram")
    assert chosen == ("first", "ssd-tier")


def test_plugins_that_chase_each_other_are_an_error(world: "World") -> None:
    @frozen
    class HenOptions:
        """Needs no egg."""

        on: bool = option(True, "x", switches={True: ["egg"]})

    @frozen
    class EggOptions:
        """Wants no hen."""

        on: bool = option(True, "x", switches={True: ["no:hen"]})

    @define
    class Hen:
        options: HenOptions

    @define
    class Egg:
        options: EggOptions

    world.add("farm", {"hen": Hen, "egg": Egg})
    world.add("barn-sets", {"default": ("hen",)}, group="mlxserve.sets")
    with pytest.raises(PluginError, match="without end"):
        names(world)


def test_only_plugins_that_run_are_imported(many: "World") -> None:
    many.add("other", {"idle": "a_module_that_is_missing:It"})
    assert "idle" not in names(many)
    with pytest.raises(PluginError, match="'idle' of other cannot be imported"):
        resolve(["--plugins", "idle"], {}, many.installed)


@pytest.mark.parametrize(
    ("words", "config", "message"),
    [
        (["--ngram-max", "3"], "", r"--ngram-max belongs to plugin 'ngram', which is not active; "
         "add --plugins ngram"),
        (["--ngram-max=3"], "", "--ngram-max belongs to plugin 'ngram'"),
        (["--no-ssd", "--ssd-ttl-days", "3"], "", "plugin 'ssd-tier', which --no-ssd turns off"),
        (["--prot", "3"], "", r"unknown flag --prot; did you mean --port"),
        (["--por", "3"], "", r"unknown flag --por; did you mean --port"),
        (["--nothing-like-it"], "", "unknown flag --nothing-like-it$"),
        (["--plugins", "nrgam"], "", r"no plugin named 'nrgam' is installed; did you mean ngram\?"),
        (["--plugins", "no:nrgam"], "", "no plugin named 'nrgam' is installed"),
        (["--plugins", "ngram,no:ngram"], "", "--plugins turns plugin 'ngram' on and --plugins"),
        (["stray"], "", "unexpected argument 'stray'"),
        (["--port"], "", "--port: expected one argument"),
        (["--port", "x"], "", "--port must be a whole number, not 'x'"),
        (["--spec-decode", "x"], "", "--spec-decode must be one of none, ngram, draft, not 'x'"),
        (["--no-ssd=1"], "", "--no-ssd"),
        ([], "[ngram]\nlongest = 3", r"\[ngram\] in .* belongs to plugin 'ngram'"),
        ([], "[engin]\n", r"unknown table or key 'engin' in .*; did you mean engine\?"),
        ([], "port = 3", "unknown table or key 'port'"),
        ([], "[server]\nprot = 3", r"\[server\] in .* has an unknown key 'prot'; did you mean"),
        ([], "[first]\nx = 3", "plugin 'first' has no options"),
        ([], "plugins = 3", "plugins must be a list of names, not 3"),
        ([], 'plugins = ["nrgam"]', "no plugin named 'nrgam'"),
        ([], "[ssd-tier]\nttl = true", r"--ssd-ttl-days must be a whole number, not True \(set by"),
    ],
)  # fmt: skip
def test_mistake_is_one_line_that_says_what_to_do(
    many: "World", toml: Callable[[str], str], words: list[str], config: str, message: str
) -> None:
    with pytest.raises(MlxserveError, match=message) as caught:
        resolve(["--config", toml(config), *words], {}, many.installed)
    assert "\n" not in str(caught.value)


def test_tables_of_plugins_turned_off_by_the_user_do_not_matter(
    many: "World", toml: Callable[[str], str]
) -> None:
    path = toml("[ssd-tier]\nttl = 3")
    for words in (["--no-ssd"], ["--plugins", "no:ssd-tier"]):
        assert "ssd-tier" not in resolve(["--config", path, *words], {}, many.installed)[0].names


def test_plugin_named_like_a_core_section_is_refused(world: "World") -> None:
    world.add("other", {"engine": Plain})
    with pytest.raises(PluginError, match="cannot be named 'engine'"):
        resolve(["--plugins", "engine"], {}, world.installed)


def test_default_set_that_names_nobody_is_an_error(world: "World") -> None:
    world.add("mlxserve-sets", {"default": ("gone",)}, group="mlxserve.sets")
    with pytest.raises(PluginError, match="no plugin named 'gone'"):
        names(world)


def test_plugins_get_their_options_and_are_registered(many: "World") -> None:
    resolved, _ = resolve(["--plugins", "ngram", "--ngram-max", "9"], {}, many.installed)
    assert resolved.plugins.get_plugin("ngram") == Ngram(NgramOptions(longest=9))
    assert isinstance(resolved.plugins.get_plugin("first"), Plain)
    assert [name for name, _ in reversed(resolved.plugins.list_name_plugin())] == list(
        resolved.names
    )
    assert ("ngram", "longest", 9, "--ngram-max") in resolved.rows


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (SettingError("no such folder"), SettingError, "^no such folder$"),
        (KeyError("x"), PluginError, r"^plugin 'p' \(breaks 1.5\) cannot be made: KeyError: 'x'$"),
    ],
    ids=["a user's mistake", "a bug"],
)
def test_plugin_that_cannot_be_made(
    world: "World", error: Exception, kind: type[Exception], message: str
) -> None:
    class Breaks:
        def __init__(self) -> None:
            raise error

    world.add("breaks", {"p": Breaks})
    with pytest.raises(kind, match=message):
        resolve(["--plugins", "p"], {}, world.installed)


def test_first_word_of_equal_strength_decides_the_order() -> None:
    words = [*read_words(["a", "b"], FLAG, "x"), *read_words("c,b", FILE, "y")]
    assert choose(words, ["d", "c"]).names == ("a", "b", "c", "d")


@pytest.mark.parametrize("raw", [3, {"a": 1}, [1], None])
def test_words_that_are_no_list_of_names_are_refused(raw: Any) -> None:
    with pytest.raises(SettingError, match="must be a list of names"):
        read_words(raw, FLAG, "x")
