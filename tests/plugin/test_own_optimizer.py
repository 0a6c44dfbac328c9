"""A strategy of somebody else's package, as docs/optimizers-write-your-own.md has it: installed, chosen, held to it."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pytest_promptopt.testing import OptimizerContract
from tests.plugin.projects import SNAPSHOT, Desk, words

PAGE = Path(__file__).parents[2] / "docs/optimizers-write-your-own.md"
PROMISES = [name for name in vars(OptimizerContract) if name.startswith("test_")]


@pytest.fixture
def site(project: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, in which the page's package is."""
    site: Path = project.path / "site"
    metadata = site / "hill_climb-1.0.dist-info"
    metadata.mkdir(parents=True)
    text = PAGE.read_text(encoding="utf-8")
    for name, code in re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", text, re.DOTALL):
        (site / name).write_text(code)
    (site / "test_hill_climb.py").rename(project.path / "test_hill_climb.py")
    (plugins,) = (tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL))
    lines = [f"{name} = {module}" for name, module in plugins["project"]["entry-points"]["pytest11"].items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines]))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hill-climb\nVersion: 1.0\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])))
    return site


def test_the_pages_strategy_keeps_the_contract_in_its_own_project(project: Any, site: Path) -> None:
    result = project.run_apart("test_hill_climb.py", "-W", "error", plugins="hill-climb")
    result.assert_outcomes(passed=len(PROMISES))


def test_the_pages_strategy_is_chosen_by_name_and_freezes(project: Any, site: Path) -> None:
    desk = Desk(project)
    result = project.run_apart(
        "--optimize-prompts", "--prompt-optimizer", "hill-climb", "--prompt-set", "hill-climb.tries=2",
        plugins="hill-climb",
    )  # fmt: skip
    assert result.ret == 0
    provenance = tomllib.loads(desk.read(SNAPSHOT))["provenance"]
    assert (provenance["optimizer"], provenance["settings"]) == ("hill-climb", {"tries": 2, "rows": 12})


def test_a_package_whose_strategy_is_not_chosen_is_not_imported(project: Any, site: Path) -> None:
    (site / "hill_climb.py").write_text("raise SystemError('imported')")
    desk = Desk(project)
    assert project.run_apart("--collect-only", "test_desk.py", plugins="hill-climb").ret == 0
    (site / "hill_climb.py").unlink()
    lost = project.run_apart("--optimize-prompts", "--prompt-optimizer", "hill-climb", plugins="hill-climb")
    assert lost.ret == pytest.ExitCode.USAGE_ERROR
    assert "Optimizer 'hill-climb' cannot be loaded from 'hill_climb:HillClimb'" in words(lost)
    assert desk.asked() == []
