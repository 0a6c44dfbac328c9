"""What other packages and a project's conftest may extend.

An implementation may leave out arguments it does not need. A package that must also load without this plugin writes
``@pytest.hookimpl(optionalhook=True)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_promptopt.lms.base import LM, AsyncLM
    from pytest_promptopt.reports.events import SearchEvent
    from pytest_promptopt.reports.records import JobReport, MetricReport


@pytest.hookspec(firstresult=True)
def pytest_promptopt_make_lm(config: pytest.Config, model: str) -> LM | AsyncLM | None:
    """Give the language model behind ``model``, or ``None`` to leave it to others; asked once a model.

    A conftest puts a fake in here::

        def pytest_promptopt_make_lm(model):
            if model == "scripted/desk":
                return ScriptedLM({"refund": "billing"}, default="account")
    """


def pytest_promptopt_redact(config: pytest.Config, text: str) -> Iterable[str]:  # type: ignore[empty-body]  # as below
    r"""Give the parts of ``text`` that no file may hold; ``[redacted]`` is written in their place.

    Asked for every text of a reply or a request before it is written, in any thread. Keys and passwords from the
    environment are hidden in any case. A conftest hides addresses like this::

        def pytest_promptopt_redact(text):
            return re.findall(r"[\w.+-]+@[\w-]+\.[\w.]+", text)
    """


def pytest_promptopt_optimizers(config: pytest.Config) -> dict[str, str]:  # type: ignore[empty-body]  # a specification
    """Give further strategies: name → ``"module:attribute"``, imported when chosen."""


def pytest_promptopt_metric_finished(config: pytest.Config, report: MetricReport) -> None:
    """One metric ended a plain run; called in the process that prints the summary."""


def pytest_promptopt_event(config: pytest.Config, prompts: tuple[str, ...], model: str, event: SearchEvent) -> None:
    """Something happened in the search of ``prompts`` on ``model``: it began, a candidate was scored, it ended.

    ``event`` is one of the immutable records in :mod:`pytest_promptopt.reports.events` and
    :mod:`pytest_promptopt.optimizers.driver`; tell them apart by their type, and pass over those you do not know. All
    are told in one thread, in an order that depends on the search alone, while it waits: be quick. An implementation
    that raises is named in a warning and the search goes on. Wrappers of this hook are not called.
    """


def pytest_promptopt_job_finished(config: pytest.Config, report: JobReport) -> None:
    """One prompt's search ended, and what it froze is on disk."""
