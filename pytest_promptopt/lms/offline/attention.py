"""What of a prompt a model notices: both ends of it, less of the middle, and nothing beyond its window."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from pytest_promptopt.lms.offline.conversation import MARKER
from pytest_promptopt.lms.offline.tempers import Temper

SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n+")
LONGEST_SENTENCE_WORDS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The sentences and demos of a prompt, each with the attention it gets, per mille; ``words`` is its length."""

    sentences: tuple[tuple[str, int], ...]
    demos: tuple[tuple[str, str, int], ...]
    words: int


def look(temper: Temper, orders: str, demos: Sequence[tuple[str, str]]) -> View:
    """Read a prompt as attentively as ``temper`` can."""
    sentences = [sentence for sentence in SENTENCE_END.split(MARKER.sub("", orders)) if sentence.strip()]
    sizes = [min(LONGEST_SENTENCE_WORDS, len(sentence.split())) for sentence in sentences]
    sizes += [len(f"{asked} {answered}".split()) for asked, answered in demos]
    seen = attention(temper, sizes)
    heard, shown = seen[: len(sentences)], seen[len(sentences) :]
    return View(
        sentences=tuple(zip(sentences, heard, strict=True)),
        demos=tuple((asked, answered, noticed) for (asked, answered), noticed in zip(demos, shown, strict=True)),
        words=sum(sizes),
    )


def attention(temper: Temper, sizes: Sequence[int]) -> list[int]:
    """Per mille of attention for consecutive passages of ``sizes`` words."""
    total = sum(sizes)
    starts = accumulate(sizes, initial=0)
    middles = [start + size // 2 for start, size in zip(starts, sizes, strict=False)]
    return [_attention_at(temper, middle, total) for middle in middles]


def _attention_at(temper: Temper, middle: int, total: int) -> int:
    window, rest = temper.window_words, total - middle
    if middle > window // 3 and rest > window - window // 3:
        return 0
    depth = 2 * min(middle, rest) * min(total, window) // max(1, total)
    return 1000 - depth * temper.sag // window
