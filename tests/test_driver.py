from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from threading import Thread

import pytest

from pytest_promptopt.errors import BudgetExhausted, LMError, LMErrorKind, UsageError
from pytest_promptopt.optimizers.base import (
    Announce,
    Complete,
    Completion,
    Evaluate,
    Outcome,
    Reject,
    Rejection,
    Row,
    Search,
    Task,
    Trace,
)
from pytest_promptopt.optimizers.driver import Allowance, Proposed, Rejected, RoundEnded, RowsScored, TrialScored
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt
from pytest_promptopt.prompts.trace import PromptCall
from tests.optimizer_world import METRIC, Scripted, make_rows, make_task, naming, on_val, outcome_of, run


def test_the_candidate_that_a_strategy_returns_wins_with_its_score_on_val_rows() -> None:
    def search(task: Task) -> Search:
        yield on_val(task, naming("rain", "music", "food"))
        return naming("rain", "music", "food")

    found = run(Scripted(search), make_task()).found
    assert found.candidate == naming("rain", "music", "food")
    assert (found.source_score, found.score, found.is_cut) == (pytest.approx(1 / 6), 0.5, False)
    assert found.calls == 12


def test_a_pair_is_run_once_however_often_it_is_asked_for() -> None:
    def search(task: Task) -> Search:
        candidate = naming("rain", "music")
        row = task.valset[1]
        first = yield Evaluate(pairs=((candidate, row), (candidate, row)))
        second = yield Evaluate(pairs=((candidate, row),))
        third = yield Trace(pairs=((candidate, row),))
        assert first is not None
        assert second is not None
        assert third is not None
        assert [first[0], *second, *third] == [first[1]] * 3
        return task.source

    assert run(Scripted(search), make_task()).found.calls == 1


def test_what_the_baseline_knows_costs_nothing() -> None:
    def search(task: Task) -> Search:
        yield Evaluate(pairs=tuple((task.source, row) for row in (*task.trainset, *task.valset)))
        return task.source

    ran = run(Scripted(search), make_task())
    assert (ran.found.calls, ran.world.batches) == (0, 0)


def test_draws_of_a_teacher_are_told_apart_by_attempt_and_from_evaluations() -> None:
    def search(task: Task) -> Search:
        pair = (task.source, task.trainset[1])
        student = yield Evaluate(pairs=(pair,))
        teacher = yield Trace(pairs=(pair,), attempt=1)
        again = yield Trace(pairs=(pair,), attempt=1)
        assert student is not None
        assert teacher is not None
        assert [getattr(outcome, "score", None) for outcome in (*student, *teacher)] == [0.0, 1.0]
        assert again == teacher
        return task.source

    assert run(Scripted(search), make_task()).found.calls == 1


def test_another_teacher_is_asked_on_the_first_attempt_too() -> None:
    def search(task: Task) -> Search:
        outcomes = yield Trace(pairs=((task.source, task.trainset[1]),))
        assert outcomes is not None
        assert getattr(outcomes[0], "score", None) == 1.0
        return task.source

    assert run(Scripted(search), make_task(), is_own_teacher=False).found.calls == 1


def test_a_winner_worse_than_the_source_is_replaced_by_the_source() -> None:
    def search(task: Task) -> Search:
        yield on_val(task, naming("nothing"))
        return naming("nothing")

    task = make_task()
    found = run(Scripted(search), task).found
    assert (found.candidate, found.score) == (task.source, found.source_score)


def test_an_answer_that_was_never_scored_is_scored_before_it_wins() -> None:
    def search(task: Task) -> Search:
        yield on_val(task, naming("rain", "music"))
        return naming("rain", "music", "food")

    found = run(Scripted(search), make_task()).found
    assert (found.candidate, found.score) == (naming("rain", "music", "food"), 0.5)


def test_an_answer_that_there_is_no_budget_to_score_gives_way_to_the_best_that_was() -> None:
    def search(task: Task) -> Search:
        yield on_val(task, naming("rain", "music"))
        return naming("rain", "music", "food")

    found = run(Scripted(search), make_task(), max_calls=12).found
    assert (found.candidate, found.is_cut, found.calls) == (naming("rain", "music"), True, 12)


def test_a_batch_that_does_not_fit_is_refused_before_any_of_it_runs() -> None:
    def search(task: Task) -> Search:
        yield on_val(task, naming("rain", "music"))
        yield on_val(task, naming("rain", "music", "food"))
        raise AssertionError("the budget must have ended the search")

    found = run(Scripted(search), make_task(), max_calls=23).found
    assert (found.candidate, found.is_cut, found.calls) == (naming("rain", "music"), True, 12)


def test_the_calls_of_a_refused_batch_are_counted_from_the_baseline() -> None:
    def search(task: Task) -> Search:
        candidate = task.source.replace("route", CompiledPrompt(instruction="rain music"))
        yield on_val(task, candidate)
        return candidate

    task = make_task(prompts=("route", "reply"))
    assert run(Scripted(search), task, max_calls=23).found.calls == 0
    assert run(Scripted(search), task, max_calls=24).found.calls == 24


def test_traces_that_do_not_fit_are_refused_too() -> None:
    def search(task: Task) -> Search:
        yield Trace(pairs=tuple((task.source, row) for row in task.trainset), attempt=1)
        return task.source

    found = run(Scripted(search), make_task(), max_calls=11).found
    assert (found.is_cut, found.calls) == (True, 0)


def test_completions_that_do_not_fit_are_refused_too() -> None:
    def search(task: Task) -> Search:
        messages = ({"role": "user", "content": "``````"},)
        yield Complete(completions=tuple(Completion(messages=messages, draw=draw) for draw in range(4)))
        return task.source

    ran = run(Scripted(search), make_task(), max_calls=3)
    assert ran.found.is_cut
    assert ran.world.completions == []


def test_a_strategy_may_answer_when_the_budget_ends() -> None:
    def search(task: Task) -> Search:
        yield on_val(task, naming("rain", "music"), naming("rain", "food", "money"))
        try:
            yield on_val(task, naming("rain", "books"))
        except BudgetExhausted:
            return naming("rain", "music")
        raise AssertionError("the budget must have ended the search")

    found = run(Scripted(search), make_task(), max_calls=30).found
    assert (found.candidate, found.is_cut) == (naming("rain", "music"), True)


@pytest.mark.parametrize("is_stubborn", [False, True])
def test_a_strategy_that_asks_on_after_the_end_is_closed(is_stubborn: bool) -> None:
    def search(task: Task) -> Search:
        yield on_val(task, naming("rain", "music"))
        try:
            yield on_val(task, naming("rain", "books", "food"))
        except BudgetExhausted:
            try:
                yield on_val(task, naming("rain", "books", "food"))
            finally:
                if is_stubborn:
                    yield on_val(task, naming("rain", "books"))
        return task.source

    found = run(Scripted(search), make_task(), max_calls=12).found
    assert (found.candidate, found.is_cut, found.calls) == (naming("rain", "music"), True, 12)


def test_of_equal_candidates_the_first_scored_wins_and_the_source_before_all() -> None:
    def search(task: Task) -> Search:
        yield on_val(task, naming("food"), naming("music"))
        yield on_val(task, naming("books"))
        raise BudgetExhausted

    def search_better(task: Task) -> Search:
        yield on_val(task, naming("food", "music"), naming("music", "books"))
        yield on_val(task, naming("food", "music", "books"))
        raise AssertionError("the budget must have ended the search")

    task = make_task()
    assert run(Scripted(search), task, max_calls=24).found.candidate == task.source
    assert run(Scripted(search_better), task, max_calls=24).found.candidate == naming("food", "music")


def test_a_rejected_candidate_never_wins_and_is_named_once_with_its_reason() -> None:
    def judge(candidate: Candidate, row: Row) -> Outcome:
        if candidate == naming("rain", "music"):
            return Outcome(score=None, feedback="ZeroDivisionError: division by zero", is_rejected=True)
        return outcome_of(candidate, row)

    def search(task: Task) -> Search:
        yield on_val(task, naming("rain", "music"))
        return naming("rain", "music")

    task = make_task()
    ran = run(Scripted(search), task, judge=judge)
    rejection = Rejection(subject=naming("rain", "music"), reason="ZeroDivisionError: division by zero")
    assert ran.found.candidate == task.source
    assert ran.found.rejected == (rejection,)
    assert ran.events[2:] == [Rejected(rejection=rejection)]


def test_where_the_answer_is_rejected_the_best_of_the_others_wins() -> None:
    def judge(candidate: Candidate, row: Row) -> Outcome:
        if candidate == naming("food", "books", "money"):
            return Outcome(score=None, feedback="KeyError: 'team'", is_rejected=True)
        return outcome_of(candidate, row)

    def search(task: Task) -> Search:
        yield on_val(task, naming("rain", "music"))
        return naming("food", "books", "money")

    assert run(Scripted(search), make_task(), judge=judge).found.candidate == naming("rain", "music")


def test_a_candidate_that_raises_on_a_train_row_loses_the_score_it_had() -> None:
    def judge(candidate: Candidate, row: Row) -> Outcome:
        if candidate == naming("rain", "music") and row.id.startswith("train"):
            return Outcome(score=None, feedback="KeyError: 'team'", is_rejected=True)
        return outcome_of(candidate, row)

    def search(task: Task) -> Search:
        yield on_val(task, naming("rain", "music"))
        yield Evaluate(pairs=((naming("rain", "music"), task.trainset[0]),))
        return naming("rain", "music")

    task = make_task()
    found = run(Scripted(search), task, judge=judge).found
    assert found.candidate == task.source
    assert [trial.candidate for trial in found.trials] == [task.source]


def test_skipped_rows_leave_a_candidate_its_other_rows() -> None:
    def judge(candidate: Candidate, row: Row) -> Outcome:
        return Outcome(score=None) if row.id == "val-0" else outcome_of(candidate, row)

    def search(task: Task) -> Search:
        yield on_val(task, naming("rain", "music"))
        return naming("rain", "music")

    assert run(Scripted(search), make_task(), judge=judge).found.score == pytest.approx(3 / 11)


def test_metrics_weigh_as_they_are_told() -> None:
    def search(task: Task) -> Search:
        yield on_val(task, naming("music"))
        return naming("music")

    heavy = tuple(replace(row, metric="heavy") for row in make_rows("val", 2))
    task = replace(make_task(), valset=(*make_rows("val", 2), *heavy[1:]), weights={METRIC: 1.0, "heavy": 3.0})
    found = run(Scripted(search), task).found
    assert (found.source_score, found.score) == (pytest.approx(0.125), pytest.approx(0.875))


def test_a_source_with_full_marks_is_not_searched() -> None:
    def search(task: Task) -> Search:
        raise AssertionError("nothing to gain")
        yield

    task = make_task(instruction="rain music food books trains money")
    found = run(Scripted(search), task).found
    assert (found.candidate, found.score, found.calls) == (task.source, 1.0, 0)


def test_a_source_that_the_baseline_does_not_know_is_scored_first() -> None:
    def search(task: Task) -> Search:
        return task.source
        yield

    found = run(Scripted(search), make_task(), known={}).found
    assert (found.source_score, found.calls) == (pytest.approx(1 / 6), 12)


def test_no_scored_val_row_is_a_usage_error() -> None:
    def search(task: Task) -> Search:
        return task.source
        yield

    with pytest.raises(UsageError, match="none of the 0 val rows has a score"):
        run(Scripted(search), make_task(val=0))


def test_a_row_outside_the_task_is_refused() -> None:
    def search(task: Task) -> Search:
        yield Evaluate(pairs=((task.source, Row(metric=METRIC, id="sealed-1")),))
        return task.source

    with pytest.raises(ValueError, match="neither a train nor a val row"):
        run(Scripted(search), make_task())


def test_a_candidate_of_other_prompts_is_refused() -> None:
    def search(task: Task) -> Search:
        yield on_val(task, Candidate({"reply": CompiledPrompt(instruction="x")}))
        return task.source

    with pytest.raises(ValueError, match=r"for \['reply'\], not for \['route'\]"):
        run(Scripted(search), make_task())


@pytest.mark.parametrize("answer", [None, "a better instruction"])
def test_an_answer_that_is_no_candidate_is_a_type_error(answer: object) -> None:
    def search(task: Task) -> Iterator[Evaluate]:
        yield on_val(task, task.source)
        return answer

    with pytest.raises(TypeError, match="returns a Candidate"):
        run(Scripted(search), make_task())  # type: ignore[arg-type]


def test_a_provider_error_ends_the_search_and_closes_the_strategy() -> None:
    closed = []

    def judge(candidate: Candidate, row: Row) -> Outcome:
        if candidate == naming("rain", "music"):
            raise LMError("503 from the provider", kind=LMErrorKind.SERVER)
        return outcome_of(candidate, row)

    def search(task: Task) -> Search:
        try:
            yield on_val(task, naming("rain", "music"))
        finally:
            closed.append(True)
        return task.source

    with pytest.raises(LMError, match="503"):
        run(Scripted(search), make_task(), judge=judge)
    assert closed == [True]


def test_a_ceiling_that_is_hit_inside_a_batch_discards_the_batch() -> None:
    def judge(candidate: Candidate, row: Row) -> Outcome:
        if candidate == naming("rain", "music", "food") and row.id == "val-7":
            raise BudgetExhausted("the most money is spent")
        return outcome_of(candidate, row)

    def search(task: Task) -> Search:
        yield on_val(task, naming("rain", "music"))
        yield on_val(task, naming("rain", "books", "trains"), naming("rain", "music", "food"))
        raise AssertionError("the ceiling must have ended the search")

    found = run(Scripted(search), make_task(), judge=judge).found
    assert (found.candidate, found.is_cut, len(found.trials)) == (naming("rain", "music"), True, 2)


def test_the_observer_hears_what_a_live_line_needs() -> None:
    refused = Rejection(subject="Sure!", reason="repeated")

    def search(task: Task) -> Search:
        yield on_val(task, naming("rain", "music"))
        yield Reject(rejected=(refused,))
        yield Announce(text="1 instruction proposed", round=1, rounds=2)
        return naming("rain", "music")

    task = make_task()
    known, rows, scored, rejected, ended = run(Scripted(search), task, max_calls=40).events
    right = [outcome_of(naming("rain", "music"), row).score for row in task.valset]
    assert isinstance(known, RowsScored)
    assert (known.candidate, known.rows, known.calls) == (task.source, (*task.trainset, *task.valset), 0)
    assert known.scores == tuple(outcome_of(task.source, row).score for row in known.rows)
    assert rows == RowsScored(
        candidate=naming("rain", "music"), rows=task.valset, scores=tuple(right), teacher_attempt=None, calls=12
    )
    assert isinstance(scored, TrialScored)
    assert (scored.trial.candidate, scored.best_score) == (naming("rain", "music"), pytest.approx(1 / 3))
    assert rejected == Rejected(rejection=refused)
    assert ended == RoundEnded(
        text="1 instruction proposed",
        round=1,
        rounds=2,
        best_score=scored.trial.score,
        start_score=scored.start_score,
        calls=12,
        max_calls=40,
    )


def test_the_observer_hears_every_reply_of_the_proposer_and_every_row_of_the_teacher() -> None:
    task = make_task()

    def search(task: Task) -> Search:
        yield Complete(
            completions=(Completion(messages=({"role": "user", "content": "```x```"},), draw=3, prompt="route"),)
        )
        yield Trace(pairs=((task.source, task.trainset[0]),), attempt=1)
        return task.source

    _, proposed, traced = run(Scripted(search), task).events
    assert proposed == Proposed(text="x", draw=3, prompt="route")
    assert isinstance(traced, RowsScored)
    assert (traced.rows, traced.scores, traced.teacher_attempt) == (task.trainset[:1], (1.0,), 1)


def test_a_candidate_that_copies_a_training_input_is_refused_whoever_made_it() -> None:
    text = "the train was late again this morning"
    task = make_task()
    row = task.trainset[0]
    call = PromptCall(prompt=task.prompts[0].name, inputs={"text": text}, output="x", reasoning=None, reply="")
    rows = (*task.trainset, *task.valset)
    known = {(task.source, each): outcome_of(task.source, each) for each in rows}
    known[task.source, row] = replace(known[task.source, row], calls=(call,))
    copying = naming(f"rain, as in {text}")

    def search(task: Task) -> Search:
        yield on_val(task, copying)
        return copying

    ran = run(Scripted(search), task, known=known)
    assert ran.found.candidate == task.source
    assert [rejection.reason for rejection in ran.found.rejected] == [f"{task.prompts[0].name} copies row {row.id}"]
    assert ran.found.calls == 0


def test_an_allowance_lets_through_exactly_what_it_holds_from_many_threads() -> None:
    allowance, refused = Allowance(100), []

    def spend() -> None:
        for _ in range(30):
            try:
                allowance.spend()
            except BudgetExhausted:
                refused.append(1)

    threads = [Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (allowance.calls, allowance.remaining, len(refused)) == (100, 0, 140)


def test_an_allowance_without_a_limit_counts_and_never_refuses() -> None:
    allowance = Allowance(None)
    for _ in range(3):
        allowance.spend()
    assert (allowance.calls, allowance.remaining, allowance.covers(10**9)) == (3, None, True)
