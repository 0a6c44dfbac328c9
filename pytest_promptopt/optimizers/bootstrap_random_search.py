"""Many sets of demos, each of other rows, some bootstrapped and the rest labelled: the best on the val rows wins.

After DSPy's ``BootstrapFewShotWithRandomSearch``, whose seeds -3, -2 and -1 are the first round here. Differences: all
train rows are traced once and every set draws from what succeeded; winners are chosen on val rows, never on train; a
set that came up before is drawn anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from pytest_promptopt.optimizers.base import Search, Sizes, Task
from pytest_promptopt.optimizers.demos import SetDrawer, trace_successes
from pytest_promptopt.optimizers.evaluating import announce, best_of, counted, is_perfect, require_at_least, score


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapRandomSearch:
    """``num_candidates`` random sets beside the zero-shot, the labelled and the unshuffled one.

    A random set has 1 to ``max_bootstrapped_demos`` bootstrapped demos and labelled ones up to ``max_labeled_demos`` in
    all. ``sets_per_round`` are scored at a time: the steps in which a budget can end the search.
    """

    num_candidates: int = 16
    max_bootstrapped_demos: int = 4
    max_labeled_demos: int = 16
    max_rounds: int = 1
    sets_per_round: int = 4

    def __post_init__(self) -> None:
        require_at_least("bootstrap-random-search.num_candidates", self.num_candidates, 0)
        require_at_least("bootstrap-random-search.max_bootstrapped_demos", self.max_bootstrapped_demos, 0)
        require_at_least("bootstrap-random-search.max_labeled_demos", self.max_labeled_demos, 0)
        require_at_least("bootstrap-random-search.max_rounds", self.max_rounds, 1)
        require_at_least("bootstrap-random-search.sets_per_round", self.sets_per_round, 1)

    @property
    def rounds(self) -> int:
        """Rounds that are announced when nothing ends the search before."""
        return 1 + -(-self.num_candidates // self.sets_per_round)

    def search(self, task: Task, rng: Random) -> Search:
        """Score the three plain sets, then random ones round by round."""
        traced_rounds = self.max_rounds if self.max_bootstrapped_demos else 0
        found = yield from trace_successes(task, task.trainset, wanted=None, max_rounds=traced_rounds, rng=rng)
        drawer = SetDrawer(
            task=task,
            found=found,
            max_bootstrapped_demos=self.max_bootstrapped_demos,
            max_labeled_demos=self.max_labeled_demos,
        )
        seen = dict.fromkeys((task.source, *drawer.draw_plain(rng)))
        scores = dict((yield from score(task, seen)))
        yield from announce(f"{counted(len(found), 'row')} to bootstrap from", round=1, rounds=self.rounds)
        for number in range(2, self.rounds + 1):
            if is_perfect(scores):
                break
            size = min(self.sets_per_round, self.num_candidates - (number - 2) * self.sets_per_round)
            batch = drawer.draw(size, seen, rng)
            scores.update((yield from score(task, batch)))
            yield from announce(counted(len(batch), "demo set"), round=number, rounds=self.rounds)
        return best_of(scores)

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        """Traces of all train rows (none when they are known), and a run over the val rows for each distinct set.

        The zero-shot set is a source as code has it, whose scores are known.
        """
        if not sizes.takes_demos:
            return 0, 0
        validation = sizes.validation
        training = sizes.training
        paid_rounds = self.max_rounds - sizes.is_own_teacher if self.max_bootstrapped_demos else 0
        has_labels = bool(sizes.labelled_rows and self.max_labeled_demos)
        fewest = training * min(1, paid_rounds if not sizes.is_own_teacher else 0) + validation * has_labels
        return fewest, training * paid_rounds + validation * (self.num_candidates + 2)
