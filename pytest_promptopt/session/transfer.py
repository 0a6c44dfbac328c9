"""``--prompt-transfer``: does the prompt that suits one model suit the others, on rows that no search saw?

Each metric of a matrix runs the prompts that stand for the other models, and the source, on its own model. Its own rows
have run by then, and nothing of this reaches their verdict; nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING

from pytest_promptopt.errors import BudgetExhausted, PromptOptError
from pytest_promptopt.evaluation.confirmation import Confirmation, Pair, Stratum, confirm
from pytest_promptopt.evaluation.dataset import Example
from pytest_promptopt.evaluation.metric import Trial
from pytest_promptopt.evaluation.outcome import RowResult, Status, by_row
from pytest_promptopt.prompts.active import candidates_in_flight, noting_strays
from pytest_promptopt.prompts.base import detached_words
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.registry import prompts_named
from pytest_promptopt.reports.records import TransferScore
from pytest_promptopt.session.metric_item import MetricItem

if TYPE_CHECKING:
    from pytest_promptopt.prompts.base import AnyPrompt
    from pytest_promptopt.session.run import Run

SOURCE = ""
"""What stands for the source where a model's name would."""


@dataclass(slots=True, kw_only=True)
class Arm:
    """One candidate on the rows: the work it takes, what came of it, and why there is no score where there is none."""

    candidate: Candidate
    model: str
    work: Sequence[Trial] = ()
    results: Sequence[RowResult] = ()
    problem: str = ""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run ``work`` inside. A fault is the arm's own problem, and none of the metric's.

        A call that carries no row would run the model's own prompts under another's name, so that is one too.
        """
        try:
            with noting_strays(self.model) as strays, candidates_in_flight():
                yield
        except (PromptOptError, BudgetExhausted) as error:
            self.problem = str(error)
        else:
            self.problem = detached_words(sorted(strays.prompts)) if strays.prompts else problem_of(self.results)


@dataclass(slots=True, kw_only=True)
class Transfer:
    """The prompts of all models on one metric and its model. ``rows`` are sealed for every model of the matrix."""

    run: Run
    item: MetricItem
    rows: tuple[Example, ...] = ()
    problem: str = ""
    candidates: dict[str, Candidate] = field(default_factory=dict)
    own: Arm | None = None
    others: list[Arm] = field(default_factory=list)

    @classmethod
    def of(cls, run: Run, item: MetricItem) -> Transfer:
        """Fix the rows, before the metric runs and may change them."""
        try:
            return cls(run=run, item=item, rows=_rows_sealed_for_all(run, item))
        except PromptOptError as error:
            return cls(run=run, item=item, problem=str(error))

    @property
    def model(self) -> str:
        """The model that everything runs on."""
        return self.item.model or ""

    def plan(self, results: Sequence[RowResult]) -> list[Arm]:
        """What to run beside the metric's own ``results``: every candidate that differs from its own prompts, once.

        Nothing where no model has anything frozen, or the own prompts have no score to compare with.
        """
        ids = {example.id for example in self.rows}
        mine = [result for result in results if result.id in ids]
        try:
            self.candidates = self._candidates(_prompts_of(mine, self.model))
        except PromptOptError as error:
            self.problem = self.problem or str(error)
        if self.problem or not self.has_frozen:
            return []
        self.own = Arm(candidate=self.candidates[self.model], model=self.model, results=mine)
        self.own.problem = problem_of(mine) or self._shortage(mine)
        others = {each for each in self.candidates.values() if each != self.own.candidate}
        if not self.own.problem:
            self.others = [self._arm(each) for each in sorted(others, key=lambda each: each.digest)]
        return self.others

    @property
    def has_frozen(self) -> bool:
        """Whether any model runs anything else than the source."""
        return len(set(self.candidates.values())) > 1

    def _shortage(self, mine: Sequence[RowResult]) -> str:
        if not self.rows:
            return "no row is sealed for all models"
        return "" if len(by_row(mine)) == len(self.rows) else "not all of its sealed rows ran"

    def _candidates(self, prompts: Sequence[AnyPrompt]) -> dict[str, Candidate]:
        """The prompts as they stand for each model, by its name, and their source."""
        runtime = self.run.runtime
        standing = {
            model: Candidate({prompt.name: prompt.find_snapshot(runtime, model).compiled for prompt in prompts})
            for model in self.run.settings.models
        }
        return {**standing, SOURCE: Candidate({prompt.name: prompt.source for prompt in prompts})}

    def _arm(self, candidate: Candidate) -> Arm:
        work = [
            Trial(example=example, repeat=repeat, model=self.model, candidate=candidate)
            for example in self.rows
            for repeat in range(self.item.options.repeats)
        ]
        return Arm(candidate=candidate, model=self.model, work=work)

    def scores(self) -> tuple[TransferScore, ...]:
        """How each model's prompts do on this one, and the source last; nothing where nobody has any of their own."""
        if self.problem:
            return (TransferScore(prompt_of=self.model, model=self.model, problem=self.problem, is_own=True),)
        own = self.own
        if own is None:
            return ()
        arms = {arm.candidate: arm for arm in (*self.others, own)}
        return tuple(self._score(name, arms.get(each, own), own) for name, each in self.candidates.items())

    def _score(self, prompt_of: str, arm: Arm, own: Arm) -> TransferScore:
        problem = own.problem or arm.problem
        scores = {} if problem else _mean_scores(arm.results)
        compared = None if problem or arm is own else self._compare(scores, _mean_scores(own.results))
        return TransferScore(
            prompt_of=prompt_of,
            model=self.model,
            candidate=arm.candidate.short_name,
            rows=len(scores),
            score=fmean(scores.values()) if scores else None,
            problem=problem or ("" if scores else "every row was left out"),
            is_own=prompt_of == self.model,
            is_source=self.candidates[prompt_of] == self.candidates[SOURCE],
            difference=None if compared is None else compared.difference,
            interval=None if compared is None else compared.interval,
            p=None if compared is None else compared.p,
        )

    def _compare(self, foreign: Mapping[str, float], own: Mapping[str, float]) -> Confirmation | None:
        """How much better the foreign prompts are, row by row; rows that share a key are one observation."""
        pairs = tuple(
            Pair(winner=foreign[row.id], incumbent=own[row.id], group=self.item.key_of(row))
            for row in self.rows
            if row.id in foreign and row.id in own
        )
        return confirm([Stratum(metric=self.item.nodeid, pairs=pairs)], alpha=1.0) if pairs else None


def lacks_score(result: RowResult) -> bool:
    """Whether the row ended in an error or a missing reply: the candidate has no score then, and need not go on."""
    return result.judgement.status in (Status.ERROR, Status.UNRECORDED)


def problem_of(results: Iterable[RowResult]) -> str:
    """Why these rows have no score to show, by the first that has none; empty where all have."""
    worst = next((result for result in results if lacks_score(result)), None)
    if worst is None:
        return ""
    return "not recorded" if worst.judgement.status is Status.UNRECORDED else f"{worst.id}: {worst.judgement.feedback}"


def _rows_sealed_for_all(run: Run, item: MetricItem) -> tuple[Example, ...]:
    """The rows that no model's search saw: those that its gate reads after a freeze, else those that a search seals."""
    examples = item.examples()
    common = {example.id for example in examples}
    for model in run.settings.models:
        sibling = MetricItem(item.item, item.options, item.settings, model)
        baseline = sibling.baseline
        is_sealed = baseline is not None and baseline.reads == "sealed"
        sealed = sibling.rows_to_read(examples).deciding if is_sealed else sibling.split(examples).test
        common &= {example.id for example in sealed}
    return tuple(example for example in examples if example.id in common)


def _prompts_of(results: Iterable[RowResult], model: str) -> list[AnyPrompt]:
    """The prompts that the rows called on ``model``; one that names a model itself is the same whatever model runs."""
    files: dict[str, set[str]] = {}
    for call in (call for result in results for call in result.calls if call.model == model):
        files.setdefault(call.prompt, set()).add(call.file)
    found = (prompt for name in files for prompt in prompts_named(name) if {str(prompt.home.file)} == files[name])
    return [prompt for prompt in found if not prompt.model]


def _mean_scores(results: Iterable[RowResult]) -> dict[str, float]:
    """Row id → mean over its repeats; rows that were left out have none."""
    scores = {
        row: [each.judgement.score for each in repeats if each.judgement.score is not None]
        for row, repeats in by_row(results).items()
    }
    return {row: fmean(known) for row, known in scores.items() if known}
