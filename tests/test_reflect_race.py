from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pytest_promptopt.errors import UsageError
from pytest_promptopt.optimizers.base import Completion, Outcome, Row, Task
from pytest_promptopt.optimizers.driver import Proposed, RoundEnded
from pytest_promptopt.optimizers.reflect_race import ReflectRace
from pytest_promptopt.prompts.candidate import Candidate
from tests.optimizer_world import METRIC, Run, make_task, outcome_of, run, sizes_of

SMALL = ReflectRace(num_proposals=4, num_demo_sets=2, generations=2, children=3, minibatch_size=6)


def rounds_of(ran: Run) -> list[RoundEnded]:
    return [event for event in ran.events if isinstance(event, RoundEnded)]


def numbered() -> Callable[[Completion], str]:
    numbers = iter(range(10_000))
    return lambda _: f"```\nName the topic, {next(numbers)}.\n```"


def scoring(score_of: Callable[[Candidate], float]) -> Callable[[Candidate, Row], Outcome]:
    return lambda candidate, row: replace(outcome_of(candidate, row), score=score_of(candidate))


def test_it_finds_instructions_and_demos_that_solve_the_world() -> None:
    ran = run(ReflectRace(), make_task(train=24, val=24))
    assert ran.found.score > ran.found.source_score
    assert any("proposals" in event.text for event in rounds_of(ran))


def test_without_headroom_the_answer_is_not_worth_it_and_nothing_more_is_spent() -> None:
    task = make_task(val=24)
    ran = run(SMALL, task, proposer=numbered(), judge=scoring(lambda _: 0.5))
    (ended,) = rounds_of(ran)
    assert ended.text.endswith("not worth it: +0.000")
    assert ran.found.candidate == task.source
    assert ran.found.calls < 4 + 6 * 24


def test_generations_without_a_new_best_end_the_search() -> None:
    def score_of(candidate: Candidate) -> float:
        return 0.6 if candidate["route"].instruction.endswith(", 0.") else 0.5

    patient = replace(SMALL, generations=9, patience=2)
    ran = run(patient, make_task(val=24), proposer=numbered(), judge=scoring(score_of))
    assert [event.round for event in rounds_of(ran)] == [1, 2, 3]
    assert rounds_of(ran)[-1].text.endswith("no new best")


def test_a_perfect_candidate_ends_the_search() -> None:
    def score_of(candidate: Candidate) -> float:
        return 1.0 if "topic, " in candidate["route"].instruction else 0.0

    ran = run(replace(SMALL, generations=9), make_task(val=24), proposer=numbered(), judge=scoring(score_of))
    assert [event.round for event in rounds_of(ran)] == [1]
    assert ran.found.score == 1.0


def test_of_equal_candidates_the_shortest_wins() -> None:
    def propose(completion: Completion) -> str:
        return "```\nName the topic" + " in a word" * (3 - completion.draw % 3) + f" {completion.draw}.\n```"

    def score_of(candidate: Candidate) -> float:
        return 0.9 if "word" in candidate["route"].instruction else 0.1

    found = run(replace(SMALL, num_demo_sets=0), make_task(val=24), proposer=propose, judge=scoring(score_of)).found
    assert found.score == pytest.approx(0.9)
    assert found.candidate["route"].instruction.count("word") == 1
    assert not found.candidate["route"].demos


def test_the_source_never_wins_by_being_short() -> None:
    task = make_task(val=24)
    places = {row: place for place, row in enumerate(task.valset)}

    def judge(candidate: Candidate, row: Row) -> Outcome:
        limit = 12 if candidate == task.source else 13
        return replace(outcome_of(candidate, row), score=float(places.get(row, 0) < limit))

    found = run(replace(SMALL, num_demo_sets=0), task, proposer=numbered(), judge=judge).found
    assert found.candidate != task.source


def test_a_budget_too_small_for_all_rows_still_finds_what_leads_on_some() -> None:
    def score_of(candidate: Candidate) -> float:
        return 0.9 if "topic, " in candidate["route"].instruction else 0.1

    task = make_task(val=48)
    ran = run(ReflectRace(), task, proposer=numbered(), judge=scoring(score_of), max_calls=30)
    assert ran.found.candidate != task.source
    assert ran.found.is_cut
    assert ran.found.rows < 48
    assert (ran.found.source_score, ran.found.score) == (pytest.approx(0.1), pytest.approx(0.9))
    assert ran.found.calls <= 30


def test_the_best_instruction_meets_the_best_demos() -> None:
    def score_of(candidate: Candidate) -> float:
        route = candidate["route"]
        return 0.2 + 0.3 * ("topic, " in route.instruction) + 0.3 * bool(route.demos)

    found = run(SMALL, make_task(val=24), proposer=numbered(), judge=scoring(score_of)).found
    assert found.score == pytest.approx(0.8)


def test_each_generation_reflects_on_what_its_parent_failed() -> None:
    def score_of(candidate: Candidate) -> float:
        return 0.6 if "topic, " in candidate["route"].instruction else 0.5

    ran = run(SMALL, make_task(train=12, val=24), proposer=numbered(), judge=scoring(score_of))
    asked = [completion.messages[-1]["content"] for completion in ran.world.completions]
    assert all("the test said: assert 'unknown' ==" in request for request in asked[:4])
    later = asked[4:]
    assert any("Instructions tried so far with their scores, worst first:" in request for request in later)


def weighted() -> Task:
    """Twelve rows of a metric that decides, and 48 of one that hardly counts."""
    task = make_task(train=12, val=120, weights={METRIC: 10.0, "test_tone": 0.1}, labelled=())
    heavy = [row for row in task.valset if row.metric == METRIC][:12]
    light = [row for row in task.valset if row.metric != METRIC][:48]
    return replace(task, valset=(*heavy, *light))


def long_or_short(completion: Completion) -> str:
    return f"```\nName the topic{' in one single word please' if completion.draw % 2 else ''}, {completion.draw}.\n```"


@pytest.mark.parametrize(
    ("standard_errors", "short", "wins"), [(0, 8, "long"), (1, 8, "short"), (0, 5, "long"), (1, 5, "long")]
)
def test_of_those_near_the_best_the_shortest_wins_and_rows_weigh_as_their_metric(
    standard_errors: int, short: int, wins: str
) -> None:
    task = weighted()

    def judge(candidate: Candidate, row: Row) -> Outcome:
        is_long = "please" in candidate["route"].instruction
        right = 4 if candidate == task.source else 9 if is_long else short
        lost = 10 if is_long else 0
        is_right = row in (*task.valset[:right], *task.valset[12 + lost :])
        return replace(outcome_of(candidate, row), score=float(is_right))

    settings = replace(SMALL, num_proposals=2, num_demo_sets=0, standard_errors=standard_errors)
    found = run(settings, task, proposer=long_or_short, judge=judge).found
    assert ("please" in found.candidate["route"].instruction) == (wins == "long")


@pytest.mark.parametrize("standard_errors", [0, 1])
def test_rows_that_hardly_count_drop_nobody_early(standard_errors: int) -> None:
    task = weighted()

    def judge(candidate: Candidate, row: Row) -> Outcome:
        is_source = candidate == task.source
        heavy, light = (4, 48) if is_source else (8, 28)
        place = task.valset.index(row) if row in task.valset else 0
        return replace(outcome_of(candidate, row), score=float(place < heavy or 12 <= place < 12 + light))

    settings = replace(SMALL, num_demo_sets=0, standard_errors=standard_errors)
    found = run(settings, task, proposer=numbered(), judge=judge).found
    assert found.score == pytest.approx((10 * 8 / 12 + 0.1 * 28 / 48) / 10.1)


def test_what_is_thrown_away_is_told_though_the_budget_ends_in_the_race() -> None:
    task = make_task(val=24)

    def proposer(completion: Completion) -> str:
        return "" if completion.draw % 2 else f"```\nName the topic, {completion.draw}.\n```"

    whole = run(SMALL, task, proposer=proposer, judge=scoring(lambda _: 0.5))
    for end_at in range(2, whole.world.batches + 1):
        cut = run(SMALL, task, proposer=proposer, judge=scoring(lambda _: 0.5), end_at=end_at)
        replies = [event.text for event in cut.events if isinstance(event, Proposed)]
        assert cut.found.is_cut
        assert len(cut.found.rejected) == replies.count("") > 0


@pytest.mark.parametrize(
    ("max_calls", "labelled", "words"),
    [
        (5, None, "nothing fits into the 5 calls that are left"),
        (1, (), "nothing fits into the 1 call that is left"),
    ],
)
def test_a_search_that_nothing_fits_into_says_so(max_calls: int, labelled: tuple[str, ...] | None, words: str) -> None:
    ran = run(SMALL, make_task(val=24, labelled=labelled), max_calls=max_calls)
    assert (ran.found.calls, [event.text for event in rounds_of(ran)]) == (0, [words])


def test_a_search_without_anything_to_try_is_refused_or_says_so() -> None:
    with pytest.raises(UsageError, match="both 0, so nothing would be tried"):
        ReflectRace(num_proposals=0, num_demo_sets=0)
    ran = run(ReflectRace(num_proposals=0), make_task(val=24, adopted=("route",)), max_calls=999)
    assert [event.text for event in rounds_of(ran)] == ["nothing to try: no prompt takes demos"]


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_lies_between_nothing_and_all(share: float) -> None:
    with pytest.raises(UsageError, match=r"reflect-race\.restart_share must be at"):
        ReflectRace(restart_share=share)


@pytest.mark.parametrize("prompts", [("route",), ("route", "reply")])
@pytest.mark.parametrize("is_own_teacher", [True, False])
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("max_calls", [None, 0, 9, 25, 60, 200])
def test_counted_calls_lie_within_the_expected_ones_and_the_budget(
    prompts: tuple[str, ...], is_own_teacher: bool, labelled: bool, max_calls: int | None
) -> None:
    task = replace(make_task(train=18, val=24, prompts=prompts, labelled=prompts if labelled else ()))
    task = _planned(task, max_calls)
    found = run(SMALL, task, max_calls=max_calls, is_own_teacher=is_own_teacher).found
    fewest, most = SMALL.expected_calls(sizes_of(task, is_own_teacher=is_own_teacher))
    assert found.calls <= (most if max_calls is None else min(most, max_calls))
    assert max_calls is not None or found.calls >= fewest


def _planned(task: Task, max_calls: int | None) -> Task:
    return replace(task, max_calls=max_calls, calls_on_valset=len(task.valset) * len(task.prompts))


def test_a_foreign_teacher_is_not_asked_for_more_than_its_share_of_a_small_budget() -> None:
    task = _planned(make_task(train=60, val=24), 100)
    ran = run(SMALL, task, max_calls=100, is_own_teacher=False)
    traced = [event for event in ran.events if getattr(event, "teacher_attempt", None) is not None]
    assert sum(len(event.rows) for event in traced) <= 32  # type: ignore[union-attr]
    assert len(ran.world.completions) > 0
