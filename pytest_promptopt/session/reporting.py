"""``--prompt-report`` and what GitHub gives a place to: the reports of a run as files, written once, at its end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pytest_promptopt
from pytest_promptopt.errors import ModelError
from pytest_promptopt.optimizers.driver import RowsScored
from pytest_promptopt.reports.annotations import annotation_lines
from pytest_promptopt.reports.curves import Heard, SearchCurve, search_curves
from pytest_promptopt.reports.document import Document, Fault, RunFacts, make_document
from pytest_promptopt.reports.html import html_report
from pytest_promptopt.reports.json_report import json_report
from pytest_promptopt.reports.markdown import markdown
from pytest_promptopt.reports.records import JobReport, MetricReport, from_json, to_json
from pytest_promptopt.session.summary import as_blessed

if TYPE_CHECKING:
    from pytest_promptopt.reports.events import SearchEvent
    from pytest_promptopt.session.run import Run

WRITERS: Mapping[str, Callable[[Document], str]] = {".html": html_report, ".md": markdown, ".json": json_report}
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
_NOTES_NAME = "promptopt-report-notes"


def read_paths(config: pytest.Config) -> tuple[Path, ...]:
    """The files that ``--prompt-report`` names, from where pytest was started.

    Raises ``pytest.UsageError`` for a kind that nobody knows and for a place where nothing can be written; leaves
    nothing behind. The workers of pytest-xdist write none.
    """
    names: Sequence[str] = config.getoption("prompt_report") or ()
    if hasattr(config, "workerinput"):
        return ()
    paths = [config.invocation_params.dir / Path(name).expanduser() for name in names]
    for name, path in zip(names, paths, strict=True):
        if path.suffix.lower() not in WRITERS:
            raise pytest.UsageError(
                f"--prompt-report {name}: the file's ending says which report it is: .html, .md or .json"
            )
        _refuse_unwritable(name, path)
    return tuple(dict.fromkeys(paths))


def _refuse_unwritable(name: str, path: Path) -> None:
    nearest = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    try:
        if path.is_dir():
            raise IsADirectoryError(0, f"{path} is a folder")
        if not nearest.is_dir():
            raise NotADirectoryError(0, f"{nearest} is not a folder")
        if path.exists():
            with path.open("ab"):  # asking for permission bits is not enough
                return
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise pytest.UsageError(
            f"--prompt-report {name}: it cannot be written ({error.strerror}); name another place"
        ) from None


class SearchNotes:
    """Hears the stream of events and keeps what a report shows of it; scores of single rows are not among that."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []

    def pytest_promptopt_event(self, prompts: tuple[str, ...], model: str, event: SearchEvent) -> None:
        """Keep one event."""
        if not isinstance(event, RowsScored):
            self.heard.append((prompts, model, event))


def listen(run: Run) -> None:
    """Keep the events of this session's searches for its reports."""
    run.config.pluginmanager.register(SearchNotes(), _NOTES_NAME)


def write_reports(run: Run, session: pytest.Session, faults: Mapping[str, str]) -> None:
    """Write every report that was asked for, GitHub's summary of the step, and annotations.

    ``faults`` are the metrics and searches that ended without figures, and why. A run that was stopped is reported as
    far as it came; one that ran nothing, because it was misused or only looked ahead, is not.
    """
    if _has_run_nothing(run, session):
        return
    document = _document(run, session, faults)
    for path in run.settings.reports:
        if _write(run, session, path, WRITERS[path.suffix.lower()](document)):
            run.closing_lines.append(f"report: {_shown(path, run)}")
    if document.metrics or document.jobs or document.faults:
        _tell_github(run, session, document)


def _has_run_nothing(run: Run, session: pytest.Session) -> bool:
    is_looking_ahead = run.settings.is_dry_run or run.config.getoption("prompt_list")
    is_misuse = session.exitstatus == pytest.ExitCode.USAGE_ERROR
    return bool(is_looking_ahead or is_misuse or run.config.getoption("collectonly"))


def _document(run: Run, session: pytest.Session, faults: Mapping[str, str]) -> Document:
    """The run as reports tell it; no key, token or password is in it, whoever wrote it into a row or a reply."""
    notes = run.config.pluginmanager.get_plugin(_NOTES_NAME)
    blessed = as_blessed if run.settings.is_blessing else _as_it_is
    hide = run.redactor.redact_json
    return make_document(
        _facts(run, session),
        metrics=[from_json(MetricReport, hide(to_json(blessed(report)))) for report in run.reports.values()],
        jobs=[from_json(JobReport, hide(to_json(job))) for job in run.jobs],
        searches=[_hidden(curve, run) for curve in search_curves([] if notes is None else notes.heard)],
        faults=[Fault(nodeid=hide(nodeid), text=hide(text)) for nodeid, text in faults.items()],
        unreported=run.unreported,
    )


def _as_it_is(report: MetricReport) -> MetricReport:
    return report


def _hidden(curve: SearchCurve, run: Run) -> SearchCurve:
    hide = run.redactor.redact_json
    return replace(
        curve,
        rounds=tuple(hide(curve.rounds)),
        rejections=tuple(hide(curve.rejections)),
        reason=hide(curve.reason),
    )


def _facts(run: Run, session: pytest.Session) -> RunFacts:
    settings = run.settings
    return RunFacts(
        version=pytest_promptopt.__version__,
        is_search=settings.is_optimizing,
        exit_status=int(session.exitstatus),
        stopped=run.redactor.redact(_why_stopped(session)),
        mode=str(settings.mode),
        mode_reason=settings.mode_reason,
        models=_models(run),
        base=settings.base,
        optimizer=settings.optimizer,
        seed=settings.seed,
        max_calls=run.max_calls,
        max_cost_usd=run.ceiling.max_cost_usd,
        is_blessing=settings.is_blessing,
        strict=settings.strict,
        strict_findings=tuple(run.redactor.redact_json(run.strict_findings)),
        orphans=tuple(run.orphans),
        notes=tuple(run.redactor.redact_json(run.closing_lines)),
        written=tuple(_written(run)),
    )


def _why_stopped(session: pytest.Session) -> str:
    """Why not everything ran, as far as pytest knows."""
    if session.exitstatus == pytest.ExitCode.INTERRUPTED:
        return "interrupted"
    return str(session.shouldfail or session.shouldstop or "")


def _models(run: Run) -> tuple[str, ...]:
    if run.settings.models:
        return run.settings.models
    try:
        return (run.runtime.choose_model(),)
    except ModelError:
        return ()


def _written(run: Run) -> list[str]:
    frozen = [job.path for job in run.jobs if job.outcome == "frozen" and job.path]
    return list(dict.fromkeys([*frozen, *run.written]))


def _write(run: Run, session: pytest.Session, path: Path, text: str) -> bool:
    """Whether the file stands, whole; where it does not, the run says so and is no success."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f"{path.name}.tmp")
        half.write_bytes(_encoded(text))
        half.replace(path)
    except OSError as error:
        run.closing_lines.append(f"report not written: {_shown(path, run)}: {error.strerror}")
        if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return False
    return True


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", errors="backslashreplace")  # half a surrogate pair fits into no file


def _shown(path: Path, run: Run) -> str:
    folder = run.config.invocation_params.dir
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _tell_github(run: Run, session: pytest.Session, document: Document) -> None:
    """Append to the step's summary, where a workflow runs, and print annotations."""
    summary = os.environ.get(STEP_SUMMARY)
    if summary:
        try:
            with Path(summary).open("ab") as file:
                file.write(_encoded(f"{markdown(document)}\n"))
        except OSError as error:
            run.closing_lines.append(f"the step's summary was not written: {error.strerror}")
    if os.environ.get("GITHUB_ACTIONS"):
        run.closing_lines += annotation_lines(document, prefix=_prefix(run))


def _prefix(run: Run) -> str:
    """The way from the root of the checkout to rootdir, by which GitHub finds files."""
    workspace = os.environ.get("GITHUB_WORKSPACE")
    rootdir = run.settings.rootdir
    if not workspace or not rootdir.is_relative_to(workspace):
        return ""
    return rootdir.relative_to(workspace).as_posix()
