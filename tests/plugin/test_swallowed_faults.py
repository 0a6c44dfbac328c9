"""A program that catches a provider's fault and answers something else has not earned a score with it."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Project

FALLBACK = """
    def guess(ticket):
        try:
            return route(ticket=ticket)
        except Exception:
            return "billing"

    @pytest.fixture
    def faulty():
        return [{"id": f"r{n}", "ticket": f"outage {n}", "team": "billing"} for n in range(12)]
"""
ROUTES = """
    @pytest.mark.prompt_metric("faulty")
    def test_routes(example):
        assert guess(example["ticket"]) == example["team"]
"""
AROUTES = """
    @prompt
    async def aroute(ticket: str) -> Literal["billing", "bug", "account"]:
        \"\"\"Decide which team should answer.\"\"\"

    @pytest.mark.anyio
    @pytest.mark.prompt_metric("faulty")
    async def test_routes(example):
        try:
            team = await aroute(ticket=example["ticket"])
        except Exception:
            team = "billing"
        assert team == example["team"]
"""


@pytest.mark.parametrize(("metric", "plugins"), [(ROUTES, ""), (AROUTES, "anyio")])
def test_a_fault_that_the_program_catches_is_no_score(project: Project, metric: str, plugins: str) -> None:
    project.tests(FALLBACK + metric)
    result = project.run("-k", "not trio", plugins=plugins)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    report = project.figure()
    assert report["verdict"]["outcome"] == "errored"
    assert {row["score"] for row in report["rows"]} == {None}
    result.stdout.fnmatch_lines(["*auth: the key was refused*"])


def test_a_missing_reply_that_the_program_catches_is_unrecorded(project: Project) -> None:
    project.conftest("""
        from pytest_promptopt.lms.base import Reply

        class Remote:
            async def acomplete(self, request):
                return Reply(text="billing")

        @pytest.hookimpl(tryfirst=True)
        def pytest_promptopt_make_lm(model):
            return Remote()
    """)
    project.tests(FALLBACK + ROUTES)
    result = project.run("--prompt-lm", "replay", "--prompt-bless")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.figure()["verdict"]["outcome"] == "unrecorded"
    result.stdout.fnmatch_lines(["not blessed: *replies are missing*"])


def test_a_search_ends_at_a_fault_that_the_program_catches(project: Project) -> None:
    project.tests(FALLBACK + ROUTES)
    result = project.run("--optimize-prompts")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*the key was refused*"])


def test_a_refusal_of_one_request_may_have_an_answer_of_its_own(project: Project) -> None:
    project.conftest("""
        from pytest_promptopt.errors import LMError, LMErrorKind
        from pytest_promptopt.testing import ScriptedLM

        @pytest.hookimpl(tryfirst=True)
        def pytest_promptopt_make_lm(model):
            return ScriptedLM([LMError("withheld", kind=LMErrorKind.CONTENT_POLICY)] * 12)
    """)
    project.tests(FALLBACK + ROUTES)
    project.run()
    assert project.score() == 1.0
