"""Labelled rows as demos, drawn at random: the first thing to try where rows have labels.

After DSPy's ``LabeledFewShot``. Unlike there, the draw follows the run's seed and the result is scored on the val rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from pytest_promptopt.optimizers.base import Search, Sizes, Task
from pytest_promptopt.optimizers.demos import draw_labelled, with_demos
from pytest_promptopt.optimizers.evaluating import announce, best_of, counted, require_at_least, score


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledFewShot:
    """``k`` labelled train rows for each prompt that has any."""

    k: int = 16

    def __post_init__(self) -> None:
        require_at_least("labeled-few-shot.k", self.k, 1)

    def search(self, task: Task, rng: Random) -> Search:
        """One draw, scored once."""
        demos = draw_labelled(task, self.k, rng)
        candidate = with_demos(task.source, demos)
        scores = yield from score(task, (task.source, candidate))
        most = max((len(shown) for shown in demos.values()), default=0)
        yield from announce(counted(most, "labelled demo"), round=1, rounds=1)
        return best_of(scores)

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        """One run over the val rows, if there are labels."""
        calls = sizes.validation if sizes.labelled_rows else 0
        return calls, calls
