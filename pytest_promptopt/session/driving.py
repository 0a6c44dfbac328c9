"""The driver of a plain run: a metric's test, swapped for the loop that calls it once for every row."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock
from typing import Any
from unittest import SkipTest

import pytest

from pytest_promptopt.errors import BudgetExhausted, DetachedCallError, PromptOptError
from pytest_promptopt.evaluation.loop import run_in_order, run_in_tasks, run_in_threads
from pytest_promptopt.evaluation.metric import Metric, Trial
from pytest_promptopt.evaluation.outcome import RowResult, Status, TestExceptions
from pytest_promptopt.prompts.active import noting_strays
from pytest_promptopt.prompts.base import detached_words
from pytest_promptopt.reports.records import MetricReport
from pytest_promptopt.session import verdicts
from pytest_promptopt.session.metric_item import MetricItem, ReadRows
from pytest_promptopt.session.recording import broken_off, use_of
from pytest_promptopt.session.robustness import PerturbedMetric, keep_flips, perturbed
from pytest_promptopt.session.run import REPORT, USE, Run
from pytest_promptopt.session.transfer import Transfer, lacks_score

KNOWN = TestExceptions(
    failed=(AssertionError, pytest.fail.Exception),
    skipped=(pytest.skip.Exception, pytest.xfail.Exception, SkipTest),
    ending=(pytest.exit.Exception,),
)


IsEnough = Callable[[RowResult], bool]


@dataclass(slots=True, kw_only=True)
class Batch:
    """Work that an optimize job lays beside a metric before it runs it, and takes back with results.

    After a result that ``is_enough``, no further row is begun.
    """

    plan: Callable[[MetricItem], Sequence[Trial]]
    is_enough: IsEnough
    results: list[RowResult] = field(default_factory=list)
    failure: BaseException | None = None
    has_run: bool = False

    def take(self, results: list[RowResult], seconds: float, strays: Sequence[str]) -> None:
        """Hand the job what its rows gave.

        Raises ``DetachedCallError`` where a prompt was called without the candidate and no row says so itself: whoever
        called it kept the error to themselves, and what their row came to is no score.
        """
        if strays and results and not any(isinstance(result.exception, DetachedCallError) for result in results):
            raise DetachedCallError(detached_words(strays))
        self.results, self.has_run = results, True


BATCH = pytest.StashKey[Batch]()

HOPELESS_ROWS = 3
"""When the first rows have all raised, the metric is broken, and the others need not be paid for."""


class _Hopeless:
    """Whether a metric does nothing but raise, by the first rows in their order: timing decides nothing.

    A provider's faults are not its own.
    """

    def __init__(self, work: Sequence[Trial]) -> None:
        self._lock = Lock()
        self._first = {(trial.example.id, trial.repeat) for trial in work[:HOPELESS_ROWS]}
        self._raised = 0

    def __call__(self, result: RowResult) -> bool:
        judgement = result.judgement
        is_own = judgement.status is Status.ERROR and not judgement.is_provider_fault
        with self._lock:
            self._raised += is_own and (result.id, result.repeat) in self._first
            return self._raised >= HOPELESS_ROWS


Conclude = Callable[[list[RowResult], float, Sequence[str]], None]
"""Takes results, the seconds they took, and the prompts that were called without a row."""


def make_driver(run: Run, item: pytest.Function) -> Callable[..., Any]:
    """What takes the test's place in the call phase: a coroutine function exactly when the test is one."""
    metric_item = run.metric_of(item)
    function = item.obj
    batch = item.stash.get(BATCH, None)

    def assignment() -> tuple[Sequence[Trial], IsEnough, Transfer | None, Conclude]:
        """The rows to run, after which result to stop, which prompts to try after it, and what to do with all of it."""
        if batch is not None:
            return batch.plan(metric_item), batch.is_enough, None, batch.take
        read = metric_item.rows_to_read(metric_item.examples())
        work = verdicts.plan(metric_item, read)
        is_asked = run.settings.is_transferring and not metric_item.is_debugged
        transfer = Transfer.of(run, metric_item) if is_asked else None
        return work, _Hopeless(work), transfer, partial(_conclude, run, metric_item, read, transfer)

    @contextmanager
    def guard() -> Iterator[None]:
        """Faults of the run travel to the job that asked; to everyone else they fail the test in plain words."""
        fault: BaseException | None = None
        try:
            yield
        except (PromptOptError, BudgetExhausted) as error:
            fault = error
        except Exception as error:  # Ctrl-C ends a loop by cancelling what runs there: that must reach the loop
            if batch is None:
                raise
            fault = error
        if batch is not None:
            batch.failure = fault
        elif fault is not None:
            run.leave_unreported()
            words = broken_off(fault, run.settings.mode)
            raise pytest.fail.Exception(words, pytrace=False) from None  # else it is told as its own consequence

    if metric_item.is_async:

        async def adriver(**kwargs: Any) -> None:
            with guard():
                work, is_enough, transfer, conclude = assignment()
                metric = _metric(metric_item, kwargs, function)
                start = time.perf_counter()
                with noting_strays(metric_item.model) as strays:
                    results = await _run_async(metric_item, metric, work, is_enough)
                for arm in transfer.plan(results) if transfer else ():
                    with arm.running():
                        arm.results = await _run_async(metric_item, metric, arm.work, lacks_score)
                conclude(results, time.perf_counter() - start, sorted(strays.prompts))

        return adriver

    def driver(**kwargs: Any) -> None:
        with guard():
            work, is_enough, transfer, conclude = assignment()
            metric = _metric(metric_item, kwargs, function)
            start = time.perf_counter()
            with noting_strays(metric_item.model) as strays:
                results = _run_sync(metric_item, metric, work, is_enough)
            for arm in transfer.plan(results) if transfer else ():
                with arm.running():
                    arm.results = _run_sync(metric_item, metric, arm.work, lacks_score)
            conclude(results, time.perf_counter() - start, sorted(strays.prompts))

    return driver


def _metric(item: MetricItem, kwargs: dict[str, Any], function: Any) -> Metric | PerturbedMetric:
    metric = Metric(call=partial(item.call, kwargs, function), known=KNOWN, group=item.options.group)
    return perturbed(metric, item) if item.options.perturb else metric


def _run_sync(
    item: MetricItem, metric: Metric | PerturbedMetric, work: Sequence[Trial], is_enough: IsEnough
) -> list[RowResult]:
    limit = item.options.example_timeout
    if item.is_debugged:
        return [_stop_at_failure(metric.run(trial)) for trial in work]
    if item.concurrency == 1 and limit is None:
        return run_in_order(work, metric.run, is_enough=is_enough)
    return run_in_threads(
        work,
        metric.run,
        concurrency=item.concurrency,
        timeout_seconds=limit,
        timed_out=None if limit is None else partial(_late, metric, limit),
        is_enough=is_enough,
    )


async def _run_async(
    item: MetricItem, metric: Metric | PerturbedMetric, work: Sequence[Trial], is_enough: IsEnough
) -> list[RowResult]:
    limit = item.options.example_timeout
    if item.is_debugged:
        return [_stop_at_failure(await metric.arun(trial)) for trial in work]
    return await run_in_tasks(
        work,
        metric.arun,
        concurrency=item.concurrency,
        timeout_seconds=limit,
        timed_out=None if limit is None else partial(_late, metric, limit),
        is_enough=is_enough,
    )


def _late(metric: Metric | PerturbedMetric, seconds: float, trial: Trial) -> RowResult:
    return metric.timed_out(trial, seconds)


def _stop_at_failure(result: RowResult) -> RowResult:
    """With a debugger waiting, the first failing row's own exception goes up, into the test's own frame."""
    if result.exception is not None and result.judgement.status is not Status.SKIPPED:
        raise result.exception
    return result


def _conclude(
    run: Run,
    item: MetricItem,
    read: ReadRows,
    transfer: Transfer | None,
    results: list[RowResult],
    seconds: float,
    strays: Sequence[str],
) -> None:
    """Judge the rows, keep the report, and end the test as the verdict says."""
    report = verdicts.judge_rows(run, item, read, results, seconds, strays)
    item.item.stash[USE] = use_of(run, item, read, results)
    report = report if transfer is None else replace(report, transfer=transfer.scores())
    if item.options.perturb:
        report = keep_flips(run, item, read, results, report)
    if results and all(result.judgement.status is Status.SKIPPED for result in results):
        raise pytest.skip.Exception(f"every row was left out: {results[0].judgement.feedback}", _use_item_location=True)
    item.item.stash[REPORT] = report
    _set_properties(item.item, report)
    text = verdicts.failure_text(run, report)
    if text is not None:
        pytest.fail(text, pytrace=False)


def _set_properties(item: pytest.Function, report: MetricReport) -> None:
    """Scalars for JUnit files, which take them from the item when it is torn down; a rerun replaces its own."""
    facts = {
        "score": report.verdict.score,
        "rows": len(report.rows),
        "verdict": str(report.verdict.outcome),
        "model": report.model or None,
        "cost_usd": report.spending.total_usd,
    }
    others = [(name, value) for name, value in item.user_properties if not name.startswith("promptopt.")]
    ours = [(f"promptopt.{name}", value) for name, value in facts.items() if value is not None]
    item.user_properties[:] = [*others, *ours]


@contextmanager
def steady_assertions(config: pytest.Config) -> Iterator[None]:
    """Assertion texts that are cheap and the same on a laptop and a build server, while a metric runs.

    pytest cuts operands and diffs by verbosity and by whether ``CI`` is set; we cut the text ourselves. Its cache of
    ini values is private, so it is used only where it is what we expect, and never against a user's own setting.
    """
    cache = getattr(config, "_inicache", None)
    if not isinstance(cache, dict):
        yield
        return
    wanted = {"assertion_text_diff_style": "block", "verbosity_assertions": "2"}
    asked = {name for name in wanted if name in getattr(config, "_inicfg", {})}
    before = {name: cache.get(name) for name in wanted if name not in asked}
    cache.update({name: wanted[name] for name in before})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                cache.pop(name, None)
            else:
                cache[name] = value
