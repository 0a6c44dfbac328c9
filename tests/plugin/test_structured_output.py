"""Prompts that answer in JSON send the schema of their reply, and a server that takes none is asked without it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.loopback import Loopback, completion, refusal, serving
from tests.plugin.conftest import Project

PROMPTS = '''
    from dataclasses import dataclass

    @dataclass
    class Ticket:
        team: Literal["billing", "bug", "account"]
        urgency: int

    @prompt(reasoning=True)
    def sort(ticket: str) -> Ticket:
        """Sort this ticket."""

    @prompt
    def route_plainly(ticket: str) -> Literal["billing", "bug", "account"]:
        """Decide which team should answer."""

    @pytest.fixture
    def one():
        return [{"id": "t1", "ticket": "a refund please", "team": "billing"}]
'''
REPLY = json.dumps({"reasoning": "money", "team": "billing", "urgency": 2})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    with serving() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        yield server


def run(project: Project, metric: str) -> pytest.RunResult:
    project.tests(PROMPTS + metric)
    return project.run("--prompt-model", "openai/gpt-4o-mini")


SORTS = """
    @pytest.mark.prompt_metric("one")
    def test_sorts(example):
        assert sort(ticket=example["ticket"]).team == example["team"]
"""


def body_of(server: Loopback, number: int = 0) -> dict[str, Any]:
    return server.heard[number].body


def test_a_record_with_reasoning_sends_a_strict_schema_reasoning_first(project: Project, server: Loopback) -> None:
    server.will(completion(REPLY))
    run(project, SORTS).assert_outcomes(passed=1)
    wanted = body_of(server)["response_format"]["json_schema"]
    assert wanted["strict"] is True
    assert [*wanted["schema"]["properties"]] == ["reasoning", "team", "urgency"]


def test_a_bare_label_sends_none(project: Project, server: Loopback) -> None:
    server.will(completion("billing"))
    metric = """
    @pytest.mark.prompt_metric("one")
    def test_routes(example):
        assert route_plainly(ticket=example["ticket"]) == example["team"]
    """
    run(project, metric).assert_outcomes(passed=1)
    assert "response_format" not in body_of(server)


def test_a_server_that_takes_no_schema_is_asked_without_it(project: Project, server: Loopback) -> None:
    no = refusal(400, "Unknown parameter: 'response_format'.", code="unknown_parameter")
    server.will(no, completion(REPLY))
    result = run(project, SORTS)
    result.assert_outcomes(passed=1)
    assert ["response_format" in heard.body for heard in server.heard] == [True, False]
    result.stdout.fnmatch_lines(["1 reply: 0 replayed, 2 called, *"])


def test_the_ceilings_stand_in_the_header_of_a_run_that_may_call(project: Project, server: Loopback) -> None:
    server.will(completion(REPLY))
    result = run(project, SORTS)
    result.stdout.fnmatch_lines(
        [
            f"prompts: openai/gpt-4o-mini at {server.url}, replies auto",
            "ceiling: 1000 calls and $1.00 for the whole run",
        ]
    )
    assert "ceiling: " not in project.run("--prompt-model", "openai/gpt-4o-mini", "--prompt-lm", "replay").stdout.str()


def test_figures_hold_what_prompts_and_rows_cost(project: Project, server: Loopback) -> None:
    server.will(completion(REPLY))  # 7 tokens in, 3 out, at gpt-4o-mini's price
    run(project, SORTS)
    report = project.figure()
    assert report["rows"][0]["cost_usd"] == pytest.approx(7 * 0.15e-6 + 3 * 0.6e-6)
    assert (report["prompts"][0]["calls"], report["prompts"][0]["cost_usd"]) == (1, report["rows"][0]["cost_usd"])
    assert report["spending"]["cost_usd"] == report["rows"][0]["cost_usd"]
