"""What one call of a metric means: a score, a row left out, or an error, which is never a score."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from pytest_promptopt.errors import DetachedCallError, FormatError, LMError, UnrecordedError, UsageError
from pytest_promptopt.evaluation.perturbations import Survival
from pytest_promptopt.lms.client import Draw
from pytest_promptopt.prompts.trace import PromptCall

MOST_FEEDBACK_LINES = 40
MOST_FEEDBACK_CHARACTERS = 2_000
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+|\b0x[0-9a-fA-F]{6,}")
_WHERE = re.compile(r"^\s*\+\s+(?:where|and) .*<(?:function|bound method|prompt)\b.*$\n?", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Score:
    """What a metric may return: a value in [0, 1], and words that an optimizer can learn from."""

    value: float
    feedback: str = ""


class Status(StrEnum):
    """How a row ended. ``FORMAT`` is a failure too: the reply could not be read."""

    PASSED = "passed"
    FAILED = "failed"
    GRADED = "graded"
    FORMAT = "format"
    SKIPPED = "skipped"
    UNRECORDED = "unrecorded"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One call of a metric, judged. ``score`` is ``None`` for a row left out and for an error."""

    status: Status
    score: float | None
    feedback: str = ""
    is_provider_fault: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """One (row, repeat) of one metric: its judgement and the prompt calls behind it.

    ``fresh_calls`` counts the LM calls that nothing in this run had asked for before; those that somebody else's client
    makes are always among them, for nobody keeps their replies. ``draws`` are those of models outside the process.
    ``survival`` tells of a row that ran under edits too: then ``calls`` holds those of every variant, its own first.
    """

    id: str
    digest: str
    group: str | None
    repeat: int
    judgement: Judgement
    calls: tuple[PromptCall, ...] = ()
    fresh_calls: int = 0
    draws: tuple[Draw, ...] = ()
    exception: BaseException | None = None
    survival: Survival | None = None

    @property
    def own_calls(self) -> tuple[PromptCall, ...]:
        """The calls for the row as it is."""
        return self.calls if self.survival is None else self.calls[: len(self.calls) - self.survival.calls]


def by_row(results: Iterable[RowResult]) -> dict[str, tuple[RowResult, ...]]:
    """Row id → its repeats, rows in the order they were read."""
    rows: dict[str, list[RowResult]] = {}
    for result in results:
        rows.setdefault(result.id, []).append(result)
    return {row: tuple(repeats) for row, repeats in rows.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TestExceptions:
    """The exceptions by which a test framework says failed, left out, and that the session is to end."""

    __test__ = False

    failed: tuple[type[BaseException], ...] = (AssertionError,)
    skipped: tuple[type[BaseException], ...] = ()
    ending: tuple[type[BaseException], ...] = ()


PASSED = Judgement(status=Status.PASSED, score=1.0)
"""No assertion failed: what most rows come to."""


def judge_value(value: object) -> Judgement:
    """The judgement of what a metric returned: nothing, a bool, a number in [0, 1], or a :class:`Score`."""
    if value is None:
        return PASSED
    if isinstance(value, bool):
        return _pass_or_fail(value)
    if isinstance(value, Score):
        if value.value is None or isinstance(value.value, Score):
            return _error(f"the metric returned a Score of {value.value!r}; its value is a number in [0, 1] or a bool")
        judgement = judge_value(value.value)
        is_scored = judgement.score is not None
        return replace(judgement, feedback=value.feedback) if is_scored and value.feedback else judgement
    number = _as_number(value)
    if number is None:
        kind = type(value).__name__
        return _error(f"the metric returned a {kind}; it may return nothing, a bool, a number in [0, 1] or a Score")
    if math.isnan(number) or not 0.0 <= number <= 1.0:
        return _error(f"the metric returned {number}, which is no score: a score is a number in [0, 1]")
    return Judgement(status=Status.GRADED, score=number)


def judge_exception(error: BaseException, known: TestExceptions) -> Judgement:
    """The judgement of what a metric raised."""
    if isinstance(error, known.skipped):
        return Judgement(status=Status.SKIPPED, score=None, feedback=clean_feedback(str(error)))
    if isinstance(error, known.failed):
        return Judgement(status=Status.FAILED, score=0.0, feedback=clean_feedback(_assertion_text(error)))
    if isinstance(error, FormatError):
        return Judgement(status=Status.FORMAT, score=0.0, feedback=clean_feedback(str(error)))
    if isinstance(error, UnrecordedError):
        return Judgement(status=Status.UNRECORDED, score=None, feedback=str(error))
    if isinstance(error, LMError):
        return Judgement(status=Status.ERROR, score=None, feedback=f"{error.kind}: {error}", is_provider_fault=True)
    if isinstance(error, UsageError | DetachedCallError):
        return _error(str(error))
    return _error(clean_feedback(f"{type(error).__name__}: {error}").rstrip(":"))


def _pass_or_fail(passed: bool) -> Judgement:
    status = Status.PASSED if passed else Status.FAILED
    return Judgement(status=status, score=float(passed), feedback="" if passed else "the metric returned False")


def _error(text: str) -> Judgement:
    return Judgement(status=Status.ERROR, score=None, feedback=text)


def _as_number(value: Any) -> float | None:
    """``value`` as a float, for anything that is a number to Python (numpy's too); ``None`` for the rest."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(type(value), "__float__"):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return None


def _assertion_text(error: BaseException) -> str:
    """The assertion's own words; where nothing rewrote it, the source line that failed."""
    text = str(error)
    if text or error.__traceback__ is None:
        return text
    import linecache

    frame = error.__traceback__
    while frame.tb_next is not None:
        frame = frame.tb_next
    return linecache.getline(frame.tb_frame.f_code.co_filename, frame.tb_lineno).strip()


def clean_feedback(text: str) -> str:
    """``text`` without memory addresses and lines about functions, cut to a bound: the same on every machine."""
    lines = _WHERE.sub("", _ADDRESS.sub("", text)).strip().split("\n")
    kept = "\n".join(line.rstrip() for line in lines[:MOST_FEEDBACK_LINES])
    is_cut = len(lines) > MOST_FEEDBACK_LINES or len(kept) > MOST_FEEDBACK_CHARACTERS
    return kept[:MOST_FEEDBACK_CHARACTERS].rstrip() + "\n… (cut)" if is_cut else kept
