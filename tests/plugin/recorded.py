"""A project on a model that costs money: it stands outside the process as far as anybody can tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.plugin.conftest import Project

CONFTEST = '''
import json
import os
from pathlib import Path

from pytest_promptopt.lms.base import Reply, Usage


class Paid:
    """Answers by a word of the ticket, and writes down what it was asked; ``answers.json`` overrules it."""

    def complete(self, request):
        text = request.messages[-1]["content"]
        with open(Path(__file__).with_name("asked.jsonl"), "a") as file:
            file.write(json.dumps([request.model, text]) + "\\n")
        rules = json.loads(Path(__file__).with_name("answers.json").read_text())
        answer = next((team for word, team in rules.items() if word in text), "account")
        usage = Usage(prompt_tokens=9, completion_tokens=2)
        return Reply(text=answer, usage=usage, cost_usd=0.001, latency_seconds=1.5)


def pytest_promptopt_make_lm(model):
    return Paid() if model.startswith("paid/") else None
'''

TESTS = '''
from typing import Literal

import pytest

from pytest_promptopt import prompt

ROWS = [
    {"id": "t1", "ticket": "a refund please", "team": "billing"},
    {"id": "t2", "ticket": "the crash again", "team": "bug"},
    {"id": "t3", "ticket": "my name changed", "team": "account"},
]


@prompt
def route(ticket: str) -> Literal["billing", "bug", "account"]:
    """Decide which team should answer."""


@pytest.fixture(scope="session")
def tickets():
    return ROWS


@pytest.mark.prompt_metric("tickets", threshold=0.6)
def test_routes(example):
    assert route(ticket=example["ticket"]) == example["team"]
'''

FILE = "__prompts__/test_desk.test_routes@paid-desk.jsonl"


class PaidProject:
    """A project with one metric on ``paid/desk``, whose calls are counted across runs."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.path = project.path
        project.ini("promptopt_model = paid/desk")
        project.write("conftest.py", CONFTEST)
        project.write("test_desk.py", TESTS)
        (self.path / "tox.ini").write_text("[pytest]\npromptopt_model = paid/desk\n")
        self.answer_with({"refund": "billing", "crash": "bug"})

    def answer_with(self, rules: Mapping[str, str]) -> None:
        """What the model answers to texts with these words."""
        (self.path / "answers.json").write_text(json.dumps(dict(rules)))

    def edit(self, before: str, after: str) -> None:
        """Change the test module."""
        path = self.path / "test_desk.py"
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    def run(self, *arguments: str) -> Any:
        """Run pytest in this process."""
        return self.project.run(*arguments)

    @property
    def calls(self) -> int:
        """How often the model was asked so far."""
        path = self.path / "asked.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    @property
    def file(self) -> Path:
        """The recordings of the metric."""
        return self.path / FILE

    def lines(self) -> list[dict[str, Any]]:
        """What is recorded."""
        return [json.loads(line) for line in self.file.read_text().splitlines()]

    def forget_store(self) -> None:
        """As in a fresh checkout: what git ignores is gone."""
        for path in sorted((self.path / ".promptopt").glob("*")):
            path.unlink()
