"""Races on shared rows: all contenders run the same rows, and half of them drop out before every longer round.

Sequential halving (Karnin, Koren & Somekh 2013) with cumulative scores, and an early drop beside it: whoever the best
of them clearly beats row by row, as a sign test sees it, does not wait for its turn (after F-Race, Birattari et al.
2002).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, log2

from pytest_promptopt.evaluation.statistics import mcnemar_exact
from pytest_promptopt.optimizers.base import Outcome, Row, Task
from pytest_promptopt.optimizers.evaluating import Steps, evaluate
from pytest_promptopt.prompts.candidate import Candidate

FEWEST_ROWS = 8
"""Rows of the shortest round: fewer say next to nothing."""

DROP_P = 0.2
FEWEST_FLIPS = 6
"""A sign test drops nobody on fewer rows that only one of two got right."""

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
class Plan:
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


def plan_race(proposals: int, demo_sets: int, *, rows: int, calls: int | None, calls_per_row: float) -> Plan | None:
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


def _plan_for(contenders: int, demo_sets: int, wanted: int, rounds: tuple[int, ...]) -> Plan:
    sets = contenders * demo_sets // wanted if wanted else 0
    return Plan(proposals=contenders - sets, demo_sets=sets, rounds=tuple(dict.fromkeys(rounds)))


def _calls_of(plan: Plan, calls_per_row: float) -> float:
    return plan.proposals + count_runs(plan.proposals + plan.demo_sets, plan.rounds) * calls_per_row


# --- the race ---------------------------------------------------------------------------------------------------------


def race(
    task: Task, contenders: Sequence[Candidate], order: Sequence[Row], rounds: Sequence[int], *, champion: Candidate
) -> Steps[Finish]:
    """Run ``contenders`` on the first rows of ``order``, as many as ``rounds`` says, until the last round is over.

    ``champion`` is known on all of them already, and drops whoever it clearly beats. Rejected contenders are out, and
    a round in which nobody is left ends the race.
    """
    alive = tuple(dict.fromkeys(contenders))
    finish = Finish(rows=(), lanes={}, scores={})
    dropped: dict[Candidate, float] = {}
    for number, size in enumerate(rounds):
        if not alive:
            break
        rows, runners = tuple(order[:size]), (champion, *alive)
        outcomes = yield from evaluate((candidate, row) for candidate in runners for row in rows)
        lanes = {each: outcomes[place * size : (place + 1) * size] for place, each in enumerate(runners)}
        finish = _finish(task, rows, {each: lanes[each] for each in alive})
        dropped |= finish.scores
        is_last = number == len(rounds) - 1
        alive = () if is_last else _survivors(finish, lanes[champion])
    return replace(finish, dropped={each: score for each, score in dropped.items() if each not in finish.scores})


def _finish(task: Task, rows: tuple[Row, ...], lanes: Lanes) -> Finish:
    """The lanes that have a score, best first."""
    means = {candidate: task.mean(rows, outcomes) for candidate, outcomes in lanes.items()}
    scores = {candidate: mean for candidate, mean in means.items() if mean is not None}
    ranked = sorted(scores, key=lambda candidate: -scores[candidate])
    return Finish(
        rows=rows, lanes={each: lanes[each] for each in ranked}, scores={each: scores[each] for each in ranked}
    )


def _survivors(finish: Finish, champion: Sequence[Outcome]) -> tuple[Candidate, ...]:
    """The better half, without those that the champion or the leader clearly beats."""
    ranked = [*finish.scores]
    kept = ranked[: halved(len(ranked))]
    rivals = [champion, *(finish.lanes[leader] for leader in kept[:1])]
    return tuple(each for each in kept if not any(clearly_beats(rival, finish.lanes[each]) for rival in rivals))


def clearly_beats(one: Sequence[Outcome], other: Sequence[Outcome]) -> bool:
    """Whether ``one`` wins so many more of the rows that only one of both gets right, or both get unequally right."""
    pairs = [
        (mine.score, its.score)
        for mine, its in zip(one, other, strict=True)
        if mine.score is not None and its.score is not None
    ]
    gained, lost = sum(mine > its for mine, its in pairs), sum(mine < its for mine, its in pairs)
    return gained + lost >= FEWEST_FLIPS and mcnemar_exact(gained=gained, lost=lost) <= DROP_P
