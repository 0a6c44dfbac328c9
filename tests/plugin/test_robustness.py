"""With ``perturb=`` a metric runs its rows edited too, within a hard budget, and shows the smallest edit that flips."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from pytest_promptopt import load_dataset
from pytest_promptopt.evaluation.outcome import Judgement, RowResult, Status
from pytest_promptopt.evaluation.perturbations import Survival
from pytest_promptopt.prompts.trace import PromptCall
from pytest_promptopt.session.marker import read_marker
from pytest_promptopt.session.workbench import outcome_of
from tests.plugin.projects import Desk

SHOUTING = """
    ROWS[:] = [{"id": "t1", "ticket": "I would like a refund for the app", "team": "billing"}]

    @pytest.mark.prompt_metric("tickets", threshold=0.1, perturb=["typos", "casing"], perturb_budget=8)
    def test_metric(example):
        assert route(ticket=example.ticket) == example.team
"""
THREE_TYPOS = ("--prompt-seed", "8")
"""With that seed the only edit that flips the ticket of ``SHOUTING`` is one of three typos, made together."""

METRIC = """
    @pytest.mark.prompt_metric("tickets", threshold=0.1, {options})
    def test_metric(example):
        {body}
"""
ROUTES = "assert route(ticket=example.ticket) == example.team"


def metric(options: str, body: str = ROUTES) -> str:
    return METRIC.format(options=options, body=body)


def flips(project: Any) -> list[dict[str, Any]]:
    """The rows that were kept, of the only metric that has some."""
    (path,) = (project.path / ".promptopt" / "perturbed").glob("*.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def flips_or_none(project: Any) -> list[dict[str, Any]]:
    """The same, also where none was kept."""
    return flips(project) if list((project.path / ".promptopt" / "perturbed").glob("*.jsonl")) else []


# --- the score --------------------------------------------------------------------------------------------------------


def test_a_row_scores_the_share_of_its_edits_that_it_survives_itself_included(project: Any) -> None:
    project.tests("""
        @pytest.mark.prompt_metric("tickets", threshold=0.1, perturb=["casing"], perturb_budget=6)
        def test_metric(example):
            route(ticket=example.ticket)
            return example.ticket == example.ticket.lower()
    """)
    project.run()
    row = project.rows()["t1"]
    flipped, edits = map(int, re.findall(r"(\d) of (\d) edits", row["feedback"])[0])
    assert row["score"] == pytest.approx((1 + edits - flipped) / (1 + edits))
    assert row["status"] == "graded"
    assert edits == 3
    assert flipped


def test_a_prompt_that_nothing_moves_keeps_full_marks_and_nothing_is_said(project: Any) -> None:
    project.tests(metric('perturb=["whitespace", "distractor"]'))
    result = project.run()
    assert [row["score"] for row in project.rows().values()] == [1.0, 1.0, 1.0, 0.0]
    result.stdout.no_fnmatch_line("*brittle*")
    assert not (project.path / ".promptopt" / "perturbed").exists()


@pytest.mark.parametrize("budget", [2, 3, 8, 20])
def test_no_row_is_run_more_often_than_its_budget_allows(project: Any, budget: int) -> None:
    project.tests(f"""
        RUNS = {{}}

        @pytest.mark.prompt_metric("tickets", perturb=["casing", "typos"], perturb_budget={budget}, threshold=0.0)
        def test_metric(example):
            RUNS[example.id] = RUNS.get(example.id, 0) + 1
            route(ticket=example.ticket)
            return example.ticket in [row["ticket"] for row in ROWS]

        def test_counts():
            assert max(RUNS.values()) <= 1 + {budget}
            assert max(RUNS.values()) > 1
    """)
    project.run().assert_outcomes(passed=2)


def test_a_ceiling_reached_by_an_explanation_leaves_the_score_and_one_reached_before_leaves_none(project: Any) -> None:
    project.tests(SHOUTING)
    options = (*THREE_TYPOS, "--prompt-lm", "live")
    assert project.run(*options, "--prompt-budget", "5").ret == 0
    score = project.score()
    assert project.figure()["spending"]["attempts"] == 5
    assert project.run(*options).ret == 0
    assert project.figure()["spending"]["attempts"] > 5, "there is something to explain"
    assert project.score() == score
    assert project.run(*options, "--prompt-budget", "4").ret == pytest.ExitCode.TESTS_FAILED
    assert project.figures() == {}


def test_labels_ids_and_groups_are_never_edited_and_neither_is_what_only_a_judge_reads(project: Any) -> None:
    project.tests("""
        ROWS[:] = [
            {
                "id": "refund please", "ticket": "a refund please", "team": "billing", "customer": "refund please",
                "answer": "a refund", "ideal": "we will send the refund today",
            },
        ]

        @prompt(optimize=False)
        def judge(ticket: str, ideal: str) -> bool:
            \"\"\"Say whether it fits.\"\"\"

        @pytest.mark.prompt_metric("tickets", perturb=["typos", "casing", "injection"], group="customer", threshold=0.1)
        def test_metric(example):
            own = {name: value for name, value in example.items() if name != "ticket"}
            assert own == {name: value for name, value in ROWS[0].items() if name != "ticket"}
            try:
                judge(ticket=example.ticket, ideal=example.ideal)
            except Exception:
                pass
            route(ticket=example.ticket)
            return 1.0 if example.ticket == ROWS[0]["ticket"] else 0.5
    """)
    project.run().assert_outcomes(passed=1)
    assert project.score() == pytest.approx((1 + 4 * 0.5) / 5)


def test_a_text_that_is_part_of_what_a_prompt_is_asked_is_edited_but_a_lone_word_is_not(project: Any) -> None:
    project.tests("""
        ROWS[:] = [{"id": "a", "body": "the refund please", "product": "Refund", "team": "refund"}]

        @pytest.mark.prompt_metric("tickets", perturb=["casing"], perturb_budget=4, threshold=0.1)
        def test_metric(example):
            route(ticket=f"{example.product}: {example.body}")
            assert (example.product, example.team) == ("Refund", "refund")
            return 1.0 if example.body == ROWS[0]["body"] else 0.0
    """)
    project.run().assert_outcomes(passed=1)
    assert project.score() == pytest.approx(1 / 3)


def test_rows_without_anything_to_edit_are_scored_as_they_are_and_the_table_says_so(project: Any) -> None:
    project.tests(metric('perturb=["typos"]', 'assert route(ticket="a refund") == example.team'))
    result = project.run()
    assert project.score() == 0.25
    result.stdout.fnmatch_lines(["*test_metric: no text of its rows stands in what a prompt under test was asked*"])


# --- what is no score -------------------------------------------------------------------------------------------------


def test_an_error_under_an_edit_is_an_error_and_names_the_edit(project: Any) -> None:
    project.tests("""
        ROWS[:] = ROWS[:1]

        @pytest.mark.prompt_metric("tickets", perturb=["casing"], threshold=0.0)
        def test_metric(example):
            route(ticket=example.ticket)
            if example.ticket != "a refund please":
                raise ValueError("no such ticket")
    """)
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.score() is None
    assert project.rows()["t1"]["status"] == "error"
    assert re.match(r"writing '\w+' .*: ValueError: no such ticket", project.rows()["t1"]["feedback"])


def test_a_row_without_a_score_of_its_own_is_not_edited(project: Any) -> None:
    project.tests("""
        RUNS = []

        @pytest.mark.prompt_metric("tickets", perturb=["casing"], threshold=0.0)
        def test_metric(example):
            route(ticket=example.ticket)
            RUNS.append(example.id)
            if example.id == "t1":
                pytest.skip("not this one")
            if example.id == "t2":
                raise ValueError("broken")

        def test_counts():
            assert (RUNS.count("t1"), RUNS.count("t2")) == (1, 1)
            assert RUNS.count("t3") > 1
    """)
    project.run().assert_outcomes(passed=1, failed=1)
    assert [row["status"] for row in project.rows().values()] == ["skipped", "error", "graded", "graded"]


def test_a_skipped_row_is_left_out_and_a_skipped_edit_counts_for_nothing(project: Any) -> None:
    project.tests("""
        @pytest.mark.prompt_metric("tickets", perturb=["casing"], threshold=0.0)
        def test_metric(example):
            route(ticket=example.ticket)
            if example.id == "t1" or example.ticket != example.ticket.lower():
                pytest.skip("not this one")
    """)
    project.run().assert_outcomes(passed=1)
    assert [(row["status"], row["score"]) for row in project.rows().values()] == [
        ("skipped", None),
        *3 * [("passed", 1.0)],
    ]


def test_in_replay_a_row_with_an_unrecorded_edit_is_unrecorded(project: Any) -> None:
    desk = Desk(project, rows=12)
    desk.make_remote()
    desk.replace("test_desk.py", "threshold=0.8", "threshold=0.1")
    assert desk.run("--prompt-lm", "auto").ret == 0
    desk.replace("test_desk.py", "threshold=0.1", 'threshold=0.1, perturb=["typos"]')
    asked = len(desk.asked())
    assert desk.run("--prompt-lm", "replay").ret == pytest.ExitCode.TESTS_FAILED
    assert project.score() is None
    assert {row["status"] for row in project.rows().values()} == {"unrecorded"}
    assert len(desk.asked()) == asked


def test_what_an_unrecorded_row_and_its_edits_miss_is_all_told_in_one_run(project: Any) -> None:
    desk = Desk(project, rows=12)
    desk.make_remote()
    desk.replace("test_desk.py", "threshold=0.8", 'threshold=0.1, perturb=["casing", "typos"]')
    desk.run("--prompt-lm", "replay")
    assert len(desk.read(".promptopt/missing.jsonl").splitlines()) == 12 * (1 + 4)


# --- the same again ---------------------------------------------------------------------------------------------------


def test_a_second_run_makes_the_same_edits_and_calls_nothing(project: Any) -> None:
    desk = Desk(project, rows=12)
    desk.make_remote()
    desk.replace("test_desk.py", "threshold=0.8", 'threshold=0.1, perturb=["typos", "casing"]')
    first, rows = desk.run("--prompt-lm", "auto"), project.rows()
    asked = len(desk.asked())
    second = desk.run("--prompt-lm", "replay")
    assert (first.ret, second.ret) == (0, 0)
    assert len(desk.asked()) == asked
    assert project.rows() == rows


def test_the_order_of_the_kinds_changes_nothing_and_the_seed_changes_the_edits(project: Any) -> None:
    project.tests(metric('perturb=["typos", "casing"]'))
    project.run()
    first = project.figure()
    project.tests(metric('perturb=["casing", "typos"]'))
    project.run()
    assert [project.figure()[key] for key in ("metric_digest", "rows")] == [first["metric_digest"], first["rows"]]
    project.run("--prompt-seed", "1")
    assert project.figure()["metric_digest"] != first["metric_digest"]


def test_a_metric_without_perturb_keeps_the_digest_that_its_baseline_has(project: Any) -> None:
    project.tests(metric("margin=0.05"))
    project.run("--prompt-seed", "1")
    assert project.figure()["metric_digest"] == "bf11f92149af0ec3"


@pytest.mark.parametrize(("plugin", "marker"), [("asyncio", "@pytest.mark.asyncio"), ("anyio", "@pytest.mark.anyio")])
def test_a_coroutine_is_scored_as_a_function_is(project: Any, plugin: str, marker: str) -> None:
    project.ini(*(["asyncio_default_fixture_loop_scope = function"] if plugin == "asyncio" else []))
    project.tests(metric('perturb=["typos", "casing"]'))
    project.run()
    rows = project.rows()
    project.tests(f"""
        @prompt
        async def aroute(ticket: str) -> Literal["billing", "bug", "account"]:
            \"\"\"Decide which team should answer.\"\"\"

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        {marker}
        @pytest.mark.prompt_metric("tickets", threshold=0.1, perturb=["typos", "casing"])
        async def test_metric(example):
            assert await aroute(ticket=example.ticket) == example.team
    """)
    project.run(plugins=plugin).assert_outcomes(passed=1)
    assert {name: row["score"] for name, row in project.rows().items()} == {
        name: row["score"] for name, row in rows.items()
    }


# --- what is shown and kept -------------------------------------------------------------------------------------------


def test_a_flip_is_shown_by_its_smallest_edit_and_what_it_turns_into_what(project: Any) -> None:
    project.tests(SHOUTING)
    project.run(*THREE_TYPOS, "--prompt-budget", "5").stdout.fnmatch_lines(["*and 2 more such edits in row t1 turns*"])
    result = project.run(*THREE_TYPOS)
    result.stdout.fnmatch_lines(
        [
            "brittle *test_metric: 1 of 1 row flip under typos, casing",
            "*writing '*' for 'refund' in row t1 turns billing into account",
            "*as rows, to append to the dataset: .promptopt/perturbed/test_desk.test_metric@scripted-desk.jsonl",
        ]
    )
    (row,) = flips(project)
    assert re.fullmatch(r"I would like a (?!refund)\w+ for the app", row["ticket"])


def test_a_flip_lies_as_a_row_that_the_dataset_can_take(project: Any) -> None:
    project.tests(SHOUTING)
    project.run()
    (row,) = flips(project)
    assert (row["team"], row["split"]) == ("billing", "train")
    assert re.fullmatch("t1-(casing|typos)-[0-9a-f]{4}", row["id"])
    assert "refund" not in row["ticket"]
    (path,) = (project.path / ".promptopt" / "perturbed").iterdir()
    assert load_dataset(path)[0].ticket == row["ticket"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_flips_of_the_last_run_go_when_nothing_flips_any_more(project: Any) -> None:
    project.tests(SHOUTING)
    project.run()
    assert flips(project)
    project.tests(
        SHOUTING.replace("assert route(ticket=example.ticket) == example.team", "route(ticket=example.ticket)")
    )
    project.run()
    assert not list((project.path / ".promptopt" / "perturbed").iterdir())


def test_a_kept_row_stays_on_the_side_of_the_row_that_it_resembles(project: Any) -> None:
    desk = Desk(project)
    desk.replace("test_desk.py", "threshold=0.8", 'threshold=0.1, perturb=["casing"]')
    assert desk.optimize().ret == 0
    assert "frozen" in desk.jobs()["desk.route"]["outcome"]
    assert desk.run().ret == 0
    kept = flips(project)
    assert kept
    assert {row["split"] for row in kept} == {"test"}
    sealed = set(project.rows())
    assert {row["id"].rsplit("-", 2)[0] for row in kept} <= sealed
    desk.ini("promptopt_salt = another")
    desk.run()
    assert {row["split"] for row in flips(project)} == {"test"}, "a new salt deals anew at the next freeze only"


def test_a_kept_row_that_the_dataset_has_is_not_written_again(project: Any) -> None:
    project.tests(SHOUTING)
    project.run()
    kept = flips(project)
    project.tests(SHOUTING.replace('"team": "billing"}]', f'"team": "billing"}}, *{json.dumps(kept)}]'))
    project.run()
    assert project.rows()["t1"]["flip"]
    assert not {row["id"] for row in kept} & {row["id"] for row in flips_or_none(project)}


def test_a_kept_row_holds_no_secret(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESK_TOKEN", "swordfish-4711")
    project.tests(SHOUTING.replace("for the app", "for swordfish-4711"))
    project.run()
    (row,) = flips(project)
    assert "swordfish" not in row["ticket"]
    assert "[redacted]" in row["ticket"]


def test_a_reply_that_only_an_explanation_would_need_is_never_missed(project: Any) -> None:
    desk = Desk(project)
    desk.make_remote()
    desk.replace("test_desk.py", "threshold=0.8", 'threshold=0.1, perturb=["casing", "typos"]')
    assert desk.optimize("--prompt-lm", "record").ret == 0
    desk.forget_replies()
    result = desk.run("--prompt-lm", "replay")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["test_routes *unchanged *pass", "brittle *"])
    assert not list(project.path.rglob("missing.jsonl"))


def test_workers_and_several_models_keep_their_flips_apart(project: Any) -> None:
    project.tests(
        SHOUTING.replace('"team": "billing"}]', '"team": "billing"}, {"id": "t2", "ticket": "a bug"}]').replace(
            "== example.team", '== example.get("team", "bug")'
        )
    )
    result = project.run(
        "-n", "2", "--prompt-model", "scripted/desk", "--prompt-model", "scripted/contrary", plugins="xdist.plugin"
    )
    result.stdout.fnmatch_lines(["brittle *test_metric on scripted/desk: 1 of 2 rows flip*"])
    assert [path.name for path in (project.path / ".promptopt" / "perturbed").iterdir()] == [
        "test_desk.test_metric@scripted-desk.jsonl"
    ]


def test_hypothesis_is_neither_loaded_nor_leaves_a_trace(project: Any) -> None:
    project.tests(SHOUTING)
    project.conftest("""
        import sys

        def pytest_sessionfinish():
            assert "hypothesis" not in sys.modules
    """)
    result = project.run_apart()
    assert result.ret == 0
    result.stdout.fnmatch_lines(["brittle *"])
    assert not (project.path / ".hypothesis").exists()


# --- searches, dry runs, misuse ---------------------------------------------------------------------------------------


def test_a_perturbed_metric_serves_a_search_whose_scores_a_plain_run_repeats(project: Any) -> None:
    desk = Desk(project)
    desk.replace("test_desk.py", "threshold=0.8", 'threshold=0.1, perturb=["typos"], perturb_budget=4')
    assert desk.optimize().ret == 0
    assert desk.jobs()["desk.route"]["outcome"] == "frozen"
    result = desk.run()
    assert result.ret == 0
    result.stdout.fnmatch_lines(["test_routes *unchanged *pass"])
    assert desk.optimize().ret == 0
    assert desk.jobs()["desk.route"]["spending"]["attempts"] == 0


def test_a_search_learns_its_labels_from_rows_as_they_are(project: Any) -> None:
    desk = Desk(project)
    desk.replace("test_desk.py", "threshold=0.8", 'threshold=0.1, perturb=["whitespace"]')
    result = desk.optimize("--prompt-optimizer", "labeled-few-shot")
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*no labelled demos*")


def test_what_a_search_sees_of_a_row_are_the_calls_for_the_row_as_it_is() -> None:
    calls = [PromptCall(prompt="route", inputs={}, output=text, reasoning=None, reply=text) for text in "abc"]
    result = RowResult(
        id="t1",
        digest="",
        group=None,
        repeat=0,
        judgement=Judgement(status=Status.GRADED, score=0.5),
        calls=tuple(calls),
        survival=Survival(edits=2, flipped=1, calls=2),
    )
    metric: Any = None
    assert outcome_of(metric, [result]).calls == result.own_calls == (calls[0],)


def test_a_dry_run_counts_the_edits(project: Any) -> None:
    project.tests(metric('perturb=["typos"], perturb_budget=5'))
    project.run("--prompt-dry-run").stdout.fnmatch_lines(["test_metric *4 to 24 *"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ('perturb=["typo"]', "perturb has no kind typo; it has typos, casing, whitespace, punctuation, distractor, *"),
        ("perturb=7", "perturb=7 is out of its range"),
        ('perturb=["typos"], perturb_budget=0', "perturb_budget=0 is out of its range"),
        (
            'perturb=["typos", "casing", "typos", "injection"], perturb_budget=2',
            "perturb_budget=2 leaves no run for some of the 3 kinds in perturb; write perturb_budget=3 or more*",
        ),
    ],
)
def test_a_kind_or_a_budget_that_is_none_is_a_collection_error(project: Any, options: str, words: str) -> None:
    project.tests(metric(options))
    result = project.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([f"*{words}*"])


def test_a_kind_that_stands_twice_counts_once() -> None:
    mark = pytest.mark.prompt_metric("tickets", perturb=["typos", "casing", "typos"], perturb_budget=2).mark
    options = read_marker(mark)
    assert (options.perturb, options.sampled_edits) == (("typos", "casing"), 2)


def test_half_a_surrogate_pair_in_a_row_that_flips_is_kept_like_any_other(project: Any) -> None:
    project.tests("""
        ROWS[:] = [{"id": "t1", "ticket": "I would like a refund", "team": "billing", "note": "half \\ud800"}]

        @pytest.mark.prompt_metric("tickets", threshold=0.1, perturb=["casing"])
        def test_metric(example):
            route(ticket=example.ticket)
            assert example.ticket == "I would like a refund"
    """)
    project.run().assert_outcomes(passed=1)
    assert [row["note"] for row in flips(project)] == ["half \ud800"]


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_examples_of_the_page_run_and_print_what_it_says(project: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "robustness.md").read_text(encoding="utf-8")
    (project.path / "conftest.py").unlink()
    for name, text in re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```\n", page, re.DOTALL):
        (project.path / name).write_text(text, encoding="utf-8")
    (command,) = re.findall(r"<!-- command: robustness -->\n```sh\npytest (.*?)\n```\n", page)
    (output,) = re.findall(r"<!-- output: robustness -->\n```\n(.*?)```\n", page, re.DOTALL)
    printed = project.run_apart(*shlex.split(command)).stdout.str()
    said = [line for line in output.splitlines() if not re.match(r"\d+ replies", line)]
    assert [line for line in said if line not in printed.splitlines()] == []
    project.run_apart("test_given.py", "--prompt-model", "offline/keyword").assert_outcomes(passed=1)
