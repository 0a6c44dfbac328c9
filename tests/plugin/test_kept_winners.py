"""A winner that nothing confirmed has a name, lies where one can look at it, and is frozen when somebody means it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pytest_promptopt.prompts.frozen import read_frozen
from pytest_promptopt.snapshots.baseline import read_baseline
from tests.plugin.projects import BASELINE, GOOD_INSTRUCTION, SNAPSHOT, Desk, words

HARD_TO_PROVE = "promptopt_freeze_alpha = 0.000001"
"""The 14 sealed rows that the taught prompt gains give p = 0.00006, so that it is good and yet unproven."""

SECOND_PROMPT = '''

@prompt
def check(ticket: str) -> Literal["billing", "bug", "account"]:
    """Check which team should answer."""
'''
BOTH = """

from desk import check


@pytest.mark.prompt_metric("tickets")
def test_both(example):
    answers = [route(ticket=example["ticket"]), check(ticket=example["ticket"])]
    return answers.count(example["team"]) / 2
"""


def _unproven_desk(project: Any, *, rows: int = 60) -> Desk:
    desk = Desk(project, rows=rows)
    desk.replace("test_desk.py", ", threshold=0.8", "")
    desk.ini(HARD_TO_PROVE)
    return desk


def _keep(desk: Desk, *arguments: str) -> str:
    """Search, and give the name of the winner that was kept."""
    result = desk.optimize(*arguments)
    assert result.ret == 0, result.stdout.str()
    job = desk.jobs()["desk.route"]
    assert job["outcome"] == "kept"
    name: str = job["candidate"]
    assert job["kept"] == f".promptopt/kept/{name}"
    return name


def _kept_file(desk: Desk, name: str) -> Path:
    return desk.path / ".promptopt/kept" / name / Path(SNAPSHOT).name


def _frozen_on_purpose(project: Any) -> tuple[Desk, str]:
    desk = _unproven_desk(project)
    name = _keep(desk)
    desk.forget_asked()
    result = desk.optimize("--prompt-freeze", name)
    assert result.ret == 0, result.stdout.str()
    return desk, name


def _provenance(desk: Desk) -> dict[str, Any]:
    provenance: dict[str, Any] = tomllib.loads(desk.read(SNAPSHOT))["provenance"]
    return provenance


# --- to look at -------------------------------------------------------------------------------------------------------


def test_a_winner_that_is_kept_lies_in_the_store_as_the_snapshot_that_it_would_have_become(project: Any) -> None:
    desk = _unproven_desk(project)
    name = _keep(desk)
    job = desk.jobs()["desk.route"]
    path = _kept_file(desk, name)
    frozen = read_frozen(path.read_text(), path=path, prompt="desk.route", model="scripted/learner")
    assert frozen.compiled.instruction == GOOD_INSTRUCTION
    assert frozen.unconfirmed_reason == job["reason"]
    assert frozen.unconfirmed_reason.startswith("not proven better")
    confirmation = frozen.provenance["confirmation"]
    assert isinstance(confirmation, dict)
    assert confirmation["p"] == pytest.approx(job["p"], rel=0.001)
    assert (confirmation["before"], confirmation["after"]) == (round(job["sealed_before"], 4), job["sealed_after"])
    assert [*desk.frozen_files()] == [BASELINE]  # it remembers that this winner was tried, as ever


def test_it_is_for_its_owner_alone(project: Any) -> None:
    desk = _unproven_desk(project)
    path = _kept_file(desk, _keep(desk))
    assert path.stat().st_mode & 0o777 == 0o600
    for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700, folder
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_outcome_names_its_folder_and_v_shows_what_it_would_change(project: Any) -> None:
    desk = _unproven_desk(project)
    result = desk.optimize()
    name = desk.jobs()["desk.route"]["candidate"]
    result.stdout.fnmatch_lines([f"*kept*not proven better*the candidate stays in .promptopt/kept/{name}*calls*"])
    assert "Choose billing for" not in words(result)
    verbose = desk.optimize("-v")
    verbose.stdout.fnmatch_lines(
        [
            f"desk.route: what {name} would change",
            "*+ *Choose billing for: refund*",
            f"freeze {name} unconfirmed: the same command with --prompt-freeze {name}",
        ]
    )


def test_the_same_search_keeps_the_same_bytes(project: Any) -> None:
    desk = _unproven_desk(project)
    path = _kept_file(desk, _keep(desk))
    first = path.read_bytes()
    desk.forget_replies()
    _keep(desk)
    assert path.read_bytes() == first


def test_prompts_that_were_searched_together_are_kept_together(project: Any) -> None:
    desk = _unproven_desk(project)
    desk.write("desk.py", desk.read("desk.py") + SECOND_PROMPT)
    desk.write("test_desk.py", desk.read("test_desk.py") + BOTH)
    folder = _kept_file(desk, _keep(desk)).parent
    assert {path.name for path in folder.iterdir()} == {
        f"desk.{name}@scripted-learner.toml" for name in ("route", "check")
    }


def test_nothing_is_kept_where_nothing_better_was_found_or_the_winner_is_frozen(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    assert not (desk.path / ".promptopt/kept").exists()
    desk = Desk.anew(project)
    desk.replace("desk.py", "Decide which team should answer.", GOOD_INSTRUCTION)
    result = desk.optimize("-v")
    assert "stays in" not in words(result)
    assert not (desk.path / ".promptopt/kept").exists()


# --- frozen on purpose ------------------------------------------------------------------------------------------------


def test_the_winner_is_frozen_on_purpose_without_a_call_and_says_that_it_is_unconfirmed(project: Any) -> None:
    desk, name = _frozen_on_purpose(project)
    assert desk.asked() == []
    job = desk.jobs()["desk.route"]
    assert (job["outcome"], job["candidate"], job["kept"]) == ("frozen", name, "")
    assert job["unconfirmed"].startswith("not proven better")
    provenance = _provenance(desk)
    assert [*provenance][:2] == ["unconfirmed", "reason"]
    assert provenance["unconfirmed"] is True
    assert provenance["reason"] == job["unconfirmed"]
    assert (desk.path / SNAPSHOT).read_bytes() == _kept_file(desk, name).read_bytes()


def test_the_terminal_says_frozen_unconfirmed_and_what_changed(project: Any) -> None:
    desk = _unproven_desk(project)
    result = desk.optimize("--prompt-freeze", _keep(desk))
    result.stdout.fnmatch_lines(
        [
            f"  frozen, unconfirmed {SNAPSHOT}; not proven better*0 calls, everything from the store",
            "desk.route*frozen, unconfirmed*",
            "desk.route: what changed",
            "next: git add __prompts__ && git commit",
        ]
    )


def test_its_baseline_is_that_of_any_freeze(project: Any) -> None:
    desk, _ = _frozen_on_purpose(project)
    baseline = read_baseline(desk.read(BASELINE), path=desk.path / BASELINE)
    assert baseline.reads == "sealed"
    assert [row.score for row in baseline.rows] == [1.0] * 21
    assert len(baseline.sealed) == 1
    unconfirmed = desk.frozen_files()[BASELINE]
    desk = Desk.anew(project)
    desk.replace("test_desk.py", ", threshold=0.8", "")
    desk.freeze()
    assert desk.frozen_files()[BASELINE] == unconfirmed


def test_a_plain_run_and_the_list_show_that_it_is_unconfirmed(project: Any) -> None:
    desk, _ = _frozen_on_purpose(project)
    result = desk.run()
    assert result.ret == 0
    assert desk.asked() == []
    said = words(result)
    assert "unconfirmed desk.route: it was frozen on purpose and never proven better" in said
    assert "(not proven better" in said
    assert desk.figure()["prompts"][0]["unconfirmed"]
    assert "frozen unconfirmed 1.000, 21 rows" in words(desk.run("--prompt-list"))


def test_a_prompt_that_was_confirmed_has_no_such_note(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    assert "unconfirmed" not in words(desk.run()) + words(desk.run("--prompt-list"))
    assert "unconfirmed" not in desk.read(SNAPSHOT)


def test_too_few_rows_to_confirm_anything_can_be_frozen_on_purpose(project: Any) -> None:
    desk = _unproven_desk(project, rows=20)
    name = _keep(desk)
    assert desk.frozen_files() == {}
    result = desk.optimize("--prompt-freeze", name)
    assert result.ret == 0
    provenance = _provenance(desk)
    assert "8 sealed rows, 10 are needed" in provenance["reason"]
    assert "confirmation" not in provenance
    baseline = read_baseline(desk.read(BASELINE), path=desk.path / BASELINE)
    assert (len(baseline.rows), baseline.reads, baseline.sealed) == (8, "sealed", ())  # compared with nothing
    assert desk.run().ret == 0


def test_where_replies_vary_its_baseline_is_a_fresh_draw_too(project: Any) -> None:
    desk = _unproven_desk(project)
    desk.replace("desk.py", "@prompt\n", "@prompt(temperature=0.7)\n")
    name = _keep(desk)
    desk.forget_asked()
    assert desk.optimize("--prompt-freeze", name).ret == 0
    assert {line["repeat"] for line in desk.asked()} == {0}
    assert len(desk.asked()) == 21


def test_a_winner_on_one_model_leaves_the_other_models_as_they_are(project: Any) -> None:
    desk = _unproven_desk(project)
    both = ("--prompt-model", "scripted/learner", "--prompt-model", "scripted/other")
    desk.write(
        "trouble.py",
        """
        def trouble(request, is_proposal):
            if is_proposal and request.model == "scripted/learner":
                return "```\\nChoose billing for: refund, invoice, receipt, discount, charged.\\n```"
        """,
    )
    assert desk.optimize(*both).ret == 0
    names = {job["model"]: job["candidate"] for job in desk.jobs().values()}
    assert len(set(names.values())) == 2
    assert desk.optimize(*both, "--prompt-freeze", names["scripted/other"]).ret == 0
    outcomes = {job["model"]: job["outcome"] for job in desk.jobs().values()}
    assert outcomes == {"scripted/learner": "kept", "scripted/other": "frozen"}


def test_other_winners_of_that_run_are_left_aside_however_good_they_are(project: Any) -> None:
    desk = _unproven_desk(project)
    both = ("--prompt-model", "scripted/other", "--prompt-model", "scripted/learner")
    desk.write(
        "trouble.py",
        """
        def trouble(request, is_proposal):
            if is_proposal and request.model == "scripted/other":
                return "```\\nChoose billing for: refund, invoice, receipt, discount, charged.\\n```"
        """,
    )
    assert desk.optimize(*both).ret == 0
    before = desk.frozen_files()
    name = desk.jobs()["desk.route on scripted/other"]["candidate"]
    desk.ini()  # by now the other one would be confirmed, and frozen
    desk.forget_asked()
    result = desk.optimize(*both, "--prompt-freeze", name)
    assert result.ret == 0
    assert desk.asked() == []
    job = desk.jobs()["desk.route on scripted/learner"]
    assert (job["outcome"], job["kept"], job["p"]) == ("kept", "", None)
    assert job["reason"] == f"--prompt-freeze {name} leaves every other winner aside"
    after = desk.frozen_files()
    assert {path for path in after if after[path] != before.get(path)} == {
        path.replace("learner", "other") for path in (SNAPSHOT, BASELINE)
    }


ANOTHER_WAY = (
    *("--prompt-optimizer", "labeled-few-shot", "--prompt-set", "labeled-few-shot.k=6"),
    *("--prompt-seed", "3", "--prompt-budget", "300"),
)


def test_a_freeze_without_the_options_that_found_it_freezes_nothing_and_names_them(project: Any) -> None:
    desk = _unproven_desk(project)
    name = _keep(desk, *ANOTHER_WAY)
    before, kept = desk.frozen_files(), _kept_file(desk, name).read_bytes()
    desk.ini()  # what copro finds would be confirmed
    result = desk.optimize("--prompt-freeze", name)
    assert result.ret == 1
    assert desk.frozen_files() == before
    said = words(result)
    assert f"--prompt-freeze {name}: no search found it; found instead: p-" in said
    assert f"{name} lies in .promptopt/kept/{name}; to find it again, type the same command with" in said
    assert f"with {' '.join(ANOTHER_WAY)}" in said
    desk.ini(HARD_TO_PROVE)
    assert desk.optimize("--prompt-freeze", name, *ANOTHER_WAY).ret == 0
    assert (desk.path / SNAPSHOT).read_bytes() == kept


def test_where_all_options_are_the_same_the_rows_or_the_code_are_to_blame(project: Any) -> None:
    desk = _unproven_desk(project)
    name = _keep(desk)
    desk.write("trouble.py", "def trouble(request, is_proposal):\n    return 'no prompt' if is_proposal else None\n")
    desk.replace("desk.py", "Decide which team should answer.", GOOD_INSTRUCTION)
    result = desk.optimize("--prompt-freeze", name)
    assert result.ret == 1
    assert f"{name} lies in .promptopt/kept/{name} and was found with these options" in words(result)


def test_a_plain_run_tells_how_to_try_again_with_the_options_that_found_it(project: Any) -> None:
    desk = _unproven_desk(project)
    name = _keep(desk, *ANOTHER_WAY)
    assert desk.optimize("--prompt-freeze", name, *ANOTHER_WAY).ret == 0
    said = words(desk.run())
    assert f"try again: pytest --optimize-prompts --prompt route {' '.join(ANOTHER_WAY)}" in said
    desk.ini(HARD_TO_PROVE, "promptopt_seed = 3")
    assert "labeled-few-shot.k=6 --prompt-budget 300" in words(desk.run())  # the ini file says the seed anyway


# --- what comes after -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", ["the same command", "a search"])
def test_a_later_run_changes_no_byte_and_calls_nothing(project: Any, again: str) -> None:
    desk, name = _frozen_on_purpose(project)
    files = desk.frozen_files()
    result = desk.optimize(*(("--prompt-freeze", name) if again == "the same command" else ()))
    assert result.ret == 0
    assert desk.asked() == []
    assert desk.frozen_files() == files
    assert desk.jobs()["desk.route"]["outcome"] == "unchanged"
    result.stdout.fnmatch_lines([f"  unchanged, unconfirmed {SNAPSHOT}; not proven better*0 calls*"])


def test_a_baseline_that_was_lost_is_made_again_with_the_scores_of_what_is_frozen(project: Any) -> None:
    desk, _ = _frozen_on_purpose(project)
    files = desk.frozen_files()
    (desk.path / BASELINE).unlink()
    assert desk.optimize().ret == 0
    assert desk.frozen_files() == files


def test_a_later_search_that_confirms_it_takes_the_mark_away(project: Any) -> None:
    desk, _ = _frozen_on_purpose(project)
    desk.ini()
    result = desk.optimize()
    assert result.ret == 0
    assert desk.asked() == []
    job = desk.jobs()["desk.route"]
    assert (job["outcome"], job["unconfirmed"]) == ("frozen", "")
    files = desk.frozen_files()
    assert "unconfirmed" not in _provenance(desk)
    desk = Desk.anew(project)
    desk.replace("test_desk.py", ", threshold=0.8", "")
    desk.freeze()
    assert desk.frozen_files() == files


def test_a_later_winner_is_compared_with_it_as_with_any_snapshot(project: Any) -> None:
    desk = _unproven_desk(project)
    teach = "def trouble(request, is_proposal):\n    return '```\\nChoose {}\\n```' if is_proposal else None\n"
    desk.write("trouble.py", teach.format("billing for: refund, invoice, receipt, discount, charged."))
    first = _keep(desk)
    assert desk.optimize("--prompt-freeze", first).ret == 0
    desk.ini()
    desk.write("trouble.py", "def trouble(request, is_proposal):\n    return None\n")
    assert desk.optimize("--prompt-seed", "1", "--prompt-lm", "live").ret == 0
    log = [json.loads(line) for line in desk.read(".promptopt/events.jsonl").splitlines()]
    (confirmed,) = [line for line in log if line["event"] == "confirmed"]
    assert confirmed["incumbent"]["candidate"] == first
    assert confirmed["candidate"] == desk.jobs()["desk.route"]["candidate"] != first
    assert desk.jobs()["desk.route"]["outcome"] == "frozen"
    assert (_provenance(desk)["parent"], "unconfirmed" in _provenance(desk)) == (
        confirmed["incumbent"]["digest"],
        False,
    )


def test_what_replaced_another_snapshot_on_purpose_stays_unconfirmed_though_it_beats_the_source(project: Any) -> None:
    desk = Desk(project)
    desk.replace("test_desk.py", ", threshold=0.8", "")
    desk.freeze()
    desk.write(
        "trouble.py",
        """
        TEXT = "Choose billing for: refund, invoice, receipt, discount, charged."

        def trouble(request, is_proposal):
            return f"```\\n{TEXT}\\n```" if is_proposal else None
        """,
    )
    anew = ("--prompt-seed", "1", "--prompt-lm", "live")
    name = _keep(desk, *anew)
    assert desk.jobs()["desk.route"]["sealed_after"] < 1.0
    desk.optimize(*anew, "--prompt-freeze", name)
    assert _provenance(desk)["reason"] == "not better on the sealed rows"
    assert len(_provenance(desk)["parent"]) == 16
    files = desk.frozen_files()
    desk.optimize(*anew)
    assert desk.jobs()["desk.route"]["outcome"] == "unchanged"
    assert desk.jobs()["desk.route"]["unconfirmed"] == "not better on the sealed rows"
    assert desk.frozen_files() == files


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_name_that_no_search_finds_ends_in_exit_status_1_and_what_was_found(project: Any) -> None:
    desk = _unproven_desk(project)
    name = _keep(desk)
    before = desk.frozen_files()
    other = "p-0000" if name != "p-0000" else "p-0001"
    result = desk.optimize("--prompt-freeze", other)
    assert result.ret == 1
    assert f"--prompt-freeze {other}: no search found it; found instead: {name} (desk.route, kept)" in words(result)
    assert desk.frozen_files() == before


def test_where_nothing_better_was_found_the_refusal_says_so(project: Any) -> None:
    desk = _unproven_desk(project)
    desk.replace("desk.py", "Decide which team should answer.", GOOD_INSTRUCTION)
    result = desk.optimize("--prompt-freeze", "p-7f3a")
    assert result.ret == 1
    assert "--prompt-freeze p-7f3a: no search found it; found instead: nothing better than the source" in words(result)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--optimize-prompts", "--prompt-freeze", "prompts.route"), "such as p-7f3a"),
        (("--optimize-prompts", "--prompt-freeze", "p-7F3A"), "such as p-7f3a"),
        (("--prompt-freeze", "p-7f3a"), "add --optimize-prompts"),
    ],
)
def test_a_name_that_cannot_be_meant_is_misuse(project: Any, arguments: tuple[str, ...], told: str) -> None:
    desk = _unproven_desk(project)
    result = desk.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert told in words(result)
    assert desk.asked() == []


def test_a_failing_must_pass_row_refuses_it_however_much_it_is_meant(project: Any) -> None:
    desk = _unproven_desk(project)
    desk.replace("test_desk.py", '"tickets"', '"tickets", must_pass=["t-002"]')
    desk.write(
        "trouble.py",
        f"""
        from pathlib import Path

        TEXT = {json.loads(desk.read("tickets.jsonl").splitlines()[1])["ticket"]!r}

        def trouble(request, is_proposal):
            if not is_proposal and request.messages[-1]["content"] == TEXT:
                return "billing"
        """,
    )
    name = _keep(desk)
    result = desk.optimize("--prompt-freeze", name)
    assert result.ret == 1
    reason = "test_routes fails on the must-pass row t-002"
    assert f"--prompt-freeze {name}: not frozen, because {reason}" in words(result)
    assert SNAPSHOT not in desk.frozen_files()


def test_a_metric_that_raises_under_it_refuses_it_too(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    desk.run()
    sealed = next(row["id"] for row in desk.figure()["rows"] if (int(row["id"][2:]) - 1) % 3 == 1)
    desk = Desk.anew(project)
    desk.replace("test_desk.py", ", threshold=0.8", "")
    desk.replace(
        "test_desk.py",
        '    assert route(ticket=example["ticket"]) == example["team"]',
        '    answer = route(ticket=example["ticket"])\n'
        f'    if example.id == "{sealed}" and answer == "bug":\n'
        '        raise KeyError("no such shelf")\n'
        '    assert answer == example["team"]',
    )
    name = _keep(desk)
    result = desk.optimize("--prompt-freeze", name)
    assert result.ret == 1
    assert f"raised on row {sealed}" in words(result)
    assert desk.frozen_files() == {}
