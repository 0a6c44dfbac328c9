"""Several models under test: every metric runs once on each, and each keeps files of its own."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.projects import Desk, frozen_files

BOTH = ("--prompt-model", "scripted/desk", "--prompt-model", "scripted/contrary")

METRICS = """
    @pytest.mark.prompt_metric("tickets", threshold=0.5)
    def test_plain(example):
        assert route(ticket=example.ticket) == example.team

    @pytest.mark.parametrize("tone", ["a", "b-c"])
    @pytest.mark.prompt_metric("tickets", threshold=0.5)
    def test_tone(example, tone):
        assert route(ticket=example.ticket) == example.team

    class TestClass:
        @pytest.mark.prompt_metric("tickets", threshold=0.5)
        def test_method(self, example):
            assert route(ticket=example.ticket) == example.team

    def test_ordinary(): ...
"""
NAMES = ["test_plain", "test_tone[a]", "test_tone[b-c]", "TestClass.test_method"]


def passed(result: pytest.RunResult) -> list[str]:
    """The node ids of what passed, sorted, without the file."""
    lines = [str(line) for line in result.stdout.lines if " PASSED" in line]
    return sorted(next(word for word in line.split() if "::" in word).partition("::")[2] for line in lines)


def heads(folder: Path) -> dict[str, tuple[str, str]]:
    """What each baseline file says about its owner and its model, by file name."""
    baselines = {name: tomllib.loads(text.decode()) for name, text in frozen_files(folder).items() if "test_" in name}
    return {name: (baseline["metric"], baseline["model"]) for name, baseline in baselines.items()}


def test_a_model_is_the_last_parameter_of_every_metric_and_of_nothing_else(project: Any) -> None:
    project.tests(METRICS)
    models = ("scripted/contrary", "scripted/desk")
    result = project.run("-v", *BOTH)
    assert passed(result) == sorted(
        ["test_ordinary"]
        + [f"test_plain[{model}]" for model in models]
        + [f"test_tone[{tone}-{model}]" for tone in ("a", "b-c") for model in models]
        + [f"TestClass::test_method[{model}]" for model in models]
    )
    scores = {name: figure["verdict"]["score"] for name, figure in project.figures().items()}
    assert scores.pop("test_tone[b-c-scripted/desk]") == scores.pop("test_plain[scripted/desk]") == 0.75
    assert scores.pop("test_tone[a-scripted/contrary]") == scores.pop("test_plain[scripted/contrary]") == 0.5
    assert {figure["model"] for figure in project.figures().values()} == set(models)


@pytest.mark.parametrize("models", [("scripted/desk",), ("scripted/desk", "scripted/desk")])
def test_one_model_however_often_it_is_named_leaves_node_ids_alone(project: Any, models: tuple[str, ...]) -> None:
    project.tests(METRICS)
    result = project.run("-v", *(word for model in models for word in ("--prompt-model", model)))
    assert passed(result) == sorted(
        ["TestClass::test_method", "test_ordinary", "test_plain", "test_tone[a]", "test_tone[b-c]"]
    )


@pytest.mark.parametrize(
    "selection", [("-k", "scripted/contrary"), ("test_desk.py::test_plain[scripted/contrary]",)], ids=["-k", "node id"]
)
def test_a_model_can_be_selected_like_any_parameter(project: Any, selection: tuple[str, ...]) -> None:
    project.tests(METRICS)
    result = project.run("-v", *BOTH, *selection)
    assert result.ret == 0
    assert {figure["model"] for figure in project.figures().values()} == {"scripted/contrary"}
    assert "test_plain[scripted/contrary]" in passed(result)


def test_each_model_has_baselines_of_its_own_whose_owner_is_the_metric(project: Any) -> None:
    project.tests(METRICS)
    assert project.run("--prompt-bless", *BOTH).ret == 0
    found = heads(project.path)
    assert sorted(found.values()) == sorted(
        (f"test_desk.{name}", model) for name in NAMES for model in ("scripted/desk", "scripted/contrary")
    )
    assert found["__prompts__/test_desk.test_plain@scripted-contrary.toml"] == (
        "test_desk.test_plain",
        "scripted/contrary",
    )
    assert all(name.partition("@")[2].startswith(("scripted-desk", "scripted-contrary")) for name in found)
    assert not [name for name in found if "scripted" in name.partition("@")[0]]


def test_a_baseline_serves_its_model_alone_and_among_others(project: Any) -> None:
    project.tests(METRICS)
    project.run("--prompt-bless", *BOTH)
    before = frozen_files(project.path)
    for models in (BOTH, BOTH[:2], BOTH[2:]):
        assert project.run("--prompt-strict", "orphan", *models).ret == 0
        assert {figure["verdict"]["paired_rows"] for figure in project.figures().values()} == {4}
        assert project.run("--prompt-bless", *models).ret == 0
        assert frozen_files(project.path) == before


def test_blessing_one_model_leaves_the_baselines_of_the_other_alone(project: Any) -> None:
    project.tests(METRICS)
    project.run("--prompt-bless", *BOTH)
    before = frozen_files(project.path)
    project.tests(METRICS.replace("== example.team", '!= "account" and example.team'))
    assert project.run("--prompt-bless", *BOTH, "-k", "contrary").ret == 0
    changed = [name for name, text in frozen_files(project.path).items() if before[name] != text]
    assert len(changed) == len(NAMES)
    assert all("@scripted-contrary" in name for name in changed)


def test_a_drop_on_one_model_fails_that_model_alone(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    assert desk.optimize("--prompt-model", "scripted/other").ret == 0
    both = ("--prompt-model", "scripted/learner", "--prompt-model", "scripted/other")
    assert desk.run(*both).ret == 0
    path = "__prompts__/desk.route@scripted-other.toml"
    before = desk.read(path)
    desk.write(path, re.sub("Choose (billing|bug) for: .*?[.]", "", before))
    assert desk.read(path) != before
    desk.run("-v", *both).assert_outcomes(passed=1, failed=1)
    verdicts = {figure["model"]: figure["verdict"]["outcome"] for figure in desk.figures().values()}
    assert verdicts == {"scripted/learner": "pass", "scripted/other": "fail"}


def test_workers_run_a_matrix_like_one_process(project: Any) -> None:
    project.tests(METRICS)
    project.run("--prompt-bless", *BOTH)
    blessed = frozen_files(project.path)
    alone = project.run(*BOTH)
    figures = project.figures()
    spread = project.run_apart("-n", "2", "--prompt-bless", *BOTH, plugins="xdist.plugin")
    assert spread.ret == alone.ret == 0
    spread.assert_outcomes(passed=2 * len(NAMES) + 1)
    assert frozen_files(project.path) == blessed
    assert {name: figure["verdict"] for name, figure in project.figures().items()} == {
        name: figure["verdict"] for name, figure in figures.items()
    }


def test_a_search_on_two_models_freezes_for_each_under_the_metrics_own_name(project: Any) -> None:
    desk = Desk(project)
    desk.replace(
        "test_desk.py",
        "@pytest.mark.prompt_metric",
        '@pytest.mark.parametrize("tone", ["a"])\n@pytest.mark.prompt_metric',
    )
    desk.replace("test_desk.py", "test_routes(example)", "test_routes(example, tone)")
    both = ("--prompt-model", "scripted/learner", "--prompt-model", "scripted/other")
    result = desk.optimize("-v", *both)
    assert result.ret == 0
    assert sorted(heads(desk.path).values()) == [
        ("test_desk.test_routes[a]", "scripted/learner"),
        ("test_desk.test_routes[a]", "scripted/other"),
    ]
    snapshots = {name for name in desk.frozen_files() if "desk.route@" in name}
    assert snapshots == {f"__prompts__/desk.route@scripted-{model}.toml" for model in ("learner", "other")}
    desk.forget_asked()
    assert desk.run(*both).ret == 0
    assert desk.asked() == []
    assert {figure["prompts"][0]["standing"] for figure in desk.figures().values()} == {"frozen"}
