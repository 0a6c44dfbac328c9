"""Several replies to one row: flaky rows are measured, and the spread of rows told from that of replies."""

from __future__ import annotations

import math
from itertools import combinations
from random import Random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.evaluation.repeats import is_flaky, measure_repeats, pass_hat, pass_hats

quickly = settings(max_examples=60, deadline=None, derandomize=True)
passes = st.sampled_from([0.0, 1.0])
unit = st.floats(0.0, 1.0)


@quickly
@given(st.lists(passes, min_size=1, max_size=7), st.data())
def test_pass_hat_is_the_share_of_choices_of_k_replies_that_all_pass(scores, data):
    k = data.draw(st.integers(1, len(scores)))
    chosen = list(combinations(scores, k))
    assert pass_hat(int(sum(scores)), len(scores), k) == pytest.approx(fmean(map(min, chosen)))


def test_pass_hat_is_right_on_average_where_a_power_of_the_mean_is_not():
    rng = Random(3)
    draws = [sum(rng.random() < 0.7 for _ in range(4)) for _ in range(20_000)]
    assert fmean(pass_hat(each, 4, 3) for each in draws) == pytest.approx(0.7**3, abs=0.01)
    assert fmean((each / 4) ** 3 for each in draws) > 0.7**3 + 0.05


@pytest.mark.parametrize("k", [0, -1, 4])
def test_trials_say_nothing_about_more_replies_than_there_were(k):
    with pytest.raises(ValueError, match="3 trials say nothing about"):
        pass_hat(2, 3, k)


def test_a_row_is_flaky_when_it_passes_now_and_fails_then():
    assert is_flaky([1.0, 0.0, 1.0])
    assert not is_flaky([1.0, 1.0, 1.0])
    assert not is_flaky([0.0, 0.0, 0.0])
    assert not is_flaky([0.4, 0.0, 1.0]), "a grade is no pass"
    assert pass_hats([1.0, 0.0, 1.0]) == pytest.approx((2 / 3, 1 / 3, 0.0))
    assert pass_hats([0.4, 1.0]) == ()


def test_flaky_rows_and_reliability_are_measured_over_all_rows():
    repeats = measure_repeats({"a": [1.0] * 3, "b": [1.0, 0.0, 1.0], "c": [0.0] * 3, "d": [1.0] * 3})
    assert repeats is not None
    assert (repeats.trials, repeats.rows, repeats.flaky) == (3, 4, ("b",))
    assert repeats.pass_hats == pytest.approx(((2 + 2 / 3) / 4, (2 + 1 / 3) / 4, 2 / 4))
    assert repeats.within_variance == pytest.approx(((1 / 3) ** 2 * 2 + (2 / 3) ** 2) / 2 / 4)


def test_one_reply_a_row_says_nothing_about_replies():
    assert measure_repeats({"a": [1.0], "b": [0.0]}) is None
    assert measure_repeats({}) is None


def test_rows_with_fewer_trials_than_the_others_are_left_out():
    repeats = measure_repeats({"a": [1.0, 1.0], "b": [1.0]})
    assert repeats is not None
    assert (repeats.rows, repeats.between_variance, repeats.reply_share) == (1, 0.0, 0.0)


def test_graded_replies_have_variances_and_no_passes():
    repeats = measure_repeats({"a": [0.2, 0.4], "b": [0.9, 0.7]})
    assert repeats is not None
    assert (repeats.flaky, repeats.pass_hats) == ((), ())
    assert repeats.within_variance == pytest.approx(0.02)
    assert repeats.between_variance == pytest.approx(0.125 - 0.01)
    assert repeats.reply_share == pytest.approx(0.01 / 0.125)


@quickly
@given(st.lists(st.lists(unit, min_size=3, max_size=3), min_size=2, max_size=20))
def test_variances_are_never_negative_and_the_share_is_one(rows):
    repeats = measure_repeats({str(number): row for number, row in enumerate(rows)})
    assert repeats is not None
    assert min(repeats.within_variance, repeats.between_variance) >= 0.0
    assert 0.0 <= repeats.reply_share <= 1.0
    assert math.isfinite(repeats.reply_share)


def test_the_two_variances_are_those_that_were_put_in():
    rng = Random(7)
    rates = [rng.betavariate(4, 2) for _ in range(4_000)]
    repeats = measure_repeats(
        {str(row): [float(rng.random() < rate) for _ in range(3)] for row, rate in enumerate(rates)}
    )
    assert repeats is not None
    assert repeats.within_variance == pytest.approx(fmean(rate * (1 - rate) for rate in rates), abs=0.01)
    assert repeats.between_variance == pytest.approx(4 * 2 / (6**2 * 7), abs=0.005)
    assert repeats.pass_hats[2] == pytest.approx(fmean(rate**3 for rate in rates), abs=0.02)


def test_the_variance_of_the_mean_is_made_of_both():
    """Fresh rows and fresh replies: the score moves as far as the two variances say."""
    rng = Random(8)

    def means(rows: int, trials: int) -> tuple[list[float], float]:
        drawn, promised = [], []
        for _ in range(400):
            rates = [rng.betavariate(2, 1) for _ in range(rows)]
            scores = {str(row): [float(rng.random() < p) for _ in range(trials)] for row, p in enumerate(rates)}
            repeats = measure_repeats(scores)
            assert repeats is not None
            drawn.append(fmean(map(fmean, scores.values())))
            promised.append((repeats.between_variance + repeats.within_variance / trials) / rows)
        return drawn, fmean(promised)

    drawn, promised = means(30, 3)
    centre = fmean(drawn)
    assert fmean((each - centre) ** 2 for each in drawn) == pytest.approx(promised, rel=0.2)


def test_the_variances_are_those_of_scipys_analysis_of_variance():
    stats = pytest.importorskip("scipy.stats")
    rng = Random(9)
    rates = [rng.betavariate(2, 1) for _ in range(40)]
    scores = [[float(rng.random() < rate) for _ in range(4)] for rate in rates]
    repeats = measure_repeats({str(row): own for row, own in enumerate(scores)})
    assert repeats is not None
    f = stats.f_oneway(*scores).statistic
    assert repeats.between_variance == pytest.approx((f - 1) * repeats.within_variance / 4)
