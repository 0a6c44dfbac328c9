"""Find the one number in a reply; where digits could mean another number, or there are two, refuse."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from pytest_promptopt.prompts.reply_text import UnreadableError, is_denied, marked_answers, undress
from pytest_promptopt.prompts.shapes import Kind, Shape

_NUMBER = re.compile(
    r"[-+−]?(?:\d{1,3}(?:[,_'’\u00a0\u202f\u2009]\d{3})+(?!\d)|\d+|(?=\.\d))(?:\.\d+)?(?:[eE][-+]?\d+)?",
)
_SEPARATORS = re.compile("[,_'’\u00a0\u202f\u2009]")
_SCALED = re.compile(r"\s*(?:k|thousand|mio|mn|million|bn|billion|trillion|dozen|hundred)\b", re.IGNORECASE)
_TURNED = re.compile(r"(?:\w|[.,/–]|[-−–][$€£]|\b(?:minus|negative)\s+)$", re.IGNORECASE)


def read_number(shape: Shape, text: str) -> int | float:
    """The number that ``text`` holds. Raises ``UnreadableError`` where there is none, or more than one."""
    expected = f"expected a single {shape.kind}"
    found = _marked_numbers(text) or list(_numbers(text))
    if not found:
        raise UnreadableError(expected)
    if len(found) > 1 or found[0] is None:
        raise UnreadableError(f"{expected} and no other")
    return _number(found[0], shape, expected)


def _marked_numbers(text: str) -> list[str | None]:
    """The numbers of what a reply calls its answer, and of a bare one before; none unless each line holds just one."""
    marked = marked_answers(text)
    lines = [list(_numbers(answer)) for answer in marked.answers]
    if any(len(line) != 1 for line in lines) or list(_numbers(marked.rest)):
        return []
    if _NUMBER.fullmatch(undress(marked.opening)):
        lines.append(list(_numbers(marked.opening)))
    return list(dict.fromkeys(line[0] for line in lines))


def _numbers(text: str) -> Iterator[str | None]:
    """Every number in ``text``; ``None`` for digits that words around them turn into another number."""
    for match in _NUMBER.finditer(text):
        before, after = text[max(0, match.start() - 60) : match.start()], text[match.end() : match.end() + 20]
        is_turned = _TURNED.search(before) or is_denied(text, *match.span()) or _SCALED.match(after)
        yield None if is_turned else _SEPARATORS.sub("", match[0]).replace("−", "-")


def _number(written: str, shape: Shape, expected: str) -> int | float:
    try:
        if shape.kind is Kind.NUMBER and math.isfinite(number := float(written)):
            return number
        if shape.kind is Kind.WHOLE_NUMBER:
            return int(re.sub(r"\.0{1,2}$", "", written))
    except ValueError:
        pass  # a fraction where a whole number was asked, or more digits than Python reads
    raise UnreadableError(expected)
