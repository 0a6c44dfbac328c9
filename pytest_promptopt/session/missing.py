"""Requests that a replay found no reply for, as pure data: what trusted code may answer for a pull request from a fork.

One JSON object a line, sorted, without secrets. A request names its prompt and what that was filled in with; its
messages stand there for people, and to be compared with what the prompt makes of it.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_promptopt.errors import UsageError
from pytest_promptopt.evaluation.outcome import RowResult
from pytest_promptopt.lms.client import Draw
from pytest_promptopt.lms.redaction import Redactor
from pytest_promptopt.lms.store import prepare_folder
from pytest_promptopt.prompts.compiled import Json
from pytest_promptopt.prompts.rendering import to_json
from pytest_promptopt.session.metric_item import MetricItem

FILE_NAME = "missing.jsonl"
MOST_NAME_CHARACTERS = 300
MOST_BYTES = 16 * 2**20

_KEY = re.compile(r"[0-9a-f]{64}-(\d{1,6})-(\d{1,6})")
_TEXTS = ("key", "file", "metric", "model", "prompt", "row")
_NUMBERS = ("repeat", "ordinal")
_FIELDS = (*_TEXTS, *_NUMBERS, "inputs", "messages")


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """One request that is not recorded: ``row`` of ``metric`` asked it of ``model``.

    ``file`` is where its reply belongs, from rootdir, and ``inputs`` are what ``prompt`` was filled in with, as JSON
    values by name.
    """

    key: str
    file: str
    metric: str
    model: str
    prompt: str
    row: str
    repeat: int
    ordinal: int
    inputs: Mapping[str, Json]
    messages: Sequence[Mapping[str, Json]]

    def as_json(self) -> dict[str, Any]:
        """Its line, as JSON values in their order."""
        return {name: getattr(self, name) for name in _FIELDS}

    @classmethod
    def from_json(cls, fields: object) -> Missing:
        """The request in a line that anybody may have written. Raises ``ValueError`` for what cannot be one."""
        if not isinstance(fields, dict) or fields.keys() != set(_FIELDS):
            raise ValueError(f"a request is a JSON object with the fields {', '.join(_FIELDS)}")
        for name in _TEXTS:
            if not isinstance(fields[name], str) or len(fields[name]) > MOST_NAME_CHARACTERS:
                raise ValueError(f"its {name!r} is no short text")
        found = _KEY.fullmatch(fields["key"])
        if not found or [fields[name] for name in _NUMBERS] != [int(found[1]), int(found[2])]:
            raise ValueError("its key is none, or not that of its repeat and ordinal")
        inputs, messages = fields["inputs"], fields["messages"]
        if not isinstance(inputs, dict):
            raise ValueError("its 'inputs' are no object")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise ValueError("its 'messages' are no list of objects")
        return cls(**fields)


def missing_of(item: MetricItem, results: Iterable[RowResult], redactor: Redactor) -> Iterator[Missing]:
    """The requests of a metric's rows that nobody answered, each once, for the first row that asked it."""
    asked: set[str] = set()
    for result in results:
        for draw in result.draws:
            if draw.reply is None and draw.key not in asked:
                asked.add(draw.key)
                yield _missing(item, result.id, draw, redactor)


def _missing(item: MetricItem, row: str, draw: Draw, redactor: Redactor) -> Missing:
    request = draw.request
    repeat, ordinal = draw.key.rsplit("-", 2)[1:]
    return Missing(
        key=draw.key,
        file=item.recordings_file,
        metric=redactor.redact(item.owner)[:MOST_NAME_CHARACTERS],
        model=redactor.redact(draw.model),
        prompt=redactor.redact(request.prompt),
        row=redactor.redact(row)[:MOST_NAME_CHARACTERS],
        repeat=int(repeat),
        ordinal=int(ordinal),
        inputs=redactor.redact_json({name: _as_json(value) for name, value in (request.inputs or {}).items()}),
        messages=redactor.redact_json([dict(message) for message in request.messages]),
    )


def _as_json(value: object) -> Json:
    with suppress(Exception):  # an object that a template looks into need not be JSON; then it cannot be fulfilled
        return to_json(value)
    return str(value)


def write_missing(folder: Path, missing: Iterable[Missing]) -> Path:
    """Write ``missing`` into ``folder``, in the place of what an earlier run missed; gives the file.

    Raises :class:`~pytest_promptopt.errors.UsageError` where that cannot be done.
    """
    prepare_folder(folder)
    path = folder / FILE_NAME
    lines = {json.dumps(each.as_json(), sort_keys=False): each for each in missing}
    in_order = sorted(lines, key=lambda line: (lines[line].file, lines[line].key))
    try:
        handle, name = tempfile.mkstemp(prefix=f".{FILE_NAME}.", suffix=".tmp", dir=folder)  # mode 0600
        with os.fdopen(handle, "w", encoding="ascii", newline="\n") as file:
            file.writelines(f"{line}\n" for line in in_order)
        Path(name).replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}. Make its folder writable.") from error
    return path


def forget_missing(folder: Path) -> None:
    """Remove what an earlier run missed: nothing is missing by now."""
    with suppress(OSError):
        (folder / FILE_NAME).unlink(missing_ok=True)


def read_missing(path: Path) -> dict[int, Missing | str]:
    """Line number → the request there, or why there is none. Raises ``UsageError`` for what cannot be read at all."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8-sig") if len(content) <= MOST_BYTES else None
    except OSError as error:
        raise UsageError(f"--prompt-fulfil {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"--prompt-fulfil {path}: this is not UTF-8, so it is no list of requests") from None
    if text is None:
        raise UsageError(f"--prompt-fulfil {path}: it is longer than {MOST_BYTES // 2**20} MiB; answer it in parts")
    lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    return {number: _read_line(line) for number, line in lines}


def _read_line(line: str) -> Missing | str:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        return f"it is not JSON: {error.msg} at column {error.colno}"
    except RecursionError:
        return "it is nested too deeply"
    except ValueError:
        return "a number in it is too long"
    try:
        return Missing.from_json(fields)
    except ValueError as error:
        return str(error)
