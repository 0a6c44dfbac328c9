"""Free answers, crudely: the sentence that shares most words with the question, cut to the look of the demos."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_promptopt.lms.offline.contract import Kind, OutputField
from pytest_promptopt.lms.offline.words import content_words

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
SPAN = re.compile(r"\b(?:\d[\d.,:]*\d|\d|[A-Z][\w'-]*(?: [A-Z][\w'-]*)*|\w+)")
ASKS_BRIEFLY = re.compile(r"\b(?:short|brief|few words|single|just the)\b", re.I)
ASKS_NUMBER = re.compile(r"\b(?:how (?:many|much|old)|when|year|number)\b", re.I)
WIDE = 99  # words of an answer when no demo shows its width
BRIEF = 8  # answers longer than this are sentences


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One free answer to give: the texts to read, the demos (texts and answer) of this field, and the orders."""

    field: OutputField
    texts: Sequence[str]
    demos: Sequence[tuple[Sequence[str], str]]
    orders: str
    is_distracted: bool

    @property
    def ask(self) -> str:
        """The last text that is a question; empty when none is."""
        return next((text for text in reversed(self.texts) if text.rstrip().endswith("?")), "")


def answer_freely(assignment: Assignment) -> str:
    """The text of a value without labels; a JSON list for a field that holds one."""
    if assignment.field.is_reasoning:
        return f"The words {', '.join(content_words(' '.join(assignment.texts))[:3])} decide this."
    sentence = _telling_sentence(assignment)
    if assignment.field.kind is Kind.LIST:
        return json.dumps(list(dict.fromkeys(content_words(sentence)))[:3], ensure_ascii=False)
    if _width(assignment) > BRIEF and not assignment.field.is_number and not ASKS_BRIEFLY.search(assignment.orders):
        return sentence
    span = _telling_span(assignment, sentence)
    return _as_number(span, assignment.field.kind) if assignment.field.is_number else span


def _telling_sentence(assignment: Assignment) -> str:
    source = "\n".join(text for text in assignment.texts if text and text != assignment.ask) or assignment.ask
    if assignment.field.is_number:
        return source
    sentences = [sentence for sentence in SENTENCE_END.split(source) if sentence.strip()] or [""]
    sought = set(content_words(assignment.ask))
    sentences.sort(key=lambda sentence: -len(sought & set(content_words(sentence))))
    return sentences[min(len(sentences) - 1, int(assignment.is_distracted))].strip()


def _width(assignment: Assignment) -> int:
    sizes = sorted(len(answer.split()) for _, answer in assignment.demos)
    return sizes[len(sizes) // 2] if sizes else WIDE


def _telling_span(assignment: Assignment, sentence: str) -> str:
    """The word, name or number that is news, looks like an answer and stands where answers stood in the demos."""
    sought, look, width = set(content_words(assignment.ask)), _wanted_look(assignment), min(_width(assignment), 2)
    leads = _leads(assignment)

    def worth(found: tuple[str, str]) -> int:
        before, span = found
        is_news = bool(set(content_words(span)) - sought) or span.isdigit()
        is_led = leads.count(before.rpartition(" ")[2])
        return 4 * is_news + 3 * (_look(span) == look) + 2 * is_led - abs(len(span.split()) - width)

    spans: list[str] = SPAN.findall(sentence) or ["0"]
    return max(zip(["", *spans], spans, strict=False), key=worth)[1]


def _look(text: str) -> tuple[bool, bool]:
    return text[:1].isdigit(), text[:1].isupper()


def _wanted_look(assignment: Assignment) -> tuple[bool, bool]:
    is_number = assignment.field.is_number or bool(ASKS_NUMBER.search(assignment.ask))
    looks = [_look(answer) for _, answer in assignment.demos] or [(is_number, not is_number)]
    return max(looks, key=looks.count)


def _leads(assignment: Assignment) -> list[str]:
    """The words that stand before the answers in the demos."""
    found = [
        re.search(rf"(\w+)\W+{re.escape(answer)}", text)
        for texts, answer in assignment.demos
        for text in texts
        if answer
    ]
    return [match[1] for match in found if match]


def _as_number(span: str, kind: Kind) -> str:
    digits = re.search(r"\d{1,15}(?:\.\d{1,9})?", span.replace(",", ""))
    text = digits[0] if digits else "0"
    return str(int(text.split(".")[0])) if kind is Kind.WHOLE_NUMBER else str(float(text))
