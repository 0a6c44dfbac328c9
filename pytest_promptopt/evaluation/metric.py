"""A metric at work: one call for one row, inside the scope that its prompts read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from pytest_promptopt.errors import BudgetExhausted
from pytest_promptopt.evaluation.dataset import Example
from pytest_promptopt.evaluation.outcome import (
    Judgement,
    RowResult,
    Status,
    TestExceptions,
    judge_exception,
    judge_value,
)
from pytest_promptopt.lms.base import Reply
from pytest_promptopt.lms.client import Scope
from pytest_promptopt.prompts.active import Evaluation, evaluating
from pytest_promptopt.prompts.compiled import CompiledPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One row to evaluate, and as what: no candidate means the prompts as they stand.

    ``spend`` is called once for every logical LM call, before it is made or looked up. ``recorded`` are the replies
    that the metric has in files, by key.
    """

    example: Example
    repeat: int = 0
    candidate: Mapping[str, CompiledPrompt] = field(default_factory=dict)
    model: str | None = None
    temperature: float | None = None
    spend: Callable[[], None] | None = None
    recorded: Mapping[str, Reply] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A test function over rows. ``call`` takes the row; ``group`` names the field that ties rows together."""

    call: Callable[[Example], object]
    known: TestExceptions
    group: str | None = None

    def run(self, trial: Trial) -> RowResult:
        """Evaluate one row in this thread. Lets ``BudgetExhausted`` and whatever ends a session pass."""
        evaluation = _start(trial)
        try:
            with evaluating(evaluation):
                judgement = judge_value(self.call(trial.example))
        except BaseException as error:  # noqa: BLE001 - whatever a metric raises is judged, or raised again
            return self._failed(trial, evaluation, error)
        return self._result(trial, evaluation, judgement, None)

    async def arun(self, trial: Trial) -> RowResult:
        """Evaluate one row in this task; the same otherwise."""
        evaluation = _start(trial)
        try:
            with evaluating(evaluation):
                value = self.call(trial.example)
                judgement = judge_value(await value if isinstance(value, Awaitable) else value)
        except BaseException as error:  # noqa: BLE001 - as above
            return self._failed(trial, evaluation, error)
        return self._result(trial, evaluation, judgement, None)

    def timed_out(self, trial: Trial, seconds: float) -> RowResult:
        """The result of a row that took longer than ``example_timeout``: an error, not a score."""
        text = f"took longer than example_timeout={seconds:g} seconds"
        return self._result(trial, _start(trial), Judgement(status=Status.ERROR, score=None, feedback=text), None)

    def _failed(self, trial: Trial, evaluation: Evaluation, error: BaseException) -> RowResult:
        known = self.known
        judged: tuple[type[BaseException], ...] = (Exception, SystemExit, *known.failed, *known.skipped)
        if not isinstance(error, judged) or isinstance(error, (BudgetExhausted, *known.ending)):
            raise error
        return self._result(trial, evaluation, judge_exception(error, self.known), error)

    def _result(
        self, trial: Trial, evaluation: Evaluation, judgement: Judgement, error: BaseException | None
    ) -> RowResult:
        fault = evaluation.scope.fault
        if fault is not None and judgement.status not in (Status.ERROR, Status.UNRECORDED):
            judgement, error = judge_exception(fault, self.known), fault  # whoever caught it made no score of it
        example = trial.example
        calls = tuple(evaluation.calls)
        group = example.get(self.group) if self.group else None
        return RowResult(
            id=example.id,
            digest=example.digest,
            group=None if group is None else str(group),
            repeat=trial.repeat,
            judgement=judgement,
            calls=calls,
            fresh_calls=evaluation.scope.fresh + sum(not call.is_sent_by_us for call in calls),
            draws=tuple(evaluation.scope.draws),
            exception=error,
        )


def _start(trial: Trial) -> Evaluation:
    return Evaluation(
        scope=Scope(repeat=trial.repeat, spend=trial.spend, recorded=trial.recorded),
        candidate=trial.candidate,
        model=trial.model,
        temperature=trial.temperature,
    )
