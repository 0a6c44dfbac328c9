"""What a reply must look like, read from the orders: one answer, a JSON object or marked sections; which labels."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice

from pytest_promptopt.lms.offline.conversation import MARKER

CHOICE_RULE = re.compile(r"Answer with exactly one of: (.+?)\. Write nothing else\.")
NUMBER_RULE = re.compile(r"\b(?:a|one|single) (whole )?number\b|\b(an integer|a float)\b", re.I)
TYPED = re.compile(r"Literal\[(.*?)\](?!\w)|\"enum\"\s*:\s*\[(.*?)\]", re.S)
LEAD = re.compile(
    r"\b(?:one of(?: the| these| following)*(?: \w+){0,2}|(?:labels?|categor(?:y|ies)|class(?:es)?|intents?|teams?|"
    r"options?|choices|values|answers?)(?: are| is)?)\s*[:=]\s*|\bone of |\bchoose (?:between|from) ",
    re.I,
)
STRICT = re.compile(
    r"\b(?:only|nothing else|no (?:other|extra|additional|explanation|prose|punctuation)|just the|single word|verbatim|"
    r"without (?:any )?(?:explanation|punctuation|other|extra)\w*|exact(?:ly)?)\b",
    re.I,
)
BULLET = r"(?:[-*•]|\d+[.)])\s+"
BULLETS = re.compile(rf"(?:\s*{BULLET}.+\n?)+")
BULLET_LINE = re.compile(rf"{BULLET}(.+)")
FIELD_LINE = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s*[`\"']?(\w+)[`\"']?\s*(.*)$", re.M)
RULE_LINE = re.compile(r"^- \"(\w+)\": (.+)$", re.M)
JSON_REPLY = re.compile(r"\b[Oo]utputs will be a JSON object\b")
OUTPUT_SECTION = re.compile(r"output (?:fields?|keys?)[^\n]*:\s*\n(.*?)(?:\n\s*\n|\nAll |\Z)", re.S | re.I)
MEMBER = re.compile(r'"(\w+)"\s*:\s*(\{[^{}]*\}|"[^"]*"|[^{,}\n]+)')
KEY_LIST = re.compile(r"\b(?:keys?|fields?|properties)\b(?: are)?:?[ \n]*(.*)", re.I)
KEY_NAME = re.compile(r"[`\"']?(\w+)[`\"']?\s*(\([^)]*\))?(?:,|\s+and\s|$)")
MOST_LISTS, LONGEST_LIST = 50, 8000  # what is looked at, in lists and in characters


class Shape(StrEnum):
    """How a whole reply is written."""

    PLAIN = "plain"
    JSON = "json"
    MARKERS = "markers"


class Kind(StrEnum):
    """How one value is written in JSON."""

    TEXT = "text"
    NUMBER = "number"
    WHOLE_NUMBER = "whole number"
    BOOL = "bool"
    LIST = "list"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputField:
    """One value that a reply holds; ``labels`` are all that it may be, empty when it is free."""

    name: str
    labels: tuple[str, ...] = ()
    kind: Kind = Kind.TEXT

    @property
    def is_number(self) -> bool:
        """Whether it is a number of either kind."""
        return self.kind in (Kind.NUMBER, Kind.WHOLE_NUMBER)

    @property
    def is_reasoning(self) -> bool:
        """Whether it holds thoughts rather than an answer."""
        return self.kind is Kind.TEXT and not self.labels and bool(re.search("reason|rationale", self.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """The shape of a reply, and its fields in their order."""

    shape: Shape
    fields: tuple[OutputField, ...]

    @property
    def has_reasoning(self) -> bool:
        """Whether the reply thinks before it answers."""
        return any(field.is_reasoning for field in self.fields)


def read_contract(orders: str, answers: Iterable[str]) -> Contract:
    """What ``orders`` ask for; where they list no labels, few different ``answers`` in the demos are taken for them."""
    shape = _shape_of(orders)
    if shape is not Shape.PLAIN:
        return Contract(shape=shape, fields=_read_fields(orders))
    field = _read_plain(orders)
    if not field.labels:
        field = replace(field, labels=_labels_among([answer.strip() for answer in answers]))
    return Contract(shape=shape, fields=(field,))


def _shape_of(orders: str) -> Shape:
    if MARKER.search(orders) and not JSON_REPLY.search(orders):
        return Shape.MARKERS
    is_json = re.search(r"\bJSON\b", orders, re.I) and not CHOICE_RULE.search(orders)
    return Shape.JSON if is_json else Shape.PLAIN


def _read_plain(orders: str) -> OutputField:
    labels = find_labels(orders)
    return OutputField(name="answer", labels=labels, kind=Kind.TEXT if labels else _number_kind(orders))


def _number_kind(text: str) -> Kind:
    found = NUMBER_RULE.search(text)
    if not found:
        return Kind.TEXT
    return Kind.WHOLE_NUMBER if found[1] or found[2] == "an integer" else Kind.NUMBER


def _labels_among(answers: list[str]) -> tuple[str, ...]:
    is_few = len(answers) >= 3 and len(set(answers)) * 2 <= len(answers) + 1
    return tuple(dict.fromkeys(answers)) if is_few else ()


def _read_fields(text: str) -> tuple[OutputField, ...]:
    """A numbered list, field rules, a JSON schema or template, named keys; else one answer."""
    hints = dict(_find_fields(text))
    return tuple(_read_field(name, hint, text) for name, hint in hints.items()) or (OutputField(name="answer"),)


def _find_fields(text: str) -> list[tuple[str, str]]:
    section = OUTPUT_SECTION.search(text)
    found = RULE_LINE.findall(text) or (FIELD_LINE.findall(section[1]) if section else [])
    return found or MEMBER.findall(text.split('"properties"')[-1]) or _find_keys(text)


def _find_keys(text: str) -> list[tuple[str, str]]:
    keys = KEY_LIST.search(text)
    if not keys:
        return []
    return FIELD_LINE.findall(text[keys.start(1) :]) or KEY_NAME.findall(re.split(r"\.(?:\s|$)", keys[1])[0])


def _read_field(name: str, hint: str, text: str) -> OutputField:
    hint = _complete_hint(name, hint, text)
    if re.search(r"\blist of\b|\barray\b|\blist\[", hint):
        return OutputField(name=name, labels=find_labels(hint), kind=Kind.LIST)
    if labels := find_labels(hint):
        return OutputField(name=name, labels=_without_description(labels))
    if re.search(r"\bbool|\btrue\b.*\bfalse\b", hint):
        return OutputField(
            name=name, labels=("True", "False") if "(bool" in hint else ("true", "false"), kind=Kind.BOOL
        )
    return OutputField(name=name, kind=_hinted_kind(hint))


def _without_description(labels: tuple[str, ...]) -> tuple[str, ...]:
    """A field's description may follow its labels after a comma: several words after single ones."""
    *firsts, last = labels
    is_description = len(firsts) > 1 and " " in last and not any(" " in label for label in firsts)
    return tuple(firsts) if is_description or last == "null" else labels


def _complete_hint(name: str, hint: str, text: str) -> str:
    if "|" in hint:
        return f"one of: {hint.replace('|', ',')}"
    more = None if hint else re.search(rf"`?\b{name}\b`?[^.\n]*\b(?:one of|either|true|number)\b[^\n]*", text)
    return more[0] if more else hint


def _hinted_kind(hint: str) -> Kind:
    if re.search(r"\b(?:int|integer|whole number)\b", hint):
        return Kind.WHOLE_NUMBER
    return Kind.NUMBER if re.search(r"\b(?:float|number)\b", hint) else Kind.TEXT


def find_labels(text: str) -> tuple[str, ...]:
    """The allowed answers that ``text`` lists: ``Literal[...]``, an enum, "one of: a, b or c", or bullets below."""
    if ruled := CHOICE_RULE.findall(text):
        return _unquoted(ruled[-1].removesuffix(" or null"))
    if typed := TYPED.search(text):
        quoted = re.findall(r"'([^']+)'|\"([^\"]+)\"", typed[1] or typed[2])
        return tuple(dict.fromkeys("".join(found) for found in quoted))
    lists = [(is_choice, len(names), names) for is_choice, names in _lists(text)]
    return max(lists, key=lambda found: found[:2], default=(False, 0, ()))[2]


def find_all_labels(text: str) -> tuple[str, ...]:
    """The allowed answers of all fields that ``text`` lists with "one of"; else as :func:`find_labels` finds them."""
    lists = [] if CHOICE_RULE.search(text) else [names for is_choice, names in _lists(text) if is_choice]
    return tuple(dict.fromkeys(name for names in lists for name in names)) or find_labels(text)


def _unquoted(choices: str) -> tuple[str, ...]:
    """Labels from a rule: separated by commas, quoted where they would read as two."""
    names = [name.strip() for name in re.findall(r'\s*"(?:[^"\\]|\\.)*"|[^,]+', choices)]
    return tuple(dict.fromkeys(name[1:-1].replace('\\"', '"') if name[:1] == '"' else name for name in names if name))


def _lists(text: str) -> list[tuple[bool, tuple[str, ...]]]:
    """Every list of names, and whether it is introduced as a choice."""
    leads = islice(LEAD.finditer(text), MOST_LISTS)
    lists = [("one of" in lead[0].lower(), _names_after(text, lead)) for lead in leads]
    return [found for found in lists if found[1]]


def _names_after(text: str, lead: re.Match[str]) -> tuple[str, ...]:
    rest = text[lead.end() : lead.end() + LONGEST_LIST]
    bullets = BULLETS.match(rest) if lead[0].endswith("\n") else None
    if bullets:
        names = [re.split(r":\s|\s+[-–—(]\s*|:$", line)[0] for line in BULLET_LINE.findall(bullets[0])]
    else:
        names = re.split(r"\s*(?:[,;|]|\bor\b)\s*", re.split(r"\.(?:\s|$)|\n|\)", rest, maxsplit=1)[0])
    names = [name.strip(" \t\"'`()[]<>*.") for name in names if not STRICT.search(name)]
    names = [name for name in names if 0 < len(name) <= 48 and len(name.split()) <= 4]
    return tuple(dict.fromkeys(names)) if len(names) >= 2 else ()
