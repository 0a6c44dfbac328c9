"""What holds for every proposal, whatever a proposer and the training rows say."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.optimizers.guards import COPIED_WORDS, make_guard
from pytest_promptopt.optimizers.proposals import clean_instruction, sift
from tests.optimizer_world import make_task

few = settings(max_examples=25, deadline=None, derandomize=True)

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
