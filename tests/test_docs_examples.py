"""The pages that one follows step by step are true: their projects are built, their commands run, their YAML read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml  # a requirement of optuna, which is one of ours

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
TICKETS = ROOT / "example_project/tests/tickets.jsonl"

BLOCK = re.compile(r"^<!-- (file|output|line|workflow): (\S+) -->\n```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FAILING = {"first", "worse", "stale", "provider"}
MODES = {"auto", "replay", "live", "record", "rerecord"}

IDENTITY = {"NAME": "A. Reader", "EMAIL": "reader@example.com"}

SNAPSHOT = Path("support/__prompts__/support.route@offline-keyword.toml")
BASELINE = Path("tests/__prompts__/test_routing.test_routes_tickets@offline-keyword.toml")
RECORDINGS = Path("__prompts__/test_desk.test_routes@scripted-desk.jsonl")

SCRIPTED = {
    "conftest.py": """
from pytest_promptopt.lms.scripted import ScriptedLM


class Remote(ScriptedLM):
    is_offline = False  # recorded and replayed like a provider


def pytest_promptopt_make_lm(model):
    return Remote({"refund": "billing"}, default="bug") if model == "scripted/desk" else None
""",
    "test_desk.py": '''
from typing import Literal

import pytest
from pytest_promptopt import prompt


@prompt
def route(ticket: str) -> Literal["billing", "bug"]:
    """Decide which team should answer."""


@pytest.mark.prompt_metric("tickets.jsonl", threshold=0.5)
def test_routes(example):
    assert route(ticket=example["ticket"]) == example["team"]
''',
    "pytest.ini": "[pytest]\npromptopt_model = scripted/desk\n",
    "tickets.jsonl": """{"id": "1", "ticket": "a refund", "team": "billing"}
{"id": "2", "ticket": "stuck", "team": "bug"}
""",
}


def blocks(page: str) -> list[tuple[str, str, str]]:
    """The marked blocks of a page: kind, name, text."""
    return [(kind, name, text) for kind, name, text in BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))]


def environment() -> dict[str, str]:
    """A newcomer's shell: this Python's commands, this plugin alone, a git identity, no build server, no key."""
    told = ("PROMPTOPT_", "GITHUB_", "PYTEST_", "GIT_", "OPENAI_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(told)}
    for name in ("CI", "BUILD_NUMBER", "BUILDKITE"):
        kept.pop(name, None)
    who = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in IDENTITY.items()}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    python = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p promptopt"}
    return {**kept, **who, **alone, "GIT_CONFIG_GLOBAL": os.devnull, "PATH": path, "PYTHONPATH": python}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A command that ended."""

    status: int
    printed: str


def run(command: str, folder: Path, **more: str) -> Ran:
    """``command`` in a shell in ``folder``."""
    done = subprocess.run(
        ["bash", "-e", "-c", command],
        cwd=folder,
        env={**environment(), **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Ran(status=done.returncode, printed=done.stdout + done.stderr)


def write(folder: Path, files: dict[str, str]) -> None:
    """``files`` below ``folder``."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def replace_line(path: Path, line: str) -> None:
    """``line`` in the place of the one line of ``path`` that begins with the same word."""
    word = line.split()[0]
    text, count = re.subn(rf"^{re.escape(word)}\b.*\n", line, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert count == 1
    path.write_text(text, encoding="utf-8")


def without_times(line: str) -> str:
    """``line`` as it is in every run: durations, and the rules drawn around them, differ."""
    return re.sub(r"\b\d+\.\d+ ?s\b|=+", "", line).strip()


def not_printed(shown: list[str], printed: str) -> list[str]:
    """The lines of ``shown`` that do not come in ``printed`` in this order."""
    lines = iter([without_times(line) for line in printed.splitlines()])
    wanted = [without_times(line) for line in shown if line.strip() and line != "..."]
    return [line for line in wanted if line not in lines]


# --- the tutorial -----------------------------------------------------------------------------------------------------

STEPS = [name for kind, name, _ in blocks("tutorial.md") if kind == "output"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tutorial:
    """The tutorial, followed to its end: the project, and what each of its commands did."""

    folder: Path
    shown: dict[str, list[str]]
    ran: dict[str, Ran]


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Tutorial:
    folder = tmp_path_factory.mktemp("tutorial")
    write(folder, {"support/__init__.py": "", ".gitignore": "__pycache__/\n"})
    assert run("git init -q -b main .", folder).status == 0
    shown: dict[str, list[str]] = {}
    ran: dict[str, Ran] = {}
    for kind, name, text in blocks("tutorial.md"):
        if kind == "file":
            write(folder, {name: text})
        elif kind == "line":
            replace_line(folder / name, text)
        else:
            command, *shown[name] = text.splitlines()
            ran[name] = run(command.removeprefix("$ "), folder)
        if (folder / "tests/test_routing.py").exists():
            shutil.copy(TICKETS, folder / "tests")
    return Tutorial(folder=folder, shown=shown, ran=ran)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_of_the_tutorial_prints_what_it_shows_and_ends_as_it_says(tutorial: Tutorial, step: str) -> None:
    ran = tutorial.ran[step]
    assert ran.status == (1 if step in FAILING else 0), ran.printed
    assert not_printed(tutorial.shown[step], ran.printed) == [], ran.printed


def test_the_tutorial_leaves_what_it_freezes_in_version_control(tutorial: Tutorial) -> None:
    tracked = run("git ls-files && git status --porcelain", tutorial.folder).printed.splitlines()
    assert {str(SNAPSHOT), str(BASELINE)} <= set(tracked)
    assert [line for line in tracked if line.startswith(("?? ", " M "))] == [" M pyproject.toml"]


def test_the_tutorial_changes_one_line_for_a_real_provider(tutorial: Tutorial) -> None:
    changed = run("git diff --numstat", tutorial.folder).printed.split()
    assert changed == ["1", "1", "pyproject.toml"]


def test_lines_that_are_not_printed_or_in_another_order_are_noticed() -> None:
    assert not_printed(["a", "...", "=== b in 0.10s ==="], "a\nc\n== b in 2.31s ==\n") == []
    assert not_printed(["b", "a"], "a\nb\n") == ["a"]
    assert not_printed(["score 0.5"], "score 0.4\n") == ["score 0.5"]


# --- how to -----------------------------------------------------------------------------------------------------------


def test_the_metric_with_a_judge_grades_every_row_and_has_something_to_say(tmp_path: Path) -> None:
    write(tmp_path, {name: text for kind, name, text in blocks("how-to.md") if kind == "file"})
    rows = TICKETS.read_text(encoding="utf-8").splitlines(keepends=True)[:8]
    write(tmp_path, {"tickets.jsonl": "".join(rows), "pytest.ini": "[pytest]\npromptopt_model = offline/keyword\n"})
    plain = run("pytest --prompt-report=report.json", tmp_path)
    assert "ungated" in plain.printed
    assert run("pytest --prompt-bless", tmp_path).status == 0
    gate = run("pytest -v", tmp_path)
    assert gate.status == 0, gate.printed
    assert re.search(r"test_replies_please +8 .* unchanged +pass", gate.printed)
    assert re.search(r"repeats +test_replies_please: 3 replies a row", gate.printed)


def commands_of(page: str, heading: str) -> list[str]:
    """The commands of the ``sh`` blocks below a heading."""
    section = (DOCS / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = "".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL)).splitlines()
    return [line.partition("  #")[0].strip() for line in lines]


@pytest.fixture
def clone(tutorial: Tutorial, tmp_path: Path) -> Path:
    """The tutorial's project as it is committed, with its prompt frozen."""
    assert run(f"git clone -q '{tutorial.folder}' clone", tmp_path).status == 0
    return tmp_path / "clone"


def commit_edits(folder: Path, score: str) -> None:
    """Commit other words in the snapshot and another ``score`` of the baseline's first row."""
    edits = {SNAPSHOT: (r"a support agent", f"agent {score}"), BASELINE: (r"(?<=score = )\d\.\d", score)}
    for name, (old, new) in edits.items():
        text, count = re.subn(old, new, (folder / name).read_text(encoding="utf-8"), count=1)
        assert count == 1
        (folder / name).write_text(text, encoding="utf-8")
    assert run(f"git commit -qam 'edit {score}'", folder).status == 0


def test_a_conflict_in_snapshot_and_baseline_is_resolved_as_the_page_says(clone: Path) -> None:
    take_a_side, gate = commands_of("how-to.md", "Resolve a merge conflict in `__prompts__`")
    before = run("git rev-parse HEAD", clone).printed.strip()
    assert run("git switch -q -c other", clone).status == 0
    commit_edits(clone, "0.5")
    assert run(f"git switch -q -C main {before}", clone).status == 0
    commit_edits(clone, "0.25")
    assert "CONFLICT" in run("git merge other", clone).printed
    broken = {name: (clone / name).read_bytes() for name in (SNAPSHOT, BASELINE)}
    stopped = run("pytest", clone)
    assert stopped.status == 1
    assert f"{BASELINE.name}:" in stopped.printed
    assert "a merge left its markers here" in stopped.printed
    assert {name: (clone / name).read_bytes() for name in broken} == broken
    assert run(take_a_side, clone).status == 0
    assert "agent 0.25" in (clone / SNAPSHOT).read_text(encoding="utf-8")
    assert "<<<<<<<" not in (clone / BASELINE).read_text(encoding="utf-8")
    resolved = run(gate, clone)
    assert resolved.status == 0, resolved.printed


def test_a_snapshot_that_was_deleted_with_its_conflict_is_found_again(clone: Path) -> None:
    snapshot, baseline = (clone / name for name in (SNAPSHOT, BASELINE))
    text = snapshot.read_text(encoding="utf-8")
    snapshot.unlink()
    searched = run("pytest --optimize-prompts --prompt support.route", clone)
    assert searched.status == 0, searched.printed
    assert instruction_of(snapshot.read_text(encoding="utf-8")) == instruction_of(text)
    baseline.unlink()
    assert run("pytest --prompt-bless -k test_routes_tickets", clone).status == 0
    assert "[searched]" not in baseline.read_text(encoding="utf-8")


def instruction_of(snapshot: str) -> str:
    return snapshot.partition("instruction = ")[2].partition("\n[provenance]")[0]


def test_lines_of_both_sides_of_recordings_may_stay(tmp_path: Path) -> None:
    write(tmp_path, SCRIPTED)
    recorded = run("pytest --prompt-bless --prompt-lm record", tmp_path)
    assert recorded.status == 0, recorded.printed
    file = tmp_path / RECORDINGS
    whole = file.read_text(encoding="utf-8")
    ours, theirs = whole.splitlines(keepends=True)
    shutil.rmtree(tmp_path / ".promptopt")
    file.write_text(f"<<<<<<< HEAD\n{theirs}=======\n{ours}>>>>>>> other\n", encoding="utf-8")
    stopped = run("pytest", tmp_path)
    assert stopped.status == 1
    assert "a merge left its markers here" in stopped.printed
    file.write_text(theirs + ours, encoding="utf-8")
    assert run("pytest", tmp_path, CI="1").status == 0
    file.write_text(theirs, encoding="utf-8")
    assert run("pytest --prompt-lm record -k test_routes", tmp_path).status == 0
    assert file.read_text(encoding="utf-8") == whole


# --- workflows --------------------------------------------------------------------------------------------------------

WORKFLOWS = {name: yaml.safe_load(text) for kind, name, text in blocks("github-actions.md") if kind == "workflow"}


def steps_of(workflow: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job["steps"]


def events_of(workflow: dict[Any, Any]) -> set[str]:
    """What starts a workflow; YAML 1.1 reads its key ``on`` as true."""
    return set(workflow[True])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_workflow_in_the_pages_is_one(page: Path) -> None:
    for text in YAML_BLOCK.findall(page.read_text(encoding="utf-8")):
        workflow = yaml.safe_load(text)
        if "jobs" not in workflow:
            continue
        for job in workflow["jobs"].values():
            assert job["runs-on"]
        for step in steps_of(workflow):
            assert ("run" in step) != ("uses" in step)
            assert set(step) <= {"name", "id", "if", "env", "run", "uses", "with"}
            bash = subprocess.run(["bash", "-n", "-c", step.get("run", "")], capture_output=True, check=False)
            assert bash.returncode == 0


def test_the_page_has_the_three_workflows_that_it_lists() -> None:
    assert list(WORKFLOWS) == ["prompts.yml", "prompt-drift.yml", "prompt-search.yml"]
    text = (DOCS / "github-actions.md").read_text(encoding="utf-8")
    assert all(f"`.github/workflows/{name}`" in text for name in WORKFLOWS)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_key_is_near_no_pull_request_and_near_no_command_without_a_ceiling(name: str) -> None:
    workflow = WORKFLOWS[name]
    assert workflow["permissions"]["contents"] == ("write" if name == "prompt-search.yml" else "read")
    keyed = [step for step in steps_of(workflow) if "secrets." in str(step)]
    assert "secrets." not in str({key: value for key, value in workflow.items() if key != "jobs"})
    assert "pull_request_target" not in events_of(workflow)
    assert bool(keyed) == ("pull_request" not in events_of(workflow))
    for step in keyed:
        assert "--prompt-lm " in step["run"]
        assert "--prompt-budget " in step["run"]
        assert "--prompt-max-cost " in step["run"]


GH = """#!/bin/sh
echo "$*" >> "$GH_LOG"
"""


@pytest.fixture
def runner(clone: Path, tmp_path: Path) -> dict[str, str]:
    """A runner's environment: a ``gh`` that writes down what it was asked, and a remote to push to."""
    write(tmp_path, {"bin/gh": GH})
    (tmp_path / "bin/gh").chmod(0o755)
    setup = "git init -q --bare ../remote.git && git remote set-url origin ../remote.git && git push -q origin main"
    assert run(setup, clone).status == 0
    path = os.pathsep.join([str(tmp_path / "bin"), environment()["PATH"]])
    return {"PATH": path, "GH_LOG": str(tmp_path / "gh.log"), "RUN": "7"}


def last_step() -> str:
    *_, step = steps_of(WORKFLOWS["prompt-search.yml"])
    text: str = step["run"]
    return text


def test_the_scheduled_search_opens_a_pull_request_with_frozen_files_alone(
    clone: Path, tmp_path: Path, runner: dict[str, str]
) -> None:
    (clone / SNAPSHOT).write_text("found\n", encoding="utf-8")
    (clone / BASELINE).unlink()
    write(clone, {"search.md": "what was found", "support/triage.py": "spoiled", "__prompts__/one.toml": "top"})
    done = run(last_step(), clone, **runner)
    assert done.status == 0, done.printed
    files = run("git diff --name-only main prompt-search-7", tmp_path / "remote.git").printed.splitlines()
    assert files == ["__prompts__/one.toml", str(SNAPSHOT), str(BASELINE)]
    _, asked = (tmp_path / "gh.log").read_text(encoding="utf-8").splitlines()
    assert asked.startswith("pr create --head prompt-search-7 ")
    assert asked.endswith("--body-file search.md")


def test_a_scheduled_search_that_froze_nothing_opens_none(clone: Path, tmp_path: Path, runner: dict[str, str]) -> None:
    write(clone, {"search.md": "nothing was found"})
    done = run(last_step(), clone, **runner)
    assert (done.status, done.printed) == (0, "nothing was frozen\n")
    assert run("git branch", tmp_path / "remote.git").printed.strip("* \n") == "main"
    assert not (tmp_path / "gh.log").exists()


# --- command lines ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Every long option that pytest has with this plugin."""
    helped = run("pytest --help", DOCS).printed
    return {*re.findall(r"(?<![\w-])--[a-z][\w-]*", helped), "--junitxml"}


def pytest_commands(text: str) -> list[str]:
    """The command lines of pytest in a page, in blocks and in running text, up to what ends a command."""
    joined = re.sub(r"(`[^`\n]*)\n *([^`\n]*`)", r"\1 \2", text.replace("\\\n", " "))
    return re.findall(r"(?<![\w./-])pytest(?: +[^\s`|;&#]+)+", joined)


def wrong_words(command: str, known: set[str]) -> set[str]:
    """The options of a command line that do not exist, and modes that are none."""
    unknown = {word for word in re.findall(r"(?<!\S)--[a-z][\w-]*", command) if word not in known}
    return unknown | {mode for mode in re.findall(r"--prompt-lm[ =]([a-z]+)", command) if mode not in MODES}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_line_of_pytest_in_the_pages_has_options_that_exist(page: Path, known: set[str]) -> None:
    commands = pytest_commands(page.read_text(encoding="utf-8"))
    assert {command: wrong_words(command, known) for command in commands if wrong_words(command, known)} == {}


def test_the_pages_have_command_lines_and_wrong_ones_are_noticed(known: set[str]) -> None:
    found = [command for page in PAGES for command in pytest_commands(page.read_text(encoding="utf-8"))]
    assert len([command for command in found if "--prompt-" in command]) > 30
    (command,) = pytest_commands("run `pytest tests --prompt-modle a --prompt-lm lively --prompt-budget 7` today")
    assert wrong_words(command, known) == {"--prompt-modle", "lively"}
    assert "--prompt-lm" in known
