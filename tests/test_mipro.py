from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.errors import UsageError
from pytest_promptopt.optimizers.base import Completion, Outcome, Row, Sizes, Task
from pytest_promptopt.optimizers.driver import RoundEnded, RowsScored
from pytest_promptopt.optimizers.mipro import Mipro
from pytest_promptopt.optimizers.mipro_proposals import DESCRIBE_PROGRAM, DESCRIBE_STEP, OBSERVE, SUMMARISE, TIPS
from pytest_promptopt.optimizers.registry import make_optimizer
from pytest_promptopt.prompts.candidate import Candidate
from tests.optimizer_world import Run, make_task, outcome_of, propose, run, sizes_of

ONE, TWO = ("route",), ("route", "reply")
LIGHT = Mipro(num_candidates=6)
few = settings(max_examples=30, deadline=None, derandomize=True)


def rounds_of(ran: Run) -> list[str]:
    return [event.text for event in ran.events if isinstance(event, RoundEnded)]


def batches_of(ran: Run) -> list[tuple[Candidate, int]]:
    """Which candidate ran on how many rows, in order, after the baseline run; the model under test alone."""
    _, *scored = [event for event in ran.events if isinstance(event, RowsScored) and event.teacher_attempt is None]
    return [(event.candidate, len(event.rows)) for event in scored]


def asked(ran: Run, orders: str | None = None) -> list[str]:
    """What the proposer read in requests with these orders; those for instructions unless given."""
    special = (OBSERVE, SUMMARISE, DESCRIBE_PROGRAM, DESCRIBE_STEP)
    pairs = [(one.messages[0]["content"], one.messages[1]["content"]) for one in ran.world.completions]
    return [text for system, text in pairs if (system == orders if orders else system not in special)]


def counting_proposer() -> Callable[[Completion], str]:
    numbers = count()
    return lambda _: f"Name it, {next(numbers)}."


def by_digest(candidate: Candidate, row: Row) -> Outcome:
    """A world where nothing but chance says what is good, and nothing is perfect."""
    share = int(candidate.digest[:6], 16) / 16**6
    return replace(outcome_of(candidate, row), score=0.9 * share)


def better_and_better() -> Callable[[Candidate, Row], Outcome]:
    """A world where each candidate beats all that were asked for before it."""
    order: dict[Candidate, int] = {}
    return lambda candidate, row: replace(
        outcome_of(candidate, row), score=order.setdefault(candidate, len(order)) / 999
    )


def limited(task: Task, max_calls: int) -> Task:
    return replace(task, max_calls=max_calls, calls_on_valset=len(task.valset) * len(task.prompts))


# what the proposer is told


def test_the_source_is_the_first_instruction_and_no_proposal_is_paid_in_its_place() -> None:
    ran = run(replace(LIGHT, num_candidates=8), make_task())
    assert len(asked(ran)) == 3, "half of eight, the source among them"
    assert rounds_of(ran)[:2] == ["2 rows to bootstrap from, 8 demo sets", "3 instructions proposed"]


def test_the_dataset_is_looked_at_in_batches_that_know_what_was_seen_before() -> None:
    first, second, third = asked(run(LIGHT, make_task(train=24)), OBSERVE)
    assert [each.count(" speaks at length ") for each in (first, second, third)] == [10, 10, 4]
    assert "-> rain" in first
    assert "Observed before" not in first
    assert second.count("Texts, each about one of") == 1
    assert third.count("Texts, each about one of") == 2


def test_rows_that_several_metrics_share_are_looked_at_once_with_the_label_of_what_they_called() -> None:
    task = make_task(train=12, prompts=TWO, weights={"test_routes": 1.0, "test_replies": 1.0})
    shared = tuple(replace(row, metric="test_replies") for row in task.trainset)
    task = replace(task, trainset=(*task.trainset, *shared))
    reply = task.prompts[1]
    other = replace(reply, labelled=tuple(replace(demo, output=f"re: {demo.output}") for demo in reply.labelled))
    task = replace(task, prompts=(task.prompts[0], other))

    def judge(candidate: Candidate, row: Row) -> Outcome:
        outcome = by_digest(candidate, row)
        name = "route" if row.metric == "test_routes" and row.id != "train-0" else "reply"
        return replace(outcome, calls=tuple(call for call in outcome.calls if call.prompt == name))

    seen = "\n".join(asked(run(LIGHT, task, judge=judge), OBSERVE)).splitlines()
    rows = [line for line in seen if " speaks at length " in line]
    assert len(rows) == len(set(rows)) < len(task.trainset)
    assert sum("-> re: " in row for row in rows) == 12


def test_no_more_than_ten_batches_are_looked_at() -> None:
    ran = run(replace(LIGHT, view_data_batch_size=2), make_task(train=60))
    assert len(asked(ran, OBSERVE)) == 10


@pytest.mark.parametrize("noise", ["COMPLETE", "complete.", "", "```"])
def test_looking_ends_when_five_batches_added_nothing(noise: str) -> None:
    ran = run(replace(LIGHT, view_data_batch_size=2), make_task(train=60), proposer=lambda _: noise)
    assert len(asked(ran, OBSERVE)) == 5
    assert asked(ran, SUMMARISE) == [], "there is nothing to sum up"


def test_every_request_for_an_instruction_holds_the_summary_and_labelled_rows() -> None:
    def proposer(completion: Completion) -> str:
        is_summary = completion.messages[0]["content"] == SUMMARISE
        return "Short talks about daily life." if is_summary else propose(completion)

    ran = run(LIGHT, make_task(train=40), proposer=proposer)
    assert len(asked(ran)) == 2
    assert all("About the dataset:\nShort talks about daily life.\n\n" in text for text in asked(ran))
    assert all(text.count(" -> ") == LIGHT.max_examples for text in asked(ran))


def test_a_program_of_one_prompt_is_not_described() -> None:
    ran = run(LIGHT, make_task())
    assert asked(ran, DESCRIBE_PROGRAM) == asked(ran, DESCRIBE_STEP) == []


def test_a_program_of_two_prompts_is_described_once_and_each_of_its_steps() -> None:
    def proposer(completion: Completion) -> str:
        orders, text = completion.messages[0]["content"], completion.messages[1]["content"]
        told = {DESCRIBE_PROGRAM: "It answers mail.", DESCRIBE_STEP: f"It is {text.split('describe:')[-1].split()[0]}."}
        return told.get(orders) or propose(completion)

    ran = run(LIGHT, make_task(prompts=TWO), proposer=proposer)
    (program,) = asked(ran, DESCRIBE_PROGRAM)
    assert [program.count(f"Step {name}:") for name in TWO] == [1, 1]
    assert "route: text: " in program, "a run through the program"
    assert len(asked(ran, DESCRIBE_STEP)) == 2
    requests = asked(ran)
    assert all("It answers mail." in text for text in requests)
    assert ["It is route." in text for text in requests] == [True, True, False, False]
    assert ["It is reply." in text for text in requests] == [False, False, True, True]


def test_each_proposal_is_grounded_in_another_demo_set_and_has_a_tip_of_its_own() -> None:
    optimizer = Mipro(num_candidates=14, max_bootstrapped_demos=0, max_labeled_demos=3, max_examples=3)
    requests = asked(run(optimizer, make_task(train=40)))
    shown = [tuple(line for line in text.splitlines() if " -> " in line) for text in requests]
    assert len(requests) == len(set(shown)) == 6
    tips = [tip for text in requests for tip in TIPS if tip and tip in text]
    assert sorted(tips) == sorted(tip for tip in TIPS if tip), "each once, and once none at all"


def test_without_labels_a_request_shows_what_the_source_got_right() -> None:
    ran = run(replace(LIGHT, max_bootstrapped_demos=0), make_task(labelled=()))
    assert all("Where the current instruction worked" in text for text in asked(ran))
    assert all(" -> rain" in text for text in asked(ran))


def test_the_opening_words_of_a_proposal_are_kept() -> None:
    ran = run(LIGHT, make_task(), proposer=lambda one: f"Rules for all topics: say rain, food or music, {one.draw}.")
    tried = {trial.candidate["route"].instruction for trial in ran.found.trials}
    assert any(text.startswith("Rules for all topics: say rain") for text in tried)


# what is tried


def test_demos_and_instructions_are_searched_together() -> None:
    task = make_task(train=40, prompts=TWO)
    ran = run(Mipro(), task, judge=by_digest)
    for name in TWO:
        tried = [trial.candidate[name] for trial in ran.found.trials[1:]]
        assert len({each.instruction for each in tried}) > 1
        assert len({each.demos for each in tried}) > 1
    mixed = [t.candidate for t in ran.found.trials if t.candidate["route"].demos != t.candidate["reply"].demos]
    assert mixed, "each prompt has a demo set of its own"


def test_the_first_trials_deal_every_set_and_every_instruction() -> None:
    optimizer = replace(LIGHT, num_trials=5, minibatch_full_eval_steps=99)
    ran = run(optimizer, make_task(train=40, val=60), judge=by_digest)
    tried = {candidate["route"] for candidate, _ in batches_of(ran)}
    assert len({each.demos for each in tried}) == 5, "all but the source's own"
    assert len({each.instruction for each in tried}) == 2


def test_a_trial_scores_a_third_of_the_val_rows_and_every_fifth_is_followed_by_a_full_evaluation() -> None:
    optimizer = replace(LIGHT, num_trials=10, startup_trials=99)
    ran = run(optimizer, make_task(train=40, val=60), judge=by_digest)
    rows = [rows for _, rows in batches_of(ran)]
    assert rows == [*[20] * 5, 40, *[20] * 5, 40]
    assert rounds_of(ran)[2:] == ["5 trials, the best on all 60 rows"] * 2


@pytest.mark.parametrize(("val", "rows"), [(300, 35), (60, 20), (30, 10), (12, 10), (8, 8)])
def test_a_minibatch_is_a_third_of_the_val_rows_but_ten_at_least_and_35_at_most(val: int, rows: int) -> None:
    ran = run(replace(LIGHT, num_trials=1), make_task(val=val), judge=by_digest)
    assert [size for _, size in batches_of(ran)] == [rows, *([val - rows] if val > rows else [])]


@few
@given(seed=st.integers(0, 2**32), val=st.integers(1, 70), prompts=st.sampled_from([ONE, TWO]))
def test_the_winner_is_the_best_that_was_scored_on_all_val_rows(seed: int, val: int, prompts: tuple[str, ...]) -> None:
    task = make_task(val=val, prompts=prompts)
    ran = run(LIGHT, task, seed=seed, judge=by_digest)
    seen = Counter({task.source: val})
    for candidate, rows in batches_of(ran):
        seen[candidate] += rows
    full = [candidate for candidate, rows in seen.items() if rows == val]
    assert max(seen.values()) == val
    assert set(full) == {trial.candidate for trial in ran.found.trials}
    assert ran.found.candidate == max(full, key=lambda candidate: candidate.digest[:6])


def test_a_combination_that_cannot_win_any_more_is_not_completed() -> None:
    task = make_task(val=60, instruction="Name rain, music, food, books or trains.")

    def judge(candidate: Candidate, row: Row) -> Outcome:
        return outcome_of(candidate, row) if candidate == task.source else Outcome(score=0.0)

    ran = run(replace(LIGHT, num_trials=5, startup_trials=99), task, judge=judge)
    assert [rows for _, rows in batches_of(ran)] == [20] * 5
    assert rounds_of(ran)[-1] == "5 trials"


def test_a_combination_that_comes_again_reads_the_rows_that_it_has_not_seen() -> None:
    task = make_task(train=1, val=60)
    ran = run(replace(LIGHT, num_trials=9, max_bootstrapped_demos=0), task, judge=by_digest, proposer=lambda _: "")
    (candidate,) = {candidate for candidate, _ in batches_of(ran)}
    assert candidate["route"].demos, "one labelled row, so one set and nothing else"
    assert ran.found.calls == 1 + 2 + 60, "an observation that says nothing, two proposals, each row once"


def test_a_search_ends_when_no_combination_is_left() -> None:
    ran = run(Mipro(num_candidates=6, max_bootstrapped_demos=0), make_task(train=1), proposer=lambda _: "")
    assert len(ran.found.trials) == 2
    assert rounds_of(ran)[2:] == ["2 trials"], "ten rows and then the other two"


def test_the_study_learns_which_parts_are_good() -> None:
    def judge(candidate: Candidate, row: Row) -> Outcome:
        compiled = candidate["route"]
        demos = int(replace(compiled, instruction="").digest[:4], 16) / 16**4
        words = int(replace(compiled, demos=()).digest[:4], 16) / 16**4
        return replace(outcome_of(candidate, row), score=0.45 * (demos + words))

    def reached(startup_trials: int) -> float:
        optimizer = Mipro(num_trials=40, startup_trials=startup_trials, minibatch_full_eval_steps=1)
        task = make_task(train=40, val=2)
        runs = [run(optimizer, task, seed=seed, judge=judge, proposer=counting_proposer()) for seed in range(8)]
        return sum(ran.found.score for ran in runs) / len(runs)

    assert reached(8) > reached(99) + 0.01


def test_trials_enough_try_all_there_is() -> None:
    optimizer = replace(LIGHT, num_trials=99, minibatch_full_eval_steps=1)
    for seed in range(6):
        ran = run(optimizer, make_task(train=40, val=2), seed=seed, judge=by_digest, proposer=counting_proposer())
        assert len(ran.found.trials) == 3 * 6, "instructions and demo sets"
        assert rounds_of(ran)[-1].startswith("1 trial"), "it ends with the last one"


def test_the_study_knows_what_the_source_scored() -> None:
    task = make_task(train=40, val=60)
    optimizer = Mipro(startup_trials=0, num_trials=6, minibatch_full_eval_steps=99)

    def choices(score: float, seed: int) -> list[Candidate]:
        def judge(candidate: Candidate, row: Row) -> Outcome:
            return Outcome(score=score) if candidate == task.source else by_digest(candidate, row)

        return [candidate for candidate, _ in batches_of(run(optimizer, task, seed=seed, judge=judge))][:6]

    assert any(choices(0.0, seed) != choices(0.9, seed) for seed in range(6))


def test_the_study_hears_of_full_evaluations() -> None:
    task = make_task(train=40, val=60)
    optimizer = Mipro(startup_trials=5, num_trials=10)

    def choices(rest: float, seed: int) -> list[Candidate]:
        """With ``rest`` as the score of all rows that a combination sees after its first minibatch."""
        seen: Counter[Candidate] = Counter()

        def judge(candidate: Candidate, row: Row) -> Outcome:
            seen[candidate] += 1
            return Outcome(score=rest) if seen[candidate] > 20 else by_digest(candidate, row)

        proposer = counting_proposer()
        batches = batches_of(run(optimizer, task, seed=seed, judge=judge, proposer=proposer))
        return [candidate for candidate, rows in batches if rows == 20]

    assert any(choices(0.5, seed)[:5] == choices(0.95, seed)[:5] for seed in range(6))
    assert any(choices(0.5, seed)[5:] != choices(0.95, seed)[5:] for seed in range(6))


def test_zero_is_a_seed_like_any_other() -> None:
    task = make_task(train=40, val=60)
    runs = {seed: run(LIGHT, task, seed=seed, judge=by_digest) for seed in (0, 9)}
    assert batches_of(runs[0]) != batches_of(runs[9])


def test_a_search_stops_when_nothing_is_left_to_gain() -> None:
    ran = run(Mipro(), make_task(train=40))
    assert ran.found.score == 1.0
    assert len(rounds_of(ran)) < 8


# what may be missing


@pytest.mark.parametrize("noise", ["", "   ", "```", "Name the topic. It may be rain.", "word " * 4000])
def test_a_proposer_without_ideas_leaves_a_demo_search(noise: str) -> None:
    ran = run(LIGHT, make_task(train=40), proposer=lambda _: noise)
    assert {trial.candidate["route"].instruction for trial in ran.found.trials} == {"Name the topic. It may be rain."}
    assert ran.found.score > ran.found.source_score


def test_what_a_talkative_proposer_observed_is_cut_before_it_is_repeated() -> None:
    ran = run(LIGHT, make_task(train=40), proposer=lambda _: "word " * 40_000)
    assert max(len(text) for text in asked(ran)) < 20_000


def test_without_labels_and_successes_the_instructions_are_searched() -> None:
    ran = run(
        LIGHT, make_task(labelled=(), instruction="Guess."), proposer=lambda one: f"Say food or rain, {one.draw}."
    )
    assert rounds_of(ran)[0] == "0 rows to bootstrap from, 1 demo set"
    assert ran.found.score == pytest.approx(2 / 6)


def test_a_source_that_nothing_can_be_changed_about_stays() -> None:
    task = make_task(labelled=(), instruction="Guess.")
    found = run(LIGHT, task, proposer=lambda _: "").found
    assert (found.candidate, found.calls) == (task.source, 2 + 2)


def test_adopted_texts_take_instructions_only_and_keep_their_placeholder() -> None:
    task = make_task(prompts=TWO, adopted=("reply",))
    ran = run(Mipro(), task, judge=by_digest)
    tried = [trial.candidate["reply"] for trial in ran.found.trials]
    assert len(set(tried)) > 1
    assert all(not each.demos and "{text}" in each.instruction for each in tried)
    assert any(trial.candidate["route"].demos for trial in ran.found.trials)


def test_where_no_prompt_takes_demos_all_candidates_are_instructions() -> None:
    ran = run(LIGHT, make_task(adopted=ONE, labelled=()), proposer=counting_proposer())
    assert len(asked(ran)) == 5


# calls


@pytest.mark.parametrize("prompts", [ONE, TWO])
@pytest.mark.parametrize("is_own_teacher", [True, False])
@pytest.mark.parametrize("labelled", [ONE, TWO, ()])
@pytest.mark.parametrize("adopted", [(), ("route",)])
@pytest.mark.parametrize(("train", "val"), [(0, 12), (18, 12), (18, 60)])
def test_counted_calls_lie_within_the_expected_ones(
    prompts: tuple[str, ...],
    is_own_teacher: bool,
    labelled: tuple[str, ...],
    adopted: tuple[str, ...],
    train: int,
    val: int,
) -> None:
    shown = tuple(name for name in labelled if name in prompts and name not in adopted)
    task = make_task(train=train, val=val, prompts=prompts, labelled=shown, adopted=adopted)
    for optimizer in (LIGHT, Mipro(num_candidates=4, num_trials=3, max_labeled_demos=0, max_rounds=2)):
        fewest, most = optimizer.expected_calls(sizes_of(task, is_own_teacher=is_own_teacher))
        for judge in (outcome_of, by_digest):
            assert fewest <= run(optimizer, task, is_own_teacher=is_own_teacher, judge=judge).found.calls <= most


def test_the_most_calls_are_made_where_nothing_is_saved() -> None:
    task = make_task(train=48, val=60)
    optimizer = Mipro(startup_trials=99)
    found = run(optimizer, task, judge=better_and_better(), proposer=counting_proposer()).found
    proposals, trials = 5 + 1 + 8, 27 * 20 + 6 * 40
    assert found.calls == optimizer.expected_calls(sizes_of(task))[1] == proposals + trials


def test_the_fewest_calls_are_made_where_the_proposer_is_mute_and_one_set_is_refused() -> None:
    task = make_task(train=1, val=60)

    def judge(candidate: Candidate, row: Row) -> Outcome:
        if candidate == task.source:
            return outcome_of(candidate, row)
        return Outcome(score=None, feedback="KeyError", is_rejected=True)

    optimizer = replace(LIGHT, max_bootstrapped_demos=0)
    found = run(optimizer, task, judge=judge, proposer=lambda _: "").found
    assert found.calls == optimizer.expected_calls(sizes_of(task))[0] == 1 + 2 + 20


def test_a_teacher_that_is_not_the_model_is_asked_for_what_the_sets_need_and_no_more() -> None:
    task = make_task(train=200, instruction="Guess.")
    ran = run(LIGHT, task, is_own_teacher=False, proposer=lambda _: "", judge=by_digest)
    traced = sum(len(e.rows) for e in ran.events if isinstance(e, RowsScored) and e.teacher_attempt is not None)
    assert 24 <= traced <= 48


@pytest.mark.parametrize(("candidates", "trials"), [(6, 10), (12, 18), (18, 27)])
def test_trials_are_as_many_as_published(candidates: int, trials: int) -> None:
    sizes = Sizes(train_rows=0, labelled_rows=30, val_rows=9)
    optimizer = Mipro(num_candidates=candidates)
    assert optimizer.expected_calls(sizes)[1] == candidates // 2 - 1 + 9 * trials


@pytest.mark.parametrize(("val", "prompts", "published"), [(24, 1, 291), (100, 1, 673), (24, 2, 1058)])
def test_a_light_search_costs_less_than_published(val: int, prompts: int, published: int) -> None:
    sizes = Sizes(train_rows=24, labelled_rows=24, val_rows=val, prompts=prompts, calls_per_row=prompts)
    assert LIGHT.expected_calls(sizes)[1] < published, "DSPy 3.4.1, measured on 24 train rows"


# budgets


@few
@given(
    max_calls=st.integers(0, 1700),
    seed=st.integers(0, 99),
    prompts=st.sampled_from([ONE, TWO]),
    val=st.sampled_from([12, 48]),
    is_own_teacher=st.booleans(),
)
def test_a_search_that_plans_by_its_budget_is_not_cut_by_it(
    max_calls: int, seed: int, prompts: tuple[str, ...], val: int, is_own_teacher: bool
) -> None:
    task = limited(make_task(train=48, val=val, prompts=prompts), max_calls)
    ran = run(Mipro(), task, seed=seed, max_calls=max_calls, judge=by_digest, is_own_teacher=is_own_teacher)
    calls_on_valset = val * len(prompts)
    assert ran.found.calls <= max_calls
    if is_own_teacher or max_calls >= 48 * len(prompts):
        assert not ran.found.is_cut
    if is_own_teacher and max_calls >= calls_on_valset:
        assert len(ran.found.trials) > 1, "what can be scored is scored"


@pytest.mark.parametrize(("max_calls", "least"), [(104, 1.0), (304, 0.97), (560, 0.97)])
def test_a_limited_budget_is_used(max_calls: int, least: float) -> None:
    task = limited(make_task(train=48, val=48), max_calls)
    world = {"judge": better_and_better(), "proposer": counting_proposer()}
    ran = run(Mipro(startup_trials=99), task, max_calls=max_calls, **world)
    assert ran.found.calls >= least * max_calls


def test_a_short_budget_goes_to_trials_before_it_goes_to_proposals() -> None:
    task = limited(make_task(train=48, val=48), 50)
    ran = run(Mipro(), task, max_calls=50, judge=by_digest)
    assert asked(ran, OBSERVE) == []
    assert len(asked(ran)) == 2
    assert len(ran.found.trials) == 2
    bare = run(Mipro(), limited(task, 48), max_calls=48, judge=by_digest)
    assert bare.world.completions == []
    assert rounds_of(bare)[1] == "no calls left for instructions"
    assert len(bare.found.trials) == 2


def test_a_budget_that_scores_nothing_is_not_spent() -> None:
    task = limited(make_task(train=48, val=48), 47)
    assert run(Mipro(), task, max_calls=47).found.calls == 0


def test_wherever_the_budget_ends_the_best_full_score_so_far_wins() -> None:
    task = make_task(train=18, val=30, prompts=TWO)
    optimizer = replace(LIGHT, num_trials=6, max_rounds=2)
    whole = run(optimizer, task, is_own_teacher=False, judge=by_digest)
    for end_at in range(1, whole.world.batches + 1):
        found = run(optimizer, task, is_own_teacher=False, judge=by_digest, end_at=end_at).found
        assert found.is_cut
        assert found.score == max(trial.score for trial in found.trials)


# settings


@pytest.mark.parametrize(
    ("key", "least"), [("num_candidates", 2), ("num_trials", 1), ("minibatch_size", 1), ("view_data_batch_size", 1)]
)
def test_a_setting_out_of_range_is_refused_with_the_least_that_will_do(key: str, least: int) -> None:
    with pytest.raises(UsageError, match=f"mipro.{key} must be at least {least}"):
        make_optimizer("mipro", {key: least - 1})
    make_optimizer("mipro", {key: least})


def test_trials_by_formula_are_typed_as_none() -> None:
    assert make_optimizer("mipro", {"num_trials": "none"}) == Mipro()
