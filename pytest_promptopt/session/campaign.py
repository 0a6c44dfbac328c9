"""The search for one model: evidence on the source, groups of prompts that share metrics, and calls shared out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from pytest_promptopt.errors import BudgetExhausted, PromptOptError
from pytest_promptopt.evaluation.metric import Trial
from pytest_promptopt.evaluation.outcome import RowResult, by_row
from pytest_promptopt.evaluation.split import Split
from pytest_promptopt.prompts.active import candidates_in_flight
from pytest_promptopt.prompts.base import AnyPrompt
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt
from pytest_promptopt.prompts.registry import registered_prompts
from pytest_promptopt.reports.records import JobReport
from pytest_promptopt.session.metric_item import MetricItem
from pytest_promptopt.session.verdicts import one_line
from pytest_promptopt.session.workbench import (
    Bench,
    Evidence,
    JobError,
    MetricSkipped,
    fault_words,
    has_no_score,
    is_fault,
    trials_of,
)

if TYPE_CHECKING:
    from pytest_promptopt.session.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Prompts that share metrics, searched together by the job of the first of them."""

    prompts: tuple[AnyPrompt, ...]
    evidence: tuple[Evidence, ...]

    @property
    def failure(self) -> str:
        """Why its source could not be measured; empty when it was."""
        return next((one.failure for one in self.evidence if one.failure), "")


@dataclass(slots=True, kw_only=True)
class Campaign:
    """All jobs of one model. The first job gathers the evidence; every group takes its share of what remains.

    ``before`` are the campaigns of other models that come first, ``waiting`` counts those that come after: the budget
    is shared out among all of them. ``found`` is what the searches came back with, prompt by prompt, whatever became of
    it on sealed rows: what is frozen hangs on files, and a search must not.
    """

    run: Run
    bench: Bench
    metrics: Sequence[MetricItem]
    prompts: Sequence[AnyPrompt]
    before: tuple[Campaign, ...] = ()
    waiting: int = 0
    source_calls: int = 0
    evidence: Sequence[Evidence] = ()
    groups: list[Group] | None = None
    spent_by_groups: int = 0
    found: dict[str, CompiledPrompt] = field(default_factory=dict)
    reports: dict[str, list[JobReport]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    failure: str | None = None

    @property
    def model(self) -> str:
        """The model under test."""
        return self.metrics[0].model or ""

    @property
    def used_calls(self) -> int:
        """Logical calls made so far, confirmations counted as what was reserved for them."""
        done = [group for group in self.groups or () if group.evidence and group.prompts[0].name in self.reports]
        return self.source_calls + self.spent_by_groups + self.reserve(done)

    @property
    def max_calls(self) -> int | None:
        """This model's share of the run's ceiling: an equal one of what the models before it left."""
        most = self.run.max_calls
        if most is None:
            return None
        left = most - sum(campaign.used_calls for campaign in self.before)
        return max(0, left // (1 + self.waiting))

    def gather(self) -> list[Group]:
        """Run the source on every searchable row once, and see which prompts each metric calls.

        Leaves with exit status 4 when the budget cannot hold this and the confirmations. A metric with a row without a
        score is the failure of its own prompts' group.
        """
        if self.failure is not None:
            raise JobError(f"the source could not be measured, see the first job: {self.failure}")
        if self.groups is None:
            try:
                self.groups = self._gather()
            except (JobError, PromptOptError, BudgetExhausted) as error:
                self.failure = one_line(str(error))
                raise
            sound = [group for group in self.groups if not group.failure]
            self.require(self.source_calls + self.reserve(sound), " at the calls that its rows really make")
        return self.groups

    def _gather(self) -> list[Group]:
        splits = self._measure()
        self.require(
            max((least_calls(metric, split) for metric, split in splits), default=0),
            ", or more where a row makes several",
        )
        source = Candidate({prompt.name: prompt.source for prompt in self.prompts})
        sealed = {example.digest for _, split in splits for example in split.test}
        self.evidence = [self._trace(metric, split, source, sealed) for metric, split in splits]
        self.source_calls = sum(one.all_calls for one in self.evidence)
        return self._group(self.evidence)

    def _measure(self) -> list[tuple[MetricItem, Split]]:
        """The rows of every metric, before anything is called; a metric that is skipped measures nothing."""
        splits: list[tuple[MetricItem, Split]] = []
        for metric in self.metrics:

            def plan(metric: MetricItem) -> list[Trial]:
                splits.append((metric, metric.split(metric.examples())))
                return []

            try:
                self.bench.run(metric, plan, is_enough=has_no_score)
            except MetricSkipped:
                continue
        return splits

    def _trace(self, metric: MetricItem, split: Split, source: Candidate, sealed: Set[str]) -> Evidence:
        """How the source does on ``metric``; what keeps a row from a score ends the search of its prompts alone."""
        whole, split = split, without_twins(split, sealed)
        results: list[RowResult] = []
        failure = ""
        try:
            with candidates_in_flight():  # a call that carries no candidate would not be traced
                results = self.bench.run(
                    metric, lambda metric: trials_of(split.searchable, metric, source), is_enough=has_no_score
                )
        except (JobError, PromptOptError) as error:
            failure = str(error)
        broken = next((result for result in results if has_no_score(result)), None)
        if broken is not None:
            failure = fault_words(metric, broken, "" if is_fault(broken) else ", under the source")
        return Evidence(
            metric=metric,
            split=split,
            left_out=len(whole.searchable) - len(split.searchable),
            failure=failure,
            results=by_row(results),
        )

    def _group(self, evidence: Sequence[Evidence]) -> list[Group]:
        return [
            self._as_group(prompts, evidence) for prompts in connected(self.prompts, [one.prompts for one in evidence])
        ]

    @staticmethod
    def _as_group(prompts: Sequence[AnyPrompt], evidence: Iterable[Evidence]) -> Group:
        names = {prompt.name for prompt in prompts}
        return Group(prompts=tuple(prompts), evidence=tuple(one for one in evidence if names & set(one.prompts)))

    def reserve(self, groups: Iterable[Group]) -> int:
        """Calls that confirming all winners takes at most: both arms, and a fresh baseline where replies vary."""
        return sum(_calls_of_one_arm(group) * (3 if varies(group) else 2) for group in groups)

    def seeds(self, group: Group) -> dict[Candidate, tuple[str, ...]]:
        """What the models before this one found for the prompts of ``group``, and which of them did.

        A model whose searches saw a row that is sealed here, by other metrics say, has nothing to offer.
        """
        source = Candidate({prompt.name: prompt.source for prompt in group.prompts})
        sealed = {example.digest for one in self.evidence for example in one.split.test}
        seeds: dict[Candidate, tuple[str, ...]] = {}
        for campaign in self.before:
            found = {name: campaign.found.get(name, compiled) for name, compiled in source.items()}
            seed = Candidate(found)
            if seed != source and not sealed & campaign.searched_digests:
                seeds[seed] = (*seeds.get(seed, ()), campaign.model)
        return seeds

    @property
    def searched_digests(self) -> set[str]:
        """The content of all rows that its searches may have seen."""
        return {example.digest for one in self.evidence for example in one.split.searchable}

    def waiting_groups(self) -> list[Group]:
        """The groups that have something to search and have not reported."""
        groups = [one for one in self.groups or () if one.evidence and not one.failure]
        return [one for one in groups if one.prompts[0].name not in self.reports]

    def failure_without_prompts(self) -> str:
        """Why a metric failed before it called any prompt, so that nobody knows which ones it measures."""
        return next((one.failure for one in self.evidence if one.failure and not one.prompts), "")

    def share(self, group: Group) -> int | None:
        """Logical calls that the search of ``group`` may make: an equal share of what the others leave."""
        most = self.max_calls
        if most is None:
            return None
        waiting = self.waiting_groups()
        left = most - self.source_calls - self.spent_by_groups - self.reserve(waiting)
        return max(0, left // max(1, len(waiting)))

    def require(self, calls: int, why: str) -> None:
        """Leave with exit status 4, naming the least that would do, when this model's share is below ``calls``."""
        mine = self.max_calls
        if mine is not None and mine < calls:
            needed = sum(campaign.used_calls for campaign in self.before) + calls * (1 + self.waiting)
            models = f" on {1 + self.waiting} models" if self.waiting else ""
            pytest.exit(
                f"--prompt-budget {self.run.max_calls} is below the reserve: measuring the source and "
                f"confirming a winner{models} takes at least {needed} calls{why}; give --prompt-budget {needed} or "
                "more, or fewer rows or metrics",
                returncode=int(pytest.ExitCode.USAGE_ERROR),
            )


def connected(prompts: Sequence[AnyPrompt], called: Iterable[Sequence[str]]) -> list[list[AnyPrompt]]:
    """``prompts`` in groups: two belong together when one metric calls both, by the names that each has ``called``."""
    names = [prompt.name for prompt in prompts]
    root = {name: name for name in names}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    for one in called:
        mine = [name for name in names if name in one]
        for other in mine[1:]:
            root[find(other)] = find(mine[0])
    groups: dict[str, list[AnyPrompt]] = {}
    for prompt in prompts:
        groups.setdefault(find(prompt.name), []).append(prompt)
    return list(groups.values())


def least_calls(metric: MetricItem, split: Split) -> int:
    """Calls if every repeat of every row makes one: the source on searchable rows, two arms on what confirms."""
    must_pass = sum(example.id in metric.options.must_pass for example in split.searchable)
    return metric.options.repeats * (len(split.searchable) + 2 * (len(split.test) + must_pass))


def _calls_of_one_arm(group: Group) -> int:
    """Calls on all sealed rows at most; on a row that an earlier metric seals too, those beyond that metric's."""
    calls = 0
    called: set[str] = set()
    for one in group.evidence:
        must_pass = set(one.metric.options.must_pass)
        digests = [example.digest for example in one.split.test]
        digests += [example.digest for example in one.split.searchable if example.id in must_pass]
        shared = sum(digest in called for digest in digests)
        calls += shared * one.most_fresh_calls_per_row + (len(digests) - shared) * one.most_calls_per_row
        called.update(digests)
    return calls


def without_twins(split: Split, sealed: Set[str]) -> Split:
    """``split`` without the searchable rows that any metric seals, whatever their own key says."""
    return replace(
        split,
        train=tuple(example for example in split.train if example.digest not in sealed),
        val=tuple(example for example in split.val if example.digest not in sealed),
    )


def varies(group: Group) -> bool:
    """Whether one and the same call may be answered differently, be it a held prompt's or a judge's."""
    known = {prompt.name: prompt for prompt in registered_prompts()}
    called = {
        call.prompt
        for one in group.evidence
        for repeats in one.results.values()
        for result in repeats
        for call in result.calls
    }
    prompts = [*group.prompts, *(known[name] for name in called if name in known)]
    return any(prompt.signature.temperature > 0 for prompt in prompts) or any(
        one.metric.options.repeats > 1 for one in group.evidence
    )


def own_client_prompts(group: Group) -> list[str]:
    """The adopted texts of ``group`` that somebody else's client sends, as the source's rows have shown."""
    calls = (
        call for one in group.evidence for repeats in one.results.values() for row in repeats for call in row.calls
    )
    names = {call.prompt for call in calls if not call.is_sent_by_us}
    return [prompt.name for prompt in group.prompts if prompt.name in names]


def models_of(group: Group, default: str) -> Mapping[str, str]:
    """Prompt name → the model it was called with, which names its snapshot."""
    models = {prompt.name: prompt.model or default for prompt in group.prompts}
    for one in group.evidence:
        for repeats in one.results.values():
            for result in repeats:
                models.update({call.prompt: call.model for call in result.calls if call.prompt in models})
    return models
