"""A metric is an ordinary test: pytest's own options work on it, and threads stay out of its way."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

GOOD_AND_BAD = """
    @pytest.mark.prompt_metric("tickets", threshold=0.75)
    def test_good(example):
        assert route(ticket=example.ticket) == example.team

    @pytest.mark.prompt_metric("tickets", threshold=0.9)
    def test_bad(example):
        assert route(ticket=example.ticket) == example.team

    def test_plain():
        assert True
"""


def test_the_table_names_every_metric_with_its_verdict(project: Any) -> None:
    project.tests(GOOD_AND_BAD)
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "prompts: scripted/desk, replies auto",
            "*score 0.750 is below threshold=0.9 with test_desk.route on scripted/desk",
            "*prompt metrics*",
            "test_good *4 *0.750 *pass",
            "test_bad *4 *0.750 *FAIL",
        ]
    )


def test_a_failure_shows_words_and_rows_and_no_stack_trace_of_ours(project: Any) -> None:
    project.tests(GOOD_AND_BAD)
    result = project.run("--tb=long")
    result.stdout.fnmatch_lines(["*t4 *assert 'billing' == 'bug'*"])
    result.stdout.no_fnmatch_line("*pytest_promptopt*")


def test_maxfail_ends_the_session_after_a_failed_metric(project: Any) -> None:
    project.tests("""
        @pytest.mark.prompt_metric("tickets")
        def test_bad(example):
            assert False

        @pytest.mark.prompt_metric("tickets")
        def test_never(example): ...
    """)
    project.run("-x").assert_outcomes(failed=1)


def test_last_failed_runs_the_failed_metric_again(project: Any) -> None:
    project.tests(GOOD_AND_BAD)
    project.run()
    result = project.run("--lf")
    result.assert_outcomes(failed=1)
    assert list(project.figures()) == ["test_bad"]


def test_durations_name_the_metric(project: Any) -> None:
    project.tests(GOOD_AND_BAD)
    result = project.run("--durations=0", "-vv")
    result.stdout.fnmatch_lines(["*call*test_desk.py::test_good"])


def test_junit_files_hold_the_score(project: Any) -> None:
    project.tests(GOOD_AND_BAD)
    project.run("--junitxml=junit.xml")
    cases = {case.get("name"): case for case in ET.parse(project.path / "junit.xml").iter("testcase")}
    properties = {item.get("name"): item.get("value") for item in cases["test_good"].iter("property")}
    assert properties == {
        "promptopt.score": "0.75",
        "promptopt.rows": "4",
        "promptopt.verdict": "pass",
        "promptopt.model": "scripted/desk",
        "promptopt.cost_usd": "0.0",
    }
    assert cases["test_bad"].find("failure") is not None
    assert not list(cases["test_plain"].iter("property"))


def test_expected_failures_compose_with_the_gate(project: Any) -> None:
    project.tests("""
        @pytest.mark.xfail
        @pytest.mark.prompt_metric("tickets")
        def test_expected(example):
            assert False

        @pytest.mark.xfail(strict=True)
        @pytest.mark.prompt_metric("tickets")
        def test_strict(example): ...

        @pytest.mark.xfail
        @pytest.mark.prompt_metric("tickets")
        def test_surprise(example): ...
    """)
    project.run().assert_outcomes(xfailed=1, failed=1, xpassed=1)


def test_skip_markers_skip_the_whole_metric(project: Any) -> None:
    project.tests("""
        @pytest.mark.skip
        @pytest.mark.prompt_metric("tickets")
        def test_skip(example): ...

        @pytest.mark.skipif(True, reason="not today")
        @pytest.mark.prompt_metric("tickets")
        def test_skipif(example): ...
    """)
    project.run().assert_outcomes(skipped=2)
    assert project.figures() == {}


def test_a_failing_fixture_is_pytests_own_error(project: Any) -> None:
    project.tests("""
        @pytest.fixture
        def broken():
            raise OSError("no rows today")

        @pytest.mark.prompt_metric("broken")
        def test_metric(example): ...
    """)
    result = project.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*OSError: no rows today"])
    assert project.figures() == {}


def test_captured_output_of_rows_is_shown_with_the_failure(project: Any) -> None:
    project.tests("""
        @pytest.mark.prompt_metric("tickets")
        def test_metric(example):
            print("looking at", example.id)
            assert False
    """)
    project.run().stdout.fnmatch_lines(["*Captured stdout call*", "looking at t*"])


PDB = """
    class Recorder:
        def __init__(self, *args, **kwargs): ...
        def reset(self): ...
        def setup(self, frame, traceback):
            self.curframe = frame
            self.botframe = None
        def interaction(self, frame, traceback):
            error = traceback
            while error.tb_next:
                error = error.tb_next
            print("debugging", error.tb_frame.f_code.co_name, error.tb_frame.f_locals["example"].id)
        def set_trace(self, *args): ...
        quitting = False
"""


@pytest.mark.parametrize("concurrency", ["", ", concurrency=8"])
def test_the_debugger_lands_in_the_metrics_own_frame_with_the_first_failing_row(project: Any, concurrency: str) -> None:
    project.write("recorder.py", PDB)
    project.ini("pythonpath = .")
    project.tests(f"""
        @pytest.mark.prompt_metric("tickets", threshold=0.5{concurrency})
        def test_metric(example):
            assert route(ticket=example.ticket) == example.team
    """)
    result = project.run("--pdb", "--pdbcls=recorder:Recorder", "-s")
    result.stdout.fnmatch_lines(["*assert 'billing' == 'bug'*"])
    result.stdout.fnmatch_lines(["debugging test_metric t4"])
    result.assert_outcomes(failed=1)


def test_several_rows_run_at_a_time_each_in_a_context_of_its_own(project: Any) -> None:
    project.tests("""
        from contextvars import ContextVar
        from threading import Barrier

        TOGETHER = Barrier(4, timeout=30)
        MINE = ContextVar("mine", default=None)

        @pytest.mark.prompt_metric("tickets")
        def test_metric(example):
            assert MINE.get() is None
            MINE.set(example.id)
            TOGETHER.wait()
            assert MINE.get() == example.id
    """)
    project.run().assert_outcomes(passed=1)


def test_context_set_by_the_caller_is_seen_by_every_row(project: Any) -> None:
    project.tests("""
        from contextvars import ContextVar

        TENANT = ContextVar("tenant", default="nobody")

        @pytest.fixture
        def tenant():
            token = TENANT.set("acme")
            yield
            TENANT.reset(token)

        @pytest.mark.prompt_metric("tickets")
        def test_metric(example, tenant):
            assert TENANT.get() == "acme"
    """)
    project.run().assert_outcomes(passed=1)


@pytest.mark.parametrize("fixture", ["monkeypatch", "capsys", "tmp_path", "caplog", "recwarn"])
def test_fixtures_that_threads_cannot_share_make_rows_run_one_by_one(project: Any, fixture: str) -> None:
    project.tests(f"""
        from threading import current_thread, main_thread

        @pytest.mark.prompt_metric("tickets")
        def test_metric(example, {fixture}):
            assert current_thread() is main_thread()
    """)
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"*one row at a time, because threads cannot share the fixture {fixture}"])


def test_concurrency_overrides_what_fixtures_ask_for(project: Any) -> None:
    project.tests("""
        from threading import Barrier
        TOGETHER = Barrier(2, timeout=30)

        @pytest.mark.prompt_metric("tickets", concurrency=2)
        def test_metric(example, tmp_path):
            TOGETHER.wait()
    """)
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*one row at a time*")


def test_concurrency_one_runs_rows_in_order_in_the_main_thread(project: Any) -> None:
    project.tests("""
        SEEN = []

        @pytest.mark.prompt_metric("tickets", concurrency=1)
        def test_metric(example):
            SEEN.append(example.id)

        def test_order():
            assert SEEN == ["t1", "t2", "t3", "t4"]
    """)
    project.run().assert_outcomes(passed=2)


def test_the_option_bounds_how_many_rows_run_at_a_time(project: Any) -> None:
    project.tests("""
        from threading import Lock
        LOCK, STATE = Lock(), {"now": 0, "most": 0}

        @pytest.mark.prompt_metric("tickets")
        def test_metric(example):
            with LOCK:
                STATE["now"] += 1
                STATE["most"] = max(STATE.values())
            route(ticket=example.ticket)
            with LOCK:
                STATE["now"] -= 1

        def test_bound():
            assert STATE["most"] <= 2
    """)
    project.run("--prompt-concurrency", "2").assert_outcomes(passed=2)


def test_a_row_that_takes_too_long_is_an_error_and_the_others_have_scores(project: Any) -> None:
    project.tests("""
        from threading import Event
        NEVER = Event()

        @pytest.mark.prompt_metric("tickets", example_timeout=0.2, threshold=0.0)
        def test_metric(example):
            if example.id == "t2":
                NEVER.wait(60)
    """)
    result = project.run()
    result.stdout.fnmatch_lines(["*1 error: took longer than example_timeout=0.2 seconds", "*rows t2*"])
    assert [row["score"] for row in project.figure()["rows"]] == [1.0, None, 1.0, 1.0]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_ctrl_c_in_a_metric_interrupts_the_session(project: Any, concurrency: int) -> None:
    project.tests(f"""
        @pytest.mark.prompt_metric("tickets", concurrency={concurrency})
        def test_metric(example):
            if example.id == "t3":
                raise KeyboardInterrupt

        def test_never(): ...
    """)
    result = project.run_apart()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "test_never" not in result.stdout.str()


@pytest.mark.parametrize("concurrency", [1, 4])
def test_pytest_exit_in_a_metric_ends_the_session(project: Any, concurrency: int) -> None:
    project.tests(f"""
        @pytest.mark.prompt_metric("tickets", concurrency={concurrency})
        def test_metric(example):
            pytest.exit("enough", returncode=7)
    """)
    result = project.run_apart()
    assert result.ret == 7


def test_the_facts_of_the_run_are_a_fixture(project: Any) -> None:
    project.tests("""
        def test_facts(promptopt):
            assert promptopt.model == "scripted/desk"
            assert promptopt.mode == "auto"
            assert promptopt.seed == 7
            assert promptopt.is_optimizing is False
            with pytest.raises(AttributeError):
                promptopt.seed = 8
    """)
    project.run("--prompt-seed", "7").assert_outcomes(passed=1)


def test_propagate_carries_the_row_into_threads_of_the_users_own(project: Any) -> None:
    project.tests("""
        from concurrent.futures import ThreadPoolExecutor

        @pytest.mark.prompt_metric("tickets", threshold=0.75)
        def test_metric(example, promptopt):
            with ThreadPoolExecutor(2) as pool:
                (team,) = pool.map(promptopt.propagate(lambda text: route(ticket=text)), [example.ticket])
            assert team == example.team
    """)
    project.run().assert_outcomes(passed=1)
    (state,) = project.figure()["prompts"]
    assert (state["name"], state["standing"]) == ("test_desk.route", "source")


@pytest.mark.parametrize("order", ["forward", "backward"])
def test_verdicts_do_not_depend_on_order_and_selection(project: Any, order: str) -> None:
    project.tests(GOOD_AND_BAD)
    project.conftest(f"""
        def pytest_collection_modifyitems(items):
            if {order!r} == "backward":
                items.reverse()
    """)
    project.run()
    verdicts = {name: report["verdict"] for name, report in project.figures().items()}
    project.run("-k", "bad", "-x")
    assert project.figures()["test_bad"]["verdict"] == verdicts["test_bad"]
    assert {name: verdict["outcome"] for name, verdict in verdicts.items()} == {"test_good": "pass", "test_bad": "fail"}


def test_a_second_run_replays_everything(project: Any) -> None:
    project.tests("""
        @pytest.mark.prompt_metric("tickets", threshold=0.75)
        def test_metric(example):
            assert route(ticket=example.ticket) == example.team
    """)
    project.run()
    first = project.figure()["spending"]
    project.run()
    second = project.figure()["spending"]
    assert (first["calls"], first["replayed"]) == (4, 0)
    assert (second["calls"], second["replayed"], second["attempts"]) == (4, 4, 0)


def test_five_identical_calls_in_one_row_are_five_draws_and_all_are_replayed(project: Any) -> None:
    project.tests("""
        @prompt(temperature=1.0)
        def vote(ticket: str) -> str:
            \"\"\"Say something about this ticket.\"\"\"

        @pytest.fixture
        def rows():
            return ROWS[:1]

        @pytest.mark.prompt_metric("rows")
        def test_metric(example):
            drawn = [vote.predict(ticket=example.ticket).text for _ in range(5)]
            print("drawn", drawn)
            return Score(0.5, feedback="|".join(drawn))
    """)
    project.conftest("""
        from threading import Lock

        class Dice:
            def __init__(self):
                self.rolled, self.lock = 0, Lock()

            def complete(self, request):
                from pytest_promptopt.lms.base import Reply
                with self.lock:
                    self.rolled += 1
                    return Reply(text=f"answer {self.rolled}", cost_usd=0.0)

        @pytest.hookimpl(tryfirst=True)
        def pytest_promptopt_make_lm(model):
            return Dice()
    """)
    project.run()
    first = project.figure()
    project.run()
    second = project.figure()
    drawn = first["rows"][0]["feedback"].split("|")
    assert len(set(drawn)) == 5
    assert second["rows"][0]["feedback"].split("|") == drawn
    assert (first["spending"]["attempts"], second["spending"]["attempts"], second["spending"]["replayed"]) == (5, 0, 5)


def test_an_offline_model_draws_anew_for_each_identical_call(project: Any) -> None:
    project.ini("promptopt_model = offline/keyword")
    project.pytester.makeini("[pytest]\npromptopt_model = offline/keyword\n")
    project.tests("""
        @prompt(temperature=1.0)
        def pick(ticket: str) -> Literal[tuple(f"label{n}" for n in range(40))]:
            \"\"\"Pick any label.\"\"\"

        @pytest.fixture
        def rows():
            return ROWS[:1]

        @pytest.mark.prompt_metric("rows")
        def test_metric(example):
            drawn = [pick(ticket=example.ticket) for _ in range(5)]
            return Score(0.5, feedback="|".join(drawn))
    """)
    project.run()
    first = project.figure()
    project.run()
    second = project.figure()
    assert len(set(first["rows"][0]["feedback"].split("|"))) > 1
    assert first["rows"] == second["rows"]
    assert (second["spending"]["replayed"], second["spending"]["attempts"]) == (5, 0)


def test_a_build_server_replays_and_the_header_says_why(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    project.tests(GOOD_AND_BAD)
    result = project.run()
    result.stdout.fnmatch_lines(["prompts: scripted/desk, replay (CI is set)*", "test_good *pass"])


def test_a_session_inside_a_session_leaves_the_outer_one_its_model(project: Any) -> None:
    project.conftest('pytest_plugins = ["pytester"]')
    project.write("pytest.ini", "[pytest]\npromptopt_model = scripted/desk\n")
    project.tests("""
        def test_outer(pytester):
            pytester.makepyfile("def test_inner(): ...")
            pytester.runpytest_inprocess("-p", "promptopt").assert_outcomes(passed=1)
            assert route(ticket="refund") == "billing"
    """)
    (project.path / "tox.ini").unlink()
    project.run_apart().assert_outcomes(passed=1)
