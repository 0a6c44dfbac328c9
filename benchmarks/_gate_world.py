"""Projects, prompts and pull requests as numbers: what the gate says in worlds whose truth is known.

Row i of a project passes a prompt of a given quality with its own chance. A prompt's scores are one draw of all rows;
rewording a prompt without changing how good it is draws some of the rows anew and leaves the others as they were.
Everything goes through the gate, the confirmation and the anchor as the plugin calls them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pytest_promptopt.evaluation.confirmation import Pair, Stratum, confirm, spent_alpha
from pytest_promptopt.gate import Outcome, ScoredRow, Verdict, judge, session_alpha
from pytest_promptopt.session.anchoring import anchor_of, anchored
from pytest_promptopt.session.metric_item import scored_rows
from pytest_promptopt.snapshots.baseline import Baseline, BaselineRow

Scores = NDArray[np.float64]

FREEZE_ALPHA = 0.2
MOST_WINNERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A dataset: each row's chance to pass, the group it belongs to, and the kind of scores.

    ``kind`` is ``passes``, ``grades``, or ``repeats`` for the mean of three passes. Rows of a group share most of
    their luck.
    """

    chances: Scores
    kind: str = "passes"
    group_size: int = 1

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.chances)

    @property
    def groups(self) -> list[str | None]:
        """The group of each row."""
        return [None if self.group_size == 1 else str(row // self.group_size) for row in range(self.rows)]

    def draw(self, rng: Generator, *, loss: float = 0.0) -> Scores:
        """A prompt's scores, once; ``loss`` is how much less likely each row is to pass."""
        chances = np.clip(self.chances - loss, 0.0, 1.0)
        if self.kind == "grades":
            return np.round(rng.beta(8 * chances + 1e-6, 8 * (1 - chances) + 1e-6), 2)
        if self.kind == "repeats":
            return rng.binomial(3, chances) / 3
        return (self._luck(rng) < chances).astype(float)

    def _luck(self, rng: Generator) -> Scores:
        """Uniform numbers, alike within a group."""
        if self.group_size == 1:
            return rng.random(self.rows)
        own = rng.random(self.rows)
        shared = np.repeat(rng.random(-(-self.rows // self.group_size)), self.group_size)[: self.rows]
        return np.where(rng.random(self.rows) < 0.7, shared, own)

    def reword(self, rng: Generator, scores: Scores, share: float) -> Scores:
        """The scores of a prompt that is as good and reads otherwise: a ``share`` of the groups is drawn anew."""
        count = -(-self.rows // self.group_size)
        is_new = np.repeat(rng.random(count) < share, self.group_size)[: self.rows]
        return np.where(is_new, self.draw(rng), scores)

    def scored(self, scores: Scores) -> list[ScoredRow]:
        """``scores`` as the gate reads them."""
        keys = self.groups
        return [ScoredRow(id=f"{i:04}", digest="d", score=float(s), group=keys[i]) for i, s in enumerate(scores)]

    def baseline(self, scores: Scores) -> Baseline:
        """``scores`` as a baseline that is its own anchor."""
        rows = tuple(
            BaselineRow(id=row.id, digest=row.digest, score=row.score, group=row.group) for row in self.scored(scores)
        )
        return Baseline(metric="m", model="m", reads="all", metric_digest="d", prompts={}, rows=rows, sealed=())


def make_project(rng: Generator, rows: int, *, kind: str = "passes", group_size: int = 1) -> Project:
    """A project of which a prompt passes 86 % of the rows: most of them always, some by luck."""
    chances = rng.beta(3.0, 0.5, size=-(-rows // group_size))
    return Project(chances=np.repeat(chances, group_size)[:rows], kind=kind, group_size=group_size)


def verdict_on(project: Project, baseline: Baseline, scores: Scores, *, changed_metrics: int = 1) -> Verdict:
    """What the gate says of ``scores``."""
    return judge(
        project.scored(scores),
        baseline=scored_rows(baseline),
        anchor=anchor_of(baseline),
        alpha=session_alpha(changed_metrics),
    )


def is_red(project: Project, baseline: Baseline, scores: Scores, *, changed_metrics: int = 1) -> bool:
    """Whether the gate fails."""
    return verdict_on(project, baseline, scores, changed_metrics=changed_metrics).outcome is Outcome.FAIL


def accept(project: Project, baseline: Baseline, scores: Scores, *, is_confirmed: bool = False) -> Baseline:
    """The baseline once ``scores`` are blessed or frozen."""
    return anchored(project.baseline(scores), baseline, is_confirmed=is_confirmed).baseline


# --- pull requests without a real change ---


def rewording_is_red(
    rng: Generator, *, rows: int, share: float, kind: str = "passes", group_size: int = 1, metrics: int = 1
) -> bool:
    """One pull request that rewords a prompt, in a project of so many metrics: does any of them fail?"""
    verdicts = []
    for _ in range(metrics):
        project = make_project(rng, rows, kind=kind, group_size=group_size)
        before = project.draw(rng)
        after = project.reword(rng, before, share)
        verdicts.append(is_red(project, project.baseline(before), after, changed_metrics=metrics))
    return any(verdicts)


def any_pull_request_is_red(rng: Generator) -> bool:
    """The same in a project of any size and kind, for a light or a heavy rewording."""
    return rewording_is_red(
        rng,
        rows=int(rng.integers(12, 201)),
        share=float(rng.random()),
        kind=str(rng.choice(["passes", "passes", "passes", "repeats", "grades"])),
        group_size=int(rng.choice([1, 1, 4])),
        metrics=int(rng.integers(1, 6)),
    )


def rewording_after_freeze_is_red(
    rng: Generator, *, rows: int, share: float = 0.3, is_fresh: bool = False, gain: float = 0.0, spread: float = 0.0
) -> bool:
    """A rewording right after a freeze: the frozen prompt was lucky on the rows that confirmed it.

    Where ``is_fresh``, replies vary, every run is a new draw, and the baseline is another than the one that won. Else
    replies are pinned, the baseline is that very draw, and the rewording draws a ``share`` of the rows anew. Winners
    are better than the incumbent by ``gain`` on the average, give or take ``spread``.
    """
    project, winner = frozen(rng, rows, gain=gain, spread=spread)
    baseline = project.baseline(project.draw(rng) if is_fresh else winner)
    after = project.draw(rng) if is_fresh else project.reword(rng, winner, share)
    return is_red(project, baseline, after)


def frozen(rng: Generator, rows: int, *, gain: float, spread: float) -> tuple[Project, Scores]:
    """A project under the first winner that is confirmed, and the scores that confirmed it; three are tried."""
    while True:
        project = make_project(rng, rows)
        incumbent = project.draw(rng)
        for before in range(MOST_WINNERS):
            better = replace(project, chances=np.clip(project.chances + rng.normal(gain, spread), 0.0, 1.0))
            winner = better.draw(rng)
            pairs = tuple(Pair(winner=float(w), incumbent=float(i)) for w, i in zip(winner, incumbent, strict=True))
            if confirm([Stratum(metric="m", pairs=pairs)], alpha=spent_alpha(FREEZE_ALPHA, before)).is_better:
                return better, winner


def rewordings_in_turn(rng: Generator, *, rows: int, share: float, weeks: int) -> Iterator[Verdict]:
    """The verdict of each week's rewording, all of them blessed, red ones too."""
    project = make_project(rng, rows)
    scores = project.draw(rng)
    baseline = project.baseline(scores)
    for _ in range(weeks):
        scores = project.reword(rng, scores, share)
        yield verdict_on(project, baseline, scores)
        baseline = accept(project, baseline, scores)


# --- real losses ---


def share_of_red(rng: Generator, *, rows: int, drop: float, idle: float, runs: int, changed_metrics: int = 1) -> float:
    """How often the gate fails a prompt that lost ``drop`` of its rows while a share ``idle`` flips either way."""
    drawn = rng.multinomial(rows, [drop + idle, idle, 1 - drop - 2 * idle], size=runs)
    counts, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
    red = [_is_red_after(int(lost), int(gained), rows, changed_metrics) for lost, gained in counts]
    return float(np.average(red, weights=times))


def _is_red_after(lost: int, gained: int, rows: int, changed_metrics: int) -> bool:
    before = np.array([1.0] * lost + [0.0] * gained + [1.0] * (rows - lost - gained))
    after = np.array([0.0] * lost + [1.0] * gained + [1.0] * (rows - lost - gained))
    project = Project(chances=np.ones(rows))
    return is_red(project, project.baseline(before), after, changed_metrics=changed_metrics)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slide:
    """When a slow loss was caught, if it was: the week and whether the anchor or the last baseline showed it."""

    week: int | None
    by_anchor: bool = False


def slide(rng: Generator, *, rows: int, weekly_loss: float, share: float, weeks: int, has_anchor: bool = True) -> Slide:
    """A prompt that loses a little every week, each week's green scores blessed, until the gate is red.

    A loss draws a ``share`` of the rows anew, and takes what it loses from those that still pass.
    """
    project = make_project(rng, rows)
    scores = project.draw(rng)
    baseline = project.baseline(scores)
    for week in range(1, weeks + 1):
        project = replace(project, chances=np.clip(project.chances - weekly_loss, 0.0, 1.0))
        scores = _weakened(rng, project.reword(rng, scores, share), weekly_loss * (1 - share))
        verdict = verdict_on(project, baseline, scores)
        if verdict.outcome is Outcome.FAIL:
            return Slide(week=week, by_anchor=verdict.is_worse_than_anchor)
        baseline = accept(project, baseline, scores) if has_anchor else project.baseline(scores)
    return Slide(week=None)


def _weakened(rng: Generator, scores: Scores, loss: float) -> Scores:
    """``scores`` less about ``loss`` of all rows."""
    rate = float(scores.mean()) or 1.0
    return np.where((scores > 0) & (rng.random(len(scores)) < loss / rate), 0.0, scores)


def share_of(outcomes: Sequence[bool]) -> float:
    """The share of them that are true."""
    return sum(outcomes) / len(outcomes)
