"""What every search of instructions has to beat: as many proposals as the budget holds, ranked by halving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from pytest_promptopt.optimizers.base import Completion, Row, Search, Sizes, Task
from pytest_promptopt.optimizers.evaluating import Steps, best_of, evaluate, score
from pytest_promptopt.optimizers.proposals import ask_for_instruction, find_failures, instructed, propose
from pytest_promptopt.prompts.candidate import Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateAndHalve:
    """All proposals are made from the start, and none learns from another.

    A proposal costs itself and, on the average, half of the val rows: all run on a quarter of them, the better half of
    them on a second quarter, the better half of these on the rest.
    """

    most_proposals: int = 64
    max_examples: int = 32
    max_failures: int = 16
    max_words: int = 300

    def search(self, task: Task, rng: Random) -> Search:
        """Propose, then halve."""
        scores = dict((yield from score(task, [task.source])))
        (prompt,), size = task.prompts, len(task.valset)
        count = min(self.most_proposals, (task.max_calls or 0) // (1 + size // 2))
        completions = yield from self._ask(task, count, rng)
        current = prompt.source.instruction
        sifted = yield from propose(prompt, completions, [current], max_words=self.max_words)
        left = [instructed(task.source, prompt.name, text) for text in sifted.instructions]
        rows = rng.sample(task.valset, size)
        for stop in (size // 4, size // 2):
            left = yield from _better_half(task, left, rows[:stop])
        scores.update((yield from score(task, left)))
        return best_of(scores)

    def _ask(self, task: Task, count: int, rng: Random) -> Steps[list[Completion]]:
        """One request a proposal, each with other labelled rows and other failures of the start."""
        (prompt,) = task.prompts
        outcomes = yield from evaluate((task.source, row) for row in task.trainset)
        failures = find_failures(prompt.name, zip((row.id for row in task.trainset), outcomes, strict=True))
        return [
            Completion(
                messages=ask_for_instruction(
                    prompt,
                    prompt.source.instruction,
                    examples=rng.sample(prompt.labelled, min(self.max_examples, len(prompt.labelled))),
                    failures=rng.sample(failures, min(self.max_failures, len(failures))),
                ),
                draw=draw,
                prompt=prompt.name,
            )
            for draw in range(count)
        ]

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        """Nothing, up to the most proposals on all their rows."""
        return 0, self.most_proposals * (1 + sizes.val_rows)


def _better_half(task: Task, candidates: Sequence[Candidate], rows: Sequence[Row]) -> Steps[list[Candidate]]:
    ranks = {}
    for candidate in candidates:
        outcomes = yield from evaluate((candidate, row) for row in rows)
        ranks[candidate] = task.mean(rows, outcomes) or 0.0
    return sorted(candidates, key=lambda candidate: -ranks[candidate])[: -(-len(candidates) // 2)]
