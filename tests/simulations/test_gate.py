"""The gate in worlds whose truth is known: how often it cries wolf, and how often it sees the wolf.

The tables of docs/statistics.md come from the same worlds, with more runs, by ``benchmarks/gate.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator

from benchmarks._gate_world import (
    Project,
    accept,
    any_pull_request_is_red,
    frozen,
    is_red,
    rewording_after_freeze_is_red,
    rewording_is_red,
    rewordings_in_turn,
    share_of,
    share_of_red,
    slide,
    verdict_on,
)
from pytest_promptopt.gate import Outcome

LEVEL = 0.05


def times_red(draw: Callable[[Generator], bool], runs: int, *, seed: int = 1) -> int:
    rng = np.random.default_rng(seed)
    return sum(draw(rng) for _ in range(runs))


def is_plainly_above_the_level(red: int, runs: int) -> bool:
    """Whether so many red runs are more than chance brings about at a level of 5 %."""
    stats = pytest.importorskip("scipy.stats")
    return bool(stats.binomtest(red, runs, LEVEL, alternative="greater").pvalue < 0.01)


# --- without a real change ---


def test_of_a_thousand_pull_requests_without_a_real_change_at_most_fifty_are_red():
    assert 0 < times_red(any_pull_request_is_red, 1000) <= 50


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        ({"rows": 10}, 1000),
        ({"rows": 30}, 1000),
        ({"rows": 100}, 1000),
        ({"rows": 200}, 600),
        ({"rows": 100, "group_size": 4}, 1000),
        ({"rows": 30, "kind": "grades"}, 200),
        ({"rows": 60, "kind": "repeats"}, 300),
        ({"rows": 60, "metrics": 5}, 500),
    ],
    ids=["10 rows", "30 rows", "100 rows", "200 rows", "groups", "grades", "repeats", "five metrics"],
)
def test_even_a_prompt_that_was_written_anew_is_called_worse_in_at_most_five_of_a_hundred_runs(options, runs):
    red = times_red(lambda rng: rewording_is_red(rng, share=1.0, **options), runs)
    assert not is_plainly_above_the_level(red, runs)


def test_groups_that_nobody_names_raise_more_alarms():
    rng = np.random.default_rng(4)
    red = 0
    for _ in range(300):
        chances = np.repeat(rng.beta(3.0, 0.5, size=25), 4)
        grouped = Project(chances=chances, group_size=4)
        unnamed = Project(chances=chances)
        red += is_red(unnamed, unnamed.baseline(grouped.draw(rng)), grouped.draw(rng))
    assert is_plainly_above_the_level(red, 300)


def test_five_metrics_that_do_not_share_the_level_raise_more_alarms():
    red = times_red(lambda rng: any(rewording_is_red(rng, rows=100, share=1.0) for _ in range(5)), 300)
    assert is_plainly_above_the_level(red, 300)


# --- after a freeze ---


def test_after_a_freeze_by_luck_alone_a_fresh_draw_as_baseline_keeps_the_level():
    red = times_red(lambda rng: rewording_after_freeze_is_red(rng, rows=79, is_fresh=True), 1000)
    assert not is_plainly_above_the_level(red, 1000)


def test_after_a_freeze_the_lucky_draw_itself_would_be_a_bar_too_high():
    red = times_red(lambda rng: rewording_after_freeze_is_red(rng, rows=79, share=1.0), 300)
    assert is_plainly_above_the_level(red, 300)


def test_where_replies_are_pinned_a_light_rewording_of_what_was_frozen_keeps_the_level():
    red = times_red(lambda rng: rewording_after_freeze_is_red(rng, rows=79, share=0.2, gain=0.05, spread=0.03), 600)
    assert not is_plainly_above_the_level(red, 600)


def test_where_replies_are_pinned_what_was_frozen_is_never_red_until_somebody_touches_it():
    rng = np.random.default_rng(2)
    for _ in range(50):
        project, winner = frozen(rng, 40, gain=0.0, spread=0.0)
        assert verdict_on(project, project.baseline(winner), winner).is_unchanged


# --- with an anchor ---


def test_twenty_rewordings_blessed_in_turn_leave_an_anchor_that_raises_no_more_alarms():
    rng = np.random.default_rng(3)
    verdicts = [verdict for _ in range(80) for verdict in rewordings_in_turn(rng, rows=100, share=1.0, weeks=20)]
    assert sum(verdict.anchor_p is not None for verdict in verdicts) > 0.8 * len(verdicts)
    red = sum(verdict.outcome is Outcome.FAIL for verdict in verdicts)
    assert not is_plainly_above_the_level(red, len(verdicts))


def test_the_best_of_many_lucky_draws_as_anchor_would_raise_more():
    """Why a higher mean is not enough to move the anchor up."""
    rng = np.random.default_rng(3)
    red = []
    for _ in range(40):
        project = Project(chances=rng.beta(3.0, 0.5, size=100))
        draws = [project.draw(rng) for _ in range(20)]
        best = max(draws, key=lambda scores: float(scores.mean()))
        held = accept(project, project.baseline(best), draws[-1])
        red += [bool(verdict_on(project, held, project.draw(rng)).is_worse_than_anchor) for _ in range(5)]
    assert share_of(red) > 0.03, "the anchor's own share of the level is 0.01"


def test_a_row_a_week_is_caught_by_the_anchor_in_the_sixth_week_and_never_by_the_baseline():
    project = Project(chances=np.ones(100))
    start = np.array([1.0] * 91 + [0.0] * 9)
    with_anchor = without = project.baseline(start)
    for week in range(1, 21):
        scores = np.array([1.0] * (91 - week) + [0.0] * (9 + week))
        assert not is_red(project, without, scores), "one row is no proof"
        without = project.baseline(scores)
        if week <= 6:
            verdict = verdict_on(project, with_anchor, scores)
            assert (verdict.outcome is Outcome.FAIL, verdict.is_worse) == (week == 6, False)
            with_anchor = accept(project, with_anchor, scores)
    assert verdict.reasons[0].startswith("0.910 five blessings ago, 0.850 now")


def test_a_point_a_week_is_caught_within_twenty_weeks_though_rows_flip_idly_and_every_loss_is_blessed():
    rng = np.random.default_rng(5)
    slides = [slide(rng, rows=100, weekly_loss=0.01, share=0.05, weeks=20) for _ in range(100)]
    weeks = [each.week for each in slides if each.week is not None]
    assert len(weeks) >= 98
    assert np.median(weeks) <= 10
    alone = [slide(rng, rows=100, weekly_loss=0.01, share=0.05, weeks=20, has_anchor=False) for _ in range(100)]
    assert sum(each.week is not None and each.week <= 10 for each in alone) < sum(week <= 10 for week in weeks) - 20


# --- a real drop ---


@pytest.mark.parametrize(
    ("rows", "idle", "without", "ten_points", "twenty_points"),
    [
        (10, 0.10, 0.006, 0.06, 0.17),
        (20, 0.10, 0.025, 0.16, 0.37),
        (30, 0.10, 0.032, 0.23, 0.53),
        (50, 0.10, 0.043, 0.36, 0.75),
        (100, 0.03, 0.035, 0.83, 1.0),
        (100, 0.10, 0.048, 0.58, 0.95),
        (200, 0.10, 0.049, 0.83, 1.0),
    ],
)
def test_the_power_is_that_of_the_published_table(rows, idle, without, ten_points, twenty_points):
    rng = np.random.default_rng(6)
    measured = [share_of_red(rng, rows=rows, drop=drop, idle=idle, runs=10_000) for drop in (0.0, 0.1, 0.2)]
    assert measured == pytest.approx([without, ten_points, twenty_points], abs=0.015)
    assert measured[0] <= LEVEL


def test_rows_that_settle_a_drop_do_so_in_eight_of_ten_runs():
    rng = np.random.default_rng(7)
    # The table of sample sizes: 10 points, with 3 and 10 % of the rows flipping idly.
    power = [share_of_red(rng, rows=rows, drop=0.1, idle=idle, runs=10_000) for rows, idle in ((97, 0.03), (184, 0.1))]
    assert power == pytest.approx([0.8, 0.8], abs=0.04)
