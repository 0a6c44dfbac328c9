"""The small world of ``pytest_promptopt.testing.world``; here a search that pays twice for a row fails the test."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from pytest_promptopt.optimizers.base import Evaluate, Optimizer, Search, Sizes, Task
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt
from pytest_promptopt.testing.world import (
    METRIC,
    TOPICS,
    Run,
    World,
    calls_of,
    is_right,
    make_demo,
    make_rows,
    make_signature,
    make_task,
    outcome_of,
    propose,
    sizes_of,
    text_of,
    topic_of,
)
from pytest_promptopt.testing.world import run as run_in_world

__all__ = [
    "METRIC",
    "TOPICS",
    "Run",
    "Scripted",
    "World",
    "calls_of",
    "is_right",
    "make_demo",
    "make_rows",
    "make_signature",
    "make_task",
    "naming",
    "on_val",
    "outcome_of",
    "propose",
    "run",
    "sizes_of",
    "text_of",
    "topic_of",
]


class Scripted:
    """A strategy written inside a test."""

    def __init__(self, search: Callable[[Task], Search]) -> None:
        self._search = search

    def search(self, task: Task, rng: Random) -> Search:
        return self._search(task)

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        return 0, 0


def naming(*topics: str) -> Candidate:
    return Candidate({"route": CompiledPrompt(instruction=" ".join(topics))})


def on_val(task: Task, *candidates: Candidate) -> Evaluate:
    return Evaluate(pairs=tuple((candidate, row) for candidate in candidates for row in task.valset))


def run(optimizer: Optimizer, task: Task, **settings: Any) -> Run:
    """As the world's own, and fails when a (candidate, row) was paid twice."""
    ran = run_in_world(optimizer, task, **settings)
    assert ran.world.paid_twice == []
    return ran
