"""Why a metric did not pass: the verdict in words, the facts, the rows with their reasons, the commands to type."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from pytest_promptopt.errors import LMErrorKind
from pytest_promptopt.evaluation.outcome import Status
from pytest_promptopt.gate import Outcome, Verdict, blessings_ago
from pytest_promptopt.reports.records import MetricReport, PromptState, RowReport
from pytest_promptopt.reports.words import (
    LINE_WIDTH,
    SHOWN_IDS,
    cut,
    diff_lines,
    folder,
    harmless,
    interval_words,
    labelled,
    listed,
    one_line,
    p_words,
    plural,
    signed,
    wrapped,
)

ROW_WIDTH = 80
WHY_WIDTH = 33
FEW_ROWS = 5
SHOWN_ROWS = 3
SHOWN_DIFF_LINES = 12
PASSING_FAULTS = (LMErrorKind.RATE_LIMIT, LMErrorKind.TIMEOUT, LMErrorKind.SERVER, LMErrorKind.MALFORMED)


def failure_summary(report: MetricReport) -> str:
    """What went wrong in a few words, for the one line that a list of failures has room for."""
    verdict = report.verdict
    if verdict.fails_by_anchor:
        return f"{_anchor_words(verdict)}, {plural(len(verdict.anchor_lost), 'row')} lost"
    if verdict.difference is None or verdict.baseline_score is None or verdict.score is None or not verdict.lost:
        return harmless(verdict.reasons[0]) if verdict.reasons else str(verdict.outcome)
    return f"{verdict.baseline_score:.3f} -> {verdict.score:.3f}, {plural(len(verdict.lost), 'row')} lost"


def failure_text(report: MetricReport, *, is_verbose: bool) -> str:
    """Why a metric did not pass: the verdict in words, the facts, the rows, the commands. pytest prints the name."""
    match report.verdict.outcome:
        case Outcome.ERRORED:
            blocks = [_error_lines(report, is_verbose=is_verbose)]
        case Outcome.UNRECORDED:
            blocks = [_unrecorded_lines(report, is_verbose=is_verbose)]
        case _:
            rows = _row_blocks(report, is_verbose=is_verbose)
            blocks = [_fact_lines(report, is_verbose=is_verbose), *rows, _command_lines(report)]
    return harmless("\n\n".join([_headline(report), *("\n".join(block) for block in blocks if block)]))


def _headline(report: MetricReport) -> str:
    verdict, scope = report.verdict, _scope(report)
    if verdict.outcome in (Outcome.ERRORED, Outcome.UNRECORDED):
        return f"no verdict: {verdict.reasons[0]}{scope}"
    if verdict.outcome is Outcome.INCONCLUSIVE:
        return f"inconclusive{scope}: {verdict.reasons[0]}"
    if verdict.fails_by_anchor:
        return f"prompt got worse than its best: {_anchor_words(verdict)}{scope}"
    if _is_proven_worse(report):
        moved = f"{len(verdict.lost)} of {verdict.paired_rows} rows lost, {len(verdict.gained)} gained"
        return f"prompt got worse: {moved}{scope}"
    if verdict.failed_must_pass:
        failed = verdict.failed_must_pass
        rows = f"must-pass row {failed[0]}" if len(failed) == 1 else f"{len(failed)} must-pass rows"
        return f"{rows} failed{scope}"
    if verdict.score is None:
        return verdict.reasons[0]
    if verdict.is_below_threshold:
        return f"score {verdict.score:.3f} is below threshold={report.threshold}{scope}"
    failed_rows = sum(row.score < 1.0 for row in scored_rows(report) if row.score is not None)
    return (
        f"{failed_rows} of {len(scored_rows(report))} rows failed{scope}, and neither baseline nor threshold allows it"
    )


def _scope(report: MetricReport) -> str:
    names = listed([prompt.name for prompt in report.prompts], most=3)
    return (f" with {names}" if names else "") + (f" on {report.model}" if report.model else "")


def _is_proven_worse(report: MetricReport) -> bool:
    """Whether the drop itself failed the gate; one within the margin may stand beside another reason to fail."""
    verdict = report.verdict
    if verdict.difference is None or verdict.difference >= 0 or verdict.rows_to_settle is not None:
        return False
    if verdict.fails_by_anchor:
        return False
    return -verdict.difference > report.margin or not (verdict.failed_must_pass or verdict.is_below_threshold)


def _anchor_words(verdict: Verdict) -> str:
    """``0.906 three blessings ago, 0.800 now``; empty where no anchor stands apart from the baseline."""
    if verdict.anchor_score is None or verdict.anchor_difference is None:
        return ""
    now = verdict.anchor_score + verdict.anchor_difference
    return f"{verdict.anchor_score:.3f} {blessings_ago(verdict.anchor_blessings)}, {now:.3f} now"


def _anchor_line(verdict: Verdict) -> str:
    p = "" if verdict.anchor_p is None else f", {p_words(verdict.anchor_p)}"
    return labelled("anchor", f"{_anchor_words(verdict)}, {signed(verdict.anchor_difference or 0.0, 3)}{p}")


def _fact_lines(report: MetricReport, *, is_verbose: bool) -> list[str]:
    verdict = report.verdict
    lines = []
    if verdict.score is not None:
        lines.append(labelled("score", _score_words(report)))
    if verdict.is_worse_than_anchor:
        lines.append(_anchor_line(verdict))
    if verdict.is_below_threshold:
        lines.append(labelled("floor", f"{verdict.score:.3f} is below threshold={report.threshold}"))
    for prompt in (*report.edited, *report.stale, *report.moved):
        lines += _changed_lines(prompt, report.reads, most=None if is_verbose else SHOWN_DIFF_LINES)
    lines += [labelled("rows", line) for line in _row_count_words(report)]
    if report.format_failures:
        lines.append(labelled("format", format_words(report.format_failures)))
    return lines


def _score_words(report: MetricReport) -> str:
    """``0.922 (59/64) -> 0.734 (47/64), -0.188, 90 % interval ...`` against a baseline, else the score alone."""
    verdict = report.verdict
    before, difference = verdict.baseline_score, verdict.difference
    if before is None or difference is None:
        score = verdict.score or 0.0
        return f"{_counted(report, score, len(scored_rows(report)))}, 90 % interval {interval_words(verdict.interval)}"
    old, new = (_counted(report, score, verdict.paired_rows) for score in (before, before + difference))
    parts = [
        f"{old} -> {new}",
        signed(difference, 3),
        f"90 % interval {interval_words(verdict.difference_interval, is_signed=True)}",
        "too few rows for a p" if verdict.p is None else p_words(verdict.p),
    ]
    return ", ".join(parts)


def _counted(report: MetricReport, score: float, rows: int) -> str:
    """The score, with passes of rows where every row scores 0 or 1."""
    passes = score * rows
    is_countable = all(row.score in (0.0, 1.0) for row in scored_rows(report)) and math.isclose(
        passes, round(passes), abs_tol=1e-6
    )
    return f"{score:.3f} ({round(passes)}/{rows})" if is_countable else f"{score:.3f}"


def _changed_lines(prompt: PromptState, reads: str, *, most: int | None) -> list[str]:
    """What changed; a baseline that ``reads`` sealed rows stems from a freeze, and git may not know what was frozen."""
    if prompt.standing == "edited":
        head = labelled("changed", f"{prompt.snapshot_place}, edited since it was frozen")
    elif prompt.has_moved and prompt.before is not None:
        head = labelled("changed", f"{prompt.snapshot_place} is gone: the source runs, in production too")
    elif prompt.has_moved:
        head = labelled("changed", f"{prompt.source_place}, not what the baseline was taken with")
        if reads == "sealed":
            restore = f"git checkout -- {shlex.quote(prompt.snapshot_place)}"
            return [
                head,
                f"{'':12}{prompt.snapshot_place} is not there: the source runs",
                f"{'':12}if it was: {restore}",
            ]
    else:
        since = f"its {stale_part(prompt)} changed since it was frozen"
        head = labelled("changed", f"{prompt.source_place}, {since}: the source runs, in production too")
    return [head, *(f"{'':14}{line}" for line in diff_lines(prompt.before, prompt.after, most=most))]


def stale_part(prompt: PromptState) -> str:
    """What changed in the code since a prompt was frozen, as far as known."""
    source, rest = ("text", "settings or fixed messages") if prompt.is_text else ("docstring", "signature")
    if prompt.before is None or prompt.after is None:
        return f"{source} or {rest}"
    return rest if prompt.before.split() == prompt.after.split() else source


def _row_count_words(report: MetricReport) -> list[str]:
    """The rows that had no partner in the baseline, either way."""
    verdict = report.verdict
    unpaired = [
        f"{len(ids)} {word}" for ids, word in ((verdict.new_rows, "new"), (verdict.changed_rows, "changed")) if ids
    ]
    lines = [f"{' and '.join(unpaired)} since the baseline: they count for the threshold only"] if unpaired else []
    if verdict.missing_rows:
        count = plural(len(verdict.missing_rows), "row")
        lines.append(f"{count} of the baseline not read: {listed(verdict.missing_rows)}")
    return lines


def _row_blocks(report: MetricReport, *, is_verbose: bool) -> list[list[str]]:
    """Tables of rows: lost ones, failed must-pass ones, and without either comparison the lowest of all."""
    verdict = report.verdict
    lost = verdict.decisive_lost
    must_pass = [row_id for row_id in verdict.failed_must_pass if row_id not in lost]
    lines = _row_table("lost", lost, report, is_verbose=is_verbose)
    if verdict.gained:
        lines.append(labelled("gained", listed(verdict.gained, most=None if is_verbose else SHOWN_IDS)))
    blocks = [lines, _row_table("must-pass", must_pass, report, is_verbose=is_verbose)]
    if not lost and (verdict.is_below_threshold or not verdict.failed_must_pass):
        blocks.append(_row_table(*_lowest(report, verdict.failed_must_pass), report, is_verbose=is_verbose))
    return blocks


def _lowest(report: MetricReport, already_shown: Sequence[str]) -> tuple[str, list[str]]:
    """The rows short of full marks, the lowest first, and what to call them."""
    short = [(row.score, row.id) for row in scored_rows(report) if row.score is not None and row.score < 1.0]
    label = "lowest" if any(score for score, _ in short) else "failed"
    return label, [row_id for _, row_id in sorted(short, key=lambda pair: pair[0]) if row_id not in already_shown]


def _row_table(label: str, ids: Sequence[str], report: MetricReport, *, is_verbose: bool) -> list[str]:
    """Id, reason and text of the rows ``ids``; some of them, unless all are asked for or they are few."""
    if not ids:
        return []
    by_id = {row.id: row for row in report.rows}
    shown = ids if is_verbose or len(ids) <= FEW_ROWS else ids[:SHOWN_ROWS]
    cells = [(cut(row_id, 20), _reason(by_id.get(row_id)), _text(by_id.get(row_id))) for row_id in shown]
    cells.insert(0, (label, "why", report.text_name))
    id_width = max(8, *(len(row_id) for row_id, _, _ in cells))
    why_width = max(len(why) for _, why, _ in cells)
    text_width = (LINE_WIDTH if is_verbose else ROW_WIDTH) - id_width - why_width - 6
    lines = [
        f"  {row_id:<{id_width}}  {why:<{why_width}}  {cut(text, text_width)}".rstrip() for row_id, why, text in cells
    ]
    hidden = len(ids) - len(shown)
    return [*lines, f"  ... {hidden} more with -v"] if hidden else lines


def _reason(row: RowReport | None) -> str:
    if row is None or row.score is None:
        return ""
    words = f"{row.score:.2f} {row.why}" if 0.0 < row.score < 1.0 else row.why
    return cut(words.strip() or f"scored {row.score:g}", WHY_WIDTH)


def _text(row: RowReport | None) -> str:
    return "" if row is None else row.text


def _command_lines(report: MetricReport) -> list[str]:
    return [labelled(label, command) for label, command in next_commands(report)]


def next_commands(report: MetricReport) -> list[tuple[str, str]]:
    """How to undo, accept and improve, each where it would help; without a verdict, how to get one."""
    test = f"pytest {test_of(report)}"
    if report.verdict.outcome is Outcome.ERRORED:
        return [("again", f"{test}{model_flag(report)}")]
    if report.verdict.outcome is Outcome.UNRECORDED:
        return [("record", f"{test} --prompt-lm record{model_flag(report)}")]
    restorable = (
        *(folder(prompt.snapshot_place) for prompt in report.edited if prompt.before is not None),
        *(prompt.snapshot_place for prompt in report.moved if prompt.before is not None),
    )
    commands = [("undo", f"git checkout -- {shlex.quote(place)}") for place in dict.fromkeys(restorable)]
    if _is_acceptable(report.verdict):
        commands.append(("accept", f"{_lower_threshold(report)}{test} --prompt-bless{model_flag(report)}"))
    if report.prompts:
        commands.append(("improve", f"pytest --optimize-prompts{_prompt_flags(report)}{model_flag(report)}"))
    return commands


def _is_acceptable(verdict: Verdict) -> bool:
    """Whether a new baseline would help: none makes a must-pass row pass, or lifts a first score over its floor."""
    return (
        verdict.score is not None
        and not verdict.failed_must_pass
        and not (verdict.is_first_run and verdict.is_below_threshold)
    )


def _lower_threshold(report: MetricReport) -> str:
    if not report.verdict.is_below_threshold:
        return ""
    return f"lower the threshold to {math.floor(100 * (report.verdict.score or 0.0)) / 100:.2f}, then "


def _prompt_flags(report: MetricReport) -> str:
    """``--prompt`` for the prompts that somebody changed, else for all of them while they are few."""
    prompts = (*report.edited, *report.stale) or report.prompts
    return "".join(f" --prompt {short_name(prompt.name)}" for prompt in prompts) if len(prompts) <= SHOWN_ROWS else ""


def short_name(prompt: str) -> str:
    """What ``--prompt`` calls a prompt."""
    return prompt.rpartition(".")[2]


def test_of(report: MetricReport) -> str:
    """The test's node id for a shell, without the model that a matrix put into it."""
    return shlex.quote(without_model(report.nodeid, report.model))


def model_flag(report: MetricReport) -> str:
    """The flag that brings a matrix' model back, where :func:`test_of` took it out."""
    is_matrix = without_model(report.nodeid, report.model) != report.nodeid
    return f" --prompt-model {shlex.quote(report.model)}" if is_matrix else ""


def without_model(name: str, model: str) -> str:
    """``name`` without the parameter that says which model a matrix ran it on, as it is or as pytest escapes it."""
    for spelled in (model, model.encode("unicode_escape").decode("ascii")) if model else ():
        if name.endswith(f"[{spelled}]"):
            return name.removesuffix(f"[{spelled}]")
        if name.endswith(f"-{spelled}]"):
            return name.removesuffix(f"-{spelled}]") + "]"
    return name


def _error_lines(report: MetricReport, *, is_verbose: bool) -> list[str]:
    """Errors by message with their rows, and what running again would do."""
    groups = errors_by_message(report)
    shown = [*groups.items()][: None if is_verbose else FEW_ROWS]
    lines = []
    for message, ids in shown:
        lines += wrapped(f"  {plural(len(ids), 'error')}: {message}", indent=4)
        lines += wrapped(f"    rows {listed(ids, most=None if is_verbose else SHOWN_IDS)}", indent=9)
    if len(groups) > len(shown):
        lines.append(f"  ... {len(groups) - len(shown)} other messages with -v")
    return [
        *lines,
        "",
        f"  {error_advice(report)}",
        *_command_lines(report),
    ]


def errors_by_message(report: MetricReport) -> dict[str, list[str]]:
    """Error message → row ids, the most frequent first."""
    rows: dict[str, list[str]] = {}
    for row in rows_with(report, Status.ERROR):
        rows.setdefault(one_line(row.why), []).append(row.id)
    return dict(sorted(rows.items(), key=lambda group: -len(group[1])))


def error_advice(report: MetricReport) -> str:
    """A provider may do better next time; an exception of the metric will not."""
    errors = rows_with(report, Status.ERROR)
    passing = tuple(f"{kind}:" for kind in PASSING_FAULTS)
    if not all(row.feedback.startswith(passing) for row in errors):
        return "Not scored, not a regression. Mend the cause, then run again."
    kept = plural(len(scored_rows(report)), "row")
    return f"Not scored, not a regression. Run again: the replies of {kept} are kept, {len(errors)} will be called."


def _unrecorded_lines(report: MetricReport, *, is_verbose: bool) -> list[str]:
    ids = [row.id for row in rows_with(report, Status.UNRECORDED)]
    lines = wrapped(f"  rows      {listed(ids, most=None if is_verbose else SHOWN_IDS)}", indent=12)
    first = rows_with(report, Status.UNRECORDED)[0]
    lines += wrapped(f"  {first.id:<10}{first.feedback.partition(', and this run')[0]}", indent=12)
    return [*lines, "", "  Not scored, not a regression: this run makes no calls.", *_command_lines(report)]


def scored_rows(report: MetricReport) -> list[RowReport]:
    """The rows that carry the mean."""
    return [row for row in report.rows if row.score is not None and not row.is_outside_mean]


def uncompared_words(report: MetricReport) -> str:
    """Why there is no change since the baseline to tell, in a few words; empty where there is one."""
    verdict = report.verdict
    if verdict.outcome is Outcome.ERRORED:
        return plural(len(rows_with(report, Status.ERROR)), "error")
    if verdict.outcome is Outcome.UNRECORDED:
        return f"{len(rows_with(report, Status.UNRECORDED))} not recorded"
    if verdict.score is None:
        return "no rows"
    if verdict.is_first_run:
        return "first run"
    return "not comparable" if verdict.difference is None else ""


def rows_with(report: MetricReport, status: Status) -> list[RowReport]:
    """The rows that ended so."""
    return [row for row in report.rows if row.status is status]


def format_words(count: int) -> str:
    """How many replies nobody could read."""
    return f"{'1 reply' if count == 1 else f'{count} replies'} could not be read as the output (format failures)"
