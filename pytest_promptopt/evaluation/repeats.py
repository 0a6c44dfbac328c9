"""How steady is a prompt on one row? What several replies to it say that their mean hides."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """What ``trials`` scores of every row say about rows and replies.

    ``within_variance`` is how far the scores of one row spread, ``between_variance`` how far the rows' true means do:
    the mean of all has the variance ``(between_variance + within_variance / trials) / rows``. ``flaky`` names the rows
    that passed some of their trials and not all. ``pass_hats`` holds pass^1 to pass^``trials``, the chance that so many
    replies in a row all pass, over all rows; it stays empty where a metric gives grades.
    """

    trials: int
    rows: int
    within_variance: float
    between_variance: float
    flaky: tuple[str, ...] = ()
    pass_hats: tuple[float, ...] = ()

    @property
    def reply_share(self) -> float:
        """The part of the mean's variance that more trials could remove; the rest only more rows can."""
        of_replies = self.within_variance / self.trials
        total = self.between_variance + of_replies
        return of_replies / total if total else 0.0


def pass_hat(passes: int, trials: int, k: int) -> float:
    """pass^k: the chance that ``k`` replies all pass, from ``passes`` of ``trials`` (tau-bench, arXiv:2406.12045).

    ``C(passes, k) / C(trials, k)``, which is right on average for any ``k`` up to ``trials``. Raises ``ValueError``
    for a ``k`` that so many trials say nothing about.
    """
    if not 1 <= k <= trials:
        raise ValueError(f"{trials} trials say nothing about pass^{k}")
    return math.comb(passes, k) / math.comb(trials, k)


def pass_hats(scores: Sequence[float]) -> tuple[float, ...]:
    """pass^1 to pass^n of one row's ``n`` scores; empty where one of them is a grade."""
    if not _are_passes(scores):
        return ()
    return tuple(pass_hat(round(sum(scores)), len(scores), k) for k in range(1, len(scores) + 1))


def is_flaky(scores: Sequence[float]) -> bool:
    """Whether a row passed some of its trials and not all of them."""
    return _are_passes(scores) and 0 < sum(scores) < len(scores)


def measure_repeats(scores: Mapping[str, Sequence[float]]) -> Repeats | None:
    """What the ``scores`` of each row's trials say together; ``None`` where no row was tried more than once.

    Rows with fewer trials than the others, such as those of which one was skipped, are left out.
    """
    trials = max(map(len, scores.values()), default=0)
    rows = {row_id: own for row_id, own in scores.items() if len(own) == trials}
    if trials < 2:
        return None
    within = fmean(variance(own) for own in rows.values())
    return Repeats(
        trials=trials,
        rows=len(rows),
        within_variance=within,
        between_variance=_between_variance(rows.values(), within / trials),
        flaky=tuple(row_id for row_id, own in rows.items() if is_flaky(own)),
        pass_hats=_mean_pass_hats(rows.values()),
    )


def _between_variance(rows: Collection[Sequence[float]], of_replies: float) -> float:
    """The variance of the rows' means, less what their replies add to it (one-way analysis of variance)."""
    return max(0.0, variance(map(fmean, rows)) - of_replies) if len(rows) > 1 else 0.0


def _mean_pass_hats(rows: Collection[Sequence[float]]) -> tuple[float, ...]:
    curves = [pass_hats(own) for own in rows]
    return tuple(map(fmean, zip(*curves, strict=True))) if all(curves) else ()


def _are_passes(scores: Sequence[float]) -> bool:
    return all(score in (0.0, 1.0) for score in scores)
