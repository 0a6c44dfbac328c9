"""Annotations: workflow commands by which GitHub shows a verdict beside the prompt's own line in a pull request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from pytest_promptopt.gate import Outcome
from pytest_promptopt.reports.document import (
    Document,
    Fault,
    Level,
    MetricEntry,
    changed_place,
    how_changed,
    visible,
)
from pytest_promptopt.reports.failures import failure_summary
from pytest_promptopt.reports.records import PromptState
from pytest_promptopt.reports.words import cut

MOST_OF_A_KIND = 10
"""GitHub shows no more errors and no more warnings of one step."""

TEXT_WIDTH = 300
_COMMANDS = {Level.FAIL: "error", Level.WARNING: "warning"}


def annotation_lines(document: Document, *, prefix: str = "") -> list[str]:
    """One line a metric that does not simply pass, errors first; ``prefix`` leads from the repository to rootdir."""
    found = [*_of_faults(document, prefix), *_of_metrics(document, prefix)]
    lines = [[line for level, line in found if level is wanted] for wanted in _COMMANDS]
    return [line for same in lines for line in same[:MOST_OF_A_KIND]]


def _of_metrics(document: Document, prefix: str) -> Iterator[tuple[Level, str]]:
    for entry in document.metrics:
        if entry.level is not Level.PASS:
            file, line = _place(entry)
            yield entry.level, _command(entry.level, prefix, file, line, entry.name, _text(entry))


def _of_faults(document: Document, prefix: str) -> Iterator[tuple[Level, str]]:
    for fault in document.faults:
        yield Level.FAIL, _command(Level.FAIL, prefix, *_fault_place(fault), fault.nodeid, fault.text)


def _fault_place(fault: Fault) -> tuple[str, str]:
    return fault.nodeid.partition("::")[0], ""


def _place(entry: MetricEntry) -> tuple[str, str]:
    """The prompt that changed, else the first that was called, else the test."""
    prompts: tuple[PromptState, ...] = entry.report.prompts
    changed = [prompt for prompt in prompts if how_changed(prompt)]
    place = next((changed_place(prompt) for prompt in (*changed, *prompts)), entry.report.path)
    file, colon, line = place.rpartition(":")
    return (file, line) if colon and line.isdecimal() else (place, "")


def _text(entry: MetricEntry) -> str:
    report = entry.report
    stale = f"{', '.join(prompt.name for prompt in report.stale)} is stale: the source runs, in production too"
    if report.verdict.outcome is Outcome.PASS:
        return stale
    words = f"{report.verdict.outcome} on {entry.model}: {failure_summary(report)}"
    return f"{words}; {stale}" if report.stale else words


def _command(level: Level, prefix: str, file: str, line: str, title: str, text: str) -> str:
    path = visible((PurePosixPath(prefix) / file).as_posix())
    properties = {"file": path, "line": line, "title": f"prompt metric {cut(title, TEXT_WIDTH)}"}
    words = ",".join(f"{name}={_property(value)}" for name, value in properties.items() if value)
    return f"::{_COMMANDS[level]} {words}::{_data(cut(text, TEXT_WIDTH))}"


def _data(text: str) -> str:
    """As the runner reads it back; a line feed would begin another command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
