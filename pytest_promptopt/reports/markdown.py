"""The report for a pull request: GitHub's markdown, short enough for a comment, and inert whatever rows hold.

Customers write rows and models write replies, so every foreign text is spelled in a way that can neither break a table
nor open a tag, a link, an image, a mention or a reference to an issue.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from itertools import groupby

from pytest_promptopt.gate import Outcome
from pytest_promptopt.reports.document import (
    GAINED,
    MARKS,
    Document,
    JobEntry,
    Level,
    MetricEntry,
    PromptSection,
    TextChange,
    change_words,
    flip_words,
    how_words,
    metric_notes,
    reason_words,
    row_groups,
    spent_words,
    transfer_cells,
    verdict_words,
    visible,
)
from pytest_promptopt.reports.failures import next_commands, scored_rows
from pytest_promptopt.reports.jobs import outcome_words
from pytest_promptopt.reports.records import RowReport, TransferTable
from pytest_promptopt.reports.words import (
    cut,
    folder,
    interval_words,
    money,
    moved,
    one_line,
    p_value,
    plural,
    signed,
)

MARKER = "<!-- promptopt -->"
"""The first line, by which a workflow finds its own comment again."""

MOST_CHARACTERS = 60_000
"""GitHub refuses a comment of more than 65,536."""

CELL_WIDTH = 80
NAME_WIDTH = 120
SHOWN_ROWS = 10
FOLDED_ROWS = 40
SHOWN_CHANGES = 60
CHANGE_WIDTH = 400
COMMAND_WIDTH = 400
SHOWN_COMMANDS = 12
_NOTE_ROOM = 200

_ENTITIES = {ord(sign): f"&#{ord(sign)};" for sign in "\\`*_~[]|$"}
_ENTITIES |= {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"}
# GitHub looks for mentions, references and addresses once entities are resolved, so only a sign between stops it.
_BREAK = "&#8203;"
_ENTITIES |= {ord("@"): f"@{_BREAK}", ord("#"): f"#{_BREAK}"}
_ADDRESS = re.compile(r"(?i)(:)(?=//)|\b(www)(?=\.)|\b(GH)(?=-\d)|\b(mailto|xmpp)(?=:)")
_NO_CODE = re.compile(r"[`|\\]")


def inert(text: str, width: int = CELL_WIDTH) -> str:
    """``text`` on one line of at most ``width`` characters, as it reads, and nothing but text to GitHub."""
    return _ADDRESS.sub(lambda found: f"{found.group()}\0", cut(text, width)).translate(_ENTITIES).replace("\0", _BREAK)


def code(text: str, width: int = NAME_WIDTH) -> str:
    """A name or a command as code, which says nothing to GitHub, where its signs and its length allow it."""
    line = one_line(text)
    return inert(text, width) if not line or len(line) > width or _NO_CODE.search(line) else f"`{line}`"


def markdown(document: Document, *, most: int = MOST_CHARACTERS) -> str:
    """The whole report in at most ``most`` characters; what has no room is counted at its end."""
    page = _Page(most, foot=_footer(document))
    page.add(f"{MARKER}\n### {MARKS[document.level]} {inert(document.title, 300)}")
    page.add_table(_METRIC_HEADERS, "|---|---|--:|--:|--:|---|---|", map(_metric_cells, document.metrics))
    if len(document.models) > 1:
        _add_matrix(page, document)
    _add_notes(page, document)
    for table in document.transfers:
        _add_transfer(page, table)
    _add_faults(page, document)
    for section in document.sections:
        _add_section(page, section, document)
    for entry in document.unexplained:
        page.add(f"#### {code(entry.name)}{_on(entry.model, document)}: {_headline(entry)}")
        _add_rows(page, entry, is_named=False)
    _add_jobs(page, document)
    _add_commands(page, document)
    return page.text()


class _Page:
    """Blocks with a blank line between them, as many as fit before the last one, ``foot``."""

    def __init__(self, most: int, *, foot: str) -> None:
        self._blocks: list[str] = []
        self._foot = foot
        self._room = most - len(foot) - _NOTE_ROOM
        self._left_out = 0

    def add(self, block: str) -> None:
        """Add a block whole, or count it as left out."""
        if len(block) + 2 > self._room:
            self._left_out += 1
            return
        self._blocks.append(block)
        self._room -= len(block) + 2

    def add_table(
        self, headers: Sequence[str], rule: str, rows: Iterable[Sequence[str]], before: str = "", after: str = ""
    ) -> None:
        """Add as many rows as fit into half of what is left, and how many do not."""
        lines = [*([before, ""] if before else []), f"| {' | '.join(headers)} |", rule]
        room, hidden = self._room // 2 - sum(map(len, lines)) - len(after), 0
        for row in rows:
            line = f"| {' | '.join(row)} |"
            if hidden or len(line) + 1 > room:
                hidden += 1
            else:
                lines.append(line)
                room -= len(line) + 1
        if len(lines) > (4 if before else 2):
            ending = [after] if after else []
            self.add("\n".join([*lines, *([f"\n{plural(hidden, 'more row')}"] if hidden else []), *ending]))
        self._left_out += bool(hidden)

    def text(self) -> str:
        """The page."""
        note = "*Cut to fit; the rest is in the `.html` and `.json` reports.*"
        return "\n\n".join([*self._blocks, *([note] if self._left_out else []), self._foot]) + "\n"


# --- metrics ----------------------------------------------------------------------------------------------------------

_METRIC_HEADERS = ("metric", "model", "rows", "baseline", "now", "change (90 %)", "verdict")


def _metric_cells(entry: MetricEntry) -> tuple[str, ...]:
    report, verdict = entry.report, entry.report.verdict
    score = "–" if verdict.score is None else f"{verdict.score:.3f}"
    has_moved = bool(verdict.lost or verdict.gained)
    return (
        code(entry.name),
        inert(entry.model),
        str(len(scored_rows(report))),
        "–" if verdict.baseline_score is None else f"{verdict.baseline_score:.3f}",
        f"**{score}**" if has_moved else score,
        _minus(inert(change_words(report))),
        f"{MARKS[entry.level]} {verdict_words(entry)}",
    )


def _minus(words: str) -> str:
    return re.sub(r"-(?=\d)", "−", words)


def _add_notes(page: _Page, document: Document) -> None:
    """What the metrics are compared with, and what they have to say beside their verdicts."""
    base = document.facts.base
    compared = [f"compared with the baselines at {base[:10]}, where this branch began"] if base else []
    _add_list(page, [*compared, *metric_notes(document)])


def _add_list(page: _Page, lines: Sequence[str]) -> None:
    shown = [f"- {inert(line, 3 * CELL_WIDTH)}" for line in lines[:SHOWN_COMMANDS]]
    hidden = len(lines) - len(shown)
    if shown:
        page.add("\n".join([*shown, *([f"- {hidden} more"] if hidden else [])]))


def _add_matrix(page: _Page, document: Document) -> None:
    """Metrics × models: score and verdict."""
    cells = {(entry.name, entry.model): entry for entry in document.metrics}
    names, models = dict.fromkeys(entry.name for entry in document.metrics), document.models
    rows = [[code(name), *(_matrix_cell(cells.get((name, model))) for model in models)] for name in names]
    page.add_table(["metric", *map(inert, models)], "|---|" + "---|" * len(models), rows)


def _add_transfer(page: _Page, table: TransferTable) -> None:
    """Prompts × models: whose prompt does how well where."""
    title = f"{code(table.metric)}, {plural(table.rows, 'row')}: prompt of"
    rows = [[inert(prompt), *map(inert, cells)] for prompt, cells in transfer_cells(table)]
    page.add_table([title, *map(inert, table.models)], "|---|" + "---|" * len(table.models), rows)


def _matrix_cell(entry: MetricEntry | None) -> str:
    if entry is None:
        return "–"
    score = entry.report.verdict.score
    return f"{MARKS[entry.level]} {verdict_words(entry) if score is None else f'{score:.3f}'}"


def _add_faults(page: _Page, document: Document) -> None:
    rows = [[inert(fault.nodeid, NAME_WIDTH), inert(fault.text, 2 * CELL_WIDTH)] for fault in document.faults]
    page.add_table(["ended without figures", "why"], "|---|---|", rows)


def _on(model: str, document: Document) -> str:
    return f" on {inert(model)}" if len(document.models) > 1 else ""


def _headline(entry: MetricEntry) -> str:
    return flip_words([entry.report]) or inert(verdict_words(entry))


# --- prompts and rows -------------------------------------------------------------------------------------------------


def _add_section(page: _Page, section: PromptSection, document: Document) -> None:
    prompt = section.prompt
    what = flip_words([entry.report for entry in section.metrics]) or "no row moved"
    page.add(f"#### {code(prompt.name)}{_on(prompt.model, document)}: {what}")
    page.add(f"What changed: {inert(how_words(section), 3 * CELL_WIDTH)}.")
    if section.changes:
        page.add(fenced_changes(section.changes))
    for entry in section.metrics:
        _add_rows(page, entry, is_named=len(section.metrics) > 1)


def fenced_changes(changes: Sequence[TextChange], more: Sequence[str] = ()) -> str:
    """A change of text between fences that nothing in it can close, and ``more`` lines under it."""
    lines = [f"{change.mark}{cut(change.text, CHANGE_WIDTH)}" for change in _shortened(changes)]
    hidden = len(lines) - SHOWN_CHANGES
    lines = [*lines[:SHOWN_CHANGES], *([f" … {plural(hidden, 'more line')}"] if hidden > 0 else []), *more]
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}diff", *lines, fence])


def _shortened(changes: Sequence[TextChange]) -> list[TextChange]:
    """Of more than five unchanged sentences in a row, the first two and the last two."""
    shown: list[TextChange] = []
    for mark, run in groupby(changes, key=lambda change: change.mark):
        same = [*run]
        if mark == " " and len(same) > 5:
            same = [*same[:2], TextChange(mark=" ", text=f"… {len(same) - 4} unchanged sentences"), *same[-2:]]
        shown += same
    return shown


def _add_rows(page: _Page, entry: MetricEntry, *, is_named: bool) -> None:
    """Why it did not pass, and a table for each kind of row: some rows open, more of them folded."""
    verdict = entry.report.verdict
    if verdict.outcome is not Outcome.PASS and verdict.reasons:
        page.add(f"{MARKS[entry.level]} {code(entry.name)}: {inert('; '.join(verdict.reasons), 4 * CELL_WIDTH)}")
    for group in row_groups(entry.report):
        title = f"{group.label} in {code(entry.name)}" if is_named else group.label
        headers = [title, "why", inert(entry.report.text_name, NAME_WIDTH // 4)]
        opened = () if group.label == GAINED else group.rows[:SHOWN_ROWS]
        folded = group.rows[len(opened) :][:FOLDED_ROWS]
        page.add_table(headers, "|---|---|---|", map(_row_cells, opened))
        hidden = len(group.rows) - len(opened) - len(folded)
        count = (
            f"{len(folded)} {'more ' if opened else ''}{group.label}{f' ({hidden} others not shown)' if hidden else ''}"
        )
        opening = f"<details><summary>{count}</summary>"
        page.add_table(headers, "|---|---|---|", map(_row_cells, folded), before=opening, after="\n</details>")


def _row_cells(row: RowReport) -> tuple[str, str, str]:
    return inert(row.id, NAME_WIDTH // 3), inert(reason_words(row)), inert(row.text)


# --- searches ---------------------------------------------------------------------------------------------------------

_JOB_HEADERS = ("prompt", "model", "outcome", "on select (optimistic)", "on sealed rows", "p", "calls", "cost")


def _add_jobs(page: _Page, document: Document) -> None:
    page.add_table(_JOB_HEADERS, "|---|---|---|---|---|--:|--:|--:|", map(_job_cells, document.jobs))
    for entry in document.jobs:
        if entry.changes or entry.report.demos or entry.report.below:
            page.add(_job_section(entry))


def _job_cells(entry: JobEntry) -> tuple[str, ...]:
    job = entry.report
    return (
        code(job.prompt),
        inert(job.model),
        f"{MARKS[entry.level]} {outcome_words(job.outcome, job.unconfirmed)}",
        _arrow(moved(job.start_score, job.selected_score)),
        _arrow(moved(job.sealed_before, job.sealed_after)),
        "–" if job.p is None else inert(p_value(job.p)),
        str(job.spending.made) if job.leads_group else "–",
        inert(money(job.spending.total_usd)) if job.leads_group else "–",
    )


def _arrow(words: str) -> str:
    return "–" if words == "-" else words.replace("->", "→")


def _job_section(entry: JobEntry) -> str:
    """One winner, folded: what the sealed rows said, and what it changes or would change."""
    job = entry.report
    proof = "" if job.difference is None else f", {_minus(signed(job.difference, 3))} on {job.sealed_rows} sealed rows"
    interval = "" if job.interval is None else f", 90 % interval {_minus(interval_words(job.interval, is_signed=True))}"
    reason = "" if not job.reason else f": {inert(job.reason, 2 * CELL_WIDTH)}"
    name = inert(job.prompt, NAME_WIDTH)
    below = [f"❌ below its threshold: {inert(metric, 2 * CELL_WIDTH)}" for metric in job.below]
    demos = [f"+demo {cut(visible(demo), CHANGE_WIDTH)}" for demo in job.demos[:SHOWN_CHANGES]]
    outcome = outcome_words(job.outcome, job.unconfirmed)
    lines = [f"<details><summary><code>{name}</code>: {outcome}{proof}{interval}{reason}</summary>"]
    lines += [*below, fenced_changes(entry.changes, demos) if entry.changes or demos else "", "</details>"]
    return "\n\n".join(filter(None, lines))


# --- the end ----------------------------------------------------------------------------------------------------------


def _add_commands(page: _Page, document: Document) -> None:
    """What to type next, each command once."""
    commands = [
        command
        for entry in document.metrics
        if entry.level is not Level.PASS
        for command in next_commands(entry.report)
    ]
    written = dict.fromkeys(folder(path) for path in document.facts.written)
    if written:
        commands.append(("next", f"git add {' '.join(map(shlex.quote, written))} && git commit"))
    lines = [f"- **{label}** {code(command, COMMAND_WIDTH)}" for label, command in dict.fromkeys(commands)]
    if lines:
        hidden = len(lines) - SHOWN_COMMANDS
        page.add("\n".join([*lines[:SHOWN_COMMANDS], *([f"- {hidden} more"] if hidden > 0 else [])]))
    orphans = [f"{path}: orphan" for path in document.facts.orphans]
    _add_list(page, [*document.facts.strict_findings, *orphans])


def _footer(document: Document) -> str:
    facts = document.facts
    mode = f"replies {facts.mode}{f' ({facts.mode_reason})' if facts.mode_reason else ''}"
    search = [f"optimizer {facts.optimizer}, seed {facts.seed}"] if facts.is_search else []
    parts = [mode, *search, spent_words(document.spending), f"pytest-promptopt {facts.version}"]
    return f"<sub>{inert(' · '.join(parts), 300)}</sub>"
