"""Workers of pytest-xdist run metrics, and one process tells what they found."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

METRICS = """
    @pytest.mark.prompt_metric("tickets", threshold=0.75)
    def test_c_good(example):
        assert route(ticket=example.ticket) == example.team

    @pytest.mark.prompt_metric("tickets", threshold=0.9)
    def test_b_bad(example):
        assert route(ticket=example.ticket) == example.team

    @pytest.mark.prompt_metric("tickets", threshold=0.5)
    def test_a_errs(example):
        raise OSError("gone")

    def test_plain(): ...
"""


def table_of(result: pytest.RunResult) -> list[str]:
    """The lines of the table and under it, without what depends on the clock and on who called first."""
    lines = result.stdout.lines
    start = next(i for i, line in enumerate(lines) if "prompt metrics" in line)
    end = next(i for i, line in enumerate(lines) if "short test summary" in line)
    return [re.sub(r"\d+ replayed.*", "", line) for line in lines[start:end]]


def test_workers_give_the_same_table_and_verdicts_as_one_process(project: Any) -> None:
    project.tests(METRICS)
    alone = project.run_apart(plugins="xdist.plugin")
    alone_figures = project.figures()
    spread = project.run_apart("-n", "2", plugins="xdist.plugin")
    spread.assert_outcomes(passed=2, failed=2)
    assert spread.ret == alone.ret == pytest.ExitCode.TESTS_FAILED
    assert table_of(spread) == table_of(alone)
    for name, report in project.figures().items():
        for part in ("verdict", "rows", "prompts", "baseline_path", "metric_digest"):
            assert report[part] == alone_figures[name][part]


def test_what_travels_between_processes_is_json(project: Any) -> None:
    project.tests(METRICS)
    project.conftest("""
        def pytest_runtest_logreport(report):
            figures = getattr(report, "promptopt", None)
            if figures is not None:
                with open("travelled.jsonl", "a") as file:
                    file.write(json.dumps(figures, allow_nan=False) + "\\n")
    """)
    project.run("-p", "no:cacheprovider")
    lines = (project.path / "travelled.jsonl").read_text().splitlines()
    assert {json.loads(line)["name"] for line in lines} == {"test_c_good", "test_b_bad", "test_a_errs"}


def test_an_orphan_is_told_once_when_workers_collected(project: Any) -> None:
    project.tests(METRICS.replace("threshold=0.9", "threshold=0.7").replace('raise OSError("gone")', "..."))
    project.write("__prompts__/test_desk.test_gone@scripted-desk.toml", 'format = 1\nmetric = "test_desk.test_gone"\n')
    result = project.run_apart("-n", "2", "--prompt-strict", "orphan", plugins="xdist.plugin")
    assert result.stdout.str().count("no such prompt or metric any more") == 1
    assert result.ret == pytest.ExitCode.TESTS_FAILED
