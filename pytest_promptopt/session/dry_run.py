"""``--prompt-dry-run``: metrics are collected and their rows counted; what the same run would call is told, not done.

Fixtures run, because they make the rows; no test does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import pytest

from pytest_promptopt.errors import PromptOptError
from pytest_promptopt.evaluation.metric import Trial
from pytest_promptopt.evaluation.split import Split
from pytest_promptopt.reports.dry_run import plain_lines, search_lines
from pytest_promptopt.reports.words import harmless
from pytest_promptopt.session.campaign import Campaign, least_calls
from pytest_promptopt.session.jobs import plan_campaigns
from pytest_promptopt.session.metric_item import MetricItem, ReadRows
from pytest_promptopt.session.misuse import usage_errors
from pytest_promptopt.session.plain_forecast import forecast_plain
from pytest_promptopt.session.search_forecast import expect, forecast_search
from pytest_promptopt.session.workbench import Bench, JobError, MetricSkipped, has_no_score

if TYPE_CHECKING:
    from pytest_promptopt.session.run import Run

FoundT = TypeVar("FoundT")


def refuse_misuse(config: pytest.Config) -> None:
    """A dry run writes nothing, so nothing that wants to write goes with it."""
    if config.getoption("prompt_bless"):
        raise pytest.UsageError("--prompt-dry-run writes nothing; leave out --prompt-bless, or --prompt-dry-run")


class DryRunHooks:
    """The hooks of a session that counts, registered for it alone."""

    def __init__(self, run: Run, note: str | None = None) -> None:
        self.run = run
        self.note = note
        self.metrics: list[MetricItem] = []
        self.campaigns: list[Campaign] = []
        self.failures: list[str] = []
        self.notes: list[str] = []
        self.lines: list[str] = []

    def pytest_report_header(self) -> list[str]:
        """Say what was switched off."""
        return [self.note] if self.note else []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Keep the metrics, after ``-k``, ``-m`` and paths had their say, and find misuse as the run itself does."""
        kept = {item.nodeid for item in items}
        self.metrics = [metric for metric in self.run.metrics if metric.nodeid in kept]
        if self.run.settings.is_optimizing and self.metrics:
            with usage_errors():
                self.campaigns = plan_campaigns(self.run, session, self.metrics)
            if not any(campaign.prompts for campaign in self.campaigns):
                self.metrics = []
        mine = {metric.nodeid for metric in self.metrics}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in mine])
        items[:] = [item for item in items if item.nodeid in mine]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Count instead of running; what could not be collected, and ``--collect-only``, are pytest's own business."""
        option = session.config.option
        if option.collectonly or (session.testsfailed and not option.continue_on_collection_errors):
            return None
        bench = Bench(session)
        try:
            with usage_errors():
                self.lines = self._search_lines(bench) if self.run.settings.is_optimizing else self._plain_lines(bench)
        finally:
            bench.leave(None)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Nothing ran, so nothing is put down as having run; rows that could not be counted are a failure."""
        session.config.option.collectonly = True
        if self.failures and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """What would be called."""
        if self.lines:
            terminalreporter.section("dry run: nothing is called")
            for line in self.lines:
                terminalreporter.write_line(harmless(line))

    def _plain_lines(self, bench: Bench) -> list[str]:
        measured: list[tuple[MetricItem, ReadRows]] = self._measure(
            bench, self.metrics, lambda metric: metric.rows_to_read(metric.examples())
        )
        return plain_lines(forecast_plain(self.run, measured, failures=self.failures, notes=self.notes))

    def _search_lines(self, bench: Bench) -> list[str]:
        expected = []
        for campaign in self.campaigns:
            measured: list[tuple[MetricItem, Split]] = self._measure(bench, campaign.metrics, _split)
            least = max((least_calls(metric, split) for metric, split in measured), default=0)
            campaign.require(least, ", or more where a row makes several")
            expected.append((campaign, expect(measured)))
        return search_lines(forecast_search(self.run, expected, failures=self.failures, notes=self.notes))

    def _measure(
        self, bench: Bench, metrics: Iterable[MetricItem], look: Callable[[MetricItem], FoundT]
    ) -> list[tuple[MetricItem, FoundT]]:
        """What ``look`` sees of each metric while its fixtures are set up; one that cannot be set up is a failure."""
        found: list[tuple[MetricItem, FoundT]] = []
        for metric in metrics:

            def plan(metric: MetricItem) -> Sequence[Trial]:
                found.append((metric, look(metric)))
                return ()

            try:
                bench.run(metric, plan, is_enough=has_no_score)
            except MetricSkipped:
                self.notes.append(f"{metric.title} is skipped, so it measures nothing")
            except JobError as error:
                self.failures.append(str(error))
            except PromptOptError as error:
                self.failures.append(f"{metric.nodeid}: {error}")
        return found


def _split(metric: MetricItem) -> Split:
    split = metric.split(metric.examples())
    for example in (*split.searchable, *split.test):
        _ = example.digest  # a value without a stable text is found here
    return split
