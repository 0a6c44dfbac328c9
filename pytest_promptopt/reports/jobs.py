"""What an optimize run says: a block a job while it searches, then one table, what changed, and what to commit."""

from __future__ import annotations

import shlex
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_promptopt.reports.records import JobReport, Spending
from pytest_promptopt.reports.words import (
    LINE_WIDTH,
    cut,
    diff_lines,
    folder,
    interval_words,
    labelled,
    listed,
    money,
    moved,
    one_line,
    p_value,
    p_words,
    plural,
    points,
    signed,
    table,
    wrapped,
)

if TYPE_CHECKING:
    from pytest_promptopt.optimizers.base import Rejection
    from pytest_promptopt.optimizers.driver import RoundEnded

NAME_WIDTH = 36
ROUND_TEXT_WIDTH = 54
SHOWN_DIFF_LINES = 24

# --- while it runs ----------------------------------------------------------------------------------------------------


def job_heading(prompt_nodeid: str, metrics: Sequence[str]) -> str:
    """The prompt, and the metrics that measure it."""
    covered = f"measured by {', '.join(metrics)}" if metrics else "no metric covers it"
    return f"{prompt_nodeid}    {covered}"


def rows_line(train: int, val: int, sealed: int, *, is_merged: bool, provable_gain: float | None) -> str:
    """How the rows were dealt and what the sealed ones can prove."""
    return labelled("rows", dealt_words(train, val, sealed, is_merged=is_merged, provable_gain=provable_gain))


def dealt_words(train: int, val: int, sealed: int, *, is_merged: bool, provable_gain: float | None) -> str:
    """The same without its label; merged, train and select are the same rows."""
    sides = f"{train} train and select" if is_merged else f"{train} train + {val} select"
    total = sealed + (train if is_merged else train + val)
    power = "" if provable_gain is None else f"; the sealed rows can prove gains of about {points(provable_gain)}"
    return f"{total} = {sides} + {sealed} sealed{power}"


def start_line(score: float, calls: int, cost_usd: float | None) -> str:
    """The source's score on the selection rows, and what that took."""
    return f"{labelled('start', f'{score:.3f}'):<{ROUND_TEXT_WIDTH + 24}}{calls:>6} calls  {money(cost_usd)}"


def round_line(event: RoundEnded) -> str:
    """What a round was about, the best selection score after it, and the calls so far."""
    head = labelled(f"round {event.round}", f"{one_line(event.text):<{ROUND_TEXT_WIDTH}}")
    return f"{head}  best {event.best_score:.3f}{event.calls:>6}"


def seed_line(models: Sequence[str], score: float) -> str:
    """How the winner of the searches on other ``models`` does on the selection rows of this one."""
    return labelled("tried", f"what {listed(models)} found: {score:.3f} here")


def taken_line(models: Sequence[str]) -> str:
    """That a search came back with what those on other ``models`` had found."""
    return labelled("note", f"the search settles on what {listed(models)} found")


def untried_line(models: Sequence[str]) -> str:
    """That there was no room for the winner of other ``models``."""
    return labelled(
        "note", f"what {listed(models)} found was not tried: it takes more than half of what this search has"
    )


def rejected_line(rejection: Rejection) -> str:
    """A candidate that cannot run, or under which the metric raised; empty for a proposal, which its round counts."""
    if isinstance(rejection.subject, str):
        return ""
    what = "the metric raised " if rejection.has_run else ""
    return labelled("rejected", f"{rejection.subject.short_name}: {what}{cut(rejection.reason, LINE_WIDTH)}")


def rejected_proposals_line(rejections: Sequence[Rejection]) -> str:
    """How many proposals became no candidates, and why, each reason once."""
    times = Counter(one_line(rejection.reason) for rejection in rejections)
    reasons = (reason if count == 1 else f"{count} {reason}" for reason, count in times.items())
    what = f"{plural(len(rejections), 'proposal')}: {', '.join(reasons)}"
    return labelled("rejected", cut(what, LINE_WIDTH))


def confirm_line(job: JobReport) -> str:
    """What the sealed rows said; empty when none was asked."""
    if job.sealed_before is None or job.sealed_after is None:
        return ""
    of_metrics = f" of {len(job.metrics)} metrics" if len(job.metrics) > 1 else ""
    parts = [f"{moved(job.sealed_before, job.sealed_after)} on the {job.sealed_rows} sealed rows{of_metrics}"]
    if job.difference is not None:
        parts.append(signed(job.difference, 3))
    if job.interval is not None:
        parts.append(f"90 % interval {interval_words(job.interval, is_signed=True)}")
    if job.p is not None:
        parts.append(p_words(job.p) + _missed_alpha(job))
    return labelled("confirm", ", ".join(parts))


def _missed_alpha(job: JobReport) -> str:
    is_missed = job.alpha is not None and job.p is not None and job.p > job.alpha
    return f" (needs {job.alpha:.3g})" if is_missed else ""


def outcome_line(job: JobReport) -> str:
    """What became of the winner, and what the job took; the group's first job tells that for all of them."""
    is_placed = job.outcome in ("frozen", "unchanged") and job.path
    words = [
        cut(job.path if is_placed else job.reason, LINE_WIDTH),
        cut(job.unconfirmed, LINE_WIDTH),
        f"the candidate stays in {job.kept}" if job.kept else "",
        _selected_words(job),
        "the budget ended the search" if job.is_cut else "",
    ]
    spent = _spent(job.spending) if job.leads_group else ""
    label = outcome_words(job.outcome, job.unconfirmed)
    return labelled(label, "   ".join(filter(None, ("; ".join(filter(None, words)), spent))))


def _selected_words(job: JobReport) -> str:
    """On how few of the val rows the winner was chosen; empty where it was on all of them."""
    is_partial = 0 < job.selected_rows < job.val_rows
    return f"chosen on {job.selected_rows} of {job.val_rows} val rows" if is_partial else ""


def outcome_words(outcome: str, unconfirmed: str) -> str:
    """The outcome, and that nothing confirms what is frozen where nothing does."""
    return f"{outcome}, unconfirmed" if unconfirmed else outcome


def not_frozen_line(name: str, jobs: Sequence[JobReport]) -> str:
    """Why the winner ``name``, which was to be frozen on purpose, is not; empty when it is frozen."""
    found = [job for job in jobs if job.candidate]
    mine = [job for job in found if job.candidate == name]
    if any(job.outcome in ("frozen", "unchanged") for job in mine):
        return ""
    if mine:
        return f"--prompt-freeze {name}: not frozen, because {one_line(mine[0].reason)}"
    others = ", ".join(dict.fromkeys(f"{job.candidate} ({job.prompt}, {job.outcome})" for job in found))
    return f"--prompt-freeze {name}: no search found it; found instead: {others or 'nothing better than the source'}"


def _spent(spending: Spending) -> str:
    if spending.calls and not spending.made:
        return "0 calls, everything from the store"
    return f"{plural(spending.made, 'call')}  {money(spending.total_usd)}"


# --- at the end -------------------------------------------------------------------------------------------------------


def job_table(jobs: Sequence[JobReport], *, budget: int | None, max_cost_usd: float | None) -> str:
    """One row a prompt and a line of totals; calls are those that were sent out, as the ceiling counts them."""
    headers = ("prompt", "outcome", "on select (optimistic)", "on sealed rows", "p", "calls", "cost")
    spent = sum((job.spending for job in jobs), Spending())
    calls = str(spent.made) if budget is None else f"{spent.made}/{budget}"
    cost = money(spent.total_usd) if max_cost_usd is None else f"{money(spent.total_usd)}/{max_cost_usd:.2f}"
    is_matrix = len({job.model for job in jobs}) > 1
    rows = [*(_job_cells(job, is_matrix=is_matrix) for job in jobs), ("", "", "", "", "", calls, cost)]
    return table(headers, rows, ("left", "left", "left", "left", "left", "right", "right"))


def _job_cells(job: JobReport, *, is_matrix: bool) -> tuple[str, ...]:
    return (
        _job_name(job, is_matrix=is_matrix),
        outcome_words(job.outcome, job.unconfirmed),
        moved(job.start_score, job.selected_score),
        moved(job.sealed_before, job.sealed_after),
        "-" if job.p is None else p_value(job.p),
        str(job.spending.made) if job.leads_group else "-",
        money(job.spending.total_usd) if job.leads_group else "-",
    )


def _job_name(job: JobReport, *, is_matrix: bool) -> str:
    return cut(f"{job.prompt} on {job.model}" if is_matrix else job.prompt, NAME_WIDTH)


def job_notes(jobs: Sequence[JobReport], *, written: Sequence[str] = (), is_verbose: bool = False) -> list[str]:
    """What changed in each frozen prompt, what stands below its threshold, and what to commit.

    With ``is_verbose`` also what a winner that is kept would have changed. ``written`` are further files that the run
    wrote, such as baselines, relative like the jobs' own paths.
    """
    is_matrix = len({job.model for job in jobs}) > 1
    lines: list[str] = []
    for job in jobs:
        if job.outcome == "frozen" or (is_verbose and job.kept):
            what = f"what {job.candidate} would change" if job.kept else "what changed"
            lines += [
                f"{_job_name(job, is_matrix=is_matrix)}: {what}",
                *(f"  {line}" for line in _prompt_changes(job)),
            ]
    for name in dict.fromkeys(job.candidate for job in jobs if is_verbose and job.kept):
        lines.append(f"freeze {name} unconfirmed: the same command with --prompt-freeze {name}")
    for job in jobs:
        for metric in job.below:
            lines += wrapped(f"BELOW THRESHOLD: {_job_name(job, is_matrix=is_matrix)}: {metric}", indent=17)
    return [*lines, *_next_lines(jobs, written)]


def _prompt_changes(job: JobReport) -> list[str]:
    lines = diff_lines(job.before, job.after, most=SHOWN_DIFF_LINES) + _demo_lines(job.demos)
    return lines or ["no sentence of it"]


def _demo_lines(demos: Sequence[str]) -> list[str]:
    """The demos in a row; a demo's id and output stay on one line."""
    if not demos:
        return []
    whole = ", ".join(cut(demo, 40).replace(" ", "\N{NO-BREAK SPACE}") for demo in demos)
    lines = textwrap.wrap(
        f"+ {plural(len(demos), 'demo')}: {whole}", LINE_WIDTH - 4, subsequent_indent="+ ", break_on_hyphens=False
    )
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _next_lines(jobs: Sequence[JobReport], written: Sequence[str]) -> list[str]:
    files = [*(job.path for job in jobs if job.outcome == "frozen" and job.path), *written]
    folders = dict.fromkeys(shlex.quote(folder(path)) for path in files)
    return [f"next: git add {' '.join(folders)} && git commit"] if folders else []
