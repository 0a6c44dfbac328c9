"""The anchor: losses too small to prove do not add up unseen, and luck does not raise the bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.evaluation.statistics import mcnemar_midp, sign_flip
from pytest_promptopt.gate import (
    ANCHOR_SHARE,
    Anchor,
    AnchorMove,
    Outcome,
    ScoredRow,
    Verdict,
    blessings_ago,
    judge,
    move_anchor,
    session_alpha,
    shared_alpha,
)
from pytest_promptopt.session.anchoring import anchor_of, anchored
from pytest_promptopt.session.metric_item import scored_rows
from pytest_promptopt.snapshots.baseline import Baseline, BaselineRow, dump_baseline, read_baseline

quickly = settings(max_examples=80, deadline=None, derandomize=True)
binary = st.sampled_from([0.0, 1.0])
grades = st.integers(0, 20).map(lambda number: number / 20)
PATH = Path("tests/__prompts__/test_desk.test_routes@offline-keyword.toml")


def scored(scores: Sequence[float], *, digest: str = "d", groups: Sequence[str] | None = None) -> list[ScoredRow]:
    return [
        ScoredRow(id=f"t-{number:03}", digest=digest, score=score, group=groups[number] if groups else None)
        for number, score in enumerate(scores)
    ]


def anchor(scores: Sequence[float], *, blessings: int = 3, digest: str = "d") -> Anchor:
    return Anchor(rows={row.id: row for row in scored(scores, digest=digest)}, blessings=blessings)


def passing(n: int, of: int) -> list[float]:
    return [1.0] * n + [0.0] * (of - n)


def gate(best: Sequence[float] | None, before: Sequence[float], now: Sequence[float], **options: Any) -> Verdict:
    baseline = {row.id: row for row in scored(before)}
    return judge(scored(now), baseline=baseline, anchor=None if best is None else anchor(best), **options)


def baseline_of(scores: Sequence[float], **fields: Any) -> Baseline:
    plain: dict[str, Any] = {"reads": "all", "metric_digest": "m", "prompts": {}, "sealed": ()}
    rows = tuple(BaselineRow(id=row.id, digest=row.digest, score=row.score) for row in scored(scores))
    return Baseline(metric="test_desk.test_routes", model="offline/keyword", **{"rows": rows, **plain, **fields})


def bless(*runs: Sequence[float]) -> Baseline:
    """The baseline after all ``runs`` were blessed in turn."""
    standing = baseline_of(runs[0])
    for run in runs[1:]:
        standing = anchored(baseline_of(run), standing).baseline
    return standing


def run_again(standing: Baseline, scores: Sequence[float]) -> Verdict:
    """The gate's word on a run that scores what was just blessed."""
    return judge(scored(scores), baseline=scored_rows(standing), anchor=anchor_of(standing))


# --- the gate ---


def test_small_losses_that_were_blessed_one_by_one_fail_by_the_anchor_which_the_verdict_names():
    verdict = gate(passing(91, of=100), passing(82, of=100), passing(81, of=100))
    assert verdict.outcome is Outcome.FAIL
    assert (verdict.is_worse, verdict.is_worse_than_anchor) == (False, True)
    assert verdict.reasons[0] == "0.910 three blessings ago, 0.810 now: worse by 0.100 (p = 0.00049)"
    assert (verdict.anchor_score, verdict.anchor_blessings) == (0.91, 3)
    assert verdict.anchor_difference == pytest.approx(-0.1)
    assert verdict.anchor_p == mcnemar_midp(10, 0)
    assert verdict.anchor_lost == tuple(f"t-{number:03}" for number in range(81, 91))


def test_without_an_anchor_the_same_run_passes():
    verdict = gate(None, passing(82, of=100), passing(81, of=100))
    assert verdict.outcome is Outcome.PASS
    assert (verdict.anchor_score, verdict.anchor_p, verdict.anchor_blessings) == (None, None, 0)


def test_a_loss_since_the_anchor_that_is_not_proven_fails_nobody():
    verdict = gate(passing(91, of=100), passing(88, of=100), passing(88, of=100))
    assert (verdict.outcome, verdict.reasons) == (Outcome.PASS, ())
    assert verdict.anchor_difference == pytest.approx(-0.03)


def test_the_baseline_is_judged_at_four_fifths_of_the_level_and_the_anchor_at_one():
    best = passing(60, of=60)
    p = mcnemar_midp(5, 0)
    verdict = gate(best, best, passing(55, of=60), alpha=p / 0.8 * 1.0001)
    assert (verdict.is_worse, verdict.is_worse_than_anchor) == (True, False)
    assert not gate(best, best, passing(55, of=60), alpha=p / 0.8 * 0.9999).is_worse
    assert gate(None, best, passing(55, of=60), alpha=p).is_worse, "alone, the baseline has the whole level"
    assert gate(best, passing(55, of=60), passing(55, of=60), alpha=p / 0.2 * 1.0001).is_worse_than_anchor
    assert not gate(best, passing(55, of=60), passing(55, of=60), alpha=p / 0.2 * 0.9999).is_worse_than_anchor


@quickly
@given(st.floats(0.001, 0.5), st.booleans())
def test_the_shares_add_up_to_the_level(alpha, has_anchor):
    shares = shared_alpha(alpha, has_anchor=has_anchor)
    assert sum(shares) == pytest.approx(alpha)
    assert shares[1] == (pytest.approx(ANCHOR_SHARE * alpha) if has_anchor else 0.0)


def test_a_proven_but_tiny_loss_since_the_anchor_fails_nobody():
    verdict = gate([0.900] * 40, [0.895] * 40, [0.895] * 40)
    assert verdict.anchor_p is not None
    assert verdict.anchor_p < 0.001
    assert verdict.outcome is Outcome.PASS


def test_fewer_than_ten_shared_rows_prove_nothing():
    verdict = gate(passing(9, of=9), passing(0, of=9), passing(0, of=9))
    assert (verdict.outcome, verdict.anchor_p, verdict.anchor_score) == (Outcome.PASS, None, 1.0)


def test_only_rows_of_equal_id_and_content_are_held_to_the_anchor():
    now = [*scored(passing(10, of=30))[:29], ScoredRow(id="t-029", digest="another", score=0.0)]
    verdict = judge(now, baseline={row.id: row for row in now}, anchor=anchor([1.0] * 40))
    assert (len(verdict.anchor_lost), verdict.anchor_score) == (19, 1.0)
    strangers = judge(now, baseline={row.id: row for row in now}, anchor=anchor([1.0] * 40, digest="other"))
    assert (strangers.outcome, strangers.anchor_score) == (Outcome.PASS, None)


def test_rows_of_a_group_fall_from_the_anchor_as_one():
    groups = [str(number // 5) for number in range(40)]
    now = scored(passing(25, of=40), groups=groups)
    verdict = judge(now, baseline={row.id: row for row in now}, anchor=anchor([1.0] * 40))
    assert verdict.anchor_p == sign_flip([1.0] * 3) == 1 / 8
    assert verdict.outcome is Outcome.PASS


def test_a_metric_that_changed_is_held_to_no_anchor():
    verdict = gate(passing(40, of=40), passing(20, of=40), passing(20, of=40), is_comparable=False)
    assert (verdict.outcome, verdict.anchor_score) == (Outcome.INCONCLUSIVE, None)


@quickly
@given(st.lists(st.tuples(binary, binary, binary), min_size=10, max_size=40), st.randoms())
def test_the_order_of_rows_changes_no_figure_of_the_anchor(columns, rng):
    best, before, now = zip(*columns, strict=True)
    baseline = {row.id: row for row in scored(before)}
    rows = scored(now)
    one, other = (judge(each, baseline=baseline, anchor=anchor(best)) for each in (rows, rng.sample(rows, len(rows))))
    assert (one.outcome, one.anchor_p, one.anchor_difference) == (
        other.outcome,
        other.anchor_p,
        other.anchor_difference,
    )


@pytest.mark.parametrize(
    ("count", "words"),
    [(1, "one blessing ago"), (3, "three blessings ago"), (12, "twelve blessings ago"), (13, "13 blessings ago")],
)
def test_blessings_are_counted_in_words(count, words):
    assert blessings_ago(count) == words


# --- what a blessing does to it ---


def test_a_blessing_that_accepts_a_small_loss_keeps_the_anchor():
    blessed = bless(passing(91, of=100), passing(88, of=100), passing(86, of=100))
    assert blessed.blessings == 2
    standing = anchor_of(blessed)
    assert standing is not None
    assert [row.score for row in standing.rows.values()] == passing(91, of=100)
    assert [row.id for row in blessed.rows if row.anchor is not None] == [f"t-{number:03}" for number in range(86, 91)]


def test_the_first_blessing_of_a_proven_loss_keeps_the_anchor_so_that_the_next_run_fails_by_it():
    first = anchored(baseline_of(passing(80, of=100)), bless(passing(91, of=100), passing(86, of=100)))
    assert (first.move, first.before, first.after) == (AnchorMove.WARNED, 0.91, 0.80)
    assert (first.baseline.is_anchor_warned, first.baseline.blessings) == (True, 2)
    assert "[anchor]\nblessings = 2\nwarned = true\n" in dump_baseline(first.baseline)
    assert run_again(first.baseline, passing(80, of=100)).is_worse_than_anchor


def test_the_second_blessing_of_a_proven_loss_moves_the_anchor_down_so_that_the_gate_is_green_again():
    before = bless(passing(91, of=100), passing(86, of=100), passing(80, of=100))
    after = anchored(baseline_of(passing(80, of=100)), before)
    assert (after.move, after.before, after.after) == (AnchorMove.LOWERED, 0.91, 0.80)
    assert anchor_of(after.baseline) is None
    assert (after.baseline.blessings, after.baseline.is_anchor_warned) == (0, False)


def test_scores_that_recover_take_the_warning_back():
    recovered = bless(passing(91, of=100), passing(80, of=100), passing(90, of=100))
    assert (recovered.has_anchor, recovered.is_anchor_warned) == (True, False)
    assert anchored(baseline_of(passing(80, of=100)), recovered).move is AnchorMove.WARNED


@pytest.mark.parametrize("weekly_rows", [1, 2, 5, 12])
def test_a_team_that_only_blesses_has_a_red_run_before_its_best_is_forgotten(weekly_rows):
    standing = baseline_of(passing(100, of=100))
    for week in range(1, 21):
        scores = passing(max(0, 100 - week * weekly_rows), of=100)
        after = anchored(baseline_of(scores), standing)
        assert after.move is not AnchorMove.LOWERED, "before the gate has failed by it"
        standing = after.baseline
        if run_again(standing, scores).is_worse_than_anchor:
            return
    pytest.fail("twenty weeks of losses without a red run")


def test_a_proven_gain_moves_the_anchor_up_and_a_lucky_one_does_not():
    standing = bless(passing(80, of=100), passing(79, of=100))
    lucky, proven = (anchored(baseline_of(passing(n, of=100)), standing) for n in (83, 90))
    assert (lucky.move, lucky.baseline.blessings) == (AnchorMove.KEPT, 2)
    assert (proven.move, proven.baseline.blessings) == (AnchorMove.RAISED, 0)
    assert anchor_of(proven.baseline) is None


def test_a_freeze_that_sealed_rows_confirmed_moves_the_anchor_up_without_another_proof():
    standing = bless(passing(80, of=100), passing(79, of=100))
    frozen = [anchored(baseline_of(passing(n, of=100)), standing, is_confirmed=True).move for n in (83, 80, 78)]
    assert frozen == [AnchorMove.RAISED, AnchorMove.KEPT, AnchorMove.KEPT], (
        "better than the incumbent, not than the best"
    )


def test_accepting_the_same_scores_again_changes_no_byte():
    once = bless(passing(91, of=100), passing(88, of=100))
    again = anchored(baseline_of(passing(88, of=100)), once).baseline
    assert dump_baseline(again) == dump_baseline(once)
    grown = [*passing(88, of=100), 1.0]
    assert anchored(baseline_of(grown), once).baseline.blessings == 1, "a new row is no loss"


def test_a_first_baseline_is_its_own_anchor():
    first = anchored(baseline_of(passing(3, of=20)), None)
    assert (first.move, first.baseline.has_anchor, anchor_of(None)) == (AnchorMove.KEPT, False, None)


def test_other_metric_code_starts_anew_unless_it_scores_every_row_alike():
    standing = bless(passing(91, of=100), passing(88, of=100))
    renamed = anchored(baseline_of(passing(88, of=100), metric_digest="other"), standing).baseline
    stricter = anchored(baseline_of(passing(87, of=100), metric_digest="other"), standing).baseline
    assert (renamed.has_anchor, renamed.blessings) == (True, 1)
    assert not stricter.has_anchor


def test_a_changed_row_is_held_to_its_first_score_and_the_others_to_theirs():
    standing = bless(passing(20, of=20), passing(17, of=20))
    rows = [*standing.rows[:19], BaselineRow(id="t-019", digest="edited", score=0.0)]
    plain = tuple(replace(row, anchor=None) for row in rows)
    blessed = anchored(baseline_of([], rows=plain), standing).baseline
    assert [row.id for row in blessed.rows if row.anchor is not None] == ["t-017", "t-018"]
    others = anchored(baseline_of([], rows=(BaselineRow(id="new", digest="d", score=0.5),)), standing)
    assert (others.move, others.baseline.has_anchor, others.before) == (AnchorMove.KEPT, False, None)


@quickly
@given(st.lists(st.lists(grades, min_size=12, max_size=12), min_size=1, max_size=6))
def test_whatever_is_blessed_the_next_run_passes_unless_the_blessing_warned_and_after_a_second_one_always(runs):
    blessed = bless(*runs)
    assert (run_again(blessed, runs[-1]).outcome is Outcome.FAIL) == blessed.is_anchor_warned
    assert run_again(bless(*runs, runs[-1]), runs[-1]).outcome is Outcome.PASS


@quickly
@given(st.lists(st.lists(binary, min_size=15, max_size=15), min_size=1, max_size=5))
def test_a_baseline_with_an_anchor_comes_back_from_its_file(runs):
    blessed = bless(*runs)
    assert read_baseline(dump_baseline(blessed), path=PATH) == blessed
    assert blessed.blessings < len(runs)


def test_the_anchor_moves_at_the_level_at_which_a_session_of_one_metric_fails_by_it():
    best, level = scored([1.0] * 40), ANCHOR_SHARE * session_alpha(1)
    standing = {row.id: row for row in best}
    for lost in range(1, 12):
        now, is_proven = scored(passing(40 - lost, of=40)), mcnemar_midp(lost, 0) <= level
        assert (move_anchor(standing, now) is AnchorMove.WARNED) == is_proven
        assert (move_anchor(standing, now, is_warned=True) is AnchorMove.LOWERED) == is_proven
    assert move_anchor(standing, scored(passing(0, of=9))) is AnchorMove.KEPT, "nine rows prove nothing"
