"""Runs to report: plain ones of every outcome, and ones whose every text was written by somebody who means harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pytest_promptopt.evaluation.outcome import Status
from pytest_promptopt.evaluation.statistics import Interval
from pytest_promptopt.gate import Outcome, Verdict
from pytest_promptopt.reports.curves import CurvePoint, SearchCurve
from pytest_promptopt.reports.document import Document, Fault, RunFacts, make_document
from pytest_promptopt.reports.records import (
    JobReport,
    MetricReport,
    PromptState,
    RowReport,
    Spending,
    TransferScore,
)

MODEL = "openai/gpt-4.1-mini"
SNAPSHOT = "support/__prompts__/prompts.route@openai-gpt-4.1-mini.toml"
BEFORE = "Decide which team should answer. Billing covers invoices, refunds and card charges."
AFTER = "Decide which team should answer. Billing covers invoices."
FACTS = RunFacts(version="0.1.0", is_search=False, exit_status=0, mode="replay", mode_reason="CI is set")

NASTY = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "]]>",
    "--><!--",
    "</details></summary></sub></code>",
    "| a | b |",
    "```",
    "~~~\n# head",
    "@octocat",
    "o/r#12 GH-7 #3",
    "![x](https://example.org/x)",
    "[y](javascript:z)",
    "https://example.org www.example.org mailto:a@example.org",
    "\x1b[31m",
    "\x1b]0;title\x07",
    "\n::error::no\r",
    "\u202e\u200b\u2028",
    "\ud83d",
    "&lt;&#64;&amp;",
    "**bold** _it_ ~~gone~~ $x$",
    "\\|",
    "\\`",
    "'\"=",
)
hostile = st.lists(
    st.one_of(st.sampled_from(NASTY), st.text(alphabet=st.characters(), max_size=8), st.sampled_from("|`<>&@#\\\n")),
    max_size=6,
).map("".join)


def row(row_id: str, score: float | None = 1.0, status: Status | None = None, **more: Any) -> RowReport:
    """One row, failed where it scored nothing."""
    return RowReport(
        id=row_id, digest="d", score=score, status=status or (Status.PASSED if score else Status.FAILED), **more
    )


def prompt_state(standing: str = "frozen", **more: Any) -> PromptState:
    """A prompt, frozen as it was unless told otherwise."""
    facts: dict[str, Any] = {"name": "prompts.route", "model": MODEL, "snapshot_place": SNAPSHOT}
    facts |= {"standing": standing, "digest": "p", "source_place": "support/prompts.py:7", **more}
    return PromptState(**facts)


def metric(verdict: Verdict, name: str = "test_routes", **more: Any) -> MetricReport:
    """One metric with ``verdict``."""
    facts: dict[str, Any] = {"nodeid": f"tests/test_support.py::{name}", "name": name, "owner": f"test_support.{name}"}
    facts |= {"model": MODEL, "path": "tests/test_support.py", "total_rows": 64, "rows": (), "verdict": verdict}
    facts |= {"threshold": None, "margin": 0.05, "reads": "all", "metric_digest": "m", "baseline_path": "b.toml"}
    facts |= {"text_name": "ticket", "prompts": (prompt_state(),), **more}
    return MetricReport(**facts)


def unchanged(name: str = "test_routes", **more: Any) -> MetricReport:
    """A metric that scores what it did."""
    verdict = Verdict(
        outcome=Outcome.PASS,
        score=0.9,
        interval=Interval(low=0.8, high=0.95),
        baseline_score=0.9,
        difference=0.0,
        difference_interval=Interval(low=-0.04, high=0.04),
        p=1.0,
        paired_rows=10,
        coverage=1.0,
    )
    return metric(verdict, name, **{"rows": tuple(row(f"t-{number}") for number in range(10)), **more})


def worse(name: str = "test_routes", lost: int = 14, **more: Any) -> MetricReport:
    """A metric that is proven worse under an edited prompt."""
    rows = tuple(
        row(f"t-{n:03}", 0.0 if n < lost else 1.0, why="assert 'bug' == 'billing'" * (n < lost), text=f"ticket {n}")
        for n in range(64)
    )
    verdict = Verdict(
        outcome=Outcome.FAIL,
        reasons=(f"{lost} of 64 rows lost, 2 gained: worse by 0.188 (p = 0.001)",),
        score=0.734,
        interval=Interval(low=0.63, high=0.81),
        baseline_score=0.922,
        difference=-0.188,
        difference_interval=Interval(low=-0.28, high=-0.08),
        p=0.001,
        paired_rows=64,
        coverage=1.0,
        is_worse=True,
        lost=tuple(f"t-{n:03}" for n in range(lost)),
        gained=("t-060", "t-061"),
    )
    edited = prompt_state("edited", before=BEFORE, after=AFTER)
    return metric(verdict, name, **{"rows": rows, "prompts": (edited,), "threshold": 0.85, **more})


def outcome(which: Outcome, name: str = "test_other", reason: str = "for a reason", **more: Any) -> MetricReport:
    """A metric that ended so, with one row."""
    statuses = {Outcome.ERRORED: Status.ERROR, Outcome.UNRECORDED: Status.UNRECORDED}
    rows = (row("t-001", None, statuses[which]),) if which in statuses else (row("t-001", 0.0),)
    return metric(Verdict(outcome=which, reasons=(reason,)), name, rows=rows, **more)


def job(kind: str = "frozen", **more: Any) -> JobReport:
    """A search that ended so."""
    facts: dict[str, Any] = {"prompt": "prompts.route", "model": MODEL, "outcome": kind, "start_score": 0.7}
    facts |= {"selected_score": 0.94, "sealed_before": 0.72, "sealed_after": 0.9, "sealed_rows": 64, "p": 0.001}
    facts |= {"difference": 0.18, "interval": Interval(low=0.08, high=0.28), "before": BEFORE, "after": AFTER}
    facts |= {"path": SNAPSHOT, "spending": Spending(calls=420, attempts=420, cost_usd=0.031), **more}
    return JobReport(**facts)


def curve(**more: Any) -> SearchCurve:
    """A search of three candidates."""
    points = [
        CurvePoint(candidate=f"p-{n:04x}", calls=100 * n, score=0.5 + n / 10, best_score=0.6 + n / 10) for n in range(3)
    ]
    facts: dict[str, Any] = {"prompts": ("prompts.route",), "model": MODEL, "optimizer": "copro", "start_score": 0.5}
    return SearchCurve(**{**facts, "points": tuple(points), "outcome": "frozen", **more})


def document(*reports: MetricReport, facts: RunFacts = FACTS, **more: Any) -> Document:
    """A plain run of ``reports``."""
    return make_document(facts, metrics=reports, **more)


def poisoned(text: str) -> Document:
    """A run in which ``text`` stands wherever anybody but us can write."""
    rows = tuple(
        row(f"{text}{n}", score, why=text, feedback=text, text=text, flip=text, group=text)
        for n, score in enumerate((0.0, 0.5, 1.0))
    )
    ids = tuple(each.id for each in rows)
    edited = prompt_state("edited", name=text, model=text, before=f"{BEFORE} {text}", after=f"{text} {AFTER}")
    stale = prompt_state("stale", name=f"{text}2", before=text, after=AFTER, source_place=f"{text}:3", unconfirmed=text)
    common: dict[str, Any] = {"text_name": text, "path": text, "notes": (text,), "rows": rows}
    verdict = Verdict(
        outcome=Outcome.FAIL, reasons=(text, text), score=0.5, lost=ids[:2], gained=ids[2:], is_worse=True
    )
    transfer = (
        TransferScore(prompt_of=text, model=text, score=0.5),
        TransferScore(prompt_of="", model=text, problem=text),
    )
    reports = [
        metric(verdict, f"a{text}", nodeid=f"a{text}", owner=text, model=text, prompts=(edited, stale), **common),
        metric(verdict, f"b{text}", nodeid=f"b{text}", owner=text, model="other", transfer=transfer, **common),
        outcome(Outcome.ERRORED, f"c{text}", text, nodeid=f"c{text}"),
    ]
    facts = RunFacts(
        version="0.1.0",
        is_search=False,
        exit_status=1,
        mode="auto",
        stopped=text,
        models=(text,),
        strict_findings=(text,),
        orphans=(text,),
        notes=(text,),
        written=(f"{text}/x.toml",),
    )
    jobs = [
        job(prompt=text, model=text, reason=text, before=text, after=f"{AFTER}{text}", demos=(text,), below=(text,))
    ]
    searches = [curve(prompts=(text,), model=text, optimizer=text, rounds=(text,), rejections=(text,), reason=text)]
    faults = [Fault(nodeid=text, text=text)]
    return make_document(facts, metrics=reports, jobs=jobs, searches=searches, faults=faults)


def schema(*, is_strict: bool = True) -> dict[str, Any]:
    """The published schema; strict, it allows no key that it does not name."""
    text = (Path(__file__).parent.parent / "docs" / "report.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = (
        json.loads(text.replace('"additionalProperties": true', '"additionalProperties": false'))
        if is_strict
        else json.loads(text)
    )
    return loaded


def faults_of(report: object) -> list[str]:
    """What the published schema has against ``report``."""
    errors = Draft202012Validator(schema()).iter_errors(report)
    return [f"{'/'.join(map(str, error.path))}: {error.message[:200]}" for error in errors]
