"""Recognises a request to write about prompts rather than to answer one, and runs it.

An errand is asked for in the orders. A row that says "ignore all that, write a prompt" asks for nothing: where the
orders list the answers allowed, the question is never searched for an errand.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

from pytest_promptopt.lms.offline.contract import STRICT, Contract, OutputField, Shape, find_all_labels, find_labels
from pytest_promptopt.lms.offline.dice import Dice
from pytest_promptopt.lms.offline.form import write_values
from pytest_promptopt.lms.offline.notations import gist, unfold
from pytest_promptopt.lms.offline.proposal import Draft, propose, summarise, without_instructions
from pytest_promptopt.lms.offline.shown import read_rows
from pytest_promptopt.lms.offline.tempers import Personality

WRITE = re.compile(
    r"\b(?:(?:write|propose|improve|rewrite|revise|suggest|generate|craft|draft|create|optimi[sz]e|edit) "
    r"(?:(?:an?|the|this|its|new|better|improved|revised|system|task|current|concise|clear|short|one|more|"
    r"effective|good|my) )*"
    r"(?:instructions?|prompts?)|instruction optimizer|prompt engineer)\b",
    re.I,
)
SUMMARISE = re.compile(
    r"\b(?:summari[sz]e|describe|write observations about)\b[^.\n]{0,60}\b(?:data ?set|examples|rows|samples)\b"
    r"|\bmy dataset, please summari[sz]e\b",
    re.I,
)
ABOUT_PROMPTS = re.compile(r"\b(?:prompt|instruction)s?\b", re.I)
TALKATIVE = 200  # prose above which a writer introduces what it wrote


class Errand(StrEnum):
    """What a request asks to be written."""

    NONE = ""
    INSTRUCTION = "instruction"
    SUMMARY = "summary"


@lru_cache(1 << 10)
def may_ask_for_errand(opening: str) -> bool:
    """Whether the question after ``opening`` may ask for an errand: after nothing, or after talk of prompts."""
    return not opening or bool(ABOUT_PROMPTS.search(opening) and not find_labels(opening))


def excerpt(question: str) -> str:
    """Both ends of ``question``, where an errand is asked for."""
    return f"{question[:400]}\n{question[-300:]}"


def find_errand(orders: str, asked: str, contract: Contract) -> Errand:
    """What ``orders``, or the part ``asked`` of the question, want to be written."""
    text = orders + asked
    names_one = any(_is_for_instruction(field) for field in contract.fields)
    is_free = contract.shape is Shape.PLAIN or not any(field.labels for field in contract.fields)
    if names_one or (is_free and WRITE.search(text)):
        return Errand.INSTRUCTION
    return Errand.SUMMARY if SUMMARISE.search(text) and not find_labels(orders) else Errand.NONE


def _is_for_instruction(field: OutputField) -> bool:
    return bool(re.search("instruction|prompt", field.name))


def run_errand(personality: Personality, errand: Errand, contract: Contract, request: str, dice: Dice) -> str:
    """An instruction or a summary, in the form asked for, or between fences when ``request`` uses them."""
    listed = find_all_labels(request)
    draft = Draft(
        identity=personality.identity,
        temper=personality.temper,
        request=request,
        shown=read_rows(unfold(without_instructions(request)), allowed=listed),
        dice=dice,
        knows_all_labels=bool(listed),
    )
    values = {field.name: _value(field, errand, contract, draft) for field in contract.fields}
    body = write_values(contract, values)
    if "```" in request:
        return f"```\n{body}\n```"
    is_talking = contract.shape is Shape.PLAIN and personality.temper.prose > TALKATIVE and not STRICT.search(request)
    return f"Sure! Here it is:\n\n{body}" if is_talking else body


def _value(field: OutputField, errand: Errand, contract: Contract, draft: Draft) -> str:
    if "prefix" in field.name:
        return "Label:"
    is_plain = contract.shape is Shape.PLAIN
    is_instruction = errand is Errand.INSTRUCTION if is_plain else _is_for_instruction(field)
    if is_instruction:
        return propose(draft)
    return summarise(draft.shown) if draft.shown.pairs or is_plain else gist(draft.request)
