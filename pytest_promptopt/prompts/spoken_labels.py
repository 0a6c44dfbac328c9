"""Find the one label that a reply names: as written, as spoken, or as the only one in a sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from pytest_promptopt.prompts.reply_text import UnreadableError, is_denied, marked_answers, undress
from pytest_promptopt.prompts.shapes import Kind, Shape

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_GAP = re.compile(r"[\s_]+|(?<=\w)-(?=\w)")
_MOST_NAMED = 30  # in a message
_WORD = re.compile(r"\w")
_NEXT_WORD = re.compile(r"\s*\w")
_COMMON_WORDS = frozenset({"a", "i", "no", "on", "in", "it", "is", "or", "and", "to", "any", "none", "null", "nothing"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The labels of one output: what each stands for, how it may be spoken (form → label), how to find one."""

    values: Mapping[str, object]
    spoken: Mapping[str, str]
    mention: re.Pattern[str]

    @property
    def expected(self) -> str:
        """What a message says was expected."""
        names = list(self.values)
        more = f", … ({len(names)} in all)" if len(names) > _MOST_NAMED else ""
        return f"expected exactly one of: {', '.join(names[:_MOST_NAMED])}{more}"


@lru_cache(maxsize=512)
def labels_of(shape: Shape) -> Labels:
    """The labels of a choice, or of a flag."""
    if shape.kind is Kind.FLAG:
        values: dict[str, object] = {"true": True, "false": False}
        forms = [("true", "true"), ("yes", "true"), ("false", "false"), ("no", "false")]
    else:
        values = dict(zip(shape.labels, shape.values, strict=True))
        forms = _label_forms(values)
    alternatives = "|".join(_bounded(form) for form in sorted({form for form, _ in forms}, key=len, reverse=True))
    owners: dict[str, set[str]] = {}
    for form, label in forms:
        owners.setdefault(form, set()).add(label)
    spoken = {form: next(iter(labels)) for form, labels in owners.items() if len(labels) == 1}
    return Labels(values=values, spoken=spoken, mention=re.compile(f"({alternatives})"))


def _label_forms(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """How each label may be spoken; an enum member's name too, unless it means another label."""
    forms = [(form, label) for label in values for form in _forms(label)]
    taken = {form for form, _ in forms}
    members = [(form, label) for label, each in values.items() if isinstance(each, Enum) for form in _forms(each.name)]
    return forms + [(form, label) for form, label in members if form not in taken]


def _forms(label: str) -> set[str]:
    return {undress(fold(label, splits_camel=splits)) or fold(label, splits_camel=False) for splits in (True, False)}


def fold(text: str, *, splits_camel: bool) -> str:
    """``text`` as spoken: ``get_weather``, ``get-weather`` and, where asked, ``GetWeather`` are "get weather"."""
    return _GAP.sub(" ", _CAMEL.sub(" ", text) if splits_camel else text).casefold()


def _bounded(form: str) -> str:
    """A pattern for ``form`` as whole words; a number must not be a piece of another one."""
    left = r"(?<![\w+−-])(?<!\d[.,/])" if form[0].isdigit() else r"(?<!\w)" if form[0].isalnum() else ""
    right = r"(?!\w)(?![.,/]\d)(?!\s?%)" if form[-1].isdigit() else r"(?!\w)" if form[-1].isalnum() else ""
    return f"{left}{re.escape(form)}{right}"


def read_label(labels: Labels, text: str) -> object:
    """What the label that ``text`` names stands for. Raises ``UnreadableError`` where there is none or a doubt."""
    label = text if text in labels.values else spoken_label(labels, text) or _marked_label(labels, text)
    return labels.values[label or _only_mention(labels, text)]


def spoken_label(labels: Labels, text: str) -> str | None:
    """The label that the whole of ``text`` is, dress and spelling aside."""
    stripped = text.strip()
    if stripped in labels.values:
        return stripped
    bare = undress(text)
    if bare in labels.values:
        return bare
    forms = (fold(bare, splits_camel=False), fold(bare, splits_camel=True))
    return next((labels.spoken[form] for form in forms if form in labels.spoken), None)


def _marked_label(labels: Labels, text: str) -> str | None:
    marked = marked_answers(text)
    found = {label for answer in marked.answers if (label := spoken_label(labels, answer)) is not None}
    if not found:
        return None
    opening = spoken_label(labels, marked.opening)
    if len(found | _named(labels, fold(marked.rest, splits_camel=True)) | ({opening} if opening else set())) > 1:
        raise UnreadableError(f"{labels.expected}, not several")
    return found.pop()


def _named(labels: Labels, folded: str) -> set[str]:
    """The labels that a folded text mentions; "" stands for a word that could be any of several."""
    return {labels.spoken.get(mention[1], "") for mention in labels.mention.finditer(folded)}


def _only_mention(labels: Labels, text: str) -> str:
    """The one label that a text names; refuses when it names several, denies it, or uses it as a common word."""
    for splits_camel in (True, False):
        folded = fold(text, splits_camel=splits_camel)
        named = _named(labels, folded)
        if len(named) > 1 or "" in named:
            raise UnreadableError(f"{labels.expected}, not several")
        if any(_is_doubtful(labels, mention, text) for mention in labels.mention.finditer(folded)):
            break
        if named:
            return named.pop()
    raise UnreadableError(labels.expected)


def _is_doubtful(labels: Labels, mention: re.Match[str], text: str) -> bool:
    """Whether a mention is no answer: denied ("not a bug"), or a common word ("there is no way to tell")."""
    if is_denied(mention.string, *mention.span()):
        return True
    if mention[1] not in _COMMON_WORDS:
        return False
    folded, (start, end) = mention.string, mention.span()
    is_amid_words = _WORD.search(folded, 0, start) or _NEXT_WORD.match(folded, end)
    return is_amid_words is not None and not any(spoken_label(labels, line) for line in text.splitlines())
