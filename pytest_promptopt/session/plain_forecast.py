"""What a plain run reads, calls and can prove, before it does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from pytest_promptopt.evaluation.dataset import Example
from pytest_promptopt.evaluation.statistics import group_sums, provable_drop
from pytest_promptopt.gate import FEWEST_ROWS, shared_alpha
from pytest_promptopt.reports.dry_run import CallSize, MetricForecast, PlainForecast
from pytest_promptopt.session.draws import (
    Called,
    Draws,
    by_name,
    ceilings_of,
    draws_of,
    estimate_of,
    mode_notes,
    prompts_called,
    shown_sizes,
    unseen_notes,
)
from pytest_promptopt.session.estimates import size_of_call
from pytest_promptopt.session.metric_item import MetricItem, ReadRows

if TYPE_CHECKING:
    from pytest_promptopt.session.run import Run


def forecast_plain(
    run: Run,
    measured: Sequence[tuple[MetricItem, ReadRows]],
    *,
    failures: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> PlainForecast:
    """What a plain run reads, calls and can prove."""
    called = [prompts_called(metric) for metric, _ in measured]
    sizes: dict[tuple[str, str], CallSize] = {}
    draws: list[Draws] = []
    forecasts = []
    for (metric, read), mine in zip(measured, called, strict=True):
        rows = (*read.deciding, *read.outside)
        own = _sizes_in_force(run, metric, mine, rows)
        sizes.update(by_name(own))
        draws.append(draws_of(metric, mine, rows))
        paired, drop = _provable_drop(run, metric, read)
        forecasts.append(
            MetricForecast(
                metric=metric.name,
                read=len(rows),
                total_rows=read.total,
                repeats=metric.options.repeats,
                calls=estimate_of(draws[-1], own),
                paired_rows=paired,
                provable_drop=drop,
            )
        )
    metrics = [metric for metric, _ in measured]
    return PlainForecast(
        metrics=tuple(forecasts),
        whole=estimate_of(reduce(or_, draws, Draws()), sizes.values()),
        ceilings=ceilings_of(run),
        sizes=shown_sizes(run, sizes.values()),
        notes=(*notes, *unseen_notes(zip(metrics, called, strict=True)), *mode_notes(run)),
        failures=tuple(failures),
    )


def _sizes_in_force(run: Run, metric: MetricItem, called: Called, rows: Sequence[Example]) -> list[CallSize]:
    """An average call of each prompt as it stands: frozen, or its source."""
    models = [prompt.model or metric.model for prompt in called.at_most]
    return [
        size_of_call(
            run,
            prompt,
            prompt.find_snapshot(run.runtime, model).compiled if model else prompt.source,
            model or "",
            rows,
        )
        for prompt, model in zip(called.at_most, models, strict=True)
    ]


def _provable_drop(run: Run, metric: MetricItem, read: ReadRows) -> tuple[int, float | None]:
    """The rows that can be compared with the baseline, and the drop that they prove in 80 % of runs."""
    baseline = {} if metric.baseline is None else {row.id: row.digest for row in metric.baseline.rows}
    paired = [row for row in read.deciding if baseline.get(row.id) == row.digest]
    group = metric.options.group
    values = [None if group is None or row.get(group) is None else str(row[group]) for row in paired]
    units = len(group_sums([0.0] * len(paired), values))
    alpha, _ = shared_alpha(run.alpha, has_anchor=metric.baseline is not None and metric.baseline.has_anchor)
    return len(paired), provable_drop(units, alpha=alpha) if len(paired) >= FEWEST_ROWS else None
