"""Promises that were once broken, each where somebody found it broken."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

from pytest_promptopt.prompts.registry import apart
from tests.plugin.projects import BASELINE, GOOD_INSTRUCTION, METRICS, PROMPTS, SNAPSHOT, Desk, words

SAME_NAME = '''
from pytest_promptopt import prompt


@prompt(name="desk.same")
def first(ticket: str) -> str:
    """Be the first."""


@prompt(name="desk.same")
def second(ticket: str) -> str:
    """Be the second."""
'''


def _no_trace_of_ours(result: pytest.RunResult) -> None:
    for trace in ("pytest_promptopt/", "Traceback", "INTERNALERROR", "During handling"):
        assert trace not in words(result)


def _systems(desk: Desk) -> list[str]:
    return [line["system"].partition("\n")[0] for line in desk.asked()]


# --- prompts of one name ----------------------------------------------------------------------------------------------


def test_two_prompts_by_one_name_are_refused_where_the_second_is_made(project: Any) -> None:
    desk = Desk(project)
    desk.write("test_desk.py", SAME_NAME)
    result = desk.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "test_desk.py gives two prompts the name desk.same, in the lines 4 and 9" in words(result)


def test_a_reloaded_module_sends_the_instruction_that_it_holds_now(project: Any) -> None:
    desk = Desk(project)
    desk.write(
        "test_desk.py",
        """
        import importlib
        from pathlib import Path

        import desk

        def test_reloads():
            desk.route(ticket="1")
            file = Path(desk.__file__)
            file.write_text(file.read_text().replace("Decide which team should answer.", "Say who answers."))
            importlib.reload(desk)
            desk.route(ticket="2")
    """,
    )
    assert desk.run().ret == 0
    assert _systems(desk) == ["Decide which team should answer.", "Say who answers."]


@pytest.fixture
def two_shops(project: Any) -> Desk:
    """Two folders, each with a prompt called ``desk.route`` and a frozen snapshot of its own."""
    desk = Desk(project)
    for name in ("desk.py", "test_desk.py"):
        (desk.path / name).unlink()
    for shop in ("north", "south"):
        desk.write(f"{shop}/__init__.py", "")
        desk.write(f"{shop}/desk.py", PROMPTS.replace("Decide", f"For the {shop}, decide"))
        desk.write(
            f"test_{shop}.py",
            METRICS.replace("from desk", f"from {shop}.desk").replace("test_routes", f"test_{shop}"),
        )
        idea = f"```\n{GOOD_INSTRUCTION} Speak for the {shop}.\n```"
        desk.write("trouble.py", f"def trouble(request, is_proposal):\n    return {idea!r} if is_proposal else None\n")
        with apart():  # each search as in a process of its own, where nobody imported the other
            assert desk.optimize(f"test_{shop}.py").ret == 0
        assert (desk.path / shop / SNAPSHOT).is_file()
    desk.forget_asked()
    return desk


def test_two_folders_may_share_the_name_of_a_prompt_and_each_is_judged_by_its_own_snapshot(two_shops: Desk) -> None:
    desk = two_shops
    result = desk.run()
    assert result.ret == 0
    result.assert_outcomes(passed=2)
    assert desk.asked() == []
    for shop in ("north", "south"):
        (state,) = desk.figures()[f"test_{shop}"]["prompts"]
        assert state["standing"] == "frozen"
        assert state["snapshot_place"] == f"{shop}/{SNAPSHOT}"
        assert state["source_place"].startswith(f"{shop}/desk.py:")


def test_two_prompts_by_one_name_and_one_text_are_reported_at_their_own_places(project: Any) -> None:
    desk = Desk(project)
    for name in ("desk.py", "test_desk.py"):
        (desk.path / name).unlink()
    for shop in ("north", "south"):
        desk.write(f"{shop}/__init__.py", "")
        desk.write(f"{shop}/desk.py", PROMPTS)
        text = METRICS.replace("from desk", f"from {shop}.desk").replace("test_routes", f"test_{shop}")
        desk.write(f"test_{shop}.py", text.replace("threshold=0.8", "threshold=0.1"))
    assert desk.run().ret == 0
    places = {name: figure["prompts"][0]["source_place"] for name, figure in desk.figures().items()}
    assert places == {f"test_{shop}": f"{shop}/desk.py:6" for shop in ("north", "south")}


def test_of_two_snapshots_by_one_name_a_spoiled_one_fails_its_own_metric_alone(two_shops: Desk) -> None:
    desk = two_shops
    text = desk.read(f"south/{SNAPSHOT}")
    start, end = text.index("Choose billing"), text.index("Choose account")
    desk.write(f"south/{SNAPSHOT}", text[:start] + text[end:])
    assert desk.run().ret == 1
    outcomes = {name: figure["verdict"]["outcome"] for name, figure in desk.figures().items()}
    assert outcomes == {"test_north": "pass", "test_south": "fail"}
    standings = {name: figure["prompts"][0]["standing"] for name, figure in desk.figures().items()}
    assert standings == {"test_north": "frozen", "test_south": "edited"}


def test_a_search_of_two_prompts_by_one_name_is_refused_with_both_places_and_the_way_out(two_shops: Desk) -> None:
    desk = two_shops
    files = desk.frozen_files()
    result = desk.optimize()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "two prompts are called desk.route" in words(result)
    for shop in ("north", "south"):
        assert f"{desk.path / shop / 'desk.py'}:" in words(result)
    assert '@prompt(name="…")' in words(result)
    _no_trace_of_ours(result)
    assert desk.asked() == []
    assert desk.frozen_files() == files


# --- calls and scores -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
def test_the_ceiling_holds_in_a_plain_run_and_the_next_one_pays_for_the_rest_alone(
    project: Any, is_async: bool
) -> None:
    desk = Desk(project)
    if is_async:
        desk.replace("desk.py", "def route", "async def route")
        desk.replace("test_desk.py", "def test_routes", "async def test_routes")
        desk.replace("test_desk.py", "route(ticket=", "await route(ticket=")
        desk.replace("test_desk.py", "@pytest.mark.prompt_metric", "@pytest.mark.anyio\n@pytest.mark.prompt_metric")
    desk.replace("test_desk.py", "threshold=0.8", "threshold=0.1")
    plugins = "anyio" if is_async else ""
    result = desk.run("--prompt-budget", "5", "-k", "not trio", plugins=plugins)
    assert result.ret == 1
    assert len(desk.asked()) == 5
    assert "The ceiling of 5 LM calls is reached (--prompt-budget 5)" in words(result)
    _no_trace_of_ours(result)
    assert desk.run("-k", "not trio", plugins=plugins).ret == 0
    assert set(Counter(line["text"] for line in desk.asked()).values()) == {1}
    assert len(desk.asked()) == 60


def test_the_minimum_that_is_named_counts_must_pass_rows_that_confirmation_runs_beside_the_sealed_ones(
    project: Any,
) -> None:
    desk = Desk(project)
    desk.replace("test_desk.py", "threshold=0.8", f"must_pass={[f't-{number:03}' for number in range(1, 61)]}")
    refused = desk.optimize("--prompt-budget", "1")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    minimum = re.search(r"give --prompt-budget (\d+) or more", words(refused))
    assert minimum
    assert desk.optimize("--prompt-budget", minimum[1]).ret != pytest.ExitCode.USAGE_ERROR
    assert len(desk.asked()) <= int(minimum[1])


@pytest.mark.parametrize("value", ["Score(None)", "Score(Score(1))", "Score(None, feedback='fine')"])
def test_a_score_of_something_that_is_no_number_is_an_error_and_never_a_score(project: Any, value: str) -> None:
    project.tests(
        f"""
        @pytest.mark.prompt_metric("tickets")
        def test_metric(example):
            return {value}
        """
    )
    result = project.run()
    assert result.ret == 1
    assert project.figure()["verdict"]["outcome"] == "errored"
    assert project.score() is None
    assert {row["score"] for row in project.rows().values()} == {None}
    assert "its value is a number in [0, 1] or a bool" in words(result)
    _no_trace_of_ours(result)


def test_a_metric_that_leaves_every_row_out_is_skipped_and_fails_nowhere(project: Any) -> None:
    project.tests(
        """
        @pytest.mark.prompt_metric("tickets", threshold=0.5)
        def test_metric(example):
            pytest.skip("closed on Sundays")
        """
    )
    result = project.run("-rs")
    assert result.ret == 0
    result.assert_outcomes(skipped=1)
    assert "closed on Sundays" in words(result)
    for line in ("*FAIL*", "test_metric*"):
        result.stdout.no_fnmatch_line(line)
    assert project.figures() == {}


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("format = 1", "format = 1\ncolour = 2", 2),
        ("[prompts]", "<<<<<<< HEAD\n[prompts]", None),
        ('reads = "sealed"', 'reads = "some"', None),
    ],
)
def test_a_broken_baseline_is_told_once_with_file_line_and_command(
    project: Any, old: str, new: str, line: int | None
) -> None:
    desk = Desk(project)
    desk.freeze()
    desk.replace(BASELINE, old, new)
    text = desk.read(BASELINE)
    number = line or 1 + text[: text.index(new.partition("\n")[0])].count("\n")
    result = desk.run("-rN")  # pytest's own summary of failures would repeat it
    assert result.ret == 1
    said = words(result)
    assert said.count(f"{BASELINE}:{number}") == 1
    assert "pytest --prompt-bless -k test_routes" in said
    _no_trace_of_ours(result)
    assert desk.read(BASELINE) == text


# --- options ----------------------------------------------------------------------------------------------------------

BOTH = ("--prompt-model", "scripted/learner", "--prompt-model", "scripted/other")


@pytest.mark.parametrize("pinned", ["scripted/learner", "scripted/other", "scripted/third"])
def test_a_pinned_prompt_is_searched_once_however_many_models_are_named(project: Any, pinned: str) -> None:
    desk = Desk(project)
    desk.replace("desk.py", "@prompt\n", f'@prompt(model="{pinned}")\n')
    collected = desk.optimize("--collect-only", "-q", *BOTH)
    assert [line.partition("[")[0] for line in collected.outlines if "::" in line] == ["desk.py::route"]
    result = desk.optimize(*BOTH)
    assert result.ret == 0
    assert [job["outcome"] for job in desk.jobs().values()] == ["frozen"]
    assert {line["model"] for line in desk.asked() if not line["is_proposal"]} == {pinned}
    assert [name for name in desk.frozen_files() if "desk.route" in name and "test_" not in name] == [
        SNAPSHOT.replace("scripted-learner", pinned.replace("/", "-"))
    ]


def test_a_search_needs_no_terminal(project: Any) -> None:
    desk = Desk(project)
    assert desk.run_apart("--optimize-prompts", "-p", "no:terminal").ret == 0
    assert {SNAPSHOT, BASELINE} == set(desk.frozen_files())


@pytest.mark.parametrize("arguments", [(), ("--optimize-prompts",)])
def test_a_split_that_seals_nothing_is_misuse(project: Any, arguments: tuple[str, ...]) -> None:
    desk = Desk(project)
    result = desk.run("-o", "promptopt_split=50/50/0", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "promptopt_split = 50/50/0" in words(result)
    assert "30/30/40" in words(result)
    _no_trace_of_ours(result)
    assert desk.asked() == []
