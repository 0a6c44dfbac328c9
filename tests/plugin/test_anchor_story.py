"""Small losses are blessed one by one until the gate says how far the best has been left behind; and its level."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.plugin.projects import BASELINE, GOOD_INSTRUCTION, SNAPSHOT, Desk, make_tickets, words

ANCHORED_ROW = "score = 0.0, anchor = 1.0, digest = "


def _perfect_desk(project: Any, *, rows: int = 30) -> Desk:
    """A blessed desk whose prompt knows every word; two of its rows hang on each word for every 30 rows."""
    desk = Desk(project, rows=rows)
    desk.replace("test_desk.py", ", threshold=0.8", "")
    desk.replace("desk.py", "Decide which team should answer.", GOOD_INSTRUCTION)
    assert desk.run("--prompt-bless").ret == 0
    return desk


def _forget_word(desk: Desk, word: str) -> None:
    desk.replace("desk.py", word, "")


def _slide(desk: Desk) -> None:
    """Lose two words of five, one at a time, each loss accepted."""
    for word in ("refund, ", "invoice, "):
        _forget_word(desk, word)
        assert desk.run().ret == 0
        assert desk.run("--prompt-bless").ret == 0


def test_losses_that_were_each_accepted_fail_by_the_anchor_once_they_add_up(project: Any) -> None:
    desk = _perfect_desk(project)
    _slide(desk)
    assert desk.run().ret == 0
    assert "[anchor]\nblessings = 2\n" in desk.read(BASELINE)
    assert desk.read(BASELINE).count(ANCHORED_ROW) == 4
    _forget_word(desk, "receipt, ")
    result = desk.run()
    assert result.ret == 1
    assert desk.figure()["verdict"]["is_worse"] is False
    result.stdout.fnmatch_lines(
        [
            "*prompt got worse than its best: 1.000 two blessings ago, 0.800 now with desk.route on scripted/learner",
            "*anchor*1.000 two blessings ago, 0.800 now, -0.200, p = 0.008",
            "*accept*pytest test_desk.py::test_routes --prompt-bless",
            "FAILED*1.000 two blessings ago, 0.800 now, 6 rows lost",
        ]
    )


def test_whoever_blesses_a_loss_that_the_anchor_shows_moves_it_and_is_told(project: Any) -> None:
    desk = _perfect_desk(project)
    _slide(desk)
    _forget_word(desk, "receipt, ")
    assert desk.run().ret == 1
    result = desk.run("--prompt-bless", "--prompt-report", "first.md", "--prompt-report", "first.json")
    assert result.ret == 0
    warning = "its anchor stays at 1.000; the next run fails by it; bless again to accept that"
    assert f"blessed: test_routes is proven worse than its best (0.800 now), but {warning}" in words(result)
    assert warning in desk.read("first.md")
    report = json.loads(desk.read("first.json"))
    assert report["has_news"] is True
    assert warning in report["metrics"][0]["anchor"]["move"]
    again = desk.run("--prompt-report", "again.md", "--prompt-report", "again.html")
    assert again.ret == 1
    assert "6 rows lost since the best, three blessings ago" in desk.read("again.md")
    for page in ("again.md", "again.html"):
        assert "0.200 since the best, three blessings ago" in desk.read(page)
    result = desk.run("--prompt-bless")
    assert result.ret == 0
    moved = "blessed: test_routes is proven worse than its best, so its anchor moves down: 1.000 -> 0.800"
    result.stdout.fnmatch_lines([moved])
    assert "anchor" not in desk.read(BASELINE)
    assert desk.run().ret == 0


def test_verbose_output_says_how_far_the_best_is_away_and_the_plain_one_keeps_quiet(project: Any) -> None:
    desk = _perfect_desk(project)
    _slide(desk)
    assert "test_routes: 1.000 two blessings ago, -0.133 since" in words(desk.run("-v"))
    assert "blessings ago" not in words(desk.run())


def test_blessing_twice_counts_once(project: Any) -> None:
    desk = _perfect_desk(project)
    _slide(desk)
    files = desk.frozen_files()
    assert "blessed: nothing to change" in words(desk.run("--prompt-bless"))
    assert desk.frozen_files() == files


def test_a_confirmed_freeze_that_is_better_than_the_best_is_the_anchor_from_then_on(project: Any) -> None:
    desk = _perfect_desk(project, rows=60)
    for word in ("refund, ", "invoice, "):
        _forget_word(desk, word)
    for _ in range(2):
        assert desk.run("--prompt-bless").ret == 0
    assert "anchor" not in desk.read(BASELINE), "eight rows of sixty are a proven loss"
    _forget_word(desk, "receipt, ")
    assert desk.run("--prompt-bless").ret == 0
    assert ANCHORED_ROW in desk.read(BASELINE)
    assert desk.optimize("-q").ret == 0
    assert (desk.path / SNAPSHOT).is_file()
    assert "anchor" not in desk.read(BASELINE)
    assert desk.run().ret == 0


def test_a_search_that_freezes_nothing_leaves_the_anchor_where_it_is(project: Any) -> None:
    desk = _perfect_desk(project)
    _slide(desk)
    before = desk.read(BASELINE)
    assert desk.optimize("-q", "-o", "promptopt_freeze_alpha=0.000001").ret == 0
    after = desk.read(BASELINE)
    assert after != before, "it remembers the winner that was tried"
    assert after[after.index("[rows]") :] == before[before.index("[rows]") :]
    assert "[anchor]\nblessings = 2\n" in after


# --- repeats ---


def test_flaky_rows_are_measured_and_named_and_count_with_their_mean(project: Any) -> None:
    desk = _perfect_desk(project)
    desk.replace("desk.py", "@prompt\n", "@prompt(temperature=1.0)\n")
    desk.replace("test_desk.py", '"tickets"', '"tickets", repeats=3')
    flaky = make_tickets(30)[0]
    desk.write(
        "trouble.py",
        f"""
        def trouble(request, is_proposal):
            if request.messages[-1]["content"] == {flaky["ticket"]!r} and request.repeat == 1:
                return "bug"
    """,
    )
    result = desk.run("--prompt-bless", "-v")
    figure = desk.figure()
    assert figure["rows"][0]["score"] == pytest.approx(2 / 3)
    assert figure["rows"][0]["repeats"] == [1.0, 0.0, 1.0]
    assert figure["rows"][0]["pass_hats"] == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert figure["verdict"]["score"] == pytest.approx((29 + 2 / 3) / 30)
    assert figure["repeats"]["flaky"] == ["t-001"]
    said = words(result)
    assert "1 of 30 rows pass with some replies and fail with others: t-001 (2 of 3)" in said
    assert "3 replies a row; pass^1 0.989, pass^2 0.978, pass^3 0.967; variance" in said
    assert desk.run().ret == 0


def test_a_metric_with_a_row_that_raised_has_no_reliability_either(project: Any) -> None:
    desk = _perfect_desk(project)
    desk.replace("test_desk.py", '"tickets"', '"tickets", repeats=3')
    broken = make_tickets(30)[20]["ticket"]
    desk.replace(
        "test_desk.py", "    assert route", f"    assert example['ticket'] != {broken!r} or 1 / 0\n    assert route"
    )
    desk.run()
    assert desk.figure()["verdict"]["outcome"] == "errored"
    assert desk.figure()["repeats"] is None


# --- the level ---

OTHER_PROMPT = """


@prompt
def greet(ticket: str) -> str:
    \"\"\"Greet the customer.\"\"\"
"""
SECOND_METRIC = """

@pytest.mark.prompt_metric("tickets", threshold=0.1)
def test_{name}(example):
    {body}
"""
SAME_PROMPT = 'assert route(ticket=example["ticket"]) == example["team"]'
STEADY = 'assert greet(ticket=example["ticket"])'


def _two_metrics(project: Any, body: str) -> Desk:
    """One metric that loses four rows of sixty when a word goes (p = 0.031), and another beside it."""
    desk = Desk(project, rows=60)
    desk.replace("test_desk.py", ", threshold=0.8", "")
    desk.replace("desk.py", "Decide which team should answer.", GOOD_INSTRUCTION)
    desk.write("desk.py", desk.read("desk.py") + OTHER_PROMPT)
    desk.replace("test_desk.py", "from desk import route", "from desk import greet, route")
    desk.write("test_desk.py", desk.read("test_desk.py") + SECOND_METRIC.format(name="other", body=body))
    assert desk.run("--prompt-bless").ret == 0
    _forget_word(desk, "refund, ")
    return desk


def _outcome(desk: Desk, *arguments: str) -> str:
    desk.run(*arguments)
    outcome: str = desk.figures()["test_routes"]["verdict"]["outcome"]
    return outcome


def test_a_metric_whose_prompt_did_not_change_takes_no_share_of_the_level(project: Any) -> None:
    assert _outcome(_two_metrics(project, STEADY)) == "fail"


@pytest.mark.parametrize("arguments", [(), ("-k", "routes"), ("-x",), ("test_desk.py::test_routes",)])
def test_two_changed_metrics_share_the_level_whichever_of_them_run(project: Any, arguments: tuple[str, ...]) -> None:
    desk = _two_metrics(project, SAME_PROMPT)
    expected = "fail" if "test_desk.py::test_routes" in arguments else "inconclusive"  # the other is not collected
    assert _outcome(desk, *arguments) == expected


def test_workers_share_the_level_as_one_process_does(project: Any) -> None:
    desk = _two_metrics(project, SAME_PROMPT)
    desk.run_apart("-n2", plugins="xdist.plugin")
    assert [figure["verdict"]["outcome"] for figure in desk.figures().values()] == ["inconclusive"] * 2


def test_changed_metric_code_takes_its_share(project: Any) -> None:
    desk = _two_metrics(project, STEADY)
    desk.replace("test_desk.py", STEADY, STEADY.replace('"])', '"]) != ""'))
    assert _outcome(desk) == "inconclusive"


def test_a_live_run_shares_the_level_among_all_metrics(project: Any) -> None:
    desk = _two_metrics(project, STEADY)
    assert _outcome(desk, "--prompt-lm", "live") == "inconclusive"
    assert desk.figures()["test_routes"]["verdict"]["p"] == 1 / 32
