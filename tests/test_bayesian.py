from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from itertools import product

import numpy
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.optimizers.bayesian import Chooser

Said = tuple[str, float | None]
"""What a chooser is put through: a word, and the score that goes with it."""

few = settings(max_examples=40, deadline=None, derandomize=True)
sizes_of_slots = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 6), max_size=4)
scores = st.none() | st.floats(0, 1)
stories = st.lists(st.tuples(st.sampled_from(["ask and tell", "ask alone", "add"]), scores), max_size=16)


def choices_in(chooser: Chooser, sizes: Mapping[str, int], story: list[Said]) -> list[Mapping[str, int]]:
    """What ``chooser`` answers when it is put through ``story``."""
    asked = []
    for number, (what, score) in enumerate(story):
        if what == "add":
            chooser.add({name: number % size for name, size in sizes.items()}, score)
        else:
            choice = chooser.ask()
            asked.append(choice.indices)
            if what == "ask and tell":
                chooser.tell(choice, score)
    return asked


@few
@given(sizes=sizes_of_slots, seed=st.integers(0, 2**32 - 1), startup_trials=st.integers(0, 4), story=stories)
def test_the_same_seed_and_scores_give_the_same_choices(
    sizes: dict[str, int], seed: int, startup_trials: int, story: list[Said]
) -> None:
    backwards = dict(reversed(sizes.items()))
    one = Chooser(sizes, seed=seed, startup_trials=startup_trials)
    other = Chooser(backwards, seed=seed, startup_trials=startup_trials)
    assert choices_in(one, sizes, story) == choices_in(other, sizes, story)


@few
@given(sizes=sizes_of_slots, seed=st.integers(0, 99), story=stories)
def test_a_choice_names_one_alternative_of_each_slot(sizes: dict[str, int], seed: int, story: list[Said]) -> None:
    for indices in choices_in(Chooser(sizes, seed=seed, startup_trials=2), sizes, story):
        assert indices.keys() == sizes.keys()
        assert all(type(indices[name]) is int and 0 <= indices[name] < size for name, size in sizes.items())


def test_each_seed_is_one_of_its_own_and_so_is_zero() -> None:
    sizes = {"a": 20, "b": 20}
    story: list[Said] = [("ask and tell", 0.5)] * 5
    courses = {str(choices_in(Chooser(sizes, seed=seed), sizes, story)) for seed in range(12)}
    assert len(courses) == 12


def test_what_was_told_to_be_good_together_is_asked_more_often() -> None:
    late = 0
    for seed in range(4):
        chooser = Chooser({"a": 6, "b": 6, "c": 6}, seed=seed)
        for number in range(60):
            choice = chooser.ask()
            good = (choice.indices["a"] == 2) + (choice.indices["b"] == 5)
            chooser.tell(choice, good / 2)
            late += number >= 40 and good == 2
    assert late >= 10, "two of the last 80 by chance"


def test_what_is_known_from_elsewhere_is_learned_from_like_what_was_asked() -> None:
    asked = []
    for seed in range(10):
        chooser = Chooser({"a": 5, "b": 5}, seed=seed)
        for a, b in [*product(range(5), repeat=2)] * 3:
            chooser.add({"a": a, "b": b}, ((a == 3) + (b == 1)) / 2)
        asked.append(chooser.ask().indices)
    assert asked.count({"a": 3, "b": 1}) >= 6, "none or one of ten by chance"


def test_a_choice_without_a_score_counts_as_worse_than_any() -> None:
    chooser = Chooser({"a": 4}, seed=0)
    for index in range(4):
        for _ in range(5):
            chooser.add({"a": index}, None if index < 3 else 0.0)
    assert [chooser.ask().indices["a"] for _ in range(6)].count(3) >= 4


def test_a_chooser_that_never_hears_a_score_asks_on() -> None:
    chooser = Chooser({"a": 3, "b": 3}, seed=0, startup_trials=2)
    for _ in range(8):
        chooser.tell(chooser.ask(), None)


def test_a_choice_may_be_made_elsewhere_and_told_later() -> None:
    chooser = Chooser({"a": 9, "b": 9}, seed=0)
    first, second = chooser.ask({"a": 7, "b": 0}), chooser.ask({"b": 8, "a": 1})
    assert (first.indices, second.indices) == ({"a": 7, "b": 0}, {"a": 1, "b": 8})
    chooser.tell(second, 0.5)
    chooser.tell(first, 0.25)


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ({"a": 0}, r"expected an index for each of \['a', 'b'\], not for \['a'\]"),
        ({"a": 0, "b": 0, "c": 0}, r"not for \['a', 'b', 'c'\]"),
        ({"a": 0, "b": 2}, "b has 2 alternatives, so none with the index 2"),
        ({"a": -1, "b": 0}, "a has 3 alternatives, so none with the index -1"),
    ],
)
def test_what_is_no_choice_is_refused_and_leaves_no_trace(indices: dict[str, int], words: str) -> None:
    chooser, untouched = Chooser({"a": 3, "b": 2}, seed=1), Chooser({"a": 3, "b": 2}, seed=1)
    with pytest.raises(ValueError, match=words):
        chooser.add(indices, 1.0)
    assert chooser.ask() == untouched.ask()


def test_a_slot_without_an_alternative_is_refused() -> None:
    with pytest.raises(ValueError, match="one or more"):
        Chooser({"a": 0}, seed=0)


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.ERROR])
def test_optuna_says_nothing_and_keeps_the_level_it_had(level: int) -> None:
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, listener = logging.getLogger("optuna"), Listener()
    before = optuna.logging.get_verbosity()
    logger.addHandler(listener)
    optuna.logging.set_verbosity(level)
    try:
        chooser = Chooser({"a": 3}, seed=0, startup_trials=1)
        for _ in range(4):
            chooser.tell(chooser.ask(), 0.5)
        assert optuna.logging.get_verbosity() == level
    finally:
        optuna.logging.set_verbosity(before)
        logger.removeHandler(listener)
    assert said == []


def test_choosing_draws_nothing_from_the_random_numbers_of_others() -> None:
    ours, theirs = random.getstate(), numpy.random.get_state(legacy=False)["state"]
    chooser = Chooser({"a": 5, "b": 5}, seed=3, startup_trials=1)
    for _ in range(5):
        chooser.tell(chooser.ask(), 0.5)
    assert random.getstate() == ours
    assert str(numpy.random.get_state(legacy=False)["state"]) == str(theirs)


def test_optuna_is_imported_by_the_first_chooser_and_not_before() -> None:
    program = (
        "import sys\n"
        "from pytest_promptopt.optimizers.bayesian import Chooser\n"
        "from pytest_promptopt.optimizers.registry import make_optimizer\n"
        "make_optimizer('bootstrap-optuna', {})\n"
        "print('optuna' in sys.modules)\n"
        "Chooser({'a': 2}, seed=0).ask()\n"
        "print('optuna' in sys.modules)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert (ran.stdout.split(), ran.stderr) == (["False", "True"], "")
