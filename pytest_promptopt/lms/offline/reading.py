"""One prompt as one model reads it: everything before the question, digested once and remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pytest_promptopt.lms.offline.attention import View, look
from pytest_promptopt.lms.offline.contract import Contract, OutputField, read_contract
from pytest_promptopt.lms.offline.conversation import Conversation, Turn, demos_of, orders_of, take_apart
from pytest_promptopt.lms.offline.dice import digest_of
from pytest_promptopt.lms.offline.errand import Errand, excerpt, find_errand, may_ask_for_errand
from pytest_promptopt.lms.offline.evidence import Evidence, gather
from pytest_promptopt.lms.offline.form import prose_share
from pytest_promptopt.lms.offline.tempers import Personality, find_personality

CALM = 700  # what noise is left, per mille, when the model reasons before it answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a model makes of a prompt.

    ``seal`` stands for model and prompt in every draw; ``prose`` is the share of replies, per mille, that are not in
    the form asked for; ``words`` is the prompt's length.
    """

    personality: Personality
    seal: str
    orders: str
    demos: tuple[tuple[str, str], ...]
    errand: Errand
    contract: Contract
    evidence: tuple[Evidence, ...]
    prose: int
    words: int


def read(model: str, messages: Sequence[Mapping[str, object]]) -> tuple[Reading, str]:
    """How ``model`` reads ``messages``, and the question they end with."""
    conversation = take_apart(messages)
    return _read_prefix(find_personality(model), conversation.prefix, _asked(conversation)), conversation.question


def _asked(conversation: Conversation) -> str:
    """The part of the question that may ask for an errand."""
    opening = conversation.prefix[0][1] if conversation.prefix else ""
    return excerpt(conversation.question) if may_ask_for_errand(opening) else ""


@lru_cache(512)
def _read_prefix(personality: Personality, prefix: tuple[Turn, ...], asked: str) -> Reading:
    orders, demos = orders_of(prefix), demos_of(prefix)
    contract = read_contract(orders, (answer for _, answer in demos))
    view = look(personality.temper, orders, demos)
    seal = digest_of(personality.identity, *(part for turn in prefix for part in turn)).hex()
    return Reading(
        personality=personality,
        seal=seal,
        orders=orders,
        demos=tuple(demos),
        errand=find_errand(orders, asked, contract),
        contract=contract,
        evidence=tuple(_gather(personality, contract, field, view, seal) for field in contract.fields),
        prose=prose_share(personality.temper, contract, view),
        words=sum(len(text.split()) for _, text in prefix),
    )


def _gather(personality: Personality, contract: Contract, field: OutputField, view: View, seal: str) -> Evidence:
    noise = personality.temper.jitter + personality.temper.tiring * view.words // 100
    calm = CALM if contract.has_reasoning else 1000
    return gather(personality, contract.shape, field, view, seal=seal, noise=noise * calm // 1000)
