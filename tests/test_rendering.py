"""The messages a model is sent: they read well, hold every input word for word, and never change by accident."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
from typing import Annotated, Any, Literal, NamedTuple

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo
from pytest_promptopt.prompts.rendering import (
    format_rule,
    json_inputs,
    render,
    render_inputs,
    render_output,
    render_prefix,
    to_json,
)
from pytest_promptopt.prompts.signature import Signature, read_signature

DAY = datetime.date(2020, 1, 2)
Team = Literal["billing", "bug", "account"]


class Tone(enum.Enum):
    CALM = "calm"
    LOUD = "loud"


@dataclasses.dataclass(frozen=True)
class Triage:
    team: Team
    priority: int
    summary: Annotated[str, "one sentence"]
    tags: list[str]


class Point(NamedTuple):
    x: int
    y: int


class Customer(pydantic.BaseModel):
    name: str
    since: datetime.date
    tier: str = pydantic.Field(alias="tierName", default="free")


def signature_of(annotation: object, **options: Any) -> Signature:
    def answer(ticket: str) -> object:
        """Decide which team should answer."""

    answer.__annotations__["return"] = annotation
    return read_signature(answer, name="module.answer", **options)


def two_inputs() -> Signature:
    def answer(ticket: Annotated[str, "what the customer wrote"], tone: str = "calm") -> Team:
        """Decide which team should answer."""

    return read_signature(answer, name="module.answer")


@pytest.mark.parametrize(
    ("annotation", "rule"),
    [
        (str, ""),
        (Annotated[str, "one polite sentence"], "Answer with text: one polite sentence."),
        (str | None, "Answer with text or null."),
        (Team, "Answer with exactly one of: billing, bug, account. Write nothing else."),
        (Tone, "Answer with exactly one of: calm, loud. Write nothing else."),
        (Tone | None, "Answer with exactly one of: calm, loud, or null. Write nothing else."),
        (
            Annotated[Tone, "how they sound"],
            "The answer: how they sound.\nAnswer with exactly one of: calm, loud. Write nothing else.",
        ),
        (bool, "Answer with exactly one of: true, false. Write nothing else."),
        (bool | None, "Answer with exactly one of: true, false or null. Write nothing else."),
        (int, "Answer with a single whole number. Write nothing else."),
        (float, "Answer with a single number. Write nothing else."),
        (int | None, "Answer with a single whole number or null. Write nothing else."),
        (Annotated[int, "hours to wait"], "Answer with a single whole number: hours to wait. Write nothing else."),
        (
            Annotated[int, pydantic.Field(ge=1, le=5)],
            "Answer with a single whole number, at least 1, at most 5. Write nothing else.",
        ),
        (datetime.date, "Answer with a single date as YYYY-MM-DD. Write nothing else."),
        (list[str], 'Answer with a JSON object with these fields and nothing else:\n- "answer": a list of text'),
    ],
)
def test_the_format_rule_is_one_plain_sentence(annotation: object, rule: str) -> None:
    assert format_rule(signature_of(annotation)) == rule


def test_a_record_with_reasoning_lists_its_fields() -> None:
    assert format_rule(signature_of(Triage, reasoning=True)).splitlines() == [
        "Answer with a JSON object with these fields and nothing else:",
        '- "reasoning": think it through step by step first',
        '- "team": one of billing, bug, account',
        '- "priority": a whole number',
        '- "summary": text, one sentence',
        '- "tags": a list of text',
    ]


def test_reasoning_before_a_label_asks_for_two_fields() -> None:
    assert format_rule(signature_of(Team, reasoning=True)).splitlines()[1:] == [
        '- "reasoning": think it through step by step first',
        '- "answer": one of billing, bug, account',
    ]


def test_a_whole_call_reads_as_a_conversation() -> None:
    demos = (
        Demo(inputs={"ticket": "Charged twice", "tone": "loud"}, output="billing", row="t-001"),
        Demo(inputs={"ticket": "It crashed.\nAgain."}, output="bug"),
    )
    compiled = CompiledPrompt(instruction="Pick the team.", demos=demos)
    assert render(two_inputs(), compiled, {"ticket": "Hello", "tone": "calm"}) == (
        {
            "role": "system",
            "content": "Pick the team.\n\n"
            "You are given:\n- ticket: what the customer wrote\n\n"
            "Answer with exactly one of: billing, bug, account. Write nothing else.",
        },
        {"role": "user", "content": "ticket: Charged twice\ntone: loud"},
        {"role": "assistant", "content": "billing"},
        {"role": "user", "content": "<ticket>\nIt crashed.\nAgain.\n</ticket>"},
        {"role": "assistant", "content": "bug"},
        {"role": "user", "content": "ticket: Hello\ntone: calm"},
    )


def test_a_single_text_input_is_sent_bare_and_braces_are_left_alone() -> None:
    compiled = CompiledPrompt(instruction="Reply to {this}.")
    assert render(signature_of(str), compiled, {"ticket": "{ticket} {{x}} %s {"}) == (
        {"role": "system", "content": "Reply to {this}."},
        {"role": "user", "content": "{ticket} {{x}} %s {"},
    )


def test_a_prompt_without_inputs_or_instruction_still_says_something() -> None:
    def joke() -> str:
        """Tell a joke."""

    signature = read_signature(joke, name="m")
    assert render(signature, CompiledPrompt(instruction=""), {}) == ({"role": "user", "content": "Answer now."},)


def test_the_prefix_is_written_once_for_equal_prompts() -> None:
    signature = two_inputs()
    first, second = (CompiledPrompt(instruction="Pick.", demos=(Demo(inputs={}, output="bug"),)) for _ in range(2))
    assert render_prefix(signature, first) is render_prefix(signature, second)
    assert render_prefix(signature, first) != render_prefix(signature, CompiledPrompt(instruction="Choose."))


def test_prompts_with_one_text_and_two_signatures_do_not_share_a_prefix() -> None:
    compiled = CompiledPrompt(instruction="Answer.")
    assert render_prefix(signature_of(int), compiled) != render_prefix(signature_of(bool), compiled)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("text", "text"),
        ("", ""),
        (3, "3"),
        (True, "true"),
        (None, "null"),
        (1.5, "1.5"),
        (Tone.CALM, "calm"),
        (["a", "ü"], '["a", "ü"]'),
        ({"b", "a"}, '["a", "b"]'),
        ({"k": (1, 2)}, '{"k": [1, 2]}'),
        (Point(1, 2), '{"x": 1, "y": 2}'),
        (Triage("bug", 1, "Hm.", ["a"]), '{"team": "bug", "priority": 1, "summary": "Hm.", "tags": ["a"]}'),
        (
            Customer(name="Ö", since=DAY),
            '{"name": "Ö", "since": "2020-01-02", "tierName": "free"}',
        ),
        (datetime.date(2024, 5, 6), "2024-05-06"),
    ],
)
def test_any_input_is_written_as_text_or_json(value: object, text: str) -> None:
    assert render_inputs(signature_of(str), {"ticket": value}) == text


def test_an_input_that_nobody_can_write_down_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="a object cannot be sent to a model; pass text"):
        render_inputs(signature_of(str), {"ticket": object()})


@pytest.mark.parametrize(
    ("annotation", "output", "reasoning", "text"),
    [
        (str, "Dear you", None, "Dear you"),
        (Team, "bug", None, "bug"),
        (bool, False, None, "false"),
        (int, 3, None, "3"),
        (int | None, None, None, "null"),
        (list[str], ["ä"], None, '{"answer": ["ä"]}'),
        (Point, {"x": 1, "y": 2}, None, '{"x": 1, "y": 2}'),
    ],
)
def test_a_demo_answers_as_the_format_rule_asks(annotation: object, output: Any, reasoning: Any, text: str) -> None:
    assert render_output(signature_of(annotation), output, reasoning) == text


def test_a_demo_thinks_before_it_answers_where_reasoning_is_asked() -> None:
    signature = signature_of(Team, reasoning=True)
    assert render_output(signature, "bug", "It crashed.") == '{"reasoning": "It crashed.", "answer": "bug"}'
    assert render_output(signature, "bug", None) == '{"answer": "bug"}'
    assert render_output(signature_of(Team), "bug", "It crashed.") == "bug"


def test_inputs_are_kept_as_json() -> None:
    inputs = {"ticket": "x", "point": Point(1, 2), "tone": Tone.LOUD}
    assert json_inputs(inputs) == {"ticket": "x", "point": {"x": 1, "y": 2}, "tone": "loud"}


texts = st.text(st.characters(exclude_categories=["Cs"]))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(instruction=texts, ticket=texts, tone=texts, demo=texts)
def test_every_text_is_sent_word_for_word(instruction: str, ticket: str, tone: str, demo: str) -> None:
    compiled = CompiledPrompt(instruction=instruction, demos=(Demo(inputs={"ticket": demo}, output="bug"),))
    messages = render(two_inputs(), compiled, {"ticket": ticket, "tone": tone})
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"].startswith(instruction)
    assert demo in messages[1]["content"]
    assert ticket in messages[-1]["content"]
    assert messages[-1]["content"].endswith((tone, f"{tone}\n</tone>"))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(ticket=texts)
def test_a_single_text_is_the_whole_turn(ticket: str) -> None:
    assert render_inputs(signature_of(str), {"ticket": ticket}) == ticket


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(value=plain)
def test_json_values_are_kept_as_they_are(value: Any) -> None:
    assert to_json(value) == value
    assert json.loads(json.dumps(to_json(value))) == value
