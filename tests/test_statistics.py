"""Intervals cover, tests keep their level, and every formula agrees with scipy or with published tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.evaluation.statistics import (
    Interval,
    bonett_price,
    difference_interval,
    group_sums,
    mcnemar_midp,
    mean_interval,
    p_better,
    p_worse,
    pooled_differences,
    provable_drop,
    rows_to_settle,
    sign_flip,
    stratified_sign_flip,
    wilson,
)

quickly = settings(max_examples=60, deadline=None, derandomize=True)
binary = st.sampled_from([0.0, 1.0])
unit = st.floats(0.0, 1.0)
flips = st.sampled_from([-1.0, 0.0, 1.0])
difference = st.floats(-1.0, 1.0)


def bounds(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def coverage(draw: Callable[[], Interval], truth: float, runs: int = 1000) -> float:
    intervals = [draw() for _ in range(runs)]
    return sum(each.low <= truth <= each.high for each in intervals) / runs


def drawn_flips(rng: Random, n: int, *, losing: float, gaining: float) -> list[float]:
    return rng.choices([-1.0, 1.0, 0.0], weights=[losing, gaining, 1 - losing - gaining], k=n)


# --- one mean ---


@pytest.mark.parametrize(("passes", "n"), [(0, 3), (1, 1), (8, 10), (59, 64), (200, 200)])
def test_wilson_is_scipys(passes, n):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(passes, n).proportion_ci(confidence_level=0.9, method="wilson")
    assert bounds(wilson(passes, n)) == pytest.approx((expected.low, expected.high))


def test_no_rows_tell_nothing():
    assert bounds(wilson(0, 0)) == bounds(mean_interval([])) == (0.0, 1.0)
    assert bounds(difference_interval([])) == (-1.0, 1.0)


@quickly
@given(st.lists(binary, min_size=1, max_size=80))
def test_the_interval_of_a_pass_rate_is_wilsons(scores):
    assert bounds(mean_interval(scores)) == pytest.approx(bounds(wilson(sum(scores), len(scores))), abs=1e-12)


@quickly
@given(st.lists(st.tuples(unit, st.sampled_from([None, "a", "b", "c"])), min_size=1, max_size=40))
def test_a_mean_lies_in_its_interval_and_both_in_the_scale(rows):
    scores, groups = zip(*rows, strict=True)
    interval = mean_interval(scores, groups)
    assert 0.0 <= interval.low <= sum(scores) / len(scores) + 1e-12
    assert sum(scores) / len(scores) - 1e-12 <= interval.high <= 1.0


@quickly
@given(st.integers(1, 60), st.data())
def test_a_pass_more_raises_both_bounds(n, data):
    passes = data.draw(st.integers(0, n - 1))
    fewer, more = wilson(passes, n), wilson(passes + 1, n)
    assert fewer.low < more.low
    assert fewer.high < more.high


@pytest.mark.parametrize("level", [0.0, 0.5, 0.97, 1.0])
def test_equal_scores_do_not_claim_certainty_and_more_of_them_claim_more(level):
    widths = [high - low for low, high in (bounds(mean_interval([level] * n)) for n in (3, 10, 50))]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] > 0.01


@pytest.mark.parametrize("n", [5, 10, 64])
@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda rng: float(rng.random() < 0.9), 0.9),
        (lambda rng: rng.betavariate(18, 2), 0.9),
        (lambda rng: 1.0 if rng.random() < 0.8 else rng.random(), 0.9),
        (lambda rng: rng.betavariate(2, 2), 0.5),
    ],
    ids=["pass or fail", "close to 1", "mostly 1", "spread out"],
)
def test_nine_of_ten_intervals_hold_the_true_mean(draw, truth, n):
    rng = Random(5)
    assert coverage(lambda: mean_interval([draw(rng) for _ in range(n)]), truth) >= 0.89


def test_graded_scores_that_agree_are_worth_more_rows_than_passes():
    graded, passes = mean_interval([0.85, 0.95] * 32), wilson(0.9 * 64, 64)
    assert graded.high - graded.low < 0.6 * (passes.high - passes.low)


@pytest.mark.parametrize("copies", [2, 5])
def test_copies_of_a_row_in_one_group_add_no_certainty(copies):
    scores, keys = [1.0, 0.0, 1.0, 1.0, 0.3], list("abcde")
    copied = mean_interval(scores * copies, keys * copies)
    assert bounds(copied) == pytest.approx(bounds(mean_interval(scores)))
    moved = [0.5, -1.0, 0.0, 0.25, -0.5]
    assert bounds(difference_interval(moved * copies, keys * copies)) == pytest.approx(
        bounds(difference_interval(moved))
    )


def test_groups_that_rise_and_fall_together_keep_the_coverage():
    rng = Random(11)

    def draw() -> tuple[list[float], list[str]]:
        rates = [rng.betavariate(3.2, 0.8) for _ in range(15)]
        return [float(rng.random() < rate) for rate in rates for _ in range(6)], [str(i // 6) for i in range(90)]

    assert coverage(lambda: mean_interval(*draw()), 0.8) >= 0.89
    assert coverage(lambda: mean_interval(draw()[0]), 0.8) < 0.80, "without their groups they would not"


# --- a paired difference ---


def test_bonett_price_gives_the_worked_example():
    assert bounds(bonett_price(14, 2, 64)) == pytest.approx((-0.2809, -0.0827), abs=5e-5)


@quickly
@given(st.lists(flips, min_size=1, max_size=60))
def test_the_interval_of_flips_is_bonett_and_prices(differences):
    expected = bonett_price(differences.count(-1.0), differences.count(1.0), len(differences))
    assert bounds(difference_interval(differences)) == pytest.approx(bounds(expected), abs=1e-12)


@quickly
@given(st.lists(st.tuples(difference, st.sampled_from([None, "a", "b"])), min_size=1, max_size=40))
def test_a_difference_lies_in_its_interval_and_mirrors(rows):
    differences, groups = zip(*rows, strict=True)
    interval = difference_interval(differences, groups)
    assert -1.0 <= interval.low <= sum(differences) / len(differences) + 1e-12
    assert sum(differences) / len(differences) - 1e-12 <= interval.high <= 1.0
    mirrored = difference_interval([-each for each in differences], groups)
    assert bounds(mirrored) == pytest.approx((-interval.high, -interval.low))


@pytest.mark.parametrize("n", [10, 50])
def test_nine_of_ten_intervals_hold_the_true_difference(n):
    rng = Random(2)
    flipped = coverage(lambda: difference_interval(drawn_flips(rng, n, losing=0.15, gaining=0.05)), -0.1)
    graded = coverage(lambda: difference_interval([rng.gauss(-0.05, 0.1) for _ in range(n)]), -0.05)
    assert min(flipped, graded) >= 0.89


# --- paired tests ---


@pytest.mark.parametrize(("lost", "gained"), [(1, 0), (0, 4), (3, 1), (14, 2), (40, 40), (300, 270)])
def test_mcnemar_is_scipys_binomial_tail_with_half_the_tie(lost, gained):
    stats = pytest.importorskip("scipy.stats")
    flipped = stats.binom(lost + gained, 0.5)
    assert mcnemar_midp(lost, gained) == pytest.approx(flipped.sf(lost) + flipped.pmf(lost) / 2)


def test_no_flip_is_no_evidence():
    assert mcnemar_midp(0, 0) == sign_flip([]) == sign_flip([0.0] * 5) == p_worse([0.0] * 30) == 1.0


@quickly
@given(st.integers(0, 60), st.integers(0, 60))
def test_a_loss_more_is_stronger_evidence_and_a_gain_more_weaker(lost, gained):
    p = mcnemar_midp(lost, gained)
    assert 0.0 < mcnemar_midp(lost + 1, gained) < p <= 1.0
    assert mcnemar_midp(lost, gained + 1) > p or lost + gained == 0


@pytest.mark.parametrize(
    "differences",
    [[0.5, 0.25, -0.125, 0.4], [0.25, 0.5, -0.75, 0.0, 0.0], [-0.2] * 6, [0.1] * 3 + [-0.1] * 2 + [0.7, -0.4, 0.2]],
)
def test_the_exact_sign_flip_is_scipys(differences):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.permutation_test(
        (differences,),
        lambda sample, axis: sample.mean(axis=axis),
        permutation_type="samples",
        alternative="greater",
        n_resamples=10_000,
        vectorized=True,
    )
    assert sign_flip(differences) == pytest.approx(expected.pvalue)


def test_drawn_sign_patterns_agree_with_all_of_them():
    rng = Random(4)
    sixteen = [rng.gauss(0.05, 0.2) for _ in range(16)]
    # A seventeenth unit too small to matter makes the difference between walking the patterns and drawing them.
    assert sign_flip([*sixteen, 1e-6]) == pytest.approx(sign_flip(sixteen), abs=0.01)


def test_a_thousand_units_follow_the_normal_limit():
    normal = NormalDist()
    rng = Random(13)
    differences = [rng.gauss(0.01, 0.2) for _ in range(1100)]
    z = math.fsum(differences) / math.sqrt(math.fsum(each * each for each in differences))
    assert sign_flip(differences) == pytest.approx(1 - normal.cdf(z), abs=0.01)


def test_a_drawn_p_is_never_zero_and_repeats_under_one_seed():
    sure = [0.1 + 0.001 * i for i in range(40)]
    assert sign_flip(sure, draws=999) == 1 / 1000
    mixed = [0.1 * (i % 7 - 3) + 0.01 for i in range(40)]
    assert sign_flip(mixed, draws=999) == sign_flip(mixed, draws=999)
    assert sign_flip(mixed, seed=1, draws=999) != sign_flip(mixed, draws=999)


def test_ties_survive_decimal_scores():
    # 0.1 + 0.2 is not 0.3 in binary; on paper the patterns +0.3 and +0.1 +0.2 tie.
    assert sign_flip([0.1, 0.2, -0.3]) == sign_flip([1, 2, -3]) == 5 / 8


@quickly
@given(st.lists(st.tuples(difference, st.sampled_from([None, None, None, "a", "b"])), max_size=40), st.randoms())
def test_the_order_of_rows_changes_nothing(rows, rng):
    shuffled = rng.sample(rows, len(rows))
    ordered = [list(column) for column in zip(*rows, strict=True)] or [[], []]
    mixed = [list(column) for column in zip(*shuffled, strict=True)] or [[], []]
    assert p_worse(*ordered) == p_worse(*mixed)
    assert bounds(difference_interval(*ordered)) == pytest.approx(bounds(difference_interval(*mixed)))


@quickly
@given(st.lists(difference, max_size=12))
def test_better_and_worse_mirror_each_other(differences):
    mirrored = [-each for each in differences]
    assert p_better(differences) == p_worse(mirrored)
    assert 0.0 < p_worse(differences) <= 1.0


def test_flips_of_whole_points_are_mcnemars_and_others_are_sign_flips():
    assert p_worse([-1.0] * 3 + [1.0] + [0.0] * 12) == mcnemar_midp(3, 1) == 0.1875
    assert p_worse([-0.5] * 3 + [1.0]) == sign_flip([0.5] * 3 + [-1.0])


def test_rows_of_a_group_flip_together():
    losses, keys = [-1.0] * 8, list("aaaabbbb")
    assert group_sums(losses, keys) == [-4.0, -4.0]
    assert p_worse(losses, keys) == 0.25
    assert p_worse(losses) == mcnemar_midp(8, 0) < 0.01
    assert p_worse([-1.0, 1.0, -1.0], ["a", "a", None]) == mcnemar_midp(1, 0)


@pytest.mark.parametrize("n", [10, 30, 100])
def test_an_unchanged_prompt_that_flips_rows_is_called_worse_in_at_most_five_of_a_hundred_runs(n):
    rng = Random(8)
    runs = [p_worse(drawn_flips(rng, n, losing=0.1, gaining=0.1)) <= 0.05 for _ in range(2000)]
    assert sum(runs) / len(runs) <= 0.06


def test_the_published_power_is_reached():
    rng = Random(9)
    runs = [p_worse(drawn_flips(rng, 100, losing=0.2, gaining=0.1)) <= 0.05 for _ in range(2000)]
    assert sum(runs) / len(runs) == pytest.approx(0.58, abs=0.03)


def test_grouped_noise_keeps_the_level_that_ungrouped_it_would_break():
    rng = Random(10)

    def run() -> tuple[Sequence[float], Sequence[str]]:
        moves = [rng.choice([-1.0, 0.0, 0.0, 1.0]) for _ in range(14)]
        return [move for move in moves for _ in range(4)], [str(i // 4) for i in range(56)]

    runs = [run() for _ in range(300)]
    assert sum(p_worse(*each) <= 0.05 for each in runs) / 300 <= 0.07
    assert sum(p_worse(differences) <= 0.05 for differences, _ in runs) / 300 > 0.15


# --- several metrics ---


@quickly
@given(
    st.lists(
        st.tuples(st.floats(0.1, 5.0), st.lists(difference, min_size=1, max_size=8), st.none()), min_size=1, max_size=3
    )
)
def test_pooled_rows_have_the_weighted_mean(strata):
    values, _ = pooled_differences(strata)
    weights = [weight for weight, _, _ in strata]
    means = [sum(rows) / len(rows) for _, rows, _ in strata]
    expected = sum(weight * each for weight, each in zip(weights, means, strict=True)) / sum(weights)
    assert sum(values) / len(values) == pytest.approx(expected)


def test_one_metric_pools_to_itself_and_an_empty_one_weighs_nothing():
    one = (3.0, [0.5, -1.0], ["a", None])
    assert pooled_differences([one]) == pooled_differences([one, (9.0, [], None)]) == ([0.5, -1.0], ["a", None])


def test_a_key_shared_by_two_metrics_flips_in_both():
    gains, keys = [1.0] * 4, list("abcd")
    apart = stratified_sign_flip([(1.0, gains, None), (1.0, gains, None)])
    together = stratified_sign_flip([(1.0, gains, keys), (1.0, gains, keys)])
    assert (apart, together) == (1 / 2**8, 1 / 2**4)


def test_a_heavier_metric_outvotes_a_lighter_one():
    better, worse = [1.0] * 6, [-1.0] * 6
    assert stratified_sign_flip([(10.0, better, None), (1.0, worse, None)]) < 0.05
    assert stratified_sign_flip([(1.0, better, None), (10.0, worse, None)]) > 0.95


# --- sample sizes ---


@pytest.mark.parametrize(
    ("drop", "rows"),
    [
        (0.02, (617, 1235, 1853, 3399, 4945)),
        (0.03, (342, 617, 892, 1579, 2266)),
        (0.05, (172, 270, 369, 617, 864)),
        (0.10, (73, 97, 122, 184, 246)),
        (0.15, (45, 56, 67, 95, 122)),
        (0.20, (32, 39, 45, 60, 76)),
    ],
)
def test_sample_sizes_are_those_of_the_published_table(drop, rows):
    # The table was taken with z rounded to three digits.
    assert [rows_to_settle(drop, idle_flips=q) for q in (0.01, 0.03, 0.05, 0.10, 0.15)] == pytest.approx(rows, abs=1)


def test_what_was_seen_replaces_the_assumed_idle_flips():
    assert rows_to_settle(0.125, mean_square=4 / 16) == rows_to_settle(0.125, idle_flips=1 / 16) == 97


def test_that_many_rows_do_settle_it():
    rng = Random(12)
    n = rows_to_settle(0.1)
    runs = [p_worse(drawn_flips(rng, n, losing=0.13, gaining=0.03)) <= 0.05 for _ in range(1000)]
    assert sum(runs) / len(runs) == pytest.approx(0.80, abs=0.05)


@quickly
@given(st.integers(8, 500), st.floats(0.01, 0.1), st.floats(0.5, 0.95))
def test_the_provable_drop_is_settled_by_just_so_many_rows(n, alpha, power):
    drop = provable_drop(n, alpha=alpha, power=power)
    assert drop == 1.0 or rows_to_settle(drop, alpha=alpha, power=power) in (n, n + 1)
    assert provable_drop(n + 1, alpha=alpha, power=power) <= drop


def test_a_handful_of_rows_proves_only_that_everything_broke():
    assert provable_drop(1) == provable_drop(2) == 1.0
    assert provable_drop(16) == pytest.approx(0.39, abs=0.01)
