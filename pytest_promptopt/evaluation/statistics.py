"""How sure can we be? Intervals, paired tests and sample sizes for scores between 0 and 1.

All of it is standard library, deterministic, and blind to the order of rows. Rows that share a group (four questions
about one document, say) move together, so they count as one observation as far as they do.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from operator import getitem
from random import Random
from statistics import NormalDist
from typing import TypeAlias

Groups: TypeAlias = "Sequence[str | None] | None"
"""One group key per value, ``None`` for a row of its own; or ``None`` when no row shares anything."""

EXACT_UNITS = 16
"""Up to here all 2**16 sign patterns are walked; beyond it patterns are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Where a true mean (in [0, 1]) or a true difference (in [-1, 1]) plausibly lies."""

    low: float
    high: float


def mean(values: Sequence[float]) -> float:
    """The mean, correctly rounded, so that no order of rows changes its last digit."""
    return math.fsum(values) / len(values)


# --- intervals --------------------------------------------------------------------------------------------------------


def wilson(passes: float, n: float, *, confidence: float = 0.90) -> Interval:
    """The score interval of a pass rate (Wilson 1927), two-sided; sound near 0 and 1 and for a handful of rows."""
    if n <= 0:
        return Interval(low=0.0, high=1.0)
    z, rate = _two_sided_z(confidence), passes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    reach = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # Rounding alone could push the bound past the rate at rates of 0 and 1.
    return Interval(low=max(0.0, min(rate, centre - reach)), high=min(1.0, max(rate, centre + reach)))


def mean_interval(scores: Sequence[float], groups: Groups = None, *, confidence: float = 0.90) -> Interval:
    """The interval of a mean score: Wilson's, with the number of rows that the scores are worth.

    A mean of graded scores spreads less than a pass rate, one of grouped rows spreads more. The effective number of
    rows is ``n * m * (1 - m) / variance``, both moments taken with one more observation at 0 and one at 1 (the idea of
    Agresti & Coull 1998), so that ten equal scores do not claim certainty. For ungrouped 0/1 scores it is ``n``, and
    the interval Wilson's own.
    """
    if not scores:
        return Interval(low=0.0, high=1.0)
    moments = _padded_moments(_clusters(scores, groups), low=0.0, high=1.0)
    rows_worth = len(scores) * moments.mean * (1 - moments.mean) / moments.variance
    return wilson(mean(scores) * rows_worth, rows_worth, confidence=confidence)


def bonett_price(lost: int, gained: int, n: int, *, confidence: float = 0.90) -> Interval:
    """The interval of ``(gained - lost) / n`` over ``n`` pairs of 0/1 scores (Bonett & Price 2012, adjusted Wald)."""
    z = _two_sided_z(confidence)
    losing, gaining = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    centre = gaining - losing
    return _within_scale(centre, z * math.sqrt((losing + gaining - centre**2) / (n + 2)))


def difference_interval(differences: Sequence[float], groups: Groups = None, *, confidence: float = 0.90) -> Interval:
    """The interval of a mean paired difference, graded and grouped rows included.

    Bonett & Price's interval carried over: two more observations, at plus and minus the largest difference seen
    (1 when nothing moved), then the clustered standard error. For ungrouped 0/1 scores it is theirs exactly.
    """
    if not differences:
        return Interval(low=-1.0, high=1.0)
    largest = max(map(abs, differences)) or 1.0
    moments = _padded_moments(_clusters(differences, groups), low=-largest, high=largest)
    return _within_scale(moments.mean, _two_sided_z(confidence) * math.sqrt(moments.variance / moments.n))


def _two_sided_z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _within_scale(centre: float, reach: float) -> Interval:
    return Interval(low=max(-1.0, centre - reach), high=min(1.0, centre + reach))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moments:
    n: float
    mean: float
    variance: float


def _padded_moments(clusters: Sequence[Sequence[float]], *, low: float, high: float) -> _Moments:
    """Mean and clustered variance of one row, with one more cluster of average size at either end of the scale.

    The variance of the mean is ``variance / n`` (Liang & Zeger 1986; Miller 2024, arXiv:2411.00640).
    """
    size = sum(map(len, clusters)) / len(clusters)
    n = size * (len(clusters) + 2)
    sums = [math.fsum(cluster) for cluster in clusters]
    centre = (math.fsum(sums) + size * (low + high)) / n
    deviations = [total - len(cluster) * centre for total, cluster in zip(sums, clusters, strict=True)]
    deviations += [size * (low - centre), size * (high - centre)]
    return _Moments(n=n, mean=centre, variance=math.fsum(each * each for each in deviations) / n)


def _clusters(values: Sequence[float], groups: Groups) -> list[list[float]]:
    if groups is None:
        return [[value] for value in values]
    alone: list[list[float]] = []
    shared: defaultdict[str, list[float]] = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        if group is None:
            alone.append([value])
        else:
            shared[group].append(value)
    return [*alone, *shared.values()]


def group_sums(values: Sequence[float], groups: Groups = None) -> list[float]:
    """The sum of each group, and each value that has none: the units that move independently."""
    return [math.fsum(cluster) for cluster in _clusters(values, groups)]


# --- paired tests -----------------------------------------------------------------------------------------------------


def p_worse(differences: Sequence[float], groups: Groups = None) -> float:
    """One-sided p that chance alone makes the mean of ``differences`` (new minus old) this low."""
    return p_better([-each for each in differences], groups)


def p_better(differences: Sequence[float], groups: Groups = None) -> float:
    """One-sided p that chance alone makes the mean of ``differences`` (new minus old) this high.

    McNemar's mid-p when every group moved by one whole point or not at all, as 0/1 scores do; else sign flips.
    A difference of one whole point can only lie between a 0 and a 1, so nobody needs to say which kind it is.
    """
    moved = [unit for unit in group_sums(differences, groups) if unit]
    if any(abs(unit) != 1.0 for unit in moved):
        return sign_flip(moved)
    ups = sum(unit > 0 for unit in moved)
    return mcnemar_midp(lost=ups, gained=len(moved) - ups)


def mcnemar_midp(lost: int, gained: int) -> float:
    """One-sided mid-p that chance alone lost so many of the rows that flipped (Fagerland, Lydersen & Laake 2013).

    ``P(X > lost) + P(X = lost) / 2`` for ``X ~ Binomial(lost + gained, 1/2)``; 1 when no row flipped. Swap the two
    to ask about the gain.
    """
    flips = lost + gained
    if not flips:
        return 1.0
    ways = halves = math.comb(flips, lost)
    for count in range(lost + 1, flips + 1):
        ways = ways * (flips - count + 1) // count
        halves += 2 * ways
    return halves / (1 << (flips + 1))


def p_surely_better(differences: Sequence[float], groups: Groups = None) -> float:
    """:func:`p_better` by a test that keeps its level whatever the rows: McNemar's exact test, else sign flips.

    The mid-p is right on average and errs a little on either side; this one errs on the safe side alone, at the price
    of some power.
    """
    moved = [unit for unit in group_sums(differences, groups) if unit]
    if any(abs(unit) != 1.0 for unit in moved):
        return sign_flip(moved)
    return mcnemar_exact(gained=sum(unit > 0 for unit in moved), lost=sum(unit < 0 for unit in moved))


def mcnemar_exact(*, gained: int, lost: int) -> float:
    """One-sided p that chance alone gained so many of the rows that flipped (McNemar 1947, by the binomial).

    ``P(X >= gained)`` for ``X ~ Binomial(gained + lost, 1/2)``; 1 when no row flipped.
    """
    flips = gained + lost
    return sum(math.comb(flips, count) for count in range(gained, flips + 1)) / (1 << flips)


def sign_flip(differences: Sequence[float], groups: Groups = None, *, seed: int = 0, draws: int = 20_000) -> float:
    """One-sided p that random signs make the sum of ``differences`` this high (Fisher 1935; small means "above 0").

    Rows of a group flip together. Exact up to 16 units that moved, else ``(r + 1) / (draws + 1)`` over drawn sign
    patterns (Phipson & Smyth 2010). 1 when nothing moved.
    """
    # Sorted, so that the drawn patterns meet the same units in whatever order the rows arrive.
    moved = sorted(unit for unit in group_sums(differences, groups) if unit)
    if not moved:
        return 1.0
    sizes = [abs(unit) for unit in moved]
    # The sum is as high as observed when what keeps a plus sign adds up to what has one now. The slack keeps
    # patterns that tie with the observed one from falling out by a rounding error.
    bar = math.fsum(unit for unit in moved if unit > 0) - 1e-9 * math.fsum(sizes)
    if len(sizes) > EXACT_UNITS:
        return _drawn_share(sizes, bar, rng=Random(seed), draws=draws)
    sums = _subset_sums(sizes)
    return sum(each >= bar for each in sums) / len(sums)


def stratified_sign_flip(
    strata: Sequence[tuple[float, Sequence[float], Groups]], *, seed: int = 0, draws: int = 20_000
) -> float:
    """:func:`sign_flip` of ``Σ weight · mean / Σ weight`` over several metrics' ``(weight, differences, groups)``.

    Rows with one key flip together across the metrics too: the same ticket routed better is often answered better.
    """
    values, groups = pooled_differences(strata)
    return sign_flip(values, groups, seed=seed, draws=draws)


def pooled_differences(
    strata: Sequence[tuple[float, Sequence[float], Groups]],
) -> tuple[list[float], list[str | None]]:
    """All rows of several ``(weight, differences, groups)``, scaled so that their plain mean is the weighted mean.

    One stratum comes back as it is. A stratum without rows weighs nothing.
    """
    filled = [stratum for stratum in strata if stratum[1]]
    n = sum(len(differences) for _, differences, _ in filled)
    total_weight = math.fsum(weight for weight, _, _ in filled)
    values: list[float] = []
    keys: list[str | None] = []
    for weight, differences, groups in filled:
        scale = (weight / total_weight) * (n / len(differences))
        values += [scale * each for each in differences]
        keys += groups or [None] * len(differences)
    return values, keys


def _subset_sums(sizes: Sequence[float]) -> list[float]:
    """The sums of all 2**k subsets of ``sizes``."""
    sums = [0.0]
    for size in sizes:
        sums += [each + size for each in sums]
    return sums


def _drawn_share(sizes: Sequence[float], bar: float, *, rng: Random, draws: int) -> float:
    """The share of random subsets that add up to ``bar``; eight coins a byte, each byte looked up in a table."""
    padded = [*sizes, *[0.0] * (-len(sizes) % 8)]
    totals = [0.0] * draws
    # 512 units at a time: their 64 tables fit a processor's cache, those of 10,000 would not.
    for start in range(0, len(padded), 512):
        block = padded[start : start + 512]
        tables = [_subset_sums(block[eight : eight + 8]) for eight in range(0, len(block), 8)]
        totals = [total + sum(map(getitem, tables, rng.randbytes(len(tables)))) for total in totals]
    return (sum(total >= bar for total in totals) + 1) / (draws + 1)


# --- sample sizes -----------------------------------------------------------------------------------------------------


def rows_to_settle(
    drop: float,
    *,
    idle_flips: float = 0.03,
    mean_square: float | None = None,
    alpha: float = 0.05,
    power: float = 0.80,
) -> int:
    """How many paired rows prove a true ``drop`` at one-sided ``alpha`` in ``power`` of runs (Miettinen 1968).

    ``idle_flips`` is the share of rows that flip either way for no reason. ``mean_square`` replaces it by what was
    seen: the mean squared difference, which for 0/1 scores is the share of rows that flipped.
    """
    seen = drop + 2 * idle_flips if mean_square is None else mean_square
    return math.ceil(_rows_needed(drop, seen, alpha=alpha, power=power))


def provable_drop(n: int, *, alpha: float = 0.05, power: float = 0.80, idle_flips: float = 0.03) -> float:
    """The smallest drop that ``n`` paired rows prove: :func:`rows_to_settle` the other way round; at most 1."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if _rows_needed(middle, middle + 2 * idle_flips, alpha=alpha, power=power) > n:
            low = middle
        else:
            high = middle
    return high


def _rows_needed(drop: float, mean_square: float, *, alpha: float, power: float) -> float:
    """``((z_alpha * √π + z_power * √(π - drop²)) / drop)²`` with π the mean squared difference."""
    by_chance, in_truth = NormalDist().inv_cdf(1 - alpha), NormalDist().inv_cdf(power)
    spread = min(1.0, max(mean_square, drop * drop))
    needed = by_chance * math.sqrt(spread) + in_truth * math.sqrt(spread - drop * drop)
    return (needed / drop) ** 2
