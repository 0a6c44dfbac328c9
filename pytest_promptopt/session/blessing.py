"""``--prompt-bless``: this run's scores become the baselines, and the source of a stale prompt what stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pytest_promptopt.gate import AnchorMove, Outcome
from pytest_promptopt.reports.records import MetricReport
from pytest_promptopt.session.anchoring import Anchored, anchored
from pytest_promptopt.session.metric_item import NO_MODEL_NAME
from pytest_promptopt.snapshots.baseline import Baseline, BaselineRow, dump_baseline, read_baseline
from pytest_promptopt.snapshots.change import Change, ChangeKind, compare, read_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Blessing:
    """The changes to make on disk, the metrics that were refused, with the reason, and what becomes of anchors.

    ``anchors`` holds a sentence for each node id whose accepted scores are proven worse than its anchor.
    """

    changes: tuple[Change, ...]
    refused: tuple[str, ...]
    anchors: Mapping[str, str]


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether ``--prompt`` means the prompt ``name``: by its whole name, its function's, or a pattern for either."""
    short = name.rpartition(".")[2]
    return not patterns or any(fnmatchcase(name, pattern) or fnmatchcase(short, pattern) for pattern in patterns)


def bless(reports: Iterable[MetricReport], *, rootdir: Path, patterns: Sequence[str], salt: str) -> Blessing:
    """What accepting ``reports`` changes; errored, unrecorded and unscored metrics are refused."""
    changes: dict[Path, Change] = {}
    refused: list[str] = []
    anchors: dict[str, str] = {}
    for report in reports:
        if not any(matches(prompt.name, patterns) for prompt in report.prompts) and patterns:
            continue
        reason = _refusal(report)
        if reason:
            refused.append(f"{report.name}: {reason}, so its baseline stays")
            continue
        new = _new_baseline(report, rootdir, salt)
        words = _anchor_words(report, new)
        if words:
            anchors[report.nodeid] = words
        baseline_change = compare(rootdir / report.baseline_path, dump_baseline(new.baseline))
        for change in (baseline_change, *_retirements(report, rootdir, patterns)):
            if change.kind is not ChangeKind.UNCHANGED:
                changes[change.path] = change
    return Blessing(changes=tuple(changes.values()), refused=tuple(refused), anchors=anchors)


def _refusal(report: MetricReport) -> str | None:
    match report.verdict.outcome:
        case Outcome.ERRORED:
            return "rows errored"
        case Outcome.UNRECORDED:
            return "replies are missing"
    return None if any(row.score is not None for row in report.rows) else "no row has a score"


def _anchor_words(report: MetricReport, new: Anchored) -> str:
    """What becomes of the anchor, where the scores just accepted are proven worse than it; else nothing."""
    if new.before is None or new.after is None:
        return ""
    worse = f"{report.name} is proven worse than its best"
    if new.move is AnchorMove.WARNED:
        stays = f"its anchor stays at {new.before:.3f}"
        return f"{worse} ({new.after:.3f} now), but {stays}; the next run fails by it; bless again to accept that"
    means = f"{new.before:.3f} -> {new.after:.3f}"
    return f"{worse}, so its anchor moves down: {means}" if new.move is AnchorMove.LOWERED else ""


def _new_baseline(report: MetricReport, rootdir: Path, salt: str) -> Anchored:
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
    return anchored(baseline, old)


def _retirements(report: MetricReport, rootdir: Path, patterns: Sequence[str]) -> list[Change]:
    stale = [prompt for prompt in report.stale if matches(prompt.name, patterns)]
    return [compare(rootdir / prompt.snapshot_place, None) for prompt in stale]
