"""A search on several models: what one finds is tried on the next, on its own rows, and each keeps files of its own."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import pytest

from tests.plugin.projects import GOOD_INSTRUCTION, Desk, make_tickets, words

FIRST, SECOND, THIRD = "scripted/first", "scripted/second", "scripted/third"

HELPLESS = '''
def trouble(request, is_proposal):
    """Only the first model has an idea of its own."""
    if is_proposal and request.model != "scripted/first":
        return "```\\nDecide.\\n```"
'''
CONTRARY = '''
def trouble(request, is_proposal):
    """Only the first model has an idea of its own, and it confuses the second one."""
    if request.model != "scripted/second":
        return None
    return "```\\nDecide.\\n```" if is_proposal else "account"
'''
LOCKED_OUT = '''
from pytest_promptopt.errors import LMError, LMErrorKind


def trouble(request, is_proposal):
    """The first model refuses everything; the others have no idea of their own."""
    if request.model == "scripted/first":
        raise LMError("the key was refused", kind=LMErrorKind.AUTH)
    return "```\\nDecide.\\n```" if is_proposal else None
'''


def on(*models: str) -> tuple[str, ...]:
    """The options that name ``models``."""
    return tuple(word for model in models for word in ("--prompt-model", model))


def snapshot(desk: Desk, model: str) -> dict[str, Any]:
    """What is frozen for ``model``."""
    return tomllib.loads(desk.read(f"__prompts__/desk.route@{model.replace('/', '-')}.toml"))


@pytest.fixture
def desk(project: Any) -> Desk:
    desk = Desk(project)
    desk.write("trouble.py", HELPLESS)
    return desk


def test_what_one_model_found_is_tried_on_the_next_and_frozen_where_it_is_confirmed(desk: Desk) -> None:
    result = desk.optimize(*on(FIRST, SECOND))
    assert result.ret == 0
    first, second = snapshot(desk, FIRST), snapshot(desk, SECOND)
    assert first["instruction"].split() == second["instruction"].split() == GOOD_INSTRUCTION.split()
    assert "tried" not in first["provenance"]
    assert second["provenance"]["tried"] == second["provenance"]["taken_from"] == [FIRST]
    assert f"tried what {FIRST} found: 1.000 here" in words(result)
    assert f"note the search settles on what {FIRST} found" in words(result)
    job = desk.jobs()[f"desk.route on {SECOND}"]
    assert (job["outcome"], job["tried"], job["taken_from"]) == ("frozen", [FIRST], [FIRST])


def test_what_another_model_found_is_asked_on_this_ones_own_rows(desk: Desk) -> None:
    desk.optimize(*on(FIRST, SECOND))
    rows = {row["ticket"]: row["id"] for row in make_tickets(60)}
    found = [line for line in desk.asked() if line["system"].startswith(GOOD_INSTRUCTION[:60])]
    asked = {model: {rows[line["text"]] for line in found if line["model"] == model} for model in (FIRST, SECOND)}
    sealed = set(tomllib.loads(desk.read(BASELINE_OF_SECOND))["rows"])
    assert asked[FIRST] == asked[SECOND] > sealed, "the val rows and the sealed ones"


BASELINE_OF_SECOND = "__prompts__/test_desk.test_routes@scripted-second.toml"


def test_what_suits_one_model_and_confuses_another_is_frozen_for_the_one_alone(desk: Desk) -> None:
    desk.write("trouble.py", CONTRARY)
    result = desk.optimize(*on(FIRST, SECOND))
    assert [name for name in desk.frozen_files() if "desk.route@" in name] == [
        "__prompts__/desk.route@scripted-first.toml"
    ]
    job = desk.jobs()[f"desk.route on {SECOND}"]
    assert (job["outcome"], job["reason"]) == ("kept", "nothing better than the source was found")
    assert (job["tried"], job["taken_from"]) == ([FIRST], [])
    assert result.ret == 1, "the source is below the threshold on the second model"


def test_a_rerun_on_three_models_asks_nothing_and_changes_no_byte(desk: Desk) -> None:
    models = on(FIRST, SECOND, THIRD)
    assert desk.optimize(*models).ret == 0
    assert snapshot(desk, THIRD)["provenance"]["tried"] == [FIRST, SECOND], "they found the same, which is asked once"
    before = desk.frozen_files()
    desk.forget_asked()
    again = desk.optimize(*models)
    assert (again.ret, desk.asked(), desk.frozen_files()) == (0, [], before)
    assert {job["outcome"] for job in desk.jobs().values()} == {"unchanged"}


@pytest.mark.parametrize("arguments", [on(SECOND), (*on(FIRST, SECOND), "-k", SECOND)], ids=["alone", "-k"])
def test_a_model_that_is_searched_alone_knows_nothing_of_others(desk: Desk, arguments: tuple[str, ...]) -> None:
    desk.optimize(*on(FIRST))
    before = desk.frozen_files()
    result = desk.optimize(*arguments)
    (job,) = desk.jobs().values()
    assert (job["model"], job["outcome"], job["tried"]) == (SECOND, "kept", [])
    assert result.ret == 1
    assert {name: text for name, text in desk.frozen_files().items() if name in before} == before


def test_the_order_of_the_command_line_is_the_order_of_the_searches(desk: Desk) -> None:
    desk.optimize(*on(SECOND, FIRST))
    jobs = desk.jobs()
    assert [job["model"] for job in jobs.values()] == [SECOND, FIRST]
    assert [job["tried"] for job in jobs.values()] == [[], []], "the helpless one found nothing to try"
    desk.replace("test_desk.py", "def test_routes", "def test_also_routes")
    desk.write("test_desk.py", desk.read("test_desk.py") + TWIN)
    desk.optimize("-k", f"test_late or (test_also and {FIRST})", *on(SECOND, FIRST))
    assert [job["model"] for job in desk.jobs().values()] == [SECOND, FIRST], "whatever order their metrics stand in"


TWIN = """

@pytest.mark.prompt_metric("tickets", threshold=0.8)
def test_late(example):
    assert route(ticket=example["ticket"]) == example["team"]
"""


def test_a_model_that_does_not_answer_fails_its_own_job_alone_and_has_nothing_to_offer(desk: Desk) -> None:
    desk.write("trouble.py", LOCKED_OUT)
    result = desk.optimize(*on(FIRST, SECOND))
    assert result.ret == 1
    assert f"desk.py::route[{FIRST}]" in words(result)
    assert "the key was refused" in words(result)
    (job,) = desk.jobs().values()
    assert (job["model"], job["tried"]) == (SECOND, [])
    assert not [name for name in desk.frozen_files() if "scripted-first" in name]


def test_rows_that_another_metric_seals_keep_a_foreign_winner_out(desk: Desk) -> None:
    """The first model learns from rows that the second one's other metric confirms on."""
    rows = [{**row, "day": f"d{number % 20}"} for number, row in enumerate(make_tickets(80))]
    desk.rows(rows)
    desk.write("test_desk.py", desk.read("test_desk.py") + TWIN.replace("threshold=0.8", 'group="day"'))
    result = desk.optimize("-k", f"test_routes or (test_late and {SECOND})", *on(FIRST, SECOND))
    assert "are sealed by another metric" in words(result)
    assert [job["tried"] for job in desk.jobs().values()] == [[], []]
    assert desk.optimize(*on(FIRST, SECOND)) is not None
    assert [job["tried"] for job in desk.jobs().values()] == [[], [FIRST]], "both see the same rows now"


def test_a_dataset_fixture_is_made_once_for_all_models(desk: Desk) -> None:
    desk.replace("test_desk.py", "def tickets():", "def tickets():\n    open('made', 'a').write('x')")
    desk.optimize(*on(FIRST, SECOND, THIRD))
    assert desk.read("made") == "x"


def test_the_budget_holds_for_all_models_together_and_says_what_there_was_no_room_for(desk: Desk) -> None:
    desk.make_remote()
    least = re.search(r"takes at least (\d+) calls", words(desk.optimize("--prompt-budget", "5", *on(FIRST, SECOND))))
    assert least is not None
    budget = int(least[1]) + 40
    desk.forget_asked()
    result = desk.optimize("--prompt-budget", str(budget), "--prompt-max-cost", "none", *on(FIRST, SECOND))
    assert result.ret in (0, 1)
    assert 0 < len(desk.asked()) <= budget
    assert f"what {FIRST} found was not tried" in words(result)


def test_a_dry_run_counts_what_other_models_found(desk: Desk) -> None:
    """This strategy has one candidate to score, so its most calls are those of the seeds as soon as there are any."""
    desk.rows(make_tickets(48))
    models = (
        "--prompt-optimizer",
        "labeled-few-shot",
        "--prompt-set",
        "labeled-few-shot.k=4",
        *on(FIRST, SECOND),
    )
    forecast = words(desk.optimize("--prompt-dry-run", *models))
    bounds = re.search(r"in all with labeled-few-shot: (\d+) to (\d+) calls", forecast)
    assert bounds is not None, forecast
    assert desk.asked() == []
    desk.optimize(*models)
    assert int(bounds[1]) <= len(desk.asked()) <= int(bounds[2])
    assert len(desk.asked()) == int(bounds[2]), "all of it was asked, so nothing less would hold"


def test_the_log_names_a_foreign_winner_before_the_first_proposal(desk: Desk) -> None:
    desk.optimize(*on(FIRST, SECOND))
    lines = [json.loads(line) for line in desk.read(".promptopt/events.jsonl").splitlines()]
    starts = [place for place, line in enumerate(lines) if line["event"] == "search_started"]
    first, second = lines[starts[0] : starts[1]], lines[starts[1] :]
    winner = next(line["digest"] for line in first if line["event"] == "search_ended")
    scored = next(line for line in second if line["event"] == "trial_scored")
    assert scored["digest"] == winner
    assert not [line for line in second[: second.index(scored)] if line["event"] == "proposed"]


def test_a_heading_begins_a_line_after_a_job_that_nothing_measures(desk: Desk) -> None:
    desk.replace(
        "desk.py",
        "@prompt\ndef route",
        '@prompt\ndef idle(ticket: str) -> str:\n    """Say hello."""\n\n\n@prompt\ndef route',
    )
    result = desk.optimize(*on(FIRST, SECOND))
    assert len([line for line in result.stdout.lines if line.startswith("desk.py::route on")]) == 2


@pytest.mark.parametrize("model", ["scripted/für", "scripted/a:b", "scripted/a/b", "scripted/a-b]", "scripted/a b"])
def test_whatever_a_model_is_called_its_baseline_is_the_metrics_own(desk: Desk, model: str) -> None:
    assert desk.run("--prompt-bless", *on(SECOND, model)).ret == 1, "below the threshold on both"
    names = [name for name in desk.frozen_files() if "test_routes" in name]
    baselines = [tomllib.loads(desk.read(name)) for name in names]
    assert [one["metric"] for one in baselines] == ["test_desk.test_routes"] * 2
    assert {one["model"] for one in baselines} == {SECOND, model}
    desk.run(*on(model))
    assert desk.figure()["verdict"]["paired_rows"] == 60, "alone it has the baseline that it got among others"
