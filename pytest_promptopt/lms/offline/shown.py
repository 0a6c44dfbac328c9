"""Reads rows out of running text in whatever notation: keyed lines, JSON, arrows, assertion messages, feedback."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_promptopt.lms.offline.words import content_words

ANSWERED = re.compile(r"\b(?:got|predict\w*|model|actual|returned|repl(?:y|ied)|answered|wrong)\b", re.I)
COMMENTED = re.compile(r"\b(?:expected|correct|feedback|the test said)\b", re.I)
RULE = re.compile(r"\bone of:|\bexactly one of\b|JSON object", re.I)
KEYED = re.compile(r"[\"']?\b([A-Za-z_]\w*(?: \w+)?)\b[\"']?\s*[:=]\s*(?:\"([^\"\n]*)\"|'([^'\n]*)'|([^\n,]+))")
KEY = re.compile(r"[\"']?\b[A-Za-z_]\w*[\"']?\s*[:=]")
QUOTED = re.compile(r"\w[\"']?\s*[:=]\s*\"((?:[^\"\\]|\\.)*)\"")
ARROW = re.compile(r"(?:->|=>|→)\s*(?:[\"'`]?([\w .&/-]{1,40}?)[\"'`]?|(\{.*\}))\s*$", re.M)
INPUT_LINE = re.compile(r"\W*(?!expected|correct|label|feedback)\w+\W{0,3}:\s*\S+(?:\s+\S+){3}", re.I)
ASSERTED = re.compile(r"assert '([^']+)' == '([^']+)'")
MOST_LABELS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Labels, and pairs of text and label, that a request shows."""

    labels: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


def read_rows(text: str, allowed: Sequence[str]) -> Shown:
    """The rows in ``text``; ``allowed`` are the labels that are listed somewhere."""
    asserted = [found[2] for found in ASSERTED.finditer(text)]
    found = [*allowed, *([] if allowed else _repeated(text)), *asserted]
    labels = tuple(dict.fromkeys(found))[:MOST_LABELS]
    return Shown(labels=labels, pairs=tuple(_pairs(text, labels)))


def _repeated(text: str) -> list[str]:
    """Short values that come back under one key, or behind arrows: the labels when nobody lists them."""
    values: dict[str, Counter[str]] = {"->": Counter(bare for bare, _ in ARROW.findall(text) if bare)}
    for key, *value in KEYED.findall(text):
        values.setdefault(key.lower(), Counter())["".join(value).strip(" \"'`.")] += 1
    few = [seen for key, seen in values.items() if 3 <= seen.total() > len(seen) and not ANSWERED.search(key)]
    return [value for seen in few for value in seen if _is_label(value)]


def _is_label(value: str) -> bool:
    return 0 < len(value) <= 40 and len(value.split()) <= 3 and not value[0].isdigit()


def _pairs(text: str, labels: tuple[str, ...]) -> list[tuple[str, str]]:
    """Each line's text with the label on it, or on the next line that has one."""
    reader = _LineReader(labels)
    pairs, waiting = [], ""
    for line in text.split("\n"):
        hits = reader.labels_on(line)
        if hits is None:
            continue
        said = reader.text_on(line)
        if hits and (said or waiting):
            pairs += [(said or waiting, label) for label in dict.fromkeys(hits)]
        waiting = "" if hits else said or waiting
    return pairs


class _LineReader:
    """Tells the text on a line from the label on it."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        names = "|".join(map(re.escape, sorted(labels, key=len, reverse=True))) or "(?!)"
        self.mention = re.compile(rf"(?<!\w)(?:{names})(?!\w)")
        self.value = re.compile(rf"[\"']?\b\w+[\"']?\s*[:=]\s*[\"'`]?({names})[\"'`.]?\s*(?=[,}})|]|$)")

    def labels_on(self, line: str) -> list[str] | None:
        """The labels a line gives; None for a list of labels, and for what a model answered."""
        if asserted := ASSERTED.search(line):
            return [asserted[2]]
        if arrow := ARROW.search(line):
            return self.value.findall(arrow[2]) if arrow[2] else self.mention.findall(arrow[1])[-1:]
        if ANSWERED.search(line.split(":")[0]) and "expected" not in line.lower():
            return None
        if RULE.search(line):
            return None
        mentioned = [] if INPUT_LINE.match(line) else self.mention.findall(line)
        return self.value.findall(line) or (None if len(set(mentioned)) > 2 else mentioned[-1:])

    def text_on(self, line: str) -> str:
        """What a line says apart from labels and keys; empty unless that is a text of its own."""
        if ASSERTED.search(line):
            return ""
        said = self._bare(line).strip(" \"'`{},->→|")
        is_text = len(said.split()) > 1 and content_words(said) and not COMMENTED.search(line)
        return said if is_text else ""

    def _bare(self, line: str) -> str:
        """The line without keys and keyed labels; quoted values alone where there are any."""
        bare = ARROW.sub("", line) if ARROW.search(line) else self.value.sub(" ", line)
        if quoted := QUOTED.findall(bare):
            return " ".join(quoted)
        if bare != line or INPUT_LINE.match(line):
            return KEY.sub("", bare, count=1)
        return KEY.sub(" ", self.mention.sub(" ", bare))
