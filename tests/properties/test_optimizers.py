"""What holds for every strategy, whatever the world is like and wherever the budget ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.optimizers.base import (
    Completion,
    Outcome,
    Row,
    Task,
)
from pytest_promptopt.optimizers.copro import Copro
from pytest_promptopt.optimizers.driver import Found
from pytest_promptopt.optimizers.guards import COPIED_WORDS, make_guard
from pytest_promptopt.optimizers.proposals import clean_instruction, sift
from pytest_promptopt.optimizers.registry import OPTIMIZERS, make_optimizer
from pytest_promptopt.prompts.candidate import Candidate
from tests.optimizer_world import make_task, outcome_of, run, sizes_of

SMALL = {
    "labeled-few-shot": {"k": 3},
    "bootstrap-few-shot": {"max_bootstrapped_demos": 2, "max_labeled_demos": 3, "max_rounds": 2},
    "bootstrap-random-search": {"num_candidates": 3, "max_labeled_demos": 3, "sets_per_round": 2},
    "copro": {"breadth": 3, "depth": 2},
    "auto": {"num_candidates": 2, "breadth": 2, "depth": 2},
}

every_strategy = pytest.mark.parametrize("name", OPTIMIZERS)
few = settings(max_examples=25, deadline=None, derandomize=True)


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    prompts = draw(st.sampled_from([("route",), ("route", "reply")]))
    return make_task(
        train=draw(st.integers(0, 9)),
        val=draw(st.integers(1, 9)),
        prompts=prompts,
        labelled=draw(st.sampled_from([prompts, prompts[:1], ()])),
        instruction=draw(st.sampled_from(["Name it.", "Name it. It may be rain.", "Never say {text}, rain or food."])),
    )


def search(name: str, task: Task, **world: object) -> Found:
    return run(make_optimizer(name, SMALL[name]), task, **world).found  # type: ignore[arg-type]


@every_strategy
@few
@given(task=tasks(), seed=st.integers(0, 2**32), own=st.booleans())
def test_the_same_seed_gives_the_same_search(name: str, task: Task, seed: int, own: bool) -> None:
    assert search(name, task, seed=seed, is_own_teacher=own) == search(name, task, seed=seed, is_own_teacher=own)


@every_strategy
@few
@given(task=tasks(), seed=st.integers(0, 99), max_calls=st.integers(0, 120), own=st.booleans())
def test_no_search_exceeds_its_allowance_or_returns_less_than_the_source(
    name: str, task: Task, seed: int, max_calls: int, own: bool
) -> None:
    found = search(name, task, seed=seed, max_calls=max_calls, is_own_teacher=own)
    assert found.calls <= max_calls
    assert found.score >= found.source_score
    assert found.score == task.mean(task.valset, [outcome_of(found.candidate, row) for row in task.valset])
    assert found.score == max(trial.score for trial in found.trials)


@every_strategy
@few
@given(task=tasks(), seed=st.integers(0, 99), max_calls=st.integers(0, 120))
def test_a_cut_search_is_the_beginning_of_the_whole_one(name: str, task: Task, seed: int, max_calls: int) -> None:
    cut, whole = search(name, task, seed=seed, max_calls=max_calls), search(name, task, seed=seed)
    assert cut.trials == whole.trials[: len(cut.trials)]
    assert cut.is_cut == (whole.calls > max_calls)


@every_strategy
@few
@given(task=tasks(), seed=st.integers(0, 99), own=st.booleans())
def test_calls_lie_within_what_was_expected_unless_nothing_is_to_gain(
    name: str, task: Task, seed: int, own: bool
) -> None:
    fewest, most = make_optimizer(name, SMALL[name]).expected_calls(sizes_of(task, is_own_teacher=own))
    found = search(name, task, seed=seed, is_own_teacher=own)
    assert found.calls <= most
    if found.source_score < 1.0 and all(prompt.labelled for prompt in task.prompts):
        assert fewest <= found.calls


@every_strategy
@few
@given(task=tasks(), seed=st.integers(0, 99), threshold=st.integers(0, 15))
def test_a_candidate_that_makes_the_metric_raise_never_wins(name: str, task: Task, seed: int, threshold: int) -> None:
    def is_bad(candidate: Candidate) -> bool:
        return candidate != task.source and int(candidate.digest[0], 16) >= threshold

    def judge(candidate: Candidate, row: Row) -> Outcome:
        if is_bad(candidate):
            return Outcome(score=None, feedback="KeyError", is_rejected=True)
        return outcome_of(candidate, row)

    found = search(name, task, seed=seed, judge=judge)
    assert not is_bad(found.candidate)
    assert all(is_bad(rejection.subject) for rejection in found.rejected if isinstance(rejection.subject, Candidate))


@few
@given(task=tasks(), replies=st.lists(st.text(max_size=60), min_size=1, max_size=5))
def test_whatever_a_proposer_says_no_call_is_lost_and_no_row_is_asked_twice(task: Task, replies: list[str]) -> None:
    def babble(completion: Completion) -> str:
        return replies[completion.draw % len(replies)]

    found = run(Copro(breadth=4, depth=2), task, proposer=babble).found
    assert found.score >= found.source_score


@every_strategy
@few
@given(task=tasks(), seed=st.integers(0, 9), own=st.booleans())
def test_a_budget_may_end_at_any_request(name: str, task: Task, seed: int, own: bool) -> None:
    whole = search(name, task, seed=seed, is_own_teacher=own)
    for end_at in range(1, 40):
        found = search(name, task, seed=seed, is_own_teacher=own, end_at=end_at)
        assert found.trials == whole.trials[: len(found.trials)]
        assert found.score == max(trial.score for trial in found.trials)
        if not found.is_cut:
            break
    assert found == whole


@few
@given(seed=st.integers(0, 99), name=st.sampled_from(sorted(OPTIMIZERS)))
def test_every_row_a_strategy_asks_for_is_a_train_or_val_row_of_its_task(seed: int, name: str) -> None:
    task = make_task(train=6, val=5)
    asked: list[Row] = []

    def judge(candidate: Candidate, row: Row) -> Outcome:
        asked.append(row)
        return outcome_of(candidate, row)

    search(name, task, seed=seed, judge=judge)
    assert set(asked) <= {*task.trainset, *task.valset}


words = st.lists(st.sampled_from(["the", "train", "was", "late", "again", "so"]), max_size=14)


@few
@given(source=words, inputs=st.lists(words, max_size=4), reply=words)
def test_no_instruction_that_passes_copies_five_words_that_the_source_has_not(
    source: list[str], inputs: list[list[str]], reply: list[str]
) -> None:
    prompt = make_task(instruction=" ".join(["Name it.", *source])).prompts[0]
    texts = [" ".join(each) for each in inputs]
    inputs_by_row = [(str(number), text) for number, text in enumerate(texts)]
    prompt = replace(prompt, guard=make_guard(prompt.signature, prompt.source, inputs_by_row))
    for instruction in sift([" ".join(reply)], prompt, [], max_words=99).instructions:
        runs = [" ".join(reply[start : start + COPIED_WORDS]) for start in range(len(reply) - COPIED_WORDS + 1)]
        copied = [run for run in runs if any(f" {run} " in f" {text} " for text in texts)]
        assert all(f" {run} " in f" {' '.join(source)} " for run in copied)
        assert instruction == " ".join(reply)


@few
@given(text=st.text(alphabet="abc `\n.", min_size=1).map(str.strip).filter(bool))
def test_an_instruction_between_fences_comes_back_as_it_was(text: str) -> None:
    fence = "`" * 12
    if "```" not in text and not (text[0] == text[-1] == "`"):
        assert clean_instruction(f"Sure!\n{fence}\n{text}\n{fence}") == text
