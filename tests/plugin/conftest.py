"""A project with a model that answers from a script, ready for metrics."""

from __future__ import annotations

import json
import pkgutil
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any

import pydantic.dataclasses
import pydantic.fields
import pydantic.types
import pytest

import pytest_promptopt

CONFTEST = """
import json
from pathlib import Path

from pytest_promptopt.errors import LMError, LMErrorKind
from pytest_promptopt.lms.scripted import ScriptedLM


def pytest_promptopt_make_lm(model):
    if model == "scripted/desk":
        refusal = LMError("the key was refused", kind=LMErrorKind.AUTH)
        return ScriptedLM(
            {"refund": "billing", "crash": "bug", "riddle": "Let me think about it.", "outage": refusal},
            default="account",
        )
    if model == "scripted/contrary":
        return ScriptedLM([], default="bug")


def pytest_promptopt_metric_finished(config, report):
    from pytest_promptopt.reports.records import to_json

    with open(config.rootpath / "figures.jsonl", "a") as file:
        file.write(json.dumps(to_json(report)) + "\\n")
"""

PRELUDE = '''
from typing import Literal

import pytest

from pytest_promptopt import Example, Score, load_dataset, prompt

ROWS = [
    {"id": "t1", "ticket": "a refund please", "team": "billing"},
    {"id": "t2", "ticket": "the crash again", "team": "bug"},
    {"id": "t3", "ticket": "my name changed", "team": "account"},
    {"id": "t4", "ticket": "refund for a bug", "team": "bug"},
]


@prompt
def route(ticket: str) -> Literal["billing", "bug", "account"]:
    """Decide which team should answer."""


@pytest.fixture(scope="session")
def tickets():
    return ROWS
'''


def _import_everything() -> None:
    """Import what sessions import lazily: pytester forgets what a session inside this one imported first."""
    for module in pkgutil.walk_packages(pytest_promptopt.__path__, "pytest_promptopt."):
        import_module(module.name)
    pydantic.TypeAdapter(int)


_import_everything()


class Project:
    """A pytest project in a folder of its own.

    ``test_desk.py`` opens with a prompt ``route``, which asks a scripted model, and a fixture ``tickets``. The model
    answers three of the four tickets rightly: ``t4`` scores 0.
    """

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path
        pytester.makeconftest(CONFTEST)
        self.ini()

    def ini(self, *lines: str) -> None:
        """Write the ini file."""
        self.pytester.makeini("\n".join(["[pytest]", "promptopt_model = scripted/desk", *lines]))

    def conftest(self, text: str) -> None:
        """Add to the conftest."""
        self.write("conftest.py", CONFTEST + "\nimport pytest\n" + dedent(text))

    def write(self, name: str, text: str) -> Path:
        """Write one file, dedented."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
        return path

    def tests(self, text: str, name: str = "test_desk.py") -> Path:
        """Write a test module after the prelude."""
        return self.write(name, PRELUDE + "\n\n" + dedent(text))

    def run(self, *arguments: str, plugins: str = "") -> pytest.RunResult:
        """Run pytest in this process with our plugin and ``plugins`` alone."""
        self.figures_path.unlink(missing_ok=True)
        return self.pytester.runpytest_inprocess(*_plugin_flags(plugins), *arguments)

    def run_apart(self, *arguments: str, plugins: str = "", timeout_seconds: float = 60) -> pytest.RunResult:
        """The same in a process of its own."""
        self.figures_path.unlink(missing_ok=True)
        return self.pytester.runpytest_subprocess(*_plugin_flags(plugins), *arguments, timeout=timeout_seconds)

    @property
    def figures_path(self) -> Path:
        """Where the conftest writes what each metric reported."""
        return self.path / "figures.jsonl"

    def figures(self) -> dict[str, Any]:
        """What each metric of the last run reported, by its name."""
        if not self.figures_path.exists():
            return {}
        reports = [json.loads(line) for line in self.figures_path.read_text().splitlines()]
        return {report["name"]: report for report in reports}

    def figure(self) -> dict[str, Any]:
        """What the only metric of the last run reported."""
        (report,) = self.figures().values()
        return report  # type: ignore[no-any-return]  # JSON

    def score(self) -> float | None:
        """The score of the only metric of the last run."""
        score: float | None = self.figure()["verdict"]["score"]
        return score

    def rows(self) -> dict[str, Any]:
        """The rows of the only metric of the last run, by id."""
        return {row["id"]: row for row in self.figure()["rows"]}


def _plugin_flags(plugins: str) -> list[str]:
    return [flag for name in ("promptopt", *plugins.split()) for flag in ("-p", name)]


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a scripted model; no other plugin gets into it unasked."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    return Project(pytester)
