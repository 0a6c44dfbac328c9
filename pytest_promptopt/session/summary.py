"""The end of a session: what is written, what the exit status says, and the tables."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_promptopt.errors import PromptOptError
from pytest_promptopt.gate import Outcome
from pytest_promptopt.reports import terminal
from pytest_promptopt.reports.records import MetricReport
from pytest_promptopt.reports.words import harmless
from pytest_promptopt.session import recording
from pytest_promptopt.session.blessing import bless
from pytest_promptopt.snapshots.change import ChangeKind

if TYPE_CHECKING:
    from pytest_promptopt.session.run import Run

_GREEN = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


def finish(run: Run, session: pytest.Session) -> None:
    """Write what was blessed, and let the exit status tell what strictness found. One process does this."""
    if run.settings.is_dry_run:
        return
    if run.uses and not run.settings.is_optimizing:
        _record(run, session)
    if run.settings.is_blessing and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        _write_blessed(run, session)
    run.strict_findings = _strict_findings(run)
    if run.strict_findings and session.exitstatus in _GREEN:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _record(run: Run, session: pytest.Session) -> None:
    try:
        run.closing_lines += recording.conclude(run)
    except PromptOptError as error:
        run.closing_lines.append(recording.failure_of(error))
        if session.exitstatus in _GREEN:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _write_blessed(run: Run, session: pytest.Session) -> None:
    settings = run.settings
    try:
        blessing = bless(
            run.reports.values(), rootdir=settings.rootdir, patterns=settings.patterns, salt=settings.split.salt
        )
        run.write(blessing.changes)
    except PromptOptError as error:
        run.closing_lines.append(f"not blessed: {error}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return
    words = {ChangeKind.CREATE: "new baseline", ChangeKind.UPDATE: "new scores", ChangeKind.RETIRE: "stale, retired"}
    for change in blessing.changes:
        path = change.path.relative_to(settings.rootdir).as_posix()
        run.closing_lines.append(f"blessed: {path} ({words[change.kind]})")
    run.closing_lines += [f"blessed: {line}" for line in blessing.anchors.values()]
    for nodeid, line in blessing.anchors.items():
        run.reports[nodeid] = replace(run.reports[nodeid], anchor_move=line)
    run.closing_lines += [f"not blessed: {line}" for line in blessing.refused]
    if not blessing.changes and not blessing.refused:
        run.closing_lines.append("blessed: nothing to change")
    if blessing.refused:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _strict_findings(run: Run) -> list[str]:
    strict = run.settings.strict
    if run.settings.is_optimizing or not strict:
        return []
    found: list[str] = []
    for report in run.reports.values():
        stale = [prompt.name for prompt in report.stale]
        if "stale" in strict and stale and not run.settings.is_blessing:
            found.append(f"{report.name}: stale {', '.join(stale)}")
        if "unfrozen" in strict and report.unfrozen:
            found.append(f"{report.name}: not frozen {', '.join(prompt.name for prompt in report.unfrozen)}")
    if "orphan" in strict:
        found += [f"{path}: orphan" for path in run.orphans]
    return found


def write(run: Run, terminalreporter: pytest.TerminalReporter) -> None:
    """The tables of a plain run or of an optimize run, and the lines under them."""
    if run.jobs:
        _write_jobs(run, terminalreporter)
    elif run.reports or run.unreported.calls:
        _write_metrics(run, terminalreporter)
    for line in run.closing_lines:
        terminalreporter.write_line(line if line.startswith("::") else harmless(line))  # annotations are meant


def _write_metrics(run: Run, terminalreporter: pytest.TerminalReporter) -> None:
    reports = [as_blessed(report) if run.settings.is_blessing else report for report in run.reports.values()]
    is_verbose = run.config.get_verbosity() > 0
    terminalreporter.ensure_newline()
    terminalreporter.section("prompt metrics")
    if reports:
        terminalreporter.write_line(harmless(terminal.metric_table(reports, is_verbose=is_verbose)))
    notes = terminal.metric_notes(
        reports,
        is_verbose=is_verbose,
        is_ci=run.settings.is_ci,
        max_cost_usd=_shown_ceiling_usd(run),
        unreported=run.unreported,
    )
    for line in notes:
        terminalreporter.write_line(harmless(line))
    if run.settings.is_transferring and reports:
        for line in ["", *terminal.transfer_lines(terminal.transfer_tables(reports))]:
            terminalreporter.write_line(harmless(line))
    for path in run.orphans:
        terminalreporter.write_line(
            f"orphan        {path}: no such prompt or metric any more; delete it if that is meant"
        )
    if run.strict_findings:
        names = ", ".join(sorted(run.settings.strict))
        why = harmless("; ".join(run.strict_findings))
        terminalreporter.write_line(f"exit status 1, because --prompt-strict {names}: {why}")
    _count_warnings(reports, run, terminalreporter)


def as_blessed(report: MetricReport) -> MetricReport:
    """The report once its stale prompts are retired: what ran is what stands."""
    retired = [replace(prompt, standing="source") for prompt in report.stale]
    others = [prompt for prompt in report.prompts if prompt not in report.stale]
    return replace(report, prompts=(*others, *retired))


def _count_warnings(reports: list[MetricReport], run: Run, terminalreporter: pytest.TerminalReporter) -> None:
    warned = [report for report in reports if report.stale or report.verdict.outcome is Outcome.INCONCLUSIVE]
    count = [*warned, *run.orphans]
    if count:
        terminalreporter.stats.setdefault("prompt warning" if len(count) == 1 else "prompt warnings", []).extend(count)


def _write_jobs(run: Run, terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.ensure_newline()
    terminalreporter.section("optimized prompts")
    table = terminal.job_table(run.jobs, budget=run.max_calls, max_cost_usd=_shown_ceiling_usd(run))
    terminalreporter.write_line(harmless(table))
    is_verbose = run.config.get_verbosity() > 0
    for line in terminal.job_notes(run.jobs, written=run.written, is_verbose=is_verbose):
        terminalreporter.write_line(harmless(line))


def _shown_ceiling_usd(run: Run) -> float | None:
    """The ceiling on money where it means anything: simulators cost nothing."""
    return None if run.is_offline_alone else run.ceiling.max_cost_usd
