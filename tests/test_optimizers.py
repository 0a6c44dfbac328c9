from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

import pytest

from pytest_promptopt.errors import UsageError
from pytest_promptopt.optimizers.base import Completion, Outcome, Row, Search, Sizes, Task, TunablePrompt
from pytest_promptopt.optimizers.bootstrap_few_shot import BootstrapFewShot
from pytest_promptopt.optimizers.bootstrap_random_search import BootstrapRandomSearch
from pytest_promptopt.optimizers.copro import Copro
from pytest_promptopt.optimizers.demos import read_demos
from pytest_promptopt.optimizers.driver import RoundEnded
from pytest_promptopt.optimizers.guards import Guard, find_placeholders, make_guard
from pytest_promptopt.optimizers.labeled_few_shot import LabeledFewShot
from pytest_promptopt.optimizers.proposals import (
    Attempt,
    Case,
    ask_for_instruction,
    clean_instruction,
    sift,
)
from pytest_promptopt.optimizers.registry import OPTIMIZERS, make_optimizer
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt
from pytest_promptopt.prompts.signature import text_signature
from pytest_promptopt.prompts.template import Language, Template
from pytest_promptopt.prompts.trace import PromptCall
from tests.optimizer_world import (
    Run,
    make_demo,
    make_rows,
    make_task,
    outcome_of,
    propose,
    run,
    sizes_of,
    text_of,
    topic_of,
)

ALL = tuple(OPTIMIZERS)


def rounds_of(ran: Run) -> list[str]:
    return [event.text for event in ran.events if isinstance(event, RoundEnded)]


# labelled rows


def test_labeled_few_shot_shows_k_different_labelled_rows() -> None:
    task = make_task(train=20)
    winner = run(LabeledFewShot(k=8), task).found.candidate["route"]
    assert len({demo.row for demo in winner.demos}) == 8
    assert {demo.row for demo in winner.demos} <= {row.id for row in task.trainset}
    assert winner.instruction == task.source["route"].instruction


def test_labeled_few_shot_takes_all_rows_when_there_are_fewer_than_k() -> None:
    assert len(run(LabeledFewShot(), make_task(train=7)).found.candidate["route"].demos) == 7


def test_labeled_few_shot_draws_other_rows_for_another_seed() -> None:
    winners = {run(LabeledFewShot(k=5), make_task(train=40), seed=seed).found.trials[-1].candidate for seed in range(4)}
    assert len(winners) > 1


def test_prompts_without_labels_keep_what_they_have() -> None:
    task = make_task(prompts=("route", "reply"), labelled=("reply",))
    winner = run(LabeledFewShot(), task).found.candidate
    assert winner["route"] == task.source["route"]
    assert len(winner["reply"].demos) == 12


def test_demos_that_are_there_stay_where_no_others_come() -> None:
    demo = make_demo(make_rows("train", 2)[1])
    task = make_task(prompts=("route", "reply"), labelled=("reply",))
    shown = CompiledPrompt(instruction=task.source["route"].instruction, demos=(demo,))
    winner = run(LabeledFewShot(), replace(task, source=task.source.replace("route", shown))).found.candidate
    assert winner["route"].demos == (demo,)


@pytest.mark.parametrize("name", ["labeled-few-shot", "bootstrap-few-shot", "bootstrap-random-search"])
def test_without_labels_and_successes_demo_searches_keep_the_source_and_call_nothing(name: str) -> None:
    task = make_task(labelled=(), instruction="Guess.")
    found = run(make_optimizer(name, {}), task).found
    assert (found.candidate, found.calls) == (task.source, 0)


# bootstrapping


def test_bootstrapped_demos_are_the_teachers_answers_with_their_reasoning() -> None:
    optimizer = BootstrapFewShot(max_bootstrapped_demos=3, max_labeled_demos=0)
    winner = run(optimizer, make_task(), is_own_teacher=False).found.trials[-1].candidate["route"]
    assert [demo.reasoning for demo in winner.demos] == [f"because of {demo.output}" for demo in winner.demos]
    assert len(winner.demos) == 3


def test_labelled_rows_stand_behind_the_bootstrapped_ones_and_repeat_none() -> None:
    optimizer = BootstrapFewShot(max_bootstrapped_demos=2, max_labeled_demos=6)
    demos = run(optimizer, make_task(), is_own_teacher=False).found.candidate["route"].demos
    assert [demo.reasoning is not None for demo in demos] == [True, True, False, False, False, False]
    assert len({demo.row for demo in demos}) == 6


def test_another_seed_bootstraps_from_other_rows() -> None:
    optimizer = BootstrapFewShot(max_bootstrapped_demos=2, max_labeled_demos=0)
    runs = [run(optimizer, make_task(train=60), seed=seed, is_own_teacher=False) for seed in range(4)]
    assert len({ran.found.trials[-1].candidate for ran in runs}) > 1


def test_only_rows_with_full_marks_become_demos() -> None:
    task = make_task(train=24)
    winner = run(BootstrapFewShot(max_bootstrapped_demos=9, max_labeled_demos=0), task).found.trials[-1].candidate
    assert {demo.output for demo in winner["route"].demos} <= {"rain"}


def test_bootstrapping_stops_asking_a_teacher_that_gave_enough() -> None:
    ran = run(BootstrapFewShot(max_bootstrapped_demos=2), make_task(train=60), is_own_teacher=False)
    assert ran.found.calls == 8 + 12


def test_later_rounds_ask_the_rows_that_failed_for_fresh_draws() -> None:
    task = make_task(train=12)
    ran = run(BootstrapFewShot(max_bootstrapped_demos=12, max_labeled_demos=0, max_rounds=2), task)
    assert len(ran.found.candidate["route"].demos) == 12
    assert ran.found.calls == 10 + 12, "two rows succeeded at once, ten in the second round"


def test_every_prompt_of_a_program_learns_from_the_same_rows() -> None:
    task = make_task(prompts=("route", "reply"))
    optimizer = BootstrapFewShot(max_bootstrapped_demos=4, max_labeled_demos=0)
    winner = run(optimizer, task, is_own_teacher=False).found.candidate
    assert [demo.row for demo in winner["route"].demos] == [demo.row for demo in winner["reply"].demos]


def test_a_prompt_called_several_times_in_a_row_gives_one_demo() -> None:
    calls = tuple(
        PromptCall(prompt="route", inputs={"text": text}, output="rain", reasoning=None, reply="rain") for text in "abc"
    )
    row = make_rows("train", 1)[0]
    drawn = {
        demo.inputs["text"]
        for seed in range(20)
        for demo in read_demos(row, Outcome(score=1.0, calls=calls), Random(seed))["route"]
    }
    assert drawn == {"a", "b", "c"}


def test_a_row_that_two_metrics_share_is_shown_once() -> None:
    task = make_task()
    shared = tuple(replace(row, metric="test_tone") for row in task.trainset)
    task = replace(task, trainset=(*task.trainset, *shared), weights={**task.weights, "test_tone": 1.0})
    optimizer = BootstrapFewShot(max_bootstrapped_demos=24, max_labeled_demos=0)
    demos = run(optimizer, task, is_own_teacher=False).found.candidate["route"].demos
    assert sorted(demo.row or "" for demo in demos) == sorted(row.id for row in shared)


def test_a_reply_that_could_not_be_read_is_no_demo() -> None:
    call = PromptCall(prompt="route", inputs={}, output=None, reasoning=None, reply="hm", is_parsed=False)
    assert read_demos(make_rows("train", 1)[0], Outcome(score=1.0, calls=(call,)), Random(0)) == {}


# random search


def test_random_search_finds_more_than_one_labelled_set_does() -> None:
    task = make_task(train=30)
    optimizer = BootstrapRandomSearch(max_labeled_demos=4, max_bootstrapped_demos=1)
    many = sum(run(optimizer, task, seed=seed).found.score for seed in range(5))
    assert many > sum(run(LabeledFewShot(k=4), task, seed=seed).found.score for seed in range(5))


def test_random_search_scores_no_set_twice_and_ends_its_rounds_with_words() -> None:
    ran = run(BootstrapRandomSearch(num_candidates=6, max_labeled_demos=3), make_task(train=30))
    trials = [trial.candidate for trial in ran.found.trials]
    assert len(trials) == len(set(trials)) == 1 + 2 + 6, "the source, two plain sets, six random ones"
    assert rounds_of(ran) == ["5 rows to bootstrap from", "4 demo sets", "2 demo sets"]


def test_random_sets_differ_in_how_many_demos_are_bootstrapped() -> None:
    ran = run(
        BootstrapRandomSearch(max_labeled_demos=5), make_task(train=30, instruction="Guess."), is_own_teacher=False
    )
    demos = [trial.candidate["route"].demos for trial in ran.found.trials[3:]]
    assert {len(shown) for shown in demos} == {5}
    assert {sum(demo.reasoning is not None for demo in shown) for shown in demos} == {1, 2, 3, 4}


def test_a_set_that_came_up_before_is_drawn_anew() -> None:
    optimizer = BootstrapRandomSearch(num_candidates=8, max_bootstrapped_demos=0, max_labeled_demos=2)
    assert len(run(optimizer, make_task(train=3)).found.trials) == 1 + 6, "three rows make six sets of two"


def test_random_search_stops_when_nothing_is_left_to_gain() -> None:
    ran = run(BootstrapRandomSearch(), make_task(train=12, val=12))
    assert ran.found.score == 1.0
    assert len(rounds_of(ran)) < 5


# instructions


def test_copro_climbs_round_by_round() -> None:
    ran = run(Copro(breadth=4, depth=3), make_task())
    assert ran.found.score == pytest.approx(4 / 6)
    assert [event.best_score for event in ran.events if isinstance(event, RoundEnded)] == [
        pytest.approx(2 / 6),
        pytest.approx(3 / 6),
        pytest.approx(4 / 6),
    ]


def test_copro_improves_every_prompt_of_a_program() -> None:
    task = make_task(prompts=("route", "reply"))
    ran = run(Copro(breadth=3, depth=2), task)
    assert all(ran.found.candidate[name] != task.source[name] for name in ("route", "reply"))
    assert rounds_of(ran)[1].startswith("2 instructions for reply proposed")


def test_each_proposal_is_a_call_of_its_own() -> None:
    ran = run(Copro(breadth=5, depth=1), make_task())
    assert [completion.draw for completion in ran.world.completions] == [0, 1, 2, 3]


def test_the_proposer_reads_the_tests_own_words_about_failures() -> None:
    request = run(Copro(), make_task()).world.completions[0].messages[-1]["content"]
    assert request.count("the model answered: ") == request.count("the model answered: unknown") == 10
    assert request.count("the test said: assert 'unknown' == '") == 10, "all that failed"


def test_the_proposer_sees_scored_attempts_worst_first_from_the_second_round() -> None:
    requests = [
        completion.messages[-1]["content"] for completion in run(Copro(breadth=3), make_task()).world.completions
    ]
    scores = [float(line.split()[1].rstrip(":")) for line in requests[-1].splitlines() if line.startswith("score ")]
    assert "tried so far" not in requests[0]
    assert len(scores) == 3
    assert scores == sorted(scores)


def test_copro_says_how_many_proposals_it_threw_away_and_why() -> None:
    def parrot(completion: Completion) -> str:
        answers = (
            f"Say rain when {text_of(make_rows('train', 1)[0])}.",
            "",
            "Name the topic.  It may be rain.",
            "Or food.",
        )
        return answers[completion.draw]

    ran = run(Copro(breadth=5, depth=1), make_task(), proposer=parrot)
    assert rounds_of(ran) == ["4 instructions proposed, 3 rejected (copies row train-0, empty or broken off, repeated)"]
    assert [rejection.reason for rejection in ran.found.rejected] == [
        "copies row train-0",
        "empty or broken off",
        "repeated",
    ]


@pytest.mark.parametrize("noise", ["", "   ", "```", "Name the topic. It may be rain.", "word " * 400])
def test_a_proposer_without_ideas_leaves_the_source(noise: str) -> None:
    task = make_task()
    found = run(Copro(breadth=3, depth=2), task, proposer=lambda _: noise).found
    assert (found.candidate, found.calls) == (task.source, 2 + 3)


def test_instructions_keep_the_demos_they_were_tried_with() -> None:
    demo = make_demo(make_rows("train", 2)[1])
    task = make_task(labelled=())
    shown = Candidate({"route": CompiledPrompt(instruction=task.source["route"].instruction, demos=(demo,))})
    winner = run(Copro(breadth=3, depth=1), replace(task, source=shown)).found.candidate
    assert winner["route"].demos == (demo,)
    assert winner != shown


def test_a_request_shows_fields_examples_failures_and_attempts() -> None:
    task = make_task()
    row = task.trainset[1]
    call = PromptCall(prompt="route", inputs={"text": "late again"}, output="rain", reasoning=None, reply="rain")
    system, user = ask_for_instruction(
        task.prompts[0],
        "Name it.",
        examples=[make_demo(row)],
        attempts=[Attempt(instruction="Name\nit.", score=0.75), Attempt(instruction="Guess.", score=0.25)],
        failures=[Case(row=row.id, call=call, feedback="assert 'rain' == 'trains'\n  - trains\n  + rain")],
    )
    assert system["role"] == "system"
    assert user["content"] == (
        "Current instruction:\n```\nName it.\n```\n\n"
        "Inputs:\n- text: text\nAnswer:\n- answer: text\n\n"
        "Examples of inputs and the expected answer:\n"
        'text: "train-1 speaks at length of nothing but music today" -> music\n\n'
        "Where the current instruction failed, with the words of the test:\n"
        'text: "late again"\n  the model answered: rain\n'
        "  the test said: assert 'rain' == 'trains' - trains + rain\n\n"
        "Instructions tried so far with their scores, worst first:\n"
        "score 0.250: Guess.\nscore 0.750: Name it.\n\n"
        "Write the improved instruction. Reply with its text alone, between ``` fences."
    )


def test_a_request_leaves_out_what_has_no_room_and_the_worst_attempts_first() -> None:
    prompt = make_task().prompts[0]
    long = [replace(make_demo(row), inputs={"text": "x" * 999}) for row in make_rows("train", 40)]
    attempts = [Attempt(instruction="word " * 1000, score=number / 10) for number in range(5)]
    request = ask_for_instruction(prompt, "Name it.", examples=long, attempts=attempts)[-1]["content"]
    assert 10 < request.count("x …") < 20
    assert [line[:11] for line in request.splitlines() if line.startswith("score ")] == ["score 0.400"]


def test_a_request_fences_an_instruction_that_holds_fences() -> None:
    task = make_task()
    current = "Answer like this:\n```\nrain\n```"
    request = ask_for_instruction(task.prompts[0], current)[-1]["content"]
    assert f"````\n{current}\n````" in request
    assert clean_instruction(f"````\n{current}\n````") == current


@pytest.mark.parametrize(
    ("reply", "instruction"),
    [
        ("Do it.", "Do it."),
        ("```\nDo it.\n```", "Do it."),
        ("```text\nDo it.\nNow.\n```\nEnjoy!", "Do it.\nNow."),
        ("```Do it.```", "Do it."),
        ('"Do it."', "Do it."),
        ("Sure! Here is the improved instruction: Do it.", "Do it."),
        ("Certainly, here's a better one:\n\nDo it.", "Do it."),
        ("Sure! Here it is:\n\nDo it.", "Do it."),
        ("**Improved instruction:**\n\nDo it.", "Do it."),
        ("```\nDo it", ""),
        ("Great care is needed: do it.", "Great care is needed: do it."),
        ("Here are the rules: do it.", "Here are the rules: do it."),
        ("Follow this instruction: do it.", "Follow this instruction: do it."),
        ('"Rain" or "food"', '"Rain" or "food"'),
    ],
)
def test_a_reply_is_cleaned_of_its_wrapping_and_of_nothing_else(reply: str, instruction: str) -> None:
    assert clean_instruction(reply) == instruction


def guard_of(prompt: TunablePrompt, inputs: list[tuple[str, str]]) -> Guard:
    return make_guard(prompt.signature, prompt.source, inputs)


def test_words_of_a_training_input_are_no_instruction_unless_the_source_has_them() -> None:
    inputs = [("t-1", "the train was late again this morning")]
    guard = guard_of(make_task().prompts[0], inputs)
    assert guard.find_fault("When the Train was late, AGAIN, say trains.") == "copies row t-1"
    assert guard.find_fault("When the train was late, say trains.") == ""
    own = make_task(instruction="Say trains when the train was late again.").prompts[0]
    assert guard_of(own, inputs).find_fault("If the train was late again: trains.") == ""


def test_words_that_most_training_rows_share_are_no_rows_own() -> None:
    labels = "one of billing, delivery, device, app, account"
    inputs = [
        ("t-1", labels),
        ("t-2", labels),
        ("t-3", "nobody knows what this one is about"),
        ("t-2", "the train was late again"),
        ("t-2", "the train was late again"),
    ]
    guard = guard_of(make_task().prompts[0], inputs)
    assert guard.find_fault("Answer with one of billing, delivery, device, app, account.") == ""
    assert guard.find_fault("If the train was late again: trains.") == "copies row t-2"


@pytest.mark.parametrize("rows", [("t-1", "t-1#2"), ("t-1", "t-1#2", "t-2", "t-3"), ("tone-1", "t-1", "t-2", "t-3")])
def test_a_row_that_comes_twice_is_no_less_its_own(rows: tuple[str, ...]) -> None:
    text = "the train was late again this morning"
    inputs = [
        (rows[0], text),
        (rows[1], text),
        *((row, f"{row} is about rain, music and much else") for row in rows[2:]),
    ]
    assert guard_of(make_task().prompts[0], inputs).find_fault(f"Like {text}.") == f"copies row {rows[0]}"


@pytest.mark.parametrize(
    ("text", "language", "rule"),
    [
        ("%(ticket)s", Language.PLAIN, "A literal percent sign is written %%."),
        ("{% if a %}x{% endif %}", Language.JINJA2, "Leave each between the same statements as now"),
        ("{ticket}", Language.FORMAT, "Literal braces are written twice"),
    ],
)
def test_the_proposer_is_told_the_rule_of_the_texts_language(text: str, language: Language, rule: str) -> None:
    signature = text_signature(name="ask", template=Template(language=language, text=text))
    prompt = TunablePrompt(name="ask", signature=signature, source=CompiledPrompt(instruction=text))
    asked = ask_for_instruction(prompt, text)[-1]["content"]
    rules = ("A literal percent sign", "Leave each between", "Literal braces")
    assert [each for each in rules if each in asked] == [each for each in rules if rule.startswith(each)]
    assert rule in asked


def test_a_proposal_that_loses_a_placeholder_is_thrown_away() -> None:
    prompt = make_task(instruction="Name the topic of {text} in {one} word.").prompts[0]
    prompt = replace(prompt, guard=guard_of(prompt, []))
    sifted = sift(["Topic of {text}?", "Topic of this?"], prompt, [], max_words=99)
    assert sifted.instructions == ("Topic of {text}?",)
    assert [rejection.reason for rejection in sifted.rejected] == ["loses {text}"]
    assert "Keep these placeholders exactly as they are written" in ask_for_instruction(prompt, "x")[-1]["content"]


def test_placeholders_of_a_template_are_told_from_other_braces() -> None:
    prompt = make_task(instruction='Reply {"topic": ...} for {{ text }}, {text!r} and {{ other }}.').prompts[0]
    assert find_placeholders(prompt.signature, prompt.source) == ("{{ text }}", "{text!r}")


def test_a_source_longer_than_the_cap_may_be_replaced_by_one_of_its_length() -> None:
    prompt = make_task(instruction="word " * 20).prompts[0]
    sifted = sift(["other " * 20, "other " * 21], prompt, [], max_words=5)
    assert sifted.instructions == (("other " * 20).strip(),)
    assert [rejection.reason for rejection in sifted.rejected] == ["longer than 20 words"]


def test_repeats_are_told_by_their_words_not_by_their_spaces() -> None:
    prompt = make_task().prompts[0]
    assert sift(["Name  it.\n", "Name it."], prompt, [], max_words=99).instructions == ("Name  it.",)
    assert sift(["Name  it."], prompt, ["Name it."], max_words=99).instructions == ()


# counts


@dataclass(frozen=True)
class Setting:
    name: str
    settings: Mapping[str, object]
    prompts: tuple[str, ...] = ("route",)
    train: int = 18
    val: int = 12
    is_own_teacher: bool = True
    has_labels: bool = True


SETTINGS = [
    Setting(name, settings, prompts=prompts, is_own_teacher=own, has_labels=labels, train=train)
    for name, settings in [
        ("labeled-few-shot", {"k": 4}),
        ("bootstrap-few-shot", {"max_labeled_demos": 3, "max_rounds": 2}),
        ("bootstrap-few-shot", {"max_bootstrapped_demos": 0, "max_labeled_demos": 3}),
        ("bootstrap-random-search", {"num_candidates": 5, "max_labeled_demos": 3}),
        ("bootstrap-random-search", {"num_candidates": 3, "max_labeled_demos": 0, "max_rounds": 3}),
        ("copro", {"breadth": 3, "depth": 2}),
        ("reflect-race", {"num_proposals": 3, "num_demo_sets": 2, "children": 3, "minibatch_size": 6}),
    ]
    for prompts in [("route",), ("route", "reply")]
    for own in (True, False)
    for labels in (True, False)
    for train in (0, 18)
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"{s.name}-{len(s.prompts)}-{s.is_own_teacher}-{s.train}")
def test_counted_calls_lie_within_the_expected_ones(setting: Setting) -> None:
    labelled = setting.prompts if setting.has_labels else ()
    task = make_task(train=setting.train, prompts=setting.prompts, labelled=labelled)
    optimizer = make_optimizer(setting.name, setting.settings)
    fewest, most = optimizer.expected_calls(sizes_of(task, is_own_teacher=setting.is_own_teacher))
    assert fewest <= run(optimizer, task, is_own_teacher=setting.is_own_teacher).found.calls <= most


def test_the_most_calls_are_made_where_nothing_is_saved() -> None:
    task = make_task(train=18)
    endless = iter(f"Name the topic, attempt {number}." for number in range(99))
    copro = Copro(breadth=3, depth=3)

    def judge(candidate: Candidate, row: Row) -> Outcome:
        words = candidate["route"].instruction.split("attempt ")
        return replace(outcome_of(candidate, row), score=float(words[1].rstrip(".")) / 100 if len(words) > 1 else 0.0)

    found = run(copro, task, proposer=lambda _: next(endless), judge=judge).found
    assert found.calls == copro.expected_calls(sizes_of(task))[1] == 8 + 8 * 12 + 2 * 18


def test_random_search_with_published_settings_costs_less_than_published() -> None:
    calls = BootstrapRandomSearch().expected_calls(Sizes(train_rows=24, labelled_rows=24, val_rows=24))
    assert calls[1] <= 500, "DSPy 3.4.1, measured on 24 train and 24 val rows"


# names and settings


@pytest.mark.parametrize("name", ALL)
def test_every_strategy_is_made_by_name_and_has_defaults(name: str) -> None:
    assert run(make_optimizer(name, {}), make_task()).found.score >= 1 / 6


def test_an_unknown_optimizer_is_a_usage_error_that_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"Unknown optimizer 'corpo'. Did you mean 'copro'\? Known are: labeled"):
        make_optimizer("corpo", {})


def test_an_unknown_setting_is_a_usage_error_that_lists_settings_with_defaults() -> None:
    with pytest.raises(UsageError, match=r"has no setting 'bredth'. Did you mean 'breadth'\? .*breadth=10, depth=3"):
        make_optimizer("copro", {"bredth": "5"})


def test_settings_are_read_from_text_as_their_type() -> None:
    assert make_optimizer("copro", {"breadth": "5", "init_temperature": "0.7"}) == Copro(
        breadth=5, init_temperature=0.7
    )


@pytest.mark.parametrize("value", ["five", "2.5", "", "nan", "inf", True, None, 2.5, [5], float("inf")])
def test_a_setting_of_the_wrong_type_is_a_usage_error(value: object) -> None:
    with pytest.raises(UsageError, match=r"copro\.breadth must be a whole number"):
        make_optimizer("copro", {"breadth": value})


@pytest.mark.parametrize("value", ["nan", "-inf", float("nan"), "warm"])
def test_a_temperature_is_a_finite_number(value: object) -> None:
    with pytest.raises(UsageError, match=r"copro\.init_temperature must be a number"):
        make_optimizer("copro", {"init_temperature": value})


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("labeled-few-shot", "k"),
        ("bootstrap-random-search", "sets_per_round"),
        ("copro", "breadth"),
        ("reflect-race", "children"),
    ],
)
def test_a_setting_out_of_range_is_a_usage_error(name: str, key: str) -> None:
    with pytest.raises(UsageError, match=rf"{key} must be at least"):
        make_optimizer(name, {key: "0"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """A strategy of somebody else."""

    pace: Literal["slow", "slower"] = "slow"
    limit: int | None = 3
    is_kind: bool = True
    start: float = 1.0

    def search(self, task: Task, rng: Random) -> Search:
        return task.source
        yield

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        return 0, 0


def test_other_packages_add_strategies_by_address() -> None:
    made = make_optimizer(
        "patient",
        {"pace": "slower", "limit": "none", "is_kind": "no", "start": 2},
        extra={"patient": f"{Patient.__module__}:Patient"},
    )
    assert made == Patient(pace="slower", limit=None, is_kind=False, start=2.0)


@pytest.mark.parametrize(
    ("key", "value"), [("pace", "fast"), ("limit", "many"), ("is_kind", "perhaps"), ("is_kind", 1)]
)
def test_choices_and_claims_are_checked_too(key: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"patient\.{key} must be"):
        make_optimizer("patient", {key: value}, extra={"patient": f"{Patient.__module__}:Patient"})


def test_a_strategy_that_cannot_be_loaded_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'ghost' cannot be loaded from 'nowhere:Ghost'"):
        make_optimizer("ghost", {}, extra={"ghost": "nowhere:Ghost"})


def test_the_world_of_these_tests_is_as_it_says() -> None:
    row = make_rows("val", 2)[1]
    assert topic_of(row) == "music"
    assert outcome_of(Candidate({"route": CompiledPrompt(instruction="music")}), row).score == 1.0
    assert propose(Completion(messages=({"role": "user", "content": "```\nx\n``` rain food"},), draw=1)) == (
        "```\nx Or food.\n```"
    )
