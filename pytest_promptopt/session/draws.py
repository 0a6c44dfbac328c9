"""Calls that a run will make, told from its rows and from what metrics can reach; nothing is called for it.

A count has two ends wherever something is seen only when rows run: which of its prompts a row calls, and whether a call
is one that another metric made already.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, TypeAlias

from pytest_promptopt.evaluation.dataset import Example
from pytest_promptopt.evaluation.split import split_key
from pytest_promptopt.lms.client import Mode
from pytest_promptopt.prompts.registry import registered_prompts
from pytest_promptopt.prompts.signature import Signature
from pytest_promptopt.reports.dry_run import CallSize, Ceilings, Estimate
from pytest_promptopt.session.covering import called_by, covered_by
from pytest_promptopt.session.metric_item import MetricItem

if TYPE_CHECKING:
    from pytest_promptopt.prompts.base import AnyPrompt
    from pytest_promptopt.session.run import Run

Draw: TypeAlias = tuple[str, str, str, int]
"""What tells one call from another: prompt, model, its inputs, the repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Calls that are made once, whoever needs them: those that are ``surely`` made, and all that may be."""

    surely: frozenset[Draw] = frozenset()
    at_most: frozenset[Draw] = frozenset()

    def __or__(self, other: Draws) -> Draws:
        return Draws(surely=self.surely | other.surely, at_most=self.at_most | other.at_most)

    def __sub__(self, other: Draws) -> Draws:
        return Draws(surely=self.surely - other.surely, at_most=self.at_most - other.at_most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """The prompts of one metric: those that it ``surely`` calls, and all that it may call, the former included."""

    surely: tuple[AnyPrompt, ...]
    at_most: tuple[AnyPrompt, ...]

    @property
    def most_per_row(self) -> int:
        """Calls of a row that calls each prompt once; of a metric whose prompts nobody can see, one."""
        return max(1, len(self.at_most))


def prompts_called(metric: MetricItem) -> Called:
    """What can be told beforehand of the prompts that ``metric`` calls."""
    prompts, rootdir = registered_prompts(), metric.settings.rootdir
    surely = covered_by(metric, prompts, rootdir)
    others = [prompt for prompt in called_by(metric, prompts, rootdir) if prompt not in surely]
    return Called(surely=tuple(surely), at_most=(*surely, *others))


def unseen_notes(metrics: Iterable[tuple[MetricItem, Called]]) -> Iterator[str]:
    """The metrics in whose code no prompt can be seen, and what to write there."""
    for metric, called in metrics:
        if not called.at_most:
            yield (
                f"{metric.title}: no prompt can be seen in its code, so up to one call a row is counted; say which it "
                'calls: prompt_metric(…, prompts=("NAME",))'
            )


def draws_of(metric: MetricItem, called: Called, rows: Sequence[Example]) -> Draws:
    """The calls of ``rows``, if each of them calls each prompt once; edited rows are seen only when they run."""
    repeats, edits = range(metric.options.repeats), range(metric.most_edits)
    surely = (
        draw_of(metric, prompt, row, repeat, is_shared=True)
        for prompt, row, repeat in product(called.surely, rows, repeats)
    )
    at_most = (
        draw_of(metric, prompt, row, repeat, is_shared=False)
        for prompt, row, repeat in product(called.at_most, rows, repeats)
    )
    unseen = (("", metric.model or "", f"{metric.nodeid} {row.id}", n) for row, n in product(rows, repeats))
    every = frozenset(at_most if called.at_most else unseen)
    edited = {(name, model, f"{row} edit {edit}", n) for (name, model, row, n), edit in product(every, edits)}
    return Draws(surely=frozenset(surely), at_most=every | edited)


def draw_of(metric: MetricItem, prompt: AnyPrompt, row: Example, repeat: int = 0, *, is_shared: bool) -> Draw:
    """What the call will be known by: its inputs where fields are named after them.

    Other inputs nobody knows yet: rows alike in all but their labels may share them (``is_shared``), or none does.
    """
    names = input_names(prompt.signature)
    if names and all(name in row for name in names):
        content = repr([row[name] for name in names])
    elif is_shared:
        content = split_key(row, group=None, labels=tuple((metric.options.labels or {}).values()))
    else:
        content = f"{metric.nodeid} {row.id}"
    return prompt.name, prompt.model or metric.model or "", content, repeat


def input_names(signature: Signature) -> tuple[str, ...]:
    """What a prompt takes by name: its parameters, or the placeholders of an adopted text."""
    return signature.input_names if signature.template is None else signature.template.input_names


def estimate_of(draws: Draws, sizes: Iterable[CallSize]) -> Estimate:
    """So many calls, each at what its prompt's calls cost."""
    usd = {name: size.usd for name, size in by_name(sizes).items()}
    ends = [[usd.get(draw[:2]) for draw in end] for end in (draws.surely, draws.at_most)]
    known = [sum(cost for cost in end if cost is not None) for end in ends]
    is_known = all(cost is not None for end in ends for cost in end)
    return Estimate(fewest=len(draws.surely), most=len(draws.at_most), usd=(known[0], known[1]) if is_known else None)


def by_name(sizes: Iterable[CallSize]) -> dict[tuple[str, str], CallSize]:
    """(prompt, model) → an average call."""
    return {(size.prompt, size.model): size for size in sizes}


def shown_sizes(run: Run, sizes: Iterable[CallSize]) -> tuple[CallSize, ...]:
    """None in ``replay``, where no call goes out."""
    return () if run.settings.mode is Mode.REPLAY and not run.is_offline_alone else tuple(sizes)


def ceilings_of(run: Run) -> Ceilings:
    """The ceilings in force; simulators cost nothing, so theirs on money is none."""
    return Ceilings(calls=run.max_calls, usd=None if run.is_offline_alone else run.ceiling.max_cost_usd)


def mode_notes(run: Run) -> Iterator[str]:
    """What the mode means for calls that are counted as if they were made."""
    if run.settings.mode is Mode.REPLAY and not run.is_offline_alone:
        yield "replay: none of these calls goes out; one whose reply is not kept fails instead"
