"""A dataset: rows with an id that survives reordering, whatever file or type they came from."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

from pytest_promptopt.errors import DatasetError
from pytest_promptopt.prompts.compiled import Json, content_digest

SUFFIXES = (".jsonl", ".json", ".csv")
__tracebackhide__ = True  # rows that cannot be read are the caller's: pytest shows the fixture that asked for them


class Example(Mapping[str, Any]):
    """One row: ``example["ticket"]`` or ``example.ticket``. Immutable.

    ``example.id`` is the row's own ``id``, else a hash of its content, so that it means the same row after any
    reordering. A field that is called like a method of mappings (``values``) is reached as ``example["values"]``.
    """

    __slots__ = ("_digest", "_fields", "_id")

    def __init__(self, fields: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        self._fields: dict[str, Any] = {**(fields or {}), **more}
        self._digest: str | None = None
        explicit = self._fields.get("id")
        self._id: str | None = None if explicit is None else str(explicit)

    def __getitem__(self, name: str) -> Any:
        try:
            return self._fields[name]
        except KeyError:
            raise KeyError(f"row {self.id} has no field {name!r}; it has {', '.join(self._fields)}") from None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._fields[name]
        except KeyError:
            fields = ", ".join(self._fields)
            raise AttributeError(f"row {self.id} has no field {name!r}; it has {fields}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Example):
            return self._fields == other._fields
        return isinstance(other, Mapping) and self._fields == dict(other)

    def __repr__(self) -> str:
        return f"Example({self._fields!r})"

    @property
    def id(self) -> str:
        """The row's id."""
        return self._id if self._id is not None else self.digest

    @property
    def has_own_id(self) -> bool:
        """Whether the id stands in the row."""
        return self._fields.get("id") is not None

    @property
    def digest(self) -> str:
        """16 hex digits over everything but the id. Raises ``DatasetError`` for a value without a stable text."""
        if self._digest is None:
            self._digest = self.digest_without(())
        return self._digest

    def digest_without(self, names: Iterable[str]) -> str:
        """The same over everything but the id and the fields called ``names``."""
        left_out = {"id", *names}
        return content_digest({name: _as_json(v, name) for name, v in self._fields.items() if name not in left_out})

    def as_json(self) -> dict[str, Json]:
        """The fields as JSON values."""
        return {name: _as_json(value, name) for name, value in self._fields.items()}

    def with_fields(self, changes: Mapping[str, Any]) -> Example:
        """The same row, id and all, with other values in the fields of ``changes``."""
        copy = Example({**self._fields, **changes})
        copy._id = self.id
        return copy

    def numbered(self, number: int) -> Example:
        """The same row as the ``number``-th of several equal ones."""
        copy = Example(self._fields)
        copy._id = f"{self.id}#{number}"
        return copy


_PLAIN = frozenset((str, int, float, bool, type(None)))


def _as_json(value: object, name: str) -> Json:
    """``value`` as JSON, the same on every machine; never by ``repr``, which may hold an address."""
    if type(value) in _PLAIN:
        return value  # type: ignore[return-value]  # exactly one of JSON's own types
    if value is None or isinstance(value, str | bool | int | float):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, Enum):
        return _as_json(value.value, name)
    if isinstance(value, Mapping):
        return {str(key): _as_json(item, name) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item, name) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_as_json(item, name) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    if isinstance(value, date | time | Decimal | UUID):
        return str(value)
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, bytes):
        return value.hex()
    if (fields := _fields_of(value)) is not None:
        return {key: _as_json(item, name) for key, item in fields.items()}
    raise DatasetError(
        f"field {name!r} holds a {type(value).__name__}, which has no stable text to know the row by; "
        "give rows of JSON values, dataclasses or pydantic models"
    )


def _fields_of(row: object) -> dict[str, Any] | None:
    """The named fields of a mapping, dataclass, named tuple or pydantic model; ``None`` for anything else."""
    if isinstance(row, Mapping):
        return {str(name): value for name, value in row.items()}
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    if isinstance(row, tuple) and hasattr(row, "_fields"):
        return dict(zip(row._fields, row, strict=True))
    if hasattr(row, "model_dump"):
        return dict(row.model_dump())
    return None


def as_examples(rows: object, *, name: str) -> tuple[Example, ...]:
    """``rows``, a collection of mappings, dataclasses or :class:`Example`, as examples with distinct ids.

    Equal rows without an id of their own become ``#2``, ``#3``. Raises ``DatasetError`` for anything else and for two
    rows with one explicit id; ``name`` is what the message calls the dataset.
    """
    if isinstance(rows, Iterator):
        raise DatasetError(f"dataset {name!r} is a {type(rows).__name__}, which can be read only once; make it a list")
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise DatasetError(
            f"dataset {name!r} is a {type(rows).__name__}; it must be a list of dict, dataclass or Example"
        )
    examples: list[Example] = []
    places: dict[str, int] = {}
    counts: dict[str, int] = {}
    for place, row in enumerate(rows, start=1):
        example = _as_example(row, name, place)
        _ = example.digest  # while nobody has changed the row yet, and where a value without a stable text is refused
        counts[example.id] = counts.get(example.id, 0) + 1
        if not example.has_own_id and counts[example.id] > 1:
            example = example.numbered(counts[example.id])
        if (first := places.setdefault(example.id, place)) != place:
            raise DatasetError(
                f"dataset {name!r}: rows {first} and {place} both have the id {example.id!r}; ids must differ"
            )
        examples.append(example)
    return tuple(examples)


def _as_example(row: object, name: str, place: int) -> Example:
    if isinstance(row, Example):
        return row
    fields = _fields_of(row)
    if fields is None:
        raise DatasetError(
            f"dataset {name!r}: row {place} is a {type(row).__name__}; it must be a dict, dataclass or Example"
        )
    return Example(fields)


def load_dataset(path: str | Path) -> list[Example]:
    """The rows of a ``.jsonl``, ``.json`` or ``.csv`` file; a relative ``path`` is beside the calling file.

    Raises ``DatasetError`` naming file and line for rows that cannot be read and for two rows with one id.
    """
    path = Path(path)
    if not path.is_absolute():
        path = Path(sys._getframe(1).f_globals.get("__file__", "")).absolute().parent / path
    return read_dataset(path)


def read_dataset(path: Path) -> list[Example]:
    """:func:`load_dataset` for an absolute path."""
    if path.suffix.lower() not in SUFFIXES:
        raise DatasetError(f"{path}: a dataset is a {', '.join(SUFFIXES)} file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(
            f"{path}: no such file; a relative path is looked up beside the file that names it"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv}
    rows = readers[path.suffix.lower()](text, path)
    _check_ids(rows, path)
    return [Example(fields) for _, fields in rows]


def _read_jsonl(text: str, path: Path) -> list[tuple[int, dict[str, Any]]]:
    rows: list[tuple[int, dict[str, Any]]] = []
    broken: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            broken.append(f"line {number}: {error}")
            continue
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            broken.append(f"line {number}: a JSON {type(row).__name__}, not an object")
    if broken:
        more = f" and {len(broken) - 5} more lines" if len(broken) > 5 else ""
        raise DatasetError(f"{path}: every line must be one JSON object; {'; '.join(broken[:5])}{more}")
    return rows


def _read_json(text: str, path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise DatasetError(f"{path}: not JSON ({error})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DatasetError(f"{path}: must hold one JSON list of objects")
    return list(enumerate(rows, start=1))


def _read_csv(text: str, path: Path) -> list[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    rows: list[tuple[int, dict[str, Any]]] = []
    try:
        for row in reader:
            if None in row or None in row.values():
                names = ", ".join(reader.fieldnames or ())
                raise DatasetError(
                    f"{path}: line {reader.line_num} does not have the columns of the first line ({names})"
                )
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise DatasetError(f"{path}: line {reader.reader.line_num}: {error}") from error
    return rows


def _check_ids(rows: list[tuple[int, dict[str, Any]]], path: Path) -> None:
    lines: dict[str, int] = {}
    for number, fields in rows:
        if fields.get("id") is None:
            continue
        if (first := lines.setdefault(str(fields["id"]), number)) != number:
            raise DatasetError(f"{path}: rows {first} and {number} both have the id {fields['id']!r}; ids must differ")
