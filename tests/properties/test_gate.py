"""What holds for every verdict: it is monotone, blind to order, and never green without scores."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.gate import Outcome, ScoredRow, judge

quickly = settings(max_examples=120, deadline=None, derandomize=True)
binary = st.sampled_from([0.0, 1.0])
graded = st.integers(0, 20).map(lambda number: number / 20)
limits = st.fixed_dictionaries(
    {
        "threshold": st.none() | st.floats(0.0, 1.0),
        "margin": st.floats(0.0, 0.3),
        "alpha": st.floats(0.001, 0.2),
    }
)
GRAVEST_FIRST = list(Outcome)


def scored(scores, *, groups=None):
    return [
        ScoredRow(id=str(number), digest="d", score=score, group=groups[number] if groups else None)
        for number, score in enumerate(scores)
    ]


def baseline(scores):
    return {row.id: row for row in scored(scores)}


@quickly
@given(st.lists(st.tuples(binary, binary, binary), min_size=1, max_size=40), limits)
def test_a_better_run_never_gets_a_graver_verdict(columns, options):
    old, one, other = (list(column) for column in zip(*columns, strict=True))
    better = [max(pair) for pair in zip(one, other, strict=True)]
    verdicts = [judge(scored(each), baseline=baseline(old), **options) for each in (one, better)]
    assert GRAVEST_FIRST.index(verdicts[0].outcome) <= GRAVEST_FIRST.index(verdicts[1].outcome)


@quickly
@given(
    st.lists(st.tuples(graded, graded, st.sampled_from([None, None, "a", "b"])), min_size=1, max_size=20),
    limits,
    st.randoms(),
)
def test_the_order_of_rows_changes_no_verdict(columns, options, rng):
    old, new, groups = zip(*columns, strict=True)
    ordered = scored(new, groups=groups)
    first, second = (
        judge(each, baseline=baseline(old), **options) for each in (ordered, rng.sample(ordered, len(ordered)))
    )
    assert (first.outcome, first.score, first.p, first.difference) == (
        second.outcome,
        second.score,
        second.p,
        second.difference,
    )
    assert set(first.lost) == set(second.lost)


@quickly
@given(st.lists(graded, min_size=1, max_size=30), limits)
def test_what_scores_as_it_did_passes_or_is_below_its_threshold(scores, options):
    verdict = judge(scored(scores), baseline=baseline(scores), **options)
    assert verdict.is_unchanged
    assert verdict.outcome is (Outcome.FAIL if verdict.is_below_threshold else Outcome.PASS)


@quickly
@given(st.lists(graded, max_size=12), st.integers(0, 3), st.integers(0, 3), limits)
def test_a_missing_score_is_never_green_and_never_a_score(scores, errored, unrecorded, options):
    verdict = judge(scored(scores), baseline=None, errored=errored, unrecorded=unrecorded, **options)
    if errored or unrecorded or not scores:
        assert verdict.outcome is not Outcome.PASS
        assert verdict.score is None
    else:
        assert verdict.score is not None


@quickly
@given(st.lists(st.tuples(graded, graded), min_size=10, max_size=30), limits)
def test_every_verdict_against_a_baseline_follows_the_table(columns, options):
    old, new = (list(column) for column in zip(*columns, strict=True))
    verdict = judge(scored(new), baseline=baseline(old), **{**options, "threshold": None})
    assert verdict.p is not None
    assert verdict.difference is not None
    assert verdict.difference_interval is not None
    assert verdict.difference_interval.low <= verdict.difference <= verdict.difference_interval.high
    drop = -verdict.difference
    is_proven = verdict.p <= options["alpha"]
    if verdict.outcome is Outcome.FAIL:
        assert is_proven
        assert drop > 0.0099
    elif verdict.outcome is Outcome.INCONCLUSIVE:
        assert drop > options["margin"]
        assert is_proven == (verdict.rows_to_settle is None)
        assert is_proven <= (drop < 0.0101)
    else:
        assert drop <= options["margin"] + 1e-6
        assert not (is_proven and drop > 0.0101)
    assert (verdict.outcome is Outcome.INCONCLUSIVE) or verdict.rows_to_settle is None


@quickly
@given(st.lists(st.tuples(binary, binary), min_size=10, max_size=40), st.floats(0.01, 0.2))
def test_what_would_settle_a_drop_is_more_than_was_read(columns, alpha):
    old, new = (list(column) for column in zip(*columns, strict=True))
    verdict = judge(scored(new), baseline=baseline(old), alpha=alpha)
    assert verdict.rows_to_settle is None or verdict.rows_to_settle > verdict.paired_rows
