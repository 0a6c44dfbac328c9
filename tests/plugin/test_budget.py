"""The ceiling on calls: never one more, whatever the run is doing; what it is too small for is refused by a number."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.plugin.projects import BASELINE, SNAPSHOT, Desk, make_tickets, words

SEARCHABLE, SEALED = 39, 21
"""How the sixty tickets are dealt."""

MINIMUM = SEARCHABLE + 2 * SEALED
"""The source on the searchable rows, then source and winner on the sealed ones."""

IDLE = """
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    def search(self, task, rng):
        return task.source
        yield

    def expected_calls(self, sizes):
        return 0, 0
"""


def _tell(desk: Desk, *arguments: str) -> pytest.RunResult:
    return desk.optimize("--prompt-optimizer", "auto", *arguments)


@settings(max_examples=14, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(budget=st.integers(1, 260))
def test_no_budget_is_ever_passed(project: Any, budget: int) -> None:
    desk = Desk.anew(project)
    result = _tell(desk, "--prompt-budget", str(budget))
    assert len(desk.asked()) <= budget
    if budget < MINIMUM:
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert desk.asked() == []
    else:
        assert result.ret in (0, 1)
        assert (result.ret == 0) == (SNAPSHOT in desk.frozen_files())


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(budget=st.integers(MINIMUM, 200))
def test_no_budget_is_ever_passed_by_candidates_that_call_more_often_than_the_source(project: Any, budget: int) -> None:
    desk = Desk.anew(project)
    desk.replace(
        "test_desk.py",
        '    assert route(ticket=example["ticket"]) == example["team"]',
        '    answer = route(ticket=example["ticket"])\n'
        '    if answer != "account":\n'
        '        route(ticket="Are you sure? " + example["ticket"])\n'
        '    assert answer == example["team"]',
    )
    result = _tell(desk, "--prompt-budget", str(budget))
    assert len(desk.asked()) <= budget
    assert result.ret in (0, 1)
    assert "INTERNALERROR" not in words(result)


@pytest.mark.parametrize("budget", [1, MINIMUM - 1])
def test_a_budget_below_the_reserve_is_refused_with_the_minimum_before_any_call(project: Any, budget: int) -> None:
    desk = Desk(project)
    result = desk.optimize("--prompt-budget", str(budget))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert desk.asked() == []
    assert f"--prompt-budget {budget} is below the reserve" in words(result)
    assert f"give --prompt-budget {MINIMUM} or more" in words(result)
    assert "interrupted" not in words(result)


def test_the_minimum_that_is_named_then_works(project: Any) -> None:
    desk = Desk(project)
    refused = words(desk.optimize("--prompt-budget", "1"))
    minimum = re.search(r"give --prompt-budget (\d+) or more", refused)
    assert minimum
    desk.replace("test_desk.py", ", threshold=0.8", "")
    result = desk.optimize("--prompt-budget", minimum[1])
    assert result.ret == 0
    assert len(desk.asked()) <= int(minimum[1])


def test_the_minimum_counts_every_call_that_a_row_makes(project: Any) -> None:
    desk = Desk(project)
    desk.replace("test_desk.py", ", threshold=0.8", "")
    desk.replace(
        "test_desk.py",
        '    assert route(ticket=example["ticket"])',
        '    route(ticket="Once more: " + example["ticket"])\n    assert route(ticket=example["ticket"])',
    )
    result = desk.optimize("--prompt-budget", str(2 * MINIMUM - 1))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert len(desk.asked()) <= 2 * SEARCHABLE
    minimum = re.search(r"give --prompt-budget (\d+) or more", words(result))
    assert minimum
    assert int(minimum[1]) == 2 * MINIMUM
    assert desk.optimize("--prompt-budget", minimum[1]).ret == 0


def test_a_budget_that_ends_the_search_still_confirms_and_freezes_what_was_found(project: Any) -> None:
    desk = Desk(project)
    whole = MINIMUM + 1 + 19
    result = desk.optimize("--prompt-budget", str(whole + 5), "--prompt-set", "copro.depth=9")
    assert result.ret == 0
    assert {SNAPSHOT, BASELINE} == set(desk.frozen_files())
    assert len(desk.asked()) <= whole + 5


def test_a_search_that_the_budget_cut_says_so_and_is_no_failure(project: Any) -> None:
    desk = Desk(project)
    desk.replace("test_desk.py", ", threshold=0.8", "")
    result = desk.optimize("--prompt-budget", str(MINIMUM + 5))
    assert result.ret == 0
    assert desk.frozen_files() == {}
    result.stdout.fnmatch_lines(["*the budget ended the search*"])


@pytest.mark.parametrize("strategy", ["copro", "reflect-race"])
@pytest.mark.parametrize("left", [0, 5])
def test_a_search_that_could_try_nothing_says_how_little_was_left_for_it(
    project: Any, strategy: str, left: int
) -> None:
    desk = Desk(project)
    desk.replace("test_desk.py", ", threshold=0.8", "")
    result = desk.optimize("--prompt-budget", str(MINIMUM + left), "--prompt-optimizer", strategy)
    assert result.ret == 0
    reason = f"nothing was tried: the budget left {left} calls for the search; give a larger --prompt-budget"
    assert desk.jobs()["desk.route"]["reason"] == reason
    assert json.loads(desk.read(".promptopt/events.jsonl").splitlines()[-1])["reason"] == reason
    assert reason in words(result)


def test_a_search_with_room_to_try_that_had_nothing_to_does_not_blame_the_budget(project: Any) -> None:
    desk = Desk(project)
    desk.replace("test_desk.py", ", threshold=0.8", "")
    desk.write("idle.py", IDLE)
    offer = "\n\ndef pytest_promptopt_optimizers():\n    return {'idle': 'idle:Idle'}\n"
    desk.write("conftest.py", desk.read("conftest.py") + offer)
    assert desk.optimize("--prompt-optimizer", "idle", "--prompt-budget", "300").ret == 0
    assert desk.jobs()["desk.route"]["reason"] == "nothing was tried: idle had nothing to try here"


def test_a_candidate_that_ran_on_a_few_rows_was_tried(project: Any) -> None:
    desk = Desk(project)
    desk.replace("test_desk.py", ", threshold=0.8", "")
    desk.write(
        "trouble.py", "def trouble(request, is_proposal):\n    return 'Tell the team.' if is_proposal else None\n"
    )
    _tell(desk, "--prompt-budget", str(MINIMUM + 12), "--prompt-set", "auto.num_demo_sets=0")
    assert desk.jobs()["desk.route"]["reason"] == "nothing better than the source was found"


def test_a_winner_of_a_short_race_says_on_how_few_rows_it_was_chosen(project: Any) -> None:
    desk = Desk(project)
    result = _tell(desk, "--prompt-budget", str(MINIMUM + 12))
    assert result.ret == 0
    job = desk.jobs()["desk.route"]
    assert (job["selected_rows"], job["val_rows"]) == (8, 19)
    assert "chosen on 8 of 19 val rows" in words(result)
    _tell(desk)
    assert "val rows;" not in words(_tell(desk))


def test_jobs_share_what_remains(project: Any) -> None:
    desk = Desk(project)
    desk.write(
        "desk.py",
        desk.read("desk.py") + '\n\n@prompt\ndef check(ticket: str) -> Literal["billing", "bug", "account"]:\n'
        '    """Check which team should answer."""\n',
    )
    desk.write(
        "test_desk.py",
        desk.read("test_desk.py") + '\n\nfrom desk import check\n\n\n@pytest.mark.prompt_metric("tickets")\n'
        'def test_checks(example):\n    assert check(ticket=example["ticket"]) == example["team"]\n',
    )
    budget = 2 * (MINIMUM + 1 + 19)
    result = desk.optimize("--prompt-budget", str(budget))
    assert result.ret == 0
    assert {job["outcome"] for job in desk.jobs().values()} == {"frozen"}
    assert len(desk.asked()) <= budget


def test_the_course_of_a_search_does_not_depend_on_what_was_stored(project: Any) -> None:
    desk = Desk(project)
    budget = ("--prompt-budget", str(MINIMUM + 60))
    _tell(desk, *budget)
    files, asked = desk.frozen_files(), len(desk.asked())
    for name in files:
        (desk.path / name).unlink()
    _tell(desk, *budget)
    assert desk.frozen_files() == files
    assert len(desk.asked()) == asked


def test_two_models_keep_one_ceiling(project: Any) -> None:
    desk = Desk(project)
    models = ("--prompt-model", "scripted/learner", "--prompt-model", "scripted/other")
    budget = 2 * (MINIMUM + 1 + 19)
    result = desk.optimize(*models, "--prompt-budget", str(budget))
    assert len(desk.asked()) <= budget
    assert result.ret == 0
    assert {job["outcome"] for job in desk.jobs().values()} == {"frozen"}


@pytest.mark.parametrize("budget", [MINIMUM, 2 * MINIMUM - 1])
def test_a_budget_too_small_for_two_models_is_refused_before_any_call(project: Any, budget: int) -> None:
    desk = Desk(project)
    models = ("--prompt-model", "scripted/learner", "--prompt-model", "scripted/other")
    result = desk.optimize(*models, "--prompt-budget", str(budget))
    assert len(desk.asked()) <= budget
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert desk.asked() == []
    assert f"give --prompt-budget {2 * MINIMUM} or more" in words(result)


def test_none_lifts_the_ceiling(project: Any) -> None:
    desk = Desk(project)
    assert desk.optimize("--prompt-budget", "none").ret == 0
    assert len(desk.asked()) == MINIMUM + 1 + 19


def test_rows_are_dealt_as_these_tests_count_them(project: Any) -> None:
    desk = Desk(project)
    result = desk.optimize()
    result.stdout.fnmatch_lines([f"*rows*60 = * + {SEALED} sealed*"])
    assert len(make_tickets(60)) == SEARCHABLE + SEALED
