"""Intervals hold the truth as often as they say, counted over every outcome or over many draws."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_promptopt.evaluation.statistics import bonett_price, mcnemar_exact, mcnemar_midp, sign_flip, wilson

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("rows", [10, 20, 50, 100, 200])
def test_wilson_holds_nine_of_ten_pass_rates(rows):
    """Exact: the chance of every count of passes, at many true rates."""
    passes = np.arange(rows + 1)
    lows, highs = zip(*[(each.low, each.high) for each in (wilson(int(count), rows) for count in passes)], strict=True)
    rates = np.linspace(0.02, 0.98, 193)
    holds = (np.array(lows) <= rates[:, None]) & (rates[:, None] <= np.array(highs))
    covered = (stats.binom.pmf(passes, rows, rates[:, None]) * holds).sum(axis=1)
    assert covered.mean() == pytest.approx(0.90, abs=0.015)
    assert covered.min() > 0.80


@pytest.mark.parametrize(("rows", "least", "most"), [(10, 0.93, 1.0), (50, 0.91, 0.975), (200, 0.89, 0.935)])
@pytest.mark.parametrize(("losing", "gaining"), [(0.03, 0.03), (0.1, 0.1), (0.13, 0.03), (0.2, 0.1)])
def test_bonett_price_holds_at_least_nine_of_ten_differences(rows, least, most, losing, gaining):
    rng = np.random.default_rng(1)
    drawn = rng.multinomial(rows, [losing, gaining, 1 - losing - gaining], size=20_000)
    counts, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
    intervals = [bonett_price(int(lost), int(gained), rows) for lost, gained in counts]
    holds = [each.low <= gaining - losing <= each.high for each in intervals]
    assert least <= np.average(holds, weights=times) <= most


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize(("passes", "rows"), [(0, 10), (3, 10), (50, 100), (99, 100)])
def test_wilson_is_scipys_at_every_confidence(passes, rows, confidence):
    expected = stats.binomtest(passes, rows).proportion_ci(confidence_level=confidence, method="wilson")
    interval = wilson(passes, rows, confidence=confidence)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("gained", "lost"), [(1, 0), (5, 0), (7, 2), (40, 25), (300, 270)])
def test_the_exact_test_is_scipys_binomial_test_and_the_mid_p_half_a_tie_below(gained, lost):
    exact = stats.binomtest(gained, gained + lost, 0.5, alternative="greater").pvalue
    assert mcnemar_exact(gained=gained, lost=lost) == pytest.approx(exact)
    assert mcnemar_midp(gained, lost) == pytest.approx(exact - stats.binom.pmf(gained, gained + lost, 0.5) / 2)


def test_drawn_sign_flips_agree_with_scipys_permutation_test():
    rng = np.random.default_rng(3)
    differences = np.round(rng.normal(0.03, 0.2, size=60), 2)
    expected = stats.permutation_test(
        (differences,),
        lambda sample, axis: sample.mean(axis=axis),
        permutation_type="samples",
        alternative="greater",
        n_resamples=20_000,
        vectorized=True,
        rng=rng,
    )
    assert sign_flip(differences.tolist()) == pytest.approx(expected.pvalue, abs=0.01)
