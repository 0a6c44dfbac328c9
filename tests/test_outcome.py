"""What one call of a metric means."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.errors import (
    BudgetExhausted,
    DetachedCallError,
    FormatError,
    LMError,
    LMErrorKind,
    ModelError,
    UnrecordedError,
)
from pytest_promptopt.evaluation.dataset import Example
from pytest_promptopt.evaluation.metric import Metric, Trial
from pytest_promptopt.evaluation.outcome import (
    MOST_FEEDBACK_CHARACTERS,
    MOST_FEEDBACK_LINES,
    Score,
    Status,
    TestExceptions,
    clean_feedback,
    judge_exception,
    judge_value,
)


class Skipped(BaseException):
    """As test frameworks raise it."""


class EndedError(Exception):
    """As test frameworks end a session."""


KNOWN = TestExceptions(failed=(AssertionError,), skipped=(Skipped,), ending=(EndedError,))


@pytest.mark.parametrize(
    ("value", "status", "score"),
    [
        (None, Status.PASSED, 1.0),
        (True, Status.PASSED, 1.0),
        (False, Status.FAILED, 0.0),
        (0, Status.GRADED, 0.0),
        (1, Status.GRADED, 1.0),
        (0.5, Status.GRADED, 0.5),
        (Fraction(1, 4), Status.GRADED, 0.25),
        (Score(0.5), Status.GRADED, 0.5),
        (Score(False), Status.FAILED, 0.0),
    ],
)
def test_a_returned_value_is_a_score(value: object, status: Status, score: float) -> None:
    judgement = judge_value(value)
    assert (judgement.status, judgement.score) == (status, score)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -0.01, 1.01, 10**400, "1", b"1", [1], {}, object(), 1j, Score(2.0)]
)
def test_a_value_that_is_no_score_is_an_error(value: object) -> None:
    judgement = judge_value(value)
    assert (judgement.status, judgement.score) == (Status.ERROR, None)
    assert judgement.feedback.startswith("the metric returned ")
    assert not judgement.is_provider_fault


@given(st.floats(allow_nan=True, allow_infinity=True) | st.integers() | st.booleans())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_number_is_a_score_exactly_between_0_and_1(value: float) -> None:
    score = judge_value(value).score
    assert (score is not None) == (0 <= value <= 1)
    assert score is None or score == value


def test_feedback_of_a_score_is_kept() -> None:
    assert judge_value(Score(0.5, feedback="half")).feedback == "half"
    assert judge_value(Score(False, feedback="wrong team")).feedback == "wrong team"


@pytest.mark.parametrize(
    ("error", "status", "score", "feedback"),
    [
        (AssertionError("assert 1 == 2"), Status.FAILED, 0.0, "assert 1 == 2"),
        (Skipped("later"), Status.SKIPPED, None, "later"),
        (FormatError("not a team", reply="hm"), Status.FORMAT, 0.0, "not a team"),
        (UnrecordedError("not recorded"), Status.UNRECORDED, None, "not recorded"),
        (LMError("refused", kind=LMErrorKind.AUTH), Status.ERROR, None, "auth: refused"),
        (ModelError("no model"), Status.ERROR, None, "no model"),
        (DetachedCallError("from nowhere"), Status.ERROR, None, "from nowhere"),
        (KeyError("x"), Status.ERROR, None, "KeyError: 'x'"),
        (ValueError(""), Status.ERROR, None, "ValueError"),
    ],
)
def test_a_raised_exception_is_judged(error: BaseException, status: Status, score: float | None, feedback: str) -> None:
    judgement = judge_exception(error, KNOWN)
    assert (judgement.status, judgement.score, judgement.feedback) == (status, score, feedback)


def test_only_the_providers_failures_are_the_providers_fault() -> None:
    assert judge_exception(LMError("down", kind=LMErrorKind.SERVER), KNOWN).is_provider_fault
    assert not judge_exception(OSError("down"), KNOWN).is_provider_fault


def run(raised: BaseException) -> Status:
    def call(example: Example) -> None:
        raise raised

    return Metric(call=call, known=KNOWN).run(Trial(example=Example(a=1))).judgement.status


def test_sys_exit_in_a_metric_is_an_error_of_its_row() -> None:
    assert run(SystemExit(2)) is Status.ERROR


@pytest.mark.parametrize("error", [BudgetExhausted("spent"), KeyboardInterrupt(), EndedError(), GeneratorExit()])
def test_what_ends_the_work_is_no_rows_result(error: BaseException) -> None:
    with pytest.raises(type(error)):
        run(error)


def test_an_assertion_without_words_gives_its_source_line() -> None:
    def check() -> None:
        raise AssertionError  # a line that speaks for itself

    try:
        check()
    except AssertionError as error:
        judgement = judge_exception(error, KNOWN)
    assert judgement.feedback == "raise AssertionError  # a line that speaks for itself"


@given(st.text(max_size=6_000))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_feedback_is_bounded_whatever_it_says(text: str) -> None:
    cleaned = clean_feedback(text)
    assert len(cleaned) <= MOST_FEEDBACK_CHARACTERS + len("\n… (cut)")
    assert cleaned.count("\n") <= MOST_FEEDBACK_LINES + 1


def test_feedback_says_that_it_was_cut() -> None:
    assert clean_feedback("a\n" * 100).endswith("a\n… (cut)")
    assert clean_feedback("a" * 5_000).endswith("a\n… (cut)")
    assert not clean_feedback("a\n" * 3).endswith("(cut)")


def test_feedback_loses_addresses_and_lines_about_functions() -> None:
    about_functions = " +  where 0 = <function f at 0x7f01a2b3c4d5>('x')"
    text = f"assert <T object at 0x7f01a2b3c4d5> == 0\n{about_functions}\n +  and   1 = len([1])"
    assert clean_feedback(text) == "assert <T object> == 0\n +  and   1 = len([1])"


def test_a_row_keeps_the_digest_it_had_before_the_metric_changed_it() -> None:
    def call(example: Example) -> None:
        example.words.append("more")

    example = Example(id="r", words=["one"])
    before = example.digest
    assert Metric(call=call, known=KNOWN).run(Trial(example=example)).digest == before


def test_the_group_of_a_row_travels_with_its_result() -> None:
    metric = Metric(call=lambda example: None, known=KNOWN, group="customer")
    assert metric.run(Trial(example=Example(customer=7))).group == "7"
    assert metric.run(Trial(example=Example(other=7))).group is None
