"""The example project does what its README says: searched from nothing, frozen, guarded, on two simulators."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pytest_promptopt.optimizers.registry import OPTIMIZERS
from tests.plugin.projects import frozen_files, stray_files, words

EXAMPLE = Path(__file__).parent.parent / "example_project"
MODELS = ("--prompt-model", "offline/keyword", "--prompt-model", "offline/chatty")


class Example:
    """A copy of the example project, without what it has frozen."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path
        ignored = shutil.ignore_patterns("__prompts__", ".promptopt", "__pycache__", ".pytest_cache")
        shutil.copytree(EXAMPLE, self.path, ignore=ignored, dirs_exist_ok=True)

    def run(self, *arguments: str) -> pytest.RunResult:
        """Run pytest in a process of its own, as a newcomer would."""
        return self.pytester.runpytest_subprocess("-p", "promptopt", *arguments, timeout=120)


@pytest.fixture
def example(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Example:
    """A fresh copy; no plugin but ours."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    return Example(pytester)


def _assert_met_or_loud(result: pytest.RunResult) -> None:
    """Exit status 0, or 1 with the line that says why."""
    assert result.ret in (0, 1)
    assert (result.ret == 1) == ("BELOW THRESHOLD" in words(result))


@pytest.mark.parametrize("strategy", OPTIMIZERS)
def test_every_strategy_searches_both_steps_of_the_program_on_two_models(example: Any, strategy: str) -> None:
    result = example.run("--optimize-prompts", "--prompt-optimizer", strategy, *MODELS)
    _assert_met_or_loud(result)
    ended = [line.split(maxsplit=1) for line in result.outlines if line.startswith(("  frozen ", "  kept "))]
    assert len(ended) == 4, "two prompts on each of two models"
    for outcome, words_of_it in ended:
        assert words_of_it.startswith("support/__prompts__/prompts." if outcome == "frozen" else ("no", "test_"))
    frozen = [name for name in frozen_files(example.path) if name.startswith("support/")]
    assert len(frozen) == sum(outcome == "frozen" for outcome, _ in ended)


def test_searched_from_nothing_it_freezes_both_prompts_and_stays_as_it_is(example: Any) -> None:
    assert example.run("-q").ret == 1  # the bare docstrings miss their thresholds

    first = example.run("--optimize-prompts")
    _assert_met_or_loud(first)
    files = frozen_files(example.path)
    assert {name for name in files if name.startswith("support/")} == {
        "support/__prompts__/prompts.priority@offline-keyword.toml",
        "support/__prompts__/prompts.route@offline-keyword.toml",
    }
    assert {name for name in files if name.startswith("tests/")} == {
        f"tests/__prompts__/test_support.{metric}@offline-keyword.toml"
        for metric in ("test_routes_tickets", "test_sets_priority", "test_triages_tickets")
    }
    first.stdout.fnmatch_lines(
        [
            "support/prompts.py::route, support/prompts.py::priority    measured by *",
            "*rows*184 = *",
            "*start*calls*",
            "*confirm*sealed rows*90 % interval*p*",
            "*frozen*support/__prompts__/prompts.route@offline-keyword.toml*calls*",
            "prompt*outcome*on select (optimistic)*on sealed rows*calls*",
            "prompts.route*frozen*0.* -> 0.*0.* -> 0.*",
        ]
    )

    second = example.run("--optimize-prompts")
    assert second.ret == first.ret
    assert frozen_files(example.path) == files
    second.stdout.fnmatch_lines(["*unchanged*0 calls, everything from the store*"])

    plain = example.run()
    assert plain.ret == 0
    plain.stdout.fnmatch_lines(["*0 called*"])
    assert stray_files(example.path) == []


def test_two_models_get_a_snapshot_each_and_a_table_of_prompts_by_models(example: Any) -> None:
    result = example.run("--optimize-prompts", "-k", "routes", "--prompt", "route", *MODELS)
    _assert_met_or_loud(result)
    frozen = {name for name in frozen_files(example.path) if name.startswith("support/")}
    assert frozen == {f"support/__prompts__/prompts.route@offline-{model}.toml" for model in ("keyword", "chatty")}
    matrix = example.run("-k", "routes", *MODELS)
    matrix.stdout.fnmatch_lines(["metric*offline/keyword*offline/chatty", "test_routes_tickets*0.*pass*0.*"])
    assert matrix.ret == result.ret


def test_what_the_repository_has_frozen_passes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("CI", "1")
    if not frozen_files(EXAMPLE):
        pytest.skip("nothing is frozen in the example project yet")
    shutil.copytree(EXAMPLE, pytester.path, ignore=shutil.ignore_patterns(".promptopt"), dirs_exist_ok=True)
    result = pytester.runpytest_subprocess("-p", "promptopt", "--prompt-strict", "all", timeout=120)
    assert result.ret == 0
