"""Write TOML that reads well in a pull request and gives back every character it was given.

A text stands as it is wherever it can, on lines of its own when it has several. What a reviewer could not see (control
characters, blanks at the end of a line, marks that turn the direction of writing) is written as an escape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from pytest_promptopt.errors import UsageError
from pytest_promptopt.prompts.compiled import Json

if TYPE_CHECKING:
    from tomlkit import TOMLDocument
    from tomlkit.items import Array, InlineTable, Item, Key, String, Table

T = TypeVar("T", "Table", "TOMLDocument")
Line: TypeAlias = tuple[tuple[str, ...], Json]
"""One ``key = value``; a key of several parts is written with dots."""

_LONG_CHARS = 100
# Controls but tab and line feed; the soft hyphen; zero-width signs but the joiners that scripts and emoji need;
# direction marks, which can make a text read other than it is; line and paragraph separators; the byte order mark;
# tag characters, which smuggle whole sentences; blanks at the end of a line, which editors take away.
_UNSEEN = (
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\U000e0000-\U000e007f]|[ \t](?=\n)"
)
# Reading takes these at the start of a line for what a merge left behind.
_MERGE_MARKER = r"^(?:<(?=<{6})|\|(?=\|{6})|>(?=>{6}))"
_NEEDS_ESCAPE = re.compile(f"{_UNSEEN}|{_MERGE_MARKER}", re.MULTILINE)
_ESCAPED_IN_LINE = re.compile(rf'[\\"\n\t]|{_UNSEEN}')
_ESCAPED_IN_BLOCK = re.compile(rf'\\|"(?=""|\Z)|{_UNSEEN}|{_MERGE_MARKER}', re.MULTILINE)
_SHORT_ESCAPES = {"\b": r"\b", "\t": r"\t", "\n": r"\n", "\f": r"\f", "\r": r"\r", '"': r"\"", "\\": r"\\"}
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def fill(table: T, lines: Iterable[Line]) -> T:
    """The same ``table`` (or whole document), with ``lines`` at its end."""
    for key, value in lines:
        table.append(_key(key), _item(value))
    return table


def text_list(values: Iterable[str]) -> Array:
    """An array of strings, one a line."""
    import tomlkit

    array = tomlkit.array()
    array.extend(_in_line(value) for value in values)
    return array.multiline(bool(array))


def quoted_key(name: str) -> str:
    """``name`` as a TOML key, bare where it can be."""
    return name if _BARE_KEY.fullmatch(name) else quoted(name)


def quoted(value: str) -> str:
    """``value`` as a TOML string on one line."""
    return f'"{_ESCAPED_IN_LINE.sub(_escape, _writable(value))}"'


def field_lines(name: str, fields: Mapping[str, Json]) -> list[Line]:
    """``name.field = value`` for each of ``fields``; what TOML cannot hold comes last, as JSON under ``name_json``."""
    if not fields:
        return [((name,), {})]
    others = [key for key, value in fields.items() if not _is_toml(value)]
    held: list[Line] = [((name, key), value) for key, value in fields.items() if key not in others]
    return held + [((f"{name}_json", key), _json_text(fields[key])) for key in others]


def value_lines(name: str, value: Json) -> list[Line]:
    """``name = value``, one line a field when it has fields; JSON under ``name_json`` when TOML cannot hold it."""
    if not _is_toml(value):
        return [((f"{name}_json",), _json_text(value))]
    return field_lines(name, value) if isinstance(value, Mapping) else [((name,), value)]


def as_toml(value: Json) -> Json:
    """``value``, or its JSON text when TOML cannot hold it."""
    return value if _is_toml(value) else _json_text(value)


def _item(value: Json) -> Item:
    """``value`` at the top of a line, where a long text may take lines of its own."""
    import tomlkit

    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list | tuple):
        array = _array(value)
        return array.multiline(len(array.as_string()) > _LONG_CHARS)
    return _inline_table(value) if isinstance(value, Mapping) else tomlkit.item(value)


def _nested(value: Json) -> Item:
    """``value`` inside another, all on one line."""
    import tomlkit

    if isinstance(value, str):
        return _in_line(value)
    if isinstance(value, list | tuple):
        return _array(value)
    return _inline_table(value) if isinstance(value, Mapping) else tomlkit.item(value)


def _array(values: Iterable[Json]) -> Array:
    import tomlkit

    array = tomlkit.array()
    array.extend(_nested(value) for value in values)
    return array


def _inline_table(fields: Mapping[str, Json]) -> InlineTable:
    import tomlkit

    table = tomlkit.inline_table()
    for name, value in fields.items():
        table.append(_key((name,)), _nested(value))
    return table


def _text(value: str) -> String:
    """A text as one reads it: in a block where it is long or has several lines, else in a line."""
    # A block may end in a quote of its own kind, but no reader can tell at a glance which of the four it is.
    if "\n" not in value and len(value) <= _LONG_CHARS:
        return _in_line(value)
    if _NEEDS_ESCAPE.search(value) or "'''" in value or value.endswith("'"):
        return _string("MLB", value, "\n" + _ESCAPED_IN_BLOCK.sub(_escape, _writable(value)))
    return _string("MLL", value, "\n" + _writable(value))


def _in_line(value: str) -> String:
    is_literal = ('"' in value or "\\" in value) and "'" not in value
    if is_literal and "\n" not in value and not _NEEDS_ESCAPE.search(value):
        return _string("SLL", value, _writable(value))
    return _string("SLB", value, quoted(value)[1:-1])


def _string(kind: str, value: str, spelling: str) -> String:
    from tomlkit.items import String, StringType, Trivia

    return String(StringType[kind], value, spelling, Trivia())


def _key(parts: tuple[str, ...]) -> Key:
    from tomlkit.items import DottedKey, SingleKey

    keys = [SingleKey(part, original=quoted_key(part)) for part in parts]
    return keys[0] if len(keys) == 1 else DottedKey(keys)


def _escape(found: re.Match[str]) -> str:
    sign = found[0]
    return _SHORT_ESCAPES.get(sign) or (f"\\u{ord(sign):04X}" if ord(sign) < 0x10000 else f"\\U{ord(sign):08X}")


def _writable(value: str) -> str:
    if half := _SURROGATE.search(value):
        what = f"U+{ord(half[0]):04X}, half of a surrogate pair, which no file can hold"
        raise UsageError(f"this text holds {what}; take it out: {value[:60]!r}")
    return value


def _is_toml(value: Json) -> bool:
    if isinstance(value, Mapping):
        return all(_is_toml(key) and _is_toml(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(_is_toml(each) for each in value)
    return value is not None and not (isinstance(value, str) and _SURROGATE.search(value))


def _json_text(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return json.dumps(value, indent=2) if _SURROGATE.search(text) else text
