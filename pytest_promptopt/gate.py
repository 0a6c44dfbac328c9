"""Did the prompt get worse? One evaluation against one baseline, row by row, gives one verdict.

A gate on "the score must not drop" is a coin flip: it raises the alarm in four of ten runs when nothing changed. So
a metric fails on proof, passes when it lost no more than its margin, and says so when it cannot tell.

Losses too small to prove add up when each is accepted in turn. So every metric has an anchor too, the best scores that
were ever accepted for its rows, and fails when it is proven worse than these.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

from pytest_promptopt.evaluation.statistics import (
    Interval,
    difference_interval,
    group_sums,
    mean,
    mean_interval,
    p_better,
    p_worse,
    provable_drop,
    rows_to_settle,
)

SMALLEST_DROP = 0.01
"""A drop below this fails nobody's build, however well proven."""

FEWEST_ROWS = 10
"""With fewer paired rows no p is computed: one or two of them would decide."""

LEAST_COVERAGE = 0.90
"""The share of the baseline's rows that must be read again for a pass to mean anything."""

ROUNDING = 1e-9
"""Sums of decimal scores miss the limits that people type (0.05, 0.85) in the last digits only."""


ANCHOR_SHARE = 0.2
"""The part of the level that the comparison with the anchor gets, where one stands apart from the baseline.

The parts add up to the level (Bonferroni), so two comparisons raise no more false alarms than one. A fifth is enough:
a slow loss has weeks to become plain, while the change at hand is judged once, at four fifths.
"""

_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


class Outcome(StrEnum):
    """What the gate says, the gravest first. Only ``PASS`` is green; ``INCONCLUSIVE`` is a visible warning."""

    ERRORED = "errored"
    UNRECORDED = "unrecorded"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    PASS = "pass"


Finding: TypeAlias = tuple[Outcome, str]
"""What one rule asks for, and why in a short sentence. The gravest finding decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRow:
    """One row's score in [0, 1] and the digest of its content; rows of one ``group`` move together."""

    id: str
    digest: str
    score: float
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """The best accepted scores by row id, and how many blessings ago they were taken."""

    rows: Mapping[str, ScoredRow]
    blessings: int


class AnchorMove(StrEnum):
    """What accepting new scores does to the anchor; ``WARNED`` keeps it too, though they are proven worse than it."""

    KEPT = "kept"
    WARNED = "warned"
    RAISED = "raised"
    LOWERED = "lowered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome, ``reasons`` for it in short sentences (the deciding ones first), and the facts behind them.

    ``score`` and its 90 % ``interval`` are over all rows read; ``None`` when any row is errored or unrecorded.

    What follows ``is_first_run`` compares with the baseline, and stays empty where that was not possible. The numbers
    speak of ``paired_rows`` rows with equal id and content digest: the baseline's mean on them, the mean difference
    (new minus old), its 90 % interval, and the one-sided p that chance alone makes it this low (``None`` under 10
    rows). ``lost`` and ``gained`` name those that score lower and higher than they did; ``coverage`` is the share of
    the baseline's rows that were paired. ``provable_drop`` is the drop that so many rows prove in 80 % of runs,
    ``rows_to_settle`` how many would so prove the drop that was seen, where it stands unproven beyond the margin.

    What begins with ``anchor`` says the same of the anchor, and stays empty where none stands apart from the baseline:
    its mean on the rows it shares with this run, the mean difference, its p, the rows that score lower than they did
    then, and how many blessings ago that was. ``is_worse`` and ``is_worse_than_anchor`` tell which comparison failed.
    """

    outcome: Outcome
    reasons: tuple[str, ...] = ()
    score: float | None = None
    interval: Interval | None = None
    failed_must_pass: tuple[str, ...] = ()
    is_below_threshold: bool = False
    is_ungated: bool = False
    is_first_run: bool = False
    paired_rows: int = 0
    baseline_score: float | None = None
    difference: float | None = None
    difference_interval: Interval | None = None
    p: float | None = None
    lost: tuple[str, ...] = ()
    gained: tuple[str, ...] = ()
    new_rows: tuple[str, ...] = ()
    changed_rows: tuple[str, ...] = ()
    missing_rows: tuple[str, ...] = ()
    coverage: float | None = None
    provable_drop: float | None = None
    rows_to_settle: int | None = None
    is_worse: bool = False
    anchor_score: float | None = None
    anchor_difference: float | None = None
    anchor_p: float | None = None
    anchor_lost: tuple[str, ...] = ()
    anchor_blessings: int = 0
    is_worse_than_anchor: bool = False

    @property
    def fails_by_anchor(self) -> bool:
        """Whether the fall since the best accepted scores failed the gate, and the fall since the last ones did not."""
        return self.is_worse_than_anchor and not self.is_worse

    @property
    def decisive_lost(self) -> tuple[str, ...]:
        """The rows that lost: since the last accepted scores, or since the best ones where that is what failed."""
        return self.anchor_lost if self.fails_by_anchor else self.lost

    @property
    def is_unchanged(self) -> bool:
        """The baseline's rows were all read again, no others, and each scores what it did."""
        return self.coverage == 1.0 and not (self.lost or self.gained or self.new_rows)


def session_alpha(changed_metrics: int, alpha: float = 0.05) -> float:
    """The level for each metric of a session in which ``changed_metrics`` may have changed (Bonferroni)."""
    return alpha / max(1, changed_metrics)


def shared_alpha(alpha: float, *, has_anchor: bool) -> tuple[float, float]:
    """The level for the comparison with the baseline, and that for the one with an anchor that stands apart."""
    share = ANCHOR_SHARE * alpha if has_anchor else 0.0
    return alpha - share, share


def move_anchor(
    anchor: Mapping[str, ScoredRow],
    accepted: Sequence[ScoredRow],
    *,
    is_warned: bool = False,
    is_confirmed: bool = False,
) -> AnchorMove:
    """What becomes of ``anchor`` once the scores ``accepted`` are the baseline.

    It moves on proof alone, at the level at which the gate fails by it. Scores proven worse lower it at the second
    acceptance only, when ``is_warned``: a run between the two fails by the anchor, so nobody accepts loss after loss
    without a red build; and whoever accepts again wants it, for a gate that stayed red would be switched off. Scores
    proven better raise it; a higher mean is not enough, for the best of many lucky draws would be a bar that nothing
    could reach, unless ``is_confirmed``: sealed rows have said so.
    """
    pairs = _pairs(accepted, anchor)
    if len(pairs) < FEWEST_ROWS:
        return AnchorMove.KEPT
    differences, groups = _differences(pairs)
    _, level = shared_alpha(session_alpha(1), has_anchor=True)
    if _is_fall(mean(differences), p_worse(differences, groups), level):
        return AnchorMove.LOWERED if is_warned else AnchorMove.WARNED
    is_raised = mean(differences) > 0 and (is_confirmed or p_better(differences, groups) <= level)
    return AnchorMove.RAISED if is_raised else AnchorMove.KEPT


def judge(
    rows: Sequence[ScoredRow],
    *,
    baseline: Mapping[str, ScoredRow] | None,
    anchor: Anchor | None = None,
    threshold: float | None = None,
    margin: float = 0.05,
    alpha: float = 0.05,
    must_pass: Collection[str] = (),
    must_pass_rows: Sequence[ScoredRow] = (),
    errored: int = 0,
    unrecorded: int = 0,
    is_graded: bool | None = None,
    is_comparable: bool = True,
) -> Verdict:
    """Judge one metric by ``rows``, which carry its mean.

    ``baseline`` maps row ids to what they scored; without one this is a first run. ``anchor`` is given where the best
    accepted scores are others than those; it takes its share of ``alpha``. ``must_pass`` names those of
    ``rows`` that have to score 1; ``must_pass_rows`` ran beside them, outside the mean, and all have to. ``errored``
    and ``unrecorded`` count the rows that have no score. ``is_graded`` says that the metric gives numbers between 0
    and 1 (``None``: see whether it did). ``is_comparable`` is false when the metric's own code changed and the
    baseline could not be scored again.
    """
    failed = [row for row in rows if row.id in must_pass and row.score < 1.0]
    failed += [row for row in must_pass_rows if row.score < 1.0]
    findings = [(Outcome.FAIL, f"must-pass row {row.id} scored {row.score:.3g}") for row in failed]
    facts = Verdict(outcome=Outcome.PASS, failed_must_pass=tuple(row.id for row in failed), is_first_run=not baseline)
    if errored or unrecorded or not rows:
        return _decide(facts, findings + _unscored_findings(len(rows), errored=errored, unrecorded=unrecorded))

    facts = _score(facts, rows, threshold=threshold)
    findings += _threshold_findings(facts, threshold)
    if not baseline:
        facts = replace(facts, is_ungated=threshold is None and _is_graded(rows, is_graded))
        findings += _first_run_findings(facts, rows, threshold=threshold)
    elif is_comparable:
        left, share = shared_alpha(alpha, has_anchor=anchor is not None)
        facts = _compare(facts, rows, baseline, margin=margin, alpha=left)
        findings += _baseline_findings(facts, margin=margin, alpha=left)
        facts = _compare_with_anchor(facts, rows, anchor, alpha=share)
        findings += _anchor_findings(facts)
    else:
        findings.append((Outcome.INCONCLUSIVE, "the metric changed and its baseline could not be scored again"))
    return _decide(facts, findings)


def _decide(facts: Verdict, findings: Sequence[Finding]) -> Verdict:
    """The gravest finding decides; nothing found is a pass."""
    gravity = list(Outcome)
    by_gravity = sorted(findings, key=lambda finding: gravity.index(finding[0]))
    outcome = by_gravity[0][0] if by_gravity else Outcome.PASS
    return replace(facts, outcome=outcome, reasons=tuple(reason for _, reason in by_gravity))


def _unscored_findings(scored: int, *, errored: int, unrecorded: int) -> list[Finding]:
    """Why there is no score at all: a mean over the rows that happened to work would be one of other rows."""
    total = scored + errored + unrecorded
    if not total:
        return [(Outcome.FAIL, "no row to judge: the dataset is empty, or every row was skipped")]
    findings = []
    if errored:
        findings.append((Outcome.ERRORED, f"{errored} of {total} rows errored"))
    if unrecorded:
        findings.append((Outcome.UNRECORDED, f"{unrecorded} of {total} rows are not recorded"))
    return findings


def _score(facts: Verdict, rows: Sequence[ScoredRow], *, threshold: float | None) -> Verdict:
    scores, groups = [row.score for row in rows], [row.group for row in rows]
    score = mean(scores)
    return replace(
        facts,
        score=score,
        interval=mean_interval(scores, groups),
        is_below_threshold=threshold is not None and score < threshold - ROUNDING,
    )


def _threshold_findings(facts: Verdict, threshold: float | None) -> list[Finding]:
    if not facts.is_below_threshold:
        return []
    return [(Outcome.FAIL, f"{facts.score:.3f} is below threshold={threshold}")]


def _is_graded(rows: Sequence[ScoredRow], is_graded: bool | None) -> bool:
    return any(0.0 < row.score < 1.0 for row in rows) if is_graded is None else is_graded


def _first_run_findings(facts: Verdict, rows: Sequence[ScoredRow], *, threshold: float | None) -> list[Finding]:
    """Where no threshold allows for failed rows, any of them fails, as in every test."""
    if facts.is_ungated:
        return [(Outcome.PASS, "ungated: graded scores with neither baseline nor threshold")]
    failed = sum(row.score < 1.0 for row in rows)
    if threshold is not None or not failed:
        return []
    return [(Outcome.FAIL, f"{failed} of {len(rows)} rows failed, with neither baseline nor threshold to allow it")]


def _compare(
    facts: Verdict, rows: Sequence[ScoredRow], baseline: Mapping[str, ScoredRow], *, margin: float, alpha: float
) -> Verdict:
    """Pair the rows of both runs, name those that moved or have no partner, and measure the rest."""
    known = [row for row in rows if row.id in baseline]
    pairs = _pairs(rows, baseline)
    read = {row.id for row in rows}
    facts = replace(
        facts,
        paired_rows=len(pairs),
        lost=tuple(new.id for old, new in pairs if new.score < old.score),
        gained=tuple(new.id for old, new in pairs if new.score > old.score),
        new_rows=tuple(row.id for row in rows if row.id not in baseline),
        changed_rows=tuple(row.id for row in known if row.digest != baseline[row.id].digest),
        missing_rows=tuple(row_id for row_id in baseline if row_id not in read),
        coverage=len(pairs) / len(baseline),
    )
    return _measure(facts, pairs, margin=margin, alpha=alpha) if pairs else facts


def _pairs(rows: Sequence[ScoredRow], before: Mapping[str, ScoredRow]) -> list[tuple[ScoredRow, ScoredRow]]:
    """Each row that stands in ``before`` with the same content: as it was, and as it is."""
    return [(before[row.id], row) for row in rows if row.id in before and before[row.id].digest == row.digest]


def _differences(pairs: Sequence[tuple[ScoredRow, ScoredRow]]) -> tuple[list[float], list[str | None]]:
    return [new.score - old.score for old, new in pairs], [new.group for _, new in pairs]


def _measure(facts: Verdict, pairs: Sequence[tuple[ScoredRow, ScoredRow]], *, margin: float, alpha: float) -> Verdict:
    """Add the paired difference, and how sure the rows are of it; what moves together counts as one."""
    differences, groups = _differences(pairs)
    difference, units = mean(differences), group_sums(differences, groups)
    is_testable = len(pairs) >= FEWEST_ROWS
    facts = replace(
        facts,
        baseline_score=mean([old.score for old, _ in pairs]),
        difference=difference,
        difference_interval=difference_interval(differences, groups),
        p=p_worse(differences, groups) if is_testable else None,
        provable_drop=provable_drop(len(units), alpha=alpha) if is_testable else None,
    )
    facts = replace(facts, is_worse=_is_fall(difference, facts.p, alpha))
    if -difference <= margin + ROUNDING or _is_proven(facts, alpha):
        return facts
    mean_square = math.fsum(unit * unit for unit in units) / len(pairs)
    needed = rows_to_settle(-difference, mean_square=mean_square, alpha=alpha)
    return replace(facts, rows_to_settle=max(FEWEST_ROWS, needed))


def _is_proven(facts: Verdict, alpha: float) -> bool:
    return facts.p is not None and facts.p <= alpha


def _is_fall(difference: float, p: float | None, alpha: float) -> bool:
    """Whether a difference is proven and large enough to fail a build."""
    return p is not None and p <= alpha and -difference >= SMALLEST_DROP - ROUNDING


def _baseline_findings(facts: Verdict, *, margin: float, alpha: float) -> list[Finding]:
    """Proof fails; a drop beyond the margin without it is inconclusive, and so is any pass on too few of the rows."""
    findings = []
    drop = -(facts.difference or 0.0)
    moved = f"{len(facts.lost)} of {facts.paired_rows} rows lost, {len(facts.gained)} gained"
    if facts.is_worse:
        findings.append((Outcome.FAIL, f"{moved}: worse by {drop:.3f} (p = {facts.p:.2g})"))
    elif drop > margin + ROUNDING:
        findings.append((Outcome.INCONCLUSIVE, f"{moved}: worse by {drop:.3f}, {_doubt(facts, alpha)}"))
    elif facts.lost or facts.gained:
        findings.append((Outcome.PASS, moved))
    if facts.coverage is not None and facts.coverage < LEAST_COVERAGE:
        baseline_rows = facts.paired_rows + len(facts.changed_rows) + len(facts.missing_rows)
        read = f"{facts.paired_rows} of the baseline's {baseline_rows} rows"
        findings.append((Outcome.INCONCLUSIVE, f"only {read} were read again, at least 90 % are needed"))
    return findings


def _compare_with_anchor(facts: Verdict, rows: Sequence[ScoredRow], anchor: Anchor | None, *, alpha: float) -> Verdict:
    """Measure how far the rows are from the best that was ever accepted for them."""
    pairs = [] if anchor is None else _pairs(rows, anchor.rows)
    if anchor is None or not pairs:
        return facts
    differences, groups = _differences(pairs)
    p = p_worse(differences, groups) if len(pairs) >= FEWEST_ROWS else None
    return replace(
        facts,
        anchor_score=mean([old.score for old, _ in pairs]),
        anchor_difference=mean(differences),
        anchor_p=p,
        anchor_lost=tuple(new.id for old, new in pairs if new.score < old.score),
        anchor_blessings=anchor.blessings,
        is_worse_than_anchor=_is_fall(mean(differences), p, alpha),
    )


def _anchor_findings(facts: Verdict) -> list[Finding]:
    if not facts.is_worse_than_anchor or facts.anchor_score is None or facts.anchor_difference is None:
        return []
    now = facts.anchor_score + facts.anchor_difference
    then = f"{facts.anchor_score:.3f} {blessings_ago(facts.anchor_blessings)}"
    drop = f"worse by {-facts.anchor_difference:.3f} (p = {facts.anchor_p:.2g})"
    return [(Outcome.FAIL, f"{then}, {now:.3f} now: {drop}")]


def blessings_ago(count: int) -> str:
    """``three blessings ago``."""
    number = _COUNTS[count] if count < len(_COUNTS) else str(count)
    return f"{number} {'blessing' if count == 1 else 'blessings'} ago"


def _doubt(facts: Verdict, alpha: float) -> str:
    if facts.p is None:
        return f"which fewer than {FEWEST_ROWS} rows cannot prove"
    if _is_proven(facts, alpha):
        return f"proven (p = {facts.p:.2g}), yet too little to fail"
    return f"but chance does that in {100 * facts.p:.0f} of 100 runs (p = {facts.p:.2f})"
