"""The marker ``prompt_metric`` on a test: read once at collection, refused there when it cannot work."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from pytest_promptopt.evaluation.perturbations import KINDS

MARKER = "prompt_metric"
MODEL_ARGUMENT = "_promptopt_model"
SUFFIXES = (".jsonl", ".json", ".csv")


class Placeholder:
    """Stands for the row until the metric is called with one."""

    def __repr__(self) -> str:
        return "<a row of the dataset>"


PLACEHOLDER = Placeholder()


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricOptions:
    """What the marker says, with the defaults of those it does not mention."""

    dataset: str
    threshold: float | None = None
    arg: str = "example"
    labels: Mapping[str, str] | None = None
    margin: float = 0.05
    weight: float = 1.0
    repeats: int = 1
    concurrency: int | None = None
    group: str | None = None
    must_pass: tuple[str, ...] = ()
    example_timeout: float | None = None
    prompts: tuple[str, ...] | None = None
    perturb: tuple[str, ...] = ()
    perturb_budget: int = 8

    @property
    def sampled_edits(self) -> int:
        """How many edited variants of a row count for its score: each kind once, or half of the budget if that is more.

        What remains of the budget goes into finding the smallest edit behind a flip.
        """
        return min(self.perturb_budget, max(len(self.perturb), -(-self.perturb_budget // 2))) if self.perturb else 0

    @property
    def arguments(self) -> tuple[str, ...]:
        """The test's parameters that take the row, or its fields when there are several."""
        return tuple(name.strip() for name in self.arg.split(",") if name.strip())

    @property
    def is_path(self) -> bool:
        """Whether ``dataset`` names a file rather than a fixture."""
        return Path(self.dataset).suffix.lower() in SUFFIXES


def nearest_marker(collector: pytest.Collector, obj: object) -> pytest.Mark | None:
    """The marker of a function that is about to be collected: its own, else the closest above."""
    marks = getattr(obj, "pytestmark", [])
    own = [mark for mark in (marks if isinstance(marks, list) else [marks]) if getattr(mark, "name", None) == MARKER]
    return own[-1] if own else collector.get_closest_marker(MARKER)


def read_marker(mark: pytest.Mark) -> MetricOptions:
    """The options of ``mark``. Raises ``pytest.UsageError`` for a keyword or a value that it does not take."""
    known = {field.name for field in fields(MetricOptions)}
    unknown = sorted(set(mark.kwargs) - known)
    if unknown:
        raise pytest.UsageError(
            f"prompt_metric has no keyword {', '.join(unknown)}; it takes {', '.join(sorted(known))}"
        )
    given = dict(mark.kwargs)
    if mark.args:
        given["dataset"] = mark.args[0]
    if len(mark.args) > 1 or not isinstance(given.get("dataset"), str):
        raise pytest.UsageError(
            "prompt_metric takes one dataset, a fixture's name or a file: "
            '@pytest.mark.prompt_metric("tickets", threshold=0.85)'
        )
    for name in ("must_pass", "prompts", "perturb"):
        if isinstance(given.get(name), str):
            given[name] = (given[name],)
        elif isinstance(given.get(name), Collection):
            given[name] = tuple(map(str, given[name]))
    if isinstance(given.get("perturb"), tuple):
        given["perturb"] = tuple(dict.fromkeys(given["perturb"]))
    options = MetricOptions(**given)
    _check_values(options)
    _check_kinds(options)
    return options


def _check_values(options: MetricOptions) -> None:
    ranges = {
        "threshold": options.threshold is None or _is_within(options.threshold, 0, 1),
        "margin": _is_within(options.margin, 0, 1),
        "weight": _is_within(options.weight, 0, float("inf")) and options.weight > 0,
        "repeats": _is_count(options.repeats),
        "concurrency": options.concurrency is None or _is_count(options.concurrency),
        "example_timeout": options.example_timeout is None
        or (_is_within(options.example_timeout, 0, float("inf")) and options.example_timeout > 0),
        "labels": options.labels is None or isinstance(options.labels, Mapping),
        "group": options.group is None or isinstance(options.group, str),
        "must_pass": isinstance(options.must_pass, tuple),
        "prompts": options.prompts is None or isinstance(options.prompts, tuple),
        "perturb": isinstance(options.perturb, tuple),
        "perturb_budget": _is_count(options.perturb_budget),
        "arg": isinstance(options.arg, str)
        and bool(options.arguments)
        and all(name.isidentifier() for name in options.arguments),
    }
    for name, is_good in ranges.items():
        if not is_good:
            raise pytest.UsageError(f"prompt_metric: {name}={getattr(options, name)!r} is out of its range")


def _check_kinds(options: MetricOptions) -> None:
    kinds = options.perturb
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise pytest.UsageError(f"prompt_metric: perturb has no kind {', '.join(unknown)}; it has {', '.join(KINDS)}")
    if options.perturb_budget < len(kinds):
        raise pytest.UsageError(
            f"prompt_metric: perturb_budget={options.perturb_budget} leaves no run for some of the {len(kinds)} kinds "
            f"in perturb; write perturb_budget={len(kinds)} or more, or name fewer kinds"
        )


def _is_within(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def metric_digest_lines(function: Any) -> list[str]:
    """The source of a metric from its ``def`` line on, without comments, blank lines and indentation of the whole.

    Decorators stay out: a new threshold is not a new metric.
    """
    try:
        lines, _ = inspect.getsourcelines(inspect.unwrap(getattr(function, "__func__", function)))
    except (OSError, TypeError):
        return [getattr(function, "__qualname__", "")]
    start = next((i for i, line in enumerate(lines) if line.lstrip().startswith(("def ", "async def "))), 0)
    indent = len(lines[start]) - len(lines[start].lstrip())
    kept = [line.rstrip()[min(indent, len(line) - len(line.lstrip())) :] for line in lines[start:]]
    return [line for line in kept if line.strip() and not line.lstrip().startswith("#")]


def find_problem(item: pytest.Item) -> str | None:
    """Why ``item``, which is under the marker, cannot be a metric; ``None`` when it can."""
    mark = item.get_closest_marker(MARKER)
    if mark is None:
        return None
    where = f"{item.nodeid}: "
    if type(item).__name__ == "TestCaseFunction":
        return where + "prompt_metric does not work on unittest.TestCase methods, which take no row; make it a function"
    if not isinstance(item, pytest.Function):
        return None
    try:
        options = read_marker(mark)
    except pytest.UsageError as error:
        return where + str(error)
    problems = (find(item, options) for find in (_argument_problem, _dataset_problem, _fixture_problem))
    problem = next(filter(None, problems), None)
    return where + problem if problem else None


def _argument_problem(item: pytest.Function, options: MetricOptions) -> str | None:
    taken = inspect.signature(item.function).parameters
    missing = [name for name in options.arguments if name not in taken]
    if not missing:
        return None
    return (
        f"the metric has no parameter {', '.join(missing)} to take the row; write def {item.originalname}("
        f"{', '.join(options.arguments)}, …) or name your parameter with prompt_metric(…, arg=…)"
    )


def _dataset_problem(item: pytest.Function, options: MetricOptions) -> str | None:
    if options.is_path:
        path = item.path.parent / options.dataset
        return None if path.is_file() else f"the dataset {options.dataset} is not there: {path}"
    is_parameter = hasattr(item, "callspec") and options.dataset in item.callspec.params
    if is_parameter or options.dataset in item._fixtureinfo.name2fixturedefs:
        return None
    return (
        f"there is no fixture {options.dataset!r} for its dataset; define one that returns the rows, "
        f'or name a file: prompt_metric("{options.dataset}.jsonl")'
    )


def _fixture_problem(item: pytest.Function, options: MetricOptions) -> str | None:
    for name, definitions in item._fixtureinfo.name2fixturedefs.items():
        if name in options.arguments:
            continue
        wanted = [arg for definition in definitions for arg in definition.argnames if arg in options.arguments]
        if wanted:
            return f"the fixture {name!r} asks for {wanted[0]!r}, but fixtures are set up once, before any row is there"
    return None
