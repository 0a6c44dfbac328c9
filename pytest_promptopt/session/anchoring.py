"""The anchor of a metric: the best scores ever accepted for its rows, carried from one baseline to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pytest_promptopt.evaluation.statistics import mean
from pytest_promptopt.gate import Anchor, AnchorMove, ScoredRow, move_anchor
from pytest_promptopt.snapshots.baseline import Baseline, BaselineRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchored:
    """A baseline to be written, what its scores did to the anchor, and the anchor's mean before and after.

    Both means are over the rows that the old and the new baseline share; ``None`` where they share none.
    """

    baseline: Baseline
    move: AnchorMove
    before: float | None = None
    after: float | None = None


def anchor_of(baseline: Baseline | None) -> Anchor | None:
    """The anchor as the gate reads it; ``None`` where it is the baseline itself."""
    if baseline is None or not baseline.has_anchor:
        return None
    return Anchor(rows=_anchored_rows(baseline), blessings=baseline.blessings)


def anchored(baseline: Baseline, old: Baseline | None, *, is_confirmed: bool = False) -> Anchored:
    """``baseline`` with the anchor of the one it replaces, unless its own scores move that.

    An anchor holds what can be compared: rows of equal id and content, scored by the same code. A row that is new or
    changed is held to its first score. ``is_confirmed``: sealed rows proved these scores better than what stood before.
    """
    if old is None or not _is_same_metric(baseline, old):
        return Anchored(baseline=baseline, move=AnchorMove.KEPT)
    standing = _anchored_rows(old)
    accepted = [_scored(row, row.score) for row in baseline.rows]
    shared = [row for row in accepted if row.id in standing and standing[row.id].digest == row.digest]
    if not shared:
        return Anchored(baseline=baseline, move=AnchorMove.KEPT)
    move = move_anchor(standing, shared, is_warned=old.is_anchor_warned, is_confirmed=is_confirmed)
    if move in (AnchorMove.KEPT, AnchorMove.WARNED):
        blessings = old.blessings + _has_moved(baseline, old)
        baseline = _held_to(baseline, standing, blessings=blessings, is_warned=move is AnchorMove.WARNED)
    return Anchored(
        baseline=baseline,
        move=move,
        before=mean([standing[row.id].score for row in shared]),
        after=mean([row.score for row in shared]),
    )


def _held_to(baseline: Baseline, standing: Mapping[str, ScoredRow], *, blessings: int, is_warned: bool) -> Baseline:
    rows = tuple(replace(row, anchor=_score_to_hold(row, standing.get(row.id))) for row in baseline.rows)
    return replace(baseline, rows=rows, blessings=blessings, is_anchor_warned=is_warned)


def _score_to_hold(row: BaselineRow, standing: ScoredRow | None) -> float | None:
    return standing.score if standing is not None and standing.digest == row.digest else None


def _is_same_metric(new: Baseline, old: Baseline) -> bool:
    """Whether both were scored by one code, or by two that score every row alike."""
    return new.metric_digest == old.metric_digest or _scores(new) == _scores(old)


def _has_moved(new: Baseline, old: Baseline) -> bool:
    """Whether any row that both hold scores otherwise: accepting the same scores twice is one blessing."""
    before = _scores(old)
    return any(
        before[row.id][1] != row.score for row in new.rows if row.id in before and before[row.id][0] == row.digest
    )


def _scores(baseline: Baseline) -> dict[str, tuple[str, float]]:
    return {row.id: (row.digest, row.score) for row in baseline.rows}


def _anchored_rows(baseline: Baseline) -> dict[str, ScoredRow]:
    return {row.id: _scored(row, row.anchored) for row in baseline.rows}


def _scored(row: BaselineRow, score: float) -> ScoredRow:
    return ScoredRow(id=row.id, digest=row.digest, score=score, group=row.group)
