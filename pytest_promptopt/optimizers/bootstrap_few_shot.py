"""The teacher's own successful traces as demos, reasoning included, with labelled rows behind them.

After DSPy's ``BootstrapFewShot``. Differences: the seed orders the rows, not the file (which may be sorted by
label); the teacher runs the source as it stands, whose traces are known from the baseline when it is its own
teacher; every row is tried once before any is tried again; the result is scored on val rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from pytest_promptopt.optimizers.base import Search, Sizes, Task
from pytest_promptopt.optimizers.demos import fill_with_labelled, join_demos, trace_successes, with_demos
from pytest_promptopt.optimizers.evaluating import announce, best_of, counted, require_at_least, score


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapFewShot:
    """Up to ``max_bootstrapped_demos`` traces, then labelled rows until a prompt shows ``max_labeled_demos`` in all."""

    max_bootstrapped_demos: int = 4
    max_labeled_demos: int = 16
    max_rounds: int = 1

    def __post_init__(self) -> None:
        require_at_least("bootstrap-few-shot.max_bootstrapped_demos", self.max_bootstrapped_demos, 0)
        require_at_least("bootstrap-few-shot.max_labeled_demos", self.max_labeled_demos, 0)
        require_at_least("bootstrap-few-shot.max_rounds", self.max_rounds, 1)

    def search(self, task: Task, rng: Random) -> Search:
        """Trace until enough rows succeeded, then score the set."""
        rows = rng.sample(task.trainset, len(task.trainset))
        wanted = self.max_bootstrapped_demos
        found = yield from trace_successes(task, rows, wanted=wanted, max_rounds=self.max_rounds, rng=rng)
        demos = fill_with_labelled(join_demos(found.values()), task, self.max_labeled_demos, rng)
        scores = yield from score(task, (task.source, with_demos(task.source, demos)))
        most = max((len(shown) for shown in demos.values()), default=0)
        yield from announce(f"{counted(most, 'demo')}, {len(found)} bootstrapped", round=1, rounds=1)
        return best_of(scores)

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        """Traces until enough succeed (none of the first round when they are known), and one run over the val rows."""
        if not sizes.takes_demos:
            return 0, 0
        validation = sizes.validation
        paid_rounds = self.max_rounds - sizes.is_own_teacher if self.max_bootstrapped_demos else 0
        needed = 0 if sizes.is_own_teacher else min(self.max_bootstrapped_demos, sizes.train_rows) * sizes.calls_per_row
        has_labels = bool(sizes.labelled_rows and self.max_labeled_demos)
        fewest = needed + (validation if has_labels else 0)
        return fewest, paid_rounds * sizes.training + validation
