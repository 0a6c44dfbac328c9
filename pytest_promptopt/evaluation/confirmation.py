"""Is the winner better than what stands, on rows the search never saw?

The answer is one weighted difference over all metrics of the objective, tested once. Every further winner tried on
the same rows has to be surer than the one before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_promptopt.evaluation.statistics import (
    Groups,
    Interval,
    difference_interval,
    mean,
    p_surely_better,
    pooled_differences,
    stratified_sign_flip,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One sealed row under both arms. Pairs that share a ``group``, in any metric, move together."""

    winner: float
    incumbent: float
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """One metric's sealed rows, and its weight in the objective."""

    metric: str
    pairs: tuple[Pair, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What the sealed rows say: both arms' weighted means, their difference with its 90 % interval, and p.

    ``alpha`` is what p had to reach; ``is_better`` claims a higher mean and p at or below it.
    """

    winner: float
    incumbent: float
    difference: float
    interval: Interval
    p: float
    alpha: float
    is_better: bool


def confirm(strata: Sequence[Stratum], *, alpha: float) -> Confirmation:
    """Weigh the winner against the incumbent over all ``strata``; those without pairs weigh nothing.

    One metric is tested by :func:`~pytest_promptopt.evaluation.statistics.p_surely_better`, several by one stratified
    sign flip of the weighted difference: tests that keep their level, since what is frozen stays.
    Raises ``ValueError`` when no stratum has a pair.
    """
    filled = [stratum for stratum in strata if stratum.pairs]
    if not filled:
        raise ValueError("no sealed row to confirm on")
    winner = _weighted(filled, [mean([pair.winner for pair in stratum.pairs]) for stratum in filled])
    incumbent = _weighted(filled, [mean([pair.incumbent for pair in stratum.pairs]) for stratum in filled])
    compared = [(stratum.weight, _differences(stratum), _groups(stratum)) for stratum in filled]
    p = p_surely_better(*compared[0][1:]) if len(compared) == 1 else stratified_sign_flip(compared)
    pooled, groups = pooled_differences(compared)
    difference = mean(pooled)
    return Confirmation(
        winner=winner,
        incumbent=incumbent,
        difference=difference,
        interval=difference_interval(pooled, groups),
        p=p,
        alpha=alpha,
        is_better=difference > 0 and p <= alpha,
    )


def spent_alpha(alpha: float, distinct_winners_before: int) -> float:
    """What the next winner's p has to reach after others were tried on the same rows: half as much after each.

    The halves add up to ``2 * alpha`` at most, however many winners follow.
    """
    return math.ldexp(alpha, -distinct_winners_before)


def _weighted(strata: Sequence[Stratum], means: Sequence[float]) -> float:
    total_weight = math.fsum(stratum.weight for stratum in strata)
    return math.fsum(stratum.weight * each for stratum, each in zip(strata, means, strict=True)) / total_weight


def _differences(stratum: Stratum) -> list[float]:
    return [pair.winner - pair.incumbent for pair in stratum.pairs]


def _groups(stratum: Stratum) -> Groups:
    return [pair.group for pair in stratum.pairs]
