"""Freeze, edit, judge: what a plain run says about prompts that somebody changed, and which rows it reads."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest

from tests.plugin.projects import BASELINE, GOOD_INSTRUCTION, SNAPSHOT, Desk, make_tickets, words

DOCSTRING = "Decide which team should answer."


def _frozen_desk(project: Any, **options: Any) -> Desk:
    desk = Desk(project, **options)
    desk.freeze()
    desk.forget_asked()
    return desk


def _commit(desk: Desk) -> None:
    """Put everything under git, as a project that freezes prompts has it."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "frozen")):
        names = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *names, *command], cwd=desk.path, check=True, capture_output=True)


def _harm(desk: Desk) -> None:
    """Take what was learned about two teams out of the frozen instruction."""
    text = desk.read(SNAPSHOT)
    billing, account = text.index("Choose billing"), text.index("Choose account")
    (desk.path / SNAPSHOT).write_text(text[:billing] + text[account:], encoding="utf-8")


# --- the frozen file was edited ---------------------------------------------------------------------------------------


def test_a_harmful_edit_of_a_frozen_instruction_fails_with_rows_drop_interval_p_and_ways_out(project: Any) -> None:
    desk = _frozen_desk(project)
    _commit(desk)
    _harm(desk)
    result = desk.run()
    assert result.ret == 1
    result.assert_outcomes(failed=1)
    verdict = desk.figure()["verdict"]
    lost = verdict["lost"]
    assert verdict["outcome"] == "fail"
    assert len(lost) == 12
    result.stdout.fnmatch_lines(
        [
            "*prompt got worse: 12 of 21 rows lost, 0 gained with desk.route on scripted/learner",
            "*score*1.000 (21/21) -> 0.429 (9/21), -0.571, 90 % interval -*p < 0.001",
            f"*changed*{SNAPSHOT}, edited since it was frozen",
            "*- Choose billing for: refund, invoice, receipt, discount, charged.*",
            "*lost*why*ticket*",
            f"*{lost[0]}*",
            "*undo*git checkout -- __prompts__",
            "*accept*pytest test_desk.py::test_routes --prompt-bless",
            "*improve*pytest --optimize-prompts --prompt route",
        ]
    )
    assert desk.figure()["prompts"][0]["standing"] == "edited"


def test_the_undo_that_is_printed_undoes(project: Any) -> None:
    desk = _frozen_desk(project)
    _commit(desk)
    frozen = desk.frozen_files()
    _harm(desk)
    undo = next(line for line in desk.run().outlines if "git checkout" in line)
    subprocess.run(undo[undo.index("git checkout") :].split(), cwd=desk.path, check=True, capture_output=True)
    assert desk.frozen_files() == frozen
    assert desk.run().ret == 0


def test_an_edited_file_is_used_shown_and_judged(project: Any) -> None:
    desk = _frozen_desk(project)
    _commit(desk)
    desk.replace(SNAPSHOT, "Decide which team", "Please decide which team")
    result = desk.run()
    assert result.ret == 0
    assert {line["system"].split("\n")[0][:21] for line in desk.asked()} == {"Please decide which t"}
    result.stdout.fnmatch_lines(["test_routes*pass, edited", "edited*desk.route: *"])
    assert "was edited after it was frozen; the edit is used and judged." in words(result)
    assert "- Decide which team should answer. + Please decide which team should answer." in words(result)


def test_an_accepted_edit_is_the_new_baseline(project: Any) -> None:
    desk = _frozen_desk(project)
    desk.replace(SNAPSHOT, "Choose billing for: refund,", "Choose billing for:")
    before = desk.read(BASELINE)
    result = desk.run("--prompt-bless")
    assert result.ret == 0
    assert desk.read(BASELINE) != before
    assert SNAPSHOT in desk.frozen_files()
    result = desk.run()
    assert result.ret == 0
    assert desk.figure()["verdict"]["difference"] == 0.0
    assert desk.figure()["verdict"]["score"] < 1.0


def test_a_new_search_overwrites_an_edit_only_by_something_proven_better(project: Any) -> None:
    desk = _frozen_desk(project)
    frozen = desk.frozen_files()[SNAPSHOT]
    desk.replace(SNAPSHOT, "Decide which team", "Please decide which team")
    edited = desk.frozen_files()[SNAPSHOT]
    result = desk.optimize()
    assert result.ret == 0
    assert desk.frozen_files()[SNAPSHOT] == edited
    assert desk.jobs()["desk.route"]["outcome"] == "kept"
    _harm(desk)
    assert desk.optimize().ret == 0
    assert desk.jobs()["desk.route"]["outcome"] == "frozen"
    assert desk.frozen_files()[SNAPSHOT].partition(b"[provenance]")[0] == frozen.partition(b"[provenance]")[0]


# --- the code was edited ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_ci", [False, True])
def test_a_worse_docstring_is_stale_and_fails_everywhere(
    project: Any, monkeypatch: pytest.MonkeyPatch, is_ci: bool
) -> None:
    desk = _frozen_desk(project)
    files = desk.frozen_files()
    desk.replace("desk.py", DOCSTRING, "Say who should answer.")
    if is_ci:
        monkeypatch.setenv("CI", "1")
    result = desk.run()
    assert result.ret == 1
    assert desk.figure()["verdict"]["outcome"] == "fail"
    assert desk.figure()["prompts"][0]["standing"] == "stale"
    assert {line["system"].partition("\n")[0] for line in desk.asked()} == {"Say who should answer."}
    result.stdout.fnmatch_lines(
        [
            "*changed*desk.py:6, its docstring changed since it was frozen: the source runs, in production too",
            "*accept*pytest test_desk.py::test_routes --prompt-bless*",
            "*improve*pytest --optimize-prompts --prompt route",
        ]
    )
    assert desk.frozen_files() == files


def test_a_docstring_as_good_as_the_frozen_prompt_is_stale_and_warns_on_a_laptop(project: Any) -> None:
    desk = _frozen_desk(project)
    desk.replace("desk.py", DOCSTRING, GOOD_INSTRUCTION + " Be quick.")
    result = desk.run()
    assert result.ret == 0
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "test_routes*pass, stale",
            "stale*desk.route: its docstring changed after it was frozen (desk.py:6)*",
            "*keep the edit: pytest --prompt-bless --prompt route",
            "*search again:  pytest --optimize-prompts --prompt route",
        ]
    )
    assert "1 prompt warning" in words(result)


def test_a_docstring_as_good_as_the_frozen_prompt_fails_in_ci_until_it_is_blessed(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = _frozen_desk(project)
    baseline = desk.read(BASELINE)
    desk.replace("desk.py", DOCSTRING, GOOD_INSTRUCTION + " Be quick.")
    monkeypatch.setenv("CI", "1")
    result = desk.run()
    assert result.ret == 1
    assert "exit status 1, because --prompt-strict stale, unrecorded: test_routes: stale desk.route" in words(result)
    monkeypatch.delenv("CI")
    result = desk.run("--prompt-bless", "--prompt", "route")
    assert result.ret == 0
    result.stdout.fnmatch_lines_random([f"blessed: {SNAPSHOT} (stale, retired)", f"blessed: {BASELINE} (new scores)"])
    assert [*desk.frozen_files()] == [BASELINE]
    assert desk.read(BASELINE) != baseline
    assert desk.run().ret == 0
    monkeypatch.setenv("CI", "1")
    assert desk.run().ret == 0


def test_rewrapping_a_docstring_makes_nothing_stale(project: Any) -> None:
    desk = _frozen_desk(project)
    desk.replace("desk.py", DOCSTRING, "Decide which team\n    should   answer.\n    ")
    assert desk.run().ret == 0
    assert desk.asked() == []
    assert desk.figure()["prompts"][0]["standing"] == "frozen"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"bug", "account"]', '"bug", "account", "other"]'),
        ("@prompt\n", "@prompt(reasoning=True)\n"),
        ("@prompt\n", "@prompt(max_tokens=50)\n"),
    ],
)
def test_a_changed_signature_is_stale_too(project: Any, old: str, new: str) -> None:
    desk = _frozen_desk(project)
    desk.replace("desk.py", old, new)
    desk.run()
    assert desk.figure()["prompts"][0]["standing"] == "stale"


def test_a_search_after_a_docstring_edit_ends_the_staleness(project: Any) -> None:
    desk = _frozen_desk(project)
    desk.replace("desk.py", DOCSTRING, "Say who should answer.")
    assert desk.optimize().ret == 0
    assert desk.jobs()["desk.route"]["outcome"] == "frozen"
    assert desk.run().ret == 0
    assert desk.figure()["prompts"][0]["standing"] == "frozen"


# --- orphans and strictness -------------------------------------------------------------------------------------------


def test_an_orphan_is_reported_and_never_deleted(project: Any) -> None:
    desk = _frozen_desk(project)
    files = desk.frozen_files()
    for name in ("desk.py", "test_desk.py"):
        desk.write(name, desk.read(name).replace("route", "sort_out").replace("threshold=0.8", "threshold=0.1"))
    result = desk.run_apart()
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"orphan*{SNAPSHOT}: *", f"orphan*{BASELINE}: *"])
    assert desk.frozen_files() == files
    desk.run_apart("test_desk.py").stdout.no_fnmatch_line("orphan*")
    assert desk.run_apart("--prompt-bless").ret == 0
    assert files.items() <= desk.frozen_files().items()
    assert desk.run_apart("--prompt-strict", "orphan").ret == 1


def _make_stale(desk: Desk) -> None:
    desk.replace("desk.py", DOCSTRING, GOOD_INSTRUCTION + " Be quick.")


def _make_unfrozen(desk: Desk) -> None:
    (desk.path / SNAPSHOT).unlink()
    (desk.path / BASELINE).unlink()
    desk.replace("test_desk.py", "threshold=0.8", "threshold=0.1")


def _make_inconclusive(desk: Desk) -> None:
    desk.replace(SNAPSHOT, "invoice,", "")
    desk.replace("test_desk.py", "threshold=0.8", "threshold=0.1")
    assert desk.run().ret == 0
    assert desk.figure()["verdict"]["outcome"] == "inconclusive"


@pytest.mark.parametrize(
    ("trouble", "choice"),
    [(_make_stale, "stale"), (_make_unfrozen, "unfrozen"), (_make_inconclusive, "inconclusive")],
)
def test_strict_turns_one_warning_into_a_failure_and_no_other(project: Any, trouble: Any, choice: str) -> None:
    desk = _frozen_desk(project)
    trouble(desk)
    others = {"stale", "orphan", "unrecorded", "unfrozen", "inconclusive"} - {choice}
    if choice == "stale":
        others -= {"unfrozen"}  # a stale prompt runs its source, as one that nobody froze
    assert desk.run("--prompt-strict", ",".join(sorted(others))).ret == 0
    assert desk.run("--prompt-strict", choice).ret == 1
    assert desk.run("--prompt-strict", "all").ret == 1
    assert desk.run("--prompt-strict", "none").ret == 0


def test_none_lets_a_stale_prompt_pass_in_ci(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = _frozen_desk(project)
    _make_stale(desk)
    monkeypatch.setenv("CI", "1")
    assert desk.run("--prompt-strict", "none").ret == 0


def test_in_ci_a_prompt_whose_replies_are_not_recorded_calls_nothing_and_is_never_green(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = _frozen_desk(project)
    desk.make_remote()
    desk.forget_replies()
    monkeypatch.setenv("CI", "1")
    result = desk.run()
    assert result.ret == 1
    assert desk.asked() == []
    assert desk.figure()["verdict"]["outcome"] == "unrecorded"
    assert desk.figure()["verdict"]["score"] is None
    assert "pytest --prompt-lm record" in words(result)


# --- which rows are read ----------------------------------------------------------------------------------------------


def test_after_a_freeze_only_rows_that_no_search_saw_decide(project: Any) -> None:
    desk = _frozen_desk(project)
    result = desk.run()
    result.stdout.fnmatch_lines(["rows: 21 of 60 decide; the search saw the other 39 (must-pass rows always run)"])
    assert len(desk.figure()["rows"]) == 21


def test_new_rows_on_the_sealed_side_are_read_and_no_row_changes_its_side(project: Any) -> None:
    desk = _frozen_desk(project)
    desk.run()
    before = [row["id"] for row in desk.figure()["rows"]]
    desk.rows(make_tickets(100))
    desk.run()
    after = [row["id"] for row in desk.figure()["rows"]]
    assert set(before) < set(after)
    new = desk.figure()["verdict"]["new_rows"]
    assert set(new) == set(after) - set(before)
    assert all(row > "t-060" for row in new)
    assert len(new) < 40


def test_a_changed_row_is_still_read_and_counts_for_the_threshold_only(project: Any) -> None:
    desk = _frozen_desk(project)
    desk.run()
    changed = desk.figure()["rows"][0]["id"]
    rows = make_tickets(60)
    for row in rows:
        if row["id"] == changed:
            row["ticket"] = "Please forward this to someone who knows."
            row["team"] = "billing"
    desk.rows(rows)
    result = desk.run()
    verdict = desk.figure()["verdict"]
    assert verdict["changed_rows"] == [changed]
    assert verdict["lost"] == []
    assert verdict["paired_rows"] == 20
    assert verdict["score"] == pytest.approx(20 / 21)
    assert result.ret == 0


def test_must_pass_rows_always_run_outside_the_mean_and_fail_alone(project: Any) -> None:
    desk = _frozen_desk(project)
    desk.run()
    sealed = {row["id"] for row in desk.figure()["rows"]}
    seen = next(f"t-{number:03}" for number in range(1, 61) if f"t-{number:03}" not in sealed)
    desk.replace("test_desk.py", "threshold=0.8", f'threshold=0.8, must_pass=["{seen}"]')
    assert desk.run().ret == 0
    rows = {row["id"]: row for row in desk.figure()["rows"]}
    assert rows[seen]["is_outside_mean"]
    assert len(rows) == 22
    word = make_tickets(60)[int(seen[2:]) - 1]["ticket"]
    desk.write(
        "trouble.py",
        f"""
        def trouble(request, is_proposal):
            return "I cannot say." if request.messages[-1]["content"] == {word!r} else None
    """,
    )
    desk.forget_replies()
    result = desk.run()
    assert result.ret == 1
    assert desk.figure()["verdict"]["score"] == 1.0
    result.stdout.fnmatch_lines([f"*must-pass row {seen} failed*"])


def test_a_must_pass_row_that_does_not_exist_is_an_error_by_name(project: Any) -> None:
    desk = _frozen_desk(project)
    desk.replace("test_desk.py", "threshold=0.8", 'threshold=0.8, must_pass=["t-999"]')
    result = desk.run()
    assert result.ret == 1
    assert "must_pass names rows that the dataset does not have: t-999" in words(result)


def test_a_snapshot_that_is_gone_is_named_as_the_cause_and_how_to_have_it_back(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=project.path, check=True, capture_output=True)
    (project.path / SNAPSHOT).unlink()
    result = desk.run()
    assert result.ret == 1
    assert f"changed {SNAPSHOT} is gone: the source runs" in words(result)
    assert "undo git checkout -- __prompts__" in words(result)
    subprocess.run(["git", "checkout", "--", "__prompts__"], cwd=project.path, check=True, capture_output=True)
    assert desk.run().ret == 0


def test_a_source_that_is_not_the_baselines_is_named_as_the_cause(project: Any) -> None:
    desk = Desk(project)
    desk.replace("test_desk.py", ", threshold=0.8", "")
    plain = "Decide which team should answer."
    desk.replace("desk.py", plain, GOOD_INSTRUCTION)
    assert desk.run("--prompt-bless").ret == 0
    desk.replace("desk.py", GOOD_INSTRUCTION, plain)
    result = desk.run()
    assert "not what the baseline was taken with" in words(result)
