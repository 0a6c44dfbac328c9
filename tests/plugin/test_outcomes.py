"""What one call of a metric means for its row, and what rows mean for the metric."""

from __future__ import annotations

from typing import Any

import pytest

ONE_ROW = [{"id": "only", "ticket": "a refund please"}]


def run_body(project: Any, body: str, *arguments: str, marker: str = "") -> pytest.RunResult:
    """Run a metric with this body over one row."""
    lines = "\n".join(f"            {line}" for line in body.splitlines())
    project.tests(f"""
        class Float32:  # what numpy's numbers have in common
            def __init__(self, value): self.value = value
            def __float__(self): return self.value

        @pytest.fixture
        def rows():
            return {ONE_ROW!r}

        @pytest.mark.prompt_metric("rows"{marker})
        def test_metric(example):
{lines}
    """)
    result: pytest.RunResult = project.run(*arguments)
    return result


@pytest.mark.parametrize(
    ("body", "score", "status"),
    [
        ("pass", 1.0, "passed"),
        ("return None", 1.0, "passed"),
        ("return True", 1.0, "passed"),
        ("return False", 0.0, "failed"),
        ("return 0.25", 0.25, "graded"),
        ("return 1", 1.0, "graded"),
        ("return 0", 0.0, "graded"),
        ("return Float32(0.5)", 0.5, "graded"),
        ("return Score(0.75)", 0.75, "graded"),
        ("return Score(True)", 1.0, "passed"),
        ("assert example.id == 'other'", 0.0, "failed"),
        ("pytest.fail('not good')", 0.0, "failed"),
        ("raise AssertionError('by hand')", 0.0, "failed"),
        ("route.parse('hm')", 0.0, "format"),
    ],
)
def test_what_a_metric_says_becomes_a_score(project: Any, body: str, score: float, status: str) -> None:
    run_body(project, body)
    assert (project.score(), project.rows()["only"]["status"]) == (score, status)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return float('nan')", "the metric returned nan, which is no score: a score is a number in [[]0, 1]"),
        ("return 1.5", "the metric returned 1.5, which is no score*"),
        ("return -0.1", "the metric returned -0.1, which is no score*"),
        ("return Float32(2.0)", "the metric returned 2.0, which is no score*"),
        ("return Score(float('inf'))", "the metric returned inf, which is no score*"),
        ("return 'yes'", "the metric returned a str; it may return nothing, a bool, a number in *"),
        ("return [1]", "the metric returned a list; it may return *"),
        ("raise ValueError('not a number')", "ValueError: not a number"),
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("example.colour", "AttributeError: row only has no field 'colour'; it has id, ticket"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("route(ticket='outage')", "auth: the key was refused"),
    ],
)
def test_whatever_is_no_score_is_an_error_and_never_a_score(project: Any, body: str, words: str) -> None:
    result = run_body(project, body, marker=", threshold=0.0")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    assert project.score() is None
    assert project.rows()["only"]["score"] is None
    assert project.figure()["verdict"]["outcome"] == "errored"
    result.stdout.fnmatch_lines([f"*1 error: {words}"])
    result.stdout.no_fnmatch_line("*pytest_promptopt/*")


def test_one_errored_row_takes_the_score_from_the_whole_metric(project: Any) -> None:
    project.tests("""
        @pytest.mark.prompt_metric("tickets", threshold=0.1)
        def test_metric(example):
            if example.id == "t2":
                raise OSError("disk on fire")
            assert route(ticket=example.ticket) == example.team
    """)
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.score() is None
    result.stdout.fnmatch_lines(["no verdict: 1 of 4 rows errored*", "*1 error: OSError: disk on fire", "*rows t2*"])


def test_feedback_of_a_score_reaches_the_row(project: Any) -> None:
    run_body(project, "return Score(0.5, feedback='too long by a word')")
    assert project.rows()["only"]["feedback"] == "too long by a word"


def test_the_assertion_text_is_the_feedback(project: Any) -> None:
    run_body(project, "assert route(ticket=example.ticket) == 'bug', 'look again'")
    feedback = project.rows()["only"]["feedback"]
    assert feedback.startswith("look again\nassert 'billing' == 'bug'")


def test_an_unreadable_reply_scores_nothing_and_is_counted(project: Any) -> None:
    project.tests("""
        @pytest.fixture
        def rows():
            return [*ROWS[:3], {"id": "odd", "ticket": "a riddle", "team": "bug"}]

        @pytest.mark.prompt_metric("rows", threshold=0.5)
        def test_metric(example):
            assert route(ticket=example.ticket) == example.team
    """)
    result = project.run()
    result.assert_outcomes(passed=1)
    assert project.score() == 0.75
    assert project.figure()["format_failures"] == 1
    assert "Let me think about it." in project.rows()["odd"]["feedback"]
    result.stdout.fnmatch_lines(["format *1 reply could not be read as the output (format failures)"])


@pytest.mark.parametrize("how", ["pytest.skip", "pytest.xfail", "raise unittest.SkipTest"])
def test_skipped_rows_are_left_out_of_the_mean_and_counted(project: Any, how: str) -> None:
    project.tests(f"""
        import unittest

        @pytest.mark.prompt_metric("tickets", threshold=1.0)
        def test_metric(example):
            if example.id == "t4":
                {how}("its label is disputed")
            assert route(ticket=example.ticket) == example.team
    """)
    result = project.run()
    result.assert_outcomes(passed=1)
    assert (project.score(), project.figure()["skipped"]) == (1.0, 1)
    result.stdout.fnmatch_lines(["skipped *1 row left out by skip or xfail"])


def test_a_metric_whose_rows_were_all_skipped_is_skipped(project: Any) -> None:
    result = run_body(project, "pytest.skip('no licence')")
    result.assert_outcomes(skipped=1)
    assert result.ret == pytest.ExitCode.OK
    result = project.run("-rs")
    result.stdout.fnmatch_lines(["SKIPPED*every row was left out: no licence"])


def test_a_graded_metric_without_floor_or_baseline_is_ungated_and_says_so(project: Any) -> None:
    result = run_body(project, "return 0.25")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["test_metric *pass, ungated"])


def test_without_threshold_and_baseline_any_failed_row_fails(project: Any) -> None:
    result = run_body(project, "return False")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["1 of 1 rows failed*neither baseline nor threshold allows it"])


def test_a_must_pass_row_fails_the_metric_whatever_the_mean(project: Any) -> None:
    project.tests("""
        @pytest.mark.prompt_metric("tickets", threshold=0.5, must_pass=["t4"])
        def test_metric(example):
            assert route(ticket=example.ticket) == example.team
    """)
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["must-pass row t4 failed*"])


def test_repeats_are_averaged_per_row(project: Any) -> None:
    project.tests("""
        from itertools import count
        CALLS = count()

        @pytest.fixture
        def rows():
            return ROWS[:1]

        @pytest.mark.prompt_metric("rows", repeats=4, threshold=0.7, concurrency=1)
        def test_metric(example):
            assert next(CALLS) > 0
    """)
    project.run().assert_outcomes(passed=1)
    assert project.score() == 0.75


LONG = """
        @pytest.mark.prompt_metric("tickets", threshold=0.0)
        def test_metric(example):
            wanted = [f"line {number}" for number in range(2000)]
            assert wanted == [*wanted[:-1], example.team], object()
"""


def test_feedback_is_bounded(project: Any) -> None:
    project.tests(LONG)
    project.run()
    for row in project.rows().values():
        assert len(row["feedback"]) < 2_100
        assert len(row["feedback"].splitlines()) < 50


@pytest.mark.parametrize("body", ["assert example.words == other", "assert set(example.words) == set(other), object()"])
def test_feedback_is_the_same_at_every_verbosity_and_on_a_build_server(
    project: Any, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    project.tests(f"""
        @pytest.fixture
        def rows():
            return [{{"id": "only", "words": [f"word {{n}}" for n in range(60)], "text": "x" * 500}}]

        @pytest.mark.prompt_metric("rows", threshold=0.0)
        def test_metric(example):
            other = [*example.words[:30], "odd", *example.words[31:]]
            {body}
    """)
    texts = []
    for ci in ("", "1"):
        monkeypatch.setenv("CI", ci)
        for verbosity in ("-q", "-v", "-vv", "--tb=short"):
            project.run(verbosity)
            texts.append(project.rows()["only"]["feedback"])
    assert len(set(texts)) == 1
    assert "odd" in texts[0]


def test_feedback_holds_no_memory_address(project: Any) -> None:
    run_body(project, "assert [object()] == [test_metric]")
    feedback = project.rows()["only"]["feedback"]
    assert feedback.startswith("assert [<object object>] == [<function test_metric>]")
    assert "0x" not in feedback


def test_an_assert_in_a_helper_that_nobody_rewrote_gives_its_source_line(project: Any) -> None:
    project.write("helpers.py", "def check(team):\n    assert team == 'bug'\n")
    project.ini("pythonpath = .")
    run_body(project, "from helpers import check; check(route(ticket=example.ticket))")
    assert project.rows()["only"]["feedback"] == "assert team == 'bug'"


def test_without_a_model_the_words_say_how_to_name_one(project: Any) -> None:
    project.pytester.makeini("[pytest]\n")
    result = run_body(project, "assert route(ticket=example.ticket) == 'billing'")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*no model is configured: name one with --prompt-model*"])
    result.stdout.no_fnmatch_line("*pytest_promptopt/*")


def test_a_metric_that_calls_no_prompt_needs_no_model(project: Any) -> None:
    project.pytester.makeini("[pytest]\n")
    run_body(project, "pass").assert_outcomes(passed=1)


def test_a_missing_reply_under_replay_is_unrecorded_and_never_green(project: Any) -> None:
    project.conftest("""
        class Paid:
            def complete(self, request):
                raise AssertionError("called")

        @pytest.hookimpl(tryfirst=True)
        def pytest_promptopt_make_lm(model):
            return Paid()
    """)
    result = run_body(project, "assert route(ticket=example.ticket)", "--prompt-lm", "replay", marker=", threshold=0.0")
    result.assert_outcomes(failed=1)
    assert project.figure()["verdict"]["outcome"] == "unrecorded"
    assert project.score() is None
