"""The text of a reply, as people dress one: fences, quotes and bold marks, "Answer:", denials."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DRESS = " \t\r\n\"'`*_.,;:!()[]“”‘’„«»"
_FENCE = re.compile(r"```[\w+-]*[ \t]*\n(.*)```", re.DOTALL)
_MARKER = re.compile(
    # any such word opens a line, inside one only "the answer is" does: "5, since the value is 3" marks nothing
    r"(?:^[ \t>#*_\"'-]*(?:(?:so|thus|therefore|hence),?\s+)?(?:(?:the|my|your)\s+)?"
    r"(?:(?:final|correct|best|right|overall)\s+)?"
    r"(?:answer|label|category|class|classification|choice|decision|output|prediction|rating|response|result|score|value"
    r"|verdict)|[.!?]\s+(?:(?:the|my)\s+)?(?:final\s+)?answer)"
    r"\b[\"'`*_]{0,3}\s*(?:\bis\b|:|=)[ \t]*(?:\n[ \t]*)?([^\n]+)",
    re.IGNORECASE | re.MULTILINE,
)
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|no|never|neither|nor|cannot|without|except|rather than|instead of)|n['’]t)\b"
    r"(?:\s+\w+){0,2}[\s\"'`*(]*$",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"[\"'`*)]*\s+(?:\w+\s+)?(?:(?:not|cannot|wrong|incorrect|unlikely)\b|\w+n['’]t\b)", re.IGNORECASE
)
_SIGHT = 60  # how many characters around a word may deny it


class UnreadableError(Exception):
    """A reply, or a part of one, that cannot be read; the message says what was expected."""


def shown(text: str) -> str:
    """A reply in one short line, for messages."""
    words = " ".join(text.split())
    if not words:
        return "nothing"
    return f'"{words}"' if len(words) <= 200 else f'"{words[:197]}..."'


def undress(text: str) -> str:
    """``text`` without the fence, quotes, bold marks and punctuation around it."""
    stripped = text.strip()
    fenced = _FENCE.fullmatch(stripped)
    return (fenced[1] if fenced else stripped).strip(_DRESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """What a reply itself calls its answer ("Answer: …", "the label is …"), and what may contradict it.

    ``opening`` is the first line of a reply that opens with something else, ``rest`` the text after the last answer.
    What stands between is how the reply got there.
    """

    answers: tuple[str, ...]
    opening: str
    rest: str


def marked_answers(text: str) -> Marked:
    """Every answer that ``text`` marks as one."""
    matches = list(_MARKER.finditer(text))
    if not matches:
        return Marked(answers=(), opening="", rest="")
    opening = text[: matches[0].start()].strip().partition("\n")[0]
    return Marked(answers=tuple(undress(each[1]) for each in matches), opening=opening, rest=text[matches[-1].end() :])


def says_nothing(text: str) -> bool:
    """Whether ``text`` is a word for ``None``."""
    return undress(text).casefold() in ("null", "none", "nothing", "n/a")


def is_denied(text: str, start: int, end: int) -> bool:
    """Whether the words around ``text[start:end]`` deny it ("not billing", "billing is wrong")."""
    before, after = text[max(0, start - _SIGHT) : start], text[end : end + _SIGHT]
    return bool(_DENIED_BEFORE.search(before) or _DENIED_AFTER.match(after))
