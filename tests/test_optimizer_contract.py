from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable, ItemsView, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from itertools import count
from pathlib import Path
from random import Random

import pytest
from hypothesis import Phase, settings

from pytest_promptopt.errors import BudgetExhausted, UsageError
from pytest_promptopt.optimizers.base import Completion, Optimizer, Row, Search, Sizes, Task, TunablePrompt
from pytest_promptopt.optimizers.evaluating import (
    Scores,
    Steps,
    announce,
    best_of,
    calls_left,
    complete,
    evaluate,
    reject,
    score,
    trace,
)
from pytest_promptopt.optimizers.proposals import clean_instruction, instructed, sift
from pytest_promptopt.optimizers.registry import OPTIMIZERS, make_optimizer
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt
from pytest_promptopt.testing import OptimizerContract
from pytest_promptopt.testing.world import METRIC, TOPICS, make_task, run, text_of

NUMBERS = count()
"""Never the same twice in a process, as the clock."""

SMALL = {
    "k": 3,
    "max_bootstrapped_demos": 2,
    "max_labeled_demos": 3,
    "max_rounds": 2,
    "num_candidates": 3,
    "sets_per_round": 2,
    "num_sets": 4,
    "num_trials": 4,
    "trials_per_round": 2,
    "breadth": 3,
    "depth": 2,
    "max_evaluations": 8,
    "patience": 4,
    "num_proposals": 2,
    "num_demo_sets": 2,
    "generations": 2,
    "children": 3,
    "minibatch_size": 4,
    "minibatch_full_eval_steps": 2,
}
"""Settings that keep a search short, for strategies that have them."""

VARIANTS: dict[str, dict[str, object]] = {"gepa": {"use_merge": True}}
"""Settings that make another algorithm of a strategy."""


def make_small(name: str, **settings: object) -> Optimizer:
    module, _, attribute = OPTIMIZERS[name].partition(":")
    known = {field.name for field in fields(getattr(import_module(module), attribute))}
    return make_optimizer(name, {key: value for key, value in SMALL.items() if key in known} | settings)


class TestEveryStrategy(OptimizerContract):
    max_examples = 12

    @pytest.fixture(params=OPTIMIZERS, autouse=True)
    def _strategy(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param
        self.address = OPTIMIZERS[self.name]

    def make_optimizer(self) -> Optimizer:
        return make_small(self.name)


class TestEveryVariant(OptimizerContract):
    max_examples = 6

    @pytest.fixture(params=VARIANTS, autouse=True)
    def _strategy(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param
        self.address = OPTIMIZERS[self.name]

    def make_optimizer(self) -> Optimizer:
        return make_small(self.name, **VARIANTS[self.name])


def test_strategies_are_imported_when_they_are_chosen_and_not_before() -> None:
    code = """
import sys
from pytest_promptopt.optimizers.registry import OPTIMIZERS, make_optimizer
modules = {address.partition(":")[0] for address in OPTIMIZERS.values()}
assert not modules & set(sys.modules), modules & set(sys.modules)
make_optimizer("labeled-few-shot", {}, extra={"ghost": "nowhere:Ghost"})
assert modules & set(sys.modules) == {OPTIMIZERS["labeled-few-shot"].partition(":")[0]}
assert not {"hypothesis", "numpy", "optuna", "pytest"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1], timeout=60)


@pytest.mark.parametrize(
    "address", ["nowhere:Ghost", "json:Ghost", "json", "", ":Ghost", ".json:Ghost", "json:dumps", "json:JSONDecoder"]
)
def test_an_address_that_leads_to_no_strategy_is_a_usage_error_that_names_it(address: str) -> None:
    with pytest.raises(UsageError, match=f"'ghost' cannot be loaded from '{re.escape(address)}'"):
        make_optimizer("ghost", {}, extra={"ghost": address})


@dataclass(frozen=True, kw_only=True)
class Honest:
    """Traces, and then asks for one instruction a try; those below do one of these things as nobody should."""

    tries: int = 2

    def search(self, task: Task, rng: Random) -> Search:
        yield from trace(((task.source, row) for row in task.trainset), 0)
        scores = dict((yield from score(task, [task.source])))
        for number in range(self.tries):
            scores.update((yield from self.step(task, best_of(scores), [*scores], number, rng)))
        return best_of(scores)

    def step(self, task: Task, best: Candidate, tried: list[Candidate], number: int, rng: Random) -> Steps[Scores]:
        prompt = task.prompts[number % len(task.prompts)]
        (reply,) = yield from complete([self.ask(prompt, best, number, rng)])
        read = self.read(reply, prompt, [candidate[prompt.name].instruction for candidate in tried])
        return (yield from score(task, [instructed(best, prompt.name, instruction) for instruction in read]))

    def read(self, reply: str, prompt: TunablePrompt, known: list[str]) -> tuple[str, ...]:
        return sift([reply], prompt, known, max_words=100).instructions

    def ask(self, prompt: TunablePrompt, best: Candidate, number: int, rng: Random) -> Completion:
        topics = f"\n{rng.choice(TOPICS)} {rng.choice(TOPICS)}"
        return Completion(messages=({"role": "user", "content": f"```{best[prompt.name].instruction}```{topics}"},))

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        traces = 0 if sizes.is_own_teacher else sizes.train_rows * sizes.calls_per_row
        return traces + self.tries, traces + self.tries * (1 + sizes.val_rows * sizes.calls_per_row)


class TestHonest(OptimizerContract):
    address = f"{__name__}:Honest"

    def make_optimizer(self) -> Optimizer:
        return Honest(tries=3)


# What each of these does wrong fails the promise it breaks, and no other.


@dataclass(frozen=True, kw_only=True)
class DrawsFromTheProcess(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        random.random()
        return (yield from super().search(task, rng))


@dataclass(frozen=True, kw_only=True)
class Remembers(Honest):
    searched: list[Task] = field(default_factory=list, init=False, compare=False)

    def search(self, task: Task, rng: Random) -> Search:
        self.searched.append(task)
        return (yield from super().search(task, Random(len(self.searched))))


@dataclass(frozen=True, kw_only=True)
class TakesZeroForNone(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        return (yield from super().search(task, Random(rng.getrandbits(32) or None)))


@dataclass(frozen=True, kw_only=True)
class GoesThroughASet(Honest):
    def read(self, reply: str, prompt: TunablePrompt, known: list[str]) -> tuple[str, ...]:
        return (f"{known[0]} {next(iter({str(number) for number in range(1000)}))}",)


class Heard(Candidate):
    """A candidate that tells when somebody reads it."""

    def __init__(self, prompts: Mapping[str, CompiledPrompt], heard: list[str]) -> None:
        super().__init__(prompts)
        self.heard = heard

    def items(self) -> ItemsView[str, CompiledPrompt]:
        self.heard.append(self.digest)
        return super().items()


@dataclass(frozen=True, kw_only=True)
class TakesWhatIsReadFirst(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        heard: list[str] = []
        source = task.source[task.prompts[0].name].instruction
        made = [instructed(task.source, task.prompts[0].name, f"{source} Or {topic}.") for topic in TOPICS[1:3]]
        candidates = [Heard(candidate, heard) for candidate in made]
        yield from evaluate((candidate, row) for candidate in candidates for row in task.valset)
        return next((each for each in candidates if each.digest in heard[:1]), task.source)

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        calls = 2 * sizes.val_rows * sizes.calls_per_row
        return calls, calls


@dataclass(frozen=True, kw_only=True)
class AsksAnotherWayEachTime(Honest):
    def ask(self, prompt: TunablePrompt, best: Candidate, number: int, rng: Random) -> Completion:
        (message,) = super().ask(prompt, best, number, rng).messages
        return Completion(messages=({"role": "user", "content": f"{message['content']}\nNo. {next(NUMBERS)}"},))


class Tagged(Candidate):
    """A candidate that is not equal to another of the same content."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tagged) and super().__eq__(other)

    def __hash__(self) -> int:
        return hash(("tagged", self.digest))


@dataclass(frozen=True, kw_only=True)
class PaysTwice(Honest):
    def step(self, task: Task, best: Candidate, tried: list[Candidate], number: int, rng: Random) -> Steps[Scores]:
        scores = yield from super().step(task, best, tried, number, rng)
        yield from evaluate((Tagged(candidate), task.valset[0]) for candidate in scores)
        return scores

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        fewest, most = super().expected_calls(sizes)
        return fewest, most + self.tries * sizes.calls_per_row


@dataclass(frozen=True, kw_only=True)
class ForgetsTheForeignTeacher(Honest):
    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        return super().expected_calls(replace(sizes, is_own_teacher=True))


@dataclass(frozen=True, kw_only=True)
class ExpectsTooMuch(Honest):
    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        _, most = super().expected_calls(sizes)
        return most + 1, most + 1


@dataclass(frozen=True, kw_only=True)
class KnowsOneMetric(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        (_,) = task.weights
        return (yield from super().search(task, rng))


@dataclass(frozen=True, kw_only=True)
class TakesSkippedRowsForScores(Honest):
    def step(self, task: Task, best: Candidate, tried: list[Candidate], number: int, rng: Random) -> Steps[Scores]:
        scores = yield from super().step(task, best, tried, number, rng)
        outcomes = yield from evaluate((best, row) for row in task.valset)
        if scores and sum(outcome.score for outcome in outcomes) > len(outcomes):  # type: ignore[misc]  # what it does wrong
            raise AssertionError("more than full marks")
        return scores


@dataclass(frozen=True, kw_only=True)
class TakesRejectedCandidatesForScored(Honest):
    def step(self, task: Task, best: Candidate, tried: list[Candidate], number: int, rng: Random) -> Steps[Scores]:
        prompt = task.prompts[number % len(task.prompts)]
        (reply,) = yield from complete([self.ask(prompt, best, number, rng)])
        for instruction in self.read(reply, prompt, [candidate[prompt.name].instruction for candidate in tried]):
            outcomes = yield from evaluate((instructed(best, prompt.name, instruction), row) for row in task.valset)
            return {best: task.mean(task.valset, outcomes) + 0.0}  # type: ignore[operator]  # what it does wrong
        return {}


@dataclass(frozen=True, kw_only=True)
class ChokesOnEmptyReplies(Honest):
    def read(self, reply: str, prompt: TunablePrompt, known: list[str]) -> tuple[str, ...]:
        assert reply.strip('` \n"'), "the proposer always says something"
        return super().read(reply, prompt, known)


@dataclass(frozen=True, kw_only=True)
class TakesAnyLength(Honest):
    def read(self, reply: str, prompt: TunablePrompt, known: list[str]) -> tuple[str, ...]:
        return sift([reply], prompt, known, max_words=10**6).instructions


@dataclass(frozen=True, kw_only=True)
class TakesOpenFences(Honest):
    def read(self, reply: str, prompt: TunablePrompt, known: list[str]) -> tuple[str, ...]:
        return sift([reply.replace("```", "")], prompt, known, max_words=100).instructions


@dataclass(frozen=True, kw_only=True)
class ForgetsTheWeights(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        best = yield from super().search(replace(task, weights=dict.fromkeys(task.weights, 1.0)), rng)
        return best


@dataclass(frozen=True, kw_only=True)
class GivesUpInSilence(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        left = yield from calls_left()
        if left is not None and left < 1 + len(task.valset):
            return task.source
        return (yield from super().search(task, rng))


@dataclass(frozen=True, kw_only=True)
class AsksOn(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        try:
            return (yield from super().search(task, rng))
        except BudgetExhausted:
            yield from evaluate((task.source, row) for row in task.valset)
            return task.source


@dataclass(frozen=True, kw_only=True)
class WillNotBeClosed(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        try:
            return (yield from super().search(task, rng))
        except GeneratorExit:
            yield from announce("not yet", round=1, rounds=1)
            return task.source


class Talk:
    """What a driver uses of a generator, and no more."""

    def __init__(self, search: Search) -> None:
        self.send, self.throw, self.close = search.send, search.throw, search.close


@dataclass(frozen=True, kw_only=True)
class GivesHalfAGenerator(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        return Talk(super().search(task, rng))  # type: ignore[return-value]  # what it does wrong


@dataclass(kw_only=True)
class CanBeChanged:
    tries: int = 2

    def search(self, task: Task, rng: Random) -> Search:
        return Honest(tries=self.tries).search(task, rng)

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        return Honest(tries=self.tries).expected_calls(sizes)


@dataclass(frozen=True, kw_only=True)
class CannotBeTyped(Honest):
    topics: tuple[str, ...] = TOPICS


EXACTLY: dict[type[Optimizer], set[str]] = {
    DrawsFromTheProcess: {"test_it_draws_from_the_generator_that_it_is_given_alone"},
    Remembers: {"test_it_keeps_nothing_between_searches"},
    TakesZeroForNone: {"test_a_seed_of_its_own_that_is_drawn_as_zero_counts_like_any_other"},
    GoesThroughASet: {"test_another_process_finds_the_same"},
    TakesWhatIsReadFirst: {
        "test_replies_that_come_in_another_order_change_nothing",
        "test_a_second_run_asks_the_same_and_spends_nothing",  # from the store nothing is read
    },
    AsksAnotherWayEachTime: {"test_a_second_run_asks_the_same_and_spends_nothing"},
    PaysTwice: {"test_no_candidate_is_paid_twice_for_a_row"},
    ForgetsTheForeignTeacher: {
        "test_calls_lie_within_what_was_expected_with_a_foreign_teacher",
        "test_a_proposer_that_repeats_itself_is_survived",  # and costs no more than was expected
    },
    ExpectsTooMuch: {
        "test_calls_lie_within_what_was_expected_with_its_own_teacher",
        "test_calls_lie_within_what_was_expected_with_a_foreign_teacher",
    },
    KnowsOneMetric: {"test_metrics_weigh_as_they_are_told", "test_the_pick_follows_the_weights"},
    TakesSkippedRowsForScores: {"test_rows_without_a_score_are_left_out"},
    TakesRejectedCandidatesForScored: {
        "test_a_candidate_that_makes_the_metric_raise_is_rejected_and_the_search_goes_on"
    },
    ChokesOnEmptyReplies: {
        "test_a_proposer_that_says_nothing_is_survived",
        "test_a_proposer_that_babbles_is_survived",  # an empty text is one of any
    },
    TakesAnyLength: {"test_an_enormous_proposal_never_wins"},
    TakesOpenFences: {"test_a_proposal_whose_fence_never_closes_never_wins"},
    ForgetsTheWeights: {"test_the_pick_follows_the_weights"},
    GivesUpInSilence: {"test_a_search_that_tries_nothing_says_why"},
    AsksOn: {"test_it_stops_well_wherever_the_budget_ends", "test_it_stops_as_well_inside_other_strategies"},
    WillNotBeClosed: {"test_an_error_of_a_provider_at_any_request_ends_it_and_is_passed_on"},
    GivesHalfAGenerator: {"test_it_stops_as_well_inside_other_strategies"},
    CanBeChanged: {"test_its_settings_are_frozen_and_can_be_typed"},
    CannotBeTyped: {
        "test_its_settings_are_frozen_and_can_be_typed",
        "test_it_loads_by_its_address",
        "test_another_process_finds_the_same",  # which it is loaded in by its address
    },
}
"""Strategy → the promises that it breaks; it keeps all others."""


# These do what shows in many places; the promise that speaks of it is among those that they break.


@dataclass(frozen=True, kw_only=True)
class TossesACoin(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        return (yield from super().search(task, Random(next(NUMBERS))))


@dataclass(frozen=True, kw_only=True)
class PeeksAtSealedRows(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        yield from evaluate([(task.source, Row(metric=METRIC, id="test-1"))])
        return (yield from super().search(task, rng))


@dataclass(frozen=True, kw_only=True)
class LosesAPrompt(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        winner = yield from super().search(task, rng)
        return Candidate({task.prompts[0].name: winner[task.prompts[0].name]})


@dataclass(frozen=True, kw_only=True)
class NeedsLabels(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        assert task.prompts[0].labelled
        return (yield from super().search(task, rng))


@dataclass(frozen=True, kw_only=True)
class NeedsTrainRows(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        rng.sample(task.trainset, 3)
        return (yield from super().search(task, rng))


@dataclass(frozen=True, kw_only=True)
class NeedsOtherValRows(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        assert {*task.valset} - {*task.trainset}
        return (yield from super().search(task, rng))


@dataclass(frozen=True, kw_only=True)
class AnswersNothing(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        yield from super().search(task, rng)
        return None  # type: ignore[return-value]  # what it does wrong


@dataclass(frozen=True, kw_only=True)
class EndsWithAnApology(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        try:
            return (yield from super().search(task, rng))
        except BudgetExhausted:
            return "sorry"  # type: ignore[return-value]  # what it does wrong


@dataclass(frozen=True, kw_only=True)
class AsksUntilItHearsSomethingElse(Honest):
    def step(self, task: Task, best: Candidate, tried: list[Candidate], number: int, rng: Random) -> Steps[Scores]:
        prompt, source = task.prompts[0], task.source[task.prompts[0].name].instruction
        for draw in count():
            (reply,) = yield from complete([replace(self.ask(prompt, best, number, rng), draw=draw)])
            if source not in reply:
                break
        return {}


@dataclass(frozen=True, kw_only=True)
class TellsOfRejectionsInTheEnd(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        prompt = task.prompts[0]
        source = prompt.source.instruction
        asked = [replace(self.ask(prompt, task.source, draw, rng), draw=draw) for draw in range(4)]
        sifted = sift((yield from complete(asked)), prompt, [source], max_words=100)
        made = [instructed(task.source, prompt.name, instruction) for instruction in sifted.instructions]
        scores = yield from score(task, [task.source, *made])
        yield from reject(sifted.rejected)
        return best_of(scores)


AMONG_OTHERS: dict[type[Optimizer], set[str]] = {
    TossesACoin: {"test_the_same_seed_gives_the_same_search", "test_a_cut_search_is_the_beginning_of_the_whole_one"},
    PeeksAtSealedRows: {"test_no_row_is_asked_for_but_those_of_the_task"},
    LosesAPrompt: {"test_a_program_of_several_prompts_keeps_them_all"},
    NeedsLabels: {"test_no_labelled_row_is_needed"},
    NeedsTrainRows: {"test_one_train_row_is_enough"},
    NeedsOtherValRows: {"test_train_and_val_rows_may_be_the_same"},
    AnswersNothing: {"test_the_winner_is_no_worse_than_the_source_on_the_val_rows"},
    EndsWithAnApology: {"test_no_ceiling_is_exceeded_by_one_call", "test_it_stops_well_wherever_the_budget_ends"},
    TellsOfRejectionsInTheEnd: {"test_every_rejection_is_told_wherever_the_budget_ends"},
    AsksUntilItHearsSomethingElse: {"test_a_proposer_that_repeats_itself_is_survived"},
}

KEPT_BY_THE_DRIVER = {
    "test_a_perfect_source_is_left_as_it_is_without_a_call",
    "test_a_proposal_that_copies_training_inputs_never_wins",
    "test_a_proposal_that_loses_a_placeholder_never_wins",
}
"""Promises that no strategy can break; what they would break is shown below."""


def contract_of(strategy: type[Optimizer], *, max_examples: int = 4, at: str = "") -> OptimizerContract:
    class Contract(OptimizerContract):
        address = at or f"{strategy.__module__}:{strategy.__qualname__}"

        def make_optimizer(self) -> Optimizer:
            return strategy()

        def hypothesis_settings(self, max_examples: int) -> settings:
            phases = (Phase.explicit, Phase.generate)  # a failure need not be made small
            return settings(super().hypothesis_settings(max_examples), phases=phases, report_multiple_bugs=False)

    Contract.max_examples = max_examples
    return Contract()


PROMISES = sorted(name for name in vars(OptimizerContract) if name.startswith("test_"))


QUICK = {name for name in PROMISES if "another_process" not in name}
"""Promises that need no process of their own, which takes half a second."""


def broken_by(strategy: type[Optimizer], promises: Iterable[str] = QUICK, *, max_examples: int = 4) -> set[str]:
    contract = contract_of(strategy, max_examples=max_examples)
    return {name for name in sorted(promises) if is_broken(getattr(contract, name))}


def is_broken(promise: Callable[[], None]) -> bool:
    try:
        promise()
    except (Exception, BaseExceptionGroup, BudgetExhausted):
        return True
    return False


@pytest.mark.parametrize("strategy", EXACTLY, ids=lambda strategy: strategy.__name__)
def test_a_strategy_that_breaks_a_promise_fails_it_and_no_other(strategy: type[Optimizer]) -> None:
    assert broken_by(strategy, QUICK | EXACTLY[strategy]) == EXACTLY[strategy]


@pytest.mark.parametrize("strategy", AMONG_OTHERS, ids=lambda strategy: strategy.__name__)
def test_a_strategy_that_breaks_much_fails_the_promise_that_speaks_of_it(strategy: type[Optimizer]) -> None:
    assert broken_by(strategy, AMONG_OTHERS[strategy], max_examples=30) == AMONG_OTHERS[strategy]


def test_an_address_of_something_else_is_found_out() -> None:
    promise = "test_it_loads_by_its_address"
    assert is_broken(getattr(contract_of(Honest, at="nowhere:Honest"), promise))
    assert is_broken(getattr(contract_of(Honest, at=f"{__name__}:AsksOn"), promise))


def test_every_promise_is_seen_broken_unless_the_driver_keeps_it() -> None:
    seen = set().union(*EXACTLY.values(), *AMONG_OTHERS.values())
    assert seen | KEPT_BY_THE_DRIVER == set(PROMISES)
    assert not seen & KEPT_BY_THE_DRIVER


# What the driver stops: the contract holds, because what was tried came to nothing.


@dataclass(frozen=True, kw_only=True)
class AsksForEverythingAtOnce(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        name = task.prompts[0].name
        source = task.source[name].instruction
        made = [instructed(task.source, name, f"{source} Or {topic}.") for topic in TOPICS]
        yield from evaluate((candidate, row) for candidate in made for row in task.valset)
        return made[0]

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        calls = len(TOPICS) * sizes.val_rows * sizes.calls_per_row
        return calls, calls


def test_a_batch_beyond_the_ceiling_is_refused_before_any_of_it_runs() -> None:
    assert broken_by(AsksForEverythingAtOnce) == {"test_the_pick_follows_the_weights"}  # it picks nothing
    found = run(AsksForEverythingAtOnce(), make_task(), max_calls=71).found
    assert (found.calls, found.is_cut) == (0, True)


@dataclass(frozen=True, kw_only=True)
class AnswersWithTheWorst(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        winner = yield from super().search(task, rng)
        return instructed(winner, task.prompts[0].name, "Guess {text}.")

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        fewest, most = super().expected_calls(sizes)
        return fewest, most + sizes.val_rows * sizes.calls_per_row


def test_an_answer_below_the_source_gives_the_source() -> None:
    assert broken_by(AnswersWithTheWorst) == {"test_the_pick_follows_the_weights"}  # it picks nothing
    task = make_task()
    assert run(AnswersWithTheWorst(), task).found.candidate == task.source


@dataclass(frozen=True, kw_only=True)
class TakesWhatItIsTold(Honest):
    def read(self, reply: str, prompt: TunablePrompt, known: list[str]) -> tuple[str, ...]:
        instruction = clean_instruction(reply)
        return (instruction,) if instruction and len(instruction) < 2_000 else ()


def test_copies_and_lost_placeholders_are_refused_whoever_takes_them() -> None:
    assert broken_by(TakesWhatItIsTold) == set()
    task = make_task(instruction="Name the topic of {text}.")
    copied = run(TakesWhatItIsTold(), task, proposer=lambda _: f"{{text}}: {text_of(task.trainset[0])}").found
    lost = run(TakesWhatItIsTold(), task, proposer=lambda _: "Name it.").found
    assert [rejection.reason for rejection in copied.rejected] == ["route copies row train-0"]
    assert [rejection.reason for rejection in lost.rejected] == ["route loses {text}"]


@dataclass(frozen=True, kw_only=True)
class SearchesOn(Honest):
    def search(self, task: Task, rng: Random) -> Search:
        assert "books" not in task.source[task.prompts[0].name].instruction, "what is perfect is not searched"
        return (yield from super().search(task, rng))


def test_a_perfect_source_never_reaches_a_strategy() -> None:
    assert broken_by(SearchesOn) == set()
