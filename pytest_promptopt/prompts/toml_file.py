"""Read a TOML file that people review and edit; every fault names the file, the line, and what mends it.

Production reads compiled prompts through here, so it is standard library alone.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TypeVar

from pytest_promptopt.errors import SnapshotError
from pytest_promptopt.prompts.compiled import Json

T = TypeVar("T")
At = tuple[str | int, ...]
"""Where a value stands: the keys and list positions that lead to it."""

_MERGE_MARKER = re.compile(r"^(?:<{7}|\|{7}|>{7})(?:[ \r]|$)", re.MULTILINE)
_TOMLLIB_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_MAX_CHARS_TRIED = 3_000_000
_TOMLLIB_WORDS = {
    "Cannot overwrite a value": "the key of this line stands twice",
    "Duplicate inline table key": "a key stands twice in this line, {message}",
    "Cannot declare": "this table stands twice",
    "Cannot mutate immutable namespace": "this table stands twice",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TomlFile:
    """A file's text, its path, and ``renew``: the command that writes the file anew once it is deleted."""

    text: str
    path: Path
    renew: str

    def fault(self, what: str, *, line: int | None = None, mend: str | None = None) -> SnapshotError:
        """The error to raise; the file stays as it is."""
        place = str(self.path) if line is None else f"{self.path}:{line}"
        return SnapshotError(f"{place}: {what}\n  {mend or self.mend()}", path=self.path, line=line)

    def mend(self) -> str:
        """What to type when the file cannot be used as it is."""
        return f"mend that line, or `git checkout -- {self.shell_path()}`, or {self.delete_and_renew()}"

    def delete_and_renew(self) -> str:
        """The way out that always works."""
        return f"delete the file and run `{self.renew}`"

    def shell_path(self) -> str:
        """The path as one types it in a shell."""
        return quote(str(self.path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of a file; its methods give values of the type they name and raise ``SnapshotError`` otherwise."""

    file: TomlFile
    values: Mapping[str, object]
    at: At = ()

    def fault(self, what: str, *, key: str | int | None = None, mend: str | None = None) -> SnapshotError:
        """The error for this table, or for its ``key``, with the line where that stands."""
        at = self.at if key is None else (*self.at, key)
        return self.file.fault(what, line=_line_of(self.file.text, at), mend=mend)

    def take(self, key: str, kind: type[T], words: str) -> T:
        """The value of ``key``, which must be a ``kind``; ``words`` say so to a person."""
        if key not in self.values:
            raise self.fault(f"the key {key!r} is missing; it holds {words}")
        value = self.values[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.fault(f"{key!r} must be {words}, not {_words(value)}", key=key)
        return value

    def text(self, key: str) -> str:
        """A string."""
        return self.take(key, str, "a string")

    def optional_text(self, key: str) -> str | None:
        """A string, or ``None`` where the key is missing."""
        return self.text(key) if key in self.values else None

    def number(self, key: str) -> float:
        """A whole or broken number."""
        value = self.values.get(key)
        return float(self.take(key, int, "a number")) if isinstance(value, int) else self.take(key, float, "a number")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        values: list[object] = self.take(key, list, "a list of strings")
        strings = tuple(value for value in values if isinstance(value, str))
        if len(strings) < len(values):
            raise self.fault(f"{key!r} must be a list of strings", key=key)
        return strings

    def text_fields(self) -> dict[str, str]:
        """This whole table, all of whose values are strings."""
        return {key: self.text(key) for key in self.values}

    def json_fields(self) -> dict[str, Json]:
        """This whole table as JSON values."""
        return {key: self.json(key) for key in self.values}

    def json(self, key: str) -> Json:
        """Anything that JSON knows; a date, say, is refused."""
        if key not in self.values:
            raise self.fault(f"the key {key!r} is missing")
        try:
            return _as_json(self.values[key])
        except TypeError as error:
            raise self.fault(f"{key!r} holds {error}; write it as a string", key=key) from None

    def table(self, key: str) -> Table:
        """A table inside this one; a missing one is empty."""
        return self.required_table(key) if key in self.values else Table(file=self.file, values={}, at=self.at)

    def required_table(self, key: str) -> Table:
        """A table inside this one, which must be there."""
        return Table(file=self.file, values=self.take(key, dict, "a table"), at=(*self.at, key))

    def tables(self, key: str) -> Iterator[Table]:
        """The tables under ``[[key]]``, in order; none where it is missing."""
        values: list[object] = self.take(key, list, f"tables, each under [[{key}]]") if key in self.values else []
        for index, value in enumerate(values):
            if not isinstance(value, dict):
                raise self.fault(f"{key!r} must be tables, each under [[{key}]]", key=key)
            yield Table(file=self.file, values=value, at=(*self.at, key, index))

    def require_format(self, supported: int) -> None:
        """Raise unless this is a file of the ``supported`` format."""
        number = self.take("format", int, "a whole number")
        if number > supported:
            upgrade = "upgrade it: `pip install --upgrade pytest-promptopt`"
            what = f"format {number} was written by a newer version of pytest-promptopt; this one reads {supported}"
            raise self.fault(what, key="format", mend=upgrade)
        if number < supported:
            raise self.fault(f"unknown format {number}; this version reads {supported}", key="format")

    def require_only(self, known: Collection[str]) -> None:
        """Raise when a key stands here that is not ``known``."""
        for key in self.values:
            if key not in known:
                raise self.fault(f"unknown key {key!r}{_nearest(key, known)}", key=key)


def read_toml(text: str, *, path: Path, renew: str) -> Table:
    """``text`` as its top table. Raises :class:`SnapshotError` for merge markers and for broken TOML."""
    file = TomlFile(text=text.removeprefix("\ufeff"), path=path, renew=renew)
    if marker := _MERGE_MARKER.search(file.text):
        raise _unmerged(file, line=file.text.count("\n", 0, marker.start()) + 1)
    try:
        return Table(file=file, values=tomllib.loads(file.text))
    except tomllib.TOMLDecodeError as error:
        raise _broken(file, str(error)) from None
    except RecursionError:
        raise file.fault("values are nested too deeply to be read") from None


def decode(data: bytes, *, path: Path) -> str:
    """The text of a file of ours. Raises :class:`SnapshotError` with the line that is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        mend = f"save it as UTF-8, or `git checkout -- {quote(str(path))}`"
        raise SnapshotError(f"{path}:{line}: this line is not UTF-8\n  {mend}", path=path, line=line) from None


def _unmerged(file: TomlFile, *, line: int) -> SnapshotError:
    sides = f"`git checkout --ours -- {file.shell_path()}` (or `--theirs`)"
    mend = f"finish the merge by hand, or {sides}, or {file.delete_and_renew()}"
    return file.fault("a merge left its markers here", line=line, mend=mend)


def _broken(file: TomlFile, message: str) -> SnapshotError:
    found = _TOMLLIB_LINE.search(message)
    last_line = file.text.rstrip("\n").count("\n") + 1
    line = int(found[1]) if found and found[1] else last_line
    bare = message[: found.start()] if found else message
    words = next((words for start, words in _TOMLLIB_WORDS.items() if bare.startswith(start)), "{message}")
    what = words.format(message=bare)
    return file.fault(f"this is not valid TOML: {what}", line=_statement_line(file.text, line))


def _statement_line(text: str, line: int) -> int:
    """The line on which the statement begins that broke at ``line``: tomllib names the end of one of many lines."""
    lines = text.split("\n")
    # Each try reads the file anew: a second's worth of them, however long the file is.
    most_tries = _MAX_CHARS_TRIED // (len(text) + 1) + 1
    for start in range(line, max(0, line - most_tries), -1):
        if _parses("\n".join(lines[: start - 1])):
            return start
    return line


def _line_of(text: str, at: At) -> int:
    """The 1-based line on which the value ``at`` begins, else the nearest one around it."""
    lines = text.split("\n")
    for depth in range(len(at), 0, -1):
        line = next(_lines_of(lines, at[:depth]), None)
        if line is not None:
            return line
    return 1


def _lines_of(lines: list[str], at: At) -> Iterator[int]:
    """The lines that look like the key of ``at`` and bring it about; so a key's name inside a text is not taken."""
    key = re.escape(next(part for part in reversed(at) if isinstance(part, str)))
    looks_right = re.compile(rf"""\s*(?:\[+.*|(?:[^=]+\.\s*)?["']?){key}["']?\s*(?:\]|=|\.)""")
    for number, line in enumerate(lines, 1):
        if looks_right.match(line):
            before = "\n".join(lines[: number - 1])
            begun = line.partition("=")[0] + "= 0"
            if _holds(f"{before}\n{line}", at) or _holds(f"{before}\n{begun}", at):
                yield number


def _holds(text: str, at: At) -> bool:
    value: object = _parsed(text)
    for part in at:
        is_there = part in value if isinstance(value, dict) else isinstance(value, list) and part in range(len(value))
        if not is_there:
            return False
        value = value[part]  # type: ignore[index]
    return True


def _parsed(text: str) -> object:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return None


def _parses(text: str) -> bool:
    return _parsed(text) is not None


def _as_json(value: object) -> Json:
    if isinstance(value, list):
        return [_as_json(each) for each in value]
    if isinstance(value, dict):
        return {key: _as_json(each) for key, each in value.items()}
    if isinstance(value, str | bool | int | float):
        return value
    raise TypeError(_words(value))


def _words(value: object) -> str:
    kinds: dict[type, str] = {
        str: "a string",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        list: "a list",
        dict: "a table",
    }
    return kinds.get(type(value), "a date or a time")


def _nearest(key: str, known: Collection[str]) -> str:
    from difflib import get_close_matches

    nearest = get_close_matches(key, known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
