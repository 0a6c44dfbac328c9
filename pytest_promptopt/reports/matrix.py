"""Metrics × models and prompts × models: what several models make of the same rows, side by side."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence

from pytest_promptopt.reports.failures import without_model
from pytest_promptopt.reports.records import MetricReport, TransferScore, TransferTable
from pytest_promptopt.reports.words import (
    LINE_WIDTH,
    cut,
    interval_words,
    listed,
    p_words,
    plural,
    signed,
    table,
    wrapped,
)

NOTE_INDENT = 14
PROVEN_P = 0.05
"""A foreign prompt is called better below this p, times the comparisons of its table (Bonferroni)."""


def transfer_tables(reports: Iterable[MetricReport]) -> tuple[TransferTable, ...]:
    """One table a metric that was asked whether prompts transfer and has anything frozen, its models in their order."""
    asked = [report for report in reports if report.transfer]
    metrics = dict.fromkeys(report.owner for report in asked)
    return tuple(_table_of([report for report in asked if report.owner == owner]) for owner in metrics)


def _table_of(reports: Sequence[MetricReport]) -> TransferTable:
    first = reports[0]
    return TransferTable(
        metric=without_model(first.name, first.model),
        owner=first.owner,
        rows=max(score.rows for report in reports for score in report.transfer),
        models=tuple(report.model for report in reports),
        scores=tuple(score for report in reports for score in report.transfer),
    )


def transfer_lines(tables: Sequence[TransferTable]) -> list[str]:
    """Each table with the prompts down and the models across, and under it what is surely better or has no score."""
    if not tables:
        return ["transfer: nothing to compare; no model has a prompt of its own that these metrics called"]
    lines = ["transfer: down, whose prompt; across, the model that runs it; [its own] in brackets; = the source"]
    for each in tables:
        lines += ["", f"{each.metric}, {plural(each.rows, 'row')} that no search saw", *_matrix(each)]
        lines += [line for note in (*_better_notes(each), *_problem_notes(each)) for line in note]
    return lines


def _matrix(each: TransferTable) -> list[str]:
    cells = {(score.prompt_of, score.model): _cell(score) for score in each.scores}
    prompts = list(dict.fromkeys(score.prompt_of for score in each.scores))
    names = {prompt: prompt or "the source" for prompt in prompts}
    widths = {model: max(len(model), *(len(cells.get((one, model), "-")) for one in prompts)) for model in each.models}
    room = LINE_WIDTH - max(len("prompt of"), *map(len, names.values()))
    blocks = [
        table(
            ("prompt of", *models),
            [(names[one], *(cells.get((one, model), "-") for model in models)) for one in prompts],
            ["left"] * (1 + len(models)),
        )
        for models in side_by_side(each.models, widths.__getitem__, room)
    ]
    return "\n\n".join(blocks).splitlines()


def _cell(score: TransferScore) -> str:
    """The score; ``=`` before that of a prompt which is the source itself."""
    if score.score is None:
        return "unrecorded" if score.problem == "not recorded" else "no score"
    figure = f"{score.score:.3f}"
    if score.is_own:
        return f"[{figure}]"
    return f"= {figure}" if score.is_source and score.prompt_of else figure


def _better_notes(each: TransferTable) -> Iterator[list[str]]:
    """Foreign prompts that surely do better than the model's own, and the search that would take them up."""
    compared: dict[tuple[str, str], list[TransferScore]] = {}
    for score in each.scores:
        if score.p is not None:
            compared.setdefault((score.model, score.candidate), []).append(score)
    for same in compared.values():
        first = same[0]
        p = min(1.0, (first.p or 0.0) * len(compared))
        if first.difference is not None and first.difference > 0 and p < PROVEN_P:
            owners = [score.prompt_of for score in same if score.prompt_of and not score.is_source]
            whose = f"what stands for {listed(owners)}" if owners else "the source"
            gain = f"{signed(first.difference, 3)}, 90 % interval {interval_words(first.interval, is_signed=True)}"
            text = f"{first.model} does better with {whose}: {gain}, {p_words(p)} for {len(compared)} comparisons."
            yield [*_beside("better", text), _command([*owners[:1], first.model])]


def _command(models: Sequence[str]) -> str:
    """A search tries the other model's winner again, on rows that are there to choose by."""
    flags = " ".join(f"--prompt-model {shlex.quote(model)}" for model in models)
    return f"{'':{NOTE_INDENT}}search with it: pytest --optimize-prompts {flags}"


def _problem_notes(each: TransferTable) -> Iterator[list[str]]:
    """Why cells are empty, each reason once."""
    problems: dict[str, list[str]] = {}
    for score in each.scores:
        if score.problem:
            problems.setdefault(score.problem, []).append(f"{score.prompt_of or 'the source'} on {score.model}")
    for problem, places in problems.items():
        yield _beside("no score", f"{', '.join(places)}: {cut(problem, 3 * LINE_WIDTH)}")


def _beside(label: str, text: str) -> list[str]:
    return wrapped(f"{label:<{NOTE_INDENT}}{text}", indent=NOTE_INDENT)


def side_by_side(models: Sequence[str], width_of: Callable[[str], int], room: int) -> Iterator[list[str]]:
    """``models`` in runs that fit into ``room`` characters; at least one a run."""
    run: list[str] = []
    left = room
    for model in models:
        if run and width_of(model) + 2 > left:
            yield run
            run, left = [], room
        run.append(model)
        left -= width_of(model) + 2
    yield run
