from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.optimizers.base import Outcome, Row, Search, Sizes, Task
from pytest_promptopt.optimizers.racing import (
    Finish,
    clearly_beats,
    count_runs,
    halved,
    plan_race,
    plan_rounds,
    race,
)
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt
from tests.optimizer_world import METRIC, make_task, outcome_of, run

many = settings(max_examples=200, deadline=None, derandomize=True)


def named(number: int) -> Candidate:
    return Candidate({"route": CompiledPrompt(instruction=f"attempt {number}")})


def number_of(candidate: Candidate) -> int | None:
    words = candidate["route"].instruction.split("attempt ")
    return int(words[1]) if len(words) > 1 else None


class Racing:
    """A strategy that is one race, and remembers how it ended."""

    def __init__(self, contenders: Sequence[Candidate], rounds: Sequence[int]) -> None:
        self.contenders, self.rounds = contenders, rounds
        self.finish: Finish | None = None

    def search(self, task: Task, rng: object) -> Search:
        self.finish = yield from race(task, self.contenders, task.valset, self.rounds, champion=task.source)
        return task.source

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        return 0, 0


def raced(passes: dict[int, int], rounds: Sequence[int], *, val: int = 32, source: int = 0) -> tuple[Finish, int]:
    """How a race ends in which attempt n passes the first ``passes[n]`` val rows, and what it cost."""
    task = make_task(val=val)
    places = {row: place for place, row in enumerate(task.valset)}

    def judge(candidate: Candidate, row: Row) -> Outcome:
        number = number_of(candidate)
        limit = source if number is None else passes[number]
        return replace(outcome_of(candidate, row), score=float(places.get(row, 0) < limit))

    strategy = Racing([named(number) for number in passes], rounds)
    found = run(strategy, task, judge=judge).found
    assert strategy.finish is not None
    return strategy.finish, found.calls


@many
@given(st.integers(0, 40), st.integers(1, 300))
def test_rounds_grow_up_to_all_rows(contenders: int, rows: int) -> None:
    rounds = plan_rounds(contenders, rows)
    assert list(rounds) == sorted(set(rounds))
    assert rounds[-1] == rows
    assert rounds[0] >= min(8, rows)


@many
@given(
    st.integers(0, 12), st.integers(0, 6), st.integers(1, 100), st.none() | st.integers(0, 2000), st.floats(1.0, 3.0)
)
def test_a_planned_race_keeps_within_its_calls(
    proposals: int, sets: int, rows: int, calls: int | None, calls_per_row: float
) -> None:
    plan = plan_race(proposals, sets, rows=rows, calls=calls, calls_per_row=calls_per_row)
    if plan is None:
        assert proposals + sets == 0 or (calls or 0) < 1 + min(8, rows) * calls_per_row
        return
    contenders = plan.proposals + plan.demo_sets
    assert 1 <= contenders <= proposals + sets
    assert plan.demo_sets <= sets
    if calls is None:
        assert (contenders, plan.rounds[-1]) == (proposals + sets, rows)
    else:
        assert plan.proposals + count_runs(contenders, plan.rounds) * calls_per_row <= calls


@many
@given(st.integers(1, 40), st.lists(st.integers(1, 50), min_size=1, max_size=5).map(lambda s: sorted(set(s))))
def test_runs_are_counted_as_halving_makes_them(contenders: int, rounds: list[int]) -> None:
    rows_run, alive, before = 0, contenders, 0
    for size in rounds:
        rows_run += alive * (size - before)
        alive, before = halved(alive), size
    assert count_runs(contenders, rounds) == rows_run
    assert 2 <= halved(contenders) <= contenders or contenders < 2


def test_the_better_half_goes_on_and_the_best_come_through() -> None:
    finish, calls = raced({1: 4, 2: 5, 3: 6, 4: 7}, (8, 32))
    assert [number_of(candidate) for candidate in finish.scores] == [4, 3]
    assert (len(finish.rows), calls) == (32, 4 * 8 + 2 * 24)
    assert {number_of(candidate): score for candidate, score in finish.dropped.items()} == {1: 4 / 8, 2: 5 / 8}


def test_whoever_the_champion_clearly_beats_does_not_wait_for_its_turn() -> None:
    finish, calls = raced({1: 0, 2: 1}, (8, 32), source=31)
    assert (finish.rows, calls) == (finish.rows[:8], 2 * 8)
    assert len(finish.rows) == 8


def test_a_contender_under_which_the_metric_raises_is_out_and_the_others_go_on() -> None:
    task = make_task(val=8)

    def judge(candidate: Candidate, row: Row) -> Outcome:
        if candidate == named(1):
            return Outcome(score=None, feedback="KeyError: 'team'", is_rejected=True)
        return outcome_of(candidate, row)

    strategy = Racing([named(1), named(2)], (8,))
    run(strategy, task, judge=judge)
    assert strategy.finish is not None
    assert [*strategy.finish.scores] == [named(2)]


def test_a_race_without_contenders_costs_nothing() -> None:
    finish, calls = raced({}, (8, 32))
    assert (finish.rows, calls) == ((), 0)


@pytest.mark.parametrize(
    ("mine", "its", "is_clear"),
    [
        ([1.0] * 6, [0.0] * 6, True),
        ([1.0] * 5, [0.0] * 5, False),  # too few rows to tell
        ([1.0] * 6 + [0.0] * 5, [0.0] * 6 + [1.0] * 5, False),
        ([0.5] * 6, [0.4] * 6, True),  # graded scores count by their order
        ([1.0] * 6, [None] * 6, False),
    ],
)
def test_a_clear_win_is_one_on_the_rows_that_set_two_apart(
    mine: list[float], its: list[float | None], is_clear: bool
) -> None:
    lanes = [tuple(Outcome(score=score) for score in scores) for scores in (mine, its)]
    task = make_task(val=len(mine))
    assert clearly_beats(task, task.valset, *lanes) is is_clear


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_win_on_the_rows_that_weigh_most_is_no_defeat(mirrored: bool) -> None:
    task = make_task(val=24, weights={METRIC: 10.0, "test_tone": 0.1})
    heavy = tuple(Outcome(score=float(row.metric == METRIC)) for row in task.valset)
    light = tuple(Outcome(score=float(row.metric != METRIC)) for row in task.valset)
    one, other = (light, heavy) if mirrored else (heavy, light)
    assert clearly_beats(task, task.valset, one, other) is not mirrored


def plain_race(
    task: Task, contenders: Sequence[Candidate], rounds: Sequence[int], judge: Callable[[Candidate, Row], Outcome]
) -> dict[Candidate, float]:
    """The scores of who comes through a race in which nobody stops within the last round."""

    def lane(candidate: Candidate, size: int) -> tuple[Outcome, ...]:
        return tuple(judge(candidate, row) for row in task.valset[:size])

    alive = [*contenders]
    for size in rounds:
        rows = task.valset[:size]
        scores = {each: task.mean(rows, lane(each, size)) or 0.0 for each in alive}
        ranked = sorted(alive, key=lambda each: -scores[each])
        if size == rounds[-1]:
            return {each: scores[each] for each in ranked}
        kept = ranked[: halved(len(ranked))]
        rivals = [task.source, kept[0]]
        lanes = {each: lane(each, size) for each in (*rivals, *kept)}
        alive = [each for each in kept if not any(clearly_beats(task, rows, lanes[one], lanes[each]) for one in rivals)]
    return {}


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    gains=st.lists(st.floats(-0.2, 0.2), min_size=1, max_size=6),
    source=st.floats(0.3, 0.8),
    weight=st.sampled_from([None, 1.0, 5.0]),
    val=st.sampled_from([5, 16, 40]),
    seed=st.integers(0, 1000),
)
def test_who_stops_early_is_never_the_best(
    gains: list[float], source: float, weight: float | None, val: int, seed: int
) -> None:
    task = make_task(val=val, weights=None if weight is None else {METRIC: weight, "test_tone": 1.0})
    rates = {named(number): source + gain for number, gain in enumerate(gains)} | {task.source: source}

    def judge(candidate: Candidate, row: Row) -> Outcome:
        luck = Random(f"{seed} {candidate.digest} {row.id}").random()
        return replace(outcome_of(candidate, row), score=float(luck < rates[candidate]))

    contenders, rounds = [named(number) for number in range(len(gains))], plan_rounds(len(gains), val)
    strategy = Racing(contenders, rounds)
    run(strategy, task, judge=judge)
    plain = plain_race(task, contenders, rounds, judge)
    start = task.mean(task.valset, [judge(task.source, row) for row in task.valset]) or 0.0
    reaching = {each: score for each, score in plain.items() if score >= start}
    finish = strategy.finish
    if finish is None:
        assert start == 1.0
        return
    through = finish.scores if len(finish.rows) == val else {}
    assert {each: score for each, score in through.items() if score >= start} == reaching
    assert [*through][:1] == [*plain][:1] or not reaching


def test_in_the_last_round_nobody_runs_on_who_cannot_reach_the_champion() -> None:
    finish, calls = raced({1: 10}, (32,), source=24)
    assert (len(finish.rows), [*finish.scores]) == (32, [])
    assert (calls, [*finish.dropped.values()]) == (24, [10 / 24])


def test_who_is_spared_runs_on() -> None:
    task = make_task(val=32)

    def judge(candidate: Candidate, row: Row) -> Outcome:
        return replace(outcome_of(candidate, row), score=0.5 if candidate == task.source else 0.2)

    class Sparing(Racing):
        def search(self, task: Task, rng: object) -> Search:
            spared = self.contenders[:1]
            self.finish = yield from race(
                task, self.contenders, task.valset, self.rounds, champion=task.source, spared=spared
            )
            return task.source

    strategy = Sparing([named(1), named(2)], (32,))
    run(strategy, task, judge=judge)
    assert strategy.finish is not None
    assert ([*strategy.finish.scores], [*strategy.finish.dropped]) == ([named(1)], [named(2)])
