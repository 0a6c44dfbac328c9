"""From a metric's rows to its report: what ran, the verdict, and the words for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from pytest_promptopt.errors import PromptOptError
from pytest_promptopt.evaluation.dataset import Example
from pytest_promptopt.evaluation.metric import Trial
from pytest_promptopt.evaluation.outcome import RowResult, Status, by_row
from pytest_promptopt.evaluation.repeats import Repeats, measure_repeats, pass_hats
from pytest_promptopt.gate import Outcome, ScoredRow, Verdict, judge
from pytest_promptopt.lms.client import Draw
from pytest_promptopt.prompts.base import AnyPrompt
from pytest_promptopt.prompts.frozen import read_frozen
from pytest_promptopt.prompts.registry import prompts_named
from pytest_promptopt.prompts.runtime import Snapshot, Standing
from pytest_promptopt.prompts.trace import PromptCall
from pytest_promptopt.reports import terminal
from pytest_promptopt.reports.records import MetricReport, PromptState, RowReport
from pytest_promptopt.session.anchoring import anchor_of
from pytest_promptopt.session.git import committed_text
from pytest_promptopt.session.metric_item import NO_MODEL_NAME, MetricItem, ReadRows, scored_rows
from pytest_promptopt.session.moves import moves_of

if TYPE_CHECKING:
    from pytest_promptopt.session.run import Run

ONE_LINE = 80
MOST_OF_TEXT = 400  # a row may be a book
ERROR_LINE = 600  # what went wrong with a file or a model ends with the command that mends it


def plan(item: MetricItem, read: ReadRows) -> Sequence[Trial]:
    """The work of a plain run: every row to read, every repeat, the prompts as they stand."""
    rows = (*read.deciding, *read.outside)
    return [
        Trial(example=example, repeat=repeat, model=item.model, recorded=item.replies)
        for example in rows
        for repeat in range(item.options.repeats)
    ]


def judge_rows(
    run: Run,
    item: MetricItem,
    read: ReadRows,
    results: Sequence[RowResult],
    seconds: float,
    strays: Sequence[str] = (),
) -> MetricReport:
    """The report of one plain run over the rows ``read``; ``strays`` are prompts that were called without a row."""
    examples = {example.id: example for example in (*read.deciding, *read.outside)}
    outside = {example.id for example in read.outside}
    hide = run.redactor.redact
    rows = [row_report(examples[row_id], repeats, outside, hide=hide) for row_id, repeats in by_row(results).items()]
    calls = [call for result in results for call in result.calls]
    left = len(read.deciding) + len(read.outside) - len(rows)
    prompts = _prompt_states(run, item, calls)
    return MetricReport(
        nodeid=item.nodeid,
        name=item.name,
        owner=item.owner,
        model=item.model or "",
        path=_relative(item.item.path, run),
        total_rows=read.total,
        unread=read.unread,
        rows=tuple(rows),
        verdict=_judge(run, item, rows, is_rescored=_is_rescored(item, results)),
        threshold=item.options.threshold,
        margin=item.options.margin,
        reads="all" if item.baseline is None else item.baseline.reads,
        metric_digest=item.digest,
        baseline_path=_relative(item.baseline_path, run),
        text_name=_text_name(examples.values(), calls),
        prompts=prompts,
        must_pass=item.options.must_pass,
        perturb=item.options.perturb,
        skipped=sum(row.status is Status.SKIPPED for row in rows),
        format_failures=sum(row.status is Status.FORMAT for row in rows),
        repeats=_repeats(rows),
        spending=run.take_spending(seconds),
        notes=(
            *_notes(item),
            *moves_of(item),
            *_rescored(item, results),
            *_stopped(item, left, len(rows)),
            *_strayed(item, strays),
            *_missed(item, prompts, calls),
            *_unedited(item, results),
        ),
    )


def _repeats(rows: Sequence[RowReport]) -> Repeats | None:
    """How steady the rows are; ``None`` where one of them has no score, as there is none of the metric then."""
    if any(row.status in (Status.ERROR, Status.UNRECORDED) for row in rows):
        return None
    return measure_repeats({row.id: row.repeats for row in rows if row.repeats and not row.is_outside_mean})


def row_report(
    example: Example, repeats: Sequence[RowResult], outside: Iterable[str] = (), *, hide: Callable[[str], str] = str
) -> RowReport:
    """One row over its repeats: the mean of its scores; a repeat without one takes the score from all of them.

    ``hide`` takes keys and passwords out of its texts, before they are cut: half a key would be known no more.
    """
    worst = min(repeats, key=lambda result: _gravity(result))
    scores = [result.judgement.score for result in repeats]
    known = [score for score in scores if score is not None]
    trials = tuple(known) if len(known) == len(scores) > 1 else ()
    text = hide(worst.judgement.feedback)
    width = ERROR_LINE if worst.judgement.status is Status.ERROR else ONE_LINE
    return RowReport(
        id=example.id,
        digest=example.digest,
        score=fmean(known) if len(known) == len(scores) else None,
        status=worst.judgement.status,
        group=worst.group,
        why=one_line(text if worst.judgement.score is None else text.partition("\n")[0], width),
        feedback=text,
        text=one_line(hide(_telling_text(example, worst.calls)[:MOST_OF_TEXT])),
        is_outside_mean=example.id in outside,
        cost_usd=_cost_usd(call for result in repeats for call in result.calls),
        flip=hide(_flip_words(example, repeats)),
        repeats=trials,
        pass_hats=pass_hats(trials),
    )


def _flip_words(example: Example, repeats: Sequence[RowResult]) -> str:
    flips = [result.survival.flip for result in repeats if result.survival is not None]
    return next((flip.sentence(example.id) for flip in flips if flip is not None), "")


def _cost_usd(calls: Iterable[PromptCall]) -> float | None:
    """What the replies of ``calls`` cost when they were made; ``None`` where nobody knows of one of them."""
    costs = [call.cost_usd for call in calls]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _gravity(result: RowResult) -> tuple[int, float]:
    order = [Status.ERROR, Status.UNRECORDED, Status.SKIPPED]
    status = result.judgement.status
    rank = order.index(status) if status in order else len(order)
    return rank, 0.0 if result.judgement.score is None else result.judgement.score


def one_line(text: str, width: int = ONE_LINE) -> str:
    """``text`` on one line, cut to ``width`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def _telling_text(example: Example, calls: Sequence[PromptCall]) -> str:
    """What a reader knows the row by: the first prompt's first text input, else the row's first text field."""
    inputs = [value for call in calls[:1] for value in call.inputs.values()]
    fields = [value for name, value in example.items() if name != "id"]
    return next((value for value in (*inputs, *fields) if isinstance(value, str)), "")


def _text_name(examples: Iterable[Example], calls: Sequence[PromptCall]) -> str:
    if calls and calls[0].inputs:
        return next(iter(calls[0].inputs))
    return next((name for example in examples for name, value in example.items() if name != "id"), "row")


def gate_rows(rows: Sequence[RowReport]) -> list[ScoredRow]:
    """The rows that carry a score, as the gate reads them."""
    return [
        ScoredRow(id=row.id, digest=row.digest, score=row.score, group=row.group)
        for row in rows
        if row.score is not None
    ]


def _judge(run: Run, item: MetricItem, rows: Sequence[RowReport], *, is_rescored: bool = False) -> Verdict:
    options, compared = item.options, item.compared
    inside = gate_rows([row for row in rows if not row.is_outside_mean])
    baseline = scored_rows(compared)
    is_comparable = compared is None or compared.metric_digest == item.digest or _is_unmoved(inside, baseline)
    anchor = anchor_of(compared) if is_comparable else None
    if is_rescored:
        baseline, is_comparable = {row.id: row for row in inside if row.id in (baseline or ())}, True
    if run.settings.is_blessing:
        baseline, anchor, is_comparable = {row.id: row for row in inside}, None, True
    return judge(
        inside,
        baseline=baseline,
        anchor=anchor,
        threshold=options.threshold,
        margin=options.margin,
        alpha=run.alpha,
        must_pass=options.must_pass,
        must_pass_rows=gate_rows([row for row in rows if row.is_outside_mean]),
        errored=sum(row.status is Status.ERROR for row in rows),
        unrecorded=sum(row.status is Status.UNRECORDED for row in rows),
        is_graded=True if any(row.status is Status.GRADED for row in rows) else None,
        is_comparable=is_comparable,
    )


def _is_unmoved(rows: Sequence[ScoredRow], baseline: dict[str, ScoredRow] | None) -> bool:
    """Whether changed metric code scored every row as before, so that there is nothing to compare anew."""
    return baseline is not None and {row.id: row for row in rows} == baseline


def _is_rescored(item: MetricItem, results: Sequence[RowResult]) -> bool:
    """Whether changed metric code scored the replies that the same prompts got for the baseline.

    Then these scores are the baseline's under the new code: no prompt has changed, and there is no loss to look for.
    """
    baseline = item.compared
    if baseline is None or baseline.metric_digest == item.digest:
        return False
    draws = [draw for result in results for draw in result.draws]
    calls = [call for result in results for call in result.calls]
    are_same = all(baseline.prompts.get(call.prompt) == call.digest for call in calls)
    return are_same and 0 < len(draws) == len(calls) and all(_is_recorded(draw, item) for draw in draws)


def _is_recorded(draw: Draw, item: MetricItem) -> bool:
    recorded = item.replies.get(draw.key)
    return recorded is not None and draw.reply is not None and draw.reply.text == recorded.text


def _rescored(item: MetricItem, results: Sequence[RowResult]) -> tuple[str, ...]:
    if not _is_rescored(item, results):
        return ()
    what = "its code changed, its prompts did not: the recorded replies were scored anew, so nothing was lost"
    return (f"{item.name}: {what}; accept the new scores with pytest --prompt-bless",)


def _prompt_states(run: Run, item: MetricItem, calls: Sequence[PromptCall]) -> tuple[PromptState, ...]:
    """One state for each prompt that the rows called, in the order of the first call."""
    first = {call.prompt: call for call in reversed(calls)}
    names = dict.fromkeys(call.prompt for call in calls)
    called = ((_who_called(first[name]), first[name]) for name in names)
    states = (_prompt_state(run, item, prompt, call) for prompt, call in called if prompt is not None)
    return tuple(_with_costs(state, [call for call in calls if call.prompt == state.name]) for state in states)


def _with_costs(state: PromptState, calls: Sequence[PromptCall]) -> PromptState:
    return replace(state, calls=len(calls), cost_usd=_cost_usd(calls))


def _who_called(call: PromptCall) -> AnyPrompt | None:
    """The prompt behind ``call``: modules of different folders may share their prompts' names."""
    return next((one for one in prompts_named(call.prompt) if str(one.home.file) == call.file), None)


def _prompt_state(run: Run, item: MetricItem, prompt: AnyPrompt, call: PromptCall) -> PromptState:
    model = call.model or NO_MODEL_NAME
    snapshot = prompt.find_snapshot(run.runtime, model)
    baseline = item.compared
    taken_with = call.digest if baseline is None else baseline.prompts.get(prompt.name, call.digest)
    has_moved = snapshot.standing is Standing.SOURCE and taken_with != call.digest
    before, after = _instructions(prompt, snapshot, has_moved=has_moved, base=run.settings.base)
    return PromptState(
        name=prompt.name,
        standing=str(snapshot.standing),
        digest=call.digest,
        model=model,
        source_place=f"{_relative(prompt.home.file, run)}:{prompt.home.line}",
        snapshot_place=_relative(snapshot.path, run),
        frozen_demos=len(snapshot.frozen.compiled.demos) if snapshot.frozen else 0,
        before=before,
        after=after,
        has_moved=has_moved,
        is_text=prompt.signature.template is not None,
        unconfirmed=snapshot.unconfirmed_reason,
        search_options=_search_options(run, snapshot),
    )


def _search_options(run: Run, snapshot: Snapshot) -> str:
    """What to type to find an unconfirmed snapshot again; empty for one that is confirmed."""
    if not snapshot.unconfirmed_reason or snapshot.frozen is None:
        return ""
    from pytest_promptopt.session.again import options_that_found  # what optimizers need is of no use to a plain run

    return options_that_found(run, snapshot.frozen.provenance)


def _instructions(
    prompt: AnyPrompt, snapshot: Snapshot, *, has_moved: bool, base: str | None
) -> tuple[str | None, str | None]:
    """The instruction before and after a change; ``None`` where nothing changed or nobody knows.

    A change is one by hand since the last commit, or any at all since the ``base`` that the branch left.
    """
    if snapshot.standing is Standing.STALE and snapshot.frozen is not None:
        return snapshot.frozen.compiled.instruction, prompt.source.instruction
    if snapshot.standing is Standing.EDITED or has_moved:
        return _committed_instruction(snapshot.path, base or "HEAD"), snapshot.compiled.instruction
    if base is not None and snapshot.is_frozen:
        before = _committed_instruction(snapshot.path, base)
        is_same = before in (None, snapshot.compiled.instruction)
        return (None, None) if is_same else (before, snapshot.compiled.instruction)
    return None, None


def _committed_instruction(path: Path, revision: str) -> str | None:
    """The instruction in the snapshot that git has at ``path``; ``None`` when it has none, or none that can be read."""
    text = committed_text(path, revision)
    try:
        return None if text is None else read_frozen(text, path=path).compiled.instruction
    except PromptOptError:
        return None


def _notes(item: MetricItem) -> tuple[str, ...]:
    unsafe = item.unsafe_fixtures
    if not unsafe or item.options.concurrency is not None or item.is_debugged:
        return ()
    return (f"{item.name}: one row at a time, because threads cannot share the fixture {', '.join(unsafe)}",)


def _stopped(item: MetricItem, left: int, ran: int) -> tuple[str, ...]:
    if not left:
        return ()
    what = f"stopped after {ran} rows, because the first ones raised"
    return (f"{item.name}: {what}; {left} were neither run nor paid for",)


def _strayed(item: MetricItem, strays: Sequence[str]) -> tuple[str, ...]:
    if not strays:
        return ()
    what = f"{', '.join(strays)} was called by code that carries no row, such as a thread that the plugin did not start"
    cost = "such calls are not traced, identical ones share one reply, and a search refuses them"
    return (f"{item.name}: {what}; {cost}: hand the thread promptopt.propagate(function), from the fixture promptopt",)


def _unedited(item: MetricItem, results: Sequence[RowResult]) -> tuple[str, ...]:
    """Say it where no row had anything to edit, so that nobody takes the score for one of survival."""
    survivals = [result.survival for result in results if result.judgement.score is not None]
    if not item.options.perturb or not survivals or any(one is not None and one.edits for one in survivals):
        return ()
    what = "no text of its rows stands in what a prompt under test was asked"
    return (f"{item.name}: {what}, so perturb edits nothing; give rows whose text fields are the prompt's inputs",)


def _missed(item: MetricItem, prompts: Sequence[PromptState], calls: Sequence[PromptCall]) -> tuple[str, ...]:
    """The prompts that the baseline was taken with and no row called, in a run that called some."""
    called = {prompt.name for prompt in prompts}
    missed = [name for name in (item.baseline.prompts if item.baseline and calls else ()) if name not in called]
    if not missed:
        return ()
    return (f"{item.name}: its baseline was taken with {', '.join(missed)}, which no row called; was it renamed?",)


def _relative(path: Path, run: Run) -> str:
    try:
        return path.relative_to(run.settings.rootdir).as_posix()
    except ValueError:
        return path.as_posix()


def failure_text(run: Run, report: MetricReport) -> str | None:
    """What a test fails with; ``None`` when the verdict lets it pass."""
    outcome = report.verdict.outcome
    if outcome is Outcome.PASS or (outcome is Outcome.INCONCLUSIVE and "inconclusive" not in run.settings.strict):
        return None
    return terminal.failure_text(report, is_verbose=run.config.get_verbosity() > 0)
