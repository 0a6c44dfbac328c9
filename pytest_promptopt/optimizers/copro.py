"""Instruction search, breadth × depth: the proposer sees scored attempts and what the test said about failures.

After DSPy's ``COPRO`` (coordinate ascent over the prompts of a program). Differences: each proposal is a call of its
own rather than one call with ``n``, which some providers ignore; candidates are scored on val rows, never on train;
failing train rows of the current best reach the proposer in the metric's own words; no candidate is scored twice, so
calls grow with the number of prompts and rounds, not with their squares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from pytest_promptopt.optimizers.base import Completion, Outcome, Row, Search, Sizes, Task, TunablePrompt
from pytest_promptopt.optimizers.evaluating import (
    Steps,
    announce,
    best_of,
    evaluate,
    is_perfect,
    require_at_least,
    score,
)
from pytest_promptopt.optimizers.proposals import (
    Attempt,
    Case,
    Sifted,
    ask_for_instruction,
    find_failures,
    instructed,
    propose,
    summarise,
)
from pytest_promptopt.prompts.candidate import Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Copro:
    """``breadth`` instructions a round (the current one is among the first), ``depth`` rounds for each prompt.

    ``init_temperature`` is the proposer's. Published is 1.4, which Anthropic's models refuse; draws differ at 1.0 too,
    because each is shown other examples: ``max_examples`` labelled rows and ``max_failures`` failing ones, fewer where
    they are long. Proposals of more than ``max_words`` words are thrown away, unless the source is as long.
    """

    breadth: int = 10
    depth: int = 3
    init_temperature: float = 1.0
    max_examples: int = 32
    max_failures: int = 16
    max_words: int = 300

    def __post_init__(self) -> None:
        require_at_least("copro.breadth", self.breadth, 2)
        require_at_least("copro.depth", self.depth, 1)
        require_at_least("copro.init_temperature", self.init_temperature, 0)
        require_at_least("copro.max_examples", self.max_examples, 0)
        require_at_least("copro.max_failures", self.max_failures, 0)
        require_at_least("copro.max_words", self.max_words, 1)

    def search(self, task: Task, rng: Random) -> Search:
        """Round by round and prompt by prompt: propose on top of the best so far, score, keep the best."""
        scores = dict((yield from score(task, [task.source])))
        rounds = self.rounds(task)
        for number in range(rounds):
            if is_perfect(scores):
                break
            prompt = task.prompts[number % len(task.prompts)]
            best = best_of(scores)
            trained = yield from self._look_at_failures(task, best)
            breadth = self.breadth - (number < len(task.prompts))
            sifted = yield from self._propose(prompt, best, scores, trained, breadth, rng)
            candidates = [instructed(best, prompt.name, instruction) for instruction in sifted.instructions]
            scores.update((yield from score(task, candidates)))
            text = summarise(sifted, target=f" for {prompt.name}" if len(task.prompts) > 1 else "")
            yield from announce(text, round=number + 1, rounds=rounds)
        return best_of(scores)

    def rounds(self, task: Task) -> int:
        """Rounds that are announced when nothing ends the search before."""
        return self.depth * len(task.prompts)

    def _look_at_failures(self, task: Task, best: Candidate) -> Steps[Mapping[Row, Outcome]]:
        """How the best so far does on the train rows; known already as long as that is the source."""
        outcomes = yield from evaluate((best, row) for row in task.trainset)
        return dict(zip(task.trainset, outcomes, strict=True))

    def _propose(
        self,
        prompt: TunablePrompt,
        best: Candidate,
        scores: Mapping[Candidate, float],
        trained: Mapping[Row, Outcome],
        breadth: int,
        rng: Random,
    ) -> Steps[Sifted]:
        rows = [(row.id, outcome) for row, outcome in trained.items()]
        failures, attempts = find_failures(prompt.name, rows), _attempts_on(prompt.name, scores)
        current = best[prompt.name].instruction
        best_attempts = attempts[: self.breadth] if len(attempts) > 1 else ()
        completions = [
            self._ask(prompt, current, best_attempts, failures, draw=draw, rng=rng) for draw in range(breadth)
        ]
        tried = [attempt.instruction for attempt in attempts]
        return (yield from propose(prompt, completions, tried, max_words=self.max_words))

    def _ask(
        self,
        prompt: TunablePrompt,
        current: str,
        attempts: tuple[Attempt, ...],
        failures: tuple[Case, ...],
        *,
        draw: int,
        rng: Random,
    ) -> Completion:
        messages = ask_for_instruction(
            prompt,
            current,
            examples=rng.sample(prompt.labelled, min(self.max_examples, len(prompt.labelled))),
            attempts=attempts,
            failures=rng.sample(failures, min(self.max_failures, len(failures))),
        )
        return Completion(messages=messages, temperature=self.init_temperature, draw=draw, prompt=prompt.name)

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        """Proposals, their runs over the val rows, and a run over the train rows whenever the best has changed.

        At most P·(breadth·depth - 1) proposals, as many runs over val, and P·depth - 1 over train for P prompts. At
        least the first prompt's first proposals, all rejected or one of them perfect.
        """
        proposals = sizes.prompts * (self.breadth * self.depth - 1)
        trainings = sizes.prompts * self.depth - 1
        return self.breadth - 1, proposals * (1 + sizes.validation) + trainings * sizes.training


def _attempts_on(name: str, scores: Mapping[Candidate, float]) -> tuple[Attempt, ...]:
    """The best score of every instruction that prompt ``name`` was given, best first."""
    best: dict[str, float] = {}
    for candidate, value in scores.items():
        instruction = candidate[name].instruction
        best[instruction] = max(value, best.get(instruction, 0.0))
    attempts = [Attempt(instruction=instruction, score=value) for instruction, value in best.items()]
    return tuple(sorted(attempts, key=lambda attempt: -attempt.score))
