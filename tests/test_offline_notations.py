"""Offline models read what DSPy's and GEPA's optimizers send, in their own notations."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.lms.offline import MODELS, reply
from pytest_promptopt.lms.offline.notations import gist, sectioned_instruction, unfold, without_sections
from pytest_promptopt.lms.offline.shown import read_rows

EXAMPLES = (
    "[Example({'utterance': 'play some jazz', 'intent': 'music'}) (input_keys={'utterance'}), "
    "Example({'utterance': \"what's the forecast for today\", 'intent': 'weather'}) (input_keys={'utterance'}), "
    "Example({'utterance': 'put on that old song', 'intent': 'music'}) (input_keys={'utterance'})]"
)
RECORDS: tuple[dict[str, Any], ...] = (
    {
        "Inputs": {"utterance": "play some jazz for me"},
        "Generated Outputs": {"intent": "weather"},
        "Feedback": "assert 'weather' == 'music'",
    },
    {
        "Inputs": {"utterance": "will it rain here today"},
        "Generated Outputs": {"intent": "music"},
        "Feedback": "assert 'music' == 'weather'",
    },
)
PAIRS = (("play some jazz for me", "music"), ("will it rain here today", "weather"))
JSON_ORDERS = """\
Your input fields are:
1. `current_instruction` (str): The instructions I provided to the assistant.
2. `examples_with_feedback` (list[dict[str, Any]]): Task inputs, responses and feedback.
Your output fields are:
1. `new_instruction` (str): The new instruction for the assistant.
All interactions will be structured in the following way, with the appropriate values filled in.

Inputs will have the following structure:

[[ ## current_instruction ## ]]
{current_instruction}

[[ ## examples_with_feedback ## ]]
{examples_with_feedback}

Outputs will be a JSON object with the following fields.

{
  "new_instruction": "{new_instruction}"
}
In adhering to this structure, your objective is:
        Your task is to write a new instruction for the assistant."""
OLD = "Say what is wanted.\nChoose banking when the text mentions money."


def json_question(instruction: str) -> str:
    rows = json.dumps(RECORDS)
    return (
        f"[[ ## current_instruction ## ]]\n{instruction}\n\n[[ ## examples_with_feedback ## ]]\n{rows}\n\n"
        "Respond with a JSON object in the following order of fields: `new_instruction`."
    )


def ask_in_json(model: str, seed: int) -> str:
    messages = [{"role": "system", "content": JSON_ORDERS}, {"role": "user", "content": json_question(OLD)}]
    return str(json.loads(reply(model, messages, temperature=1.0, seed=seed))["new_instruction"])


def headed(records: tuple[dict[str, Any], ...]) -> str:
    parts = [
        f"# Example {number}\n## Inputs\n### utterance\n{record['Inputs']['utterance']}\n\n\n"
        f"## Generated Outputs\n### intent\n{record['Generated Outputs']['intent']}\n\n\n"
        f"## Feedback\n{record['Feedback']}\n\n"
        for number, record in enumerate(records, start=1)
    ]
    return "\n\n".join(parts)


def test_rows_in_a_list_of_examples_are_read_one_by_one() -> None:
    shown = read_rows(unfold(EXAMPLES), allowed=("music", "weather"))
    assert [label for _, label in shown.pairs] == ["music", "weather", "music"]
    assert shown.pairs[0][0] == "play some jazz"


@pytest.mark.parametrize("text", [json.dumps(RECORDS), headed(RECORDS)], ids=["json", "headings"])
def test_what_the_model_answered_is_no_label_and_the_feedback_gives_it(text: str) -> None:
    assert read_rows(unfold(text), allowed=()).pairs == PAIRS


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(alphabet="abc: ->\n#[]{}\"'", max_size=60))
def test_text_in_no_such_notation_stays_as_it_is(text: str) -> None:
    assert unfold(text) == text


def test_the_instruction_to_improve_is_the_one_in_its_section_not_the_words_that_announce_it() -> None:
    assert sectioned_instruction(f"{JSON_ORDERS}\n\n{json_question(OLD)}") == OLD


def test_of_attempts_in_a_section_the_best_is_the_one_to_improve() -> None:
    request = (
        "[[ ## attempted_instructions ## ]]\n[1] «Instruction #1: Guess.»\n[2] «Prefix #1: Label:»\n"
        "[3] «Resulting Score #1: 40.0»\n[4] «Instruction #2: Read, then decide.»\n[5] «Prefix #2: Label:»\n"
        "[6] «Resulting Score #2: 62.5»\n\nRespond with the corresponding output fields."
    )
    assert sectioned_instruction(request) == "Read, then decide."
    assert "Guess" not in without_sections(request)


def test_observations_are_summed_up_by_their_first_sentence() -> None:
    said = "[[ ## observations ## ]]\nShort requests. Many are about music.\n\nRespond with the corresponding fields."
    assert gist(said) == "Short requests."


@pytest.mark.parametrize("model", MODELS)
def test_a_proposal_asked_for_in_json_comes_in_json(model: str) -> None:
    assert all(ask_in_json(model, seed) for seed in range(5))


def test_a_writer_that_is_shown_some_labels_mostly_keeps_what_was_said_about_the_others() -> None:
    kept = sum("banking" in ask_in_json("offline/keyword", seed) for seed in range(40))
    assert kept > 20


def test_a_row_whose_reply_is_wanted_in_json_is_answered_in_json() -> None:
    orders = (
        "Your input fields are:\n1. `utterance` (str):\nYour output fields are:\n"
        "1. `intent` (Literal['music', 'weather']):\nAll interactions will be structured in the following way.\n\n"
        "[[ ## utterance ## ]]\n{utterance}\n\nOutputs will be a JSON object with the following fields.\n\n"
        '{\n  "intent": "{intent}        # note: must exactly match one of: music; weather"\n}\n'
        "In adhering to this structure, your objective is:\n        Say what is wanted."
    )
    asked = "Respond with a JSON object in the following order of fields: `intent`."
    question = f"[[ ## utterance ## ]]\nplay some music\n\n{asked}"
    messages = [{"role": "system", "content": orders}, {"role": "user", "content": question}]
    assert json.loads(reply("offline/keyword", messages)) == {"intent": "music"}
