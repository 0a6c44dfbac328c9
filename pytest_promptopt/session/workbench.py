"""Where candidates are evaluated: a metric's own pytest item, run again and again with work laid beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING

import pytest
from _pytest.nodes import Node
from _pytest.runner import runtestprotocol

from pytest_promptopt.errors import DetachedCallError, LMError, PromptOptError, UsageError
from pytest_promptopt.evaluation.dataset import Example
from pytest_promptopt.evaluation.loop import run_in_threads
from pytest_promptopt.evaluation.metric import Trial
from pytest_promptopt.evaluation.outcome import RowResult, Status, by_row
from pytest_promptopt.evaluation.split import Split
from pytest_promptopt.lms.base import Request
from pytest_promptopt.optimizers.base import Completion, Outcome, Pair
from pytest_promptopt.optimizers.driver import Allowance
from pytest_promptopt.prompts.active import candidates_in_flight
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt
from pytest_promptopt.session.blessing import matches
from pytest_promptopt.session.driving import BATCH, Batch
from pytest_promptopt.session.metric_item import MetricItem

if TYPE_CHECKING:
    from pytest_promptopt.session.run import Run

Plan = Callable[[MetricItem], Sequence[Trial]]


class JobError(Exception):
    """A search cannot go on; its text is what the job fails with."""


class MetricSkipped(Exception):  # noqa: N818 - it is no fault
    """The metric's item was skipped, so it measures nothing."""


class _Level:
    """Tells pytest how far to tear down after an item: down to, and not including, these nodes."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes

    def listchain(self) -> list[Node]:
        return self._nodes


@dataclass(slots=True)
class Bench:
    """Runs metric items outside pytest's own order, keeping session, package and module fixtures alive meanwhile."""

    session: pytest.Session
    level: list[Node] = field(default_factory=list)

    def run(self, metric: MetricItem, plan: Plan, *, is_enough: Callable[[RowResult], bool]) -> list[RowResult]:
        """Set the item up, run the work that ``plan`` makes of it, tear its own fixtures down.

        After a result that ``is_enough`` no further row is begun, and the results are those that came in. Raises
        ``JobError`` when set-up, test or teardown fail, ``MetricSkipped`` when it is skipped, and whatever ended the
        work early.
        """
        item = metric.item
        chain = item.listchain()
        if self.level and self.level != chain[:-1]:
            self.session._setupstate.teardown_exact(_Level(chain[:-1]))  # type: ignore[arg-type]  # only listchain is used
        item.stash[BATCH] = batch = Batch(plan=plan, is_enough=is_enough)
        try:
            reports = runtestprotocol(item, log=False, nextitem=_Level(chain[:-1]))  # type: ignore[arg-type]
        finally:
            del item.stash[BATCH]
            self.level = chain[:-1]
        _check(metric, batch, reports)
        return batch.results

    def leave(self, nextitem: pytest.Item | None) -> None:
        """Tear down what only this job's metrics needed; everything after the last job."""
        keep = None if nextitem is None else _Level([self.session])
        self.session._setupstate.teardown_exact(keep)  # type: ignore[arg-type]
        self.level = []


def _check(metric: MetricItem, batch: Batch, reports: Sequence[pytest.TestReport]) -> None:
    if batch.failure is not None:
        raise batch.failure
    for report in reports:
        if report.failed:
            raise JobError(f"{metric.nodeid} cannot run ({report.when}):\n{report.longreprtext}")
        if report.skipped and not batch.has_run:
            raise MetricSkipped(metric.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one metric knows of its prompts' source: its rows on their sides, and the results of all searchable ones.

    ``left_out`` rows are on neither side, because another metric seals them. ``failure`` says why there is no score for
    a row; the results are those that came before.
    """

    metric: MetricItem
    split: Split
    left_out: int = 0
    failure: str = ""
    results: Mapping[str, tuple[RowResult, ...]] = field(default_factory=dict)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts that its rows called, in the order of the first call; those that ``prompts=`` means, if given."""
        calls = (call for repeats in self.results.values() for result in repeats for call in result.calls)
        called = dict.fromkeys(call.prompt for call in calls)
        patterns = self.metric.options.prompts
        return tuple(name for name in called if patterns is None or matches(name, patterns))

    def calls_of(self, row: str) -> int:
        """Logical LM calls that all repeats of ``row`` made, beyond those of metrics that ran before."""
        return sum(result.fresh_calls for result in self.results[row])

    @property
    def all_calls(self) -> int:
        """The same over all rows."""
        return sum(map(self.calls_of, self.results))

    @property
    def most_calls_per_row(self) -> int:
        """Logical LM calls of the row that made most, whoever else makes them too."""
        return max((sum(len(result.calls) for result in repeats) for repeats in self.results.values()), default=1)

    @property
    def most_fresh_calls_per_row(self) -> int:
        """The same, beyond those of metrics that ran before."""
        return max(map(self.calls_of, self.results), default=1)

    @property
    def examples(self) -> dict[str, Example]:
        """Every row of both searchable sides and the sealed one, by id."""
        return {example.id: example for example in (*self.split.searchable, *self.split.test)}


def trials_of(
    examples: Sequence[Example],
    metric: MetricItem,
    candidate: Mapping[str, CompiledPrompt],
    *,
    spend: Callable[[], None] | None = None,
    model: str | None = None,
    temperature: float | None = None,
    first_repeat: int = 0,
) -> list[Trial]:
    """All repeats of all ``examples`` under ``candidate``."""
    return [
        Trial(
            example=example,
            repeat=first_repeat + repeat,
            candidate=candidate,
            model=model or metric.model,
            temperature=temperature,
            spend=spend,
            recorded=metric.replies,
        )
        for example in examples
        for repeat in range(metric.options.repeats)
    ]


def outcome_of(metric: MetricItem, repeats: Sequence[RowResult]) -> Outcome:
    """What one row's repeats mean to a search. Raises ``JobError`` for faults that are not the candidate's."""
    for result in repeats:
        refuse_fault(metric, result)
        if result.judgement.status is Status.ERROR:
            return Outcome(score=None, feedback=result.judgement.feedback, calls=result.own_calls, is_rejected=True)
    scores = [result.judgement.score for result in repeats if result.judgement.score is not None]
    worst = min(repeats, key=lambda result: 2.0 if result.judgement.score is None else result.judgement.score)
    return Outcome(score=fmean(scores) if scores else None, feedback=worst.judgement.feedback, calls=worst.own_calls)


def is_fault(result: RowResult) -> bool:
    """Whether a provider, a missing reply or a setting kept the row from a score: no fault of a candidate's."""
    faults = (LMError, UsageError, DetachedCallError)
    return result.judgement.status is Status.UNRECORDED or isinstance(result.exception, faults)


def has_no_score(result: RowResult) -> bool:
    """Whether the row ended in an error, whoever's it is."""
    return result.judgement.status in (Status.ERROR, Status.UNRECORDED)


def fault_words(metric: MetricItem, result: RowResult, where: str = "") -> str:
    """Which row of which metric has no score, and why."""
    return f"{metric.nodeid}, row {result.id}{where}: {result.judgement.feedback}"


def refuse_fault(metric: MetricItem, result: RowResult) -> None:
    """Raise ``JobError`` when a provider, a missing reply or a setting kept the row from a score."""
    if is_fault(result):
        raise JobError(fault_words(metric, result))


class GroupBench:
    """The workbench of one search: pairs go to their metrics' items, completions to the proposer."""

    def __init__(self, run: Run, bench: Bench, evidence: Mapping[str, Evidence], allowance: Allowance) -> None:
        self._run = run
        self._bench = bench
        self._evidence = evidence
        self._examples = {name: one.examples for name, one in evidence.items()}
        self._allowance = allowance
        self._model = next(iter(evidence.values())).metric.model or ""
        self._proposer = run.settings.proposer or self._model

    @property
    def is_own_teacher(self) -> bool:
        """Whether the model under test teaches itself."""
        return self._proposer == self._model

    def evaluate(self, pairs: Sequence[Pair]) -> Sequence[Outcome]:
        """Each row with its candidate, on the model under test."""
        return self._run_pairs(pairs, model=None, temperature=None, first_repeat=0)

    def trace(self, pairs: Sequence[Pair], attempt: int) -> Sequence[Outcome]:
        """Each row with its candidate, on the teacher; later attempts are fresh draws at temperature 1."""
        temperature = 1.0 if attempt else None
        return self._run_pairs(pairs, model=self._proposer, temperature=temperature, first_repeat=attempt)

    def complete(self, completions: Sequence[Completion]) -> Sequence[str]:
        """Each request in a call of its own."""

        def ask(completion: Completion) -> str:
            self._allowance.spend()
            request = Request(
                model=self._proposer,
                messages=completion.messages,
                temperature=completion.temperature,
                ordinal=completion.draw,
            )
            return self._run.client.complete(request).text

        try:
            return run_in_threads(completions, ask, concurrency=self._run.settings.concurrency)
        except PromptOptError as error:
            raise JobError(f"the proposer {self._proposer} did not answer: {error}") from error

    def _run_pairs(
        self, pairs: Sequence[Pair], *, model: str | None, temperature: float | None, first_repeat: int
    ) -> list[Outcome]:
        outcomes: dict[Pair, Outcome] = {}
        for name in dict.fromkeys(row.metric for _, row in pairs):
            mine = [pair for pair in pairs if pair[1].metric == name]
            metric = self._evidence[name].metric

            def plan(metric: MetricItem, mine: Sequence[Pair] = mine, name: str = name) -> list[Trial]:
                return [
                    trial
                    for candidate, row in mine
                    for trial in trials_of(
                        [self._examples[name][row.id]],
                        metric,
                        candidate,
                        spend=self._allowance.spend,
                        model=model,
                        temperature=temperature,
                        first_repeat=first_repeat,
                    )
                ]

            with candidates_in_flight():
                results = self._bench.run(metric, plan, is_enough=is_fault)
            for result in results:
                refuse_fault(metric, result)
            size = metric.options.repeats
            for position, pair in enumerate(mine):
                outcomes[pair] = outcome_of(metric, results[position * size : (position + 1) * size])
        return [outcomes[pair] for pair in pairs]


def run_arm(
    bench: Bench, evidence: Evidence, examples: Sequence[Example], candidate: Candidate, *, first_repeat: int = 0
) -> dict[str, tuple[RowResult, ...]]:
    """Row id → its repeats under ``candidate``, for rows that no search counts."""
    with candidates_in_flight():
        results = bench.run(
            evidence.metric,
            lambda metric: trials_of(examples, metric, candidate, first_repeat=first_repeat),
            is_enough=has_no_score,
        )
    return by_row(results)
