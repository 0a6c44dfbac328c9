"""Four tempers, so that no prompt suits them all: what each model attends to, and how it errs.

Weights and shares are per mille. A model name is ``offline/TEMPER``; ``offline/keyword-7`` is a sibling of the same
temper with tastes of its own (other words unknown, other habits), ``offline/keyword+dull`` and
``offline/keyword+sharp`` are the same model as a worse and as a better writer of instructions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType

from pytest_promptopt.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Temper:
    """What a model gives weight to when it answers, and how it errs when it answers or writes."""

    name_weight: int  # evidence of a word in a label's own name
    rule_weight: int  # evidence of a word in an instruction sentence about one label
    demo_weight: int  # evidence of a word in a demo
    near_weight: int  # evidence of the nearest demos, compared whole
    drown: int  # evidence from rules and demos that each further demo costs
    window_words: int  # words of the prompt that are read; the middle goes first
    sag: int  # attention lost in the middle of a full window
    recency: int  # extra weight of the last demo over the first
    majority: int  # pull towards labels that many demos carry
    unknown: int  # share of words the model does not know
    blind: int  # share of questions it gets wrong whatever the prompt
    wording: int  # spread of the label bias that the exact wording of the orders brings
    jitter: int  # spread of the noise of one prompt on one question
    tiring: int  # growth of that noise per hundred words of prompt
    prose: int  # share of replies in prose when nobody says what a reply looks like
    mimic: int  # how quickly demos cure that; 1000 halves it with the first demo
    proposal_words: int  # words per label in a proposal
    slip: int  # share of wrong words in a proposal
    vague: int  # share of proposals that say nothing
    leak: int  # share of proposals that copy a row
    breath_words: int  # words after which a proposal breaks off


@dataclass(frozen=True, slots=True, kw_only=True)
class Personality:
    """A temper and the ``identity`` that its tastes are drawn from."""

    identity: str
    temper: Temper


KEYWORD = Temper(
    name_weight=500,
    rule_weight=900,
    demo_weight=40,
    near_weight=0,
    drown=60,
    window_words=700,
    sag=200,
    recency=500,
    majority=320,
    unknown=22,
    blind=25,
    wording=100,
    jitter=110,
    tiring=25,
    prose=70,
    mimic=700,
    proposal_words=6,
    slip=120,
    vague=150,
    leak=100,
    breath_words=260,
)
NEIGHBOR = Temper(
    name_weight=550,
    rule_weight=30,
    demo_weight=160,
    near_weight=3600,
    drown=10,
    window_words=260,
    sag=450,
    recency=700,
    majority=170,
    unknown=25,
    blind=22,
    wording=80,
    jitter=100,
    tiring=40,
    prose=60,
    mimic=1500,
    proposal_words=4,
    slip=180,
    vague=200,
    leak=450,
    breath_words=200,
)
CHATTY = Temper(
    name_weight=480,
    rule_weight=500,
    demo_weight=100,
    near_weight=300,
    drown=60,
    window_words=300,
    sag=350,
    recency=450,
    majority=150,
    unknown=25,
    blind=25,
    wording=100,
    jitter=100,
    tiring=40,
    prose=290,
    mimic=120,
    proposal_words=8,
    slip=160,
    vague=250,
    leak=150,
    breath_words=400,
)
FORGETFUL = Temper(
    name_weight=450,
    rule_weight=330,
    demo_weight=220,
    near_weight=1200,
    drown=30,
    window_words=150,
    sag=550,
    recency=1500,
    majority=260,
    unknown=30,
    blind=30,
    wording=90,
    jitter=120,
    tiring=25,
    prose=110,
    mimic=900,
    proposal_words=3,
    slip=200,
    vague=200,
    leak=150,
    breath_words=70,
)

TEMPERS: Mapping[str, Temper] = MappingProxyType(
    {"keyword": KEYWORD, "neighbor": NEIGHBOR, "chatty": CHATTY, "forgetful": FORGETFUL}
)
MODELS: tuple[str, ...] = tuple(f"offline/{name}" for name in TEMPERS)

# A dial turns how fallibly a model writes, never how it answers: (slips, vagueness and leaks; breath), per mille.
DIALS: Mapping[str, tuple[int, int]] = MappingProxyType({"": (1000, 1000), "dull": (2000, 500), "sharp": (350, 2000)})

_NAME = re.compile(r"(?:offline/)?((\w+?)(?:-\w+)?)(?:\+(\w+))?")


@lru_cache(256)
def find_personality(model: str) -> Personality:
    """The personality behind ``model``, as in "offline/keyword", "offline/keyword-7" or "offline/keyword-7+dull".

    Raises :class:`~pytest_promptopt.errors.ModelError` for a name that no offline model has.
    """
    named = _NAME.fullmatch(model)
    if not named or named[2] not in TEMPERS or (named[3] or "") not in DIALS:
        known = ", ".join(MODELS)
        raise ModelError(
            f"no offline model is called {model!r}; there are {known}. A sibling has a number (offline/keyword-7), "
            "another fallibility as a writer a suffix (offline/keyword+dull, offline/keyword+sharp)."
        )
    return Personality(identity=named[1], temper=_turn_dial(TEMPERS[named[2]], named[3] or ""))


def _turn_dial(temper: Temper, dial: str) -> Temper:
    faults, breath = DIALS[dial]
    return replace(
        temper,
        slip=min(900, temper.slip * faults // 1000),
        vague=min(900, temper.vague * faults // 1000),
        leak=min(900, temper.leak * faults // 1000),
        breath_words=temper.breath_words * breath // 1000,
    )
