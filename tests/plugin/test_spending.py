"""Whose calls they were, what they came to, and which ceiling holds: workers, own clients, pinned models."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.loopback import Loopback, completion, serving
from tests.plugin.conftest import Project

MANY = """
    @pytest.fixture(scope="session")
    def many():
        return [{"id": f"r{n}", "ticket": f"a refund please {n}", "team": "billing"} for n in range(20)]
"""
METRIC = """
    @pytest.mark.prompt_metric("many")
    def test_routes(example):
        assert route(ticket=example["ticket"]) == example["team"]
"""
OWN = """
    from pytest_promptopt import text_prompt

    REPLY = text_prompt("desk.reply", "Answer {ticket}")
    SENT = []

    @pytest.mark.prompt_metric("many")
    def test_own(example):
        SENT.append(REPLY.format(ticket=example["ticket"]))
        assert example["ticket"] in SENT[-1]
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    with serving() as server:
        server.will(*[completion("billing")] * 200)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        yield server


def test_workers_share_one_budget(project: Project, server: Loopback) -> None:
    project.tests(MANY + METRIC + METRIC.replace("test_routes", "test_again").replace("ticket=", "ticket='again ' + "))
    result = project.run_apart(
        "-n", "3", "--prompt-model", "openai/gpt-4o-mini", "--prompt-budget", "20", plugins="xdist"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert len(server.heard) <= 20


def test_what_a_run_spent_before_it_met_its_budget_is_told(project: Project, server: Loopback) -> None:
    project.tests(MANY + METRIC)
    result = project.run("--prompt-model", "openai/gpt-4o-mini", "--prompt-budget", "7")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["* replies: 0 replayed, 7 called, <$0.001 of $1.00, *"])


def test_what_one_metric_spent_in_vain_is_not_the_next_ones(project: Project, server: Loopback) -> None:
    project.tests(
        MANY
        + METRIC
        + """
    @pytest.mark.prompt_metric("many")
    def test_then(example):
        pass
    """
    )
    project.run("--prompt-model", "openai/gpt-4o-mini", "--prompt-budget", "7")
    assert project.figures()["test_then"]["spending"]["attempts"] == 0


def test_texts_that_an_own_client_sends_are_counted_and_told(project: Project) -> None:
    project.tests(MANY + OWN)
    result = project.run("--prompt-lm", "replay")
    result.stdout.fnmatch_lines(["20 prompts handed out to a client of your own: neither recorded, *"])
    assert project.figure()["spending"]["handed_out"] == 20


def test_a_search_over_an_own_client_says_that_nobody_knows_the_cost(project: Project) -> None:
    project.tests(MANY + OWN)
    result = project.run("--optimize-prompts")
    (cells,) = re.findall(r"desk\.reply +kept.*", result.stdout.str())
    assert cells.endswith("cost unknown")
    assert "$0.00" not in cells


def test_a_pinned_prompt_outside_the_process_has_the_default_ceiling(project: Project, server: Loopback) -> None:
    judge = """
    @prompt(model="openai/gpt-4o-mini", optimize=False)
    def judge(ticket: str) -> Literal["billing", "bug", "account"]:
        \"\"\"Decide.\"\"\"
    """
    project.tests(MANY + judge + METRIC.replace("route(", "judge("))
    result = project.run("-q", "--prompt-lm", "auto")
    result.stdout.fnmatch_lines(["20 replies: 0 replayed, 20 called, *of $1.00*"])


def test_a_search_in_ci_names_its_mode_for_a_pinned_model_too(
    project: Project, server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "1")
    judge = """
    @prompt(model="openai/gpt-4o-mini", optimize=False)
    def judge(ticket: str) -> bool:
        \"\"\"Decide.\"\"\"
    """
    project.tests(MANY + judge + METRIC)
    result = project.run("--optimize-prompts")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert server.heard == []


@pytest.mark.parametrize("option", [("--prompt-model", "openai/gpt-4o-mini"), ()])
def test_an_address_without_a_scheme_is_a_usage_error(
    project: Project, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:8000/v1")
    if not option:
        monkeypatch.setenv("PROMPTOPT_MODEL", "openai/gpt-4o-mini")
    project.tests(MANY + METRIC)
    result = project.run(*option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: OPENAI_BASE_URL = *it is an address such as*"])


def test_an_option_in_our_table_is_told_where_it_belongs(project: Project) -> None:
    project.write("pyproject.toml", "[tool.pytest-promptopt]\nmax_cost = 0.1\n")
    project.tests(MANY + METRIC)
    result = project.run("--prompt-model", "scripted/desk")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*max_cost*promptopt_max_cost in *tool.pytest.ini_options*"])


def test_one_broken_metric_leaves_the_prompts_of_the_others_to_their_search(project: Project) -> None:
    project.tests(
        MANY
        + METRIC
        + """
    @prompt
    def other(ticket: str) -> Literal["billing", "bug", "account"]:
        \"\"\"Decide otherwise.\"\"\"

    @pytest.mark.prompt_metric("many")
    def test_other(example):
        assert other(ticket=example["ticket"]) == example["taem"]
    """
    )
    result = project.run("--optimize-prompts")
    text = result.stdout.str()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert re.search(r"desk\.route +kept", text)
    assert re.search(r"test_desk\.py::other: test_desk\.py::test_other, row r\d+, under the source: KeyError", text)
