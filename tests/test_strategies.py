"""The public strategies give texts that mean the same, shrink towards the text itself, and leave no trace."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy

from pytest_promptopt import strategies
from pytest_promptopt.errors import UsageError
from pytest_promptopt.evaluation.perturbations import edits_of

TICKET = "You charged my card twice, please refund the charges."
TEXTS = st.one_of(
    st.text(max_size=30), st.lists(st.sampled_from(["refund", "don't", "été", "VISA", "3.5", "x@y.org"])).map(" ".join)
)

quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)
searching = settings(
    max_examples=400, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)

Strategy = Callable[[str], SearchStrategy[str]]
EVERY: list[Strategy] = [
    strategies.typos,
    strategies.casing,
    strategies.whitespace,
    strategies.punctuation,
    strategies.distractors,
    strategies.injections,
    strategies.perturbed,
]


def smallest(strategy: SearchStrategy[str], condition: Callable[[str], bool]) -> str:
    """What Hypothesis shrinks a text to that meets ``condition``."""
    return find(strategy, condition, settings=searching)


@pytest.mark.parametrize("strategy", EVERY)
def test_every_strategy_shrinks_to_the_text_itself(strategy: Strategy) -> None:
    assert smallest(strategy(TICKET), lambda text: True) == TICKET


@pytest.mark.parametrize("strategy", EVERY)
def test_every_strategy_finds_an_edited_text(strategy: Strategy) -> None:
    edited = smallest(strategy(TICKET), lambda text: text != TICKET)
    assert edited != TICKET


@pytest.mark.parametrize("strategy", EVERY)
@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_a_text_without_a_word_stays_as_it_is(strategy: Strategy, text: str) -> None:
    with pytest.raises(NoSuchExample):
        smallest(strategy(text), lambda edited: edited != text)


@pytest.mark.parametrize(
    ("strategy", "kept"),
    [
        (strategies.casing, str.casefold),
        (strategies.whitespace, str.split),
        (strategies.punctuation, lambda text: re.sub(r"[^\w\s]", "", text).split()),
        (strategies.typos, lambda text: len(text.split())),
    ],
)
@quick
@given(data=st.data(), text=TEXTS, most=st.integers(0, 4))
def test_a_kind_keeps_what_it_promises_however_many_edits(
    strategy: Callable[..., SearchStrategy[str]],
    kept: Callable[[str], object],
    data: st.DataObject,
    text: str,
    most: int,
) -> None:
    assert kept(data.draw(strategy(text, most=most))) == kept(text)


@quick
@given(data=st.data(), text=TEXTS)
def test_a_text_of_several_kinds_of_edits_is_a_valid_one(data: st.DataObject, text: str) -> None:
    edited = data.draw(strategies.perturbed(text))
    assert edited.encode("utf-8").decode("utf-8") == edited


@quick
@given(data=st.data())
def test_at_most_so_many_words_get_a_typo(data: st.DataObject) -> None:
    edited = data.draw(strategies.typos(TICKET, most=2))
    changed = [pair for pair in zip(TICKET.split(), edited.split(), strict=True) if pair[0] != pair[1]]
    assert len(changed) <= 2


@quick
@given(text=strategies.perturbed(st.sampled_from([TICKET, "Where is my invoice?"]), ["whitespace"]))
def test_a_strategy_for_texts_will_do_as_well(text: str) -> None:
    assert " ".join(text.split()) in (TICKET, "Where is my invoice?")


def test_a_typo_that_matters_is_the_only_one_left() -> None:
    edited = smallest(strategies.perturbed(TICKET, ["casing", "typos"], most=3), lambda text: "charges" not in text)
    changed = [pair for pair in zip(TICKET.split(), edited.split(), strict=True) if pair[0] != pair[1]]
    assert [old for old, _ in changed] == ["charges."]


@pytest.mark.parametrize(("kinds", "most"), [(["typo"], 1), ("typos", 1), (["typos"], -1)])
def test_a_kind_or_a_number_that_is_none_is_refused_at_once(kinds: list[str], most: int) -> None:
    with pytest.raises(UsageError, match=r"typos, casing|no edit or some"):
        strategies.perturbed(TICKET, kinds, most=most)


def test_every_public_name_is_there_and_has_words() -> None:
    assert strategies.__all__ == sorted(strategies.__all__)
    for name in strategies.__all__:
        assert getattr(strategies, name).__doc__


def test_the_module_loads_without_hypothesis_and_writes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pytest_promptopt import strategies; assert 'hypothesis' not in sys.modules;"
        "strategies.typos('some words'); assert 'hypothesis' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_settings_of_a_users_own_hold() -> None:
    seen: list[str] = []

    @settings(max_examples=7, deadline=None, database=None, derandomize=True, phases=(Phase.generate,))
    @given(text=strategies.perturbed(TICKET))
    def count(text: str) -> None:
        seen.append(text)

    count()
    assert len(seen) == 7


@pytest.mark.parametrize(
    ("text", "most", "words"),
    [
        (5, 1, r"perturbed\(5\): give a text, or a strategy for texts"),
        (None, 1, r"perturbed\(None\): give a text"),
        ("a text", 1.5, "most=1.5: a text takes no edit or some"),
        ("a text", True, "most=True: a text takes no edit or some"),
    ],
)
def test_misuse_is_refused_before_anything_is_drawn(text: Any, most: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        strategies.perturbed(text, most=most)


@pytest.mark.parametrize("kind", ["whitespace", "punctuation"])
def test_the_edits_of_a_book_take_no_look_at_all_that_stands_before_each(kind: str) -> None:
    class Book(str):
        """A text that counts the characters which are sliced out of it."""

        sliced = 0

        def __getitem__(self, key: Any) -> str:
            part = str.__getitem__(self, key)
            Book.sliced += len(part)
            return part

    book = Book("don't stop here, please. " * 400)
    assert list(edits_of(book, kind))
    assert Book.sliced < 10 * len(book)
