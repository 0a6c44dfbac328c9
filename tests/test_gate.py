"""The gate fails on proof, passes within the margin, and says so when it cannot tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

import pytest

from pytest_promptopt.evaluation.statistics import mcnemar_midp, mean_interval, provable_drop, rows_to_settle
from pytest_promptopt.gate import Outcome, ScoredRow, Verdict, judge, session_alpha


def rows(*scores: float, prefix: str = "t", digest: str = "d", group: str | None = None) -> list[ScoredRow]:
    return [
        ScoredRow(id=f"{prefix}-{number:03}", digest=digest, score=score, group=group)
        for number, score in enumerate(scores)
    ]


def by_id(scored: Sequence[ScoredRow]) -> Mapping[str, ScoredRow]:
    return {row.id: row for row in scored}


def flipped(n: int, *, lost: int = 0, gained: int = 0, failing: int = 0) -> tuple[list[ScoredRow], list[ScoredRow]]:
    """A baseline and a run of ``n`` rows, of which so many were lost, were gained, and fail in both."""
    steady = n - lost - gained - failing
    before = [1.0] * lost + [0.0] * gained + [0.0] * failing + [1.0] * steady
    after = [0.0] * lost + [1.0] * gained + [0.0] * failing + [1.0] * steady
    return rows(*before), rows(*after)


def gate(before: Sequence[ScoredRow], after: Sequence[ScoredRow], **options: object) -> Verdict:
    return judge(after, **{"baseline": by_id(before), **options})  # type: ignore[arg-type]


# --- against a baseline ---


def test_a_proven_drop_fails_and_says_which_rows_it_rests_on():
    before, after = flipped(64, lost=14, gained=2, failing=3)
    verdict = gate(before, after, threshold=0.85)
    assert verdict.outcome == "fail"
    assert (verdict.baseline_score, verdict.score) == (59 / 64, 47 / 64)
    assert verdict.difference == -12 / 64
    assert verdict.p == mcnemar_midp(14, 2)
    assert verdict.lost == tuple(row.id for row in before[:14])
    assert verdict.gained == tuple(row.id for row in before[14:16])
    assert verdict.interval == mean_interval([row.score for row in after])
    assert verdict.reasons == (
        "0.734 is below threshold=0.85",
        "14 of 64 rows lost, 2 gained: worse by 0.188 (p = 0.0012)",
    )


def test_an_unproven_drop_is_inconclusive_and_says_how_many_rows_would_settle_it():
    verdict = gate(*flipped(16, lost=3, gained=1, failing=1), threshold=0.7)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.p == 0.1875
    assert verdict.rows_to_settle == 97
    assert verdict.provable_drop == pytest.approx(0.39, abs=0.01)
    assert verdict.reasons == (
        "3 of 16 rows lost, 1 gained: worse by 0.125, but chance does that in 19 of 100 runs (p = 0.19)",
    )


def test_a_drop_within_the_margin_passes_however_few_rows_could_prove_it():
    verdict = gate(*flipped(64, lost=5, gained=2))
    assert verdict.outcome is Outcome.PASS
    assert verdict.rows_to_settle is None
    assert verdict.reasons == ("5 of 64 rows lost, 2 gained",)


def test_a_drop_of_just_the_margin_passes():
    assert gate(rows(*[1.0] * 20), rows(0.0, *[1.0] * 19), margin=0.05).outcome is Outcome.PASS
    before, after = rows(*[0.8] * 9), rows(*[0.7] * 9)
    assert before[0].score - after[0].score > 0.1, "in the sixteenth digit"
    verdict = gate(before, after, margin=0.1)
    assert (verdict.outcome, verdict.rows_to_settle) == (Outcome.PASS, None)
    assert gate(before, after, margin=0.09).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("n", [1, 5, 9, 10, 64])
def test_unchanged_scores_pass_at_any_number_of_rows(n):
    verdict = gate(*flipped(n, failing=n // 2))
    assert verdict.outcome is Outcome.PASS
    assert verdict.is_unchanged
    assert verdict.reasons == ()


def test_a_better_prompt_passes():
    verdict = gate(*flipped(20, gained=8, failing=2))
    assert verdict.outcome is Outcome.PASS
    assert not verdict.is_unchanged
    assert verdict.p is not None
    assert verdict.p > 0.99


def test_a_proven_but_tiny_drop_fails_nobody():
    before, after = rows(*[0.900] * 20), rows(*[0.895] * 20)
    verdict = gate(before, after)
    assert verdict.p is not None
    assert verdict.p < 0.001
    assert verdict.outcome is Outcome.PASS
    one_point = rows(*[0.06] * 20), rows(*[0.05] * 20)
    assert one_point[0][0].score - one_point[1][0].score < 0.01, "in the sixteenth digit"
    assert gate(*one_point).outcome is Outcome.FAIL
    assert gate(before, after, margin=0.0).outcome is Outcome.INCONCLUSIVE


def test_the_level_decides_what_is_proof():
    before, after = flipped(40, lost=4)
    assert gate(before, after).p == 1 / 2**5
    assert gate(before, after, alpha=1 / 2**5).outcome is Outcome.FAIL
    assert gate(before, after, alpha=0.03).outcome is Outcome.INCONCLUSIVE


def test_a_session_shares_its_level_among_the_metrics_that_may_have_changed():
    assert session_alpha(0) == session_alpha(1) == 0.05
    assert session_alpha(5) == 0.01


@pytest.mark.parametrize(("n", "outcome"), [(9, Outcome.INCONCLUSIVE), (10, Outcome.FAIL)])
def test_fewer_than_ten_rows_prove_nothing(n, outcome):
    verdict = gate(*flipped(n, lost=n))
    assert verdict.outcome is outcome
    assert (verdict.p is None) == (verdict.provable_drop is None) == (n < 10)
    assert verdict.rows_to_settle == (10 if n < 10 else None)


def test_rows_of_a_group_are_one_piece_of_evidence():
    before = [*rows(*[1.0] * 8, prefix="a", group="a"), *rows(*[1.0] * 12)]
    after = [*rows(*[0.0] * 8, prefix="a", group="a"), *rows(*[1.0] * 12)]
    assert gate(before, after).p == 0.5
    assert gate(before, after).outcome is Outcome.INCONCLUSIVE
    alone = [ScoredRow(id=row.id, digest=row.digest, score=row.score) for row in after]
    assert gate(before, alone).outcome is Outcome.FAIL


def test_rows_of_a_group_prove_less_than_as_many_on_their_own():
    before, after = flipped(20, lost=4)
    keys = [f"ticket {number // 2}" for number in range(20)]
    grouped = [
        ScoredRow(id=row.id, digest=row.digest, score=row.score, group=key)
        for row, key in zip(after, keys, strict=True)
    ]
    alone, together = gate(before, after, alpha=0.01), gate(before, grouped, alpha=0.01)
    assert (alone.outcome, together.outcome) == (Outcome.INCONCLUSIVE, Outcome.INCONCLUSIVE)
    assert together.interval == mean_interval([row.score for row in after], keys) != alone.interval
    assert together.provable_drop == provable_drop(10, alpha=0.01)
    assert alone.provable_drop == provable_drop(20, alpha=0.01)
    assert alone.rows_to_settle == rows_to_settle(0.2, mean_square=4 / 20, alpha=0.01)
    assert together.rows_to_settle == rows_to_settle(0.2, mean_square=2 * 2**2 / 20, alpha=0.01)


# --- rows that cannot be compared ---


def test_only_rows_of_equal_id_and_content_are_compared():
    before = rows(*[1.0] * 20)
    edited = ScoredRow(id="t-000", digest="another", score=0.0)
    added = rows(0.0, 0.0, prefix="new")
    verdict = gate(before, [edited, *before[1:], *added], threshold=0.85)
    assert (verdict.new_rows, verdict.changed_rows) == (("new-000", "new-001"), ("t-000",))
    assert (verdict.paired_rows, verdict.difference, verdict.lost) == (19, 0.0, ())
    assert verdict.score == 19 / 22
    assert verdict.outcome is Outcome.PASS
    assert not verdict.is_unchanged
    assert not gate(before, [*before, *added]).is_unchanged
    assert gate(before, [edited, *before[1:], *added], threshold=0.9).is_below_threshold, "they count for the threshold"


def test_too_few_of_the_baselines_rows_are_inconclusive_even_when_none_was_lost():
    before = rows(*[1.0] * 20)
    assert gate(before, before[:18]).outcome is Outcome.PASS
    verdict = gate(before, before[:17])
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.coverage == 0.85
    assert verdict.missing_rows == ("t-017", "t-018", "t-019")
    assert verdict.reasons == ("only 17 of the baseline's 20 rows were read again, at least 90 % are needed",)


def test_leaving_rows_out_hides_no_proven_drop():
    before, after = flipped(64, lost=14)
    assert gate(before, after[:40]).outcome is Outcome.FAIL


def test_a_dataset_of_other_rows_is_inconclusive():
    verdict = gate(rows(*[1.0] * 20), rows(*[0.0] * 20, prefix="other"))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert (verdict.difference, verdict.p, verdict.coverage) == (None, None, 0.0)


def test_a_changed_metric_is_not_compared_but_its_threshold_holds():
    before, after = flipped(20, lost=12)
    verdict = gate(before, after, is_comparable=False)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert (verdict.difference, verdict.lost, verdict.is_first_run) == (None, (), False)
    assert gate(before, after, is_comparable=False, threshold=0.8).outcome is Outcome.FAIL


# --- threshold and must_pass ---


@pytest.mark.parametrize("has_baseline", [True, False])
def test_a_score_below_the_threshold_fails_with_and_without_a_baseline(has_baseline):
    scored = rows(*[1.0] * 8, 0.0, 0.0)
    baseline = by_id(scored) if has_baseline else None
    verdict = judge(scored, baseline=baseline, threshold=0.85)
    assert (verdict.outcome, verdict.is_below_threshold) == (Outcome.FAIL, True)
    assert verdict.reasons == ("0.800 is below threshold=0.85",)
    assert judge(scored, baseline=baseline, threshold=0.8).outcome is Outcome.PASS


def test_a_threshold_is_met_by_decimal_scores_that_add_up_to_it():
    verdict = judge(rows(0.7, 0.7, 0.7), baseline=None, threshold=0.7)
    assert verdict.score is not None
    assert verdict.score < 0.7, "in the sixteenth digit"
    assert verdict.outcome is Outcome.PASS


def test_a_must_pass_row_fails_the_metric_alone():
    before, after = flipped(64, lost=1)
    assert gate(before, after).outcome is Outcome.PASS
    verdict = gate(before, after, must_pass={"t-000", "t-001"})
    assert (verdict.outcome, verdict.failed_must_pass) == (Outcome.FAIL, ("t-000",))
    assert verdict.reasons[0] == "must-pass row t-000 scored 0"


def test_a_must_pass_row_outside_the_mean_leaves_the_mean_alone():
    scored = rows(*[1.0] * 12)
    verdict = judge(scored, baseline=by_id(scored), must_pass_rows=rows(1.0, 0.9, prefix="must"))
    assert (verdict.outcome, verdict.failed_must_pass, verdict.score) == (Outcome.FAIL, ("must-001",), 1.0)
    assert verdict.is_unchanged


# --- no score ---


@pytest.mark.parametrize(
    ("errored", "unrecorded", "outcome", "reasons"),
    [
        (2, 0, Outcome.ERRORED, ("2 of 22 rows errored",)),
        (0, 3, Outcome.UNRECORDED, ("3 of 23 rows are not recorded",)),
        (1, 1, Outcome.ERRORED, ("1 of 22 rows errored", "1 of 22 rows are not recorded")),
    ],
)
def test_rows_without_a_score_leave_the_metric_without_one(errored, unrecorded, outcome, reasons):
    before, after = flipped(20, lost=15)
    verdict = gate(before, after, threshold=0.9, errored=errored, unrecorded=unrecorded)
    assert (verdict.outcome, verdict.reasons) == (outcome, reasons)
    assert (verdict.score, verdict.interval, verdict.difference, verdict.is_below_threshold) == (
        None,
        None,
        None,
        False,
    )


def test_an_error_does_not_hide_a_failed_must_pass_row():
    verdict = judge(rows(0.0), baseline=None, must_pass=["t-000"], errored=1)
    assert verdict.outcome is Outcome.ERRORED
    assert verdict.reasons == ("1 of 2 rows errored", "must-pass row t-000 scored 0")


def test_an_empty_dataset_fails():
    for baseline in (None, by_id(rows(1.0))):
        verdict = judge([], baseline=baseline)
        assert (verdict.outcome, verdict.score) == (Outcome.FAIL, None)
        assert "dataset is empty" in verdict.reasons[0]


def test_a_dataset_of_errors_is_errored_and_not_empty():
    assert judge([], baseline=None, errored=4).outcome is Outcome.ERRORED


# --- no baseline ---


@pytest.mark.parametrize("baseline", [None, {}])
def test_without_baseline_and_threshold_any_failed_row_fails_as_in_every_test(baseline):
    verdict = judge(rows(*[1.0] * 11, 0.0), baseline=baseline)
    assert (verdict.outcome, verdict.is_first_run) == (Outcome.FAIL, True)
    assert verdict.reasons == ("1 of 12 rows failed, with neither baseline nor threshold to allow it",)
    assert judge(rows(*[1.0] * 12), baseline=baseline).outcome is Outcome.PASS


def test_a_graded_metric_without_baseline_and_threshold_is_ungated_and_says_so():
    verdict = judge(rows(0.0, 0.4, 1.0), baseline=None)
    assert (verdict.outcome, verdict.is_ungated) == (Outcome.PASS, True)
    assert verdict.reasons == ("ungated: graded scores with neither baseline nor threshold",)
    assert not judge(rows(0.4), baseline=None, threshold=0.3).is_ungated
    assert not judge(rows(0.4), baseline=by_id(rows(0.4))).is_ungated


def test_a_row_that_fails_in_one_of_three_repeats_is_a_failed_row_and_not_a_grade():
    verdict = judge(rows(1.0, 2 / 3), baseline=None, is_graded=False)
    assert (verdict.outcome, verdict.is_ungated) == (Outcome.FAIL, False)


def test_a_graded_metric_whose_scores_all_are_0_or_1_stays_ungated():
    assert judge(rows(1.0, 0.0), baseline=None, is_graded=True).is_ungated


def test_a_must_pass_row_gates_an_ungated_metric():
    assert judge(rows(0.4, 1.0), baseline=None, must_pass=["t-000"]).outcome is Outcome.FAIL


# --- as a whole ---


def test_a_first_run_has_nothing_to_be_unchanged_from():
    assert not judge(rows(1.0), baseline=None).is_unchanged


def test_an_unchanged_prompt_under_a_noisy_model_fails_in_at_most_five_of_a_hundred_runs():
    rng = Random(6)
    fails = 0
    for _ in range(400):
        difficulties = [rng.betavariate(3, 0.5) for _ in range(60)]
        before, after = (rows(*[float(rng.random() < each) for each in difficulties]) for _ in range(2))
        fails += gate(before, after).outcome is Outcome.FAIL
    assert 0 < fails <= 0.07 * 400
