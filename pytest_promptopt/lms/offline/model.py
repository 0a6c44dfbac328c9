"""The offline models as callers see them: :func:`reply`, the exact :func:`odds` behind it, and :class:`OfflineLM`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction

from pytest_promptopt.lms.base import Message, Reply, Request, Usage
from pytest_promptopt.lms.offline.contract import OutputField
from pytest_promptopt.lms.offline.conversation import read_values
from pytest_promptopt.lms.offline.dice import Dice
from pytest_promptopt.lms.offline.errand import Errand, run_errand
from pytest_promptopt.lms.offline.evidence import Evidence, best_two, draw, weights
from pytest_promptopt.lms.offline.extract import Assignment, answer_freely
from pytest_promptopt.lms.offline.form import write_prose, write_values
from pytest_promptopt.lms.offline.reading import Reading, read

UNSETTLED = 8  # one draw in so many decides anew between form and prose; the others follow the question


def reply(model: str, messages: Sequence[Message], *, temperature: float = 0.0, seed: int = 0) -> str:
    """What ``model`` ("offline/keyword", or a sibling such as "offline/keyword-7") answers to ``messages``.

    ``seed`` tells draws apart where ``temperature`` is above 0. Raises :class:`~pytest_promptopt.errors.ModelError` for
    an unknown name and :class:`~pytest_promptopt.errors.LMError` for messages that do not end with the user's.
    """
    reading, question = read(model, messages)
    return _answer(reading, question, _heat(temperature), str(seed))


def odds(model: str, messages: Sequence[Message], *, temperature: float = 0.0) -> Mapping[str, Fraction]:
    """How likely each allowed answer is to be the reply's last field, in the form asked for; the rest to 1 is prose.

    The true score of a prompt on a row is the odds of the right answer. Raises ``ValueError`` where any text will do.
    """
    reading, question = read(model, messages)
    evidence = reading.evidence[-1]
    if reading.errand or not evidence.field.labels:
        raise ValueError("only a prompt that lists the answers allowed has odds")
    chances = weights(evidence.scores(_text_of(question)), _heat(temperature))
    formal = 1 - _prose_odds(reading, question, _heat(temperature))
    return {
        label: formal * Fraction(chance, sum(chances))
        for label, chance in zip(evidence.field.labels, chances, strict=True)
    }


class OfflineLM:
    """All offline models as one :class:`~pytest_promptopt.lms.base.LM`: stateless, free, the same everywhere."""

    is_offline = True

    def complete(self, request: Request) -> Reply:
        """Answer ``request``; at temperatures above 0 its repeat and ordinal tell draws apart. Tokens are words."""
        reading, question = read(request.model, request.messages)
        text = _answer(reading, question, _heat(request.temperature), f"{request.repeat}.{request.ordinal}")
        text = _cut(text, request.max_tokens)
        usage = Usage(prompt_tokens=reading.words + len(question.split()), completion_tokens=len(text.split()))
        return Reply(text=text, usage=usage, cost_usd=0.0)


def _heat(temperature: float) -> int:
    return max(0, round(temperature * 1000))


def _text_of(question: str) -> str:
    return "\0".join(read_values(question).values())


def _cut(text: str, max_tokens: int | None) -> str:
    if max_tokens is None or len(text) <= max_tokens:
        return text
    found = re.match(rf"\s*(?:\S+\s+){{0,{max_tokens - 1}}}\S+", text) if max_tokens > 0 else None
    return found[0] if found else ""


def _answer(reading: Reading, question: str, heat: int, seed: str) -> str:
    dice = Dice(reading.seal, question, seed if heat else "")
    if reading.errand is not Errand.NONE:
        return run_errand(
            reading.personality, reading.errand, reading.contract, f"{reading.orders}\n\n{question}", dice
        )
    values = {evidence.field.name: _decide(evidence, reading, question, heat, dice) for evidence in reading.evidence}
    if _is_prose(reading, question, dice):
        last = reading.evidence[-1]
        value = values[last.field.name]
        return write_prose(value, _rival(last, question, value), _luck(reading, question))
    return write_values(reading.contract, values)


def _decide(evidence: Evidence, reading: Reading, question: str, heat: int, dice: Dice) -> str:
    """The value of one field."""
    if not evidence.field.labels:
        return _free_value(evidence.field, reading, question, dice)
    chances = weights(evidence.scores(_text_of(question)), heat)
    return evidence.field.labels[draw(chances, dice.below(sum(chances)) if heat else 0)]


def _rival(evidence: Evidence, question: str, chosen: str) -> str:
    """The best label besides the chosen one; empty where there is none."""
    labels = evidence.field.labels
    if len(labels) < 2:
        return ""
    first, second = best_two(evidence.scores(_text_of(question)))
    return labels[second] if labels[first] == chosen else labels[first]


def _free_value(field: OutputField, reading: Reading, question: str, dice: Dice) -> str:
    demos = [(list(read_values(asked).values()), _value_in(answered, field)) for asked, answered in reading.demos]
    assignment = Assignment(
        field=field,
        texts=list(read_values(question).values()),
        demos=demos,
        orders=reading.orders,
        is_distracted=dice.chance(reading.personality.temper.blind),
    )
    return answer_freely(assignment)


def _value_in(answered: str, field: OutputField) -> str:
    return read_values(answered).get(field.name, answered.strip())


def _luck(reading: Reading, question: str) -> Dice:
    """A model's form on a question, whatever the prompt."""
    return Dice(reading.personality.identity, question)


def _is_unsettled(dice: Dice) -> bool:
    return dice.digest[0] % UNSETTLED == 0


def _is_prose(reading: Reading, question: str, dice: Dice) -> bool:
    """Mostly the same questions are answered in prose; now and then a prompt, or a draw, changes that."""
    return (dice if _is_unsettled(dice) else _luck(reading, question)).below(1000) < reading.prose


def _prose_odds(reading: Reading, question: str, heat: int) -> Fraction:
    if not heat:
        return Fraction(_is_prose(reading, question, Dice(reading.seal, question, "")))
    settled = Fraction(_luck(reading, question).below(1000) < reading.prose)
    return (settled * (UNSETTLED - 1) + Fraction(reading.prose, 1000)) / UNSETTLED
