"""What happens to a project once something is frozen: rows that a search saw stay out, whatever is changed by hand."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from random import Random
from typing import Any
from uuid import UUID

import pytest

from pytest_promptopt.evaluation.dataset import as_examples
from pytest_promptopt.evaluation.split import SplitRule, split_key, split_rows
from pytest_promptopt.snapshots.baseline import read_baseline
from tests.plugin.projects import BASELINE, GOOD_INSTRUCTION, SNAPSHOT, Desk, make_tickets, words

AS_GOOD = GOOD_INSTRUCTION + " Be quick."
AS_GOOD_AGAIN = GOOD_INSTRUCTION + " Be kind."
SEALED = 21
"""How many of sixty tickets are sealed."""

ODD_IDS = [
    "two  words",
    'a "quote"',
    "back\\slash",
    "новый",
    "x" * 150,
    "line\nbreak",
    "tab\t",
    "a, ] b",
    " lead",
    "#",
    "-",
]

AGAIN = """

@pytest.mark.prompt_metric("tickets", threshold=0.8)
def test_again(example):
    assert route(ticket=example["ticket"]) == example["team"]
"""
NO_THRESHOLD = ('"tickets", threshold=0.8', '"tickets"')


def _frozen_desk(project: Any, **options: Any) -> Desk:
    desk = Desk(project, **options)
    desk.freeze()
    desk.forget_asked()
    return desk


def _propose(desk: Desk, instruction: str) -> None:
    """Let the proposer have another idea than the one that was frozen."""
    desk.write(
        "trouble.py",
        f"""
        def trouble(request, is_proposal):
            return "```\\n{instruction}\\n```" if is_proposal else None
    """,
    )
    desk.forget_replies()


def _baseline_of(test: str) -> str:
    return BASELINE.replace("test_routes", test)


def _kept(desk: Desk, name: str = BASELINE) -> dict[str, Any]:
    return tomllib.loads(desk.read(name))


def _read_ids(desk: Desk, name: str = "test_routes") -> set[str]:
    return {row["id"] for row in desk.figures()[name]["rows"]}


def _sides(rows: list[dict[str, Any]]) -> tuple[set[str], set[str]]:
    """The ids that a search of ``rows`` may see, and those that it may not."""
    examples = as_examples(rows, name="tickets")
    split = split_rows(examples, SplitRule(), key_of=lambda example: split_key(example, group=None, labels=()))
    return {example.id for example in split.searchable}, {example.id for example in split.test}


# --- baselines that are missing ---------------------------------------------------------------------------------------


def test_a_deleted_baseline_of_a_frozen_prompt_comes_back_byte_for_byte_by_the_next_search(project: Any) -> None:
    desk = _frozen_desk(project)
    files = desk.frozen_files()
    (desk.path / BASELINE).unlink()
    assert desk.optimize().ret == 0
    assert desk.jobs()["desk.route"]["outcome"] == "unchanged"
    assert desk.frozen_files() == files
    assert desk.asked() == []
    assert desk.run().ret == 0
    assert _read_ids(desk) == set(_kept(desk)["rows"])
    assert len(_read_ids(desk)) == SEALED


def test_a_renamed_test_of_a_frozen_prompt_gets_a_sealed_baseline_by_the_next_search(project: Any) -> None:
    desk = _frozen_desk(project)
    rows = _kept(desk)["rows"]
    (desk.path / BASELINE).unlink()
    desk.replace("test_desk.py", "def test_routes", "def test_sorts")
    assert desk.optimize().ret == 0
    assert desk.jobs()["desk.route"]["outcome"] == "unchanged"
    assert _kept(desk, _baseline_of("test_sorts"))["reads"] == "sealed"
    assert _kept(desk, _baseline_of("test_sorts"))["rows"] == rows
    assert desk.run().ret == 0
    assert _read_ids(desk, "test_sorts") == set(rows)


def test_a_new_metric_on_a_frozen_prompt_gets_its_sealed_baseline_by_the_next_search(project: Any) -> None:
    desk = _frozen_desk(project)
    files = desk.frozen_files()
    desk.write("test_desk.py", desk.read("test_desk.py") + AGAIN)
    assert desk.optimize().ret == 0
    assert desk.jobs()["desk.route"]["outcome"] == "unchanged"
    new = _baseline_of("test_again")
    assert {name: text for name, text in desk.frozen_files().items() if name != new} == files
    assert _kept(desk, new)["reads"] == "sealed"
    assert desk.run().ret == 0
    assert _read_ids(desk, "test_again") == _read_ids(desk) == set(_kept(desk)["rows"])
    after = desk.frozen_files()
    desk.forget_asked()
    assert desk.optimize().ret == 0
    assert desk.asked() == []
    assert desk.frozen_files() == after


@pytest.mark.parametrize("idea", [AS_GOOD, "Be nice."])
@pytest.mark.parametrize("test", ["test_again", "test_routes"])
def test_a_search_that_keeps_what_is_frozen_gives_it_the_sealed_baseline_that_it_lacks(
    project: Any, test: str, idea: str
) -> None:
    desk = _frozen_desk(project)
    sealed = set(_kept(desk)["rows"])
    if test == "test_again":
        desk.write("test_desk.py", desk.read("test_desk.py") + AGAIN)
    else:
        (desk.path / BASELINE).unlink()
    _propose(desk, idea)
    assert desk.optimize().ret == 0
    assert desk.jobs()["desk.route"]["outcome"] == "kept"
    assert desk.run().ret == 0
    assert _read_ids(desk, test) == sealed


# --- which rows are read ----------------------------------------------------------------------------------------------


def _renamed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"id": f"renamed-{row['id']}"} for row in rows]


def test_new_ids_for_all_rows_are_inconclusive_until_they_are_blessed(project: Any) -> None:
    desk = _frozen_desk(project)
    searched = set(_kept(desk)["searched"]["rows"])
    desk.rows(_renamed(make_tickets(60)))
    result = desk.run()
    assert result.ret == 0
    assert desk.figure()["verdict"]["outcome"] == "inconclusive"
    assert "empty" not in words(result)
    assert len(_read_ids(desk)) == SEALED
    assert not {f"renamed-{row}" for row in searched} & _read_ids(desk)
    assert desk.run("--prompt-strict", "inconclusive").ret == 1
    assert desk.run("--prompt-bless").ret == 0
    assert desk.run("--prompt-strict", "inconclusive").ret == 0
    assert desk.figure()["verdict"]["outcome"] == "pass"
    assert len(_read_ids(desk)) == SEALED


def _with_customers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"customer": f"c-{number % 17}"} for number, row in enumerate(rows)]


@pytest.mark.parametrize("option", ['labels={"route": "team"}', 'group="customer"'])
@pytest.mark.parametrize("count", [60, 40])
def test_an_option_that_deals_rows_anew_lets_the_gate_read_no_row_that_the_search_saw(
    project: Any, option: str, count: int
) -> None:
    desk = Desk(project, rows=count)
    desk.rows(_with_customers(make_tickets(count)))
    desk.freeze()
    baseline = _kept(desk)
    searched, sealed = set(baseline["searched"]["rows"]), set(baseline["rows"])
    assert searched
    assert len(searched) + len(sealed) == count
    desk.replace("test_desk.py", "threshold=0.8", f"threshold=0.8, {option}")
    assert desk.run().ret == 0
    assert _read_ids(desk) == sealed
    desk.rows(_with_customers(make_tickets(count + 60)))
    assert desk.run().ret == 0
    assert sealed <= _read_ids(desk)
    assert not searched & _read_ids(desk)
    assert desk.run("--prompt-bless").ret == 0
    assert set(_kept(desk)["searched"]["rows"]) == searched
    assert not searched & set(_kept(desk)["rows"])


def test_new_ids_and_a_new_salt_together_let_the_gate_read_no_row_that_the_search_saw(project: Any) -> None:
    desk = _frozen_desk(project)
    searched = {f"renamed-{row}" for row in _kept(desk)["searched"]["rows"]}
    desk.rows(_renamed(make_tickets(60)))
    desk.run("-o", "promptopt_salt=x")
    assert not searched & _read_ids(desk)


@pytest.mark.parametrize("option", ['labels={"route": "team"}', 'group="customer"'])
def test_blessed_new_ids_are_remembered_when_an_option_deals_rows_anew(project: Any, option: str) -> None:
    desk = Desk(project)
    rows = _with_customers(make_tickets(60))
    desk.rows(rows)
    desk.freeze()
    searched = {f"renamed-{row}" for row in _kept(desk)["searched"]["rows"]}
    desk.rows(_renamed(rows))
    assert desk.run("--prompt-bless").ret == 0
    desk.replace("test_desk.py", "threshold=0.8", f"threshold=0.8, {option}")
    desk.run()
    assert not searched & _read_ids(desk)


@pytest.mark.parametrize("field", ["ticket", "team"])
def test_editing_rows_that_the_search_saw_makes_none_of_them_new(project: Any, field: str) -> None:
    desk = _frozen_desk(project)
    searched = set(_kept(desk)["searched"]["rows"])
    for turn in range(3):
        rows = [
            row | ({field: f"{row['ticket']} ({turn})"} if row["id"] in searched else {}) for row in make_tickets(60)
        ]
        desk.rows(rows)
        assert desk.run().ret == 0
        assert desk.figure()["verdict"]["new_rows"] == []
        assert _read_ids(desk) == set(_kept(desk)["rows"])


def test_a_file_that_remembers_no_searched_rows_is_still_read(project: Any) -> None:
    desk = _frozen_desk(project)
    text = desk.read(BASELINE)
    head, _, tail = text.partition("[searched]\n")
    (desk.path / BASELINE).write_text(head + tail.partition("]\n\n")[2], encoding="utf-8")
    assert "searched" not in _kept(desk)
    assert desk.run().ret == 0
    assert _read_ids(desk) == set(_kept(desk)["rows"])


# --- what a search remembers ------------------------------------------------------------------------------------------


def test_a_new_salt_that_freezes_nothing_changes_no_row_that_the_gate_reads(project: Any) -> None:
    desk = _frozen_desk(project)
    before = _kept(desk)
    _propose(desk, AS_GOOD)
    salt = ("-o", "promptopt_salt=x")
    assert desk.optimize(*salt).ret == 0
    assert desk.jobs()["desk.route"]["outcome"] == "kept"
    after = _kept(desk)
    assert {**after, "sealed": {}} == {**before, "sealed": {}}
    assert after["sealed"]["winners"][0] == before["sealed"]["winners"][0]
    assert [entry.partition(":")[0] for entry in after["sealed"]["winners"][1:]] == ["x"]
    for arguments in ((), salt):
        result = desk.run(*arguments)
        assert result.ret == 0
        assert _read_ids(desk) == set(before["rows"])
        assert desk.figure()["verdict"]["outcome"] == "pass"
    desk.rows(make_tickets(120))
    read = []
    for arguments in ((), salt):
        desk.run(*arguments)
        read.append(_read_ids(desk))
    assert read[0] == read[1] > set(before["rows"])


def test_every_salt_remembers_its_own_winners_whatever_others_tried_in_between(project: Any) -> None:
    desk = _frozen_desk(project)
    salt = ("-o", "promptopt_salt=x")

    def level(instruction: str, *arguments: str) -> float:
        _propose(desk, instruction)
        desk.optimize(*arguments)
        assert desk.jobs()["desk.route"]["outcome"] == "kept"
        alpha: float = desk.jobs()["desk.route"]["alpha"]
        return alpha

    assert level(AS_GOOD, *salt) == pytest.approx(0.2)
    assert level(AS_GOOD) == pytest.approx(0.1)
    assert level(AS_GOOD_AGAIN) == pytest.approx(0.05)
    assert level(AS_GOOD_AGAIN, *salt) == pytest.approx(0.1)
    assert level(AS_GOOD, *salt) == pytest.approx(0.2)
    winners = _kept(desk)["sealed"]["winners"]
    assert [":" in entry for entry in winners].count(True) == 2
    assert len(winners) == len(set(winners)) == 5


def test_a_freeze_under_a_new_salt_keeps_what_was_spent_under_the_old_one(project: Any) -> None:
    desk = _frozen_desk(project)
    (old,) = _kept(desk)["sealed"]["winners"]
    desk.replace("desk.py", "Decide which team", "Say which team")
    _propose(desk, AS_GOOD)
    assert desk.optimize("-o", "promptopt_salt=x").ret == 0
    assert desk.jobs()["desk.route"]["outcome"] == "frozen"
    sealed = _kept(desk)["sealed"]
    assert sealed["salt"] == "x"
    assert sealed["winners"][0] == f":{old}"
    assert len(sealed["winners"]) == 2
    rows = set(_kept(desk)["rows"])
    assert desk.run().ret == 0
    assert _read_ids(desk) == rows
    _propose(desk, AS_GOOD_AGAIN)
    desk.optimize()
    assert desk.jobs()["desk.route"]["alpha"] == pytest.approx(0.1)
    assert set(_kept(desk)["rows"]) == rows


@pytest.mark.parametrize("optimizer", ["copro", "auto"])
@pytest.mark.parametrize("has_ids", [True, False])
@pytest.mark.parametrize("count", [60, 30])
def test_sorting_a_dataset_changes_no_winner_and_no_byte_and_calls_nothing(
    project: Any, optimizer: str, has_ids: bool, count: int
) -> None:
    desk = Desk(project, rows=count)
    rows = [row if has_ids else {"ticket": row["ticket"], "team": row["team"]} for row in make_tickets(count)]
    desk.rows(rows)
    arguments = ("--prompt-optimizer", optimizer)
    assert desk.optimize(*arguments).ret == 0
    files = desk.frozen_files()
    assert SNAPSHOT in files
    desk.forget_asked()
    Random(1).shuffle(rows)
    desk.rows(rows)
    assert desk.optimize(*arguments).ret == 0
    assert desk.asked() == []
    assert desk.frozen_files() == files
    for name in files:
        (desk.path / name).unlink()
    assert desk.optimize(*arguments).ret == 0
    assert desk.asked() == []
    assert desk.frozen_files() == files


# --- what is not frozen -----------------------------------------------------------------------------------------------


def _fail_once_taught(desk: Desk, tickets: list[str]) -> None:
    """Let every candidate that knows about billing answer ``tickets`` wrongly."""
    desk.write(
        "trouble.py",
        f"""
        TICKETS = {tickets!r}

        def trouble(request, is_proposal):
            shown = request.messages[0]["content"]
            if not is_proposal and "Choose billing" in shown and request.messages[-1]["content"] in TICKETS:
                return "bug"
    """,
    )


@pytest.mark.parametrize("side", ["searchable", "sealed"])
@pytest.mark.parametrize("has_threshold", [True, False])
def test_a_winner_that_fails_a_must_pass_row_is_kept_with_the_reason(
    project: Any, side: str, has_threshold: bool
) -> None:
    desk = Desk(project)
    tickets = make_tickets(60)
    searchable, sealed = _sides(tickets)
    ids = searchable if side == "searchable" else sealed
    row = next(row for row in tickets if row["team"] == "account" and row["id"] in ids)
    _fail_once_taught(desk, [row["ticket"]])
    if not has_threshold:
        desk.replace("test_desk.py", *NO_THRESHOLD)
    desk.replace("test_desk.py", '"tickets"', f'"tickets", must_pass=["{row["id"]}"]')
    result = desk.optimize()
    job = desk.jobs()["desk.route"]
    assert job["outcome"] == "kept"
    assert job["reason"] == f"test_routes fails on the must-pass row {row['id']}"
    assert job["reason"] in words(result)
    assert SNAPSHOT not in desk.frozen_files()
    assert result.ret == (1 if has_threshold else 0)
    winners = _kept(desk)["sealed"]["winners"]
    assert len(winners) == 1
    desk.forget_asked()
    assert desk.optimize().ret == result.ret
    assert desk.asked() == []
    assert _kept(desk)["sealed"]["winners"] == winners


def test_the_same_winner_is_frozen_without_the_must_pass_row_that_it_fails(project: Any) -> None:
    desk = Desk(project)
    row = next(row for row in make_tickets(60) if row["team"] == "account")
    _fail_once_taught(desk, [row["ticket"]])
    assert desk.optimize().ret == 0
    assert desk.jobs()["desk.route"]["outcome"] == "frozen"


@pytest.mark.parametrize("threshold", [0.2, 0.3, 0.32, 0.3333, 0.334, 0.35, 0.4, 0.5])
def test_a_search_that_keeps_the_source_ends_as_the_plain_run_after_it(project: Any, threshold: float) -> None:
    desk = Desk(project)
    tickets = make_tickets(60)
    searchable, sealed = _sides(tickets)
    shares = [
        sum(row["team"] == "account" and row["id"] in side for row in tickets) / len(side)
        for side in (searchable, sealed)
    ]
    assert min(shares) < 0.32 < 1 / 3 < 0.35 < max(shares)  # else no threshold tells the sides apart
    _fail_once_taught(desk, [row["ticket"] for row in tickets if row["id"] in sealed])
    desk.replace("test_desk.py", "threshold=0.8", f"threshold={threshold}")
    searched = desk.optimize()
    assert desk.jobs()["desk.route"]["outcome"] == "kept"
    assert desk.jobs()["desk.route"]["sealed_after"] is not None
    desk.forget_asked()
    plain = desk.run()
    assert desk.asked() == []
    assert len(desk.figure()["rows"]) == 60
    assert searched.ret == plain.ret == (0 if threshold <= 1 / 3 else 1)


def test_a_baseline_says_which_rows_its_search_saw(project: Any) -> None:
    desk = _frozen_desk(project)
    searchable, sealed = _sides(make_tickets(60))
    baseline = read_baseline(desk.read(BASELINE), path=desk.path / BASELINE)
    assert set(baseline.searched) == searchable
    assert {row.id for row in baseline.rows} == sealed


@pytest.mark.parametrize(
    "name",
    [
        lambda number: f"late-refund-of-the-yearly-plan-{number}",
        lambda number: str(UUID(int=Random(number).getrandbits(128))),
        lambda number: f"{ODD_IDS[number % len(ODD_IDS)]} {number}",
        lambda number: f"u\u2028{number}\x0b\x0c\x85 \u00a0z\u3000\x1c",
    ],
    ids=["words with hyphens", "uuids", "odd", "odd spaces"],
)
def test_rows_of_any_name_are_remembered_as_searched(project: Any, name: Callable[[int], str]) -> None:
    desk = Desk(project)
    rows = [row | {"id": name(number)} for number, row in enumerate(make_tickets(60))]
    desk.rows(rows)
    desk.freeze()
    searchable, sealed = _sides(rows)
    assert set(_kept(desk)["searched"]["rows"]) == searchable
    assert set(_kept(desk)["rows"]) == sealed
    assert desk.run().ret == 0
    assert _read_ids(desk) == sealed
