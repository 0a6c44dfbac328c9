"""The report for programs: JSON whose schema is published in ``docs/report.schema.json``, the same for the same run.

It holds no times, its keys are sorted, its numbers are finite, and whatever is not plain ASCII is escaped, so that
showing the file on a terminal is safe as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pytest_promptopt.evaluation.repeats import Repeats
from pytest_promptopt.evaluation.statistics import Interval
from pytest_promptopt.reports.curves import SearchCurve
from pytest_promptopt.reports.document import (
    Document,
    Fault,
    JobEntry,
    MetricEntry,
    PromptSection,
    RunFacts,
    TextChange,
)
from pytest_promptopt.reports.events import Confirmed
from pytest_promptopt.reports.failures import next_commands
from pytest_promptopt.reports.records import PromptState, RowReport, Spending, TransferScore, TransferTable

FORMAT = 1
"""Raised when a reader of the former format would misread the file; keys may be added without."""

Fields = dict[str, Any]


def json_report(document: Document) -> str:
    """The whole report."""
    return json.dumps(_plain(report_fields(document)), indent=2, sort_keys=True, allow_nan=False) + "\n"


def report_fields(document: Document) -> Fields:
    """The same before it is spelled."""
    return {
        "format": FORMAT,
        "kind": "search" if document.facts.is_search else "gate",
        "title": document.title,
        "level": document.level,
        "has_news": document.has_news,
        "run": _run(document.facts),
        "spending": _spending(document.spending),
        "metrics": [_metric(entry) for entry in document.metrics],
        "changed_prompts": [_changed_prompt(section) for section in document.sections],
        "jobs": [_job(entry) for entry in document.jobs],
        "searches": [_search(curve) for curve in document.searches],
        "transfers": [_transfer(table) for table in document.transfers],
        "faults": [_fault(fault) for fault in document.faults],
    }


def _run(facts: RunFacts) -> Fields:
    return {
        "version": facts.version,
        "exit_status": facts.exit_status,
        "stopped": facts.stopped,
        "mode": facts.mode,
        "mode_reason": facts.mode_reason,
        "models": facts.models,
        "base": facts.base,
        "optimizer": facts.optimizer if facts.is_search else None,
        "seed": facts.seed,
        "max_calls": facts.max_calls,
        "max_cost_usd": facts.max_cost_usd,
        "is_blessing": facts.is_blessing,
        "strict": sorted(facts.strict),
        "strict_findings": facts.strict_findings,
        "orphans": facts.orphans,
        "notes": facts.notes,
        "written": facts.written,
    }


def _spending(spending: Spending) -> Fields:
    return {
        "calls": spending.calls,
        "replayed": spending.replayed,
        "attempts": spending.attempts,
        "handed_out": spending.handed_out,
        "cost_usd": spending.cost_usd,
    }


def _metric(entry: MetricEntry) -> Fields:
    report, verdict = entry.report, entry.report.verdict
    return {
        "nodeid": report.nodeid,
        "name": entry.name,
        "owner": report.owner,
        "model": report.model,
        "path": report.path,
        "level": entry.level,
        "verdict": verdict.outcome,
        "reasons": verdict.reasons,
        "score": verdict.score,
        "interval_90": _interval(verdict.interval),
        "threshold": report.threshold,
        "margin": report.margin,
        "reads": report.reads,
        "total_rows": report.total_rows,
        "is_first_run": verdict.is_first_run,
        "is_ungated": verdict.is_ungated,
        "baseline": {
            "path": report.baseline_path,
            "score": verdict.baseline_score,
            "difference": verdict.difference,
            "interval_90": _interval(verdict.difference_interval),
            "p": verdict.p,
            "is_worse": verdict.is_worse,
            "paired_rows": verdict.paired_rows,
            "coverage": verdict.coverage,
            "provable_drop": verdict.provable_drop,
            "rows_to_settle": verdict.rows_to_settle,
            "lost": verdict.lost,
            "gained": verdict.gained,
            "new": verdict.new_rows,
            "changed": verdict.changed_rows,
            "missing": verdict.missing_rows,
        },
        "anchor": {
            "score": verdict.anchor_score,
            "difference": verdict.anchor_difference,
            "p": verdict.anchor_p,
            "lost": verdict.anchor_lost,
            "blessings": verdict.anchor_blessings,
            "move": report.anchor_move,
            "is_worse": verdict.is_worse_than_anchor,
        },
        "repeats": None if report.repeats is None else _repeats(report.repeats),
        "perturb": report.perturb,
        "failed_must_pass": verdict.failed_must_pass,
        "skipped": report.skipped,
        "format_failures": report.format_failures,
        "notes": report.notes,
        "next": [{"label": label, "command": command} for label, command in next_commands(report)],
        "prompts": [_prompt(prompt) for prompt in report.prompts],
        "rows": [_row(row) for row in report.rows],
        "spending": _spending(report.spending),
    }


def _repeats(repeats: Repeats) -> Fields:
    return {
        "trials": repeats.trials,
        "rows": repeats.rows,
        "within_variance": repeats.within_variance,
        "between_variance": repeats.between_variance,
        "flaky": repeats.flaky,
        "pass_hats": repeats.pass_hats,
    }


def _transfer(table: TransferTable) -> Fields:
    return {
        "metric": table.metric,
        "owner": table.owner,
        "rows": table.rows,
        "models": table.models,
        "scores": [_transfer_score(score) for score in table.scores],
    }


def _transfer_score(score: TransferScore) -> Fields:
    return {
        "prompt_of": score.prompt_of,
        "model": score.model,
        "candidate": score.candidate,
        "rows": score.rows,
        "score": score.score,
        "problem": score.problem,
        "is_own": score.is_own,
        "is_source": score.is_source,
        "difference": score.difference,
        "interval_90": _interval(score.interval),
        "p": score.p,
    }


def _interval(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def _prompt(prompt: PromptState) -> Fields:
    return {
        "name": prompt.name,
        "model": prompt.model,
        "standing": prompt.standing,
        "digest": prompt.digest,
        "source": prompt.source_place,
        "snapshot": prompt.snapshot_place,
        "calls": prompt.calls,
        "cost_usd": prompt.cost_usd,
        "unconfirmed": prompt.unconfirmed,
    }


def _row(row: RowReport) -> Fields:
    return {
        "id": row.id,
        "digest": row.digest,
        "score": row.score,
        "status": row.status,
        "group": row.group,
        "why": row.why,
        "feedback": row.feedback,
        "text": row.text,
        "flip": row.flip,
        "repeats": row.repeats,
        "is_outside_mean": row.is_outside_mean,
        "cost_usd": row.cost_usd,
    }


def _changed_prompt(section: PromptSection) -> Fields:
    return {
        **_prompt(section.prompt),
        "how": section.how,
        "before": section.prompt.before,
        "after": section.prompt.after,
        "changes": [_change(change) for change in section.changes],
        "metrics": [entry.report.nodeid for entry in section.metrics],
        "lost": section.lost,
        "gained": section.gained,
    }


def _change(change: TextChange) -> Fields:
    return {"mark": change.mark, "text": change.text}


def _job(entry: JobEntry) -> Fields:
    job = entry.report
    return {
        "prompt": job.prompt,
        "model": job.model,
        "level": entry.level,
        "outcome": job.outcome,
        "reason": job.reason,
        "unconfirmed": job.unconfirmed,
        "metrics": job.metrics,
        "start_score": job.start_score,
        "selected_score": job.selected_score,
        "sealed": {
            "rows": job.sealed_rows,
            "before": job.sealed_before,
            "after": job.sealed_after,
            "difference": job.difference,
            "interval_90": _interval(job.interval),
            "p": job.p,
            "alpha": job.alpha,
        },
        "candidate": job.candidate,
        "kept": job.kept,
        "path": job.path,
        "before": job.before,
        "after": job.after,
        "demos": job.demos,
        "changes": [_change(change) for change in entry.changes],
        "below": job.below,
        "tried": job.tried,
        "taken_from": job.taken_from,
        "is_cut": job.is_cut,
        "leads_group": job.leads_group,
        "spending": _spending(job.spending),
    }


def _search(curve: SearchCurve) -> Fields:
    return {
        "prompts": curve.prompts,
        "model": curve.model,
        "optimizer": curve.optimizer,
        "seed": curve.seed,
        "start_score": curve.start_score,
        "start_calls": curve.start_calls,
        "max_calls": curve.max_calls,
        "points": [
            {"candidate": point.candidate, "calls": point.calls, "score": point.score, "best_score": point.best_score}
            for point in curve.points
        ],
        "rounds": curve.rounds,
        "proposals": curve.proposals,
        "rejections": curve.rejections,
        "confirmed": None if curve.confirmed is None else _confirmed(curve.confirmed),
        "outcome": curve.outcome or None,
        "reason": curve.reason,
    }


def _confirmed(event: Confirmed) -> Fields:
    return {
        "candidate": event.candidate.short_name,
        "incumbent": event.incumbent.short_name,
        "rows": event.rows,
        "before": event.before,
        "after": event.after,
        "difference": event.difference,
        "interval_90": _interval(event.interval),
        "p": event.p,
        "alpha": event.alpha,
        "is_proven": event.is_proven,
    }


def _fault(fault: Fault) -> Fields:
    return {"nodeid": fault.nodeid, "text": fault.text}


def _plain(value: object) -> object:
    """``value`` in JSON's own types; a number that is none becomes ``null``."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, str) else value
