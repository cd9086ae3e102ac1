"""The families' forms of calls and of thinking, as data. Where each is from stands beside it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from attrs import field, frozen

from mlxserve_hookspecs import Markup, OutputParser
from mlxserve_plugins.tools import writing
from mlxserve_plugins.tools.either import Either
from mlxserve_plugins.tools.gemma import GemmaCalls
from mlxserve_plugins.tools.headed import HeadedCalls
from mlxserve_plugins.tools.library import Parse, WholeCalls
from mlxserve_plugins.tools.objects import ObjectCalls
from mlxserve_plugins.tools.parser import MakeScript, ReplyParser, Tools, grammar_of
from mlxserve_plugins.tools.programs import PythonCalls
from mlxserve_plugins.tools.tagged import KeyedCalls, TaggedCalls, Tags

Write: TypeAlias = Callable[..., Sequence[str] | None]


@frozen(kw_only=True)
class Form:
    """How the models of a family write their calls: a ``CallFormat``.

    Attributes:
        name: What ``--tool-format`` calls it.
        scripts: What reads a call, by the marker that opens it; the first is the family's own.
        end: The closing marker; empty if there is none.
        starts: What reads a call that no marker opens, by its first character.
        begins: What such a call begins with, from its function's name.
        dropped: Markers of structure around calls and answers.
        trigger: What a call begins with where it is no marker that opens a script.
        write: Returns the grammar of one call.
        made: Returns a parser in place of the usual one.
        template: What a chat template of the family has: any of the groups, all of a group.
        vocabulary: Tokens that the family's models have, where the template does not say.
    """

    name: str
    scripts: Mapping[str, MakeScript] = field(factory=dict)
    end: str = ""
    starts: Mapping[str, MakeScript] = field(factory=dict)
    begins: Callable[[str], str] | None = None
    dropped: tuple[str, ...] = ()
    trigger: str = ""
    write: Write = writing.nothing
    made: Callable[[Tools, bool], OutputParser] | None = None
    template: tuple[tuple[str, ...], ...] = ()
    vocabulary: tuple[str, ...] = ()

    @property
    def bare(self) -> bool:
        """Whether a call may begin without a marker."""
        return bool(self.starts)

    @property
    def start(self) -> str:
        """The family's own marker; empty if calls have none."""
        return next(iter(self.scripts), "")

    def parser(
        self, markup: Markup, tools: Tools, *, reasoning: bool = False, forced: bool = False
    ) -> OutputParser:
        """Return the parser of one choice."""
        if self.made is not None:
            return self.made(tools, forced)
        grammar = grammar_of(markup, self.scripts if tools else {}, self.starts if tools else {})
        return ReplyParser(grammar, tools, reasoning=reasoning, forced=forced)

    def grammar(
        self,
        functions: Sequence[Mapping[str, Any]],
        spell: Callable[[str], str],
        *,
        bare: bool = False,
    ) -> Sequence[str] | None:
        """Return Lark rules of one call; ``bare`` without its markers."""
        start, end = ("", "") if bare else (self.start, self.end)
        return self.write(functions, spell, start, end)

    def head(self, name: str) -> str:
        """Return what a call of a function begins with where no marker opens it."""
        return "" if self.begins is None else self.begins(name)


def objects(end: str, *, bare: bool = False) -> MakeScript:
    """Return what reads objects or an array up to ``end``."""
    return lambda tools: ObjectCalls(tools, end, bare=bare)


def headed(separator: str, end: str) -> MakeScript:
    """Return what reads a name, ``separator`` and the arguments."""
    return lambda tools: HeadedCalls(tools, end, separator=separator)


def python(end: str, *, bare: bool = False) -> MakeScript:
    """Return what reads a list as Python writes it, or else objects."""
    return either("[", lambda tools: PythonCalls(tools, end, bare=bare), objects(end))


def tagged(tags: Tags, end: str) -> MakeScript:
    """Return what reads arguments between tags, or else objects."""
    return either("{", objects(end), lambda tools: TaggedCalls(tools, end, tags=tags))


def keyed(tags: Tags, end: str) -> MakeScript:
    """Return what reads a name and pairs, or else objects."""
    return either("{", objects(end), lambda tools: KeyedCalls(tools, end, tags=tags))


def whole(parse: Parse, end: str) -> MakeScript:
    """Return what a function reads, or else objects."""
    return either("{", objects(end), lambda tools: WholeCalls(tools, end, parse=parse))


def gemma(quote: str, end: str) -> MakeScript:
    """Return what reads Gemma's own notation, or else objects."""
    return either("{", objects(end), lambda tools: GemmaCalls(tools, end, quote=quote))


def either(first: str, this: MakeScript, other: MakeScript) -> MakeScript:
    """Return what decides by the first character after white space."""
    return lambda tools: Either(tools, first=first, this=this, other=other)


QWEN_TAGS: Final = Tags(
    call="<function=",
    call_head_end=">",
    call_end="</function>",
    param="<parameter=",
    param_head_end=">",
    param_end="</parameter>",
    padded=True,
)
INVOKE_TAGS: Final = Tags(
    call="<invoke name=",
    call_head_end=">",
    call_end="</invoke>",
    param="<parameter name=",
    param_head_end=">",
    param_end="</parameter>",
)
DSML_TAGS: Final = Tags(
    call="<｜DSML｜invoke name=",
    call_head_end=">",
    call_end="</｜DSML｜invoke>",
    param="<｜DSML｜parameter name=",
    param_head_end=">",
    param_end="</｜DSML｜parameter>",
)
