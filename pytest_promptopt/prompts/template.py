"""A text with placeholders: which language they are written in, how they are filled in, what a candidate must keep.

A model writes candidates, and a template is code: ``{ticket.__class__}`` reads attributes, ``{{ ... }}`` calls methods.
So a candidate may hold only what the source holds, word for word: it can move text around placeholders, and can never
bring an expression, a statement or a field of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from string import Formatter
from typing import TYPE_CHECKING, Any

from pytest_promptopt.prompts.jinja_reading import BrokenError, Construct, Mark, Reading, parse_jinja, read_jinja

if TYPE_CHECKING:
    import jinja2

JINJA_SUFFIXES = frozenset({".j2", ".jinja", ".jinja2"})

_JINJA = re.compile(r"\{%|\{#|\{\{[-+]?\s*[^\W\d]\w*.*?\}\}", re.DOTALL)
_FIELD = re.compile(r"(?<!\{)\{[^\W\d]\w*[^{}]*\}(?!\})")
KEYED = re.compile(r"%\((\w+)\)[#0+ -]*\d*(?:\.\d+)?[hlL]?[diouxXeEfFgGcrsa]")
"""A field of ``%`` with a name."""

BARE = re.compile(r"\{\{\s*[^\W\d]\w*\s*\}\}|\{([^\W\d]\w*)\}")
"""What people replace by hand in a text that no language reads."""

_CONVERSION = re.compile(r"%(?:\([^()]*\))?[#0+ -]*(?:\d+|\*)?(?:\.(?:\d+|\*))?[hlL]?(?:.|\Z)", re.DOTALL)
_LONE_PERCENT = re.compile(r"%(?!\()")
_KEYED_OR_PERCENT = re.compile(rf"%%|{KEYED.pattern}")
_LONGEST_SHOWN = 60


class Language(StrEnum):
    """What placeholders are written in."""

    FORMAT = "format"  # {ticket}, filled in by str.format
    JINJA2 = "jinja2"  # {{ ticket }}
    PLAIN = "plain"  # braces are just braces; %(ticket)s and {ticket} are kept


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Template:
    """A source text in its language. ``environment`` is the Jinja environment that renders it, ``None`` the default."""

    language: Language
    text: str
    environment: jinja2.Environment | None = None

    @property
    def placeholders(self) -> tuple[str, ...]:
        """What every candidate has to keep, as it is written, each once, statements of Jinja included."""
        try:
            constructs = _read(self.language, self.text, self.environment).constructs
        except BrokenError:
            return ()
        return tuple(dict.fromkeys(each.written for each in constructs if not each.is_optional))

    @property
    def is_keyed(self) -> bool:
        """Whether it is a plain text whose ``%(name)s`` are filled in by ``%``, so that ``%`` itself is doubled."""
        return self.language is Language.PLAIN and KEYED.search(self.text) is not None

    @property
    def has_statements(self) -> bool:
        """Whether it is Jinja with ``{% … %}``, so that it counts between which of them something stands."""
        try:
            is_ordered = [each.is_ordered for each in _read(self.language, self.text, self.environment).constructs]
        except BrokenError:
            return False
        return self.language is Language.JINJA2 and any(is_ordered)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names that its placeholders take, in the order of the text; sorted for Jinja."""
        try:
            return _NAMES[self.language](self)
        except BrokenError:
            return ()

    def fill(self, text: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """``text``, written in this language, with its placeholders filled in, as Python or Jinja does it."""
        match self.language:
            case Language.FORMAT:
                return text.format(*args, **kwargs)
            case Language.JINJA2:
                return compile_jinja(text, self.environment).render(*args, **kwargs)
        return _fill_keyed(text, kwargs) if KEYED.search(text) else text

    async def afill(self, text: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Like :meth:`fill`, awaited where the Jinja environment renders asynchronously."""
        if self.language is Language.JINJA2 and self.environment is not None and self.environment.is_async:
            return await compile_jinja(text, self.environment).render_async(*args, **kwargs)
        return self.fill(text, args, kwargs)


def _fill_keyed(text: str, values: Mapping[str, Any]) -> str:
    """``text % values``, in which nothing but ``%(name)s`` and ``%%`` is a field: a lone one would dump all values."""
    return _KEYED_OR_PERCENT.sub(lambda field: field[0] % values, text)


def choose_language(text: str, *, suffix: str = "") -> Language:
    """The language of a text about which nobody said anything.

    ``.j2``, ``.jinja`` and ``.jinja2`` files are Jinja. So is a text with ``{% %}``, ``{# #}`` or ``{{ name }}`` that
    Jinja can parse and that has no ``{name}`` beside them. A text whose ``str.format`` fields all start with a name,
    with one at least, is a format. All else is plain.
    """
    if suffix in JINJA_SUFFIXES:
        return Language.JINJA2
    if _JINJA.search(text) and not _FIELD.search(text) and _is_jinja(text):
        return Language.JINJA2
    return Language.FORMAT if _is_format(text) else Language.PLAIN


def choose_languages(texts: Sequence[str]) -> list[Language]:
    """The language of each message of a chat about which nobody said anything: its own.

    A message without a field of its own (none at all, or braces that are all doubled) is written in what the others
    are written in: a format where one of them is, else Jinja.
    """
    own = [choose_language(text) for text in texts]
    common = next((each for each in (Language.FORMAT, Language.JINJA2) if each in own), Language.PLAIN)
    is_open = [
        common is not Language.PLAIN and each is not common and _has_no_field(text)
        for each, text in zip(own, texts, strict=True)
    ]
    return [common if is_open else each for each, is_open in zip(own, is_open, strict=True)]


def find_fault(source: Template, candidate: str) -> str:
    """Why ``candidate`` cannot take the place of ``source``, in words that follow "it"; empty when it can.

    Every placeholder of the source stands in it at least once, as it is written there (white space inside Jinja's
    braces is free), and none besides. Jinja's statements and fields without a name keep their order and number, an
    expression stays inside the statements that it stands in, and a branch with text keeps some. Comments may vanish. A
    plain text keeps ``%(name)s`` and ``{name}``; with the former, ``%`` stands nowhere else unless it is doubled.
    """
    if candidate == source.text:
        return ""
    try:
        wanted = _read(source.language, source.text, source.environment)
    except BrokenError as error:
        return f"takes the place of a source that is no {source.language} template: {error}"
    try:
        found = _read(source.language, candidate, source.environment)
    except BrokenError as error:
        return f"is no {source.language} template: {error}"
    return (
        _find_difference(wanted.constructs, found.constructs)
        or _find_move(wanted.constructs, found.constructs)
        or _find_emptied(wanted, found)
        or _find_syntax_error(source, candidate)
    )


def compile_jinja(text: str, environment: jinja2.Environment | None) -> jinja2.Template:
    """The Jinja template of ``text``: what ``jinja2.Template(text)`` gives, or the environment's ``from_string``."""
    return _compile_jinja(text, environment)


@lru_cache(maxsize=256)
def _compile_jinja(text: str, environment: jinja2.Environment | None) -> jinja2.Template:
    import jinja2

    return jinja2.Template(text) if environment is None else environment.from_string(text)


def _find_difference(wanted: Sequence[Construct], found: Sequence[Construct]) -> str:
    has, may = {each.words for each in found}, {each.words for each in wanted}
    lost = next((each for each in wanted if each.words not in has and not each.is_optional), None)
    if lost is not None:
        return f"loses {_shown(lost)}"
    foreign = next((each for each in found if each.words not in may), None)
    if foreign is not None:
        doubled = "; a percent sign is written %%" if _LONE_PERCENT.match(foreign.written) else ""
        return f"brings {_shown(foreign)}, which the source does not have{doubled}"
    if _in_order(wanted) == _in_order(found):
        return ""
    kept = " ".join(_shown(each) for each in wanted if each.is_ordered)
    return f"does not keep {kept} in order and number"


def _in_order(constructs: Iterable[Construct]) -> list[tuple[str, ...]]:
    return [each.words for each in constructs if each.is_ordered]


def _find_move(wanted: Sequence[Construct], found: Sequence[Construct]) -> str:
    """An expression that stands inside other statements than in the source, or no longer wherever it stood."""
    before, after = _places(wanted), _places(found)
    for each in found:
        own = before.get(each.words, [])
        if each.is_ordered or each.around in own:
            continue
        left = [place for place in own if place not in after[each.words]]
        return f"{'moves' if left else 'copies'} {_shown(each)} {_way((left or own)[0], each.around)}"
    lost = next((each for each in wanted if each.around not in after.get(each.words, [each.around])), None)
    return "" if lost is None else f"loses {_shown(lost)} {_where(lost.around)}"


def _places(constructs: Iterable[Construct]) -> dict[tuple[str, ...], list[tuple[Mark, ...]]]:
    """Where each expression stands, by its words."""
    places: dict[tuple[str, ...], list[tuple[Mark, ...]]] = {}
    for each in constructs:
        if not each.is_ordered:
            places.setdefault(each.words, []).append(each.around)
    return places


def _way(old: tuple[Mark, ...], new: tuple[Mark, ...]) -> str:
    """``into {% if premium %}``: what a way from one place to another leads through."""
    entered, left = [mark for mark in new if mark not in old], [mark for mark in old if mark not in new]
    steps: list[tuple[str, Mark]] = [
        *(("into", mark) for mark in entered if mark.is_open),
        *(("out of", mark) for mark in left if mark.is_open),
        *(("behind", mark) for mark in entered),
        *(("in front of", mark) for mark in left),
    ]
    way, mark = steps[0]
    return f"{way} {_shown(mark)}"


def _where(around: tuple[Mark, ...]) -> str:
    if not around:
        return "outside of all statements"
    return f"{'inside' if around[-1].is_open else 'behind'} {_shown(around[-1])}"


def _find_emptied(wanted: Reading, found: Reading) -> str:
    emptied = sorted(wanted.with_text - found.with_text, key=lambda mark: mark.number)
    return f"leaves no text inside {_shown(emptied[0])}" if emptied else ""


def _shown(construct: Construct | Mark) -> str:
    written = " ".join(construct.written.split())
    return written if len(written) <= _LONGEST_SHOWN else f"{written[: _LONGEST_SHOWN - 2]} …"


def _find_syntax_error(source: Template, candidate: str) -> str:
    """What only a parser sees, such as text between ``{% extends %}`` blocks; asked last, for code that is known."""
    if source.language is not Language.JINJA2:
        return ""
    try:
        parse_jinja(candidate, source.environment)
    except BrokenError as error:
        return f"is no jinja2 template: {error}"
    return ""


@lru_cache(maxsize=256)
def _read(language: Language, text: str, environment: jinja2.Environment | None) -> Reading:
    """Every placeholder and statement of ``text``. Raises ``BrokenError`` where the language cannot be read."""
    match language:
        case Language.FORMAT:
            return Reading(tuple(_format_constructs(text)))
        case Language.JINJA2:
            return read_jinja(text, environment)
    return Reading(tuple(_plain_constructs(text)))


def _plain_constructs(text: str) -> Iterator[Construct]:
    """``{name}`` wherever it stands, and every field of ``%`` where one has a name."""
    for each in BARE.finditer(text):
        yield Construct(words=(each[0],), written=each[0])
    for each in _CONVERSION.finditer(text) if KEYED.search(text) else ():
        if each[0] != "%%":
            yield Construct(words=(each[0],), written=each[0], is_optional=KEYED.fullmatch(each[0]) is None)


def _format_constructs(text: str) -> Iterator[Construct]:
    for name, conversion, spec in format_fields(text):
        written = written_field(name, conversion, spec)
        yield Construct(words=(written,), written=written, is_ordered=leading_name(name) == "")


def written_field(name: str, conversion: str | None, spec: str) -> str:
    """A replacement field as it stands in the text."""
    return f"{{{name}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}}"


def format_fields(text: str) -> list[tuple[str, str | None, str]]:
    """Name, conversion and format spec of each replacement field. Raises ``BrokenError`` without a parse."""
    try:
        fields = list(Formatter().parse(text))
    except ValueError as error:
        raise BrokenError(str(error)) from None
    return [(name, conversion, spec or "") for _, name, spec, conversion in fields if name is not None]


def leading_name(field: str) -> str:
    """The argument that a replacement field reads; empty where fields are numbered by their place."""
    return re.split(r"[.\[]", field, maxsplit=1)[0]


def _is_format(text: str) -> bool:
    try:
        names = _format_names(text)
    except BrokenError:
        return False
    return bool(names) and all(name.isidentifier() for name in names)


def _has_no_field(text: str) -> bool:
    """Whether ``str.format`` leaves the text as it is, but for doubled braces."""
    try:
        return not format_fields(text)
    except BrokenError:
        return False


def _format_names(text: str) -> list[str]:
    """The arguments that the fields of ``text`` read, those inside format specs included."""
    names = []
    for name, _, spec in format_fields(text):
        names += [leading_name(name), *(_format_names(spec) if spec else ())]
    return names


def _is_jinja(text: str) -> bool:
    try:
        parse_jinja(text, None)
    except BrokenError:
        return False
    return True


def _jinja_names(template: Template) -> tuple[str, ...]:
    from jinja2 import meta

    return tuple(sorted(meta.find_undeclared_variables(parse_jinja(template.text, template.environment))))


_NAMES: Mapping[Language, Callable[[Template], tuple[str, ...]]] = {
    Language.FORMAT: lambda template: tuple(dict.fromkeys(_format_names(template.text))),
    Language.JINJA2: _jinja_names,
    Language.PLAIN: lambda template: tuple(dict.fromkeys(each[1] for each in KEYED.finditer(template.text))),
}
