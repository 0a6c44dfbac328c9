"""Find JSON in prose, and mend what can be mended without guessing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice

from pytest_promptopt.prompts.compiled import Json

_MOST_STARTS = 200  # a reply full of brackets is no reply; without bounds, reading it would take quadratic time
_MOST_TOKENS = 2000


def _pairs(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    settled = dict(pairs)
    if len(settled) < len(pairs) and any(settled[key] != value for key, value in pairs):
        raise ValueError("one key with two values")
    return settled


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_pairs, parse_constant=_refuse_constant)
_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*"'  # a string, which may hold any of the others
    r"|'(?:[^'\\]|\\.)*'"
    r"|[{}\[\]]"
    r"|,(?=\s*[}\]])"
    r"|\b[A-Za-z_]\w*(?=\s*:)"  # a key without quotes
    r"|\b(?:True|False|None)\b",
    re.DOTALL,
)
_QUOTE_INSIDE = re.compile(r"""\\'|(?<!\\)\"""")
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null", ",": ""}


def json_values(text: str) -> Iterator[Json]:
    """Every JSON object and array that stands in ``text``, outermost ones only, mended where that is safe."""
    position = 0
    for _ in range(_MOST_STARTS):
        start = min((at for at in (text.find("{", position), text.find("[", position)) if at >= 0), default=-1)
        if start < 0:
            return
        value, position = _json_at(text, start)
        if value is not None:
            yield value


def _json_at(text: str, start: int) -> tuple[Json, int]:
    """The JSON value at ``start`` and where it ends; ``None`` and the next character when there is none."""
    try:
        value: Json
        value, end = _DECODER.raw_decode(text, start)
        return value, end
    except (ValueError, RecursionError):
        return _mended_at(text, start)


def _mended_at(text: str, start: int) -> tuple[Json, int]:
    """The same with single quotes, trailing commas and Python's constants, if that makes sound JSON of it."""
    end = _closing(text, start)
    if end is None:
        return None, start + 1
    try:
        value: Json = _DECODER.decode(_TOKEN.sub(_mended_token, text[start:end]))
    except (ValueError, RecursionError):
        return None, start + 1
    return value, end


def _closing(text: str, start: int) -> int | None:
    depth = 0
    for token in islice(_TOKEN.finditer(text, start), _MOST_TOKENS):
        depth += (token[0] in "{[") - (token[0] in "}]")
        if depth == 0:
            return token.end()
    return None


def _mended_token(token: re.Match[str]) -> str:
    written = token[0]
    if written.startswith("'"):
        return '"' + _QUOTE_INSIDE.sub(lambda quote: "'" if quote[0] == "\\'" else '\\"', written[1:-1]) + '"'
    if written in _PYTHON_WORDS:
        return _PYTHON_WORDS[written]
    return f'"{written}"' if written.isidentifier() else written
