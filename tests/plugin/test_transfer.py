"""``--prompt-transfer``: each model's prompt on each other model, on rows no search saw; nothing else changes."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pytest_promptopt.reports.matrix import transfer_lines, transfer_tables
from pytest_promptopt.reports.records import MetricReport, TransferTable, from_json, to_json
from tests.plugin.projects import GOOD_INSTRUCTION, Desk, make_tickets, words

ROOT = Path(__file__).parent.parent.parent
FIRST, SECOND = "scripted/first", "scripted/second"
BOTH = ("--prompt-model", FIRST, "--prompt-model", SECOND)
OFFLINE = tuple(f"offline/{temper}" for temper in ("keyword", "neighbor", "chatty", "forgetful"))

TWO_TONGUES = f'''
GOOD = {GOOD_INSTRUCTION!r}
OTHER = GOOD.replace("Choose", "Take")


def trouble(request, is_proposal):
    """The second model wants its rules in other words and is confused by those of the first one, and so round."""
    mine, other = (OTHER, GOOD) if request.model == "scripted/second" else (GOOD, OTHER)
    if is_proposal:
        return f"```\\n{{mine}}\\n```"
    return "account" if other.split(". ")[1] in request.messages[0]["content"] else None
'''


@pytest.fixture
def desk(project: Any) -> Desk:
    """A desk whose two models each have a prompt of their own that does not suit the other."""
    desk = Desk(project)
    desk.write("trouble.py", TWO_TONGUES)
    assert desk.optimize(*BOTH).ret == 0
    desk.forget_asked()
    return desk


def reports(desk: Desk) -> list[MetricReport]:
    return [from_json(MetricReport, figures) for figures in desk.figures().values()]


def scores(desk: Desk) -> dict[tuple[str, str], float | None]:
    """(whose prompt, on which model) → score."""
    return {(each.prompt_of, each.model): each.score for one in reports(desk) for each in one.transfer}


def problems(desk: Desk) -> dict[tuple[str, str], str]:
    return {
        (each.prompt_of, each.model): each.problem for one in reports(desk) for each in one.transfer if each.problem
    }


def plain_figures(desk: Desk) -> dict[str, Any]:
    """What the gate says, without what varies or was asked for on top."""
    kept = ("verdict", "rows", "prompts", "notes", "total_rows")
    return {name: {field: figure[field] for field in kept} for name, figure in desk.figures().items()}


def test_the_table_has_the_own_prompt_on_the_diagonal_and_the_source_beside_it(desk: Desk) -> None:
    result = desk.run("--prompt-transfer", *BOTH)
    assert result.ret == 0
    table = scores(desk)
    assert table[FIRST, FIRST] == table[SECOND, SECOND] == 1.0
    assert table[FIRST, SECOND] == table[SECOND, FIRST] == table["", FIRST] == table["", SECOND]
    poor = f"{table['', FIRST]:.3f}"
    result.stdout.fnmatch_lines(
        [
            "transfer: down, whose prompt; across, the model that runs it*",
            "test_routes, 21 rows that no search saw",
            f"prompt of *{FIRST} *{SECOND}",
            f"{FIRST} *[[]1.000[]] *{poor}",
            f"{SECOND} *{poor} *[[]1.000[]]",
            f"the source *{poor} *{poor}",
        ]
    )


def test_it_runs_on_sealed_rows_alone(desk: Desk) -> None:
    desk.forget_replies()
    desk.run("--prompt-transfer", *BOTH)
    ids = {row["ticket"]: row["id"] for row in make_tickets(60)}
    asked = {ids[line["text"]] for line in desk.asked()}
    sealed = [tomllib.loads(desk.read(name))["rows"] for name in desk.frozen_files() if "test_routes" in name]
    assert asked == set(sealed[0]) == set(sealed[1])
    assert len(desk.asked()) == 2 * 3 * len(asked), "own prompt, foreign prompt, source"


def test_it_writes_nothing_and_changes_no_verdict(desk: Desk) -> None:
    desk.run(*BOTH)
    before, files = plain_figures(desk), desk.frozen_files()
    desk.run("--prompt-transfer", *BOTH)
    assert (plain_figures(desk), desk.frozen_files()) == (before, files)


def test_without_it_no_foreign_prompt_is_asked(desk: Desk) -> None:
    assert "transfer" not in words(desk.run(*BOTH))
    assert desk.asked() == []
    assert scores(desk) == {}


def test_the_rows_are_those_that_no_model_has_seen(desk: Desk) -> None:
    """The second model's search saw some of the rows that the first one's gate reads by now."""
    path = "__prompts__/test_desk.test_routes@scripted-second.toml"
    first_row = next(iter(tomllib.loads(desk.read(path))["rows"]))
    lines = desk.read(path).splitlines(keepends=True)
    desk.write(path, "".join(line for line in lines if not line.startswith(f"{first_row} =")))
    desk.replace(path, "rows = [\n", f'rows = [\n    "{first_row}",\n')
    desk.run("--prompt-transfer", *BOTH)
    assert {each.rows for one in reports(desk) for each in one.transfer} == {20}


def test_a_foreign_prompt_that_is_surely_better_is_named_with_the_search_that_takes_it_up(desk: Desk) -> None:
    desk.write("trouble.py", "def trouble(request, is_proposal):\n    return None\n")
    (desk.path / "__prompts__/desk.route@scripted-second.toml").unlink()
    desk.forget_replies()
    result = desk.run("--prompt-transfer", *BOTH)
    assert result.ret == 1, "the source is below the threshold on the second model"
    assert f"better {SECOND} does better with what stands for {FIRST}: +0." in words(result)
    assert f"search with it: pytest --optimize-prompts --prompt-model {FIRST} --prompt-model {SECOND}" in words(result)
    assert f"{FIRST} does better" not in words(result)
    (source,) = {each.is_source for one in reports(desk) for each in one.transfer if each.prompt_of == SECOND}
    assert source
    result.stdout.fnmatch_lines([f"{SECOND} *= 0.*"])


def test_where_nothing_is_frozen_nothing_is_asked(project: Any) -> None:
    desk = Desk(project)
    result = desk.run("--prompt-transfer", *BOTH)
    assert "transfer: nothing to compare" in words(result)
    assert len(desk.asked()) == 2 * 60, "the gate's own rows"


def test_a_ceiling_ends_the_table_and_not_the_gate(desk: Desk) -> None:
    desk.make_remote()
    result = desk.run("--prompt-transfer", "--prompt-budget", "30", "--prompt-max-cost", "none", *BOTH)
    assert result.ret == 0, "what the gate needs was asked when the prompts were frozen"
    assert len(desk.asked()) <= 30
    assert {figure["verdict"]["outcome"] for figure in desk.figures().values()} == {"pass"}
    assert problems(desk)
    assert "no score" in words(result)
    assert "--prompt-budget 30" in words(result)


def test_in_replay_what_is_not_recorded_has_no_score_and_fails_nothing(desk: Desk) -> None:
    desk.make_remote()
    result = desk.run("--prompt-transfer", "--prompt-lm", "replay", *BOTH)
    assert (result.ret, desk.asked()) == (0, [])
    assert set(problems(desk).values()) == {"not recorded"}
    assert "unrecorded" in words(result)


def test_a_metric_that_raises_under_a_foreign_prompt_has_no_score_and_fails_nothing(desk: Desk) -> None:
    desk.replace("test_desk.py", "    assert route(", "    answer = route(")
    desk.replace("test_desk.py", ' == example["team"]', RAISING)
    result = desk.run("--prompt-transfer", *BOTH)
    assert result.ret == 0
    assert set(problems(desk)) == {(SECOND, FIRST), (FIRST, SECOND), ("", FIRST), ("", SECOND)}
    assert all("RuntimeError: lost its way" in problem for problem in problems(desk).values())


RAISING = """
    if answer != example["team"]:
        raise RuntimeError("lost its way")
"""


def test_a_call_that_carries_no_row_is_no_score_under_another_models_name(desk: Desk) -> None:
    """It would run the model's own prompt, and the thread keeps the error to itself."""
    desk.replace("test_desk.py", "import pytest\n", "import pytest\nfrom threading import Thread\n")
    desk.write("test_desk.py", desk.read("test_desk.py") + STRAYING)
    result = desk.run("--prompt-transfer", *BOTH)
    assert set(problems(desk)) == {(SECOND, FIRST), (FIRST, SECOND), ("", FIRST), ("", SECOND)}
    assert "promptopt.propagate" in words(result)


STRAYING = """    thread = Thread(target=ask_quietly)
    thread.start()
    thread.join()


def ask_quietly():
    try:
        route(ticket="where is my invoice?")
    except Exception:
        pass
"""


def test_an_async_metric_is_compared_too(desk: Desk) -> None:
    desk.ini("asyncio_default_fixture_loop_scope = function")
    desk.replace("desk.py", "def route", "async def route")
    desk.replace("test_desk.py", "def test_routes(example):", "@pytest.mark.asyncio\nasync def test_routes(example):")
    desk.replace("test_desk.py", "assert route", "assert await route")
    desk.run("--prompt-transfer", *BOTH, plugins="asyncio")
    table = scores(desk)
    assert (table[FIRST, FIRST], table[SECOND, SECOND]) == (1.0, 1.0)
    assert table[SECOND, FIRST] == table["", FIRST] == table[FIRST, SECOND]


def test_a_prompt_that_names_its_own_model_is_the_same_for_all(desk: Desk) -> None:
    desk.replace("desk.py", "@prompt\n", f'@prompt(model="{FIRST}")\n')
    desk.forget_asked()
    result = desk.run("--prompt-transfer", *BOTH)
    assert "transfer: nothing to compare" in words(result)


def test_a_prompt_that_the_test_runs_on_one_model_has_no_place_under_another(desk: Desk) -> None:
    desk.replace("test_desk.py", "import load_dataset", "import load_dataset, using_model")
    desk.replace("test_desk.py", "    assert route(", f'    with using_model("{FIRST}"):\n        assert route(')
    desk.run("--prompt-transfer", *BOTH)
    assert {model for _, model in scores(desk)} == {FIRST}


def test_of_one_selected_model_there_is_one_column(desk: Desk) -> None:
    desk.run("--prompt-transfer", *BOTH, "-k", SECOND)
    assert set(scores(desk)) == {(FIRST, SECOND), (SECOND, SECOND), ("", SECOND)}


def test_workers_make_the_same_table(desk: Desk) -> None:
    desk.run("--prompt-transfer", *BOTH)
    alone = scores(desk)
    result = desk.run_apart("-n", "2", "--prompt-transfer", *BOTH, plugins="xdist.plugin")
    assert (result.ret, scores(desk)) == (0, alone)
    assert "test_routes, 21 rows that no search saw" in words(result)


def test_a_broken_snapshot_of_another_model_is_told_and_fails_its_own_metric_alone(desk: Desk) -> None:
    desk.write("__prompts__/desk.route@scripted-second.toml", "<<<<<<< HEAD\n")
    result = desk.run("--prompt-transfer", *BOTH, "-k", FIRST)
    assert result.ret == 0
    assert "desk.route@scripted-second.toml" in problems(desk)[FIRST, FIRST]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompt-model", FIRST), "name two models or more"),
        ((), "name two models or more"),
        ((*BOTH, "--optimize-prompts"), "leave out --optimize-prompts"),
        ((*BOTH, "--prompt-bless"), "leave out --prompt-bless"),
        ((*BOTH, "--prompt-dry-run"), "leave out --prompt-dry-run"),
        ((*BOTH, "--prompt-list"), "leave out --prompt-list"),
        ((*BOTH, "--prompt-lm", "record"), "leave out --prompt-lm record"),
    ],
)
def test_misuse_ends_the_run_before_anything_is_asked(project: Any, arguments: tuple[str, ...], message: str) -> None:
    desk = Desk(project)
    result = desk.run("--prompt-transfer", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in words(result)
    assert desk.asked() == []


def test_tables_are_json_and_read_the_same_after_it(desk: Desk) -> None:
    desk.run("--prompt-transfer", *BOTH)
    (table,) = transfer_tables(reports(desk))
    assert (table.metric, table.models, table.rows) == ("test_routes", (FIRST, SECOND), 21)
    assert from_json(TransferTable, to_json(table)) == table
    assert transfer_lines([table]) == transfer_lines([from_json(TransferTable, to_json(table))])


def test_of_four_models_none_has_the_prompt_that_suits_all(pytester: pytest.Pytester, monkeypatch: Any) -> None:
    """The example's own tickets on all simulators: what is best on one is beaten on another."""
    for variable in ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "BUILDKITE", "PROMPTOPT_MODEL"):
        monkeypatch.delenv(variable, raising=False)
    left_out = shutil.ignore_patterns("__prompts__", "__pycache__", ".promptopt", ".pytest_cache")
    shutil.copytree(ROOT / "example_project", pytester.path / "desk", ignore=left_out)
    (pytester.path / "desk/conftest.py").write_text(KEEPING_FIGURES, encoding="utf-8")
    monkeypatch.chdir(pytester.path / "desk")
    models = [word for model in OFFLINE for word in ("--prompt-model", model)]
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    few = (
        "-p",
        "promptopt",
        "-p",
        "no:cacheprovider",
        "-k",
        "sets_priority",
        "--prompt-set",
        "reflect-race.generations=1",
    )
    pytester.runpytest_subprocess(*few, *models, "--optimize-prompts", timeout=120)
    result = pytester.runpytest_subprocess(*few, *models, "--prompt-transfer", timeout=120)
    lines = (pytester.path / "desk/figures.jsonl").read_text(encoding="utf-8").splitlines()
    (table,) = transfer_tables(from_json(MetricReport, json.loads(line)) for line in lines)
    assert table.models == OFFLINE
    best = {
        model: max((each for each in table.scores if each.model == model), key=lambda each: each.score or 0.0).candidate
        for model in OFFLINE
    }
    assert len(set(best.values())) > 1, result.stdout.str()


KEEPING_FIGURES = """
import json


def pytest_promptopt_metric_finished(config, report):
    from pytest_promptopt.reports.records import to_json

    with open(config.rootpath / "figures.jsonl", "a") as file:
        file.write(json.dumps(to_json(report)) + "\\n")
"""


def test_repeats_and_rows_that_are_left_out_are_weighed_as_the_gate_does(desk: Desk) -> None:
    desk.replace("test_desk.py", "threshold=0.8", "repeats=2")
    first = next(iter(tomllib.loads(desk.read("__prompts__/test_desk.test_routes@scripted-first.toml"))["rows"]))
    desk.replace(
        "test_desk.py",
        "    assert route",
        f'    if example.id == "{first}":\n        pytest.skip("no")\n    assert route',
    )
    desk.run("--prompt-transfer", *BOTH)
    own = {one.model: one.verdict.score for one in reports(desk)}
    cells = [each for one in reports(desk) for each in one.transfer]
    assert {each.rows for each in cells} == {20}
    assert {each.model: each.score for each in cells if each.is_own} == own
