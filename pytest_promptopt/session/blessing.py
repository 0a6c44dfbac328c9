"""``--prompt-bless``: this run's scores become the baselines, and the source of a stale prompt what stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pytest_promptopt.gate import Outcome
from pytest_promptopt.reports.records import MetricReport
from pytest_promptopt.session.metric_item import NO_MODEL_NAME
from pytest_promptopt.snapshots.baseline import Baseline, BaselineRow, dump_baseline, read_baseline
from pytest_promptopt.snapshots.change import Change, ChangeKind, compare, read_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Blessing:
    """The changes to make on disk, and the metrics that were refused, with the reason."""

    changes: tuple[Change, ...]
    refused: tuple[str, ...]


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether ``--prompt`` means the prompt ``name``: by its whole name, its function's, or a pattern for either."""
    short = name.rpartition(".")[2]
    return not patterns or any(fnmatchcase(name, pattern) or fnmatchcase(short, pattern) for pattern in patterns)


def bless(reports: Iterable[MetricReport], *, rootdir: Path, patterns: Sequence[str], salt: str) -> Blessing:
    """What accepting ``reports`` changes; errored, unrecorded and unscored metrics are refused."""
    changes: dict[Path, Change] = {}
    refused: list[str] = []
    for report in reports:
        if not any(matches(prompt.name, patterns) for prompt in report.prompts) and patterns:
            continue
        reason = _refusal(report)
        if reason:
            refused.append(f"{report.name}: {reason}, so its baseline stays")
            continue
        for change in (_baseline_change(report, rootdir, salt), *_retirements(report, rootdir, patterns)):
            if change.kind is not ChangeKind.UNCHANGED:
                changes[change.path] = change
    return Blessing(changes=tuple(changes.values()), refused=tuple(refused))


def _refusal(report: MetricReport) -> str | None:
    match report.verdict.outcome:
        case Outcome.ERRORED:
            return "rows errored"
        case Outcome.UNRECORDED:
            return "replies are missing"
    return None if any(row.score is not None for row in report.rows) else "no row has a score"


def _baseline_change(report: MetricReport, rootdir: Path, salt: str) -> Change:
    path = rootdir / report.baseline_path
    text = read_text(path)
    old = None if text is None else read_baseline(text, path=path)
    rows = tuple(
        BaselineRow(id=row.id, digest=row.digest, score=row.score, group=row.group)
        for row in report.rows
        if row.score is not None and not row.is_outside_mean
    )
    baseline = Baseline(
        metric=report.owner,
        model=report.model or NO_MODEL_NAME,
        reads="all" if old is None else old.reads,
        metric_digest=report.metric_digest,
        prompts={prompt.name: prompt.digest for prompt in report.prompts},
        rows=rows,
        sealed=() if old is None else old.sealed,
        salt=salt if old is None else old.salt,
        searched=() if old is None or old.reads == "all" else tuple({*old.searched, *report.unread}),
    )
    return compare(path, dump_baseline(baseline))


def _retirements(report: MetricReport, rootdir: Path, patterns: Sequence[str]) -> list[Change]:
    stale = [prompt for prompt in report.stale if matches(prompt.name, patterns)]
    return [compare(rootdir / prompt.snapshot_place, None) for prompt in stale]
