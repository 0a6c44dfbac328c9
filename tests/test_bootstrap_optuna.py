from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.errors import UsageError
from pytest_promptopt.optimizers.base import Outcome, Row, Sizes, Task, TunablePrompt
from pytest_promptopt.optimizers.bootstrap_optuna import BootstrapOptuna
from pytest_promptopt.optimizers.driver import RoundEnded, RowsScored
from pytest_promptopt.optimizers.registry import make_optimizer
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo
from pytest_promptopt.prompts.signature import text_signature
from pytest_promptopt.prompts.template import Language, Template
from tests.optimizer_world import Run, make_demo, make_rows, make_task, outcome_of, run, sizes_of

TWO = ("route", "reply")
THREE = ("route", "reply", "sign")
LABELS_ALONE = BootstrapOptuna(max_bootstrapped_demos=0, max_labeled_demos=1, num_candidates=50, num_sets=50)
"""Sets of one labelled row each, as many as there are rows."""

few = settings(max_examples=25, deadline=None, derandomize=True)


def rounds_of(ran: Run) -> list[str]:
    return [event.text for event in ran.events if isinstance(event, RoundEnded)]


def rows_of(demos: Sequence[Demo]) -> list[str | None]:
    return [demo.row for demo in demos]


def trials_of(ran: Run) -> list[Candidate]:
    """What was tried beside the source."""
    return [trial.candidate for trial in ran.found.trials[1:]]


def worth(compiled: CompiledPrompt) -> float:
    """What a prompt is worth in a world where nothing but chance says which demos are good."""
    return int(compiled.digest[:6], 16) / 16**6


def judge_each_prompt(candidate: Candidate, row: Row) -> Outcome:
    """Each prompt adds its share, whatever the others show."""
    score = sum(map(worth, candidate.values())) / len(candidate)
    return replace(outcome_of(candidate, row), score=0.9 * score)


def with_adopted_text(task: Task) -> Task:
    """The same program with a prompt more, an adopted text, which takes no demos."""
    template = Template(language=Language.FORMAT, text="Reply to {text}")
    source = CompiledPrompt(instruction=template.text)
    adopted = TunablePrompt(name="adopted", signature=text_signature(name="adopted", template=template), source=source)
    candidate = Candidate({**task.source, "adopted": source})
    return replace(task, prompts=(*task.prompts, adopted), source=candidate)


# what is tried


def test_the_labelled_set_and_the_first_traces_are_tried_before_anything_else() -> None:
    optimizer = BootstrapOptuna(num_candidates=2, max_bootstrapped_demos=2, max_labeled_demos=3)
    labelled, unshuffled = trials_of(run(optimizer, make_task(instruction="Guess."), is_own_teacher=False))
    assert [demo.reasoning is not None for demo in labelled["route"].demos] == [False, False, False]
    assert [demo.reasoning is not None for demo in unshuffled["route"].demos] == [True, True, False]
    assert rows_of(unshuffled["route"].demos)[:2] == ["train-0", "train-1"]


def test_sets_that_are_made_together_show_the_same_rows_in_every_prompt() -> None:
    optimizer = BootstrapOptuna(num_candidates=1, max_labeled_demos=0)
    (first,) = trials_of(run(optimizer, make_task(prompts=TWO, instruction="Guess."), is_own_teacher=False))
    assert rows_of(first["route"].demos) == rows_of(first["reply"].demos) == [f"train-{number}" for number in range(4)]


def test_a_trial_may_give_two_prompts_sets_of_different_rows() -> None:
    optimizer = BootstrapOptuna(max_labeled_demos=0, num_sets=5)
    tried = trials_of(run(optimizer, make_task(train=30, prompts=TWO), is_own_teacher=False, judge=judge_each_prompt))
    mixed = [trial for trial in tried if rows_of(trial["route"].demos) != rows_of(trial["reply"].demos)]
    assert (len(tried), len(mixed)) == (15, 12), "labelled rows are none here, so four sets of either"
    assert any(not trial["route"].demos and trial["reply"].demos for trial in mixed), "zero-shot is a set like others"


@few
@given(seed=st.integers(0, 2**32), prompts=st.sampled_from([("route",), TWO, THREE]), own=st.booleans())
def test_every_trial_is_another_one_and_there_are_as_many_as_were_asked_for(
    seed: int, prompts: tuple[str, ...], own: bool
) -> None:
    optimizer = BootstrapOptuna(num_candidates=7, num_sets=9)
    task = make_task(train=20, prompts=prompts)
    ran = run(optimizer, task, seed=seed, is_own_teacher=own, judge=judge_each_prompt)
    tried = [trial.candidate for trial in ran.found.trials]
    assert len(tried) == len(set(tried)) == 1 + 7
    shown = {name: {candidate[name] for candidate in tried} for name in prompts}
    assert all(len(sets) <= 9 for sets in shown.values())


@pytest.mark.parametrize(("train", "prompts", "combinations"), [(3, TWO, 16), (40, ("route",), 41), (2, THREE, 27)])
def test_a_search_tries_all_there_is_once_when_it_may_and_then_ends(
    train: int, prompts: tuple[str, ...], combinations: int
) -> None:
    ran = run(LABELS_ALONE, make_task(train=train, prompts=prompts), judge=judge_each_prompt)
    assert len(ran.found.trials) == combinations
    steps = [int(text.split()[0]) for text in rounds_of(ran)[1:]]
    assert sum(steps) == combinations - 1
    assert 0 not in steps
    best = {name: max((trial.candidate[name] for trial in ran.found.trials), key=worth) for name in prompts}
    assert ran.found.candidate == Candidate(best)


def test_a_combination_that_came_before_is_no_trial_and_is_said_so() -> None:
    ran = run(LABELS_ALONE, make_task(train=3, prompts=TWO), judge=judge_each_prompt)
    assert rounds_of(ran)[0] == "0 rows to bootstrap from, 16 combinations of demo sets"
    assert any(text.endswith("answered from the grid") for text in rounds_of(ran))
    assert ran.found.calls == 15 * 12 * 2


def test_without_an_idea_that_is_new_any_untried_combination_is_as_good() -> None:
    optimizer = replace(LABELS_ALONE, num_candidates=12)
    task = make_task(train=40)

    def judge(candidate: Candidate, row: Row) -> Outcome:
        shown = candidate["route"].demos
        return replace(outcome_of(candidate, row), score=0.9 if rows_of(shown) == ["train-7"] else 0.0)

    found = [run(optimizer, task, seed=seed, judge=judge).found for seed in range(40)]
    assert {len(each.trials) for each in found} == {13}
    assert 6 <= sum(each.score > 0.5 for each in found) <= 20, "12 of 40 by chance"


def test_the_study_learns_which_sets_go_well_together() -> None:
    learning, drawing = BootstrapOptuna(num_candidates=24), BootstrapOptuna(num_candidates=24, startup_trials=99)
    task = make_task(train=40, prompts=THREE, val=2)

    def reached(optimizer: BootstrapOptuna) -> float:
        runs = [run(optimizer, task, seed=seed, judge=judge_each_prompt) for seed in range(12)]
        return sum(ran.found.score for ran in runs) / len(runs)

    assert reached(learning) > reached(drawing) + 0.02


def test_another_seed_searches_elsewhere() -> None:
    task = make_task(train=30, prompts=TWO)
    runs = [run(BootstrapOptuna(), task, seed=seed, judge=judge_each_prompt) for seed in range(4)]
    assert len({tuple(trials_of(ran)) for ran in runs}) == 4


def test_a_search_stops_when_nothing_is_left_to_gain() -> None:
    ran = run(BootstrapOptuna(), make_task())
    assert ran.found.score == 1.0
    assert len(ran.found.trials) == 2, "one labelled set shows every topic"
    assert rounds_of(ran) == ["2 rows to bootstrap from, 24 combinations of demo sets", "1 trial"]


def test_a_source_that_cannot_be_beaten_is_left_alone() -> None:
    ran = run(BootstrapOptuna(), make_task(instruction="rain music food books trains money"), is_own_teacher=False)
    assert (ran.found.calls, [*map(type, ran.events)]) == (0, [RowsScored])


# prompts, labels and teachers that give nothing


@pytest.mark.parametrize("own", [True, False])
def test_a_prompt_that_takes_no_demos_stays_as_it_is(own: bool) -> None:
    task = with_adopted_text(make_task(train=20))
    ran = run(BootstrapOptuna(num_candidates=6), task, is_own_teacher=own, judge=judge_each_prompt)
    assert len(ran.found.trials) == 7
    assert {trial.candidate["adopted"] for trial in ran.found.trials} == {task.source["adopted"]}
    assert ran.found.rejected == ()


def test_a_program_of_texts_alone_is_left_alone_and_nothing_is_called() -> None:
    program = with_adopted_text(make_task())
    text = program.prompts[-1]
    task = replace(program, prompts=(text,), source=Candidate({text.name: text.source}))
    ran = run(BootstrapOptuna(), task, is_own_teacher=False)
    assert (ran.found.candidate, ran.found.calls) == (task.source, 0)
    sizes = replace(sizes_of(task, is_own_teacher=False), takes_demos=False)
    assert BootstrapOptuna().expected_calls(sizes) == (0, 0)


def test_a_teacher_that_gets_nothing_right_leaves_labelled_sets() -> None:
    ran = run(BootstrapOptuna(num_candidates=5, max_labeled_demos=2), make_task(instruction="Guess."))
    assert rounds_of(ran)[0].startswith("0 rows to bootstrap from")
    assert {demo.reasoning for trial in trials_of(ran) for demo in trial["route"].demos} == {None}
    assert len(ran.found.trials) == 6


def test_without_labels_and_successes_the_source_stays_and_nothing_is_called() -> None:
    task = make_task(labelled=(), instruction="Guess.", prompts=TWO)
    ran = run(BootstrapOptuna(), task)
    assert (ran.found.candidate, ran.found.calls) == (task.source, 0)
    assert rounds_of(ran) == ["0 rows to bootstrap from, 1 combination of demo sets"]


def test_without_labels_sets_are_of_traces_alone() -> None:
    ran = run(BootstrapOptuna(num_candidates=4), make_task(labelled=(), instruction="Guess."), is_own_teacher=False)
    assert {len(trial["route"].demos) for trial in trials_of(ran)} <= {1, 2, 3, 4}
    assert len(trials_of(ran)) == 4


def test_labels_of_one_prompt_leave_the_other_to_its_traces() -> None:
    task = make_task(prompts=TWO, labelled=("reply",), instruction="Guess.")
    tried = trials_of(run(BootstrapOptuna(max_bootstrapped_demos=0), task, judge=judge_each_prompt))
    assert {trial["route"] for trial in tried} == {task.source["route"]}
    assert len({trial["reply"] for trial in tried}) == 16


def test_demos_that_are_there_already_are_one_of_the_sets() -> None:
    demo = make_demo(make_rows("train", 2)[1])
    task = make_task(labelled=(), instruction="Guess.")
    shown = replace(task, source=Candidate({"route": CompiledPrompt(instruction="Guess.", demos=(demo,))}))
    ran = run(BootstrapOptuna(max_bootstrapped_demos=0), shown, judge=judge_each_prompt)
    assert [trial.candidate["route"].demos for trial in ran.found.trials] == [(demo,), ()]


def test_a_combination_that_makes_the_metric_raise_is_no_trial_to_win_and_ends_nothing() -> None:
    def judge(candidate: Candidate, row: Row) -> Outcome:
        if len(candidate["route"].demos) > 2:
            return Outcome(score=None, feedback="KeyError", is_rejected=True)
        return judge_each_prompt(candidate, row)

    task = make_task(train=30, instruction="Guess.")
    found = run(BootstrapOptuna(max_labeled_demos=0), task, judge=judge, is_own_teacher=False).found
    assert found.rejected
    assert len(found.rejected) + len(found.trials) == 1 + 16
    assert all(len(trial.candidate["route"].demos) <= 2 for trial in found.trials)


# counts


@pytest.mark.parametrize("prompts", [("route",), TWO])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("has_labels", [True, False])
@pytest.mark.parametrize("train", [0, 1, 18])
@pytest.mark.parametrize(
    "optimizer",
    [
        BootstrapOptuna(num_candidates=5, max_labeled_demos=3),
        BootstrapOptuna(num_candidates=3, max_labeled_demos=0, max_rounds=3),
        BootstrapOptuna(num_candidates=3, max_bootstrapped_demos=0, max_labeled_demos=2, max_rounds=2),
        BootstrapOptuna(num_candidates=12, num_sets=3),
    ],
    ids=["five", "traces alone", "labels alone", "few sets"],
)
def test_counted_calls_lie_within_the_expected_ones(
    optimizer: BootstrapOptuna, prompts: tuple[str, ...], own: bool, has_labels: bool, train: int
) -> None:
    task = make_task(train=train, prompts=prompts, labelled=prompts if has_labels else ())
    fewest, most = optimizer.expected_calls(sizes_of(task, is_own_teacher=own))
    assert fewest <= run(optimizer, task, is_own_teacher=own).found.calls <= most


@pytest.mark.parametrize(
    ("own", "max_rounds", "num_sets", "prompts", "calls"),
    [
        (True, 1, 24, ("route",), 16 * 12),
        (False, 1, 24, ("route",), 18 + 16 * 12),
        (True, 2, 24, ("route",), 18 + 16 * 12),
        (True, 1, 5, ("route",), 4 * 12),
        (False, 1, 24, TWO, 2 * (18 + 16 * 12)),
        (False, 1, 3, TWO, 2 * (18 + 8 * 12)),
    ],
)
def test_the_most_calls_are_made_where_nothing_is_saved(
    own: bool, max_rounds: int, num_sets: int, prompts: tuple[str, ...], calls: int
) -> None:
    task = make_task(train=18, prompts=prompts, instruction="Guess.")
    optimizer = BootstrapOptuna(max_rounds=max_rounds, num_sets=num_sets, max_labeled_demos=4)
    found = run(optimizer, task, is_own_teacher=own, judge=judge_each_prompt).found
    assert optimizer.expected_calls(sizes_of(task, is_own_teacher=own))[1] == found.calls == calls


@pytest.mark.parametrize(("own", "calls"), [(True, 12), (False, 18 + 12)])
def test_the_fewest_calls_are_made_where_the_first_set_is_perfect(own: bool, calls: int) -> None:
    task = make_task(train=18)
    found = run(BootstrapOptuna(max_labeled_demos=18), task, is_own_teacher=own).found
    assert BootstrapOptuna().expected_calls(sizes_of(task, is_own_teacher=own))[0] == found.calls == calls


def test_published_settings_cost_no_more_than_published() -> None:
    calls = BootstrapOptuna().expected_calls(Sizes(train_rows=24, labelled_rows=24, val_rows=24))
    assert calls[1] == 16 * 24 <= 388, "DSPy 3.4.1, measured on 24 train and 24 val rows"


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("prompts", [("route",), TWO])
def test_a_budget_may_end_at_any_request(own: bool, prompts: tuple[str, ...]) -> None:
    optimizer, task = BootstrapOptuna(num_candidates=6), make_task(train=20, prompts=prompts)
    whole = run(optimizer, task, is_own_teacher=own, judge=judge_each_prompt).found
    for end_at in range(1, 6 + 1 + (not own)):
        cut = run(optimizer, task, is_own_teacher=own, judge=judge_each_prompt, end_at=end_at).found
        assert cut.is_cut
        assert cut.trials == whole.trials[: len(cut.trials)]
        assert cut.score == max(trial.score for trial in cut.trials)
        assert len(cut.trials) == end_at - (not own and end_at > 1)


@few
@given(seed=st.integers(0, 99), max_calls=st.integers(0, 130), own=st.booleans())
def test_a_ceiling_is_never_exceeded_and_used_up_to_the_last_trial_that_fits(
    seed: int, max_calls: int, own: bool
) -> None:
    task = make_task(train=18)
    ran = run(BootstrapOptuna(), task, seed=seed, max_calls=max_calls, is_own_teacher=own, judge=judge_each_prompt)
    traced = 0 if own else 18
    affordable = max(0, max_calls - traced) // 12
    assert ran.found.calls == (traced if max_calls >= 18 else 0) + 12 * affordable <= max_calls


# settings


@pytest.mark.parametrize(
    ("key", "least"),
    [
        ("num_candidates", 1),
        ("num_sets", 3),
        ("max_bootstrapped_demos", 0),
        ("max_labeled_demos", 0),
        ("max_rounds", 1),
        ("startup_trials", 0),
        ("trials_per_round", 1),
    ],
)
def test_a_setting_out_of_range_is_refused_with_the_least_that_will_do(key: str, least: int) -> None:
    make_optimizer("bootstrap-optuna", {key: str(least)})
    with pytest.raises(UsageError, match=rf"bootstrap-optuna\.{key} must be at least {least}"):
        make_optimizer("bootstrap-optuna", {key: str(least - 1)})


def test_there_are_more_sets_than_trials_unless_somebody_says_otherwise() -> None:
    assert BootstrapOptuna().num_sets > 1 + BootstrapOptuna().num_candidates


def test_rounds_are_announced_in_steps_until_the_trials_are_done() -> None:
    ran = run(BootstrapOptuna(num_candidates=6), make_task(train=30, prompts=TWO), judge=judge_each_prompt)
    rounds = [(event.round, event.rounds) for event in ran.events if isinstance(event, RoundEnded)]
    assert rounds == [(1, 3), (2, 3), (3, 3)]
    assert [text.partition(",")[0] for text in rounds_of(ran)[1:]] == ["4 trials", "2 trials"]
