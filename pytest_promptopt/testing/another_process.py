"""Searches in a process of its own, where texts have other hashes and sets another order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping

from pytest_promptopt.optimizers.base import Optimizer
from pytest_promptopt.optimizers.registry import make_optimizer
from pytest_promptopt.testing.world import make_task, run

Course = list[list[str]]
"""For each search the digests of its trials and of the winner, in that order."""


def courses_of(optimizer: Optimizer) -> Course:
    """How ``optimizer`` searches a few small tasks, the model under test and somebody else being the teacher."""
    tasks = [make_task(train=train, val=8, prompts=prompts) for train in (4, 12) for prompts in (("a",), ("a", "b"))]
    searches = [run(optimizer, task, is_own_teacher=own).found for task in tasks for own in (True, False)]
    return [[*(trial.candidate.digest for trial in found.trials), found.candidate.digest] for found in searches]


def courses_elsewhere(address: str, settings: Mapping[str, str]) -> Course:
    """The same of the strategy at ``address``, in a process that hashes texts in another way than this one."""
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environ = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    code = f"import sys; from {__name__} import main; main(*sys.argv[1:])"
    command = [sys.executable, "-c", code, address, json.dumps(dict(settings))]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    courses: Course = json.loads(ran.stdout)
    return courses


def main(address: str, settings: str) -> None:
    """Print the courses of the strategy at ``address``; ``settings`` is a JSON object, as is what is printed."""
    optimizer = make_optimizer("yours", json.loads(settings), extra={"yours": address})
    sys.stdout.write(json.dumps(courses_of(optimizer)))
