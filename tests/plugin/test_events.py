"""The stream of events: every listener hears it, none can end a search, and its log is the same however a run went."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path
from typing import Any

import optuna  # noqa: F401 - a run inside this process forgets what it imported, and numpy cannot come twice
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.errors import UsageError
from pytest_promptopt.optimizers.driver import Proposed
from pytest_promptopt.optimizers.registry import OPTIMIZERS
from pytest_promptopt.reports.event_log import EventLog
from tests.plugin.projects import NO_TROUBLE, SNAPSHOT, Desk, words

LOG = ".promptopt/events.jsonl"

LISTENER = """

from dataclasses import FrozenInstanceError, fields


def _is_frozen(event):
    try:
        setattr(event, fields(event)[0].name, None)
    except FrozenInstanceError:
        return True


def pytest_promptopt_event(config, prompts, model, event):
    import json

    assert _is_frozen(event)
    with open(config.rootpath / "heard.jsonl", "a") as file:
        file.write(json.dumps([type(event).__name__, list(prompts), model]) + "\\n")
"""

OUT_OF_ORDER = """
from itertools import count
from threading import Event

TURNS, NEXT = count(1), [Event()]

def trouble(request, is_proposal):
    if next(TURNS) % 3 == 0:
        NEXT[-1].wait(0.02)  # whoever comes next is answered first; alone, it goes on
    else:
        NEXT.append(Event())
        NEXT[-2].set()
"""


def _log(desk: Desk) -> list[dict[str, Any]]:
    return [json.loads(line) for line in desk.read(LOG).split("\n")[:-1]]


def _events(desk: Desk, name: str) -> list[dict[str, Any]]:
    return [line for line in _log(desk) if line["event"] == name]


def _bytes(desk: Desk) -> bytes:
    return (desk.path / LOG).read_bytes()


# --- what the log says ------------------------------------------------------------------------------------------------


def test_the_log_tells_a_search_from_its_rows_to_the_file_that_it_wrote(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    job = desk.jobs()["desk.route"]
    log = _log(desk)
    assert all(next(iter(line)) == "event" for line in log)
    assert [line["event"] for line in log[:2]] == ["candidate", "search_started"]
    started = log[1]
    assert started["prompts"] == ["desk.route"]
    assert (started["model"], started["optimizer"], started["seed"]) == ("scripted/learner", "copro", 0)
    assert started["settings"]["breadth"] == 2
    (rows,) = started["metrics"]
    assert rows["metric"] == "test_desk.py::test_routes"
    assert rows["train"] + rows["val"] + rows["sealed"] == 60
    assert started["start_score"] == job["start_score"]
    (proposed,) = _events(desk, "proposed")
    assert "Choose billing for: refund" in proposed["text"]
    (scored,) = _events(desk, "trial_scored")
    assert (scored["candidate"], scored["score"]) == (job["candidate"], 1.0)
    (confirmed,) = _events(desk, "confirmed")
    assert (confirmed["before"], confirmed["after"]) == (job["sealed_before"], job["sealed_after"])
    assert (confirmed["p"], confirmed["is_proven"]) == (job["p"], True)
    assert confirmed["incumbent"] == started["source"]
    assert log[-1]["event"] == "search_ended"
    assert (log[-1]["outcome"], log[-1]["paths"]) == ("frozen", [SNAPSHOT])


def test_a_candidate_stands_in_full_where_it_comes_first_and_by_its_name_from_then_on(project: Any) -> None:
    desk = Desk(project)
    desk.optimize("--prompt-optimizer", "auto")
    introduced: set[str] = set()
    demos = 0
    for line in _log(desk):
        if line["event"] == "candidate":
            assert line["digest"] not in introduced
            introduced.add(line["digest"])
            demos += len(line["prompts"]["desk.route"]["demos"])
        elif line.get("digest") is not None:
            assert line["digest"] in introduced, line
            assert line["candidate"] == f"p-{line['digest'][:4]}"
    assert len(introduced) > 2
    assert demos > 0


def test_the_score_of_every_row_is_in_it_by_metric_and_id(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    winner = desk.jobs()["desk.route"]["candidate"]
    started = _events(desk, "search_started")[0]
    scored = [line for line in _events(desk, "rows_scored") if line["candidate"] == winner]
    scores = {row: score for line in scored for row, score in line["scores"]["test_desk.py::test_routes"].items()}
    assert len(scores) == started["metrics"][0]["val"]
    assert set(scores.values()) == {1.0}
    assert all(row.startswith("t-") for row in scores)
    assert all(line["teacher_attempt"] is None for line in scored)


def test_the_score_of_each_bootstrapped_example_is_in_it(project: Any) -> None:
    desk = Desk(project)
    arguments = ("--prompt-optimizer", "bootstrap-few-shot", "--prompt-proposer", "scripted/teacher")
    desk.optimize(*arguments)
    taught = [line for line in _events(desk, "rows_scored") if line["teacher_attempt"] is not None]
    scores = [score for line in taught for score in line["scores"]["test_desk.py::test_routes"].values()]
    assert {line["teacher_attempt"] for line in taught} == {0}
    assert set(scores) == {0.0, 1.0}  # it answers "account" to everything, and is right now and then
    assert len(scores) == sum(line["model"] == "scripted/teacher" for line in desk.asked())


def test_what_was_rejected_is_in_it_with_the_reason(project: Any) -> None:
    desk = Desk(project)
    desk.replace(
        "test_desk.py",
        '    assert route(ticket=example["ticket"]) == example["team"]',
        '    answer = route(ticket=example["ticket"])\n'
        '    if answer == "bug":\n'
        '        raise KeyError("no such shelf")\n'
        '    assert answer == example["team"]',
    )
    desk.optimize()
    reasons = {line["candidate"]: line for line in _events(desk, "rejected") if "candidate" in line}
    (rejected,) = reasons.values()
    assert "no such shelf" in rejected["reason"]
    assert rejected["has_run"]


def test_a_search_that_errors_says_so_at_its_end(project: Any) -> None:
    desk = Desk(project)
    desk.write(
        "trouble.py",
        """
        from pytest_promptopt.errors import LMError, LMErrorKind

        def trouble(request, is_proposal):
            return LMError("no such key", kind=LMErrorKind.AUTH) if is_proposal else None
    """,
    )
    assert desk.optimize().ret == 1
    (ended,) = _events(desk, "search_ended")
    assert (ended["outcome"], ended["candidate"]) == ("errored", None)
    assert "no such key" in ended["reason"]


def test_every_search_of_a_run_has_its_own_beginning_and_end(project: Any) -> None:
    desk = Desk(project)
    desk.optimize("--prompt-model", "scripted/learner", "--prompt-model", "scripted/other")
    told = [(line["event"], line.get("model")) for line in _log(desk) if line["event"].startswith("search_")]
    assert told == [
        ("search_started", "scripted/learner"),
        ("search_ended", None),
        ("search_started", "scripted/other"),
        ("search_ended", None),
    ]


# --- the same bytes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", sorted(OPTIMIZERS))
def test_the_same_search_writes_the_same_log_whatever_the_store_held(project: Any, strategy: str) -> None:
    desk = Desk(project)
    arguments = ("--prompt-optimizer", strategy, "--prompt-budget", "300")
    desk.optimize(*arguments)
    cold = _bytes(desk)
    assert cold.count(b"rows_scored") > 0
    for name in desk.frozen_files():
        (desk.path / name).unlink()
    desk.forget_asked()
    desk.optimize(*arguments)
    assert desk.asked() == []
    assert _bytes(desk) == cold


def test_the_order_in_which_replies_come_changes_no_byte_of_the_log(project: Any) -> None:
    logs = []
    for concurrency, trouble in (("1", NO_TROUBLE), ("16", NO_TROUBLE), ("16", OUT_OF_ORDER)):
        desk = Desk.anew(project)
        desk.write("trouble.py", trouble)
        desk.optimize("--prompt-optimizer", "auto", "--prompt-concurrency", concurrency)
        logs.append(_bytes(desk))
    assert logs[0] == logs[1] == logs[2]


def test_a_killed_run_leaves_what_happened_until_then(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    whole = _bytes(desk)
    proposal = next(number for number, line in enumerate(desk.asked(), 1) if line["is_proposal"])
    desk = Desk.anew(project)
    desk.write(
        "trouble.py",
        f"""
        import os
        import signal
        from itertools import count

        TURNS = count(1)

        def trouble(request, is_proposal):
            if next(TURNS) == {proposal + 1}:
                os.kill(os.getpid(), signal.SIGKILL)
    """,
    )
    killed = desk.run_apart("--optimize-prompts", "--prompt-concurrency", "1")
    assert killed.ret == -signal.SIGKILL
    assert [line["event"] for line in _log(desk)] == ["candidate", "search_started", "rows_scored", "proposed"]
    assert whole.startswith(_bytes(desk))


def test_the_log_holds_the_last_run_alone(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    desk.optimize()
    assert [line["outcome"] for line in _events(desk, "search_ended")] == ["unchanged"]
    assert len(_events(desk, "search_started")) == 1


def test_a_run_that_only_collects_leaves_the_log_as_it_is(project: Any) -> None:
    desk = Desk(project)
    desk.optimize("--collect-only")
    assert not (desk.path / LOG).exists()
    desk.freeze()
    before = _bytes(desk)
    desk.optimize("--collect-only")
    assert desk.optimize("--prompt-dry-run").ret == 0
    desk.optimize("--prompt-optimizer", "unknown")
    desk.run()
    assert _bytes(desk) == before


def test_misuse_leaves_the_log_of_the_last_run_as_it_is(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    before = _bytes(desk)
    assert desk.optimize("--prompt-budget", "10").ret == pytest.ExitCode.USAGE_ERROR
    assert _bytes(desk) == before


# --- nobody else's eyes, and a place to write -------------------------------------------------------------------------


def test_the_log_is_for_its_owner_alone_also_where_an_older_one_was_open_to_all(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    path = desk.path / LOG
    path.chmod(0o666)
    desk.optimize()
    assert path.stat().st_mode & 0o777 == 0o600
    assert (desk.path / ".promptopt/.gitignore").read_text().split()[-1] == "*"


@pytest.mark.parametrize("in_the_way", ["a folder of that name", "a file for a folder", "somebody else's folder"])
def test_a_log_that_cannot_be_written_ends_the_run_before_the_first_call(project: Any, in_the_way: str) -> None:
    desk = Desk(project)
    if in_the_way == "a folder of that name":
        desk.write(f"{LOG}/note.txt", "")
        desk.write(".promptopt/.gitignore", "*")
    elif in_the_way == "a file for a folder":
        desk.write(".promptopt", "")
    else:
        desk.write(".promptopt/thesis.tex", "")
    result = desk.optimize()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "promptopt_store" in words(result)
    assert "Traceback" not in words(result)
    assert desk.asked() == []


# --- listeners --------------------------------------------------------------------------------------------------------


def test_a_conftest_hears_what_the_log_says_in_records_that_cannot_be_changed(project: Any) -> None:
    desk = Desk(project)
    desk.write("conftest.py", desk.read("conftest.py") + LISTENER)
    result = desk.optimize()
    assert result.ret == 0
    assert "raised in" not in words(result)
    heard = [json.loads(line) for line in desk.read("heard.jsonl").splitlines()]
    snake = {name: "".join(f"_{sign.lower()}" if sign.isupper() else sign for sign in name)[1:] for name, _, _ in heard}
    logged = [line["event"] for line in _log(desk) if line["event"] != "candidate"]
    assert [snake[name] for name, _, _ in heard] == logged
    assert {(tuple(prompts), model) for _, prompts, model in heard} == {(("desk.route",), "scripted/learner")}


@pytest.mark.parametrize("flags", [(), ("-W", "error")], ids=["warnings", "warnings are errors"])
@pytest.mark.parametrize(
    "act", ['raise ValueError("no network")', 'pytest.fail("no network")', 'raise BudgetExhausted("no network")']
)
def test_a_listener_that_raises_is_named_once_and_the_search_ends_as_without_it(
    project: Any, act: str, flags: tuple[str, ...]
) -> None:
    desk = Desk(project)
    desk.freeze()
    alone, log = desk.frozen_files(), _bytes(desk)
    desk = Desk.anew(project)
    desk.write(
        "conftest.py",
        f"{desk.read('conftest.py')}\nimport pytest\nfrom pytest_promptopt.errors import BudgetExhausted\n\n\n"
        f"def pytest_promptopt_event(event):\n    {act}\n",
    )
    result = desk.optimize(*flags)
    assert result.ret == 0
    assert desk.frozen_files() == alone
    assert _bytes(desk) == log
    said = words(result)
    assert said.count("raised in pytest_promptopt_event") == 1
    assert "conftest.py raised in pytest_promptopt_event, and the search goes on" in said
    assert "no network" in said
    assert "round 1" in said  # the terminal still heard everything


def test_a_listener_may_end_the_session(project: Any) -> None:
    desk = Desk(project)
    desk.write(
        "conftest.py",
        f"{desk.read('conftest.py')}\nimport pytest\n\n\n"
        "def pytest_promptopt_event(event):\n    pytest.exit('enough', returncode=7)\n",
    )
    assert desk.optimize().ret == 7
    assert desk.frozen_files() == {}


def test_an_object_without_a_name_is_told_of_by_its_type_and_may_compare_as_it_likes(project: Any) -> None:
    desk = Desk(project)
    desk.write(
        "conftest.py",
        desk.read("conftest.py")
        + """
from dataclasses import dataclass

@dataclass
class Tracker:
    heard: int = 0

    def pytest_promptopt_event(self, event):
        self.heard += 1
        if self.heard == 2:
            raise OSError("offline")

def pytest_configure(config):
    config.pluginmanager.register(Tracker())
""",
    )
    result = desk.optimize()
    assert result.ret == 0
    assert "Tracker raised in pytest_promptopt_event" in words(result)


# --- lines ------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(texts=st.lists(st.text(st.characters(exclude_categories=())), max_size=4))
def test_one_event_is_one_line_for_every_reader_whatever_its_text_holds(
    texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = EventLog(tmp_path_factory.mktemp("store") / "store")
    log.open()
    for draw, text in enumerate(texts):
        log.pytest_promptopt_event(Proposed(text=text, draw=draw))
    log.close()
    lines = log.path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"event": "proposed", "prompt": "", "draw": draw, "text": text} for draw, text in enumerate(texts)
    ]


def test_what_ends_a_line_for_some_readers_stands_escaped(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "store")
    log.open()
    log.pytest_promptopt_event(Proposed(text="one\u2028two\x85three\ud800ü", draw=0))
    log.close()
    (line,) = log.path.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["text"] == "one\u2028two\x85three\ud800ü"


def test_a_log_that_was_not_opened_or_is_closed_writes_nothing(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "store")
    log.pytest_promptopt_event(Proposed(text="early", draw=0))
    assert not log.path.exists()
    log.open()
    log.close()
    log.pytest_promptopt_event(Proposed(text="late", draw=0))
    assert log.path.read_bytes() == b""


def test_a_full_disk_is_told_of_once_and_nothing_follows_half_a_line(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "store")
    log.open()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            log.pytest_promptopt_event(Proposed(text="x" * 200, draw=0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    log.pytest_promptopt_event(Proposed(text="later", draw=1))
    assert log.path.stat().st_size == 100


def test_a_log_in_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="holds other files"):
        EventLog(tmp_path).open()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
