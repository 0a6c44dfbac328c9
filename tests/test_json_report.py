"""The report for programs: what the published schema says, the same for the same run, and nothing that is not JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pytest_promptopt.evaluation.statistics import Interval
from pytest_promptopt.gate import Outcome
from pytest_promptopt.optimizers.driver import Trial, TrialScored
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt
from pytest_promptopt.reports.curves import search_curves
from pytest_promptopt.reports.document import Document, Fault
from pytest_promptopt.reports.events import Confirmed, SearchEnded, SearchStarted
from pytest_promptopt.reports.json_report import json_report, report_fields
from pytest_promptopt.reports.records import Spending
from tests.report_world import (
    FACTS,
    curve,
    document,
    faults_of,
    hostile,
    job,
    outcome,
    poisoned,
    prompt_state,
    row,
    schema,
    unchanged,
    worse,
)


def _read(found: Document) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    read: dict[str, Any] = json.loads(json_report(found), parse_constant=refuse)
    return read


DOCUMENTS = [
    document(),
    document(unchanged()),
    document(worse()),
    *(document(outcome(which)) for which in Outcome),
    document(unchanged(prompts=(prompt_state("stale", before="a", after="b"),))),
    document(facts=replace(FACTS, is_search=True), jobs=[job(), job("kept")], searches=[curve()]),
    document(facts=replace(FACTS, is_search=True, stopped="interrupted"), searches=[curve(outcome="")]),
    document(faults=[Fault(nodeid="a", text="b")]),
    poisoned("x"),
]


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("found", DOCUMENTS, ids=lambda found: found.title)
def test_a_report_is_what_the_published_schema_says_and_no_more(found: Document) -> None:
    assert faults_of(_read(found)) == []


def test_readers_are_told_to_pass_over_keys_that_they_do_not_know() -> None:
    report = {**_read(document(unchanged())), "later": 1}
    assert not [*Draft202012Validator(schema(is_strict=False)).iter_errors(report)]
    assert faults_of(report)  # the check of our own keys would notice


def test_a_report_names_its_format() -> None:
    assert _read(document())["format"] == 1


def test_keys_are_sorted_and_the_same_run_writes_the_same_bytes() -> None:
    text = json_report(document(worse()))
    assert text == json_report(document(worse()))
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_null(number: float) -> None:
    broken = row("t-1", number, cost_usd=number)
    spending = Spending(cost_usd=number)
    report = _read(document(unchanged(rows=(broken,), spending=spending)))
    (read,) = report["metrics"][0]["rows"]
    assert (read["score"], read["cost_usd"], report["spending"]["cost_usd"]) == (None, None, None)


def test_a_run_with_nothing_to_tell_needs_no_comment() -> None:
    assert _read(document(unchanged()))["has_news"] is False
    assert _read(document(worse()))["has_news"] is True
    assert _read(document(unchanged(prompts=(prompt_state("edited"),))))["has_news"] is True
    assert _read(document())["has_news"] is True


def test_a_report_tells_rows_changes_and_commands() -> None:
    report = _read(document(worse()))
    (metric,) = report["metrics"]
    assert metric["verdict"] == "fail"
    assert metric["baseline"]["lost"][0] == "t-000"
    assert metric["rows"][0]["why"] == "assert 'bug' == 'billing'"
    assert {"label": "accept", "command": "pytest tests/test_support.py::test_routes --prompt-bless"} in metric["next"]
    assert [each["label"] for each in metric["next"]] == ["undo", "accept", "improve"]
    (changed,) = report["changed_prompts"]
    assert [change["mark"] for change in changed["changes"]] == [" ", "-", "+"]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=hostile)
def test_no_text_leaves_json_or_plain_ascii(text: str) -> None:
    written = json_report(poisoned(text))
    assert all(" " <= sign <= "~" or sign == "\n" for sign in written)
    report = json.loads(written)
    assert report["metrics"][0]["rows"][0]["text"] == text
    assert faults_of(report) == []


@settings(max_examples=50, deadline=None, derandomize=True)
@given(low=st.floats(0, 1), high=st.floats(0, 1))
def test_an_interval_is_two_numbers(low: float, high: float) -> None:
    report = unchanged()
    moved = replace(report, verdict=replace(report.verdict, interval=Interval(low=low, high=high)))
    assert _read(document(moved))["metrics"][0]["interval_90"] == [low, high]


# --- the stream of events ---------------------------------------------------------------------------------------------


def _candidate(instruction: str) -> Candidate:
    return Candidate({"desk.route": CompiledPrompt(instruction=instruction, demos=())})


def _scored(candidate: Candidate, score: float, calls: int) -> TrialScored:
    trial = Trial(candidate=candidate, score=score)
    return TrialScored(trial=trial, best_score=max(0.5, score), start_score=0.5, calls=calls, max_calls=900)


def test_the_stream_of_events_becomes_one_curve_a_search() -> None:
    source, winner = _candidate("a"), _candidate("b")
    started = SearchStarted(
        prompts=("desk.route",),
        model="m",
        proposer="m",
        optimizer="copro",
        settings={},
        seed=3,
        split="30/30/40",
        metrics=(),
        source=source,
        start_score=0.5,
        calls=7,
        max_calls=900,
    )
    confirmed = Confirmed(
        candidate=winner,
        incumbent=source,
        rows=20,
        before=0.5,
        after=0.9,
        difference=0.4,
        interval=Interval(low=0.2, high=0.6),
        p=0.01,
        alpha=0.2,
        is_proven=True,
    )
    events = [started, _scored(source, 0.4, 20), _scored(winner, 0.8, 40), confirmed, SearchEnded(outcome="frozen")]
    heard = [(("desk.route",), model, event) for event in events for model in ("m", "other")]
    mine, others = search_curves(heard)
    assert (mine.model, others.model) == ("m", "other")
    assert [(point.calls, point.score, point.best_score) for point in mine.points] == [(20, 0.4, 0.5), (40, 0.8, 0.8)]
    assert (mine.seed, mine.start_calls, mine.outcome, mine.confirmed) == (3, 7, "frozen", confirmed)
    report = json.loads(json_report(document(facts=replace(FACTS, is_search=True), searches=[mine])))
    assert faults_of(report) == []
    assert report["searches"][0]["confirmed"]["is_proven"] is True


def test_a_report_in_memory_is_the_one_in_the_file() -> None:
    assert sorted(report_fields(document(worse()))) == sorted(_read(document(worse())))
