"""All that the offline models understand of language: words without their endings, and whether they know them."""

from __future__ import annotations

import re
from functools import lru_cache

from pytest_promptopt.lms.offline.dice import lot

STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """the my me we our us you your it its is are was were be been am do does did done can could would will shall
        should may might have has had of in on for to at by with from as into about and or but if so than then that this
        these those there here what which who whom whose when where why how not no any some all please just very too
        also up out one don ll re ve isn didn""",
    )
)
WORD = re.compile(r"[^\W_]{2,}")
ENDING = re.compile(r"(?<=\w{3})(?:ations?|ings?|ed|s|ly)$")
LAST_VOWEL = re.compile(r"(?<=\w{2})[eiy]+$")
SEAM = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[_\-/]+")


@lru_cache(1 << 15)
def stem(word: str) -> str:
    """A lower-case word without its endings; empty for a stop word."""
    return "" if word in STOP_WORDS else LAST_VOWEL.sub("", ENDING.sub("", word))


@lru_cache(1 << 16)
def knows(identity: str, unknown: int, root: str) -> bool:
    """Whether the model ``identity``, to whom ``unknown`` per mille of all words mean nothing, knows ``root``."""
    return lot(identity, "word", root) >= unknown


def content_words(text: str) -> list[str]:
    """The stems of ``text`` in their order, stop words left out."""
    return [root for word in WORD.findall(text.lower()) if (root := stem(word))]


@lru_cache(1 << 13)
def known_words(identity: str, unknown: int, text: str) -> tuple[str, ...]:
    """The different stems of ``text`` that the model ``identity`` knows."""
    return tuple(root for root in dict.fromkeys(content_words(text)) if knows(identity, unknown, root))


def spoken(label: str) -> str:
    """A label as one would say it: ``GetWeather`` and ``get_weather`` are "get weather"."""
    return SEAM.sub(" ", label).lower()
