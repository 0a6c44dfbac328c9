"""What the terminal shows: verdict first, row ids and reasons beside the scores, and the next command to type.

Records go in, text comes out; nothing here knows pytest, a file or a clock. Where there is nothing to say, nothing is
said. Failures and jobs have a module each; this one has the table of metrics and the lines under it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence

from pytest_promptopt.evaluation.outcome import Status
from pytest_promptopt.gate import Outcome, Verdict, blessings_ago
from pytest_promptopt.reports.failures import (
    FEW_ROWS,
    SHOWN_DIFF_LINES,
    SHOWN_ROWS,
    error_advice,
    errors_by_message,
    failure_summary,
    failure_text,
    format_words,
    model_flag,
    rows_with,
    scored_rows,
    short_name,
    stale_part,
    test_of,
    uncompared_words,
    without_model,
)
from pytest_promptopt.reports.jobs import (
    confirm_line,
    job_heading,
    job_notes,
    job_table,
    not_frozen_line,
    outcome_line,
    round_line,
    rows_line,
    seed_line,
    start_line,
    taken_line,
    untried_line,
)
from pytest_promptopt.reports.matrix import side_by_side, transfer_lines, transfer_tables
from pytest_promptopt.reports.records import MetricReport, PromptState, Spending
from pytest_promptopt.reports.words import (
    LINE_WIDTH,
    cut,
    diff_lines,
    duration,
    fine_money,
    interval_words,
    limit,
    listed,
    money,
    one_line,
    p_words,
    plural,
    points,
    signed,
    table,
    wrapped,
)

__all__ = [
    "confirm_line",
    "failure_summary",
    "failure_text",
    "job_heading",
    "job_notes",
    "job_table",
    "metric_notes",
    "metric_table",
    "not_frozen_line",
    "outcome_line",
    "round_line",
    "rows_line",
    "seed_line",
    "start_line",
    "taken_line",
    "transfer_lines",
    "transfer_tables",
    "untried_line",
]

NAME_WIDTH = 36
PARAGRAPH_INDENT = 14

# --- the table --------------------------------------------------------------------------------------------------------


def metric_table(reports: Sequence[MetricReport], *, is_verbose: bool = False) -> str:
    """One row a metric; with several models metrics × models, and each model's own table when ``is_verbose``."""
    models = list(dict.fromkeys(report.model for report in reports))
    if len(models) <= 1:
        return _detailed_table(reports)
    tables = [_matrix_table(reports, models)]
    if is_verbose:
        own = {model: [report for report in reports if report.model == model] for model in models}
        tables += [f"{model or 'no model'}\n{_detailed_table(mine)}" for model, mine in own.items()]
    return "\n\n".join(tables)


def _detailed_table(reports: Sequence[MetricReport]) -> str:
    headers = ("metric", "rows", "score", "90 % interval", "floor", "since baseline", "verdict")
    names = _names(reports)
    rows = [(names[report.nodeid], *_metric_cells(report)) for report in reports]
    return table(headers, rows, ("left", "right", "right", "left", "right", "left", "left"))


def _metric_cells(report: MetricReport) -> tuple[str, ...]:
    verdict = report.verdict
    return (
        _row_cell(report),
        "-" if verdict.score is None else f"{verdict.score:.3f}",
        "-" if verdict.interval is None else interval_words(verdict.interval),
        "-" if report.threshold is None else limit(report.threshold),
        _since_baseline(report),
        _verdict_words(report),
    )


def _row_cell(report: MetricReport) -> str:
    """Rows that decide of all rows; where rows have no score, scored rows of those that would decide."""
    deciding = [row for row in report.rows if not row.is_outside_mean and row.status is not Status.SKIPPED]
    scored, total = len(scored_rows(report)), report.total_rows
    if report.verdict.outcome in (Outcome.ERRORED, Outcome.UNRECORDED):
        total = len(deciding)
    return str(scored) if scored == total else f"{scored}/{total}"


def _since_baseline(report: MetricReport) -> str:
    verdict = report.verdict
    if (uncompared := uncompared_words(report)) or verdict.difference is None:
        return uncompared
    if verdict.lost or verdict.gained:
        return f"{signed(verdict.difference, 3)}  -{len(verdict.lost)} +{len(verdict.gained)}"
    return ", ".join(["unchanged", *_unpaired(verdict)])


def _unpaired(verdict: Verdict) -> list[str]:
    counts = ((verdict.new_rows, "new"), (verdict.changed_rows, "edited"), (verdict.missing_rows, "gone"))
    return [f"{len(ids)} {word}" for ids, word in counts if ids]


def _verdict_words(report: MetricReport) -> str:
    """Capitals for what fails the test; a pass says what is odd about it."""
    match report.verdict.outcome:
        case Outcome.ERRORED:
            return "ERROR"
        case Outcome.INCONCLUSIVE:
            return "inconclusive"
        case Outcome.PASS:
            marks = (report.stale, "stale"), (report.edited, "edited"), (report.verdict.is_ungated, "ungated")
            return ", ".join(["pass", *(word for applies, word in marks if applies)])
        case outcome:
            return outcome.upper()


def _matrix_table(reports: Sequence[MetricReport], models: Sequence[str]) -> str:
    """Metrics × models: score and verdict. Models that do not fit side by side go into a table of their own."""
    names = _names(reports)
    cells = {(names[report.nodeid], report.model): _matrix_cell(report) for report in reports}
    metrics = list(dict.fromkeys(names[report.nodeid] for report in reports))
    widths = {model: max(len(model), *(len(cells.get((name, model), "-")) for name in metrics)) for model in models}
    room = LINE_WIDTH - max(len("metric"), *map(len, metrics))
    return "\n\n".join(
        table(
            ("metric", *(model or "no model" for model in side_by_side)),
            [(name, *(cells.get((name, model), "-") for model in side_by_side)) for name in metrics],
            ["left"] * (1 + len(side_by_side)),
        )
        for side_by_side in side_by_side(models, widths.__getitem__, room)
    )


def _matrix_cell(report: MetricReport) -> str:
    score = report.verdict.score
    return _verdict_words(report) if score is None else f"{score:.3f}  {_verdict_words(report)}"


def _names(reports: Sequence[MetricReport]) -> dict[str, str]:
    """Node id → the metric's name in tables: the test's, with its module where two tests share it."""
    owners: dict[str, set[str]] = {}
    for report in reports:
        owners.setdefault(without_model(report.name, report.model), set()).add(report.owner)
    return {
        report.nodeid: cut(name if len(owners[name]) == 1 else report.owner, NAME_WIDTH)
        for report in reports
        for name in (without_model(report.name, report.model),)
    }


def _names_with_models(reports: Sequence[MetricReport]) -> dict[str, str]:
    """Node id → the metric's name in sentences, with its model where there are several."""
    names, is_matrix = _names(reports), _is_matrix(reports)
    return {
        report.nodeid: f"{names[report.nodeid]} on {report.model}" if is_matrix else names[report.nodeid]
        for report in reports
    }


# --- under the table --------------------------------------------------------------------------------------------------


def metric_notes(
    reports: Sequence[MetricReport],
    *,
    is_verbose: bool,
    is_ci: bool,
    max_cost_usd: float | None = None,
    unreported: Spending | None = None,
) -> list[str]:
    """The lines under the table: what was read and paid, then a paragraph for whatever is not a plain pass.

    ``max_cost_usd`` is the run's ceiling, where it has one that means anything, and ``unreported`` what went to metrics
    that ended without a report.
    """
    names = _names_with_models(reports)
    spent = sum((report.spending for report in reports), unreported or Spending())
    totals = [*_decide_lines(reports), *_reply_lines(spent, max_cost_usd)]
    paragraphs = [
        *_inconclusive_notes(reports, names),
        *_prompt_notes(reports),
        *_unrecorded_notes(reports, names, is_ci=is_ci),
        *_error_notes(reports, names),
        *_small_notes(reports, names, is_verbose=is_verbose),
    ]
    gap = [""] if totals and paragraphs else []
    return [*totals, *gap, *paragraphs, *_first_run_lines(reports)]


def _decide_lines(reports: Sequence[MetricReport]) -> list[str]:
    """After a freeze the search's rows are out: they would flatter the prompt."""
    frozen = [report for report in reports if report.reads == "sealed"]
    counts = {(sum(not row.is_outside_mean for row in report.rows), report.total_rows) for report in frozen}
    counts = {(read, total) for read, total in counts if read < total}
    if not counts:
        return []
    if len(counts) > 1:
        return ["rows: the first number decides; the search saw the others (must-pass rows always run)"]
    read, total = counts.pop()
    return [f"rows: {read} of {total} decide; the search saw the other {total - read} (must-pass rows always run)"]


def _reply_lines(spent: Spending, max_cost_usd: float | None) -> list[str]:
    lines = []
    if spent.calls:
        counts = f"{spent.replayed} replayed, {spent.attempts} called"
        ceiling = f" of ${max_cost_usd:.2f}" if max_cost_usd is not None and spent.attempts else ""
        replies = "1 reply" if spent.calls == 1 else f"{spent.calls} replies"
        lines.append(f"{replies}: {counts}, {money(spent.cost_usd)}{ceiling}, {duration(spent.seconds)}")
    if spent.handed_out:
        what = f"{plural(spent.handed_out, 'prompt')} handed out to a client of your own"
        lines.append(f"{what}: neither recorded, replayed, limited nor priced, whatever the mode")
    return lines


def _first_run_lines(reports: Sequence[MetricReport]) -> list[str]:
    if not any(report.verdict.is_first_run and report.verdict.score is not None for report in reports):
        return []
    accept, improve = '"pytest --prompt-bless" accepts these scores', '"pytest --optimize-prompts" tries to better them'
    return [f"no baseline yet: {accept}, {improve}"]


def _inconclusive_notes(reports: Sequence[MetricReport], names: dict[str, str]) -> Iterator[str]:
    for report in reports:
        if report.verdict.outcome is Outcome.INCONCLUSIVE:
            yield from _paragraph("inconclusive", _doubt_words(report, names[report.nodeid]), *_doubt_commands(report))


def _doubt_words(report: MetricReport, name: str) -> str:
    verdict = report.verdict
    flips = [f"{word} {listed(ids)}." for ids, word in ((verdict.lost, "Lost"), (verdict.gained, "Gained")) if ids]
    sentences = [f"{name}: {_drop_words(verdict)}.", *flips, _power_words(verdict)]
    if verdict.lost:
        sentences.append("Look at the rows it lost, or add rows.")
    return " ".join(filter(None, sentences))


def _drop_words(verdict: Verdict) -> str:
    if verdict.rows_to_settle is None or verdict.difference is None or verdict.p is None:
        return verdict.reasons[0]
    chance = f"chance does that in {100 * verdict.p:.0f} of 100 runs ({p_words(verdict.p)})"
    return f"worse by {points(-verdict.difference)}, but {chance}"


def _power_words(verdict: Verdict) -> str:
    """What these rows could prove at best, and how many would be enough."""
    needed = verdict.rows_to_settle
    if needed is None or needed <= verdict.paired_rows:
        return ""
    if verdict.provable_drop is None:
        return f"About {needed} rows would settle this one."
    rows, drop = plural(verdict.paired_rows, "row"), points(verdict.provable_drop)
    return f"{rows} can only prove drops of about {drop}; about {needed} would settle this one."


def _doubt_commands(report: MetricReport) -> list[str]:
    """Where rows or code changed, no more rows of the old kind would help."""
    if report.verdict.rows_to_settle is not None:
        return []
    return [f"accept these scores: pytest {test_of(report)} --prompt-bless{model_flag(report)}"]


def _prompt_notes(reports: Sequence[MetricReport]) -> Iterator[str]:
    """Each stale or edited prompt once; where its metric failed, the failure has told it already.

    Of what was never confirmed the failure does not tell.
    """
    told = [report for report in reports if report.verdict.outcome is not Outcome.FAIL]
    is_matrix = _is_matrix(reports)
    for prompt in _distinct(prompt for report in told for prompt in report.stale):
        yield from _stale_note(prompt, is_matrix=is_matrix)
    for prompt in _distinct(prompt for report in told for prompt in report.edited):
        yield from _edited_note(prompt, is_matrix=is_matrix)
    for prompt in _distinct(prompt for report in reports for prompt in report.prompts if prompt.unconfirmed):
        yield from _unconfirmed_note(prompt, is_matrix=is_matrix)


def _is_matrix(reports: Sequence[MetricReport]) -> bool:
    return len({report.model for report in reports}) > 1


def _distinct(prompts: Iterable[PromptState]) -> list[PromptState]:
    return [*{(prompt.name, prompt.model): prompt for prompt in prompts}.values()]


def _stale_note(prompt: PromptState, *, is_matrix: bool) -> list[str]:
    demos = {0: "", 1: ", without its demo"}.get(prompt.frozen_demos, f", without its {prompt.frozen_demos} demos")
    why = f"its {stale_part(prompt)} changed after it was frozen ({prompt.source_place})"
    flags = _flags(prompt, is_matrix=is_matrix)
    return _paragraph(
        "stale",
        f"{_prompt_name(prompt, is_matrix=is_matrix)}: {why}, so the source ran here AND RUNS IN PRODUCTION{demos}.",
        f"keep the edit: pytest --prompt-bless{flags}",
        f"search again:  pytest --optimize-prompts{flags}",
    )


def _edited_note(prompt: PromptState, *, is_matrix: bool) -> list[str]:
    name, place = _prompt_name(prompt, is_matrix=is_matrix), prompt.snapshot_place
    undo = [] if prompt.before is None else [f"undo the edit: git checkout -- {shlex.quote(place)}"]
    return _paragraph(
        "edited",
        f"{name}: {place} was edited after it was frozen; the edit is used and judged.",
        *diff_lines(prompt.before, prompt.after, most=SHOWN_DIFF_LINES),
        *undo,
        f"search again:  pytest --optimize-prompts{_flags(prompt, is_matrix=is_matrix)}",
    )


def _unconfirmed_note(prompt: PromptState, *, is_matrix: bool) -> list[str]:
    name, reason = _prompt_name(prompt, is_matrix=is_matrix), one_line(prompt.unconfirmed)
    options = f" {prompt.search_options}" if prompt.search_options else ""
    return _paragraph(
        "unconfirmed",
        f"{name}: it was frozen on purpose and never proven better than what stood before ({reason}).",
        f"try again: pytest --optimize-prompts{_flags(prompt, is_matrix=is_matrix)}{options}",
    )


def _prompt_name(prompt: PromptState, *, is_matrix: bool) -> str:
    return f"{prompt.name} on {prompt.model}" if is_matrix else prompt.name


def _flags(prompt: PromptState, *, is_matrix: bool) -> str:
    model = f" --prompt-model {shlex.quote(prompt.model)}" if is_matrix else ""
    return f" --prompt {short_name(prompt.name)}{model}"


def _unrecorded_notes(reports: Sequence[MetricReport], names: dict[str, str], *, is_ci: bool) -> Iterator[str]:
    where = "where a key is, and commit what it writes" if is_ci else "with a key"
    for report in reports:
        ids = [row.id for row in rows_with(report, Status.UNRECORDED)]
        if ids:
            missing = f"{names[report.nodeid]}: the replies of {plural(len(ids), 'row')} are missing ({listed(ids)})."
            yield from _paragraph("unrecorded", missing, f"record them {where}: pytest --prompt-lm record")


def _error_notes(reports: Sequence[MetricReport], names: dict[str, str]) -> Iterator[str]:
    for report in reports:
        groups = errors_by_message(report)
        if groups:
            each = [
                f"{message.rstrip('.')} on {plural(len(ids), 'row')}" for message, ids in [*groups.items()][:SHOWN_ROWS]
            ]
            others = [f"{len(groups) - SHOWN_ROWS} other messages"] if len(groups) > SHOWN_ROWS else []
            words = f"{names[report.nodeid]}: {'; '.join([*each, *others])}. {error_advice(report)}"
            yield from _paragraph("error", words)


def _small_notes(reports: Sequence[MetricReport], names: dict[str, str], *, is_verbose: bool) -> Iterator[str]:
    for report in reports:
        name = names[report.nodeid]
        if report.skipped:
            yield from _paragraph("skipped", f"{name}: {plural(report.skipped, 'row')} left out by skip or xfail")
        if report.format_failures and report.verdict.outcome is not Outcome.FAIL:
            yield from _paragraph("format", f"{name}: {format_words(report.format_failures)}")
        yield from _flaky_notes(report, name)
        yield from _brittle_notes(report, name, is_verbose=is_verbose)
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        yield from _paragraph("note", note)
    if is_verbose:
        yield from _cost_notes(reports)
    for report in reports if is_verbose else ():
        drop, rows = report.verdict.provable_drop, report.verdict.paired_rows
        if drop is not None:
            proof = f"{plural(rows, 'row')} can prove drops of about {points(drop)}, in 80 of 100 runs"
            yield from _paragraph("power", f"{names[report.nodeid]}: {proof}")
        yield from _anchor_notes(report, names[report.nodeid])
        yield from _repeat_notes(report, names[report.nodeid])


def _flaky_notes(report: MetricReport, name: str) -> Iterator[str]:
    """Rows that pass now and fail then, however the metric ends: they were measured, nobody declared them."""
    flaky = [row for row in report.rows if report.repeats is not None and row.id in report.repeats.flaky]
    if flaky:
        passes = listed([f"{row.id} ({round(sum(row.repeats))} of {len(row.repeats)})" for row in flaky])
        what = f"{len(flaky)} of {len(scored_rows(report))} rows pass with some replies and fail with others"
        yield from _paragraph("flaky", f"{name}: {what}: {passes}")


def _brittle_notes(report: MetricReport, name: str, *, is_verbose: bool) -> Iterator[str]:
    """The rows that an edit flips, each by its smallest edit, and where they lie as rows."""
    flips = [row.flip for row in report.rows if row.flip]
    if not flips:
        return
    what = f"{name}: {len(flips)} of {plural(len(report.rows), 'row')} flip under {', '.join(report.perturb)}"
    shown = flips if is_verbose or len(flips) <= FEW_ROWS else flips[:SHOWN_ROWS]
    more = [f"... {len(flips) - len(shown)} more with -v"] if len(flips) > len(shown) else []
    kept = [f"as rows, to append to the dataset: {report.flips_path}"] if report.flips_path else []
    yield from _paragraph("brittle", what)
    for flip in shown:
        yield from wrapped(f"{'':{PARAGRAPH_INDENT}}{one_line(flip)}", indent=PARAGRAPH_INDENT + 2)
    yield from (f"{'':{PARAGRAPH_INDENT}}{line}" for line in (*more, *kept))


def _anchor_notes(report: MetricReport, name: str) -> Iterator[str]:
    verdict = report.verdict
    if verdict.anchor_score is not None and verdict.anchor_difference is not None:
        best = f"{verdict.anchor_score:.3f} {blessings_ago(verdict.anchor_blessings)}"
        yield from _paragraph("anchor", f"{name}: {best}, {signed(verdict.anchor_difference, 3)} since")


def _repeat_notes(report: MetricReport, name: str) -> Iterator[str]:
    """What one reply more or less would change: reliability, and whose spread makes the score unsure."""
    repeats = report.repeats
    if repeats is None:
        return
    chances = ", ".join(f"pass^{k} {chance:.3f}" for k, chance in enumerate(repeats.pass_hats, 1))
    variances = f"variance {repeats.between_variance:.3f} between rows, {repeats.within_variance:.3f} within"
    share = f"{100 * repeats.reply_share:.0f} % of the score's variance is the replies', the rest the choice of rows"
    words = "; ".join(filter(None, (f"{repeats.trials} replies a row", chances, variances, share)))
    yield from _paragraph("repeats", f"{name}: {words}")


def _cost_notes(reports: Sequence[MetricReport]) -> Iterator[str]:
    """What each prompt's replies and each metric's rows cost when they were made; nothing of models that are free."""
    is_matrix = _is_matrix(reports)
    for report in reports:
        for prompt in report.prompts:
            if prompt.cost_usd != 0:
                name = _prompt_name(prompt, is_matrix=is_matrix)
                yield from _paragraph("cost", f"{name}: {plural(prompt.calls, 'call')}, {fine_money(prompt.cost_usd)}")
        costs = [row.cost_usd for row in report.rows if row.cost_usd is not None]
        if any(costs):
            dearest = max(report.rows, key=lambda row: row.cost_usd or 0.0)
            mean = f"{fine_money(sum(costs) / len(costs))} a row"
            most = f"most for {dearest.id} ({fine_money(dearest.cost_usd)})"
            yield from _paragraph("cost", f"{without_model(report.name, report.model)}: {mean}, {most}")


def _paragraph(label: str, text: str, *lines: str) -> list[str]:
    """``text`` wrapped beside its label, and ``lines`` under it as they are: a command must not be broken."""
    beside = wrapped(f"{label:<{PARAGRAPH_INDENT}}{text}", indent=PARAGRAPH_INDENT)
    return [*beside, *(f"{'':{PARAGRAPH_INDENT}}{line}" for line in lines)]
