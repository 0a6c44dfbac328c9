"""What searches on other models found is scored before a search, and wins only by what it scores here."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.optimizers.base import Outcome, Row, Search, Task
from pytest_promptopt.optimizers.reflect_race import ReflectRace
from pytest_promptopt.optimizers.registry import OPTIMIZERS, make_optimizer
from pytest_promptopt.prompts.candidate import Candidate
from tests.optimizer_world import TOPICS, Scripted, make_task, naming, on_val, outcome_of, run

SMALL = {
    "bootstrap-random-search": {"num_candidates": 2},
    "bootstrap-optuna": {"num_candidates": 2, "num_sets": 3},
    "copro": {"breadth": 2, "depth": 1},
    "mipro": {"num_candidates": 2, "num_trials": 2},
    "gepa": {"max_evaluations": 2},
    "reflect-race": {"num_proposals": 2, "num_demo_sets": 1, "generations": 1, "children": 2},
}


def task_with(*seeds: Candidate, val: int = 12) -> Task:
    return replace(make_task(val=val), seeds=seeds)


def answering(candidate: Candidate) -> Scripted:
    """A strategy that looks at one candidate of its own and returns it."""

    def search(task: Task) -> Search:
        yield on_val(task, candidate)
        return candidate

    return Scripted(search)


def test_a_seed_is_scored_before_the_search_begins_so_asking_for_it_costs_nothing() -> None:
    seed = naming("rain", "music")

    def search(task: Task) -> Search:
        assert task.seeds == (seed,)
        outcomes = yield on_val(task, seed)
        assert isinstance(outcomes, tuple)
        assert sum(outcome.score or 0 for outcome in outcomes if not isinstance(outcome, str)) == 4
        return task.source

    ran = run(Scripted(search), task_with(seed))
    assert (ran.found.calls, ran.found.seeds) == (12, (seed,))


def test_a_seed_that_nobody_looked_at_wins_when_it_is_better_here() -> None:
    seed = naming("rain", "music", "food")
    found = run(answering(naming("rain", "music")), task_with(seed)).found
    assert (found.candidate, found.score) == (seed, 0.5)


def test_of_equals_the_search_keeps_its_own() -> None:
    own = naming("trains", "money")
    assert run(answering(own), task_with(naming("rain", "music"))).found.candidate == own


def test_a_strategy_that_looked_at_a_seed_decides_itself() -> None:
    seed, own = naming("rain", "music", "food"), naming("rain", "music")

    def search(task: Task) -> Search:
        yield on_val(task, seed)
        yield on_val(task, own)
        return own

    assert run(Scripted(search), task_with(seed)).found.candidate == own


def test_a_seed_that_is_worse_than_the_source_changes_nothing() -> None:
    task = task_with(naming("nothing"))
    found = run(answering(task.source), task).found
    assert (found.candidate, found.score) == (task.source, found.source_score)


def test_full_marks_of_a_seed_leave_nothing_to_search() -> None:
    def search(task: Task) -> Search:
        raise AssertionError("there is nothing to gain")
        yield

    found = run(Scripted(search), task_with(naming(*TOPICS), naming("rain"))).found
    assert (found.candidate, found.score) == (naming(*TOPICS), 1.0)


def test_seeds_take_half_of_the_calls_at_most_and_the_search_hears_what_is_left() -> None:
    seeds = naming("rain", "music"), naming("rain", "food"), naming("rain", "books")
    heard: list[int | None] = []

    def search(task: Task) -> Search:
        heard.append(task.max_calls)
        assert task.seeds == seeds[:2]
        return task.source
        yield

    ran = run(Scripted(search), replace(task_with(*seeds), max_calls=59), max_calls=59)
    assert heard == [59 - 24]
    assert ran.found.seeds == seeds[:2]


def test_a_seed_under_which_the_metric_raises_is_out() -> None:
    seed, own = naming("rain", "music", "food"), naming("rain", "music")

    def judge(candidate: Candidate, row: Row) -> Outcome:
        is_out = candidate == seed and row == task.valset[3]
        return Outcome(score=None, feedback="ValueError", is_rejected=True) if is_out else outcome_of(candidate, row)

    task = task_with(seed)
    found = run(answering(own), task, judge=judge).found
    assert found.candidate == own
    assert [rejection.subject for rejection in found.rejected] == [seed]


def test_a_search_that_the_budget_ends_falls_back_on_a_seed() -> None:
    seed = naming("rain", "music", "food")

    def search(task: Task) -> Search:
        for number in range(100):
            yield on_val(task, naming("rain", f"nothing {number}"))
        return task.source

    found = run(Scripted(search), task_with(seed), max_calls=60).found
    assert (found.candidate, found.is_cut) == (seed, True)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_strategy_knows_a_seeds_score_or_leaves_it_to_the_driver(name: str) -> None:
    seed = naming(*TOPICS[:5])
    ran = run(make_optimizer(name, SMALL.get(name, {})), task_with(seed))
    scores = {trial.candidate: trial.score for trial in ran.found.trials}
    assert scores[seed] == pytest.approx(5 / 6)
    assert ran.found.score >= scores[seed] - 1 / 12, "a shorter one may be below the best by a row"


def test_reflect_race_breeds_from_seeds() -> None:
    """The proposer of this world adds one topic to what it is shown, so the seed's topics show who the parent was."""
    settings = ReflectRace(num_proposals=1, num_demo_sets=0, generations=1, children=2, restart_share=0)
    seed = naming("rain", "music", "food", "books")
    ran = run(settings, task_with(seed))
    bred = [trial.candidate["route"].instruction for trial in ran.found.trials if trial.candidate != seed]
    assert any(text.startswith("rain music food books Or") for text in bred)
    assert ran.found.score > 4 / 6


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seeds=st.lists(st.sets(st.sampled_from(TOPICS), min_size=1), max_size=3, unique_by=frozenset),
    own=st.sets(st.sampled_from(TOPICS), min_size=1),
    max_calls=st.none() | st.integers(min_value=12, max_value=80),
)
def test_nothing_that_was_scored_beats_what_is_found(
    seeds: list[set[str]], own: set[str], max_calls: int | None
) -> None:
    task = task_with(*dict.fromkeys(naming(*sorted(seed)) for seed in seeds))
    ran = run(answering(naming(*sorted(own))), task, max_calls=max_calls)
    assert max_calls is None or ran.found.calls <= max_calls
    assert ran.found.score == max(trial.score for trial in ran.found.trials)
