"""Hypothesis strategies for texts that mean the same: the edits of ``perturb=`` for tests of your own.

::

    from hypothesis import given, settings
    from pytest_promptopt.strategies import perturbed

    @settings(max_examples=20, deadline=None)
    @given(ticket=perturbed("You charged my card twice.", kinds=["typos", "casing"]))
    def test_a_typo_does_not_move_a_ticket(ticket):
        assert route(ticket=ticket) == "billing"

Every strategy takes a text, or a strategy for texts, and gives the text with at most ``most`` edits. They shrink
towards fewer and plainer edits, and so towards the text itself, which is what a text without a word always stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from pytest_promptopt.errors import UsageError
from pytest_promptopt.evaluation.perturbations import KINDS, Edit, apply, edits_of

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = ["KINDS", "casing", "distractors", "injections", "perturbed", "punctuation", "typos", "whitespace"]


def typos(text: str | SearchStrategy[str], *, most: int = 1) -> SearchStrategy[str]:
    """``text`` with a letter dropped, doubled or swapped in ``most`` words; first letters stay."""
    return perturbed(text, ["typos"], most=most)


def casing(text: str | SearchStrategy[str], *, most: int = 1) -> SearchStrategy[str]:
    """``text`` with ``most`` words in lower case, in capitals, or with one capital; the letters stay."""
    return perturbed(text, ["casing"], most=most)


def whitespace(text: str | SearchStrategy[str], *, most: int = 1) -> SearchStrategy[str]:
    """``text`` with ``most`` gaps between or around its words written otherwise; the words stay."""
    return perturbed(text, ["whitespace"], most=most)


def punctuation(text: str | SearchStrategy[str], *, most: int = 1) -> SearchStrategy[str]:
    """``text`` with ``most`` marks dropped, repeated or added; letters, digits and words stay."""
    return perturbed(text, ["punctuation"], most=most)


def distractors(text: str | SearchStrategy[str]) -> SearchStrategy[str]:
    """``text`` with a sentence in front of it or behind it that has nothing to do with it."""
    return perturbed(text, ["distractor"], most=1)


def injections(text: str | SearchStrategy[str]) -> SearchStrategy[str]:
    """``text`` with an instruction in front of it or behind it that a prompt should not follow."""
    return perturbed(text, ["injection"], most=1)


def perturbed(text: str | SearchStrategy[str], kinds: Sequence[str] = KINDS, *, most: int = 3) -> SearchStrategy[str]:
    """``text`` with up to ``most`` edits of the ``kinds``, at different places.

    Raises ``UsageError`` for a ``text`` that is neither a text nor a strategy, a kind that is none of :data:`KINDS`,
    and a ``most`` that is no count.
    """
    from hypothesis.strategies import SearchStrategy as Strategy

    if not isinstance(text, str | Strategy):
        raise UsageError(f"perturbed({text!r}): give a text, or a strategy for texts")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or isinstance(kinds, str):
        raise UsageError(f"kinds={kinds!r}: give a list with some of {', '.join(KINDS)}")
    if isinstance(most, bool) or not isinstance(most, int) or most < 0:
        raise UsageError(f"most={most!r}: a text takes no edit or some")
    if isinstance(text, str):
        return _edited(text, kinds=tuple(kinds), most=most)
    return text.flatmap(partial(_edited, kinds=tuple(kinds), most=most))


def _edited(text: str, *, kinds: Sequence[str], most: int) -> SearchStrategy[str]:
    from hypothesis import strategies as st

    edits = [edit for kind in kinds for edit in edits_of(text, kind)]
    if not edits or not most:
        return st.just(text)
    return st.lists(st.sampled_from(edits), max_size=most).map(partial(_apply_apart, text))


def _apply_apart(text: str, edits: Sequence[Edit]) -> str:
    """``text`` with those of ``edits`` that leave the places of the ones before them alone."""
    kept: list[Edit] = []
    for edit in edits:
        if not any(edit.overlaps(other) for other in kept):
            kept.append(edit)
    return apply(text, kept)
