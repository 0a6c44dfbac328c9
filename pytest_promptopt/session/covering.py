"""Which prompts a metric calls, as far as that can be told before it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_promptopt.errors import PromptOptError
from pytest_promptopt.session.blessing import matches
from pytest_promptopt.session.metric_item import MetricItem
from pytest_promptopt.session.reach import reachable_prompts

if TYPE_CHECKING:
    from pytest_promptopt.prompts.base import AnyPrompt


def covered_by(metric: MetricItem, prompts: Sequence[AnyPrompt], rootdir: Path) -> list[AnyPrompt]:
    """The prompts that ``metric`` measures: those that its marker names, else those that it calls."""
    named = metric.options.prompts
    if named is not None:
        return [prompt for prompt in prompts if matches(prompt.name, named)]
    return called_by(metric, prompts, rootdir)


def called_by(metric: MetricItem, prompts: Sequence[AnyPrompt], rootdir: Path) -> list[AnyPrompt]:
    """The prompts that the metric's baseline saw or its code can reach."""
    reached = {id(prompt) for prompt in reachable_prompts(_beginnings(metric), prompts, is_own=_is_own(rootdir))}
    traced = _traced(metric)
    return [prompt for prompt in prompts if prompt.name in traced or id(prompt) in reached]


def _traced(metric: MetricItem) -> set[str]:
    """The prompts that its baseline says it called."""
    try:
        baseline = metric.baseline
    except PromptOptError:
        return set()
    return set() if baseline is None else set(baseline.prompts)


def _beginnings(metric: MetricItem) -> list[object]:
    """The test's function, its class, and the fixtures that it uses."""
    fixtures = metric.item._fixtureinfo.name2fixturedefs
    return [
        metric.function,
        *([metric.item.cls] if metric.item.cls else []),
        *(definition.func for definitions in fixtures.values() for definition in definitions),
    ]


def _is_own(rootdir: Path) -> Callable[[Path], bool]:
    """Whether a file is the project's own rather than an installed package's."""
    return lambda file: file.is_relative_to(rootdir) and not {"site-packages", "dist-packages"} & set(file.parts)
