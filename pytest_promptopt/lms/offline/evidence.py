"""How a model comes to believe in a label: words in label names, in instruction sentences and in demos, and its biases.

Everything a prompt says about one output field is weighed once, into :class:`Evidence`; a question then only adds up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import isqrt

from pytest_promptopt.lms.offline.attention import View
from pytest_promptopt.lms.offline.contract import OutputField, Shape
from pytest_promptopt.lms.offline.conversation import read_values
from pytest_promptopt.lms.offline.dice import Dice, digest_of, lot, ripple
from pytest_promptopt.lms.offline.tempers import Personality
from pytest_promptopt.lms.offline.words import content_words, known_words, spoken

DOUBT = 400  # evidence that a word needs to be half believed
FAINT = 240  # likeness to a demo that means nothing
NEAREST_DEMOS = 3
SOFTNESS = 150  # a label this far below the best is half as likely at temperature 1
DENIAL = re.compile(
    r"\b(?:not|never|isn't|instead of|rather than|don't (?:use|choose|answer))\s+(?:\w+\s+){0,2}[`\"']?$", re.I
)
FALLBACK = re.compile(
    r"\b(?:by default|in doubt|unsure|otherwise|anything else|(always) (?:answer|choose|use|pick))\b", re.I
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenDemo:
    """A demo as remembered: its label's index, the attention it got (per mille) and the norm of its words."""

    label: int
    attention: int
    norm: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that the part of a prompt before the question says about one output field.

    ``shares`` gives for a word how surely it means which label, ``holders`` the demos that hold it, ``prior`` the bias
    of every label; ``noise`` is the spread of what this prompt (``seal``) adds to a question by chance.
    """

    personality: Personality
    field: OutputField
    demos: tuple[SeenDemo, ...]
    shares: Mapping[str, tuple[tuple[int, int], ...]]
    holders: Mapping[str, tuple[int, ...]]
    prior: tuple[int, ...]
    seal: str
    noise: int

    def scores(self, text: str) -> list[int]:
        """How much speaks for every label when ``text`` is the question."""
        said = known_words(self.personality.identity, self.personality.temper.unknown, text)
        scores = self._add_words(said)
        if self.demos:
            self._add_nearest(scores, said)
        self._add_noise(scores, text)
        return scores

    def _add_words(self, said: tuple[str, ...]) -> list[int]:
        scores, shares = list(self.prior), self.shares
        for word in said:
            for label, share in shares.get(word, ()):
                scores[label] += share
        return scores

    def _add_nearest(self, scores: list[int], said: tuple[str, ...]) -> None:
        near = self.personality.temper.near_weight
        likeness = self._likeness(said) if near else {}
        nearest = sorted(likeness, key=lambda demo: (-likeness[demo], -demo))[:NEAREST_DEMOS]
        for rank, demo in enumerate(nearest):
            scores[self.demos[demo].label] += near * max(0, likeness[demo] - FAINT) // (1000 << rank)

    def _likeness(self, said: tuple[str, ...]) -> dict[int, int]:
        """Shared words, rare ones worth more, over the lengths of both texts; only demos that share any."""
        hits: dict[int, int] = {}
        for word in said:
            holders = self.holders.get(word, ())
            for demo in holders:
                hits[demo] = hits.get(demo, 0) + 3000 // (2 + len(holders))
        norm = isqrt(1_000_000 * max(1, len(said)))
        demos = self.demos
        return {demo: hit * 1000 * demos[demo].attention // (norm * demos[demo].norm) for demo, hit in hits.items()}

    def _add_noise(self, scores: list[int], text: str) -> None:
        """What chance adds; and for a few questions the two best labels change places, whatever the prompt."""
        digest = digest_of(self.seal, self.field.name, text)
        for label in range(len(scores)):
            scores[label] += ripple(digest, label, 7, self.noise)
        if len(scores) > 1 and lot(self.personality.identity, self.field.name, text) < self.personality.temper.blind:
            first, second = best_two(scores)
            scores[first], scores[second] = scores[second], scores[first]


def best_two(scores: list[int]) -> tuple[int, int]:
    """The indices of the two highest of at least two ``scores``; the earlier wins a tie."""
    first, second, *_ = sorted(range(len(scores)), key=lambda label: (-scores[label], label))
    return first, second


def weights(scores: list[int], heat: int) -> list[int]:
    """How likely each label is drawn at temperature ``heat``/1000, in integers; at 0 the best one alone has any weight.

    They halve with every ``SOFTNESS`` points below the best at temperature 1, linearly in between.
    """
    best = max(scores)
    if not heat:
        first = scores.index(best)
        return [int(label == first) for label in range(len(scores))]
    steps = [divmod((best - score) * 1024_000 // (SOFTNESS * heat), 1024) for score in scores]
    return [((1 << 40) - (part << 29)) >> min(whole, 60) for whole, part in steps]


def draw(weights: list[int], number: int) -> int:
    """The index that ``number``, below the sum of ``weights``, falls on."""
    return next(index for index, reach in enumerate(accumulate(weights)) if number < reach)


def gather(
    personality: Personality, shape: Shape, field: OutputField, view: View, *, seal: str, noise: int
) -> Evidence:
    """Weigh what ``view`` says about ``field``."""
    notes = _Notes(personality, field, view)
    notes.take_names()
    if field.labels:
        notes.take_sentences()
    for place, (asked, answered, attention) in enumerate(view.demos, start=1):
        answer = answered.strip() if shape is Shape.PLAIN else read_values(answered).get(field.name, answered.strip())
        notes.take_demo(" ".join(read_values(asked).values()), answer, attention, place)
    notes.take_majority()
    return notes.weigh(seal, noise)


class _Notes:
    """What is written down while a prompt is read: per word the evidence for each label, demos, and biases."""

    def __init__(self, personality: Personality, field: OutputField, view: View) -> None:
        self.personality, self.temper = personality, personality.temper
        self.field, self.view = field, view
        self.mentions = _Mentions(field.labels)
        self.crowd = 1000 + self.temper.drown * len(view.demos)
        self.rows: dict[str, list[int]] = {}
        self.holders: dict[str, list[int]] = {}
        self.demos: list[SeenDemo] = []
        self.prior = [0] * len(field.labels)

    def learn(self, text: str, label: int, weight: int) -> None:
        for word in set(content_words(text)):
            self.rows.setdefault(word, [0] * len(self.prior))[label] += weight

    def take_names(self) -> None:
        """Label names, the bias of a label that the wording brings, and one that the model always has."""
        identity = self.personality.identity
        taste = digest_of(identity, *(sentence for sentence, _ in self.view.sentences))
        for index, label in enumerate(self.field.labels):
            self.learn(spoken(label), index, self.temper.name_weight)
            self.prior[index] = ripple(taste, index, 5, self.temper.wording) + Dice(identity, "habit", label).below(60)

    def take_sentences(self) -> None:
        for sentence, attention in self.view.sentences:
            signs, rest = self.mentions.read(sentence)
            fallback = FALLBACK.search(rest)
            for label, sign in signs.items() if len(signs) <= 2 else ():
                self.learn(rest, label, self.temper.rule_weight * attention // self.crowd * sign // len(signs))
                if fallback:
                    self.prior[label] += (900 if fallback[1] else 250) * attention // 1000

    def take_demo(self, text: str, answer: str, attention: int, place: int) -> None:
        label = self.mentions.forms.get(answer.strip(" .\"'`").lower())
        if label is None:
            return
        attention = attention * (1000 + self.temper.recency * place // len(self.view.demos)) // 1000
        self.learn(text, label, self.temper.demo_weight * attention // self.crowd)
        known = known_words(self.personality.identity, self.temper.unknown, text)
        for word in known:
            self.holders.setdefault(word, []).append(len(self.demos))
        self.demos.append(SeenDemo(label=label, attention=attention, norm=isqrt(1_000_000 * max(1, len(known)))))

    def take_majority(self) -> None:
        mass = max(1, sum(demo.attention for demo in self.demos))
        for demo in self.demos:
            self.prior[demo.label] += self.temper.majority * demo.attention * isqrt(len(self.demos)) // mass

    def weigh(self, seal: str, noise: int) -> Evidence:
        return Evidence(
            personality=self.personality,
            field=self.field,
            demos=tuple(self.demos),
            shares={word: _shares(row) for word, row in self.rows.items()},
            holders={word: tuple(demos) for word, demos in self.holders.items()},
            prior=tuple(self.prior),
            seal=seal,
            noise=noise,
        )


def _shares(row: list[int]) -> tuple[tuple[int, int], ...]:
    """How surely a word means each label: evidence that many labels share proves little."""
    total = sum(weight for weight in row if weight > 0) + DOUBT
    return tuple((label, 1000 * weight // total) for label, weight in enumerate(row) if weight)


class _Mentions:
    """Finds labels in a sentence, written or spoken."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.forms = {form.lower(): index for index, label in enumerate(labels) for form in (label, spoken(label))}
        names = "|".join(map(re.escape, sorted(self.forms, key=len, reverse=True)))
        self.pattern = re.compile(rf"(?<!\w)(?:{names or '(?!)'})(?!\w)", re.I)

    def read(self, sentence: str) -> tuple[dict[int, int], str]:
        """The labels that ``sentence`` is about, each 1 or -1 where it is denied, and what else it says."""
        found = list(self.pattern.finditer(sentence))
        if not found:
            return {}, ""
        rest = self.pattern.sub(" ", sentence)
        is_about_first = len(sentence[: found[0].start()].split()) <= 2  # "label: words", "Choose label when words"
        if is_about_first and not _is_list(sentence, found):
            found = found[:1]
            rest = sentence.replace(found[0][0], " ", 1)
        return {self._label(mention): -1 if _is_denied(sentence, mention) else 1 for mention in found}, rest

    def _label(self, mention: re.Match[str]) -> int:
        return self.forms[mention[0].lower()]


def _is_list(sentence: str, found: list[re.Match[str]]) -> bool:
    """Whether the first labels stand side by side, as in "billing, bug or account"."""
    return len(found) > 1 and not re.search(r"\w{3}|[:=–—]", sentence[found[0].end() : found[1].start()])


def _is_denied(sentence: str, mention: re.Match[str]) -> bool:
    return bool(DENIAL.search(sentence[: mention.start()]))
