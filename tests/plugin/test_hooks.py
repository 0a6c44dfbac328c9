"""What other packages and a project's conftest may extend: models, strategies, and an ear for what finished."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.projects import BASELINE, SNAPSHOT, Desk, words

STRATEGY = '''
"""A strategy of somebody else's package."""

from dataclasses import dataclass, replace

from pytest_promptopt.optimizers.base import Evaluate


@dataclass(frozen=True, slots=True, kw_only=True)
class Dictate:
    """Gives every prompt one text."""

    text: str = "Be kind."
    times: int = 1

    def search(self, task, rng):
        candidate = task.source
        for prompt in task.prompts:
            candidate = candidate.replace(prompt.name, replace(prompt.source, instruction=self.text * self.times))
        yield Evaluate(pairs=tuple((candidate, row) for row in task.valset))
        return candidate

    def expected_calls(self, sizes):
        return sizes.val_rows, sizes.val_rows
'''
OFFER = """

def pytest_promptopt_optimizers():
    return {"dictate": "dictate:Dictate"}
"""
TEXT = "Choose billing for: refund, invoice, receipt, discount, charged. Choose bug for: crashes, freezes, blank. "

FINISHED = """
import json
import os


def _note(path, **facts):
    with open(os.path.join(os.path.dirname(__file__), path), "a") as file:
        file.write(json.dumps(facts) + "\\n")


def pytest_promptopt_metric_finished(config, report):
    _note(
        "finished.jsonl",
        name=report.name,
        score=report.verdict.score,
        rows=len(report.rows),
        kind=type(report).__name__,
        is_worker=hasattr(config, "workerinput"),
        pid=os.getpid(),
    )


def pytest_promptopt_job_finished(config, report):
    here = os.path.dirname(__file__)
    _note(
        "jobs_finished.jsonl",
        prompt=report.prompt,
        outcome=report.outcome,
        kind=type(report).__name__,
        is_written=bool(report.path) and os.path.exists(os.path.join(here, report.path)),
    )
"""

TWO_METRICS = """
    @pytest.mark.prompt_metric("tickets", threshold=0.75)
    def test_good(example):
        assert route(ticket=example.ticket) == example.team

    @pytest.mark.prompt_metric("tickets", threshold=0.9)
    def test_bad(example):
        assert route(ticket=example.ticket) == example.team

    def test_plain(): ...
"""


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# --- models -----------------------------------------------------------------------------------------------------------


def test_a_conftest_gives_a_model_and_is_asked_once_however_many_rows_call_at_a_time(project: Any) -> None:
    project.write("tox.ini", "[pytest]\n")
    project.conftest("""
        from threading import Event

        asked, again = [], Event()

        def pytest_promptopt_make_lm(config, model):
            again.set() if asked else asked.append(model) or again.wait(0.3)  # leaves the others time to ask too
            return ScriptedLM([], default="bug") if model == "conftest/mine" else None

        def pytest_unconfigure(config):
            (config.rootpath / "asked.txt").write_text(f"{asked} {again.is_set()}")
    """)
    project.tests("""
        from threading import Barrier

        started = Barrier(4)

        @prompt(model="conftest/mine")
        def pinned(ticket: str) -> str:
            \"\"\"Answer.\"\"\"

        @pytest.mark.prompt_metric("tickets", concurrency=4)
        def test_metric(example):
            started.wait(30)
            assert pinned(ticket=example.ticket) == "bug"
    """)
    project.run().assert_outcomes(passed=1)
    assert (project.path / "asked.txt").read_text() == "['conftest/mine'] False"


def test_a_model_that_no_conftest_knows_is_left_to_the_plugin(project: Any) -> None:
    project.tests("""
        def test_models():
            from pytest_promptopt import using_model
            assert route.predict(ticket="a refund").model == "scripted/desk"
            with using_model("offline/keyword"):
                assert route.predict(ticket="a refund").model == "offline/keyword"
    """)
    project.run().assert_outcomes(passed=1)


def test_a_model_hook_that_raises_gives_errors_in_a_plain_run_and_ends_a_search_before_it_starts(project: Any) -> None:
    desk = _desk_with_broken_hook(project, "make_lm(model)")
    plain = desk.run()
    assert plain.ret == pytest.ExitCode.TESTS_FAILED
    assert {(row["status"], row["score"]) for row in desk.figure()["rows"]} == {("error", None)}
    assert "ValueError: this hook is broken" in words(plain)
    search = desk.optimize()
    assert search.ret == pytest.ExitCode.INTERNAL_ERROR
    assert "in pytest_promptopt_make_lm" in words(search)
    assert "ValueError: this hook is broken" in words(search)
    assert desk.asked() == []


# --- strategies -------------------------------------------------------------------------------------------------------


def _desk_with_strategy(project: Any) -> Desk:
    desk = Desk(project)
    desk.replace("test_desk.py", "threshold=0.8", "threshold=0.3")
    desk.write("dictate.py", STRATEGY)
    desk.write("conftest.py", desk.read("conftest.py") + OFFER)
    return desk


def test_a_strategy_of_another_package_runs_by_name_with_its_settings_and_freezes(project: Any) -> None:
    desk = _desk_with_strategy(project)
    result = desk.optimize(
        "--prompt-optimizer", "dictate", "--prompt-set", f"dictate.text={TEXT}", "--prompt-set", "dictate.times=2"
    )
    assert result.ret == 0
    frozen = tomllib.loads(desk.read(SNAPSHOT))
    assert frozen["instruction"] == 2 * TEXT
    assert frozen["provenance"]["optimizer"] == "dictate"
    assert frozen["provenance"]["settings"] == {"text": TEXT, "times": 2}
    assert "optimizer dictate" in words(result)
    assert not any(line["is_proposal"] for line in desk.asked())
    assert desk.run().ret == 0


def test_a_strategy_of_another_package_is_set_up_in_the_projects_own_files(project: Any) -> None:
    desk = _desk_with_strategy(project)
    desk.write("pyproject.toml", f'[tool.pytest-promptopt.dictate]\ntext = "{TEXT}"\n')
    desk.replace("pytest.ini", "promptopt_optimizer = copro", "promptopt_optimizer = dictate")
    assert desk.optimize().ret == 0
    assert tomllib.loads(desk.read(SNAPSHOT))["provenance"]["settings"] == {"text": TEXT, "times": 1}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--prompt-optimizer", "dictat"), "Did you mean 'dictate'?"),
        (("--prompt-optimizer", "dictate", "--prompt-set", "dictate.txt=x"), "has no setting 'txt'"),
        (
            ("--prompt-optimizer", "dictate", "--prompt-set", "dictate.times=two"),
            "dictate.times must be a whole number",
        ),
        (("--prompt-optimizer", "gone"), "Optimizer 'gone' cannot be loaded from 'nowhere:Nothing'"),
    ],
)
def test_misuse_of_another_packages_strategy_is_told_before_anything_is_asked(
    project: Any, arguments: tuple[str, ...], told: str
) -> None:
    desk = _desk_with_strategy(project)
    desk.replace("conftest.py", '"dictate:Dictate"}', '"dictate:Dictate", "gone": "nowhere:Nothing"}')
    result = desk.optimize(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert told in words(result)
    assert desk.asked() == []


# --- what finished ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "workers"])
def test_every_metric_is_told_once_with_its_record_in_the_process_that_prints(
    project: Any, workers: tuple[str, ...]
) -> None:
    project.write("conftest.py", project.path.joinpath("conftest.py").read_text() + FINISHED)
    project.tests(TWO_METRICS)
    project.run_apart(*workers, plugins="xdist.plugin").assert_outcomes(passed=2, failed=1)
    told = lines(project.path / "finished.jsonl")
    assert sorted((one["name"], one["score"], one["rows"]) for one in told) == [
        ("test_bad", 0.75, 4),
        ("test_good", 0.75, 4),
    ]
    assert {one["kind"] for one in told} == {"MetricReport"}
    assert {one["is_worker"] for one in told} == {False}
    assert len({one["pid"] for one in told}) == 1
    assert not (project.path / "jobs_finished.jsonl").exists()


def test_every_job_is_told_once_when_what_it_froze_is_on_disk(project: Any) -> None:
    desk = Desk(project)
    desk.write("desk.py", desk.read("desk.py") + desk.read("desk.py").partition("\n\n\n")[2].replace("route", "check"))
    desk.write("conftest.py", desk.read("conftest.py") + FINISHED)
    desk.write(
        "test_desk.py",
        desk.read("test_desk.py").replace("import route", "import check, route")
        + """

@pytest.mark.prompt_metric("tickets", threshold=0.8)
def test_checks(example):
    assert check(ticket=example["ticket"]) == example["team"]
""",
    )
    assert desk.optimize().ret == 0
    facts = {"outcome": "frozen", "kind": "JobReport", "is_written": True}
    assert lines(desk.path / "jobs_finished.jsonl") == [
        {"prompt": "desk.route", **facts},
        {"prompt": "desk.check", **facts},
    ]
    assert not (desk.path / "finished.jsonl").exists()


def _desk_with_broken_hook(project: Any, hook: str) -> Desk:
    desk = Desk(project)
    desk.write("whole.py", desk.read("conftest.py"))
    broken = f"def pytest_promptopt_{hook}:\n    raise ValueError('this hook is broken')\n"
    desk.write("conftest.py", desk.read("conftest.py") + "\n\n" + broken)
    return desk


def test_a_listener_that_raises_is_an_internal_error_and_costs_no_reply(project: Any) -> None:
    desk = _desk_with_broken_hook(project, "metric_finished(report)")
    result = desk.run()
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert "conftest.py" in words(result)
    assert "in pytest_promptopt_metric_finished" in words(result)
    assert "ValueError: this hook is broken" in words(result)
    assert len(desk.asked()) == 60
    desk.write("conftest.py", desk.read("whole.py"))
    desk.run()
    assert len(desk.asked()) == desk.figure()["spending"]["replayed"] == 60


def test_a_listener_that_raises_after_a_search_leaves_what_was_frozen(project: Any) -> None:
    desk = _desk_with_broken_hook(project, "job_finished(report)")
    result = desk.optimize()
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert "ValueError: this hook is broken" in words(result)
    before = desk.frozen_files()
    assert set(before) == {SNAPSHOT, BASELINE}
    asked = len(desk.asked())
    desk.write("conftest.py", desk.read("whole.py"))
    assert desk.optimize().ret == 0
    assert desk.frozen_files() == before
    assert len(desk.asked()) == asked
