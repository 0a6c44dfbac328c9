"""``--prompt-bless``: this run's scores become baselines, and whatever has no honest score is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.plugin.projects import BASELINE, SNAPSHOT, Desk, make_tickets, words

SECOND = """


@pytest.mark.prompt_metric("tickets", threshold=0.1)
def test_again(example):
    assert route(ticket=example["ticket"]) == example["team"]
"""
SECOND_BASELINE = "__prompts__/test_desk.test_again@scripted-learner.toml"


def _desk_without_threshold(project: Any, rows: int = 60) -> Desk:
    desk = Desk(project, rows=rows)
    desk.replace("test_desk.py", ", threshold=0.8", "")
    return desk


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.sampled_from([1, 2, 5, 9, 10, 11, 49, 50, 64]))
def test_a_blessed_metric_passes_while_nothing_changes_with_any_number_of_rows(project: Any, count: int) -> None:
    desk = Desk.anew(project, rows=count)
    desk.replace("test_desk.py", ", threshold=0.8", "")
    assert desk.run("--prompt-bless").ret == 0
    assert [*desk.frozen_files()] == [BASELINE]
    files = desk.frozen_files()
    assert desk.run().ret == 0
    assert desk.figure()["verdict"]["difference"] == 0.0
    assert len(desk.figure()["rows"]) == count
    assert desk.run("--prompt-bless").ret == 0
    assert desk.frozen_files() == files


def test_without_a_baseline_a_failing_row_fails_and_the_run_says_how_to_accept_it(project: Any) -> None:
    desk = _desk_without_threshold(project)
    result = desk.run()
    assert result.ret == 1
    assert '"pytest --prompt-bless" accepts these scores' in words(result)
    assert desk.frozen_files() == {}


def test_blessing_says_what_it_wrote(project: Any) -> None:
    desk = _desk_without_threshold(project)
    desk.run("--prompt-bless").stdout.fnmatch_lines([f"blessed: {BASELINE} (new baseline)"])
    desk.run("--prompt-bless").stdout.fnmatch_lines(["blessed: nothing to change"])
    desk.replace("desk.py", "Decide which team should answer.", "Choose billing for: refund.")
    desk.run("--prompt-bless").stdout.fnmatch_lines([f"blessed: {BASELINE} (new scores)"])


def test_blessing_does_not_lift_a_score_over_its_threshold(project: Any) -> None:
    desk = Desk(project)
    result = desk.run("--prompt-bless")
    assert result.ret == 1
    result.assert_outcomes(failed=1)
    assert "below threshold=0.8" in words(result)


def test_after_a_blessing_a_drop_fails(project: Any) -> None:
    desk = _desk_without_threshold(project)
    desk.replace("desk.py", "Decide which team should answer.", "Choose billing for: refund, invoice, receipt.")
    assert desk.run("--prompt-bless").ret == 0
    desk.replace("desk.py", "Choose billing for: refund, invoice, receipt.", "Decide.")
    result = desk.run()
    assert result.ret == 1
    assert desk.figure()["verdict"]["outcome"] == "fail"


def test_an_errored_metric_is_not_blessed_and_the_others_are(project: Any) -> None:
    desk = _desk_without_threshold(project)
    desk.write("test_desk.py", desk.read("test_desk.py") + SECOND.replace('example["team"]', 'example["tema"]'))
    result = desk.run("--prompt-bless")
    assert result.ret == 1
    assert [*desk.frozen_files()] == [BASELINE]
    result.stdout.fnmatch_lines(["not blessed: test_again: rows errored, so its baseline stays"])


def test_a_refused_blessing_leaves_the_old_baseline_byte_for_byte(project: Any) -> None:
    desk = _desk_without_threshold(project)
    desk.run("--prompt-bless")
    files = desk.frozen_files()
    desk.replace("test_desk.py", 'example["team"]', 'example["tema"]')
    assert desk.run("--prompt-bless").ret == 1
    assert desk.frozen_files() == files


def test_a_provider_error_on_one_row_refuses_the_blessing(project: Any) -> None:
    desk = _desk_without_threshold(project)
    ticket = make_tickets(60)[7]["ticket"]
    desk.write(
        "trouble.py",
        f"""
        from pytest_promptopt.errors import LMError, LMErrorKind

        def trouble(request, is_proposal):
            if request.messages[-1]["content"] == {ticket!r}:
                return LMError("the key was refused", kind=LMErrorKind.AUTH)
    """,
    )
    result = desk.run("--prompt-bless")
    assert result.ret == 1
    assert desk.frozen_files() == {}


def test_unrecorded_replies_refuse_the_blessing(project: Any) -> None:
    desk = _desk_without_threshold(project)
    desk.make_remote()
    result = desk.run("--prompt-bless", "--prompt-lm", "replay")
    assert result.ret == 1
    assert desk.asked() == []
    assert desk.frozen_files() == {}
    result.stdout.fnmatch_lines(["not blessed: test_routes: replies are missing, so its baseline stays"])


def test_a_pattern_blesses_the_metrics_of_its_prompts_alone(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    frozen = desk.frozen_files()
    desk.replace("desk.py", "Decide which team should answer.", "Say who should answer.")
    desk.run("--prompt-bless", "--prompt", "another")
    assert desk.frozen_files() == frozen


def test_a_blessing_of_one_path_touches_no_other_baseline(project: Any) -> None:
    desk = _desk_without_threshold(project)
    desk.write("test_desk.py", desk.read("test_desk.py") + SECOND)
    desk.run("--prompt-bless")
    assert [*desk.frozen_files()] == [SECOND_BASELINE, BASELINE]
    second = desk.frozen_files()[SECOND_BASELINE]
    desk.replace("desk.py", "Decide which team should answer.", "Choose billing for: refund.")
    assert desk.run("--prompt-bless", "-k", "test_routes").ret == 0
    assert desk.frozen_files()[SECOND_BASELINE] == second


def test_workers_bless_the_same_bytes_as_one_process(project: Any) -> None:
    desk = _desk_without_threshold(project)
    desk.write("test_desk.py", desk.read("test_desk.py") + SECOND)
    assert desk.run("--prompt-bless").ret == 0
    files = desk.frozen_files()
    for name in files:
        (desk.path / name).unlink()
    result = desk.run_apart("-n", "2", "--prompt-bless", plugins="xdist")
    assert result.ret == 0
    assert desk.frozen_files() == files
    result.stdout.fnmatch_lines_random([f"blessed: {BASELINE} (new baseline)"])


def test_workers_retire_a_stale_snapshot(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    desk.replace("desk.py", "Decide which team should answer.", "Say who should answer.")
    desk.replace("test_desk.py", "threshold=0.8", "threshold=0.1")
    assert desk.run_apart("-n", "2", "--prompt-bless", plugins="xdist").ret == 0
    assert [*desk.frozen_files()] == [BASELINE]
    assert SNAPSHOT not in desk.frozen_files()


def test_what_a_search_spent_of_the_sealed_rows_survives_a_blessing(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    sealed = desk.read(BASELINE).partition("[sealed]")[2].partition("[rows]")[0]
    assert "winners" in sealed
    desk.replace(SNAPSHOT, "Decide which team", "Please decide which team")
    desk.replace(SNAPSHOT, "invoice,", "")
    assert desk.run("--prompt-bless").ret == 0
    assert desk.read(BASELINE).partition("[sealed]")[2].partition("[rows]")[0] == sealed


@pytest.mark.parametrize("arguments", [("--collect-only",), ("--co", "-q")])
def test_collecting_blesses_nothing(project: Any, arguments: tuple[str, ...]) -> None:
    desk = _desk_without_threshold(project)
    assert desk.run("--prompt-bless", *arguments).ret == 0
    assert desk.frozen_files() == {}


def test_an_interrupted_run_blesses_nothing(project: Any) -> None:
    desk = _desk_without_threshold(project)
    desk.write("test_desk.py", desk.read("test_desk.py") + SECOND)
    desk.write(
        "trouble.py",
        """
        import os
        import signal
        from itertools import count

        TURNS = count(1)

        def trouble(request, is_proposal):
            if next(TURNS) == 30:
                os.kill(os.getpid(), signal.SIGINT)
    """,
    )
    result = desk.run_apart("--prompt-bless", "--prompt-concurrency", "1")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert len(desk.asked()) < 60
    assert desk.frozen_files() == {}
