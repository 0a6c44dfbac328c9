"""Rows and instructions as other optimizers write them down, brought into lines that every reader here knows.

DSPy shows rows as ``Example({...})`` on one line and instructions in marker sections, GEPA shows records with feedback
as a JSON list or under Markdown headings. What a model answered there is no label, and is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from pytest_promptopt.lms.offline.conversation import MARKER, REMINDER

EXAMPLE = re.compile(r"(?:, )?Example\((\{.*?\})\) \(input_keys=\{[^}\n]*\}\)")
RECORDS = re.compile(r"^\[\{.*\"Feedback\":.*\}\]$", re.M)
HEADING = re.compile(r"^(#{1,6}) (.+)$")
FEEDBACK_HEADING = re.compile(r"^## Feedback$", re.M)
GIVEN_BY_MODEL = re.compile(r"\b(?:outputs?|responses?|answer(?:ed|s)?|repl(?:y|ies)|prediction)\b", re.I)
SECTION = r"^\[\[ ## (?:{}) ## \]\]\n(?!\{{)(.+?)(?=\n+\[\[ ## |\n+Respond with |\Z)"
INSTRUCTION_SECTION = re.compile(SECTION.format(r"(?!attempted)\w*instruction"), re.M | re.S)
ATTEMPTS_SECTION = re.compile(SECTION.format(r"attempted_instructions"), re.M | re.S)
OBSERVATIONS_SECTION = re.compile(SECTION.format(r"(?:prior_)?observations"), re.M | re.S)
ATTEMPT_TEXT = re.compile(r"\bInstruction #(\d+): (.+?)»", re.S)
ATTEMPT_SCORE = re.compile(r"\bResulting Score #(\d+): ([\d.]+)")


def unfold(text: str) -> str:
    """``text`` with one row, or one value of a row, on a line; text in no such notation as it is."""
    text = EXAMPLE.sub(r"\n\1", MARKER.sub("", text))
    text = RECORDS.sub(lambda found: _unfold_records(found[0]), text)
    return "\n".join(_unfold_headings(text)) if FEEDBACK_HEADING.search(text) else text


def _unfold_records(line: str) -> str:
    try:
        records = json.loads(line)
    except (ValueError, RecursionError):
        return line
    return "\n".join(said for record in records if isinstance(record, Mapping) for said in _lines_of(record))


def _lines_of(record: Mapping[str, object]) -> Iterator[str]:
    for name, value in record.items():
        if GIVEN_BY_MODEL.search(name):
            continue
        if isinstance(value, Mapping):
            yield from (f"{key}: {_on_one_line(inner)}" for key, inner in value.items())
        else:
            yield _on_one_line(value) if name == "Feedback" else f"{name}: {_on_one_line(value)}"


def _on_one_line(value: object) -> str:
    return " ".join(str(value).split())


def _unfold_headings(text: str) -> Iterator[str]:
    """Each line behind the lowest heading above it; feedback as it is."""
    name, is_hidden = "", False
    for line in text.split("\n"):
        if found := HEADING.match(line):
            name = "" if found[2] == "Feedback" else found[2]
            is_hidden = bool(GIVEN_BY_MODEL.search(name)) if len(found[1]) <= 2 else is_hidden
        elif not is_hidden:
            yield f"{name}: {line}" if name and line.strip() else line


def sectioned_instruction(request: str) -> str:
    """The instruction in a marker section, else the best of the attempts in one; empty where there is neither."""
    if found := INSTRUCTION_SECTION.search(request):
        return found[1].strip()
    attempts = ATTEMPTS_SECTION.search(request)
    if not attempts:
        return ""
    scores = {number: float(score.strip(".") or 0) for number, score in ATTEMPT_SCORE.findall(attempts[1])}
    texts = [(scores.get(number, 0.0), text.strip()) for number, text in ATTEMPT_TEXT.findall(attempts[1])]
    return max(texts, key=lambda attempt: attempt[0], default=(0.0, ""))[1]


def gist(request: str) -> str:
    """The first sentence of the last marker section, without those that say what a reply looks like."""
    *_, last = MARKER.split(REMINDER.sub("", request))
    return re.split(r"(?<=[.!?])\s", last.strip(), maxsplit=1)[0]


def without_sections(request: str) -> str:
    """``request`` without instructions, attempts and earlier observations in marker sections."""
    for section in (INSTRUCTION_SECTION, ATTEMPTS_SECTION, OBSERVATIONS_SECTION):
        request = section.sub("", request)
    return request
