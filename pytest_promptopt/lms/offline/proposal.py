"""Writes an instruction from what a request shows: telling words for each label, fallibly.

It slips into wrong words, says nothing, copies a row or breaks off, as often as its temper does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_promptopt.lms.offline.dice import Dice
from pytest_promptopt.lms.offline.notations import sectioned_instruction, without_sections
from pytest_promptopt.lms.offline.shown import Shown
from pytest_promptopt.lms.offline.tempers import Temper
from pytest_promptopt.lms.offline.words import WORD, content_words, knows, stem

FENCED = re.compile(r"(?:```|\"\"\")(?:\w*\n)?(.+?)(?:```|\"\"\")|<(?:current_)?(?:instruction|prompt)>(.+?)</", re.S)
ANNOUNCED = re.compile(r"(?:instruction|prompt)s?\b[^\n:]{0,40}:\s*\n?(.+?)(?:\n\s*\n|\Z)", re.S | re.I)
ATTEMPT = re.compile(
    r"^[^\w\n]*(?:score\W{0,3}(?=\d)|(?=[01]?\.\d|\d+(?:\.\d+)? ?%))(\d*\.?\d+) ?%?[^\w\n]+(\w.*)$", re.M | re.I
)
PLACEHOLDERS = re.compile(r"\bplaceholders exactly as they are written\b[^:\n]*: (.+)$", re.M)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
COMPLAINT = re.compile(r"not one of|could not parse|unparsable|not a valid|extra text|expected exactly one", re.I)
NAME = re.compile(r"(?<=\w )[A-Z]\w+|\d+")
OPENINGS = (
    "Decide which label fits best.",
    "You are an expert at sorting short requests.",
    "Classify by what the user wants.",
)
TIPS = (
    "Read the whole text before you decide.",
    "Think carefully, step by step.",
    "Be precise.",
    "Weigh every option.",
)
RULES = ("{}: {}.", "Choose {} when the text mentions {}.", "Use {} for requests about {}.")
TIDY = (
    "Reply with only the label, nothing else.",
    "Answer with exactly one label and no other text.",
    "Output just the label.",
)
TELLING_AT_MOST = 8  # worth (lower is better) above which a word is too common to tell anything


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One errand: who writes, from which request, with which rows read out of it, and with whose luck.

    Where nobody lists the labels, rows show some of them, and old sentences may be about the others.
    """

    identity: str
    temper: Temper
    request: str
    shown: Shown
    dice: Dice
    knows_all_labels: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How often each stem occurs, with each label and at all, and a word as it was written."""

    told: Mapping[tuple[str, str], int]
    every: Mapping[str, int]
    surface: Mapping[str, str]


def current_instruction(request: str) -> str:
    """The instruction that ``request`` asks to improve: fenced, tagged or announced; empty when there is none."""
    if sectioned := sectioned_instruction(request):
        return sectioned
    found = FENCED.search(request) or ANNOUNCED.search(request)
    return str(found[found.lastindex or 0]).strip() if found else ""


def without_instructions(request: str) -> str:
    """``request`` without the instruction to improve and without earlier attempts: what is left may be rows."""
    fenced = FENCED.search(request)
    rest = request.replace(fenced[0], "", 1) if fenced else request
    return ATTEMPT.sub("", without_sections(rest))


def propose(draft: Draft) -> str:
    """The instruction alone, above the placeholders that it was told to keep, in a paragraph of their own."""
    kept = PLACEHOLDERS.search(draft.request)
    return "\n\n".join([_write(draft), *([kept[1]] if kept else [])])


def _write(draft: Draft) -> str:
    dice, temper = draft.dice, draft.temper
    style = dice.pick(RULES)
    kept = [sentence for sentence in SENTENCE_END.split(_base(draft)) if sentence.strip()]
    lines = [kept[0] if kept and dice.chance(650) else dice.pick(OPENINGS)]
    if dice.chance(temper.vague) or not draft.shown.pairs:
        return " ".join([*lines, dice.pick(TIPS), *([dice.pick(TIDY)] if dice.chance(500) else [])])
    tally = count_words(draft)
    for label in _shuffled(draft.shown.labels, dice):
        lines += _lines_about(draft, tally, label, kept[1:], style)
    if not draft.knows_all_labels:
        lines[1:] = _with_other_sentences(draft, lines[1:], kept[1:])
    lines += _extras(draft)
    return _break_off("\n".join(dict.fromkeys(lines)), temper.breath_words)


def _with_other_sentences(draft: Draft, lines: list[str], kept: Sequence[str]) -> list[str]:
    """``lines``, and before or behind them most old sentences about labels that no row shows."""
    dice, labels = draft.dice, draft.shown.labels
    others = [s for s in kept if not any(label in s for label in labels) and dice.chance(880)]
    return [*others, *lines] if dice.chance(500) else [*lines, *others]


def _base(draft: Draft) -> str:
    """What to start from: the current instruction, now and then the best attempt instead."""
    attempts: list[tuple[str, str]] = ATTEMPT.findall(draft.request)
    if attempts and draft.dice.chance(500):
        return max(attempts, key=lambda attempt: float(attempt[0]))[1].strip("\"'` ")
    return current_instruction(draft.request)


def _shuffled(labels: Sequence[str], dice: Dice) -> list[str]:
    return [label for _, label in sorted((dice.below(1 << 60), label) for label in labels)]


def count_words(draft: Draft) -> Tally:
    """Stems per label; names and numbers are left out, for they tell nothing."""
    told: Counter[tuple[str, str]] = Counter()
    every: Counter[str] = Counter()
    surface: dict[str, str] = {}
    for said, label in draft.shown.pairs:
        for raw in _plain_words(said):
            root = stem(raw)
            if root and knows(draft.identity, draft.temper.unknown, root):
                surface.setdefault(root, raw)
                told[label, root] += 1
                every[root] += 1
    return Tally(told=told, every=every, surface=surface)


def _plain_words(said: str) -> dict[str, None]:
    names = set(NAME.findall(said))
    kept = " ".join(word for word in said.split() if word.strip(".,?!") not in names)
    return dict.fromkeys(WORD.findall(kept.lower()))


def _lines_about(draft: Draft, tally: Tally, label: str, kept: Sequence[str], style: str) -> list[str]:
    """What the instruction says about ``label``: an old sentence, a new rule, both or nothing."""
    dice, roots = draft.dice, _telling_roots(draft, tally, label)
    written = dict.fromkeys(
        dice.pick(sorted(tally.surface)) if dice.chance(draft.temper.slip) else root for root in roots
    )
    old = [sentence for sentence in kept if label in sentence]
    lines = old[:1] if old and (not written or dice.chance(600)) else []
    if written and dice.chance(880):
        lines.append(style.format(label, ", ".join(tally.surface[root] for root in written)))
    return lines


def _telling_roots(draft: Draft, tally: Tally, label: str) -> list[str]:
    """Stems that occur with ``label`` often and with others seldom; few when none occurs twice."""
    dice, half = draft.dice, draft.temper.proposal_words // 2
    worth = sorted(
        ((tally.every[root] * 2 - count * 5) * 8 + dice.below(16), root)
        for (owner, root), count in tally.told.items()
        if owner == label
    )
    most = 1 + half + dice.below(half + 1)
    is_sure = bool(worth) and tally.told[label, worth[0][1]] > 1
    return [root for value, root in worth if value < TELLING_AT_MOST][: most if is_sure else min(most, 3)]


def _extras(draft: Draft) -> list[str]:
    dice, pairs = draft.dice, draft.shown.pairs
    has_complaint = bool(COMPLAINT.search(draft.request))
    extras = (
        (draft.temper.leak, 'For example, "{}" is {}.'.format(*dice.pick(pairs))),
        (150, dice.pick(TIPS)),
        (120, f"When in doubt, choose {dice.pick(pairs)[1]}."),
        (850 if has_complaint else 450, dice.pick(TIDY)),
    )
    return [line for per_mille, line in extras if dice.chance(per_mille)]


def _break_off(text: str, words: int) -> str:
    """The first ``words`` words of ``text``, with the white space between them."""
    found = re.match(rf"(?:\S+\s+){{0,{words - 1}}}\S+", text)
    return found[0] if found else ""


def summarise(shown: Shown) -> str:
    """A sentence or two about the rows."""
    common = Counter(word for said, _ in shown.pairs for word in content_words(said))
    frequent = ", ".join(sorted(common, key=lambda word: (-common[word], word))[:8])
    return f"{len(shown.pairs)} short texts, sorted into {', '.join(shown.labels[:12])}. Frequent words: {frequent}."
