"""A text with placeholders: which language they are written in, how they are filled in, what a candidate must keep.

A model writes candidates, and a template is code: ``{ticket.__class__}`` reads attributes, ``{{ ... }}`` calls methods.
So a candidate may hold only what the source holds, word for word: it can move text around placeholders, and can never
bring an expression, a statement or a field of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from string import Formatter
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import jinja2

JINJA_SUFFIXES = frozenset({".j2", ".jinja", ".jinja2"})

_JINJA = re.compile(r"\{%|\{#|\{\{[-+]?\s*[^\W\d]\w*.*?\}\}", re.DOTALL)
_FIELD = re.compile(r"(?<!\{)\{[^\W\d]\w*[^{}]*\}(?!\})")
_KEYED = re.compile(r"%\((\w+)\)[#0+ -]*\d*(?:\.\d+)?[hlL]?[diouxXeEfFgGcrsa]")
_LONGEST_SHOWN = 60


class Language(StrEnum):
    """What placeholders are written in."""

    FORMAT = "format"  # {ticket}, filled in by str.format
    JINJA2 = "jinja2"  # {{ ticket }}
    PLAIN = "plain"  # braces are just braces; %(ticket)s is kept


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
            constructs = _read(self.language, self.text, self.environment)
        except _BrokenError:
            return ()
        return tuple(dict.fromkeys(each.written for each in constructs))

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names that its placeholders take, in the order of the text; sorted for Jinja."""
        try:
            return _NAMES[self.language](self)
        except _BrokenError:
            return ()

    def fill(self, text: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """``text``, written in this language, with its placeholders filled in, as Python or Jinja does it."""
        match self.language:
            case Language.FORMAT:
                return text.format(*args, **kwargs)
            case Language.JINJA2:
                return compile_jinja(text, self.environment).render(*args, **kwargs)
        return text % kwargs if kwargs and _KEYED.search(text) else text


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


def find_fault(source: Template, candidate: str) -> str:
    """Why ``candidate`` cannot take the place of ``source``, in words that follow "it"; empty when it can.

    Every placeholder of the source stands in it at least once, as it is written there (white space inside Jinja's
    braces is free), and none besides. Jinja's statements and fields without a name keep their order and number.
    Comments may vanish. A plain text keeps ``%(name)s`` alone.
    """
    if candidate == source.text:
        return ""
    try:
        wanted = _read(source.language, source.text, source.environment)
    except _BrokenError as error:
        return f"takes the place of a source that is no {source.language} template: {error}"
    try:
        found = _read(source.language, candidate, source.environment)
    except _BrokenError as error:
        return f"is no {source.language} template: {error}"
    return _find_difference(wanted, found) or _find_syntax_error(source, candidate)


def compile_jinja(text: str, environment: jinja2.Environment | None) -> jinja2.Template:
    """The Jinja template of ``text``: what ``jinja2.Template(text)`` gives, or the environment's ``from_string``."""
    return _compile_jinja(text, environment)


@lru_cache(maxsize=256)
def _compile_jinja(text: str, environment: jinja2.Environment | None) -> jinja2.Template:
    import jinja2

    return jinja2.Template(text) if environment is None else environment.from_string(text)


@dataclass(frozen=True, slots=True)
class _Construct:
    """One placeholder or statement. Equal by ``words``; where ``is_ordered``, its place among its like counts."""

    words: tuple[str, ...]
    written: str
    is_ordered: bool = False


_Constructs: TypeAlias = tuple[_Construct, ...]


class _BrokenError(ValueError):
    """A text that its language cannot parse."""


def _find_difference(wanted: _Constructs, found: _Constructs) -> str:
    has, may = {each.words for each in found}, {each.words for each in wanted}
    lost = next((each for each in wanted if each.words not in has), None)
    if lost is not None:
        return f"loses {_shown(lost)}"
    foreign = next((each for each in found if each.words not in may), None)
    if foreign is not None:
        return f"brings {_shown(foreign)}, which the source does not have"
    if _in_order(wanted) == _in_order(found):
        return ""
    kept = " ".join(_shown(each) for each in wanted if each.is_ordered)
    return f"does not keep {kept} in order and number"


def _in_order(constructs: _Constructs) -> list[tuple[str, ...]]:
    return [each.words for each in constructs if each.is_ordered]


def _shown(construct: _Construct) -> str:
    written = " ".join(construct.written.split())
    return written if len(written) <= _LONGEST_SHOWN else f"{written[: _LONGEST_SHOWN - 2]} …"


def _find_syntax_error(source: Template, candidate: str) -> str:
    """What only a parser sees, such as text between ``{% extends %}`` blocks; asked last, for code that is known."""
    if source.language is not Language.JINJA2:
        return ""
    try:
        _parse_jinja(candidate, source.environment)
    except _BrokenError as error:
        return f"is no jinja2 template: {error}"
    return ""


@lru_cache(maxsize=256)
def _read(language: Language, text: str, environment: jinja2.Environment | None) -> _Constructs:
    """Every placeholder and statement of ``text``. Raises ``_BrokenError`` where the language cannot be read."""
    match language:
        case Language.FORMAT:
            return tuple(_format_constructs(text))
        case Language.JINJA2:
            return tuple(_jinja_constructs(text, environment))
    return tuple(_Construct(words=(each[0],), written=each[0]) for each in _KEYED.finditer(text))


def _format_constructs(text: str) -> Iterator[_Construct]:
    for name, conversion, spec in _format_fields(text):
        written = f"{{{name}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}}"
        yield _Construct(words=(written,), written=written, is_ordered=_leading_name(name) == "")


def _format_fields(text: str) -> list[tuple[str, str | None, str]]:
    """Name, conversion and format spec of each replacement field."""
    try:
        fields = list(Formatter().parse(text))
    except ValueError as error:
        raise _BrokenError(str(error)) from None
    return [(name, conversion, spec or "") for _, name, spec, conversion in fields if name is not None]


def _leading_name(field: str) -> str:
    """The argument that a replacement field reads; empty where fields are numbered by their place."""
    return re.split(r"[.\[]", field, maxsplit=1)[0]


def _is_format(text: str) -> bool:
    try:
        names = _format_names(text)
    except _BrokenError:
        return False
    return bool(names) and all(name.isidentifier() for name in names)


def _format_names(text: str) -> list[str]:
    """The arguments that the fields of ``text`` read, those inside format specs included."""
    names = []
    for name, _, spec in _format_fields(text):
        names += [_leading_name(name), *(_format_names(spec) if spec else ())]
    return names


def _jinja_constructs(text: str, environment: jinja2.Environment | None) -> Iterator[_Construct]:
    """Tokens between the marks that open and close a construct; marks and their white space control are left out."""
    opened = ""
    tokens: list[tuple[str, str]] = []
    for kind, value in _jinja_tokens(text, environment):
        if kind in ("raw_begin", "raw_end"):
            yield _Construct(words=(kind,), written=value, is_ordered=True)
        elif kind in ("variable_begin", "block_begin", "linestatement_begin"):
            opened, tokens = kind, [(kind, value)]
        elif kind in ("variable_end", "block_end", "linestatement_end"):
            is_statement = opened != "variable_begin"
            words = (str(is_statement), *(each for kind, each in tokens[1:] if kind != "whitespace"))
            written = "".join(each for _, each in [*tokens, (kind, value)]).strip()
            opened = ""
            yield _Construct(words=words, written=written, is_ordered=is_statement)
        elif opened:
            tokens.append((kind, value))


def _jinja_tokens(text: str, environment: jinja2.Environment | None) -> list[tuple[str, str]]:
    import jinja2

    environment = environment or jinja2.Environment()
    try:
        return [(kind, value) for _, kind, value in environment.lex(environment.preprocess(text))]
    except jinja2.TemplateError as error:
        raise _BrokenError(str(error)) from None


def _parse_jinja(text: str, environment: jinja2.Environment | None) -> jinja2.nodes.Template:
    import jinja2

    environment = environment or jinja2.Environment()
    try:
        return environment.parse(text)
    except (jinja2.TemplateError, RecursionError) as error:
        raise _BrokenError(str(error)) from None


def _is_jinja(text: str) -> bool:
    try:
        _parse_jinja(text, None)
    except _BrokenError:
        return False
    return True


def _jinja_names(template: Template) -> tuple[str, ...]:
    from jinja2 import meta

    return tuple(sorted(meta.find_undeclared_variables(_parse_jinja(template.text, template.environment))))


_NAMES: Mapping[Language, Callable[[Template], tuple[str, ...]]] = {
    Language.FORMAT: lambda template: tuple(dict.fromkeys(_format_names(template.text))),
    Language.JINJA2: _jinja_names,
    Language.PLAIN: lambda template: tuple(dict.fromkeys(each[1] for each in _KEYED.finditer(template.text))),
}
