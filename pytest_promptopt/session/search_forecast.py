"""What a search on every model takes, before it begins: the baseline, each strategy's bounds, the confirmation.

What a search will find is known in part: whether rows hold labels is seen from the source's answers. Then both ends of
it are handed to the strategies, and their bounds are the outermost of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import or_
from typing import TYPE_CHECKING

from pytest_promptopt.errors import UsageError
from pytest_promptopt.evaluation.dataset import Example
from pytest_promptopt.evaluation.labels import labelled_demos
from pytest_promptopt.evaluation.split import SMALLEST_TESTSET, Split
from pytest_promptopt.evaluation.statistics import provable_drop
from pytest_promptopt.optimizers.base import Optimizer, Sizes
from pytest_promptopt.optimizers.registry import OPTIMIZERS, make_optimizer
from pytest_promptopt.reports.dry_run import (
    NOTHING,
    CallSize,
    DealtRows,
    Estimate,
    GroupForecast,
    SearchForecast,
    StrategyForecast,
)
from pytest_promptopt.session.campaign import Campaign, connected, without_twins
from pytest_promptopt.session.confirming import too_few
from pytest_promptopt.session.draws import (
    Called,
    Draws,
    by_name,
    ceilings_of,
    draw_of,
    draws_of,
    estimate_of,
    mode_notes,
    prompts_called,
    shown_sizes,
    unseen_notes,
)
from pytest_promptopt.session.estimates import priced, size_of_call
from pytest_promptopt.session.jobs import nodeids
from pytest_promptopt.session.metric_item import MetricItem
from pytest_promptopt.session.workbench import Evidence

if TYPE_CHECKING:
    from pytest_promptopt.prompts.base import AnyPrompt
    from pytest_promptopt.prompts.compiled import CompiledPrompt
    from pytest_promptopt.session.run import Run

Expectations = Sequence[tuple[Campaign, Sequence["Expected"]]]
"""Each model's search with its metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """One metric before its search: how its rows are dealt, without any result, and the prompts that it calls."""

    evidence: Evidence
    called: Called

    @property
    def metric(self) -> MetricItem:
        """The metric."""
        return self.evidence.metric

    @property
    def split(self) -> Split:
        """The sides of its rows."""
        return self.evidence.split

    @property
    def names(self) -> list[str]:
        """The prompts that it surely calls, by name."""
        return [prompt.name for prompt in self.called.surely]

    @property
    def must_pass(self) -> tuple[Example, ...]:
        """The rows that a search may see and a confirmation runs too."""
        return tuple(row for row in self.split.searchable if row.id in self.metric.options.must_pass)


def expect(measured: Sequence[tuple[MetricItem, Split]]) -> list[Expected]:
    """The metrics of one model as its search will find them."""
    sealed = {row.digest for _, split in measured for row in split.test}
    expected = []
    for metric, whole in measured:
        split = without_twins(whole, sealed)
        left_out = len(whole.searchable) - len(split.searchable)
        evidence = Evidence(metric=metric, split=split, left_out=left_out)
        expected.append(Expected(evidence=evidence, called=prompts_called(metric)))
    return expected


def forecast_search(
    run: Run, expected: Expectations, *, failures: Sequence[str] = (), notes: Sequence[str] = ()
) -> SearchForecast:
    """What the search on every model takes."""
    optimizers = _optimizers(run)
    searches = _searches(run, expected)
    groups: list[GroupForecast] = []
    seen = Draws()
    for search in searches:
        groups.append(search.forecast(optimizers, seen))
        seen |= search.baseline_draws
    unsearched = _unsearched(run, expected, seen)
    others = sum((estimate for _, estimate in unsearched), NOTHING)
    chosen = [one.whole for group in groups for one in group.strategies if one.is_chosen]
    every = [(one.metric, one.called) for _, metrics in expected for one in metrics]
    unlabelled = dict.fromkeys(note for search in searches for note in search.unlabelled_notes())
    return SearchForecast(
        optimizer=run.settings.optimizer,
        groups=tuple(groups),
        unsearched=tuple(unsearched),
        uncovered=_uncovered(expected),
        whole=sum(chosen, others),
        reserve=sum(group.baseline.most + group.confirmation.most for group in groups) + others.most,
        ceilings=ceilings_of(run),
        sizes=shown_sizes(run, by_name(size for search in searches for size in search.sizes).values()),
        notes=(*notes, *_seed_notes(expected), *unseen_notes(every), *unlabelled, *mode_notes(run)),
        failures=tuple(failures),
    )


def _seed_notes(expected: Expectations) -> list[str]:
    """That searches after the first one try what those before them found."""
    names = [campaign.model for campaign, _ in expected if campaign.before]
    return [f"what is found on the models before it is tried on {', '.join(names)} too, and counted"] if names else []


def _searches(run: Run, expected: Expectations) -> list[_Search]:
    """The prompts of each model in groups that are searched together, with the metrics that measure them."""
    searches = []
    for campaign, metrics in expected:
        for prompts in connected(campaign.prompts, [one.names for one in metrics]):
            names = {prompt.name for prompt in prompts}
            mine = tuple(one for one in metrics if names & set(one.names))
            if mine:
                searches.append(_Search(run=run, campaign=campaign, prompts=tuple(prompts), metrics=mine))
    return searches


def _unsearched(run: Run, expected: Expectations, seen: Draws) -> list[tuple[str, Estimate]]:
    """The metrics that measure no prompt under search, and what their baselines call beyond ``seen``."""
    found: list[tuple[str, Estimate]] = []
    for campaign, metrics in expected:
        searched = {prompt.name for prompt in campaign.prompts}
        for one in metrics:
            if not searched & set(one.names):
                draws = _baseline_draws(one)
                found.append((one.metric.title, estimate_of(draws - seen, _sizes_of_source(run, one))))
                seen |= draws
    return found


def _uncovered(expected: Expectations) -> tuple[str, ...]:
    """The prompts under search that no metric calls, as far as can be seen."""
    names = (
        prompt.name
        for campaign, metrics in expected
        for prompt in campaign.prompts
        if not any(prompt.name in one.names for one in metrics)
    )
    return tuple(dict.fromkeys(names))


def _optimizers(run: Run) -> dict[str, Optimizer | str]:
    """Every strategy with the settings it would run with, or why it cannot."""
    made: dict[str, Optimizer | str] = {}
    for name in {**OPTIMIZERS, **run.extra_optimizers}:
        try:
            given, typed = run.settings.optimizer_settings.get(name, {}), run.settings.typed_names.get(name, name)
            made[name] = make_optimizer(name, given, extra=run.extra_optimizers, typed=typed)
        except (UsageError, TypeError) as error:  # one of somebody else's that is not chosen is no misuse
            made[name] = str(error)
    return made


def _baseline_draws(one: Expected) -> Draws:
    """The source on the rows that a search may see."""
    return draws_of(one.metric, one.called, one.split.searchable)


def _sizes_of_source(run: Run, one: Expected, model: str | None = None) -> list[CallSize]:
    """An average call of each prompt's source, on ``model`` where it has none of its own."""
    rows = (*one.split.searchable, *one.split.test)
    return [
        size_of_call(run, prompt, prompt.source, prompt.model or model or one.metric.model or "", rows)
        for prompt in one.called.at_most
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """Prompts that will be searched together, and the metrics that measure them."""

    run: Run
    campaign: Campaign
    prompts: tuple[AnyPrompt, ...]
    metrics: tuple[Expected, ...]

    def forecast(self, optimizers: Mapping[str, Optimizer | str], seen: Draws) -> GroupForecast:
        """All that can be told of its search; ``seen`` are the calls that others' baselines make before."""
        sizes = self.sizes
        baseline, confirmation = estimate_of(self.baseline_draws - seen, sizes), self._confirmation(sizes)
        calls, found = [*sizes, *self._taught_sizes()], [*self._possible_sizes()]
        is_matrix = len(self.run.settings.models) > 1
        return GroupForecast(
            prompts=nodeids(self.run, self.prompts) + (f" on {self.campaign.model}" if is_matrix else ""),
            rows=tuple(self._dealt(one) for one in self.metrics),
            baseline=baseline,
            confirmation=confirmation,
            arms=self._arms,
            too_few="" if self._can_confirm else too_few([one.evidence for one in self.metrics]),
            strategies=tuple(
                self._strategy(name, optimizer, baseline + confirmation, calls, found)
                for name, optimizer in optimizers.items()
            ),
        )

    @property
    def baseline_draws(self) -> Draws:
        """The calls of the source on all rows that a search may see."""
        return reduce(or_, map(_baseline_draws, self.metrics))

    @property
    def sizes(self) -> list[CallSize]:
        """An average call of each prompt on the model under test."""
        return [size for one in self.metrics for size in _sizes_of_source(self.run, one)]

    @property
    def _called(self) -> list[AnyPrompt]:
        return [*self.prompts, *(prompt for one in self.metrics for prompt in one.called.at_most)]

    def _dealt(self, one: Expected) -> DealtRows:
        sealed = len(one.split.test)
        alpha = self.run.settings.freeze_alpha
        return DealtRows(
            metric=one.metric.title,
            train=len(one.split.train),
            val=len(one.split.val),
            sealed=sealed,
            is_merged=one.split.is_merged,
            provable_gain=provable_drop(sealed, alpha=alpha) if sealed else None,
            left_out=one.evidence.left_out,
        )

    @property
    def _can_confirm(self) -> bool:
        return all(len(one.split.test) >= SMALLEST_TESTSET for one in self.metrics)

    @property
    def _arms(self) -> int:
        """Runs over the sealed rows: winner and incumbent, and a fresh baseline where replies vary.

        With too few rows nothing is compared; what is frozen already may still need a baseline.
        """
        if not self._can_confirm:
            return int(any(self._incumbent(prompt) != prompt.source for prompt in self.prompts))
        varies = any(prompt.signature.temperature > 0 for prompt in self._called)
        return 3 if varies or any(one.metric.options.repeats > 1 for one in self.metrics) else 2

    def _incumbent(self, prompt: AnyPrompt) -> CompiledPrompt:
        return prompt.find_snapshot(self.run.runtime, prompt.model or self.campaign.model).compiled

    def _confirmation(self, sizes: Sequence[CallSize]) -> Estimate:
        """None where nothing better than the source is found."""
        arm = reduce(or_, (draws_of(one.metric, one.called, (*one.split.test, *one.must_pass)) for one in self.metrics))
        most = estimate_of(arm, sizes)
        usd = None if most.usd is None else (0.0, self._arms * most.usd[1])
        return Estimate(fewest=0, most=self._arms * most.most, usd=usd)

    def _strategy(
        self,
        name: str,
        optimizer: Optimizer | str,
        others: Estimate,
        calls: Sequence[CallSize],
        found: Sequence[Sizes],
    ) -> StrategyForecast:
        """The outermost bounds of what its search may find, and with them those of the whole run."""
        is_chosen = name == self.run.settings.optimizer
        if isinstance(optimizer, str):
            return StrategyForecast(name=name, is_chosen=is_chosen, fault=optimizer)
        bounds = [self._with_seeds(sizes, *optimizer.expected_calls(sizes)) for sizes in found]
        search = priced(min(low for low, _ in bounds), max(high for _, high in bounds), calls)
        return StrategyForecast(name=name, is_chosen=is_chosen, search=search, whole=others + search)

    def _with_seeds(self, sizes: Sizes, fewest: int, most: int) -> tuple[int, int]:
        """The same with the winners of the models before this one: full marks of the first end the search."""
        on_val = sizes.val_rows * sizes.calls_per_row
        seeds = len(self.campaign.before)
        return (min(fewest, on_val) if seeds else fewest), most + seeds * on_val

    def _taught_sizes(self) -> list[CallSize]:
        """Calls of a proposer other than the model under test, which teaches too."""
        proposer = self.run.settings.proposer
        if not proposer or proposer == self.campaign.model:
            return []
        return [size for one in self.metrics for size in _sizes_of_source(self.run, one, proposer)]

    def _possible_sizes(self) -> Iterator[Sizes]:
        """What the search will find, and where that is not known yet, both ends of it."""
        calls = {
            min(one.metric.options.repeats for one in self.metrics),
            max(
                one.metric.options.repeats * one.called.most_per_row * (1 + one.metric.most_edits)
                for one in self.metrics
            ),
        }
        proposer = self.run.settings.proposer or self.campaign.model
        is_own_teacher = {proposer == self.campaign.model} | (
            {True} if any(one.model for one in self._called) else set()
        )
        most_on = {side: self._most_calls_on(side) for side in ("train", "val")}
        for train, val, labelled, calls_per_row, is_own in product(
            self._rows_of("train"), self._rows_of("val"), self._labelled_rows(), calls, is_own_teacher
        ):
            yield Sizes(
                train_rows=train,
                labelled_rows=labelled,
                val_rows=val,
                prompts=len(self.prompts),
                calls_per_row=calls_per_row,
                is_own_teacher=is_own,
                takes_demos=any(prompt.signature.takes_demos for prompt in self.prompts),
                calls_on_trainset=min(train * calls_per_row, most_on["train"]),
                calls_on_valset=min(val * calls_per_row, most_on["val"]),
            )

    def _most_calls_on(self, side: str) -> int:
        """Calls that one candidate makes at most on all rows of one side, those that metrics share made once."""
        draws = (draws_of(one.metric, one.called, getattr(one.split, side)) for one in self.metrics)
        return len(reduce(or_, draws).at_most)

    def _rows_of(self, side: str) -> set[int]:
        """The rows of one side: all of them, and those whose calls differ for the prompt that is called least."""
        rows = [(one, row) for one in self.metrics for row in getattr(one.split, side)]
        fewest = min(
            len({draw_of(one.metric, prompt, row, is_shared=True) for one, row in rows if prompt in one.called.surely})
            for prompt in self.prompts
        )
        return {fewest, len(rows)}

    def _labelled_rows(self) -> set[int]:
        """Train rows that make demos of the prompt that has most of them."""
        bounds = [self._labelled_of(prompt) for prompt in self.prompts if prompt.signature.takes_demos]
        return {max((low for low, _ in bounds), default=0), max((high for _, high in bounds), default=0)}

    def unlabelled_notes(self) -> Iterator[str]:
        """The prompts whose label may or may not be found, and what to write so that it is known."""
        for prompt in self.prompts:
            fewest, most = self._labelled_of(prompt) if prompt.signature.takes_demos else (0, 0)
            if fewest < most:
                short = prompt.name.rpartition(".")[2]
                yield (
                    f"{prompt.name}: whether a field of the rows is its label is seen when they run; "
                    f'prompt_metric(…, labels={{"{short}": "FIELD"}}) says it now'
                )

    def _labelled_of(self, prompt: AnyPrompt) -> tuple[int, int]:
        """The fewest and the most: which field is the label may be seen from the source's answers alone."""
        found = [_labelled(prompt, one) for one in self.metrics if prompt in one.called.surely]
        return sum(low for low, _ in found), sum(high for _, high in found)


def _labelled(prompt: AnyPrompt, one: Expected) -> tuple[int, int]:
    rows, labels = one.split.train, one.metric.options.labels or {}
    known = len(labelled_demos(prompt.signature, rows, labels=labels, traced=()).demos)
    if known:
        return known, known
    fields = {name for row in rows for name in row} - {"id", "split", *prompt.signature.input_names}
    tried = [labelled_demos(prompt.signature, rows, labels={prompt.name: field}, traced=()) for field in sorted(fields)]
    return 0, max((len(made.demos) for made in tried), default=0)
