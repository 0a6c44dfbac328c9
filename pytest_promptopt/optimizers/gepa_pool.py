"""What a search by reflection knows: candidates, their scores and descent, all outcomes, and what may be spent yet."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from random import Random

from pytest_promptopt.optimizers.base import Outcome, Pair, Row, Task
from pytest_promptopt.optimizers.evaluating import ROUNDING, Steps, calls_left, evaluate
from pytest_promptopt.optimizers.pareto import Front, find_front
from pytest_promptopt.prompts.candidate import Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """A candidate that has of each prompt the version of ``one`` or ``other``."""

    child: Candidate
    one: Candidate
    other: Candidate


class Pool:
    """Members are candidates that ran on all val rows.

    ``planned_calls`` are those that the settings leave, every row counted as the average val row.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.outcomes: dict[Pair, Outcome] = {}
        self.scores: dict[Candidate, float] = {}
        self.parents: dict[Candidate, tuple[Candidate, ...]] = {}
        self.unfit: set[Candidate] = set()
        self.planned_calls = 0.0

    def run(self, candidate: Candidate, rows: Iterable[Row]) -> Steps[tuple[Outcome, ...]]:
        """The outcomes on ``rows``, of which unknown ones are asked for; whoever makes the metric raise is out."""
        rows = tuple(rows)
        unknown = self.unknown(candidate, rows)
        if unknown:
            outcomes = yield from evaluate((candidate, row) for row in unknown)
            self.outcomes.update(zip(((candidate, row) for row in unknown), outcomes, strict=True))
            self.planned_calls -= len(unknown) * self.task.calls_per_row
            if any(outcome.is_rejected for outcome in outcomes):
                self.unfit.add(candidate)
                self.scores.pop(candidate, None)
        return tuple(self.outcomes[candidate, row] for row in rows)

    def enter(self, candidate: Candidate) -> Steps[bool]:
        """Run ``candidate`` on all val rows and let it in, if it has a score there. Says whether it is in."""
        outcomes = yield from self.run(candidate, self.task.valset)
        mean = self.task.mean(self.task.valset, outcomes)
        if mean is not None:
            self.scores[candidate] = mean
        return mean is not None

    def unknown(self, candidate: Candidate, rows: Iterable[Row]) -> tuple[Row, ...]:
        """The rows on which ``candidate`` did not run."""
        return tuple(row for row in rows if (candidate, row) not in self.outcomes)

    def affords(self, *, runs: int, proposals: int = 0) -> Steps[bool]:
        """Whether so many rows and proposals fit into the plan and into the budget."""
        return proposals + runs * self.task.calls_per_row <= (yield from self.calls_left())

    def calls_left(self) -> Steps[float]:
        """What the plan or the budget leaves, whichever is less."""
        left = yield from calls_left()
        return self.planned_calls if left is None else min(self.planned_calls, left)

    def front(self, *, without: Collection[Candidate] = ()) -> Front[Candidate]:
        """The per-row Pareto front of the members."""
        members = [candidate for candidate in self.scores if candidate not in without]
        return find_front(
            {member: [self.outcomes[member, row].score for row in self.task.valset] for member in members}
        )

    def margin(self, rows: Iterable[Row], candidate: Candidate, rival: Candidate) -> float | None:
        """How much better ``candidate`` is on those of ``rows`` where both have a score.

        ``None`` where there are none, and for a candidate that turned out unfit.
        """
        pairs = [(row, self.outcomes[candidate, row], self.outcomes[rival, row]) for row in rows]
        shared = [pair for pair in pairs if pair[1].score is not None and pair[2].score is not None]
        if candidate in self.unfit or not shared:
            return None
        scored, own, others = zip(*shared, strict=True)
        means = self.task.mean(scored, own), self.task.mean(scored, others)
        return None if means[0] is None or means[1] is None else means[0] - means[1]

    def foresee(self, candidate: Candidate, row: Row) -> Outcome | None:
        """The outcome on ``row``, or if it is unknown that of the nearest ancestor who ran there."""
        line = (candidate, *self.ancestors(candidate))
        return next((self.outcomes[each, row] for each in line if (each, row) in self.outcomes), None)

    def ancestors(self, candidate: Candidate) -> Iterator[Candidate]:
        """Those it descends from, the nearest first; by two ways, twice."""
        parents = self.parents.get(candidate, ())
        yield from parents
        for parent in parents:
            yield from self.ancestors(parent)

    def crossings(self) -> list[Crossing]:
        """What can be made of two on the front who took different ways from a common ancestor, and was never made."""
        pairs = combinations(self.front().wins, 2)
        crossed = (Crossing(child=child, one=a, other=b) for a, b in pairs if (child := self._cross(a, b)) is not None)
        return [crossing for crossing in crossed if crossing.child not in self.parents]

    def _cross(self, one: Candidate, other: Candidate) -> Candidate | None:
        """Of each prompt the version that left the common ancestor's; where both left it, that of the better one."""
        ancestor = self._common_ancestor(one, other)
        if ancestor is None:
            return None
        better, worse = (one, other) if self.scores[one] >= self.scores[other] else (other, one)
        changed = {name: worse[name] if better[name] == ancestor[name] else better[name] for name in ancestor}
        return Candidate(changed)

    def _common_ancestor(self, one: Candidate, other: Candidate) -> Candidate | None:
        """The nearest that neither of the two falls behind; none where one descends from the other."""
        lines = [*self.ancestors(one)], [*self.ancestors(other)]
        if one in lines[1] or other in lines[0]:
            return None
        worst = min(self.scores[one], self.scores[other])
        shared = (each for each in lines[0] if each in lines[1])
        return next((each for each in shared if each in self.scores and self.scores[each] <= worst), None)


def deal(rows: tuple[Row, ...], size: int, rng: Random) -> Iterator[tuple[Row, ...]]:
    """Minibatches without end: epoch by epoch all ``rows`` in a random order, the last filled up with the first."""
    size = min(size, len(rows))
    while rows:
        order = rng.sample(rows, len(rows))
        order += order[: -len(rows) % size]
        yield from (tuple(order[start : start + size]) for start in range(0, len(order), size))


def sample_contested(pool: Pool, one: Candidate, other: Candidate, size: int, rng: Random) -> tuple[Row, ...]:
    """Up to ``size`` val rows: as many that ``one`` won, that ``other`` won and that neither did, as there are."""
    sides: dict[int, list[Row]] = {1: [], -1: [], 0: []}
    for row in pool.task.valset:
        margin = pool.margin([row], one, other)
        if margin is not None:
            sides[(margin > ROUNDING) - (margin < -ROUNDING)].append(row)
    decks = [rng.sample(rows, len(rows)) for rows in sides.values()]
    turns = (deck[turn] for turn in range(size) for deck in decks if turn < len(deck))
    return tuple(row for _, row in zip(range(size), turns, strict=False))
