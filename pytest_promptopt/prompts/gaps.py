"""Why a text cannot be filled in with the inputs of a call, in words that name the brace and the ways out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from pytest_promptopt.prompts.jinja_reading import BrokenError
from pytest_promptopt.prompts.template import (
    BARE,
    KEYED,
    Language,
    Template,
    format_fields,
    leading_name,
    written_field,
)

LITERAL = "a brace that is meant as a brace is written twice ({{ and }})"
WAYS_OUT = 'or say with template= what the text is: "format", "jinja2" or "plain"'
_LONGEST_SHOWN = 60


def find_gap(pieces: Iterable[tuple[Template, str]], args: Sequence[object], names: Collection[str]) -> str:
    """What keeps texts, each in its language, from taking ``args`` and inputs called ``names``; empty without a gap.

    The words follow the name of what is called. Jinja says itself what it misses.
    """
    pieces = list(pieces)
    gap = next(filter(None, (_find_own_gap(template.language, text, args, names) for template, text in pieces)), "")
    takes_any = any(template.language is not Language.PLAIN or KEYED.search(text) for template, text in pieces)
    if gap or takes_any or not (args or names):
        return gap
    return "takes no inputs: its text has no placeholders"


def find_unread_field(text: str, args: Sequence[object], names: Collection[str]) -> str:
    """A field that a plain text seems to have for one of these inputs, and why nothing fills it in."""
    field = next((each[0] for each in BARE.finditer(text) if each[0].strip("{} ") in names), "")
    if not field and args:
        field = next((each for each in _fields_by_place(text)), "")
    if not field:
        return ""
    return f"does not fill in {field}: {_why_plain(text)}; {LITERAL}, {WAYS_OUT}"


def _find_own_gap(language: Language, text: str, args: Sequence[object], names: Collection[str]) -> str:
    match language:
        case Language.FORMAT:
            return _find_format_gap(text, args, names)
        case Language.JINJA2:
            return ""
    missing = next((field for field in KEYED.finditer(text) if field[1] not in names), None)
    return find_unread_field(text, args, names) if missing is None else f"has no input for {missing[0]}"


def _find_format_gap(text: str, args: Sequence[object], names: Collection[str]) -> str:
    try:
        fields = format_fields(text)
    except BrokenError as error:
        return f"cannot be read as a format ({error}); {LITERAL}, {WAYS_OUT}"
    place = 0
    for name, conversion, spec in fields:
        taken = leading_name(name)
        number = int(taken) if taken.isdecimal() else place
        place += not taken
        if taken not in names if taken and not taken.isdecimal() else number >= len(args):
            return f"has no input for {_cut(written_field(name, conversion, spec))}; {LITERAL}, {WAYS_OUT}"
    return ""


def _fields_by_place(text: str) -> list[str]:
    """Fields like ``{}`` and ``{0}``."""
    try:
        fields = format_fields(text)
    except BrokenError:
        return []
    return [written_field(*each) for each in fields if not leading_name(each[0]) or leading_name(each[0]).isdecimal()]


def _why_plain(text: str) -> str:
    """What makes ``text`` no format: its braces, or fields without a name."""
    try:
        fields = format_fields(text)
    except BrokenError as error:
        return f"its braces make the text no format ({error})"
    odd = [written_field(*each) for each in fields if not leading_name(each[0]).isidentifier()]
    if not odd:
        return "it is adopted as a plain text"
    nameless = _fields_by_place(text)
    if odd[0] in nameless:
        return f"{odd[0]} has no name, so the text counts as plain"
    return f"the brace of {_cut(odd[0])} makes the text no format"


def _cut(text: str) -> str:
    """``text`` on one line, short enough for a message."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_SHOWN else f"{line[: _LONGEST_SHOWN - 2]} …"
