"""Recordings: the replies that a metric's gate needs, one JSON line a call, in a file beside its baseline.

Nothing in them depends on time or machine, and lines stand in the order of their keys: recording the same replies again
changes no byte, and two branches that record different calls merge line by line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from pytest_promptopt.errors import SnapshotError
from pytest_promptopt.lms.base import Reply, Usage
from pytest_promptopt.snapshots.change import Change, compare, read_text

_FIELDS = ("key", "model", "prompt", "rows", "repeat", "ordinal", "reply", "usage", "cost_usd")
_KEY = re.compile(r"[0-9a-f]{64}-(\d+)-(\d+)")
_MERGE_MARKER = re.compile(r"(?:<{7}|\|{7}|={7}|>{7})(?:[ \r]|$)")
# What ends a line, turns the direction of writing or shows nothing at all has no place in a file that people review;
# half a surrogate pair fits into no file.
_NEEDS_ESCAPE = re.compile(
    "[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One reply of a model outside the process.

    ``key`` is what the reply is looked up by: request, repeat and ordinal. ``model`` is the ``provider/model`` that
    answered, ``prompt`` who asked, and ``rows`` are the ids of the rows that need the reply, sorted. What was asked
    does not stand here: the rows are in the dataset, the prompt in its file. A cost of ``None`` is unknown.
    """

    key: str
    model: str
    prompt: str
    rows: tuple[str, ...]
    reply: str
    usage: Usage | None = None
    cost_usd: float | None = None

    def as_reply(self) -> Reply:
        """The reply, marked as replayed."""
        return Reply(text=self.reply, usage=self.usage, cost_usd=self.cost_usd, is_replayed=True)


def recordings_path(baseline_path: Path) -> Path:
    """The file of a metric's recordings, beside its baseline."""
    return baseline_path.with_suffix(".jsonl")


def read_recordings(path: Path, *, metric: str) -> dict[str, Recording]:
    """The recordings in the file ``path`` of ``metric`` by key; none where there is no file.

    Raises :class:`~pytest_promptopt.errors.SnapshotError` for whatever is wrong with it, with line and remedy.
    """
    text = read_text(path)
    return {} if text is None else parse_recordings(text, path=path, metric=metric)


def parse_recordings(text: str, *, path: Path, metric: str) -> dict[str, Recording]:
    """The recordings in ``text``, the content of ``path``; otherwise as :func:`read_recordings`."""
    file = _File(path=path, metric=metric)
    recordings: dict[str, Recording] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if not line.strip():
            continue
        recording = _read_line(file, number, line)
        if recording.key in recordings:
            raise file.fault(f"the key of this line stands in line {lines[recording.key]} already", line=number)
        recordings[recording.key], lines[recording.key] = recording, number
    return recordings


def dump_recordings(recordings: Iterable[Recording]) -> str:
    """The text of the file, sorted by key; :func:`parse_recordings` gives ``recordings`` back."""
    return "".join(f"{_line(each)}\n" for each in sorted(recordings, key=lambda each: each.key))


def merged(recordings: Iterable[Recording]) -> dict[str, Recording]:
    """By key; of several with one key the first reply counts, and all their rows."""
    by_key: dict[str, Recording] = {}
    for each in recordings:
        first = by_key.setdefault(each.key, each)
        if first is not each:
            rows = tuple(sorted({*first.rows, *each.rows}))
            by_key[each.key] = replace(first, prompt=min(first.prompt, each.prompt), rows=rows)
    return by_key


def compare_recordings(path: Path, used: Iterable[Recording], *, metric: str, is_whole: bool) -> Change:
    """What recording ``used`` changes. They replace all others where they are the ``whole``, else they are added.

    A file that nothing is left of is retired. Raises ``SnapshotError`` for one that cannot be read.
    """
    old = read_recordings(path, metric=metric)
    found = merged(used)
    kept = found if is_whole else {**old, **{key: _with_rows_of(each, old.get(key)) for key, each in found.items()}}
    return compare(path, dump_recordings(kept.values()) if kept else None)


def _with_rows_of(recording: Recording, other: Recording | None) -> Recording:
    return recording if other is None else replace(recording, rows=tuple(sorted({*recording.rows, *other.rows})))


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """Whose file is read, for what has to be said about it."""

    path: Path
    metric: str

    def fault(self, what: str, *, line: int, mend: str | None = None) -> SnapshotError:
        place = f"{self.path}:{line}"
        return SnapshotError(f"{place}: {what}\n  {mend or self.mend()}", path=self.path, line=line)

    def mend(self) -> str:
        path = quote(str(self.path))
        return f"delete that line and run `{self.record()}`, or `git checkout -- {path}`"

    def record(self) -> str:
        return f"pytest -k {quote(self.metric.rpartition('.')[2])} --prompt-lm record"


def _read_line(file: _File, number: int, line: str) -> Recording:
    if _MERGE_MARKER.match(line):
        mend = (
            "lines of both sides may stay, each is one reply: delete the lines with the markers, and one of two lines "
            f"that have the same key; then `{file.record()}`"
        )
        raise file.fault("a merge left its markers here", line=number, mend=mend)
    try:
        fields = _decode(line)
    except (ValueError, RecursionError) as error:
        raise file.fault(f"this is not a recording: {_words(error)}", line=number) from None
    try:
        return _recording(fields)
    except _UnknownFieldError as error:
        mend = f"upgrade: `pip install --upgrade pytest-promptopt`; or {file.mend()}"
        raise file.fault(f"this is not a recording that this version reads: {error}", line=number, mend=mend) from None
    except ValueError as error:
        raise file.fault(f"this is not a recording: {error}", line=number) from None


class _UnknownFieldError(ValueError):
    """A field that another version may have written."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field stands twice in it")
    return fields


_decode = json.JSONDecoder(object_pairs_hook=_once).decode


def _words(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return str(error)


def _recording(fields: object) -> Recording:
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    for name in fields:
        if name not in _FIELDS:
            raise _UnknownFieldError(f"unknown field {name!r}")
    for name in _FIELDS:
        if name not in fields:
            raise ValueError(f"the field {name!r} is missing")
    key = _text(fields, "key")
    found = _KEY.fullmatch(key)
    if not found or (fields["repeat"], fields["ordinal"]) != (int(found[1]), int(found[2])):
        raise ValueError("its key is none, or not that of its repeat and ordinal")
    return Recording(
        key=key,
        model=_text(fields, "model"),
        prompt=_text(fields, "prompt"),
        rows=_rows(fields["rows"]),
        reply=_text(fields, "reply"),
        usage=_usage(fields["usage"]),
        cost_usd=_cost(fields["cost_usd"]),
    )


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise ValueError(f"its {name!r} is no text")
    return value


def _rows(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("its 'rows' are no list of texts")
    return tuple(value)


def _usage(value: object) -> Usage | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(each) is int and each >= 0 for each in value):
        raise ValueError("its 'usage' is neither null nor two numbers of tokens")
    return Usage(prompt_tokens=value[0], completion_tokens=value[1])


def _cost(value: object) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value < float("inf"):  # type: ignore[operator]  # a number by then
        raise ValueError("its 'cost_usd' is neither null nor an amount")
    return float(value)  # type: ignore[arg-type]  # as above


def _line(recording: Recording) -> str:
    text = json.dumps(_fields(recording), ensure_ascii=False, allow_nan=False)
    return _NEEDS_ESCAPE.sub(_escape, text)


def _fields(recording: Recording) -> dict[str, object]:
    _, repeat, ordinal = recording.key.rsplit("-", 2)
    usage = recording.usage
    return {
        "key": recording.key,
        "model": recording.model,
        "prompt": recording.prompt,
        "rows": list(recording.rows),
        "repeat": int(repeat),
        "ordinal": int(ordinal),
        "reply": recording.reply,
        "usage": None if usage is None else [usage.prompt_tokens, usage.completion_tokens],
        "cost_usd": recording.cost_usd,
    }


def as_json(recording: Recording) -> dict[str, object]:
    """``recording`` as JSON values, as its line has them: what travels between processes."""
    return _fields(recording)


def from_json(fields: object) -> Recording:
    """The recording that :func:`as_json` made ``fields`` of. Raises ``ValueError`` for anything else."""
    return _recording(fields)


def _escape(found: re.Match[str]) -> str:
    return "".join(f"\\u{unit:04x}" for unit in _utf16(found[0]))


def _utf16(character: str) -> Iterator[int]:
    data = character.encode("utf-16-be", "surrogatepass")
    return (int.from_bytes(data[place : place + 2], "big") for place in range(0, len(data), 2))
