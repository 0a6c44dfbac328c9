"""The small world of ``pytest_promptopt.testing.world``; here a search that pays twice for a row fails the test."""

from __future__ import annotations

from typing import Any

from pytest_promptopt.optimizers.base import Optimizer, Task
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
    "World",
    "calls_of",
    "is_right",
    "make_demo",
    "make_rows",
    "make_signature",
    "make_task",
    "outcome_of",
    "propose",
    "run",
    "sizes_of",
    "text_of",
    "topic_of",
]


def run(optimizer: Optimizer, task: Task, **settings: Any) -> Run:
    """As the world's own, and fails when a (candidate, row) was paid twice."""
    ran = run_in_world(optimizer, task, **settings)
    assert ran.world.paid_twice == []
    return ran
