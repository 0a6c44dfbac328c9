"""Where nothing can be learned, little is frozen; and trying again on the same sealed rows is no way around that."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tests.plugin.projects import BASELINE, SNAPSHOT, Desk, make_tickets

SEEDS = 40


def _null_desk(project: Any, seed: int, rows: int = 60) -> Desk:
    """Tickets whose teams were dealt anew, at random: whatever a search finds is luck."""
    desk = Desk.anew(project)
    tickets = make_tickets(rows, seed)
    teams = [ticket["team"] for ticket in tickets]
    Random(seed).shuffle(teams)
    desk.rows([{**ticket, "team": team} for ticket, team in zip(tickets, teams, strict=True)])
    desk.replace("test_desk.py", ", threshold=0.8", "")
    return desk


def _search(desk: Desk) -> dict[str, Any]:
    strategy = "bootstrap-random-search"
    settings = ("--prompt-optimizer", strategy, "--prompt-set", f"{strategy}.num_candidates=3")
    assert desk.optimize("-qq", "--prompt-model", "offline/keyword", *settings).ret == 0
    return desk.jobs()["desk.route"]


def test_a_task_without_signal_is_frozen_in_at_most_a_fifth_of_all_searches(project: Any) -> None:
    jobs = [_search(_null_desk(project, seed)) for seed in range(SEEDS)]
    fooled = [job for job in jobs if job["selected_score"] >= job["start_score"] + 0.05]
    assert len(fooled) > SEEDS / 4  # what selects is fooled again and again
    assert sum(job["outcome"] == "frozen" for job in jobs) <= SEEDS / 5


def _lucky_desk(project: Any) -> Desk:
    """Two proposals: one good on select alone, one good on select and on three sealed rows, which is p = 0.125."""
    desk = Desk(project)
    desk.freeze()
    desk.run()
    sealed = {row["id"] for row in desk.figure()["rows"]}
    desk = Desk.anew(project)
    desk.replace("test_desk.py", ", threshold=0.8", "")
    unlearned = [row for row in make_tickets(60) if row["id"] in sealed and row["team"] != "account"]
    team_of = {row["ticket"]: row["team"] for row in make_tickets(60) if row["id"] not in sealed}
    lucky = {row["ticket"]: row["team"] for row in unlearned[:3]}
    desk.write(
        "trouble.py",
        f"""
        from pathlib import Path

        SEEN = {team_of!r}
        LUCKY = {lucky!r}
        TURN = Path(__file__).with_name("turn.txt")

        def trouble(request, is_proposal):
            if is_proposal:
                return "```\\n" + TURN.read_text() + "\\n```"
            text = request.messages[-1]["content"]
            system = request.messages[0]["content"]
            if system.startswith("Hope for the best."):
                return SEEN.get(text, "account")
            if system.startswith("Trust your luck."):
                return SEEN.get(text) or LUCKY.get(text, "account")
    """,
    )
    return desk


def _try(desk: Desk, instruction: str, seed: int = 0, *arguments: str) -> dict[str, Any]:
    """Search with a proposer that knows nothing but ``instruction``; the seed makes the question a new one."""
    desk.write("turn.txt", instruction)
    result = desk.optimize("--prompt-seed", str(seed), *arguments)
    assert result.ret == 0
    return desk.jobs()["desk.route"]


def test_each_further_winner_on_the_same_sealed_rows_has_to_be_surer(project: Any) -> None:
    desk = _lucky_desk(project)
    wishes = ("twice", "three times", "once more", "for ever")
    jobs = [_try(desk, f"Hope for the best. Hope {wish}.", seed) for seed, wish in enumerate(wishes)]
    assert [(job["outcome"], job["alpha"]) for job in jobs] == [("kept", 0.2 / 2**number) for number in range(4)]


def test_the_same_winner_tried_again_costs_nothing_of_the_sealed_rows(project: Any) -> None:
    desk = _lucky_desk(project)
    assert [_try(desk, "Hope for the best.", seed)["alpha"] for seed in (0, 0, 1)] == [0.2] * 3
    assert desk.read(BASELINE).partition("[sealed]")[2].partition("]")[0].count('"') == 2
    assert _try(desk, "Hope for the best. Hope twice.", 2)["alpha"] == 0.1


def test_a_new_salt_starts_anew(project: Any) -> None:
    desk = _lucky_desk(project)
    assert _try(desk, "Hope for the best.")["alpha"] == 0.2
    desk.ini("promptopt_salt = winter")
    assert _try(desk, "Trust your luck.")["alpha"] == 0.2


def test_a_first_winner_with_three_sealed_rows_more_is_frozen(project: Any) -> None:
    job = _try(_lucky_desk(project), "Trust your luck.")
    assert (job["outcome"], job["p"], job["alpha"]) == ("frozen", pytest.approx(0.125), 0.2)


def test_the_level_of_a_freeze_can_be_set(project: Any) -> None:
    desk = _lucky_desk(project)
    desk.ini("promptopt_freeze_alpha = 0.1")
    job = _try(desk, "Trust your luck.")
    assert (job["outcome"], job["alpha"]) == ("kept", 0.1)


def test_the_same_gain_is_not_enough_for_a_second_winner(project: Any) -> None:
    desk = _lucky_desk(project)
    assert _try(desk, "Hope for the best.")["outcome"] == "kept"
    assert [*desk.frozen_files()] == [BASELINE]
    job = _try(desk, "Trust your luck.", 1)
    assert (job["outcome"], job["p"], job["alpha"]) == ("kept", pytest.approx(0.125), 0.1)
    assert "p must reach 0.1 by now" in job["reason"]
    assert SNAPSHOT not in desk.frozen_files()


def test_what_was_tried_and_kept_out_changes_no_verdict(project: Any) -> None:
    desk = _lucky_desk(project)
    before = desk.run().ret, desk.figure()["verdict"]
    _try(desk, "Hope for the best.")
    assert [*desk.frozen_files()] == [BASELINE]
    assert (desk.run().ret, desk.figure()["verdict"]) == before
    assert len(desk.figure()["rows"]) == 60
