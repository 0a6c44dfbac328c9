"""The report for a browser: one file that needs no script, no network and no other file.

Its own Content-Security-Policy forbids scripts and everything from elsewhere, so that even a hole in the escaping could
not run anything. Light and dark follow the reader's setting, and a phone is wide enough.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Sequence

from pytest_promptopt.gate import Outcome
from pytest_promptopt.reports.charts import interval_bar, search_curve, text
from pytest_promptopt.reports.curves import SearchCurve
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
)
from pytest_promptopt.reports.failures import next_commands, scored_rows
from pytest_promptopt.reports.jobs import outcome_words
from pytest_promptopt.reports.records import RowReport, TransferTable
from pytest_promptopt.reports.words import interval_words, money, moved, p_words, plural, signed

OPEN_ROWS = 20

STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --fore: #1b1f24; --soft: #57606a; --line: #d0d7de; --tint: #f6f8fa;
  --pass: #1a7f37; --warning: #9a6700; --fail: #cf222e; --blue: #0969da; --came: #dafbe1; --went: #ffebe9; }
@media (prefers-color-scheme: dark) { :root { --back: #0d1117; --fore: #e6edf3; --soft: #9198a1; --line: #30363d;
  --tint: #161b22; --pass: #3fb950; --warning: #d29922; --fail: #f85149; --blue: #4493f8; --came: #12361f;
  --went: #4a1a1e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; background: var(--back); color: var(--fore);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.35rem; margin: .5rem 0 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
code, pre { font: 13px/1.45 ui-monospace, SFMono-Regular, Menlo, monospace; }
p.under, footer, td.soft, .why { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: .3rem 0; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid var(--line);
  min-width: 4.5rem; }
th { color: var(--soft); font-weight: 600; font-size: .85rem; } td.number, th.number { text-align: right;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
td.bar { min-width: 11rem; width: 14rem; } td.name, td.words { min-width: 9rem; }
.pass { color: var(--pass); } .warning { color: var(--warning); } .fail { color: var(--fail); }
.verdict { font-weight: 600; white-space: nowrap; }
header { border-left: .4rem solid currentColor; padding-left: .8rem; } header h1, header p { color: var(--fore); }
header p.under { color: var(--soft); margin: .2rem 0; }
details { margin: .4rem 0; } summary { cursor: pointer; color: var(--blue); }
ul.diff { list-style: none; margin: .4rem 0; padding: .4rem 0; background: var(--tint); border: 1px solid var(--line);
  border-radius: 6px; } ul.diff li { padding: .1rem .8rem; white-space: pre-wrap; }
li.came { background: var(--came); } li.went { background: var(--went); }
li.came::before { content: "+ "; } li.went::before { content: "\\2212  "; } li.same::before { content: "  "; }
ul.next { padding-left: 1.2rem; }
svg { display: block; width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
svg.bar { min-width: 10rem; max-width: 16rem; } svg.curve { max-width: 44rem; min-width: 20rem; }
.axis, .grid { stroke: var(--line); } .interval { fill: var(--blue); fill-opacity: .3; } .score { fill: var(--blue); }
.baseline { stroke: var(--fore); stroke-width: 2; } .floor { stroke: var(--fail); stroke-dasharray: 3 2; }
.start { stroke: var(--soft); stroke-dasharray: 4 3; } .best { fill: none; stroke: var(--blue); stroke-width: 2; }
.trial { fill: var(--blue); fill-opacity: .55; }
"""


def html_report(document: Document) -> str:
    """The whole page."""
    digest = b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    body = [
        _header(document),
        *_metric_section(document),
        *_matrix_section(document),
        *map(_transfer_section, document.transfers),
        *_fault_section(document),
        *(_prompt_section(section, document) for section in document.sections),
        *(_unexplained_section(entry, document) for entry in document.unexplained),
        *_search_sections(document),
        *_job_sections(document),
        *_all_rows(document),
        _footer(document),
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{text(document.title)}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            *filter(None, body),
            "</body>",
            "</html>",
            "",
        ]
    )


def _header(document: Document) -> str:
    facts = document.facts
    models = ", ".join(facts.models or document.models) or "no model"
    mode = f"replies {facts.mode}{f' ({facts.mode_reason})' if facts.mode_reason else ''}"
    base = f", compared with the baselines at {facts.base[:10]}, where this branch began" if facts.base else ""
    search = f", optimizer {facts.optimizer}, seed {facts.seed}" if facts.is_search else ""
    notes = _list([*facts.strict_findings, *(f"{path}: orphan" for path in facts.orphans)])
    return (
        f'<header class="{document.level}"><h1>{MARKS[document.level]} {text(document.title)}</h1>'
        f'<p class="under">{text(f"{models}, {mode}{search}{base}")}</p></header>{notes}'
    )


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """``headers`` and the cells of ``rows`` are markup: a cell may come with its own ``td``."""
    head = "".join(f"<th>{header}</th>" for header in headers)
    lines = "".join(
        f"<tr>{''.join(cell if cell.startswith('<td') else f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    return f'<div class="wide">{table}</div>' if lines else ""


def _verdict(level: Level, words: str) -> str:
    return f'<td class="verdict {level}">{MARKS[level]} {text(words)}</td>'


def _score(score: float | None) -> str:
    return '<td class="number">–</td>' if score is None else f'<td class="number">{score:.3f}</td>'


def _section(title: str, *parts: str) -> str:
    return "\n".join([f"<section><h2>{title}</h2>", *filter(None, parts), "</section>"])


# --- metrics ----------------------------------------------------------------------------------------------------------


def _metric_section(document: Document) -> list[str]:
    if not document.metrics:
        return []
    headers = ("metric", "verdict", "now", "change", "0 … score and 90 % interval … 1", "baseline", "rows", "model")
    legend = (
        '<p class="under">Dot: score. Bar: its 90 % interval. Stroke: baseline. Dashed: threshold. '
        "A change stands with its 90 % interval and the p that chance alone makes it this low.</p>"
    )
    table = _table(headers, map(_metric_cells, document.metrics))
    return [_section("Metrics", table, legend, _list(metric_notes(document)))]


def _metric_cells(entry: MetricEntry) -> tuple[str, ...]:
    """What matters most first: a phone shows three columns, and the others on swiping."""
    report, verdict = entry.report, entry.report.verdict
    bar = interval_bar(verdict.score, verdict.interval, baseline=verdict.baseline_score, floor=report.threshold)
    return (
        f'<td class="name"><code>{text(entry.name)}</code></td>',
        _verdict(entry.level, verdict_words(entry)),
        _score(verdict.score),
        f'<td class="words">{text(change_words(report))}</td>',
        f'<td class="bar">{bar}</td>',
        _score(verdict.baseline_score),
        f'<td class="number">{len(scored_rows(report))}</td>',
        text(entry.model),
    )


def _matrix_section(document: Document) -> list[str]:
    """Metrics × models, and prompts × models by the metrics that call them."""
    if len(document.models) < 2:
        return []
    cells = {(entry.name, entry.model): entry for entry in document.metrics}
    rows = [
        [f"<code>{text(name)}</code>", *(_matrix_cell(cells.get((name, model))) for model in document.models)]
        for name in dict.fromkeys(entry.name for entry in document.metrics)
    ]
    metrics = _table(["metric", *map(text, document.models)], rows)
    return [_section("Metrics × models", metrics), *_prompt_matrix(document)]


def _transfer_section(table: TransferTable) -> str:
    rows = [[text(prompt), *map(text, cells)] for prompt, cells in transfer_cells(table)]
    under = '<p class="under">Down, whose prompt; across, the model that runs it; in brackets, its own.</p>'
    title = f"Does it transfer? <code>{text(table.metric)}</code>, {plural(table.rows, 'row')} that no search saw"
    return _section(title, under, _table(["prompt of", *map(text, table.models)], rows))


def _matrix_cell(entry: MetricEntry | None) -> str:
    if entry is None:
        return "–"
    score = entry.report.verdict.score
    return _verdict(entry.level, verdict_words(entry) if score is None else f"{score:.3f}")


def _prompt_matrix(document: Document) -> list[str]:
    """Which prompt stands on which model, and the mean of the metrics that call it there."""
    standing: dict[tuple[str, str], str] = {}
    scores: dict[tuple[str, str], list[float]] = {}
    for entry in document.metrics:
        for prompt in entry.report.prompts:
            key = (prompt.name, entry.model)
            standing[key] = prompt.standing
            if entry.report.verdict.score is not None:
                scores.setdefault(key, []).append(entry.report.verdict.score)
    names = dict.fromkeys(name for name, _ in standing)
    rows = [
        [f"<code>{text(name)}</code>", *(_prompt_cell(name, model, standing, scores) for model in document.models)]
        for name in names
    ]
    table = _table(["prompt", *map(text, document.models)], rows)
    return [_section("Prompts × models", table)] if table else []


def _prompt_cell(
    name: str, model: str, standing: dict[tuple[str, str], str], scores: dict[tuple[str, str], list[float]]
) -> str:
    mine = scores.get((name, model), [])
    mean = f"{sum(mine) / len(mine):.3f}, " if mine else ""
    return text(f"{mean}{standing[name, model]}") if (name, model) in standing else "–"


def _fault_section(document: Document) -> list[str]:
    rows = [(f"<code>{text(fault.nodeid)}</code>", text(fault.text)) for fault in document.faults]
    return [_section("Ended without figures", _table(("test", "why"), rows))] if rows else []


# --- prompts and rows -------------------------------------------------------------------------------------------------


def _prompt_section(section: PromptSection, document: Document) -> str:
    prompt = section.prompt
    on = f" on {text(prompt.model)}" if len(document.models) > 1 else ""
    flips = flip_words([entry.report for entry in section.metrics])
    title = f"<code>{text(prompt.name)}</code>{on}: {flips or 'no row moved'}"
    how = f'<p class="under">{text(how_words(section))}.</p>'
    return _section(title, how, _diff(section.changes), *map(_rows_of, section.metrics))


def _unexplained_section(entry: MetricEntry, document: Document) -> str:
    on = f" on {text(entry.model)}" if len(document.models) > 1 else ""
    return _section(f"<code>{text(entry.name)}</code>{on}", _rows_of(entry))


def _diff(changes: Sequence[TextChange], demos: Sequence[str] = ()) -> str:
    kinds = {" ": "same", "-": "went", "+": "came"}
    words = {" ": "", "-": "removed", "+": "added"}
    items = [
        f'<li class="{kinds[change.mark]}" aria-label="{words[change.mark]}"><code>{text(change.text)}</code></li>'
        for change in (*changes, *(TextChange(mark="+", text=f"demo {demo}") for demo in demos))
    ]
    return f'<ul class="diff">{"".join(items)}</ul>' if items else ""


def _rows_of(entry: MetricEntry) -> str:
    """Why a metric did not simply pass, its rows to look at, and what to type."""
    report, verdict = entry.report, entry.report.verdict
    passes = verdict.outcome is Outcome.PASS
    reasons = "" if passes else f'<p class="{entry.level}">{text("; ".join(verdict.reasons))}</p>'
    commands = "".join(
        f"<li>{text(label)}: <code>{text(command)}</code></li>"
        for label, command in (() if entry.level is Level.PASS else next_commands(report))
    )
    tables: list[str] = []
    for group in row_groups(report):
        is_open = group.label != GAINED
        shown = group.rows[:OPEN_ROWS] if is_open else ()
        rest = group.rows[len(shown) :]
        tables.append(_row_table(group.label, shown, report.text_name))
        if rest:
            table = _row_table(group.label, rest, report.text_name)
            more = "more " if shown else ""
            tables.append(f"<details><summary>{len(rest)} {more}{text(group.label)}</summary>{table}</details>")
    name = f"<h3><code>{text(entry.name)}</code>: {text(verdict_words(entry))}</h3>"
    return "\n".join([name, reasons, *tables, f'<ul class="next">{commands}</ul>' if commands else ""])


def _row_table(label: str, rows: Sequence[RowReport], text_name: str) -> str:
    cells = (
        (
            f"<code>{text(row.id)}</code>",
            f'<td class="words">{text(reason_words(row))}</td>',
            f'<td class="words">{text(row.text)}</td>',
        )
        for row in rows
    )
    return _table((text(label), "why", text(text_name)), cells)


def _all_rows(document: Document) -> list[str]:
    """Every row of every metric, folded."""
    parts = [
        f"<details><summary>{text(entry.name)} on {text(entry.model)}: all {plural(len(entry.report.rows), 'row')} read"
        f"</summary>{_whole_table(entry)}</details>"
        for entry in document.metrics
        if entry.report.rows
    ]
    return [_section("All rows", *parts)] if parts else []


def _whole_table(entry: MetricEntry) -> str:
    report = entry.report
    cells = (
        (
            f"<code>{text(row.id)}</code>",
            _score(row.score),
            text(str(row.status)),
            f'<td class="words">{text(row.feedback or row.why)}</td>',
            f'<td class="words">{text(row.text)}</td>',
        )
        for row in report.rows
    )
    return _table(("row", "score", "status", "why", text(report.text_name)), cells)


# --- searches ---------------------------------------------------------------------------------------------------------


def _search_sections(document: Document) -> list[str]:
    return [_search_section(curve) for curve in document.searches]


def _search_section(curve: SearchCurve) -> str:
    title = f"Search of {', '.join(f'<code>{text(name)}</code>' for name in curve.prompts)} on {text(curve.model)}"
    outcome = curve.outcome or "under way when the run ended"
    tried = [plural(len(curve.points), "candidate"), plural(curve.proposals, "proposal")]
    facts = [
        f"{curve.optimizer}, seed {curve.seed}: {outcome}{f' ({curve.reason})' if curve.reason else ''}",
        f"{tried[0]} scored on all selection rows, {tried[1]}, {len(curve.rejections)} rejected",
    ]
    picture = search_curve(curve)
    rounds = _list(f"round {each}" for each in curve.rounds)
    rejections = _list(curve.rejections[:OPEN_ROWS])
    return _section(
        title,
        _list(facts),
        f'<div class="wide">{picture}</div>' if picture else "",
        f"<details><summary>{plural(len(curve.rounds), 'round')}</summary>{rounds}</details>" if rounds else "",
        f"<details><summary>{len(curve.rejections)} rejected</summary>{rejections}</details>" if rejections else "",
    )


def _job_sections(document: Document) -> list[str]:
    if not document.jobs:
        return []
    headers = ("prompt", "outcome", "on sealed rows", "on select (optimistic)", "calls", "cost", "model")
    table = _table(headers, map(_job_cells, document.jobs))
    return [_section("Optimized prompts", table, *map(_job_change, document.jobs))]


def _job_cells(entry: JobEntry) -> tuple[str, ...]:
    job = entry.report
    spent = job.spending
    return (
        f'<td class="name"><code>{text(job.prompt)}</code></td>',
        _verdict(entry.level, outcome_words(job.outcome, job.unconfirmed)),
        text(moved(job.sealed_before, job.sealed_after)),
        text(moved(job.start_score, job.selected_score)),
        f'<td class="number">{spent.made if job.leads_group else "–"}</td>',
        f'<td class="number">{text(money(spent.total_usd)) if job.leads_group else "–"}</td>',
        text(job.model),
    )


def _job_change(entry: JobEntry) -> str:
    job = entry.report
    proof = [
        "" if job.difference is None else f"{signed(job.difference, 3)} on {plural(job.sealed_rows, 'sealed row')}",
        "" if job.interval is None else f"90 % interval {interval_words(job.interval, is_signed=True)}",
        "" if job.p is None else p_words(job.p),
        job.reason,
        job.path,
    ]
    bar = interval_bar(job.sealed_after, None, baseline=job.sealed_before)
    return "\n".join(
        [
            f"<h3><code>{text(job.prompt)}</code> on {text(job.model)}</h3>",
            f'<p class="under">{text("; ".join(filter(None, proof)))}</p>',
            f'<div class="wide">{bar}</div>' if bar else "",
            _diff(entry.changes, job.demos),
            _list(f"below its threshold: {metric}" for metric in job.below),
        ]
    )


def _footer(document: Document) -> str:
    facts, spent = document.facts, spent_words(document.spending)
    return f"<footer><p>{text(spent)} · pytest-promptopt {text(facts.version)}</p>{_list(facts.notes)}</footer>"
