"""Bayesian search over demo sets, one for each prompt of a program: which sets go well together is learned from scores.

After DSPy's ``BootstrapFewShotWithOptuna``. Differences: a trial picks a whole set for each prompt, not one single
demo; the study is seeded; the zero-shot score is known to it from the start, and sets made for all prompts together
come first; a combination that came before is answered from what is known and is no trial; winners are chosen on val
rows, never on train.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from random import Random

from pytest_promptopt.optimizers.base import Row, Search, Sizes, Task
from pytest_promptopt.optimizers.bayesian import Choice, Chooser
from pytest_promptopt.optimizers.demos import PLAIN_SETS, DemoSet, SetDrawer, Shelves, trace_successes
from pytest_promptopt.optimizers.evaluating import (
    Steps,
    announce,
    best_of,
    counted,
    is_perfect,
    require_at_least,
    score,
)
from pytest_promptopt.prompts.candidate import Candidate

REASKS = 8
"""How often a combination that came before is told to the study again, before any other is taken instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapOptuna:
    """``num_candidates`` combinations of ``num_sets`` demo sets for each prompt, each combination another one.

    The sets are zero-shot, labelled rows only, the first traces that succeeded, and random ones as
    ``bootstrap-random-search`` draws them; those of one number stem from the same rows, and a trial may mix numbers.
    A single prompt has no more combinations than sets, so there are more sets than trials: with fewer every one of
    them would be tried, and nothing would be searched. Sets cost no calls. ``startup_trials`` combinations with a score
    have to be known before the study learns from them; Optuna's default of 10 would leave little of 16 trials to it.
    ``trials_per_round`` are reported at a time.
    """

    num_candidates: int = 16
    num_sets: int = 24
    max_bootstrapped_demos: int = 4
    max_labeled_demos: int = 16
    max_rounds: int = 1
    startup_trials: int = 5
    trials_per_round: int = 4

    def __post_init__(self) -> None:
        require_at_least("bootstrap-optuna.num_candidates", self.num_candidates, 1)
        require_at_least("bootstrap-optuna.num_sets", self.num_sets, PLAIN_SETS)
        require_at_least("bootstrap-optuna.max_bootstrapped_demos", self.max_bootstrapped_demos, 0)
        require_at_least("bootstrap-optuna.max_labeled_demos", self.max_labeled_demos, 0)
        require_at_least("bootstrap-optuna.max_rounds", self.max_rounds, 1)
        require_at_least("bootstrap-optuna.startup_trials", self.startup_trials, 0)
        require_at_least("bootstrap-optuna.trials_per_round", self.trials_per_round, 1)

    @property
    def rounds(self) -> int:
        """Rounds that are announced when nothing ends the search before."""
        return 1 + -(-self.num_candidates // self.trials_per_round)

    def search(self, task: Task, rng: Random) -> Search:
        """Make the sets, then try combinations of them one by one, round by round."""
        traced_rounds = self.max_rounds if self.max_bootstrapped_demos else 0
        found = yield from trace_successes(task, task.trainset, wanted=None, max_rounds=traced_rounds, rng=rng)
        plain, sets = self._draw_sets(task, found, rng)
        shelves = _shelve(sets)
        scores = dict((yield from score(task, [task.source])))
        yield from announce(_summarise_sets(found, shelves), round=1, rounds=self.rounds)
        grid = _Grid(shelves, first=plain, startup_trials=self.startup_trials, rng=rng)
        grid.add(task.source, scores.get(task.source))
        for number in range(2, self.rounds + 1):
            if is_perfect(scores) or not grid.untried:
                break
            size = min(self.trials_per_round, self.num_candidates - (number - 2) * self.trials_per_round)
            text = yield from _try_some(task, grid, size, scores)
            yield from announce(text, round=number, rounds=self.rounds)
        return best_of(scores)

    def _draw_sets(
        self, task: Task, found: Mapping[Row, DemoSet], rng: Random
    ) -> tuple[tuple[Candidate, ...], tuple[Candidate, ...]]:
        """The plain sets, and all of them with the source in front; each is made for the whole program."""
        drawer = SetDrawer(
            task=task,
            found=found,
            max_bootstrapped_demos=self.max_bootstrapped_demos,
            max_labeled_demos=self.max_labeled_demos,
        )
        plain = drawer.draw_plain(rng)
        seen = dict.fromkeys((task.source, *plain))
        drawer.draw(self.num_sets - PLAIN_SETS, seen, rng)
        return plain, tuple(seen)

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        """Traces of all train rows (none when they are known), and a run over the val rows for each trial.

        The combination of zero-shot prompts is a source as code has it, whose scores are known.
        """
        has_labels = bool(sizes.labelled_rows and self.max_labeled_demos)
        if not sizes.takes_demos or not (has_labels or (sizes.train_rows and self.max_bootstrapped_demos)):
            return 0, 0
        validation = sizes.validation
        training = sizes.training
        traced_rounds = self.max_rounds if self.max_bootstrapped_demos else 0
        fewest_traces = training if traced_rounds and not sizes.is_own_teacher else 0
        most_traces = training * max(0, traced_rounds - sizes.is_own_teacher)
        most_trials = min(self.num_candidates, self.num_sets**sizes.prompts - 1)
        return fewest_traces + validation * has_labels, most_traces + validation * most_trials


def _shelve(sets: tuple[Candidate, ...]) -> Shelves:
    """The distinct sets of each prompt; one that takes no demos or has none to show is there as it is, alone."""
    return {name: tuple(dict.fromkeys(candidate[name] for candidate in sets)) for name in sets[0]}


def _count_combinations(shelves: Shelves) -> int:
    return prod(len(shelf) for shelf in shelves.values())


def _summarise_sets(found: Mapping[Row, DemoSet], shelves: Shelves) -> str:
    """``5 rows to bootstrap from, 576 combinations of demo sets``."""
    combinations = counted(_count_combinations(shelves), "combination")
    return f"{counted(len(found), 'row')} to bootstrap from, {combinations} of demo sets"


def _try_some(task: Task, grid: _Grid, size: int, scores: dict[Candidate, float]) -> Steps[str]:
    """Up to ``size`` trials, and words about them."""
    trials, repeats_before = 0, grid.repeats
    while trials < size and grid.untried and not is_perfect(scores):
        choice = grid.propose()
        candidate = grid.read(choice.indices)
        scores.update((yield from score(task, [candidate])))
        grid.tell(choice, scores.get(candidate))
        trials += 1
    repeats = grid.repeats - repeats_before
    return counted(trials, "trial") + (f", {counted(repeats, 'repeat')} answered from the grid" if repeats else "")


class _Grid:
    """All combinations of the prompts' demo sets, and what is known of them.

    A combination has a number, whose digits are the indices of its sets. Those of ``first`` are proposed before the
    study is asked.
    """

    def __init__(self, shelves: Shelves, *, first: tuple[Candidate, ...], startup_trials: int, rng: Random) -> None:
        self._shelves = shelves
        self._first = [self._number_of(self._indices_of(candidate)) for candidate in first]
        self._known: dict[int, float | None] = {}
        self._rng = rng
        sizes = {name: len(shelf) for name, shelf in shelves.items()}
        self._chooser = Chooser(sizes, seed=rng.getrandbits(32), startup_trials=startup_trials)
        self.repeats = 0

    @property
    def untried(self) -> int:
        """Combinations that did not come up yet."""
        return _count_combinations(self._shelves) - len(self._known)

    def add(self, candidate: Candidate, score: float | None) -> None:
        """Put down what is known without a trial."""
        self.tell(self._chooser.ask(self._indices_of(candidate)), score)

    def propose(self) -> Choice:
        """A combination that did not come up yet. There has to be one."""
        if first := [number for number in self._first if number not in self._known]:
            return self._chooser.ask(self._indices_at(first[0]))
        for _ in range(REASKS):
            choice = self._chooser.ask()
            number = self._number_of(choice.indices)
            if number not in self._known:
                return choice
            self.repeats += 1
            self._chooser.tell(choice, self._known[number])
        return self._chooser.ask(self._indices_at(self._draw_untried()))

    def tell(self, choice: Choice, score: float | None) -> None:
        """Put down what came of a proposal; ``None`` when it was rejected."""
        self._known[self._number_of(choice.indices)] = score
        self._chooser.tell(choice, score)

    def read(self, indices: Mapping[str, int]) -> Candidate:
        """The candidate with these sets."""
        return Candidate({name: shelf[indices[name]] for name, shelf in self._shelves.items()})

    def _draw_untried(self) -> int:
        """Any combination that did not come up yet, each as likely."""
        number = self._rng.randrange(self.untried)
        for known in sorted(self._known):
            number += known <= number
        return number

    def _indices_of(self, candidate: Candidate) -> Mapping[str, int]:
        return {name: shelf.index(candidate[name]) for name, shelf in self._shelves.items()}

    def _number_of(self, indices: Mapping[str, int]) -> int:
        number = 0
        for name, shelf in self._shelves.items():
            number = number * len(shelf) + indices[name]
        return number

    def _indices_at(self, number: int) -> Mapping[str, int]:
        indices: dict[str, int] = {}
        for name in reversed([*self._shelves]):
            number, indices[name] = divmod(number, len(self._shelves[name]))
        return indices
