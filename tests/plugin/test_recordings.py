"""Replies that the gate needs stand in files beside the tests: written, read, missed, and never lost."""

from __future__ import annotations

import json
import tomllib

import pytest

from pytest_promptopt.lms.redaction import HIDDEN
from tests.plugin.conftest import Project
from tests.plugin.projects import BASELINE, GOOD_INSTRUCTION, SNAPSHOT, Desk, words
from tests.plugin.recorded import FILE, PaidProject

RECORDINGS = BASELINE.replace(".toml", ".jsonl")

STRICT_BEFORE = '    assert route(ticket=example["ticket"]) == example["team"]'
STRICTER = """
    team = route(ticket=example["ticket"])
    assert team == example["team"] != "account"
"""


@pytest.fixture
def paid(project: Project) -> PaidProject:
    return PaidProject(project)


def test_recording_writes_one_sorted_line_for_each_call(paid: PaidProject) -> None:
    result = paid.run("--prompt-lm", "record")

    result.assert_outcomes(passed=1)
    lines = paid.lines()
    assert [line["key"] for line in lines] == sorted(line["key"] for line in lines)
    assert {(line["rows"][0], line["reply"]) for line in lines} == {("t1", "billing"), ("t2", "bug"), ("t3", "account")}
    assert {line["prompt"] for line in lines} == {"test_desk.route"}
    assert "latency" not in paid.file.read_text()
    assert b"\r" not in paid.file.read_bytes()
    result.stdout.fnmatch_lines(["recorded: __prompts__/test_desk.test_routes@paid-desk.jsonl (3 replies: 3 new*"])


def test_recording_again_changes_no_byte_and_calls_nobody(paid: PaidProject) -> None:
    paid.run("--prompt-lm", "record")
    before = paid.file.read_bytes()
    paid.forget_store()

    paid.run("--prompt-lm", "record")

    assert paid.file.read_bytes() == before
    assert paid.calls == 3


def test_a_fresh_checkout_passes_in_ci_without_a_call(paid: PaidProject, monkeypatch: pytest.MonkeyPatch) -> None:
    paid.run("--prompt-lm", "record")
    paid.forget_store()
    monkeypatch.setenv("CI", "true")

    result = paid.run()

    result.assert_outcomes(passed=1)
    assert paid.calls == 3
    result.stdout.fnmatch_lines(["3 replies: 3 replayed, 0 called*"])


def test_auto_says_how_many_replies_are_not_recorded(paid: PaidProject) -> None:
    result = paid.run()

    result.stdout.fnmatch_lines(['3 replies are not recorded, and missing in CI: "pytest --prompt-lm record"*'])
    assert not paid.file.exists()


def test_auto_calls_for_what_is_neither_recorded_nor_stored(paid: PaidProject) -> None:
    paid.run("--prompt-lm", "record")
    paid.forget_store()
    paid.edit('    {"id": "t3"', '    {"id": "t4", "ticket": "refund me", "team": "billing"},\n    {"id": "t3"')

    result = paid.run()

    assert paid.calls == 4
    result.stdout.fnmatch_lines(["1 reply is not recorded*"])


def test_a_miss_in_replay_names_prompt_row_and_command(paid: PaidProject) -> None:
    paid.run("--prompt-lm", "record")
    paid.forget_store()
    paid.edit("the crash again", "the crash once more")

    result = paid.run("--prompt-lm", "replay")

    result.assert_outcomes(failed=1)
    assert paid.calls == 3
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*t2*test_desk.route: no reply of paid/desk is recorded for the request*",
            "*pytest test_desk.py::test_routes --prompt-lm record",
        ]
    )


def test_replay_answers_from_the_store_too(paid: PaidProject) -> None:
    paid.run()

    paid.run("--prompt-lm", "replay").assert_outcomes(passed=1)

    assert paid.calls == 3


def test_record_drops_what_is_no_longer_used(paid: PaidProject) -> None:
    paid.run("--prompt-lm", "record")
    paid.edit("my name changed", "my password changed")

    result = paid.run("--prompt-lm", "record")

    assert len(paid.lines()) == 3
    result.stdout.fnmatch_lines(["recorded: *(3 replies: 1 new or changed, 1 replaced or dropped)"])


def test_a_run_with_an_errored_row_only_adds(paid: PaidProject) -> None:
    paid.run("--prompt-lm", "record")
    paid.edit("my name changed", "my password changed")
    paid.edit("    assert route", '    assert example["id"] != "t1" or 1 / 0\n    assert route')

    paid.run("--prompt-lm", "record").assert_outcomes(failed=1)

    assert sorted(row for line in paid.lines() for row in line["rows"]) == ["t1", "t2", "t3", "t3"]


def test_deselected_metrics_keep_their_recordings(paid: PaidProject) -> None:
    paid.run("--prompt-lm", "record")
    before = paid.file.read_bytes()
    other = '\n\n@pytest.mark.prompt_metric("tickets")\ndef test_other(example):\n    route(ticket=example["ticket"])\n'
    path = paid.path / "test_desk.py"
    path.write_text(path.read_text() + other)

    paid.run("--prompt-lm", "record", "-k", "test_other")

    assert paid.file.read_bytes() == before
    assert paid.file.with_name("test_desk.test_other@paid-desk.jsonl").read_bytes() == before


def test_rerecord_calls_everything_again_and_once(paid: PaidProject) -> None:
    path = paid.path / "test_desk.py"
    other = '\n\n@pytest.mark.prompt_metric("tickets")\ndef test_other(example):\n    route(ticket=example["ticket"])\n'
    path.write_text(path.read_text() + other)
    paid.run("--prompt-lm", "record")
    paid.answer_with({"refund": "billing", "crash": "bug", "name": "bug"})

    paid.run("--prompt-lm", "rerecord")

    assert paid.calls == 6
    assert {line["rows"][0]: line["reply"] for line in paid.lines()} == {"t1": "billing", "t2": "bug", "t3": "bug"}
    assert paid.file.read_bytes() == paid.file.with_name("test_desk.test_other@paid-desk.jsonl").read_bytes()


def test_live_calls_everything_and_records_nothing(paid: PaidProject) -> None:
    paid.run("--prompt-lm", "record")
    before = paid.file.read_bytes()
    paid.answer_with({})

    paid.run("--prompt-lm", "live")

    assert paid.calls == 6
    assert paid.file.read_bytes() == before


def test_a_recording_is_preferred_to_the_store(paid: PaidProject) -> None:
    paid.run("--prompt-lm", "record")
    paid.answer_with({"refund": "bug", "crash": "bug", "name": "bug"})
    paid.run("--prompt-lm", "live")  # the store has other answers by now

    paid.run("--prompt-lm", "replay")

    assert [line["reply"] for line in sorted(paid.lines(), key=lambda line: line["rows"])] == [
        "billing",
        "bug",
        "account",
    ]


def test_a_new_threshold_or_margin_costs_no_call(paid: PaidProject) -> None:
    paid.run("--prompt-lm", "record", "--prompt-bless")
    paid.forget_store()
    paid.edit("threshold=0.6", "threshold=0.9, margin=0.2")

    paid.run("--prompt-lm", "replay").assert_outcomes(passed=1)

    assert paid.calls == 3


def test_changed_metric_code_is_decided_anew_from_the_recordings(paid: PaidProject) -> None:
    paid.run("--prompt-lm", "record", "--prompt-bless")
    paid.forget_store()
    paid.edit(STRICT_BEFORE, STRICTER)

    result = paid.run("--prompt-lm", "replay")

    result.assert_outcomes(passed=1)
    assert paid.calls == 3
    result.stdout.fnmatch_lines(["test_routes*0.667*pass*", "*its code changed, its prompts did not*"])


def test_changed_metric_code_and_prompt_are_not_told_apart_by_recordings(paid: PaidProject) -> None:
    paid.run("--prompt-lm", "record", "--prompt-bless")
    paid.edit(STRICT_BEFORE, STRICTER)
    paid.edit("Decide which team", "Choose which team")

    paid.run("--prompt-lm", "record")

    result = paid.run("--prompt-lm", "replay")

    result.stdout.no_fnmatch_line("*its code changed, its prompts did not*")
    result.stdout.fnmatch_lines(["test_routes*inconclusive*"])


def test_offline_models_are_never_recorded(project: Project) -> None:
    project.tests(
        """
        @pytest.mark.prompt_metric("tickets")
        def test_routes(example):
            route(ticket=example["ticket"])
        """
    )

    project.run("--prompt-lm", "record").assert_outcomes(passed=1)

    assert not list(project.path.rglob("*.jsonl")) or {path.name for path in project.path.rglob("*.jsonl")} == {
        "figures.jsonl"
    }


def test_workers_record_what_one_process_would(paid: PaidProject) -> None:
    paid.run("--prompt-lm", "record")
    before = paid.file.read_bytes()
    paid.file.unlink()

    paid.project.run_apart("--prompt-lm", "record", "-n", "2", plugins="xdist").assert_outcomes(passed=1)

    assert paid.file.read_bytes() == before


def test_recordings_of_a_metric_that_is_gone_are_orphans(paid: PaidProject) -> None:
    paid.run("--prompt-lm", "record")
    paid.edit("def test_routes", "def test_sends")

    result = paid.run("--prompt-lm", "record")

    result.stdout.fnmatch_lines(["orphan*test_desk.test_routes@paid-desk.jsonl: no such prompt or metric any more*"])
    result.stdout.no_fnmatch_line("orphan*test_sends*")
    assert paid.file.exists()


BROKEN = {
    "truncated": (lambda text: text[:-40], "this is not a recording"),
    "merge markers": (lambda text: f"<<<<<<< HEAD\n{text}=======\n>>>>>>> other\n", "a merge left its markers here"),
    "a key twice": (lambda text: text + text.splitlines()[0] + "\n", "stands in line 1 already"),
    "foreign": (lambda text: '{"ticket": "hello"}\n' + text, "unknown field 'ticket'"),
    "binary": (lambda text: text + "\ud800", "this is not a recording"),
}


@pytest.mark.parametrize("mode", ["auto", "replay", "record", "rerecord"])
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_recordings_are_an_error_and_left_as_they_are(paid: PaidProject, kind: str, mode: str) -> None:
    paid.run("--prompt-lm", "record")
    damage, words = BROKEN[kind]
    broken = damage(paid.file.read_text()).encode("utf-8", "surrogatepass")
    paid.file.write_bytes(broken)

    result = paid.run("--prompt-lm", mode)

    result.assert_outcomes(failed=1)
    assert paid.file.read_bytes() == broken
    assert paid.calls == 3
    text = result.stdout.str()
    assert words in text or kind == "binary"
    assert f"{paid.file.name}:" in text
    assert "git checkout" in text or "--prompt-lm record" in text


def test_recordings_that_nothing_asked_for_are_warned_of(paid: PaidProject) -> None:
    paid.run("--prompt-lm", "record")
    foreign = [{**line, "key": f"{n:064x}-0-0"} for n, line in enumerate(paid.lines())]
    paid.file.write_text("".join(json.dumps(line) + "\n" for line in foreign))
    paid.forget_store()
    warning = f"warning: {FILE}: none of 3 replies there was asked for; *"

    for mode in ("replay", "auto", "record"):
        paid.run("--prompt-lm", mode).stdout.fnmatch_lines([warning])

    paid.run("--prompt-lm", "replay").stdout.no_fnmatch_line("warning:*")


def test_a_replay_says_whose_text_changed_since_it_was_recorded(paid: PaidProject) -> None:
    paid.run("--prompt-lm", "record", "--prompt-bless")
    paid.forget_store()
    paid.edit("Decide which team", "Choose which team")

    result = paid.run("--prompt-lm", "replay")

    result.stdout.fnmatch_lines(["the text of test_desk.route changed since it was recorded"])
    paid.edit("Choose which team", "Decide which team")
    paid.edit("a refund please", "the refund please")
    result = paid.run("--prompt-lm", "replay")
    result.stdout.no_fnmatch_line("the text of*")


def test_the_command_that_answers_is_written_with_an_equals_sign(paid: PaidProject) -> None:
    paid.run("--prompt-lm", "replay").stdout.fnmatch_lines(["*pytest --prompt-fulfil=.promptopt/missing.jsonl"])


def test_a_rerecord_that_is_broken_off_says_that_nothing_was_written(paid: PaidProject) -> None:
    paid.run("--prompt-lm", "record")
    before = paid.file.read_bytes()
    paid.answer_with({})

    result = paid.run("--prompt-lm", "rerecord", "--prompt-budget", "1")

    result.assert_outcomes(failed=1)
    assert "Nothing was written: its recordings are as they were." in words(result)
    assert paid.file.read_bytes() == before


# --- frozen -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(project: Project) -> Desk:
    desk = Desk(project)
    desk.make_remote()
    return desk


def test_freezing_records_what_the_gate_needs_and_calls_nothing_for_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.freeze()
    asked = len(desk.asked())
    recorded = [json.loads(line) for line in desk.read(RECORDINGS).splitlines()]
    sealed = tomllib.loads(desk.read(BASELINE))["rows"]
    assert {row for line in recorded for row in line["rows"]} == set(sealed)
    desk.forget_replies()
    monkeypatch.setenv("CI", "true")

    desk.run().assert_outcomes(passed=1)

    assert len(desk.asked()) == asked
    assert len({(seen["text"], seen["system"], seen["repeat"]) for seen in desk.asked()}) == asked


def test_the_same_search_again_changes_no_recorded_byte(desk: Desk) -> None:
    desk.freeze()
    files = desk.frozen_files()

    desk.optimize("-q")

    assert desk.frozen_files() == files
    assert RECORDINGS in files


def test_must_pass_rows_are_recorded_with_what_is_frozen(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.freeze()
    searched = tomllib.loads(desk.read(BASELINE))["searched"]["rows"][0]
    for name in (SNAPSHOT, BASELINE, RECORDINGS):
        (desk.path / name).unlink()
    desk.replace("test_desk.py", "threshold=0.8", f'threshold=0.8, must_pass=("{searched}",)')
    desk.freeze()
    asked = len(desk.asked())
    desk.forget_replies()
    monkeypatch.setenv("CI", "true")

    desk.run().assert_outcomes(passed=1)

    assert len(desk.asked()) == asked


def test_replies_that_vary_are_recorded_as_the_baseline_has_them(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.replace("desk.py", "@prompt\n", "@prompt(temperature=1.0)\n")
    desk.freeze()
    desk.forget_replies()
    monkeypatch.setenv("CI", "true")

    desk.run().assert_outcomes(passed=1)


def test_a_search_finds_broken_recordings_before_it_asks_anything(desk: Desk) -> None:
    desk.write(RECORDINGS, "{")

    result = desk.optimize()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"{RECORDINGS}:1: this is not a recording" in words(result)
    assert (desk.asked(), desk.read(RECORDINGS)) == ([], "{")


# --- secrets ----------------------------------------------------------------------------------------------------------

PLANTED = "sk-planted-4711-abcdefgh"
HEADER = "tok-97531-header-only"


def test_a_planted_key_stands_in_no_file_that_is_written(paid: PaidProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESK_API_KEY", PLANTED)
    paid.edit("a refund please", "a refund please, key {os.environ['DESK_API_KEY']}")
    paid.edit('"ticket": "a refund', '"ticket": f"a refund')
    paid.edit("from typing import Literal\n", "import os\nfrom typing import Literal\n")
    paid.edit(' -> Literal["billing", "bug", "account"]', " -> str")
    paid.answer_with({"crash": f"Authorization: Bearer {HEADER}", "refund": "billing"})
    conftest = paid.path / "conftest.py"
    conftest.write_text(conftest.read_text().replace("text=answer,", 'text=f"{answer} for {text}",'))
    unwritten = {path: path.read_bytes() for path in paid.path.rglob("*") if path.is_file()}
    paid.run("--prompt-lm", "record", "--prompt-bless", "--junitxml", "junit.xml")
    assert HIDDEN in paid.file.read_text()
    paid.edit("Decide which team", "Choose which team")
    paid.run("--prompt-lm", "replay", "--junitxml", "junit2.xml")

    own = {"asked.jsonl", "test_desk.py", "answers.json"}  # the test's, not the plugin's
    written = [
        path for path in paid.path.rglob("*") if path.is_file() and path.name not in own and path not in unwritten
    ]
    assert {"missing.jsonl", paid.file.name, "replies.sqlite3", "junit.xml"} <= {path.name for path in written}
    for path in written:
        content = path.read_bytes()
        assert PLANTED.encode() not in content, path
        assert HEADER.encode() not in content, path


def test_keys_are_those_of_the_requests_as_they_were_sent(paid: PaidProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESK_API_KEY", "a refund please")
    paid.run("--prompt-lm", "record")
    paid.forget_store()
    monkeypatch.delenv("DESK_API_KEY")

    paid.run("--prompt-lm", "replay").assert_outcomes(passed=1)

    assert paid.calls == 3


def test_a_project_hides_what_its_hook_finds(paid: PaidProject) -> None:
    path = paid.path / "conftest.py"
    path.write_text(path.read_text() + '\n\ndef pytest_promptopt_redact(text):\n    return ["bill"]\n')

    paid.run("--prompt-lm", "record")

    assert {line["reply"] for line in paid.lines()} == {f"{HIDDEN}ing", "bug", "account"}


def test_a_snapshot_that_would_hold_a_key_is_not_written(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESK_TOKEN", GOOD_INSTRUCTION[:20])

    result = desk.optimize("-q")

    assert not (desk.path / SNAPSHOT).exists()
    assert "would hold the value of an environment variable" in words(result)
