"""The default search: demos first, then instructions on top of the best set of them; adopted texts take no demos."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from pytest_promptopt.optimizers.base import Search, Sizes, Task
from pytest_promptopt.optimizers.bootstrap_random_search import BootstrapRandomSearch
from pytest_promptopt.optimizers.copro import Copro
from pytest_promptopt.optimizers.evaluating import renumbered

PLAIN_SETS = 2
"""Runs of the demo search before its random sets: labelled rows only, and the first that succeeded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Auto:
    """``bootstrap-random-search`` and then ``copro`` on its winner, both smaller than when they run alone."""

    num_candidates: int = 4
    breadth: int = 4
    depth: int = 2
    init_temperature: float = 1.0

    def __post_init__(self) -> None:
        self._demo_search()
        self._instruction_search()

    def search(self, task: Task, rng: Random) -> Search:
        """The one after the other."""
        demos, instructions = self._demo_search(self._affordable_sets(task)), self._instruction_search()
        if not task.takes_demos:
            return (yield from instructions.search(task, rng))
        rounds = demos.rounds + instructions.rounds(task)
        winner = yield from renumbered(demos.search(task, rng), before=0, rounds=rounds)
        rest = instructions.search(task.starting_from(winner), rng)
        return (yield from renumbered(rest, before=demos.rounds, rounds=rounds))

    def _affordable_sets(self, task: Task) -> int:
        """As many random sets as leave half of a limited budget to the instructions."""
        if task.max_calls is None or not task.calls_on_valset:
            return self.num_candidates
        runs = task.max_calls // task.calls_on_valset
        return max(0, min(self.num_candidates, runs // 2 - PLAIN_SETS))

    def _demo_search(self, num_candidates: int | None = None) -> BootstrapRandomSearch:
        sets = self.num_candidates if num_candidates is None else num_candidates
        return BootstrapRandomSearch(num_candidates=sets)

    def _instruction_search(self) -> Copro:
        return Copro(breadth=self.breadth, depth=self.depth, init_temperature=self.init_temperature)

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        """The sum of both, and one more run over the train rows, on which the winner of the first is not known."""
        if not sizes.takes_demos:
            return self._instruction_search().expected_calls(sizes)
        fewest_demos, most_demos = self._demo_search().expected_calls(sizes)
        _, most_instructions = self._instruction_search().expected_calls(sizes)
        winner = sizes.train_rows * sizes.calls_per_row
        return fewest_demos, most_demos + winner + most_instructions
