"""Collection: a marked test gets its dataset and its row argument, or a collection error that says what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_promptopt.prompts.frozen import snapshot_path
from pytest_promptopt.session.marker import (
    MARKER,
    MODEL_ARGUMENT,
    PLACEHOLDER,
    find_problem,
    nearest_marker,
    read_marker,
)
from pytest_promptopt.session.metric_item import NO_MODEL_NAME, matrix_model, owner_of
from pytest_promptopt.session.settings import Settings

_OWNERS = pytest.StashKey[dict[Path, str]]()


@contextmanager
def dataset_requested(collector: pytest.Collector, function: Any) -> Iterator[None]:
    """Let the test use its dataset's fixture while its items are made, and not longer: subclasses share the function.

    A marker that cannot be read is left to :func:`refuse_misuse`.
    """
    before = function.__dict__.get("pytestmark")
    fixture = _dataset_fixture(nearest_marker(collector, function))
    if fixture is not None:
        pytest.mark.usefixtures(fixture)(function)
    try:
        yield
    finally:
        if before is not None:
            function.pytestmark = before
        elif fixture is not None:
            del function.pytestmark


def _dataset_fixture(mark: pytest.Mark | None) -> str | None:
    try:
        options = None if mark is None else read_marker(mark)
    except pytest.UsageError:
        return None
    return None if options is None or options.is_path else options.dataset


def parametrize(metafunc: pytest.Metafunc, settings: Settings) -> None:
    """Fill the row argument with a placeholder under a clean node id; with several models, make an item for each."""
    mark = metafunc.definition.get_closest_marker("prompt_metric")
    if mark is None:
        return
    try:
        options = read_marker(mark)
    except pytest.UsageError:
        return
    if not all(name in metafunc.fixturenames for name in options.arguments):
        return
    values = [PLACEHOLDER] * len(options.arguments)
    metafunc.parametrize(options.arguments, [pytest.param(*values, id=pytest.HIDDEN_PARAM)])
    if len(settings.models) > 1:
        metafunc.fixturenames.append(MODEL_ARGUMENT)
        metafunc.parametrize(MODEL_ARGUMENT, settings.models, ids=settings.models)


def refuse_misuse(report: pytest.CollectReport) -> None:
    """Make ``report`` a collection error when one of its items is marked and cannot be a metric."""
    items = [node for node in report.result if isinstance(node, pytest.Item)]
    problems = [problem for item in items if (problem := find_problem(item))] or [*_shared_files(items)]
    if problems:
        report.outcome = "failed"
        report.longrepr = "\n".join(problems)
        report.result = []


def _shared_files(items: Iterable[pytest.Item]) -> Iterator[str]:
    """A sentence for each metric whose baseline would be the file of one that was collected before it."""
    for item in items:
        if not isinstance(item, pytest.Function) or item.get_closest_marker(MARKER) is None:
            continue
        path = snapshot_path(item.path, owner_of(item), matrix_model(item) or NO_MODEL_NAME)
        first = item.config.stash.setdefault(_OWNERS, {}).setdefault(path, item.nodeid)
        if first != item.nodeid:
            yield f"{item.nodeid} and {first} would share one baseline ({path.name}); rename one of the two"
