"""A project without prompts does not notice the plugin; a program that imports the package pays for what it uses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("litellm", "optuna", "hypothesis", "openai", "aiohttp", "numpy", "pydantic", "tabulate", "tomlkit")
SAY_MODULES = """
import json, sys

def pytest_unconfigure():
    print("MODULES", json.dumps(sorted(sys.modules)))
"""


@pytest.fixture
def plain(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with a fixture, a marker, a class and a parametrized test, and no prompt."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeini("[pytest]\nmarkers = slow: takes long\n")
    pytester.makeconftest(SAY_MODULES)
    pytester.makepyfile(
        test_plain="""
        import pytest

        @pytest.fixture(scope="module")
        def example():
            return 1

        def test_one(example):
            assert example == 1

        @pytest.mark.slow
        @pytest.mark.parametrize("number", [1, 2])
        def test_two(number):
            assert number

        class TestClass:
            def test_three(self, tmp_path): ...
        """
    )
    return pytester


def modules_of(result: pytest.RunResult) -> set[str]:
    (line,) = [line for line in result.stdout.lines if line.startswith("MODULES ")]
    return set(json.loads(line.removeprefix("MODULES ")))


def files_below(path: Path) -> set[str]:
    return {
        file.relative_to(path).as_posix()
        for file in path.rglob("*")
        if file.is_file() and not {"__pycache__", "runpytest-0", "runpytest-1"} & set(file.relative_to(path).parts)
    }


def test_a_project_without_prompts_imports_nothing_heavy_prints_nothing_and_writes_nothing(
    plain: pytest.Pytester,
) -> None:
    without = plain.runpytest_subprocess("-p", "no:promptopt")
    files = files_below(plain.path)
    with_plugin = plain.runpytest_subprocess("-p", "promptopt")
    with_plugin.assert_outcomes(passed=4)
    brought = modules_of(with_plugin) - modules_of(without)
    assert {name.partition(".")[0] for name in brought}.isdisjoint(HEAVY)
    ours = {name for name in brought if name.startswith("pytest_promptopt")}
    assert ours <= {
        "pytest_promptopt",
        "pytest_promptopt.hookspecs",
        "pytest_promptopt.plugin",
        "pytest_promptopt.prompts",
        "pytest_promptopt.prompts.active",
    }
    words = [line for line in with_plugin.stdout.lines if not line.startswith(("plugins: ", "MODULES "))]
    assert not [line for line in words if "prompt" in line.replace(str(plain.path), "").replace("-p promptopt", "")]
    assert files_below(plain.path) == files


def test_importing_the_package_imports_neither_pytest_nor_a_model_client() -> None:
    code = "import sys, pytest_promptopt; print(*sorted(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {name.partition(".")[0] for name in output.split()}
    assert loaded.isdisjoint((*HEAVY, "pytest", "_pytest", "asyncio", "sqlite3"))


def test_defining_a_prompt_imports_neither_pytest_nor_a_model_client() -> None:
    code = """
import sys
from pytest_promptopt import configure, prompt, using_model
before = set(sys.modules)
print(*sorted(sys.modules))
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {name.partition(".")[0] for name in output.split()}
    assert loaded.isdisjoint({"litellm", "openai", "aiohttp", "optuna", "hypothesis", "numpy", "pytest", "_pytest"})


def test_the_options_stand_in_the_help(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--help")
    result.stdout.fnmatch_lines(
        ["*--optimize-prompts*", "*--prompt-bless*", "*--prompt-model=MODEL*", "*promptopt_store*"]
    )


def test_the_marker_stands_in_the_list_of_markers(plain: pytest.Pytester) -> None:
    result = plain.runpytest("-p", "promptopt", "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.prompt_metric(dataset, [*], threshold=None*"])
