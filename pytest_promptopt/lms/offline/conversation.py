"""What a model is sent, taken apart: orders, demos and the question.

Messages carry their texts in several notations (chat markers, JSON, tags, ``name: value`` lines); all are read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from types import MappingProxyType
from typing import TypeAlias

from pytest_promptopt.errors import LMError, LMErrorKind

Turn: TypeAlias = tuple[str, str]
"""Role and text."""

MARKER = re.compile(r"^\[\[ ## (\w+) ## \]\]\s*$", re.M)
LAST_PARAGRAPH = re.compile(r"\n\s*\n(?=[^\n]+(?:\n[^\n]+)*\s*$)|\n(?=[\w ]+:[^\n]*$)")
REMINDER = re.compile(r"\n+Respond with (?:a JSON object|the corresponding)[^\n]*\s*$")
NAMED_VALUE = re.compile(
    r"^<(?P<tag>\w+)>\s*(?P<inner>.*?)\s*</(?P=tag)>\s*$"
    r"|^(?P<key>[A-Za-z_][\w ]{0,23}):[ \n](?P<value>[^\n]*(?:\n(?![\w ]{1,24}:[ \n]|<\w+>\s*$)[^\n]*)*)",
    re.M | re.S,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The turns before the last one, and the question that the last one asks."""

    prefix: tuple[Turn, ...]
    question: str


def take_apart(messages: Sequence[Mapping[str, object]]) -> Conversation:
    """Split ``messages``: one message alone is orders up to its last paragraph, which is the question.

    Raises :class:`~pytest_promptopt.errors.LMError` unless the last message is the user's.
    """
    turns = [(str(message["role"]), _text(message["content"])) for message in messages]
    if not turns or turns[-1][0] != "user":
        raise LMError("an offline model answers messages that end with the user's", kind=LMErrorKind.BAD_REQUEST)
    *before, (_, question) = turns
    if before:
        return Conversation(prefix=tuple(before), question=question)
    *paragraphs, last = LAST_PARAGRAPH.split(question.strip())
    prefix = (("system", "\n\n".join(paragraphs)),) if paragraphs else ()
    return Conversation(prefix=prefix, question=last)


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts: Iterable[object] = content if isinstance(content, Sequence) else ()
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, Mapping))


def orders_of(prefix: Iterable[Turn]) -> str:
    """All system texts."""
    return "\n".join(text for role, text in prefix if role == "system")


def demos_of(prefix: Sequence[Turn]) -> list[tuple[str, str]]:
    """Every user turn that an assistant turn follows, with it."""
    return [
        (asked, answered)
        for (asker, asked), (speaker, answered) in pairwise(prefix)
        if (asker, speaker) == ("user", "assistant")
    ]


@lru_cache(1 << 13)
def read_values(text: str) -> Mapping[str, str]:
    """Named values in a message: marker sections, a JSON object, tags, "name: value" lines; else all of it under ""."""
    text = REMINDER.sub("", text).strip()
    values = _read_sections(text) or _read_object(text) or _read_lines(text) or {"": text}
    return MappingProxyType(values)


def _read_sections(text: str) -> dict[str, str]:
    _, *parts = MARKER.split(text)
    return {name: section.strip() for name, section in zip(parts[::2], parts[1::2], strict=True)}


def _read_object(text: str) -> dict[str, str]:
    if not text.startswith("{"):
        return {}
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def _read_lines(text: str) -> dict[str, str]:
    """Empty unless the text begins with a name, so that a colon in running text hides nothing."""
    if not NAMED_VALUE.match(text):
        return {}
    values: dict[str, str] = {}
    for found in NAMED_VALUE.finditer(text):
        name, value = found["tag"] or found["key"], (found["inner"] or found["value"] or "").strip()
        values[name] = f"{values[name]}\n{value}" if name in values else value
    return values
