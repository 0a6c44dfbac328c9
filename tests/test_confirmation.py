"""A winner is frozen when rows it never saw prove it, and trying many winners makes luck no likelier to pass."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.evaluation.confirmation import Confirmation, Pair, Stratum, confirm, spent_alpha
from pytest_promptopt.evaluation.statistics import difference_interval, mcnemar_exact

quickly = settings(max_examples=60, deadline=None, derandomize=True)


def stratum(won: int, lost: int, tied: int = 0, *, metric: str = "test_routes", weight: float = 1.0) -> Stratum:
    scores = [(1.0, 0.0)] * won + [(0.0, 1.0)] * lost + [(1.0, 1.0)] * tied
    return Stratum(metric=metric, weight=weight, pairs=tuple(Pair(winner=new, incumbent=old) for new, old in scores))


def frozen_at(attempts: int, *, alpha: float, rng: Random, n: int = 64) -> bool:
    """Does any of so many winners, none better than the incumbent in truth, get through on the same rows?"""
    difficulties = [rng.betavariate(1.2, 0.3) for _ in range(n)]
    incumbent = [float(rng.random() < each) for each in difficulties]
    for before in range(attempts):
        winner = [float(rng.random() < each) for each in difficulties]
        pairs = tuple(Pair(winner=new, incumbent=old) for new, old in zip(winner, incumbent, strict=True))
        level = spent_alpha(alpha, before)
        if confirm([Stratum(metric="test_routes", pairs=pairs)], alpha=level).is_better:
            return True
    return False


def test_a_winner_that_gains_rows_and_loses_none_is_better():
    confirmation = confirm([stratum(won=14, lost=2, tied=48)], alpha=0.2)
    assert confirmation == Confirmation(
        winner=62 / 64,
        incumbent=50 / 64,
        difference=12 / 64,
        interval=difference_interval([1.0] * 14 + [-1.0] * 2 + [0.0] * 48),
        p=mcnemar_exact(gained=14, lost=2),
        alpha=0.2,
        is_better=True,
    )


@pytest.mark.parametrize(("won", "lost"), [(3, 2), (0, 0), (2, 3), (1, 0)])
def test_a_winner_that_is_not_proven_better_is_not(won, lost):
    assert not confirm([stratum(won, lost, tied=40)], alpha=0.2).is_better


def test_no_alpha_freezes_a_winner_that_is_no_better():
    assert not confirm([stratum(won=5, lost=5, tied=40)], alpha=1.0).is_better


def test_the_level_that_was_asked_for_decides():
    three = [stratum(won=3, lost=0, tied=20)]
    assert confirm(three, alpha=0.2).p == mcnemar_exact(gained=3, lost=0) == 0.125
    assert confirm(three, alpha=0.125).is_better
    assert not confirm(three, alpha=0.0624).is_better


def test_the_weighted_mean_of_both_arms_is_reported():
    heavy = stratum(won=6, lost=0, tied=4, metric="test_routes", weight=3.0)
    light = stratum(won=0, lost=1, tied=4, metric="test_answers", weight=1.0)
    confirmation = confirm([heavy, light], alpha=0.2)
    assert confirmation.winner == pytest.approx((3 * 1.0 + 0.8) / 4)
    assert confirmation.incumbent == pytest.approx((3 * 0.4 + 1.0) / 4)
    assert confirmation.difference == pytest.approx(confirmation.winner - confirmation.incumbent)
    assert confirmation.is_better
    assert not confirm([light, stratum(6, 0, 4, weight=0.05)], alpha=0.2).is_better


def test_a_row_that_two_metrics_share_counts_once():
    pairs = [tuple(Pair(winner=1.0, incumbent=0.0, group=f"{which}{i}") for i in range(3)) for which in ("a", "a", "b")]
    first, same_rows, other_rows = (Stratum(metric=str(i), pairs=each) for i, each in enumerate(pairs))
    assert confirm([first, same_rows], alpha=0.2).p == 1 / 2**3
    assert confirm([first, other_rows], alpha=0.2).p == 1 / 2**6


def test_a_metric_without_sealed_rows_weighs_nothing():
    full = stratum(won=4, lost=1, tied=10)
    assert confirm([full, Stratum(metric="empty", pairs=())], alpha=0.2) == confirm([full], alpha=0.2)


def test_no_sealed_row_at_all_is_refused():
    with pytest.raises(ValueError, match="no sealed row"):
        confirm([Stratum(metric="empty", pairs=())], alpha=0.2)


@quickly
@given(
    st.lists(
        st.tuples(st.floats(0.1, 4.0), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8)),
        min_size=1,
        max_size=3,
    )
)
def test_swapping_the_arms_mirrors_the_answer(drawn):
    def strata(*, swap: bool) -> list[Stratum]:
        return [
            Stratum(
                metric=str(index),
                weight=weight,
                pairs=tuple(Pair(winner=b if swap else a, incumbent=a if swap else b) for a, b in scores),
            )
            for index, (weight, scores) in enumerate(drawn)
        ]

    there, back = confirm(strata(swap=False), alpha=0.2), confirm(strata(swap=True), alpha=0.2)
    assert (there.winner, there.incumbent) == (back.incumbent, back.winner)
    assert there.difference == pytest.approx(-back.difference)
    assert there.interval.low == pytest.approx(-back.interval.high)
    assert not (there.is_better and back.is_better)


def test_the_levels_halve_and_add_up_to_twice_the_first():
    levels = [spent_alpha(0.2, before) for before in range(2000)]
    assert levels[:3] == [0.2, 0.1, 0.05]
    assert sum(levels) <= 0.4


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_luck_is_frozen_in_no_more_than_alpha_of_the_runs(alpha):
    rng = Random(1)
    assert sum(frozen_at(1, alpha=alpha, rng=rng) for _ in range(1500)) / 1500 <= alpha + 0.02


def test_ten_lucky_winners_on_the_same_rows_stay_below_twice_alpha():
    rng = Random(2)
    spent = sum(frozen_at(10, alpha=0.2, rng=rng) for _ in range(400)) / 400
    # At one level for all, ten attempts would freeze luck in more than half of the runs.
    assert spent < 0.32
