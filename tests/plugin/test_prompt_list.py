"""``--prompt-list`` lists prompts with what covers them and what is frozen, then unmanaged texts, and runs nothing."""

# ruff: noqa: E501 - a snippet is easiest to read on its one line

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.plugin.projects import BASELINE, SNAPSHOT, Desk, words

LONG = "You are a patient librarian. Answer in two sentences, and name the book that you looked it up in."

FROZEN = "frozen 1.000, 21 rows"


@pytest.fixture
def desk(project):
    """A support desk whose tests say so, loudly, when they are run or set up."""
    desk = Desk(project)
    desk.replace("test_desk.py", "    return load_dataset", "    open('was_run', 'w').close()\n    return load_dataset")
    return desk


@pytest.fixture
def frozen(project):
    """A support desk whose prompt is frozen."""
    desk = Desk(project)
    desk.freeze()
    return desk


def lines_of(result: pytest.RunResult) -> list[str]:
    return [line for line in result.stdout.lines if line]


def row_of(result: pytest.RunResult, name: str) -> str:
    """The table's line on one prompt, its columns set apart by single blanks."""
    (line,) = [line for line in result.stdout.lines if line.split()[:1] == [name]]
    return " ".join(line.split())


def test_a_list_runs_nothing_calls_nothing_and_says_nothing_else(desk):
    result = desk.run("--prompt-list")
    assert result.ret == pytest.ExitCode.OK
    assert lines_of(result)[0] == "managed"
    assert row_of(result, "desk.route") == "desk.route desk.py:6 test_routes -"
    assert not (desk.path / "was_run").exists()
    assert desk.asked() == []
    assert not any(word in result.stdout.str() for word in ("session starts", "collected", "deselected", "passed"))


def test_a_list_needs_no_model(desk):
    desk.ini(model="")
    result = desk.run("--prompt-list")
    assert result.ret == pytest.ExitCode.OK
    assert row_of(result, "desk.route") == "desk.route desk.py:6 test_routes no model configured"


def test_a_frozen_prompt_shows_its_confirmed_score(frozen):
    assert row_of(frozen.run("--prompt-list"), "desk.route") == f"desk.route desk.py:6 test_routes {FROZEN}"


@pytest.mark.parametrize(
    ("name", "old", "new", "state"),
    [
        ("desk.py", "Decide which team", "Say which team", "stale"),
        (SNAPSHOT, "Choose billing for", "Take billing for", FROZEN.replace("frozen", "edited")),
        (SNAPSHOT, "format = 1", "format = ", "broken file"),
    ],
)
def test_the_state_of_a_snapshot_is_told(frozen, name, old, new, state):
    frozen.replace(name, old, new)
    result = frozen.run("--prompt-list")
    assert result.ret == pytest.ExitCode.OK
    assert row_of(result, "desk.route") == f"desk.route desk.py:6 test_routes {state}"
    assert (f"broken file {frozen.path / SNAPSHOT}:1" in words(result)) == (state == "broken file")


def test_with_several_models_each_has_a_line(frozen):
    result = frozen.run("--prompt-list", "--prompt-model", "scripted/learner", "--prompt-model", "scripted/other")
    assert row_of(result, "desk.route") == "desk.route desk.py:6 test_routes scripted/learner: frozen 1.000"
    assert "scripted/other: -" in result.stdout.str()


def test_a_prompt_with_a_model_of_its_own_says_which(desk):
    desk.write("desk.py", desk.read("desk.py").replace("@prompt\n", "@prompt(model='scripted/judge')\n"))
    result = desk.run("--prompt-list")
    assert "snapshot (scripted/learner)" in words(result)
    assert row_of(result, "desk.route") == "desk.route desk.py:6 test_routes scripted/judge: -"


def test_what_is_odd_about_a_prompt_is_told_beside_several_models_too(desk):
    desk.write("shop/tone.py", "from pytest_promptopt import prompt\n\n@prompt\ndef tone(text: str) -> str: ...\n")
    result = desk.run("--prompt-list", "--prompt-model", "scripted/learner", "--prompt-model", "scripted/other")
    assert row_of(result, "tone.tone") == "tone.tone shop/tone.py:3 none scripted/learner: -"
    assert "not imported by any test" in words(result)


COVERED = {
    "through a function of the project": (
        "def helper(text):\n    return desk.route(ticket=text)",
        "import desk_helpers\n\ndef answer(text):\n    return desk_helpers.helper(text)",
    ),
    "through a class": (
        "class Router:\n    def run(self, text):\n        return desk.route(ticket=text)",
        "from desk_helpers import Router\n\ndef answer(text):\n    return Router().run(text)",
    ),
    "through an import inside": (
        "",
        "import desk_helpers\n\ndef answer(text):\n    from desk import route\n    return route(ticket=text)",
    ),
    "past an object that must not be woken": (
        "class Lazy:\n    __class__ = property(lambda self: 1 / 0)\n    __dict__ = property(lambda self: 1 / 0)\nLAZY = Lazy()",
        "import desk_helpers\nfrom desk import route\n\ndef answer(text):\n    return desk_helpers.LAZY and route(ticket=text)",
    ),
    "through a cached function": (
        "import functools\n\n@functools.cache\ndef helper(text):\n    return desk.route(ticket=text)",
        "from desk_helpers import helper\n\ndef answer(text):\n    return helper(text)",
    ),
    "through a partial in a dict": (
        "from functools import partial\nTABLE = {'a': partial(desk.route)}",
        "from desk_helpers import TABLE\n\ndef answer(text):\n    return TABLE['a'](ticket=text)",
    ),
}


@pytest.mark.parametrize(("helpers", "code"), COVERED.values(), ids=COVERED.keys())
def test_a_metric_covers_what_its_code_can_reach(desk, helpers, code):
    desk.write("desk_helpers.py", f"import desk\n\n{helpers}\n")
    desk.replace("test_desk.py", "from desk import route\n", f"{code}\n")
    desk.replace("test_desk.py", "route(ticket=example", "answer(example")
    assert row_of(desk.run("--prompt-list"), "desk.route") == "desk.route desk.py:6 test_routes -"


def test_a_metric_covers_what_a_fixture_of_it_reaches(desk):
    desk.replace("test_desk.py", "def test_routes(example):", "def test_routes(example, answer):")
    desk.replace("test_desk.py", "assert route(", "assert answer(")
    desk.replace(
        "test_desk.py", "import pytest\n", "import pytest\n\n@pytest.fixture\ndef answer():\n    return route\n"
    )
    assert row_of(desk.run("--prompt-list"), "desk.route") == "desk.route desk.py:6 test_routes -"


def test_a_metric_covers_what_its_baseline_saw_even_if_no_name_leads_there(frozen):
    frozen.replace("test_desk.py", "from desk import route\n", "import importlib\n")
    frozen.replace("test_desk.py", "assert route(", "assert vars(importlib.import_module('desk'))['ro' + 'ute'](")
    frozen.replace("conftest.py", "import learner\n", "import learner\nimport desk\n")
    assert "test_routes" in row_of(frozen.run("--prompt-list"), "desk.route")
    (frozen.path / BASELINE).unlink()
    assert f"none {FROZEN} no metric covers it" in row_of(frozen.run("--prompt-list"), "desk.route")


def test_a_metric_covers_what_its_marker_names_and_nothing_else(desk):
    desk.write(
        "desk.py", desk.read("desk.py") + "\n\n@prompt\ndef tone(text: str) -> str:\n    '''Say which tone.'''\n"
    )
    desk.replace("test_desk.py", "threshold=0.8)", "threshold=0.8, prompts=['tone'])")
    result = desk.run("--prompt-list")
    assert row_of(result, "desk.tone") == "desk.tone desk.py:11 test_routes -"
    assert row_of(result, "desk.route") == "desk.route desk.py:6 none - no metric covers it"


def test_a_prompt_that_no_test_imports_is_found_and_said_so(desk):
    desk.write("shop/tone.py", "from pytest_promptopt import prompt\n\n@prompt\ndef tone(text: str) -> str: ...\n")
    row = row_of(desk.run("--prompt-list"), "tone.tone")
    assert row == "tone.tone shop/tone.py:3 none - not imported by any test"


def test_a_pattern_selects_managed_prompts(desk):
    desk.write("shop/tone.py", "from pytest_promptopt import prompt\n\n@prompt\ndef tone(text: str) -> str: ...\n")
    result = desk.run("--prompt-list", "--prompt", "to*")
    assert "tone.tone" in result.stdout.str()
    assert "desk.route" not in result.stdout.str()
    assert (
        lines_of(desk.run("--prompt-list", "--prompt", "nothing"))[0]
        == "managed: no prompt that --prompt nothing names"
    )


def test_unmanaged_texts_follow_with_the_line_that_adopts_them(desk):
    desk.write("shop/chat.py", f"SYSTEM_PROMPT = '{LONG}'\n")
    lines = lines_of(desk.run("--prompt-list"))
    assert lines[-3:] == [
        "looks like a prompt, not managed (1)",
        "  shop/chat.py:1  SYSTEM_PROMPT, 19 words",
        'adopt one without changing what is sent:  SYSTEM_PROMPT = text_prompt("shop.system", SYSTEM_PROMPT) '
        "# and str(SYSTEM_PROMPT) where it is sent   docs: docs/text-prompts.md",
    ]


def test_an_adopted_text_is_a_managed_one(desk):
    desk.write("shop.py", f"from pytest_promptopt import text_prompt\n\nASK = text_prompt('shop.ask', '{LONG}')\n")
    desk.replace("test_desk.py", "from desk import route\n", "import shop\nfrom desk import route\n")
    desk.replace("test_desk.py", "assert route(", "assert str(shop.ASK) and route(")
    result = desk.run("--prompt-list")
    assert row_of(result, "shop.ask") == "shop.ask shop.py:3 test_routes -"
    assert "no text was found that looks like a prompt" in words(result)


def test_paths_restrict_the_search_as_they_restrict_the_tests(desk):
    desk.write("a/chat.py", f"SYSTEM_PROMPT = '{LONG}'\n")
    desk.write("b/chat.py", f"SYSTEM_PROMPT = '{LONG}'\n")
    result = desk.run("--prompt-list", "b")
    assert result.ret == pytest.ExitCode.OK
    assert "b/chat.py:1" in result.stdout.str()
    assert "a/chat.py:1" not in result.stdout.str()


def test_an_empty_project_is_told_how_to_start(project):
    (project.path / "conftest.py").unlink()
    result = project.run("--prompt-list")
    assert result.ret == pytest.ExitCode.OK
    assert lines_of(result)[0] == "managed: no prompt yet"
    assert "start: put @prompt above a typed function" in words(result)


def test_collection_errors_keep_their_exit_status_and_the_list_is_printed(desk):
    desk.write("test_broken.py", "raise ValueError('broken')\n")
    result = desk.run("--prompt-list")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "desk.route" in result.stdout.str()
    assert "ValueError: broken" in result.stdout.str()


def test_files_that_cannot_be_searched_are_counted_and_named_with_v(desk):
    desk.write("old.py", "print 'the prompt'\n")
    assert "1 file could not be searched (named with -v)" in words(desk.run("--prompt-list"))
    assert any(line.startswith("  old.py: line 1: ") for line in desk.run("--prompt-list", "-v").stdout.lines)


def test_folders_that_were_passed_over_are_named_with_v(desk):
    desk.write("build/lib/chat.py", f"SYSTEM_PROMPT = '{LONG}'\n")
    assert "build" not in words(desk.run("--prompt-list"))
    lines = desk.run("--prompt-list", "-v").stdout.lines
    assert lines[lines.index("not searched: installed, built or copied code") + 1] == "  build/"


def test_no_text_of_a_file_steers_the_terminal_and_no_line_is_too_long(desk):
    folder = "a_folder_whose_name_goes_on_and_on/" * 3
    managed = "from pytest_promptopt import prompt\n\n@prompt(name='{name}')\ndef tone(text: str) -> str: ...\n"
    desk.write(f"{folder}tone.py", managed.format(name="\x1b[31m" + "n" * 90))
    desk.write(f"{folder}ask.py", f"PROMPTS = {{'{'k' * 40}': '{LONG}'}}\n")
    desk.write("\x1b[31mprompt.txt", LONG)
    result = desk.run("--prompt-list")
    assert "\x1b" not in result.stdout.str()
    assert all(name in result.stdout.str() for name in ("[31mnnn", "[31mprompt.txt", "ask.py:1"))
    assert all(len(line) <= 100 for line in result.stdout.lines if not line.startswith("adopt one"))


def test_the_second_list_is_remembered_in_the_store_and_holds_no_text(desk):
    desk.write("shop/chat.py", f"SYSTEM_PROMPT = '{LONG}'\n")
    first = desk.run("--prompt-list").stdout.lines
    remembered = desk.path / ".promptopt/discovery.json"
    assert "librarian" not in remembered.read_text()
    before = remembered.stat().st_mtime_ns
    assert desk.run("--prompt-list").stdout.lines == first
    assert remembered.stat().st_mtime_ns == before
    assert desk.run("-q", "-k", "nothing").ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_replies_are_still_stored_beside_what_is_remembered(desk):
    desk.run("--prompt-list")
    desk.freeze()
    assert {"discovery.json", "replies.sqlite3"} <= {path.name for path in (desk.path / ".promptopt").iterdir()}


@pytest.mark.parametrize("flag", ["--optimize-prompts", "--prompt-bless"])
def test_a_list_goes_with_nothing_that_wants_a_run(desk, flag):
    result = desk.run("--prompt-list", flag)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"leave out {flag}" in words(result)


def test_workers_typed_are_refused_and_from_addopts_switched_off(desk):
    typed = desk.run("--prompt-list", "-n", "2", plugins="xdist.plugin")
    assert typed.ret == pytest.ExitCode.USAGE_ERROR
    assert "--prompt-list runs in one process; leave out -n" in words(typed)
    desk.ini("addopts = -n 2")
    listed = desk.run("--prompt-list", plugins="xdist.plugin")
    assert listed.ret == pytest.ExitCode.OK
    assert lines_of(listed)[0] == "-n from addopts is switched off: --prompt-list runs in one process"


def test_a_run_without_the_option_imports_nothing_of_it(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        "import sys\n\ndef test_one():\n    assert not [n for n in sys.modules if 'listing' in n or 'discovery' in n]\n"
    )
    pytester.runpytest_subprocess("-p", "promptopt").assert_outcomes(passed=1)


def test_the_example_project_is_covered(project):
    example = Path(__file__).parent.parent.parent / "example_project"
    for name in ("support", "tests", "pyproject.toml", "pytest.ini"):
        source = example / name
        if source.is_dir():
            shutil.copytree(source, project.path / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, project.path / name)
    for name in ("tox.ini", "conftest.py"):
        (project.path / name).unlink()
    result = project.run_apart("--prompt-list")
    assert result.ret == pytest.ExitCode.OK
    assert row_of(result, "prompts.route").startswith("prompts.route support/prompts.py:11 test_routes_tickets frozen ")
