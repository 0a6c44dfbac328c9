"""Races on shared rows: all contenders run the same rows, and half of them drop out before every longer round.

Sequential halving (Karnin, Koren & Somekh 2013) with cumulative scores, and two early drops beside it: whoever the best
of them clearly beats row by row, as a sign test sees it, does not wait for its turn (after F-Race, Birattari et al.
2002); in the last round nobody runs on who cannot reach the champion any more, even with full marks on all that comes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, log2

from pytest_promptopt.evaluation.statistics import mcnemar_exact, stratified_sign_flip
from pytest_promptopt.optimizers.base import Outcome, Row, Task
from pytest_promptopt.optimizers.evaluating import ROUNDING, Steps, evaluate
from pytest_promptopt.prompts.candidate import Candidate

FEWEST_ROWS = 8
"""Rows of the shortest round: fewer say next to nothing."""

DROP_P = 0.2
FEWEST_FLIPS = 6
"""A sign test drops nobody on fewer rows that only one of two got right."""

LAST_LEGS = 4
"""In so many pieces the rows of the last round are run: after each, whoever is too far behind drops out."""

Lanes = Mapping[Candidate, tuple[Outcome, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """How a race ended: the rows of its last round, and on them the outcomes and scores of who came so far, best first.

    ``dropped`` are the scores of the others on the rows that they ran.
    """

    rows: tuple[Row, ...]
    lanes: Lanes
    scores: Mapping[Candidate, float]
    dropped: Mapping[Candidate, float] = field(default_factory=dict)


# --- plans ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RacePlan:
    """How many contenders to make of each kind, and the rows of each round, cumulative."""

    proposals: int
    demo_sets: int
    rounds: tuple[int, ...]


def plan_rounds(contenders: int, rows: int) -> tuple[int, ...]:
    """Rows of each round, cumulative: they double while the contenders halve, up to all ``rows``."""
    halvings = max(0, ceil(log2(max(1, contenders))) - 1)
    sizes = (max(min(FEWEST_ROWS, rows), rows >> left) for left in range(halvings, -1, -1))
    return tuple(dict.fromkeys(sizes))


def count_runs(contenders: int, rounds: Sequence[int]) -> int:
    """The most rows that are run in a race: nobody drops out early, and all of them are run for the first time."""
    runs, before, alive = 0, 0, contenders
    for size in rounds:
        runs += alive * (size - before)
        before, alive = size, halved(alive)
    return runs


def halved(alive: int) -> int:
    """How many go on; two at least, for the last round is a comparison."""
    return min(alive, max(2, ceil(alive / 2)))


def plan_race(proposals: int, demo_sets: int, *, rows: int, calls: int | None, calls_per_row: float) -> RacePlan | None:
    """The most contenders, of both kinds in proportion, that ``calls`` can hold; ``None`` when not even one fits.

    Rather than run with fewer than four over all lengths, a race gets two rounds only; where all rows are too dear its
    last round is half of them, and in the end the first round alone has to do.
    """
    wanted = proposals + demo_sets
    shortest = min(FEWEST_ROWS, rows)
    ways: tuple[tuple[int, Callable[[int], tuple[int, ...]]], ...] = (
        (4, lambda contenders: plan_rounds(contenders, rows)),
        (3, lambda _: (shortest, rows)),
        (3, lambda _: (shortest, max(shortest, rows // 2))),
        (1, lambda _: (shortest,)),
    )
    for fewest, rounds_of in ways:
        for contenders in range(wanted, min(fewest, wanted) - 1, -1):
            plan = _plan_for(contenders, demo_sets, wanted, rounds_of(contenders))
            if contenders and (calls is None or _calls_of(plan, calls_per_row) <= calls):
                return plan
    return None


def _plan_for(contenders: int, demo_sets: int, wanted: int, rounds: tuple[int, ...]) -> RacePlan:
    sets = contenders * demo_sets // wanted if wanted else 0
    return RacePlan(proposals=contenders - sets, demo_sets=sets, rounds=tuple(dict.fromkeys(rounds)))


def _calls_of(plan: RacePlan, calls_per_row: float) -> float:
    return plan.proposals + count_runs(plan.proposals + plan.demo_sets, plan.rounds) * calls_per_row


# --- the race ---------------------------------------------------------------------------------------------------------


def race(
    task: Task,
    contenders: Sequence[Candidate],
    order: Sequence[Row],
    rounds: Sequence[int],
    *,
    champion: Candidate,
    spared: Collection[Candidate] = (),
) -> Steps[Finish]:
    """Run ``contenders`` on the first rows of ``order``, as many as ``rounds`` says, until the last round is over.

    ``champion`` is known on all of them already, and drops whoever it clearly beats. Rejected contenders are out, and
    a round in which nobody is left ends the race. ``spared`` run to the end even where they cannot reach the champion.
    """
    alive = tuple(dict.fromkeys(contenders))
    finish = Finish(rows=(), lanes={}, scores={})
    dropped: dict[Candidate, float] = {}
    for number, size in enumerate(rounds):
        if not alive:
            break
        rows = tuple(order[:size])
        is_last = number == len(rounds) - 1
        lane = yield from evaluate((champion, row) for row in rows)
        if is_last:
            lanes = yield from _run_last(
                task, rows, alive, dropped, done=len(finish.rows), champion=lane, spared=spared
            )
        else:
            lanes = yield from _run(alive, rows)
        finish = _finish(task, rows, lanes)
        dropped |= finish.scores
        alive = () if is_last else _survivors(task, finish, lane)
    return replace(finish, dropped={each: score for each, score in dropped.items() if each not in finish.scores})


def _run(contenders: Sequence[Candidate], rows: tuple[Row, ...]) -> Steps[Lanes]:
    outcomes = yield from evaluate((candidate, row) for candidate in contenders for row in rows)
    size = len(rows)
    return {each: outcomes[place * size : (place + 1) * size] for place, each in enumerate(contenders)}


def _run_last(
    task: Task,
    rows: tuple[Row, ...],
    alive: Sequence[Candidate],
    dropped: dict[Candidate, float],
    *,
    done: int,
    champion: Sequence[Outcome],
    spared: Collection[Candidate],
) -> Steps[Lanes]:
    """The lanes of those that came through all ``rows``; puts down in ``dropped`` how the others did."""
    bar = task.mean(rows, champion)
    lanes: Lanes = yield from _run(alive, rows[:done])
    for stop in plan_legs(done, len(rows)):
        going = [each for each in lanes if each in spared or can_reach(task, rows, lanes[each], bar)]
        lanes = yield from _run(going, rows[:stop])
        dropped |= _finish(task, rows[:stop], lanes).scores
    return lanes


def plan_legs(done: int, rows: int) -> tuple[int, ...]:
    """Where the last round stops to look who can still reach the champion, up to all ``rows``."""
    leg = max(1, min(FEWEST_ROWS, rows), ceil((rows - done) / LAST_LEGS))
    return (*range(done + leg, rows, leg), rows)


def can_reach(task: Task, rows: Sequence[Row], outcomes: Sequence[Outcome], score: float | None) -> bool:
    """Whether ``outcomes`` on the first of ``rows``, and full marks on the rest, come to ``score`` at least."""
    hoped = [*outcomes, *[Outcome(score=1.0)] * (len(rows) - len(outcomes))]
    most = task.mean(rows, hoped)
    return score is None or (most is not None and most >= score - ROUNDING)


def _finish(task: Task, rows: tuple[Row, ...], lanes: Lanes) -> Finish:
    """The lanes that have a score, best first."""
    means = {candidate: task.mean(rows, outcomes) for candidate, outcomes in lanes.items()}
    scores = {candidate: mean for candidate, mean in means.items() if mean is not None}
    ranked = sorted(scores, key=lambda candidate: -scores[candidate])
    return Finish(
        rows=rows, lanes={each: lanes[each] for each in ranked}, scores={each: scores[each] for each in ranked}
    )


def _survivors(task: Task, finish: Finish, champion: Sequence[Outcome]) -> tuple[Candidate, ...]:
    """The better half, without those that the champion or the leader clearly beats."""
    ranked = [*finish.scores]
    kept = ranked[: halved(len(ranked))]
    rivals = [champion, *(finish.lanes[leader] for leader in kept[:1])]
    return tuple(
        each
        for each in kept
        if not any(clearly_beats(task, finish.rows, rival, finish.lanes[each]) for rival in rivals)
    )


def clearly_beats(task: Task, rows: Sequence[Row], one: Sequence[Outcome], other: Sequence[Outcome]) -> bool:
    """Whether ``one`` wins so many more of the rows that only one of both gets right, or both get unequally right.

    Rows of several metrics do not weigh the same: there the weighted differences are tested, by flips of their signs.
    """
    by_metric = differences_by_metric(rows, one, other)
    differences = [each for mine in by_metric.values() for each in mine]
    gained, lost = sum(each > 0 for each in differences), sum(each < 0 for each in differences)
    if gained + lost < FEWEST_FLIPS:
        return False
    if len(by_metric) == 1:
        return mcnemar_exact(gained=gained, lost=lost) <= DROP_P
    return stratified_sign_flip([(task.weights[name], mine, None) for name, mine in by_metric.items()]) <= DROP_P


def differences_by_metric(
    rows: Sequence[Row], one: Sequence[Outcome], other: Sequence[Outcome]
) -> dict[str, list[float]]:
    """How much better ``one`` is on each row where both have a score, metric by metric."""
    differences: dict[str, list[float]] = {}
    for row, mine, its in zip(rows, one, other, strict=True):
        if mine.score is not None and its.score is not None:
            differences.setdefault(row.metric, []).append(mine.score - its.score)
    return differences
