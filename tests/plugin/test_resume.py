"""What a run loses when it is killed, when a metric raises and when a provider fails: nothing that was paid for."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.plugin.projects import NO_TROUBLE, SNAPSHOT, Desk, stray_files, words

FAIL_AFTER = """
    from itertools import count

    from pytest_promptopt.errors import LMError, LMErrorKind

    TURNS = count(1)

    def trouble(request, is_proposal):
        if next(TURNS) > {calls}:
            return LMError("the quota is used up", kind=LMErrorKind.AUTH)
"""
KILL_AT = """
    import os
    import signal
    from itertools import count

    TURNS = count(1)

    def trouble(request, is_proposal):
        if next(TURNS) == {call}:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def _questions(desk: Desk) -> list[tuple[str, str]]:
    """System text and last words of every question, in a fixed order."""
    return sorted((line["system"], line["text"]) for line in desk.asked())


@pytest.mark.parametrize("call", [10, 50, 90], ids=["in the baseline run", "in the search", "in the confirmation"])
def test_a_killed_run_loses_no_reply_and_ends_where_an_undisturbed_one_does(project: Any, call: int) -> None:
    desk = Desk(project)
    desk.freeze()
    winner, undisturbed = desk.frozen_files(), _questions(desk)
    desk = Desk.anew(project)
    desk.write("trouble.py", KILL_AT.format(call=call))
    killed = desk.run_apart("--optimize-prompts", "--prompt-concurrency", "1")
    assert killed.ret == -signal.SIGKILL
    assert desk.frozen_files() == {}
    assert stray_files(desk.path) == []
    assert len(desk.asked()) == call
    unanswered = (desk.asked()[-1]["system"], desk.asked()[-1]["text"])
    desk.write("trouble.py", NO_TROUBLE)
    assert desk.optimize().ret == 0
    assert desk.frozen_files() == winner
    assert _questions(desk) == sorted([*undisturbed, unanswered])


def test_a_run_killed_with_many_calls_in_flight_repeats_those_alone(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    winner, undisturbed = desk.frozen_files(), _questions(desk)
    desk = Desk.anew(project)
    desk.write("trouble.py", KILL_AT.format(call=50))
    assert desk.run_apart("--optimize-prompts", "--prompt-concurrency", "8").ret == -signal.SIGKILL
    desk.write("trouble.py", NO_TROUBLE)
    assert desk.optimize().ret == 0
    assert desk.frozen_files() == winner
    assert set(_questions(desk)) == set(undisturbed)
    assert len(_questions(desk)) <= len(undisturbed) + 8


@pytest.mark.parametrize("calls", [5, 45, 80], ids=["in the baseline run", "in the search", "in the confirmation"])
def test_a_provider_error_fails_the_job_with_its_cause_and_a_later_run_pays_for_the_rest_alone(
    project: Any, calls: int
) -> None:
    desk = Desk(project)
    desk.freeze()
    winner, undisturbed = desk.frozen_files(), _questions(desk)
    desk = Desk.anew(project)
    desk.write("trouble.py", FAIL_AFTER.format(calls=calls))
    result = desk.optimize("--prompt-concurrency", "1")
    result.assert_outcomes(failed=1, deselected=1)
    assert result.ret == 1
    assert "the quota is used up" in words(result)
    assert "Traceback" not in result.stdout.str()
    assert desk.frozen_files() == {}
    desk.write("trouble.py", NO_TROUBLE)
    desk.forget_asked()
    assert desk.optimize().ret == 0
    assert desk.frozen_files() == winner
    assert len(desk.asked()) == len(undisturbed) - calls


def test_a_proposer_that_fails_fails_the_job_and_names_itself(project: Any) -> None:
    desk = Desk(project)
    desk.write(
        "trouble.py",
        """
        from pytest_promptopt.errors import LMError, LMErrorKind

        def trouble(request, is_proposal):
            return LMError("no such key", kind=LMErrorKind.AUTH) if is_proposal else None
    """,
    )
    result = desk.optimize("--prompt-proposer", "scripted/writer")
    assert result.ret == 1
    assert "scripted/writer" in words(result)
    assert "no such key" in words(result)
    assert desk.frozen_files() == {}


def test_a_metric_that_raises_on_the_source_errors_the_job_and_freezes_nothing(project: Any) -> None:
    desk = Desk(project)
    desk.replace("test_desk.py", 'example["team"]', 'example["tema"]')
    result = desk.optimize()
    result.assert_outcomes(failed=1, deselected=1)
    assert result.ret == 1
    assert desk.frozen_files() == {}
    assert "under the source" in words(result)
    assert "tema" in words(result)


def _let_the_best_candidate_raise(desk: Desk) -> None:
    """Two proposals: one is right everywhere and lets the metric raise on some rows, the other knows billing alone."""
    desk.write(
        "trouble.py",
        """
        from itertools import count

        TURNS = count()
        RAISING = "Choose billing for: refund, invoice, receipt, discount, charged. " \\
            "Choose bug for: crashes, freezes, blank, error, stuck. Beware of the shelf."
        MODEST = "Choose billing for: refund, invoice, receipt, discount, charged."

        def trouble(request, is_proposal):
            if is_proposal:
                return f"```\\n{MODEST if next(TURNS) else RAISING}\\n```"
    """,
    )
    desk.replace(
        "test_desk.py",
        '    assert route(ticket=example["ticket"]) == example["team"]',
        '    answer = route(ticket=example["ticket"])\n'
        '    if answer == "bug" and int(example.id[2:]) % 2 == 0:\n'
        '        raise KeyError("no such shelf")\n'
        '    assert answer == example["team"]',
    )
    desk.replace("test_desk.py", "threshold=0.8", "threshold=0.5")


def test_a_candidate_under_which_the_metric_raises_is_out_however_good_it_is_and_the_run_goes_on(project: Any) -> None:
    desk = Desk(project)
    _let_the_best_candidate_raise(desk)
    assert desk.optimize("--prompt-set", "copro.breadth=3").ret == 0
    assert any("Beware of the shelf" in line["system"] for line in desk.asked())
    assert desk.jobs()["desk.route"]["outcome"] == "frozen"
    assert "Choose billing" in desk.read(SNAPSHOT)
    assert "Beware of the shelf" not in desk.read(SNAPSHOT)


def test_the_report_names_the_exception_that_rejected_a_candidate(project: Any) -> None:
    desk = Desk(project)
    _let_the_best_candidate_raise(desk)
    result = desk.optimize("--prompt-set", "copro.breadth=3")
    assert "no such shelf" in words(result)


def test_a_winner_that_raises_on_a_sealed_row_is_kept_out_with_the_reason(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    desk.run()
    sealed = desk.figure()["rows"][0]["id"]
    desk = Desk.anew(project)
    desk.replace(
        "test_desk.py",
        '    assert route(ticket=example["ticket"]) == example["team"]',
        '    answer = route(ticket=example["ticket"])\n'
        f'    if example.id == "{sealed}" and answer == "billing":\n'
        '        raise KeyError("no such shelf")\n'
        '    assert answer == example["team"]',
    )
    result = desk.optimize()
    assert desk.jobs()["desk.route"]["outcome"] == "kept"
    assert desk.frozen_files() == {}
    assert f"raised on row {sealed}" in words(result)
    assert "no such shelf" in words(result)
