"""What every optimizer promises, as tests: inherit, say how yours is made, and pytest collects them.

::

    from pytest_promptopt.testing import OptimizerContract

    class TestHillClimb(OptimizerContract):
        address = "hill_climb:HillClimb"

        def make_optimizer(self):
            return HillClimb(tries=3)

The searches run in a small world without models (:mod:`pytest_promptopt.testing.world`), driven as in a real run; each
test's name is a promise. What the driver guarantees by itself, such as the ceiling, is held here together with the
strategy: a strategy that works against it is found out too.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from math import isclose
from random import Random
from typing import TYPE_CHECKING, Any
from zlib import crc32

from pytest_promptopt.errors import LMError, LMErrorKind
from pytest_promptopt.optimizers.base import (
    Completion,
    Evaluate,
    Optimizer,
    Outcome,
    Row,
    Search,
    Sizes,
    Task,
    Trace,
)
from pytest_promptopt.optimizers.driver import Event, Found, Proposed, RoundEnded, guarded
from pytest_promptopt.optimizers.evaluating import announce, renumbered
from pytest_promptopt.optimizers.registry import make_optimizer, read_settings
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.testing.another_process import courses_elsewhere, courses_of
from pytest_promptopt.testing.watching import Watched, WatchedSearch
from pytest_promptopt.testing.world import (
    METRIC,
    TOPICS,
    World,
    make_task,
    outcome_of,
    propose,
    run,
    sizes_of,
    text_of,
)

if TYPE_CHECKING:
    import hypothesis
    from hypothesis.strategies import SearchStrategy

TWO = ("route", "reply")
EVERYTHING = f"Name it, one of {', '.join(TOPICS)}."
"""An instruction that is right on every row."""

MOST_ENDS = 24
"""Requests at which a budget is ended, spread over a search that makes more of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A search as it was seen from outside; ``search`` is missing where nothing was left to gain."""

    found: Found
    world: World
    events: list[Event]
    search: WatchedSearch | None


class OptimizerContract:
    """Tests of one optimizer: inherit as ``TestYours`` and define :meth:`make_optimizer`.

    ``address`` is the ``"module:attribute"`` that the hook ``pytest_promptopt_optimizers`` gives; without it two tests
    are skipped. Properties are tried on ``max_examples`` tasks each; fewer do for one that takes its time.
    """

    max_examples: int = 20
    address: str = ""

    def make_optimizer(self) -> Optimizer:
        """The optimizer under test, with settings small enough for some thousand searches over ten rows."""
        raise NotImplementedError("a contract needs to know how its optimizer is made: define make_optimizer")

    def hypothesis_settings(self, max_examples: int) -> hypothesis.settings:
        """How properties are tried: the same examples in every run, at no deadline."""
        from hypothesis import HealthCheck, settings

        return settings(
            max_examples=max_examples,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )

    # the same search again

    def test_the_same_seed_gives_the_same_search(self) -> None:
        """Winner, trials, calls and all that an observer hears; 0 is a seed like any other."""

        def holds(task: Task, seed: int, own: bool) -> None:
            first = self._search(task, seed=seed, is_own_teacher=own)
            again = self._search(task, seed=seed, is_own_teacher=own)
            assert (again.found, again.events) == (first.found, first.events)

        self._for_all(holds, task=tasks(), seed=seeds(), own=_booleans())

    def test_a_seed_of_its_own_that_is_drawn_as_zero_counts_like_any_other(self) -> None:
        """Whoever seeds something from ``rng`` may draw a 0, which must not mean "none"."""

        def holds(task: Task, seed: int) -> None:
            first, again = (self._search(task, rng=ZeroSeeds(seed)) for _ in range(2))
            assert again.found == first.found

        self._for_all(holds, task=tasks(), seed=seeds())

    def test_it_draws_from_the_generator_that_it_is_given_alone(self) -> None:
        """The random numbers of the process, which tests and other plugins draw from, stay as they are."""

        def holds(task: Task, seed: int) -> None:
            before = _state_of_shared_generators()
            self._search(task, seed=seed)
            assert _state_of_shared_generators() == before, "the search drew from the process's random numbers"

        self._search(make_task(), seed=1)  # what it imports at its first search may seed something
        self._for_all(holds, task=tasks(), seed=seeds(), share=4)

    def test_it_keeps_nothing_between_searches(self) -> None:
        """One object serves several searches, over other tasks in between."""

        def holds(task: Task, other: Task, seed: int) -> None:
            optimizer = self.make_optimizer()
            first, _, again = (self._search(each, optimizer=optimizer, seed=seed) for each in (task, other, task))
            assert again.found == first.found

        self._for_all(holds, task=tasks(), other=tasks(), seed=seeds())

    def test_replies_that_come_in_another_order_change_nothing(self) -> None:
        """Rows and completions run concurrently, and whichever ends first, ends first."""

        def holds(task: Task, seed: int, order: int, own: bool) -> None:
            in_order = self._search(task, seed=seed, is_own_teacher=own)
            shuffled = self._search(task, seed=seed, is_own_teacher=own, order=Random(order))
            assert (shuffled.found, shuffled.events) == (in_order.found, in_order.events)

        self._for_all(holds, task=tasks(), seed=seeds(), order=seeds(), own=_booleans())

    def test_a_second_run_asks_the_same_and_spends_nothing(self) -> None:
        """What a proposer never says twice is in the store, so a killed run is resumed by running it again."""

        def holds(task: Task, seed: int, own: bool) -> None:
            store: dict[object, object] = {}
            cold, warm = (
                self._search(task, seed=seed, is_own_teacher=own, store=store, proposer=_never_twice(start))
                for start in (0, 1_000_000)
            )
            assert warm.world.provider_calls == 0
            assert warm.found == cold.found

        self._for_all(holds, task=tasks(), seed=seeds(), own=_booleans())

    def test_another_process_finds_the_same(self) -> None:
        """Hashes of texts differ from process to process, and with them the order of a set."""
        courses = courses_elsewhere(self._require_address(), _as_typed(_settings_of(self.make_optimizer())))
        assert courses == courses_of(self.make_optimizer())

    # calls

    def test_no_ceiling_is_exceeded_by_one_call(self) -> None:
        """Whatever it is, told to the strategy or not, and also where rows take more calls than the source's did."""

        def holds(task: Task, seed: int, percent: int, is_told: bool, is_dear: bool) -> None:
            def calls_of(candidate: Candidate, row: Row) -> int:
                return len(candidate) * (2 if is_dear and candidate != task.source else 1)

            most = self._search(task, seed=seed).found.calls * percent // 100
            told = replace(task, max_calls=most, calls_on_valset=len(task.valset) * len(task.prompts))
            seen = self._search(told if is_told else task, seed=seed, max_calls=most, calls_of=calls_of)
            assert seen.world.allowance.calls <= most
            assert seen.world.provider_calls <= most
            _check_winner(task, seen)

        booleans = _booleans()
        self._for_all(holds, task=tasks(), seed=seeds(), percent=_integers(0, 120), is_told=booleans, is_dear=booleans)

    def test_a_cut_search_is_the_beginning_of_the_whole_one(self) -> None:
        """More budget adds trials, and takes none back, unless the strategy asked for the budget to plan by it."""

        def holds(task: Task, seed: int, percent: int) -> None:
            whole = self._search(task, seed=seed)
            most = whole.found.calls * percent // 100
            cut = self._search(task, seed=seed, max_calls=most)
            if cut.search is None or not cut.search.plans_by_the_budget:
                _check_beginning(cut, whole)
                assert cut.found.is_cut == (whole.found.calls > most)

        self._for_all(holds, task=tasks(), seed=seeds(), percent=_integers(0, 120))

    def test_no_candidate_is_paid_twice_for_a_row(self) -> None:
        """Candidates of equal content are one candidate."""

        def holds(task: Task, seed: int, own: bool) -> None:
            assert self._search(task, seed=seed, is_own_teacher=own).world.paid_twice == []

        self._for_all(holds, task=tasks(), seed=seeds(), own=_booleans())

    def test_calls_lie_within_what_was_expected_with_its_own_teacher(self) -> None:
        """Two whole numbers, the fewest and the most, between which every search lies that nothing cuts."""
        self._check_expected_calls(is_own_teacher=True)

    def test_calls_lie_within_what_was_expected_with_a_foreign_teacher(self) -> None:
        """As with its own, whose traces of the source are known from the baseline."""
        self._check_expected_calls(is_own_teacher=False)

    def test_a_perfect_source_is_left_as_it_is_without_a_call(self) -> None:
        """Nothing is left to gain."""
        seen = self._search(make_task(instruction=EVERYTHING, prompts=TWO))
        assert (seen.found.candidate, seen.found.calls) == (make_task(instruction=EVERYTHING, prompts=TWO).source, 0)
        assert seen.world.batches == 0

    # what it sees, and what it answers

    def test_no_row_is_asked_for_but_those_of_the_task(self) -> None:
        """The test rows are sealed: the winner is confirmed on them, so no search may see one."""

        def holds(task: Task, seed: int, own: bool) -> None:
            seen = self._search(task, seed=seed, is_own_teacher=own)
            assert _asked_rows(seen.search) <= {*task.trainset, *task.valset}

        self._for_all(holds, task=tasks(), seed=seeds(), own=_booleans())

    def test_the_winner_is_no_worse_than_the_source_on_the_val_rows(self) -> None:
        """And its score is what the rows say."""

        def holds(task: Task, seed: int, own: bool) -> None:
            seen = self._search(task, seed=seed, is_own_teacher=own)
            _check_winner(task, seen)
            scores = [outcome_of(seen.found.candidate, row).score for row in task.valset]
            assert isclose(seen.found.score, _weighted_mean(task.valset, scores, task.weights))

        self._for_all(holds, task=tasks(), seed=seeds(), own=_booleans())

    def test_a_program_of_several_prompts_keeps_them_all(self) -> None:
        """And a text that is adopted as it is gets no demos and keeps its placeholder."""
        for adopted in ((), ("reply",), TWO):
            self._check_task(make_task(prompts=TWO, adopted=adopted))

    def test_no_labelled_row_is_needed(self) -> None:
        """Traces and instructions are left to learn from; in the worst case the source stays."""
        self._check_task(make_task(labelled=()))
        self._check_task(make_task(labelled=(), prompts=TWO, instruction="Guess."))

    def test_one_train_row_is_enough(self) -> None:
        """So is none at all."""
        for train in (1, 0):
            self._check_task(make_task(train=train))

    def test_train_and_val_rows_may_be_the_same(self) -> None:
        """As they are where a dataset is small."""
        for count in (1, 4, 12):
            self._check_task(make_task(train=count, is_merged=True))

    def test_metrics_weigh_as_they_are_told(self) -> None:
        """Σ weight·mean / Σ weight over the metrics, however many rows each has."""
        task = make_task(train=18, val=18, weights={METRIC: 1.0, "test_tone": 3.0, "test_length": 0.5})
        seen = self._check_task(task)
        scores = [outcome_of(seen.found.candidate, row).score for row in task.valset]
        assert isclose(seen.found.score, _weighted_mean(task.valset, scores, task.weights))

    def test_the_pick_follows_the_weights(self) -> None:
        """Who gains where it counts is taken, not who gains on more rows."""
        task = make_task(train=12, val=12, weights={METRIC: 9.0, "test_tone": 1.0})
        heavy = [row for row in (*task.trainset, *task.valset) if row.metric == METRIC]

        def gains_where_it_counts(candidate: Candidate) -> bool:
            return int(candidate.digest[0], 16) % 2 == 0

        def judge(candidate: Candidate, row: Row) -> Outcome:
            number = int(row.id.rpartition("-")[2]) % len(TOPICS)
            most = 1 if candidate == task.source else 5 if gains_where_it_counts(candidate) else 0
            fewest = 6 if candidate != task.source and not gains_where_it_counts(candidate) else 1
            right = number < (max(1, most) if row in heavy else fewest)
            return replace(outcome_of(candidate, row), score=float(right))

        def holds(seed: int) -> None:
            found = self._search(task, seed=seed, judge=judge).found
            tried = [trial.candidate for trial in found.trials[1:]]
            if any(map(gains_where_it_counts, tried)):
                assert gains_where_it_counts(found.candidate)

        self._for_all(holds, seed=seeds())

    def test_rows_without_a_score_are_left_out(self) -> None:
        """A metric may skip a row, always or under some candidates; that is no zero."""

        def holds(task: Task, seed: int, skipped: set[int], is_always: bool) -> None:
            def judge(candidate: Candidate, row: Row) -> Outcome:
                is_left_out = int(row.id.rpartition("-")[2]) in skipped and (is_always or candidate != task.source)
                return Outcome(score=None) if is_left_out else outcome_of(candidate, row)

            seen = self._search(task, seed=seed, judge=judge)
            _check_winner(task, seen)
            scores = [judge(seen.found.candidate, row).score for row in task.valset]
            assert isclose(seen.found.score, _weighted_mean(task.valset, scores, task.weights))

        from hypothesis import strategies as st

        skipped = st.sets(st.integers(1, 9))
        self._for_all(holds, task=tasks(), seed=seeds(), skipped=skipped, is_always=_booleans())

    def test_a_candidate_that_makes_the_metric_raise_is_rejected_and_the_search_goes_on(self) -> None:
        """Some of them, or all but the source."""

        def holds(task: Task, seed: int, threshold: int) -> None:
            def is_bad(candidate: Candidate) -> bool:
                return candidate != task.source and int(candidate.digest[0], 16) >= threshold

            def judge(candidate: Candidate, row: Row) -> Outcome:
                return RAISED if is_bad(candidate) else outcome_of(candidate, row)

            seen = self._search(task, seed=seed, judge=judge)
            assert not is_bad(seen.found.candidate)
            subjects = [rejection.subject for rejection in seen.found.rejected]
            assert all(is_bad(subject) for subject in subjects if isinstance(subject, Candidate))
            _check_winner(task, seen)

        self._for_all(holds, task=tasks(), seed=seeds(), threshold=_integers(0, 15))

    # proposers

    def test_a_proposer_that_babbles_is_survived(self) -> None:
        """Any text at all."""
        from hypothesis import strategies as st

        def holds(task: Task, replies: list[str], own: bool) -> None:
            self._check_proposer(task, lambda completion: replies[completion.draw % len(replies)], own)

        replies = st.lists(st.text(max_size=60), min_size=1, max_size=5)
        self._for_all(holds, task=tasks(), replies=replies, own=_booleans())

    def test_a_proposer_that_says_nothing_is_survived(self) -> None:
        """Nothing, or nothing to be seen."""
        for reply in ("", "  \n", "``````", "```\n\n```", '""'):
            self._check_silly_proposer(reply)

    def test_a_proposer_that_repeats_itself_is_survived(self) -> None:
        """One text for every request, better than the source or the source itself."""
        self._check_silly_proposer("```\nName it: rain, music or food. {text}\n```")
        self._check_silly_proposer(make_task().source["route"].instruction)

    def test_an_enormous_proposal_never_wins(self) -> None:
        """Though it is right on every row."""
        for winner in self._check_silly_proposer(f"```\n{EVERYTHING} {{text}} {'and so on ' * 4_000}\n```"):
            assert "and so on and so on" not in _text_of(winner)

    def test_a_proposal_that_copies_training_inputs_never_wins(self) -> None:
        """Though it is right on every row."""
        copied = "; ".join(text_of(row) for row in make_task().trainset[:2])
        for winner in self._check_silly_proposer(f"```\n{EVERYTHING} Like these: {copied}. {{text}}\n```"):
            assert copied not in _text_of(winner)

    def test_a_proposal_whose_fence_never_closes_never_wins(self) -> None:
        """Though it is right on every row: it may go on."""
        for winner in self._check_silly_proposer(f"```\n{EVERYTHING} {{text}} Unless"):
            assert EVERYTHING not in _text_of(winner)

    def test_a_proposal_that_loses_a_placeholder_never_wins(self) -> None:
        """Though it is right on every row."""
        source = "Name the topic of {text}."
        for adopted in ((), TWO):
            task = make_task(instruction=source, prompts=TWO, adopted=adopted)
            seen = self._check_proposer(task, lambda _: f"```\n{EVERYTHING}\n```", own=True)
            assert all("{text}" in compiled.instruction for compiled in seen.found.candidate.values())

    # how it ends

    def test_it_stops_well_wherever_the_budget_ends(self) -> None:
        """It asks for nothing more, and its own last word or the best candidate so far comes back."""

        def holds(task: Task, seed: int, own: bool) -> None:
            whole = self._search(task, seed=seed, is_own_teacher=own)
            for end_at in _ends_of(whole):
                cut = self._search(task, seed=seed, is_own_teacher=own, end_at=end_at)
                _check_ending(task, cut)
                _check_beginning(cut, whole)

        self._for_all(holds, task=tasks(), seed=seeds(), own=_booleans(), share=4)

    def test_every_rejection_is_told_wherever_the_budget_ends(self) -> None:
        """Of a text that became no candidate, the reader hears before the budget can end."""

        def holds(task: Task, seed: int) -> None:
            whole = self._search(task, seed=seed, proposer=_broken_off_by_turns)
            rejected = _rejected_texts(whole)
            for end_at in _ends_of(whole):
                cut = self._search(task, seed=seed, proposer=_broken_off_by_turns, end_at=end_at)
                heard = {event.text for event in cut.events if isinstance(event, Proposed)}
                assert heard & rejected <= _rejected_texts(cut)

        self._for_all(holds, task=tasks(), seed=seeds(), share=4)

    def test_a_search_that_tries_nothing_says_why(self) -> None:
        """One that ends by itself and asked for nothing announced something."""

        def holds(task: Task, seed: int, most: int) -> None:
            told = replace(task, max_calls=most, calls_on_valset=len(task.valset) * len(task.prompts))
            seen = self._search(told, seed=seed, max_calls=most)
            if seen.search is not None and not seen.found.is_cut and not seen.world.batches:
                assert any(isinstance(event, RoundEnded) and event.text for event in seen.events)

        self._for_all(holds, task=tasks(), seed=seeds(), most=_integers(0, 12))

    def test_it_stops_as_well_inside_other_strategies(self) -> None:
        """One that yields from it, and one that has rounds before it."""

        def holds(task: Task, seed: int, own: bool) -> None:
            whole = self._search(task, seed=seed, is_own_teacher=own)
            for end_at in (None, *_ends_of(whole)):
                alone, *nested = (
                    self._search(task, optimizer=optimizer, seed=seed, is_own_teacher=own, end_at=end_at)
                    for optimizer in (
                        self.make_optimizer(),
                        Inside(self.make_optimizer()),
                        After(self.make_optimizer()),
                    )
                )
                for other in nested:
                    _check_ending(task, other)
                    assert other.found == alone.found

        self._for_all(holds, task=tasks(), seed=seeds(), own=_booleans(), share=7)

    def test_an_error_of_a_provider_at_any_request_ends_it_and_is_passed_on(self) -> None:
        """Nothing that the strategy does on its way out hides what went wrong."""
        for task in (make_task(train=6, val=4), make_task(train=6, val=4, prompts=TWO)):
            for own in (True, False):
                for end_at in _ends_of(self._search(task, is_own_teacher=own)):
                    self._check_fault(task, end_at=end_at, is_own_teacher=own)

    # how it is made

    def test_its_settings_are_frozen_and_can_be_typed(self) -> None:
        """Each is read back from its text, as ``--prompt-set`` gives it: its default, and what it is set to here."""
        optimizer = self.make_optimizer()
        assert is_dataclass(optimizer), f"{type(optimizer).__name__} is no dataclass of settings"
        assert type(optimizer).__dataclass_params__.frozen, f"{type(optimizer).__name__} is not frozen"
        for settings in (_defaults_of(optimizer), _settings_of(optimizer)):
            assert read_settings("yours", type(optimizer), _as_typed(settings)) == settings

    def test_it_loads_by_its_address(self) -> None:
        """The ``"module:attribute"`` that its hook gives, with the settings it has here."""
        address, optimizer = self._require_address(), self.make_optimizer()
        assert make_optimizer("yours", _as_typed(_settings_of(optimizer)), extra={"yours": address}) == optimizer

    # what the promises have in common

    def _require_address(self) -> str:
        import pytest

        return self.address or pytest.skip("the contract has no address: which module:attribute is it?")

    def _search(self, task: Task, *, optimizer: Optimizer | None = None, **how: Any) -> Seen:
        watched = Watched(optimizer=self.make_optimizer() if optimizer is None else optimizer)
        ran = run(watched, task, **how)
        search = watched.searches[-1] if watched.searches else None
        return Seen(found=ran.found, world=ran.world, events=ran.events, search=search)

    def _for_all(self, holds: Callable[..., None], *, share: int = 1, **drawn: SearchStrategy[Any]) -> None:
        """Try ``holds`` on what is drawn; one in ``share`` of the usual number of times."""
        from hypothesis import given

        self.hypothesis_settings(max(2, self.max_examples // share))(given(**drawn)(holds))()

    def _check_task(self, task: Task) -> Seen:
        """A search over ``task`` is as any other; gives the one with seed 0."""
        for own in (False, True):
            seen = self._search(task, is_own_teacher=own)
            _check_winner(task, seen)
        return seen

    def _check_expected_calls(self, *, is_own_teacher: bool) -> None:
        def holds(task: Task, seed: int) -> None:
            sizes = sizes_of(task, is_own_teacher=is_own_teacher)
            fewest, most = self.make_optimizer().expected_calls(sizes)
            assert (type(fewest), type(most)) == (int, int)
            assert 0 <= fewest <= most
            found = self._search(task, seed=seed, is_own_teacher=is_own_teacher).found
            assert found.calls <= most
            if found.source_score < 1.0 and _leaves_failures(task):
                assert fewest <= found.calls

        self._for_all(holds, task=tasks(), seed=seeds())

    def _check_silly_proposer(self, reply: str) -> list[Candidate]:
        """The winners of searches in which the proposer has but one reply."""
        tasks = [
            make_task(prompts=prompts, labelled=labelled, adopted=prompts[1:], instruction="Name the topic.")
            for prompts in (("route",), TWO)
            for labelled in ((), prompts)
        ]
        searches = [self._check_proposer(task, lambda _: reply, own) for task in tasks for own in (True, False)]
        return [seen.found.candidate for seen in searches]

    def _check_proposer(self, task: Task, proposer: Callable[[Completion], str], own: bool) -> Seen:
        seen = self._search(task, proposer=proposer, is_own_teacher=own)
        _check_winner(task, seen)
        _, most = self.make_optimizer().expected_calls(sizes_of(task, is_own_teacher=own))
        assert seen.found.calls <= most
        return seen

    def _check_fault(self, task: Task, *, end_at: int, is_own_teacher: bool) -> None:
        fault = LMError("503 from the provider", kind=LMErrorKind.SERVER)
        watched = Watched(optimizer=self.make_optimizer())
        raised: LMError | None = None
        try:
            run(watched, task, is_own_teacher=is_own_teacher, end_at=end_at, ending=lambda: fault)
        except LMError as error:
            raised = error
        assert raised is fault, f"the error of the provider in batch {end_at} was lost"
        assert watched.searches[-1].is_closed


@dataclass(frozen=True, slots=True)
class Inside:
    """A strategy that yields from another."""

    optimizer: Optimizer

    def search(self, task: Task, rng: Random) -> Search:
        """The other's search, and nothing else."""
        return (yield from self.optimizer.search(task, rng))

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        """The other's."""
        return self.optimizer.expected_calls(sizes)


@dataclass(frozen=True, slots=True)
class After(Inside):
    """A strategy that has a round of its own before another's."""

    def search(self, task: Task, rng: Random) -> Search:
        """A round that asks for nothing, and then the other's."""
        yield from announce("nothing done", round=1, rounds=2)
        return (yield from renumbered(self.optimizer.search(task, rng), before=1, rounds=2))


class ZeroSeeds(Random):
    """Random numbers, save that whoever draws many bits at once, to seed something with them, gets 0."""

    def getrandbits(self, k: int, /) -> int:
        """``k`` random bits, none of them set where there are 16 or more."""
        drawn = super().getrandbits(k)
        return 0 if k >= 16 else drawn


RAISED = Outcome(score=None, feedback="KeyError: 'team'", is_rejected=True)


def tasks() -> SearchStrategy[Task]:
    """Small tasks of all kinds that have a val row."""
    from hypothesis import strategies as st

    made = st.builds(
        make_task,
        train=st.integers(0, 9),
        val=st.integers(1, 9),
        prompts=st.sampled_from([("route",), TWO]),
        labelled=st.sampled_from([TWO, ("route",), ()]),
        adopted=st.sampled_from([(), (), ("reply",), TWO]),
        instruction=st.sampled_from(["Name it.", "Name it. It may be rain.", "Never say {text}, rain or food."]),
        is_merged=st.sampled_from([False, False, True]),
    )
    return made.filter(lambda task: bool(task.valset))


def seeds() -> SearchStrategy[int]:
    """Seeds of a run, 0 more often than others."""
    from hypothesis import strategies as st

    return st.just(0) | st.integers(0, 2**32)


def _booleans() -> SearchStrategy[bool]:
    from hypothesis import strategies as st

    return st.booleans()


def _integers(least: int, most: int) -> SearchStrategy[int]:
    from hypothesis import strategies as st

    return st.integers(least, most)


def _never_twice(start: int) -> Callable[[Completion], str]:
    """A proposer that counts its replies, so that no two are alike."""
    numbers = iter(range(start, start + 1_000_000))
    return lambda completion: propose(completion).replace("Or", f"Attempt {next(numbers)}: or")


def _broken_off_by_turns(completion: Completion) -> str:
    """Every second draw a text whose fence never closes, another one for each request."""
    reply = propose(completion)
    number = crc32(repr(completion.messages).encode())
    return f"```\nBroken off {number} {completion.draw}" if completion.draw % 2 else reply


def _rejected_texts(seen: Seen) -> set[str]:
    return {each.subject for each in seen.found.rejected if isinstance(each.subject, str)}


def _state_of_shared_generators() -> tuple[object, ...]:
    """Where the random numbers of the process stand: Python's, and numpy's where somebody uses it."""
    numpy = sys.modules.get("numpy")
    theirs = () if numpy is None else tuple(map(str, numpy.random.get_state()))
    return (random.getstate(), *theirs)


def _asked_rows(search: WatchedSearch | None) -> set[Row]:
    requests = [] if search is None else search.requests
    return {row for request in requests if isinstance(request, Evaluate | Trace) for _, row in request.pairs}


def _text_of(candidate: Candidate) -> str:
    return "\n".join(compiled.instruction for compiled in candidate.values())


def _weighted_mean(rows: Sequence[Row], scores: Sequence[float | None], weights: Mapping[str, float]) -> float:
    means = {}
    for metric in weights:
        mine = [score for row, score in zip(rows, scores, strict=True) if row.metric == metric and score is not None]
        if mine:
            means[metric] = sum(mine) / len(mine)
    return sum(weights[metric] * mean for metric, mean in means.items()) / sum(weights[metric] for metric in means)


def _leaves_failures(task: Task) -> bool:
    """Whether the source fails a train row, of which there is something to learn; without train rows nobody knows."""
    failed = [not outcome_of(task.source, row).is_success for row in task.trainset]
    return any(failed) or not failed


def _ends_of(whole: Seen) -> Sequence[int]:
    """Batches of a whole search to end a budget in: all, or some that are spread over it."""
    batches = whole.world.batches
    step = max(1, -(-batches // MOST_ENDS))
    return range(1, batches + 1, step)


def _check_winner(task: Task, seen: Seen) -> None:
    """The winner can stand for the source: the same prompts, none of them broken, and no worse a score."""
    found = seen.found
    known = {(task.source, row): outcome_of(task.source, row) for row in task.trainset}
    assert found.candidate.keys() == task.source.keys()
    assert guarded(task, known).find_fault(found.candidate) == ""
    assert found.score >= found.source_score
    is_last_word = seen.search is not None and seen.search.answer == found.candidate and found.rows < len(task.valset)
    assert is_last_word or found.candidate in [trial.candidate for trial in found.trials]


def _check_beginning(cut: Seen, whole: Seen) -> None:
    """The trials of ``cut`` are the first of ``whole``; its last word may have been scored after them."""
    trials = cut.found.trials
    if cut.search is not None and trials[-1].candidate == cut.search.answer and cut.found.is_cut:
        trials = trials[:-1]
    assert trials == whole.found.trials[: len(trials)]


def _check_ending(task: Task, cut: Seen) -> None:
    """Closed, nothing asked after the end, and the best candidate or the strategy's own word came back."""
    _check_winner(task, cut)
    if cut.search is None:
        return
    assert cut.search.is_closed
    assert cut.search.asked_after_the_end == []
    if cut.found.rows == len(task.valset):
        trials = {trial.candidate: trial.score for trial in cut.found.trials}
        word = cut.search.answer
        is_known = isinstance(word, Candidate) and trials.get(word, -1.0) >= cut.found.source_score
        assert cut.found.candidate == (word if is_known else _best_of(trials, word))


def _best_of(trials: Mapping[Candidate, float], word: object) -> Candidate:
    """The best trial, the source for a strategy whose last word is worse than that."""
    source = next(iter(trials))
    return source if word in trials else max(trials, key=lambda candidate: trials[candidate])


def _defaults_of(optimizer: Optimizer) -> dict[str, object]:
    """The settings that a class of settings has by itself."""
    made = {field.name: field for field in fields(optimizer) if field.init}  # type: ignore[arg-type]  # checked before
    return {name: field.default for name, field in made.items() if field.default is not MISSING}


def _settings_of(optimizer: Optimizer) -> dict[str, object]:
    return {field.name: getattr(optimizer, field.name) for field in fields(optimizer) if field.init}  # type: ignore[arg-type]  # checked before


def _as_typed(settings: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in settings.items()}
