from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import count, islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.errors import UsageError
from pytest_promptopt.optimizers.base import Completion, Outcome, Row, Task
from pytest_promptopt.optimizers.driver import RoundEnded, RowsScored
from pytest_promptopt.optimizers.gepa import ROUND, Gepa
from pytest_promptopt.optimizers.gepa_pool import Pool, deal, sample_contested
from pytest_promptopt.optimizers.registry import make_optimizer
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt
from tests.optimizer_world import (
    METRIC,
    TOPICS,
    Run,
    make_rows,
    make_task,
    outcome_of,
    propose,
    run,
    sizes_of,
    topic_of,
)

ALL_BUT_MONEY = f"Name the topic: {', '.join(TOPICS[:-1])}."
few = settings(max_examples=25, deadline=None, derandomize=True)


def rounds_of(ran: Run) -> list[RoundEnded]:
    return [event for event in ran.events if isinstance(event, RoundEnded)]


def request_of(completion: Completion) -> str:
    return completion.messages[-1]["content"]


def runs_of(ran: Run, candidate: Candidate) -> list[tuple[Row, ...]]:
    return [event.rows for event in ran.events if isinstance(event, RowsScored) and event.candidate == candidate]


def numbered() -> Callable[[Completion], str]:
    """A proposer that never repeats itself and never helps."""
    numbers = count(1)
    return lambda _: f"Name the topic, attempt {next(numbers)}."


def improving(candidate: Candidate, row: Row) -> Outcome:
    """A world in which every further attempt is a little better, on every row."""
    attempts = [compiled.instruction.rpartition("attempt ")[2].rstrip(".") for compiled in candidate.values()]
    score = max(int(attempt) if attempt.isdigit() else 0 for attempt in attempts) / 1000
    return replace(outcome_of(candidate, row), score=score, feedback="no")


# reflection


def test_it_climbs_from_one_topic_to_all_of_them() -> None:
    ran = run(Gepa(), make_task())
    assert ran.found.score == 1.0
    assert all(topic in ran.found.candidate["route"].instruction for topic in TOPICS)
    assert rounds_of(ran)[-1].text == "1 proposal: 1 accepted; nothing left to gain"


def test_a_request_shows_the_rows_of_one_minibatch_failures_apart_from_what_worked() -> None:
    task = make_task(instruction="Say rain, music, food or books.")
    for completion in run(Gepa(reflection_minibatch_size=4), task).world.completions:
        worked, _, failed = request_of(completion).partition("Where the current instruction failed")
        shown = [row for row in task.trainset if f'"{row.id} speaks' in request_of(completion)]
        assert len(shown) == 4
        assert failed.count("the test said: assert 'unknown' == '") == failed.count("the model answered: unknown") > 0
        assert worked.count(" speaks ") + failed.count("the test said") == 4


def test_a_child_that_is_no_better_on_its_minibatch_runs_on_no_val_row() -> None:
    task = make_task()
    ran = run(Gepa(patience=5), task, proposer=numbered())
    assert [trial.candidate for trial in ran.found.trials] == [task.source]
    assert ran.found.calls == 5 * (1 + 3)
    assert rounds_of(ran)[-1].text == "5 proposals: 5 no better; the last 5 brought nothing"


def test_a_child_must_do_strictly_better_to_be_accepted() -> None:
    def judge(candidate: Candidate, row: Row) -> Outcome:
        return replace(outcome_of(candidate, row), score=0.3)

    assert len(run(Gepa(), make_task(), judge=judge).found.trials) == 1


def test_an_accepted_child_runs_on_all_val_rows_and_on_nothing_twice() -> None:
    task = make_task(train=12, val=10)
    ran = run(Gepa(), task)
    child = ran.found.trials[1].candidate
    first, second, *_ = runs_of(ran, child)
    assert set(first) < set(task.trainset)
    assert len(first) == 3
    assert second == task.valset


def test_a_child_of_the_source_costs_its_own_runs_and_one_proposal_alone() -> None:
    ran = run(Gepa(max_evaluations=2), make_task(train=12, val=12))
    assert ran.found.calls == 1 + 3 + 12, "what the source does on its minibatch is known"


def test_where_train_and_val_rows_are_the_same_a_child_runs_on_each_once() -> None:
    ran = run(Gepa(), make_task(train=4, is_merged=True))
    assert ran.found.score == 1.0
    assert ran.found.calls == 3 * (1 + 4), "three topics are missing"


def test_it_begins_from_the_demos_that_are_there_and_keeps_them() -> None:
    task = make_task()
    shown = CompiledPrompt(instruction="Name the topic.", demos=(task.prompts[0].labelled[1],))
    winner = run(Gepa(), replace(task, source=Candidate({"route": shown}))).found.candidate["route"]
    assert winner.demos == shown.demos
    assert winner.instruction != shown.instruction


def test_an_adopted_text_keeps_its_placeholder() -> None:
    ran = run(Gepa(), make_task(adopted=("route",)), proposer=lambda asked: TOPICS[len(request_of(asked)) % 6])
    assert ran.found.candidate == ran.world.task.source
    assert {rejection.reason.split()[0] for rejection in ran.found.rejected} <= {"loses", "repeated"}
    assert run(Gepa(), make_task(adopted=("route",))).found.score == 1.0


# near-saturated tasks


def test_minibatches_without_a_known_failure_are_passed_over_without_a_call() -> None:
    ran = run(Gepa(), make_task(train=24, val=12, instruction=ALL_BUT_MONEY))
    assert ran.found.score == 1.0
    assert ran.found.calls == 1 + 3 + 12, "four of 24 rows fail, and the first request shows one of them"


@pytest.mark.parametrize("instruction", [f"{ALL_BUT_MONEY} Or money.", ALL_BUT_MONEY])
def test_where_no_train_row_fails_it_ends_without_a_call(instruction: str) -> None:
    task = make_task(train=5, val=6, instruction=instruction)
    ran = run(Gepa(), replace(task, valset=make_rows("val", 6)), judge=_hard_val_rows)
    assert (ran.found.candidate, ran.found.calls) == (task.source, 0)
    assert [event.text for event in rounds_of(ran)] == ["no train row fails that could teach"]


def _hard_val_rows(candidate: Candidate, row: Row) -> Outcome:
    outcome = outcome_of(candidate, row)
    return replace(outcome, score=0.0) if row.id.startswith("val") else outcome


def test_a_parent_that_its_ancestors_failures_do_not_predict_is_looked_at_row_by_row() -> None:
    def judge(candidate: Candidate, row: Row) -> Outcome:
        """The source fails on one train row; its child mends that and breaks another."""
        broken = "train-2" if candidate["route"].instruction == "Say it." else "train-11"
        gain = 0.5 * (candidate["route"].instruction != "Say it.")
        score = float(row.id != broken) if row.id.startswith("train") else gain * (row.id != "val-0")
        return replace(outcome_of(candidate, row), score=score, feedback="no")

    optimizer = Gepa(patience=3, reflection_minibatch_size=1)
    ran = run(optimizer, make_task(instruction="Say it."), judge=judge, proposer=numbered())
    assert ["train-11" in request_of(completion) for completion in ran.world.completions] == [False, True, True, True]
    assert "nothing to learn from" in rounds_of(ran)[-1].text


def test_without_train_rows_nothing_is_called() -> None:
    task = make_task(train=0)
    assert run(Gepa(), task).found.calls == 0
    assert Gepa().expected_calls(sizes_of(task)) == (0, 0)


# proposers and metrics that misbehave


@pytest.mark.parametrize("noise", ["", "   ", "```", "Name the topic. It may be rain.", "word " * 400])
def test_a_proposer_without_ideas_is_asked_as_often_as_patience_says(noise: str) -> None:
    task = make_task()
    ran = run(Gepa(patience=4), task, proposer=lambda _: noise)
    assert (ran.found.candidate, ran.found.calls) == (task.source, 4)
    assert len(ran.found.rejected) == 4
    assert rounds_of(ran)[0].text.startswith("1 proposal: 1 rejected (")


def test_what_was_tried_on_the_same_parent_is_not_tried_again() -> None:
    ran = run(Gepa(patience=6), make_task(), proposer=lambda asked: f"Guess {asked.draw // 3}.")
    assert [rejection.reason for rejection in ran.found.rejected] == ["repeated"] * 4
    assert ran.found.calls == 6 + 2 * 3


def test_a_candidate_that_makes_the_metric_raise_costs_nothing_more() -> None:
    def judge(candidate: Candidate, row: Row) -> Outcome:
        if "attempt" in candidate["route"].instruction and topic_of(row) == "music":
            return Outcome(score=None, feedback="KeyError", is_rejected=True)
        return replace(outcome_of(candidate, row), score=0.9 if "attempt" in candidate["route"].instruction else 0.1)

    task = make_task(train=6, val=6)
    ran = run(Gepa(patience=12), task, judge=judge, proposer=numbered())
    assert ran.found.candidate == task.source
    for rejection in ran.found.rejected:
        assert isinstance(rejection.subject, Candidate)
        asked = [row for rows in runs_of(ran, rejection.subject) for row in rows]
        met_it_at_once = any(topic_of(row) == "music" for row in asked[:3])
        assert len(asked) == (3 if met_it_at_once else 3 + 6)


def test_a_member_that_makes_the_metric_raise_later_is_no_parent_any_more() -> None:
    def judge(candidate: Candidate, row: Row) -> Outcome:
        is_child = "attempt" in candidate["route"].instruction
        if is_child and row.id == "train-5":
            return Outcome(score=None, feedback="KeyError", is_rejected=True)
        return replace(outcome_of(candidate, row), score=0.1 + 0.8 * is_child * (row.id != "val-0"), feedback="no")

    for seed in range(9):
        task = make_task(train=6, val=6)
        ran = run(Gepa(patience=5), task, seed=seed, judge=judge, proposer=numbered())
        for rejection in ran.found.rejected:
            assert isinstance(rejection.subject, Candidate)
            assert "train-5" in {row.id for row in runs_of(ran, rejection.subject)[-1]}, "it ended there"
            assert f"```\n{rejection.subject['route'].instruction}" not in request_of(ran.world.completions[-1])


def test_a_row_without_a_score_counts_on_neither_side() -> None:
    def judge(candidate: Candidate, row: Row) -> Outcome:
        is_left_out = "attempt" in candidate["route"].instruction and row.id == "train-0"
        score = None if is_left_out else 0.1 if row.id == "train-0" else 0.5
        return replace(outcome_of(candidate, row), score=score)

    ran = run(Gepa(reflection_minibatch_size=2, patience=3), make_task(train=2), judge=judge, proposer=numbered())
    assert len(ran.found.trials) == 1, "one row is left out, on the other nothing was gained"


def test_the_gate_weighs_metrics_as_the_task_does() -> None:
    def judge(candidate: Candidate, row: Row) -> Outcome:
        is_child = "attempt" in candidate["route"].instruction
        return replace(outcome_of(candidate, row), score=0.5 + is_child * (0.3 if row.metric == "light" else -0.2))

    def is_accepted(weight: float) -> bool:
        rows = (Row(metric="light", id="a-0"), Row(metric="heavy", id="a-1"))
        task = replace(make_task(), trainset=rows, weights={"light": 1.0, "heavy": weight, METRIC: 1.0})
        optimizer = Gepa(max_evaluations=2, patience=1, reflection_minibatch_size=2)
        return len(run(optimizer, task, judge=judge, proposer=numbered()).found.trials) > 1

    assert (is_accepted(1.0), is_accepted(2.0)) == (True, False)


# programs of several prompts


def test_prompts_take_turns() -> None:
    task = make_task(prompts=("route", "reply"))
    ran = run(Gepa(patience=4), task, proposer=numbered())
    _, *children = [event.candidate for event in ran.events if isinstance(event, RowsScored)]
    changed = [[name for name in task.source if child[name] != task.source[name]] for child in children]
    assert changed == [["route"], ["reply"], ["route"], ["reply"]]


def test_every_prompt_of_a_program_is_improved() -> None:
    assert run(Gepa(), make_task(prompts=("route", "reply"))).found.score == 1.0


def test_a_prompt_that_was_not_called_where_the_program_failed_is_passed_over() -> None:
    def judge(candidate: Candidate, row: Row) -> Outcome:
        outcome = outcome_of(candidate, row)
        calls = outcome.calls[:1]  # reply alone: names are sorted
        right = calls[0].output == topic_of(row)
        return replace(outcome, score=float(right), calls=calls, feedback="" if right else f"no {topic_of(row)}")

    ran = run(Gepa(), make_task(prompts=("route", "reply")), judge=judge)
    assert ran.found.score == 1.0
    assert ran.found.candidate["route"] == ran.world.task.source["route"]


# merging


def versions(route: str, reply: str) -> Candidate:
    return Candidate({"route": CompiledPrompt(instruction=route), "reply": CompiledPrompt(instruction=reply)})


def pool_of(scores: dict[Candidate, list[float]], parents: dict[Candidate, tuple[Candidate, ...]]) -> Pool:
    task = make_task(val=len(next(iter(scores.values()))), prompts=("route", "reply"))
    pool = Pool(task)
    for candidate, own in scores.items():
        pool.outcomes |= {(candidate, row): Outcome(score=each) for row, each in zip(task.valset, own, strict=True)}
        pool.scores[candidate] = sum(own) / len(own)
    pool.parents |= parents
    return pool


SOURCE, ROUTED, REPLIED = versions("a", "a"), versions("b", "a"), versions("a", "c")


def test_two_branches_are_crossed_prompt_by_prompt() -> None:
    scores = {SOURCE: [0.0, 0.0, 0.0], ROUTED: [1.0, 0.0, 0.0], REPLIED: [0.0, 1.0, 1.0]}
    pool = pool_of(scores, {SOURCE: (), ROUTED: (SOURCE,), REPLIED: (SOURCE,)})
    assert [crossing.child for crossing in pool.crossings()] == [versions("b", "c")]
    pool.parents[versions("b", "c")] = (ROUTED, REPLIED)
    assert pool.crossings() == [], "made before"


def test_a_prompt_that_both_branches_changed_is_the_better_ones() -> None:
    one, other = versions("b", "a"), versions("d", "c")
    scores = {SOURCE: [0.0, 0.0, 0.0], one: [1.0, 1.0, 0.0], other: [0.0, 0.0, 1.0]}
    pool = pool_of(scores, {SOURCE: (), one: (SOURCE,), other: (SOURCE,)})
    assert [crossing.child for crossing in pool.crossings()] == [versions("b", "c")]


@pytest.mark.parametrize(
    "parents",
    [{SOURCE: (), ROUTED: (SOURCE,), REPLIED: (ROUTED,)}, {SOURCE: (), REPLIED: (SOURCE,), ROUTED: (REPLIED,)}, {}],
)
def test_neither_an_ancestor_nor_a_stranger_is_crossed(parents: dict[Candidate, tuple[Candidate, ...]]) -> None:
    scores = {SOURCE: [0.0, 0.0], ROUTED: [1.0, 0.0], REPLIED: [0.0, 1.0]}
    assert pool_of(scores, parents).crossings() == []


def test_branches_that_fell_behind_their_ancestor_are_not_crossed() -> None:
    scores = {SOURCE: [0.9, 0.9, 0.0], ROUTED: [1.0, 0.0, 0.0], REPLIED: [0.0, 1.0, 1.0]}
    assert pool_of(scores, {SOURCE: (), ROUTED: (SOURCE,), REPLIED: (SOURCE,)}).crossings() == []


def test_a_merge_is_looked_at_where_its_parents_differ_and_where_they_do_not() -> None:
    scores = {ROUTED: [1.0] * 4 + [0.0] * 4 + [0.5] * 4, REPLIED: [0.0] * 4 + [1.0] * 4 + [0.5] * 4}
    pool = pool_of(scores, {})
    rows = sample_contested(pool, ROUTED, REPLIED, 5, Random(0))
    sides = Counter(pool.task.valset.index(row) // 4 for row in rows)
    assert sides == {0: 2, 1: 2, 2: 1}
    assert set(sample_contested(pool, ROUTED, REPLIED, 99, Random(0))) == set(pool.task.valset)


def branching(candidate: Candidate, row: Row) -> Outcome:
    """A third of the rows for the source, one for each prompt's own change, all for both changes together."""
    changed = "attempt" in candidate["route"].instruction, "attempt" in candidate["reply"].instruction
    solved = {(False, False): 0, (True, False): 1, (False, True): 2}.get(changed, int(row.id.rpartition("-")[2]) % 3)
    is_right = int(row.id.rpartition("-")[2]) % 3 == solved
    return replace(outcome_of(candidate, row), score=float(is_right), feedback="" if is_right else "no")


def merging(judge: Callable[[Candidate, Row], Outcome], use_merge: bool = False, most: int = 5) -> str:
    """What several searches said."""
    task, optimizer = (
        make_task(prompts=("route", "reply")),
        Gepa(patience=8, use_merge=use_merge, max_merge_invocations=most),
    )
    runs = [run(optimizer, task, seed=seed, judge=judge, proposer=numbered()) for seed in range(8)]
    return " ".join(event.text for ran in runs for event in rounds_of(ran))


def test_a_search_merges_when_it_is_asked_to_and_never_else() -> None:
    assert "1 accepted, 1 merged; nothing left to gain" in merging(branching, use_merge=True)
    assert "merged" not in merging(branching)
    assert "merged" not in merging(branching, use_merge=True, most=0)


def test_a_merged_candidate_that_is_worse_than_a_parent_is_dropped_after_five_rows() -> None:
    def judge(candidate: Candidate, row: Row) -> Outcome:
        outcome = branching(candidate, row)
        is_crossed = all("attempt" in candidate[name].instruction for name in candidate)
        return replace(outcome, score=0.0) if is_crossed else outcome

    texts = merging(judge, use_merge=True)
    assert "1 not merged" in texts
    assert "1 merged" not in texts


# what it takes


@few
@given(
    prompts=st.sampled_from([("route",), ("route", "reply")]),
    train=st.integers(0, 9),
    val=st.integers(1, 9),
    evaluations=st.integers(1, 6),
    use_merge=st.booleans(),
    is_helpful=st.booleans(),
)
def test_counted_calls_lie_within_the_expected_ones(
    prompts: tuple[str, ...], train: int, val: int, evaluations: int, use_merge: bool, is_helpful: bool
) -> None:
    task = make_task(train=train, val=val, prompts=prompts)
    optimizer = Gepa(max_evaluations=evaluations, patience=5, use_merge=use_merge)
    fewest, most = optimizer.expected_calls(sizes_of(task))
    judge = branching if use_merge and len(prompts) > 1 else outcome_of
    ran = run(optimizer, task, judge=judge, proposer=propose if is_helpful else numbered())
    assert fewest <= ran.found.calls <= most


@pytest.mark.parametrize("prompts", [("route",), ("route", "reply")])
def test_an_endless_climb_ends_when_the_planned_calls_hold_no_further_child(prompts: tuple[str, ...]) -> None:
    task = make_task(train=12, val=10, prompts=prompts)
    optimizer = Gepa(max_evaluations=8, patience=2)
    most = optimizer.expected_calls(sizes_of(task))[1]
    planned = replace(task, calls_on_valset=10 * len(prompts))
    ran = run(optimizer, planned, judge=improving, proposer=numbered())
    assert rounds_of(ran)[-1].text.endswith("the calls left are too few for another")
    assert most - (3 + 3 + 10) * len(prompts) - 1 <= ran.found.calls <= most


@few
@given(
    max_calls=st.integers(0, 150),
    val=st.integers(1, 15),
    prompts=st.sampled_from([("route",), ("route", "reply")]),
    is_branching=st.booleans(),
)
def test_a_search_that_knows_its_budget_plans_within_it(
    max_calls: int, val: int, prompts: tuple[str, ...], is_branching: bool
) -> None:
    task = replace(make_task(val=val, prompts=prompts), calls_on_valset=val * len(prompts))
    judge = branching if is_branching and len(prompts) > 1 else outcome_of
    ran = run(Gepa(use_merge=True), task, max_calls=max_calls, judge=judge)
    assert not ran.found.is_cut
    assert ran.found.calls <= max_calls


@pytest.mark.parametrize("seed", [4, 7])
def test_a_merge_that_the_budget_cannot_hold_is_left_out(seed: int) -> None:
    optimizer, task = Gepa(use_merge=True, patience=8), make_task(prompts=("route", "reply"))
    for budget in range(60, 100, 2):
        planned = replace(task, calls_on_valset=24)
        ran = run(optimizer, planned, seed=seed, max_calls=budget, judge=branching, proposer=numbered())
        assert not ran.found.is_cut


def test_a_budget_for_one_child_is_used_for_one_child() -> None:
    task = make_task(train=12, val=12)
    runs = [run(Gepa(), task, max_calls=budget).found for budget in (15, 16, 31)]
    assert [len(found.trials) for found in runs] == [1, 2, 2]
    assert [found.calls for found in runs] == [0, 16, 16]


def test_what_costs_less_than_planned_leaves_room_for_more() -> None:
    def calls_of(candidate: Candidate, row: Row) -> int:
        """Three calls a row as the source is, as the plan has it; one under each other candidate."""
        return 1 if "attempt" in candidate["route"].instruction else 3

    task = replace(make_task(), calls_on_valset=3 * 12)
    ran = run(Gepa(), task, max_calls=100, judge=improving, proposer=numbered(), calls_of=calls_of)
    assert not ran.found.is_cut
    assert 100 - ran.found.calls < 1 + 3 * (3 + 3 + 12), "no further child is sure to fit"


def test_a_budget_that_holds_a_search_whose_train_rows_are_the_val_rows_is_enough() -> None:
    task = make_task(train=4, is_merged=True)
    assert run(Gepa(), task, max_calls=15).found.score == 1.0, "three children, a proposal and four rows each"


# what the reader is told


def test_rounds_never_outnumber_what_was_foreseen_and_the_last_is_the_last() -> None:
    ended = rounds_of(run(Gepa(), make_task(prompts=("route", "reply"))))
    assert [event.round for event in ended] == [*range(1, len(ended) + 1)]
    assert all(event.round < event.rounds for event in ended[:-1])
    assert ended[-1].round == ended[-1].rounds


def test_a_long_stretch_without_an_event_is_told_in_tens() -> None:
    ended = rounds_of(run(Gepa(patience=25), make_task(), proposer=numbered()))
    assert [event.text for event in ended] == [
        f"{ROUND} proposals: {ROUND} no better",
        f"{ROUND} proposals: {ROUND} no better",
        "5 proposals: 5 no better; the last 25 brought nothing",
    ]


# minibatches


@few
@given(rows=st.integers(1, 12), size=st.integers(1, 5), seed=st.integers(0, 99))
def test_each_epoch_deals_every_row_and_no_minibatch_holds_one_twice(rows: int, size: int, seed: int) -> None:
    trainset = make_rows("train", rows)
    batches = -(-rows // size)
    dealt = [*islice(deal(trainset, size, Random(seed)), 3 * batches)]
    assert all(len(set(minibatch)) == len(minibatch) == min(size, rows) for minibatch in dealt)
    for epoch in range(3):
        assert {row for minibatch in dealt[epoch * batches : (epoch + 1) * batches] for row in minibatch} == {*trainset}


def test_no_rows_make_no_minibatches() -> None:
    assert [*deal((), 3, Random(0))] == []


# settings


def test_it_is_made_by_name_with_published_defaults() -> None:
    assert make_optimizer("gepa", {}) == Gepa(reflection_minibatch_size=3, max_merge_invocations=5, use_merge=False)


@pytest.mark.parametrize(
    "key", ["reflection_minibatch_size", "max_evaluations", "patience", "max_words", "max_merge_invocations"]
)
def test_a_setting_out_of_range_is_a_usage_error(key: str) -> None:
    with pytest.raises(UsageError, match=rf"gepa\.{key} must be at least"):
        make_optimizer("gepa", {key: -1})


@few
@given(seed=st.integers(0, 999), order=st.integers(0, 999))
def test_the_same_seed_gives_the_same_search_in_whatever_order_replies_come(seed: int, order: int) -> None:
    task: Task = make_task(prompts=("route", "reply"), train=9, val=7)
    straight, shuffled = run(Gepa(), task, seed=seed), run(Gepa(), task, seed=seed, order=Random(order))
    assert straight.found == shuffled.found
