"""What every written report says, put together once; each writer only spells it its own way.

Records and events go in, a :class:`Document` comes out: the verdict in a line, metrics, prompts that changed with the
rows that flipped, searches with their curves. Nothing here knows pytest, a file or a format.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from enum import StrEnum

from pytest_promptopt.evaluation.outcome import Status
from pytest_promptopt.gate import Outcome, blessings_ago
from pytest_promptopt.reports.curves import SearchCurve
from pytest_promptopt.reports.failures import rows_with, scored_rows, uncompared_words, without_model
from pytest_promptopt.reports.matrix import transfer_tables
from pytest_promptopt.reports.records import (
    JobReport,
    MetricReport,
    PromptState,
    RowReport,
    Spending,
    TransferScore,
    TransferTable,
)
from pytest_promptopt.reports.words import money, one_line, p_value, plural, signed


class Level(StrEnum):
    """How grave something is: the first two leave the run green."""

    PASS = "pass"
    WARNING = "warning"
    FAIL = "fail"


GAINED = "gained"
"""What rows are called that score higher than they did: good news, so they come last."""

MARKS = {Level.PASS: "✅", Level.WARNING: "⚠️", Level.FAIL: "❌"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What the run was asked to do and how it ended.

    ``stopped`` says why it ended before its end, empty where it did not; ``strict`` are the findings that fail instead
    of warning, ``strict_findings`` those of this run. ``base`` is the commit whose baselines the metrics are compared
    with, where it is not their own. ``notes`` are the lines that closed it.
    """

    version: str
    is_search: bool
    exit_status: int
    mode: str
    stopped: str = ""
    mode_reason: str = ""
    models: tuple[str, ...] = ()
    base: str | None = None
    optimizer: str = ""
    seed: int = 0
    max_calls: int | None = None
    max_cost_usd: float | None = None
    is_blessing: bool = False
    strict: frozenset[str] = frozenset()
    strict_findings: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    written: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A metric or a search that ended without figures, and what pytest has to say about it."""

    nodeid: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricEntry:
    """One metric on one model: its report, its name in tables, and what that means for the run."""

    report: MetricReport
    name: str
    level: Level

    @property
    def model(self) -> str:
        """The model, or words for its absence."""
        return self.report.model or "no model"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """Rows of one metric that a reader should look at, and why: ``lost``, ``gained``, ``errored``, …"""

    label: str
    rows: tuple[RowReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextChange:
    """A sentence that stayed (a space), went (``-``) or came (``+``)."""

    mark: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSection:
    """A prompt that is not what its baseline was taken with, and the metrics that nobody else tells of.

    ``how`` is ``edited``, ``stale`` or ``moved``; ``changes`` is empty where a text is unknown.
    """

    prompt: PromptState
    how: str
    changes: tuple[TextChange, ...]
    metrics: tuple[MetricEntry, ...]

    @property
    def lost(self) -> int:
        """Rows that lost in any of its metrics, each counted once."""
        return len({row_id for entry in self.metrics for row_id in entry.report.verdict.decisive_lost})

    @property
    def gained(self) -> int:
        """Rows that gained in any of its metrics, each counted once."""
        return len({row_id for entry in self.metrics for row_id in entry.report.verdict.gained})


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEntry:
    """One prompt's search and what it would change, or did."""

    report: JobReport
    level: Level
    changes: tuple[TextChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Everything that a report of one run can say.

    ``sections`` hold the prompts that changed, ``unexplained`` the metrics that did not simply pass although none of
    their prompts changed. ``has_news`` is false where every metric passed and nothing changed.
    """

    facts: RunFacts
    title: str
    level: Level
    has_news: bool
    metrics: tuple[MetricEntry, ...] = ()
    sections: tuple[PromptSection, ...] = ()
    unexplained: tuple[MetricEntry, ...] = ()
    jobs: tuple[JobEntry, ...] = ()
    searches: tuple[SearchCurve, ...] = ()
    transfers: tuple[TransferTable, ...] = ()
    faults: tuple[Fault, ...] = ()
    spending: Spending = field(default_factory=Spending)

    @property
    def models(self) -> tuple[str, ...]:
        """The models of its metrics, in their order."""
        return tuple(dict.fromkeys(entry.model for entry in self.metrics))


def make_document(
    facts: RunFacts,
    *,
    metrics: Iterable[MetricReport] = (),
    jobs: Iterable[JobReport] = (),
    searches: Iterable[SearchCurve] = (),
    faults: Iterable[Fault] = (),
    unreported: Spending | None = None,
) -> Document:
    """Put a run together; ``unreported`` is what went to metrics that ended without a report."""
    entries = _metric_entries(tuple(metrics), facts)
    job_entries, faults = tuple(map(_job_entry, jobs)), tuple(faults)
    sections = _prompt_sections(entries)
    told = {entry.report.nodeid for section in sections for entry in section.metrics}
    level = _level(facts, entries, job_entries, faults)
    spent = [*(entry.report.spending for entry in entries), *(job.report.spending for job in job_entries)]
    return Document(
        facts=facts,
        title=_title(facts, entries, job_entries, faults),
        level=level,
        has_news=level is not Level.PASS
        or bool(sections or job_entries)
        or any(_is_news(one, facts) for one in entries),
        metrics=entries,
        sections=sections,
        unexplained=tuple(entry for entry in entries if entry.report.nodeid not in told and _needs_words(entry)),
        jobs=job_entries,
        searches=tuple(searches),
        transfers=transfer_tables(entry.report for entry in entries),
        faults=faults,
        spending=sum(spent, unreported or Spending()),
    )


# --- metrics ----------------------------------------------------------------------------------------------------------


def _metric_entries(reports: Sequence[MetricReport], facts: RunFacts) -> tuple[MetricEntry, ...]:
    owners: dict[str, set[str]] = {}
    for report in reports:
        owners.setdefault(without_model(report.name, report.model), set()).add(report.owner)
    return tuple(
        MetricEntry(
            report=report, name=name if len(owners[name]) == 1 else report.owner, level=_metric_level(report, facts)
        )
        for report in reports
        for name in (without_model(report.name, report.model),)
    )


def _metric_level(report: MetricReport, facts: RunFacts) -> Level:
    outcome = report.verdict.outcome
    is_stale = bool(report.stale) and not facts.is_blessing
    is_strict = (outcome is Outcome.INCONCLUSIVE and "inconclusive" in facts.strict) or (
        is_stale and "stale" in facts.strict
    )
    if is_strict or outcome not in (Outcome.PASS, Outcome.INCONCLUSIVE):
        return Level.FAIL
    return Level.WARNING if outcome is Outcome.INCONCLUSIVE or is_stale else Level.PASS


def _is_news(entry: MetricEntry, facts: RunFacts) -> bool:
    """Whether a reader who knows the last run would learn anything; beside a base that may be a note on what moved."""
    report = entry.report
    return not report.verdict.is_unchanged or bool(report.anchor_move) or bool(facts.base and report.notes)


def _needs_words(entry: MetricEntry) -> bool:
    report, verdict = entry.report, entry.report.verdict
    has_odd_rows = bool(_flaky(report) or any(row.flip for row in report.rows))
    return verdict.outcome is not Outcome.PASS or has_odd_rows or bool(verdict.lost or verdict.gained)


def verdict_words(entry: MetricEntry) -> str:
    """The outcome, and what is odd about a pass."""
    report = entry.report
    marks = (
        (report.stale, "stale"),
        (report.edited, "edited"),
        (report.verdict.is_ungated, "ungated"),
    )
    odd = [word for applies, word in marks if applies] if report.verdict.outcome is Outcome.PASS else []
    return ", ".join([str(report.verdict.outcome), *odd])


def change_words(report: MetricReport) -> str:
    """What moved since the baseline: ``-0.188 (-0.28 … -0.08), p 0.001``."""
    verdict = report.verdict
    if (uncompared := uncompared_words(report)) or verdict.difference is None:
        return uncompared
    if report.verdict.fails_by_anchor and verdict.anchor_difference is not None:
        return f"{signed(verdict.anchor_difference, 3)} since the best, {blessings_ago(verdict.anchor_blessings)}"
    if not (verdict.lost or verdict.gained):
        return "unchanged"
    interval, words = verdict.difference_interval, signed(verdict.difference, 3)
    if interval is not None:
        words += f" ({signed(interval.low, 2)} … {signed(interval.high, 2)})"
    return words if verdict.p is None else f"{words}, p {p_value(verdict.p)}"


def row_groups(report: MetricReport) -> tuple[RowGroup, ...]:
    """The rows to look at, lost before gained; where nothing can be compared, those short of full marks."""
    verdict = report.verdict
    lost = report.verdict.decisive_lost
    must_pass = [row_id for row_id in verdict.failed_must_pass if row_id not in lost]
    groups = [
        _group("errored", [row.id for row in rows_with(report, Status.ERROR)], report),
        _group("not recorded", [row.id for row in rows_with(report, Status.UNRECORDED)], report),
        _group("lost", lost, report),
        _group("must-pass, failed", must_pass, report),
    ]
    if verdict.outcome is Outcome.FAIL and not lost:
        groups.append(_group("below full marks", _short_of_full_marks(report, must_pass), report))
    groups.append(_group("flaky", _flaky(report), report))
    groups.append(_group("brittle", [row.id for row in report.rows if row.flip], report))
    groups.append(_group(GAINED, verdict.gained, report))
    return tuple(group for group in groups if group.rows)


def flip_words(reports: Sequence[MetricReport]) -> str:
    """How many rows lost and gained in ``reports``, each counted once; empty where none did.

    Where the anchor alone failed, its rows are told: those that were lost since the baseline may be none.
    """
    lost = {row_id for report in reports for row_id in report.verdict.decisive_lost}
    best = [report.verdict.anchor_blessings for report in reports if report.verdict.fails_by_anchor]
    if best:
        return f"{plural(len(lost), 'row')} lost since the best, {blessings_ago(max(best))}"
    gained = {row_id for report in reports for row_id in report.verdict.gained}
    return f"{plural(len(lost), 'row')} lost, {len(gained)} gained" if lost or gained else ""


def _flaky(report: MetricReport) -> tuple[str, ...]:
    return () if report.repeats is None else report.repeats.flaky


def _group(label: str, ids: Sequence[str], report: MetricReport) -> RowGroup:
    by_id = {row.id: row for row in report.rows}
    return RowGroup(label=label, rows=tuple(by_id[row_id] for row_id in ids if row_id in by_id))


def _short_of_full_marks(report: MetricReport, already_shown: Sequence[str]) -> list[str]:
    short = [(row.score, row.id) for row in scored_rows(report) if row.score is not None and row.score < 1.0]
    return [row_id for _, row_id in sorted(short, key=lambda pair: pair[0]) if row_id not in already_shown]


def reason_words(row: RowReport) -> str:
    """Why a row scored what it did, and the edit that costs it its score."""
    if row.score is None:
        return row.why
    words = f"{row.score:.2f} {row.why}" if 0.0 < row.score < 1.0 else row.why
    return "; ".join(filter(None, (words.strip() or f"scored {row.score:g}", row.flip)))


def metric_notes(document: Document) -> list[str]:
    """What the metrics have to say beside their verdicts, each sentence once."""
    notes = [
        f"{entry.name}: {words}" for entry in document.metrics for words in (_repeat_words(entry.report),) if words
    ]
    own = [note for entry in document.metrics for note in (entry.report.anchor_move, *entry.report.notes) if note]
    return list(dict.fromkeys([*notes, *own]))


def _repeat_words(report: MetricReport) -> str:
    """How steady the replies are, where rows had several."""
    repeats = report.repeats
    if repeats is None:
        return ""
    chances = [f"pass^{k} {chance:.3f}" for k, chance in enumerate(repeats.pass_hats, 1)]
    return ", ".join([f"{repeats.trials} replies a row", *chances, f"{len(repeats.flaky)} flaky"])


def transfer_cells(table: TransferTable) -> list[tuple[str, list[str]]]:
    """One line a prompt: whose it is, and what it scores on each model; a model's own stands in brackets."""
    cells = {(score.prompt_of, score.model): score for score in table.scores}
    prompts = dict.fromkeys(score.prompt_of for score in table.scores)
    return [
        (prompt or "the source", [_transfer_words(cells.get((prompt, model))) for model in table.models])
        for prompt in prompts
    ]


def _transfer_words(score: TransferScore | None) -> str:
    if score is None:
        return "–"
    if score.score is None:
        return "no score"
    return f"[{score.score:.3f}]" if score.is_own else f"{score.score:.3f}"


# --- prompts ----------------------------------------------------------------------------------------------------------


def _prompt_sections(entries: Sequence[MetricEntry]) -> tuple[PromptSection, ...]:
    """One section a changed prompt and model; a metric that calls several stands in the first alone."""
    changed: dict[tuple[str, str], PromptState] = {}
    metrics: dict[tuple[str, str], list[MetricEntry]] = {}
    for entry in entries:
        mine = [prompt for prompt in entry.report.prompts if how_changed(prompt)]
        for prompt in mine:
            changed.setdefault((prompt.name, prompt.model), prompt)
        if mine:
            metrics.setdefault((mine[0].name, mine[0].model), []).append(entry)
    return tuple(
        PromptSection(
            prompt=prompt,
            how=how_changed(prompt),
            changes=text_changes(prompt.before, prompt.after),
            metrics=tuple(metrics.get(key, ())),
        )
        for key, prompt in changed.items()
    )


def how_changed(prompt: PromptState) -> str:
    """In which way a prompt is not what was frozen or blessed; empty where it is."""
    if prompt.standing in ("edited", "stale"):
        return prompt.standing
    return "moved" if prompt.has_moved else ""


def how_words(section: PromptSection) -> str:
    """The same in a sentence, with the place to look at."""
    prompt = section.prompt
    if section.how == "edited":
        return f"{prompt.snapshot_place} was edited since it was frozen; the edit is used and judged"
    if section.how == "stale":
        return f"{prompt.source_place} changed since it was frozen: the source runs, in production too"
    if prompt.before is not None:
        return f"{prompt.snapshot_place} is gone: the source runs, in production too"
    return f"{prompt.source_place} is not what the baseline was taken with"


def changed_place(prompt: PromptState) -> str:
    """The file to look at: the snapshot that was edited, else the prompt's source with its line."""
    return prompt.snapshot_place if prompt.standing == "edited" else prompt.source_place


def text_changes(before: str | None, after: str | None) -> tuple[TextChange, ...]:
    """Both texts as sentences, marked; nothing when either is unknown or they are equal."""
    if before is None or after is None or before == after:
        return ()
    old, new = _sentences(before), _sentences(after)
    if old == new:
        return (TextChange(mark=" ", text="(white space alone differs)"),)
    changes: list[TextChange] = []
    for kind, old_from, old_to, new_from, new_to in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            changes += [TextChange(mark=" ", text=text) for text in old[old_from:old_to]]
        else:
            changes += [TextChange(mark="-", text=text) for text in old[old_from:old_to]]
            changes += [TextChange(mark="+", text=text) for text in new[new_from:new_to]]
    return tuple(changes)


def _sentences(text: str) -> list[str]:
    lines = visible(text).split("\n")
    return [sentence for line in lines for sentence in re.split(r"(?<=[.!?])\s+", one_line(line)) if sentence]


def visible(text: str) -> str:
    r"""``text`` with every sign that nobody can see, such as a terminal's escape, spelled out as ``\x1b``.

    A reviewer must see what a model is sent. Line feeds stay, tabs become spaces.
    """
    lines = text.replace("\r\n", "\n").expandtabs(4)
    return "".join(sign if sign.isprintable() or sign == "\n" else _spelled(sign) for sign in lines)


def _spelled(sign: str) -> str:
    if unicodedata.category(sign) == "Zs":
        return " "
    return sign.encode("unicode_escape", errors="surrogatepass").decode("ascii")


# --- searches ---------------------------------------------------------------------------------------------------------


def _job_entry(job: JobReport) -> JobEntry:
    return JobEntry(
        report=job,
        level=Level.FAIL if job.below else Level.PASS,
        changes=text_changes(job.before, job.after) if job.after else (),
    )


def spent_words(spent: Spending) -> str:
    """Replies, where they came from and what they cost."""
    replies = "1 reply" if spent.calls == 1 else f"{spent.calls} replies"
    handed = f", {spent.handed_out} handed out" if spent.handed_out else ""
    return f"{replies}: {spent.replayed} replayed, {spent.attempts} called{handed}, {money(spent.cost_usd)}"


# --- the verdict in a line --------------------------------------------------------------------------------------------


def _level(facts: RunFacts, metrics: Sequence[MetricEntry], jobs: Sequence[JobEntry], faults: Sequence[Fault]) -> Level:
    """The gravest of all; a run that ended early or showed nothing is never a plain pass."""
    levels = [*(entry.level for entry in metrics), *(job.level for job in jobs)]
    if faults or facts.strict_findings or Level.FAIL in levels:
        return Level.FAIL
    is_whole = bool(levels) and not facts.stopped and facts.exit_status == 0
    return Level.WARNING if Level.WARNING in levels or facts.orphans or not is_whole else Level.PASS


def _title(facts: RunFacts, metrics: Sequence[MetricEntry], jobs: Sequence[JobEntry], faults: Sequence[Fault]) -> str:
    """``Prompt gate: 1 of 3 got worse``."""
    words = _search_words(jobs, faults) if facts.is_search else _gate_words(metrics, faults, facts)
    early = [f"ended early ({one_line(facts.stopped)})"] if facts.stopped else []
    others = (
        [f"pytest ended with exit status {facts.exit_status} for other reasons"]
        if facts.exit_status and not (early or faults) and not _explains_exit(facts, metrics, jobs)
        else []
    )
    return f"Prompt {'search' if facts.is_search else 'gate'}: {', '.join([*words, *early, *others])}"


def _explains_exit(facts: RunFacts, metrics: Sequence[MetricEntry], jobs: Sequence[JobEntry]) -> bool:
    levels = [*(entry.level for entry in metrics), *(job.level for job in jobs)]
    return bool(Level.FAIL in levels or facts.strict_findings or not (metrics or jobs))


def _gate_words(metrics: Sequence[MetricEntry], faults: Sequence[Fault], facts: RunFacts) -> list[str]:
    """What is not a plain pass, counted, the gravest first."""
    if not metrics and not faults:
        return ["no prompt metric ran"]
    counts = [
        (sum(_got_worse(entry.report) for entry in metrics), "got worse"),
        (sum(_failed_otherwise(entry.report) for entry in metrics), "failed"),
        (_count(metrics, Outcome.ERRORED) + len(faults), "errored"),
        (_count(metrics, Outcome.UNRECORDED), "unrecorded"),
        (_count(metrics, Outcome.INCONCLUSIVE), "inconclusive"),
        (0 if facts.is_blessing else sum(_is_stale_pass(entry.report) for entry in metrics), "stale"),
    ]
    found = [(count, word) for count, word in counts if count]
    total = len(metrics) + len(faults)
    if not found:
        return ["the only metric passes" if total == 1 else f"all {total} metrics pass"]
    (first, word), *rest = found
    return [f"{first} of {total} {word}", *(f"{count} {word}" for count, word in rest)]


def _count(metrics: Sequence[MetricEntry], outcome: Outcome) -> int:
    return sum(entry.report.verdict.outcome is outcome for entry in metrics)


def _got_worse(report: MetricReport) -> bool:
    verdict = report.verdict
    return verdict.outcome is Outcome.FAIL and (verdict.is_worse or verdict.is_worse_than_anchor)


def _failed_otherwise(report: MetricReport) -> bool:
    return report.verdict.outcome is Outcome.FAIL and not _got_worse(report)


def _is_stale_pass(report: MetricReport) -> bool:
    return report.verdict.outcome is Outcome.PASS and bool(report.stale)


def _search_words(jobs: Sequence[JobEntry], faults: Sequence[Fault]) -> list[str]:
    outcomes = [job.report.outcome for job in jobs]
    words = [f"{len(faults)} errored"] if faults else []
    words += [f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes)]
    below = sum(bool(job.report.below) for job in jobs)
    words += [f"{below} below the threshold"] if below else []
    return words or ["no search ended"]
