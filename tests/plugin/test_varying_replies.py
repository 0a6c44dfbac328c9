"""Where one and the same call is answered differently: draws that are counted, kept apart, and asked for once."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from pytest_promptopt.snapshots.baseline import read_baseline
from tests.plugin.projects import BASELINE, GOOD_INSTRUCTION, Desk, make_tickets, words

NOISE = '''
from hashlib import sha256


def is_noisy(ticket, repeat):
    """About one draw in four goes wrong, whatever the model was told."""
    return sha256(f"{repeat} {ticket}".encode()).digest()[0] < 64


def trouble(request, is_proposal):
    if not is_proposal and request.temperature == 1.0 and is_noisy(request.messages[-1]["content"], request.repeat):
        return "account"
'''
FIRST_CONFIRMING_DRAW = 1_000


def _is_noisy(ticket: str, repeat: int) -> bool:
    return sha256(f"{repeat} {ticket}".encode()).digest()[0] < 64


def _taught_score(row: dict[str, str], draws: range) -> float:
    """What a row scores over ``draws`` once the model knows its telling words."""
    return sum(row["team"] == "account" or not _is_noisy(row["ticket"], draw) for draw in draws) / len(draws)


def _mean(values: Any) -> float:
    listed = list(values)
    return float(sum(listed) / len(listed))


def _noisy_desk(project: Any, *, repeats: int = 1, temperature: float = 1.0) -> Desk:
    desk = Desk(project, rows=90)
    desk.write("trouble.py", NOISE)
    desk.replace("desk.py", "@prompt\n", f"@prompt(temperature={temperature})\n")
    desk.replace("test_desk.py", "threshold=0.8", f"threshold=0.5, repeats={repeats}")
    return desk


def _baseline_rows(desk: Desk) -> dict[str, float]:
    baseline = read_baseline(desk.read(BASELINE), path=desk.path / BASELINE)
    return {row.id: row.score for row in baseline.rows}


# --- freezing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeats", [1, 3])
def test_a_winner_is_confirmed_on_other_draws_than_its_baseline_holds(project: Any, repeats: int) -> None:
    desk = _noisy_desk(project, repeats=repeats)
    desk.freeze()
    rows = {row["id"]: row for row in make_tickets(90)}
    baseline = _baseline_rows(desk)
    sealed = {rows[name]["ticket"] for name in baseline}
    asked = [line for line in desk.asked() if not line["is_proposal"] and line["text"] in sealed]
    kept, confirming = range(repeats), range(FIRST_CONFIRMING_DRAW, FIRST_CONFIRMING_DRAW + repeats)
    for ticket in sealed:
        draws = {taught: set() for taught in (False, True)}
        for line in asked:
            if line["text"] == ticket:
                draws["Choose billing" in line["system"]].add(line["repeat"])
        assert draws == {False: {*confirming}, True: {*kept, *confirming}}
    assert baseline == pytest.approx({name: _taught_score(rows[name], kept) for name in baseline})
    job = desk.jobs()["desk.route"]
    assert job["sealed_after"] == pytest.approx(_mean(_taught_score(rows[name], confirming) for name in baseline))
    assert job["sealed_after"] != pytest.approx(_mean(baseline.values()))  # the two draws really differ
    assert job["spending"]["attempts"] == len(desk.asked())


def test_the_next_plain_run_scores_what_the_baseline_says_without_a_call(project: Any) -> None:
    desk = _noisy_desk(project)
    desk.freeze()
    desk.forget_asked()
    result = desk.run()
    assert result.ret == 0
    figure = desk.figure()
    assert {row["id"]: row["score"] for row in figure["rows"]} == _baseline_rows(desk)
    assert (figure["verdict"]["outcome"], figure["verdict"]["lost"], figure["verdict"]["gained"]) == ("pass", [], [])
    assert "unchanged" in words(result)
    assert desk.asked() == []


def test_a_second_search_over_varying_replies_calls_nothing_and_changes_no_byte(project: Any) -> None:
    desk = _noisy_desk(project)
    desk.freeze()
    before = desk.frozen_files()
    desk.forget_asked()
    assert desk.optimize().ret == 0
    assert desk.asked() == []
    assert desk.frozen_files() == before


def test_a_judge_that_varies_makes_the_baseline_a_fresh_draw_too(project: Any) -> None:
    desk = _noisy_desk(project, temperature=0.0)
    desk.write(
        "desk.py",
        desk.read("desk.py")
        + '''

@prompt(optimize=False, temperature=1.0)
def judge(ticket: str) -> str:
    """Choose billing for: refund, invoice, receipt, discount, charged. Choose bug for: crashes, freezes, blank, error,
    stuck. Choose account for: password, username, login, profile, nickname."""
''',
    )
    desk.replace("test_desk.py", "from desk import route", "from desk import judge, route")
    desk.replace("test_desk.py", '== example["team"]', '== judge(ticket=example["ticket"])')
    desk.freeze()
    rows = {row["id"]: row for row in make_tickets(90)}
    baseline = _baseline_rows(desk)
    judged = {line["text"]: set() for line in desk.asked()}
    for line in desk.asked():
        if line["system"].startswith("Choose billing for: refund"):
            judged[line["text"]].add(line["repeat"])
    assert all(judged[rows[name]["ticket"]] == {0, FIRST_CONFIRMING_DRAW} for name in baseline)


def test_a_metric_that_raises_on_the_baselines_own_draw_freezes_nothing_and_says_where(project: Any) -> None:
    desk = _noisy_desk(project)
    desk.freeze()
    row = next(row for row in make_tickets(90) if row["id"] in _baseline_rows(desk) and row["team"] == "bug")
    for path in desk.frozen_files():
        (desk.path / path).unlink()
    desk.forget_replies()
    desk.write(
        "trouble.py",
        NOISE.replace(
            "is_proposal):\n",
            "is_proposal):\n"
            f"    if request.messages[-1]['content'] == {row['ticket']!r} and request.repeat == 0:\n"
            "        return 'billing'\n",
        ),
    )
    desk.replace(
        "test_desk.py",
        "    assert route(",
        f"    if example.id == {row['id']!r} and route(ticket=example['ticket']) == 'billing':\n"
        "        raise ValueError('nobody is charged for a bug')\n"
        "    assert route(",
    )
    desk.optimize()
    job = desk.jobs()["desk.route"]
    assert job["outcome"] == "kept"
    assert f"raised on row {row['id']}" in job["reason"]
    assert "nobody is charged for a bug" in job["reason"]
    assert [*desk.frozen_files()] == [BASELINE]  # which remembers that a winner was tried on these rows
    assert _baseline_rows(desk) == {}


# --- repeats ----------------------------------------------------------------------------------------------------------


def _blessed_desk(project: Any) -> Desk:
    """A desk whose prompt knows the telling words, with three draws a row."""
    desk = _noisy_desk(project, repeats=3)
    desk.replace("desk.py", "Decide which team should answer.", GOOD_INSTRUCTION)
    assert desk.run("--prompt-bless").ret == 0
    return desk


def test_a_row_scores_the_mean_of_its_repeats_and_each_is_one_call(project: Any) -> None:
    desk = _blessed_desk(project)
    figure = desk.figure()
    expected = {row["id"]: _taught_score(row, range(3)) for row in make_tickets(90)}
    assert {row["id"]: row["score"] for row in figure["rows"]} == pytest.approx(expected)
    assert len(set(expected.values())) > 2
    assert figure["spending"]["calls"] == figure["spending"]["attempts"] == len(desk.asked()) == 3 * 90
    assert {line["repeat"] for line in desk.asked()} == {0, 1, 2}


def test_repeats_are_replayed_draw_by_draw(project: Any) -> None:
    desk = _blessed_desk(project)
    first = desk.figure()
    desk.forget_asked()
    desk.run().assert_outcomes(passed=1)
    second = desk.figure()
    assert desk.asked() == []
    assert (second["spending"]["replayed"], second["spending"]["attempts"]) == (3 * 90, 0)
    assert second["rows"] == first["rows"]
    assert second["verdict"]["difference"] == 0


def test_the_gate_fails_on_what_repeats_lose_and_passes_what_they_keep(project: Any) -> None:
    desk = _blessed_desk(project)
    desk.forget_replies()
    desk.run().assert_outcomes(passed=1)
    desk.write("trouble.py", NOISE.replace("< 64", "< 160"))
    desk.forget_replies()
    desk.run().assert_outcomes(failed=1)
    verdict = desk.figure()["verdict"]
    assert verdict["outcome"] == "fail"
    assert verdict["p"] < 0.05
    assert verdict["score"] > 0.5  # the threshold alone would have let it pass


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_offline_model_is_asked_three_times_a_row_and_never_again(project: Any, temperature: float) -> None:
    desk = _noisy_desk(project, repeats=3, temperature=temperature)
    desk.ini(model="offline/keyword")
    desk.run("--prompt-bless")
    first = desk.figure()
    assert first["spending"]["calls"] == 3 * 90
    desk.run()
    second = desk.figure()
    assert (second["spending"]["replayed"], second["spending"]["attempts"]) == (3 * 90, 0)
    assert second["rows"] == first["rows"]
    fractions = {row["score"] for row in first["rows"]} - {0.0, 1.0}
    assert bool(fractions) == (temperature > 0)
