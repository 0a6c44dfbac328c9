"""How a reply is written down: in the form asked for, or in prose, as often as the prompt lets it happen."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from pytest_promptopt.lms.offline.attention import View
from pytest_promptopt.lms.offline.contract import STRICT, Contract, Kind, OutputField, Shape
from pytest_promptopt.lms.offline.dice import Dice
from pytest_promptopt.lms.offline.tempers import Temper
from pytest_promptopt.lms.offline.words import spoken

SPEAK = re.compile(r"\b(?:reply|answer|respond|response|return|output|write|give|produce|must)\b", re.I)
INVITE = re.compile(
    r"\b(?:explain|step by step|reason (?:about|through)|think (?:aloud|carefully|through)|justify)\b", re.I
)
OBEDIENCE = (250, 620, 930)  # how much of the prose a sentence about replies cures: by the strict words it holds
NOTICED = 300  # attention below which a demo shows nobody what a reply looks like
PROSE_AT_MOST = 950
UNDECIDED = (
    "I would say this is {value}, though {other} is possible too.",
    "It could be {value} or {other}; hard to tell without more context.",
    "{value}, I think. Unless they mean {other}?",
    "Happy to help! Could you tell me a little more about it?",
    "The answer is most likely {value}, because of the wording.",
)
WORDY = (
    "I would say: {value}. Does that help?",
    "Sure! Here you go:\n\n{value}\n\nLet me know if you need anything else.",
    "Happy to help! Could you tell me a little more about it?",
)


def prose_share(temper: Temper, contract: Contract, view: View) -> int:
    """How often, per mille, a reply is in prose: rules and demos cure it, invitations to explain bring it back."""
    told = _told(view)
    share = temper.prose // (1 if contract.shape is Shape.PLAIN else 3) * (1000 - told) // 1000
    noticed = sum(attention > NOTICED for *_, attention in view.demos)
    share = share * 1000 // (1000 + temper.mimic * noticed)
    if not contract.has_reasoning and any(INVITE.search(sentence) for sentence, _ in view.sentences):
        share += temper.prose * (1000 - told // 2) // 2000
    return min(PROSE_AT_MOST, share)


def _told(view: View) -> int:
    """How well, per mille, the prompt says what a reply looks like: the two clearest sentences count."""
    commands = sorted(_command(sentence) * attention // 1000 for sentence, attention in view.sentences)
    untold = 1000
    for command in commands[-2:]:
        untold = untold * (1000 - command) // 1000
    return 1000 - untold


def _command(sentence: str) -> int:
    return OBEDIENCE[min(2, len(STRICT.findall(sentence)))] if SPEAK.search(sentence) else 0


def write_values(contract: Contract, values: Mapping[str, str]) -> str:
    """The reply as ``contract`` asks for it; ``values`` has the text of every field."""
    if contract.shape is Shape.MARKERS:
        sections = [f"[[ ## {name} ## ]]\n{text}" for name, text in values.items()]
        return "\n\n".join([*sections, "[[ ## completed ## ]]"])
    if contract.shape is Shape.JSON:
        return json.dumps(
            {field.name: _as_json(field, values[field.name]) for field in contract.fields}, ensure_ascii=False
        )
    return values[contract.fields[-1].name]


def _as_json(field: OutputField, text: str) -> object:
    if field.kind is Kind.TEXT:
        return text
    if field.kind is Kind.LIST and field.labels:
        return [text]
    return json.loads(text.lower() if field.kind is Kind.BOOL else text)


def write_prose(value: str, other: str, luck: Dice) -> str:
    """A reply that talks instead: about ``value`` and ``other``, its rival, or the value alone where it has none.

    Most of these name two labels or none, so that a lenient reader cannot mend them.
    """
    said = luck.pick(UNDECIDED if other else WORDY)
    return said.format(value=spoken(value) if other and luck.chance(300) else value, other=other)
