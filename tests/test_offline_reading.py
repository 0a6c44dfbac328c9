"""How the offline models read prompts and requests: ours, and those that other tools write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from pytest_promptopt.errors import FormatError
from pytest_promptopt.lms.base import Message
from pytest_promptopt.lms.offline import MODELS, reply
from pytest_promptopt.lms.offline.contract import Kind, OutputField, Shape, find_all_labels, find_labels, read_contract
from pytest_promptopt.lms.offline.conversation import read_values, take_apart
from pytest_promptopt.lms.offline.extract import Assignment, answer_freely
from pytest_promptopt.lms.offline.proposal import current_instruction, without_instructions
from pytest_promptopt.lms.offline.shown import read_rows
from pytest_promptopt.lms.offline.words import spoken, stem
from pytest_promptopt.optimizers.base import PromptCall, TunablePrompt
from pytest_promptopt.optimizers.proposals import Attempt, Case, ask_for_instruction, clean_instruction
from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo
from pytest_promptopt.prompts.parsing import parse
from pytest_promptopt.prompts.rendering import render
from pytest_promptopt.prompts.signature import Signature, read_signature

TEXTS = (
    "I was charged twice for my invoice.",
    "The app crashes when I open 3 photos.",
    "Please change the email of my account!",
    "Where is the 2.50 discount?",
    "hello",
    "Subject: lost\nMy parcel is gone: help",
)
Team = Literal["billing", "bug report", "account"]


def route(ticket: str) -> Team:
    """Decide which team should answer this support ticket."""
    raise NotImplementedError


@dataclass
class Verdict:
    team: Team
    urgent: bool
    parts: int
    price: float
    summary: Annotated[str, "one sentence"]
    tags: list[str]


def judge(ticket: str, customer: str) -> Verdict:
    """Judge this support ticket."""
    raise NotImplementedError


def is_angry(ticket: str) -> bool:
    """Is the customer angry?"""
    raise NotImplementedError


def count(ticket: str) -> int:
    """How many photos are there?"""
    raise NotImplementedError


def price(ticket: str) -> float:
    """What does it cost?"""
    raise NotImplementedError


def greet(ticket: str) -> str:
    """Answer this customer politely."""
    raise NotImplementedError


def rendered(signature: Signature, **inputs: str) -> tuple[Message, ...]:
    return render(signature, CompiledPrompt(instruction=signature.instruction), inputs)


# --- prompts of our own -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [route, is_angry, count, price, greet])
@pytest.mark.parametrize("reasoning", [False, True])
def test_what_a_rendered_prompt_asks_for_comes_back_in_its_form(function: object, reasoning: bool) -> None:
    signature = read_signature(function, name="it", reasoning=reasoning)  # type: ignore[arg-type]
    parsed = 0
    for text in TEXTS:
        for model in MODELS:
            try:
                parse(signature, reply(model, rendered(signature, ticket=text)))
            except FormatError:
                continue
            parsed += 1
    assert parsed >= 0.75 * len(TEXTS) * len(MODELS)


def test_a_record_comes_back_whole() -> None:
    signature = read_signature(judge, name="judge")
    said = reply("offline/keyword", rendered(signature, ticket="I was billed for 3 bugs", customer="Ada"))
    verdict = parse(signature, said).value
    assert isinstance(verdict, Verdict)
    assert verdict.parts == 3


def test_talk_fails_the_lenient_reader_too() -> None:
    signature = read_signature(route, name="route")
    talk = [{"role": "system", "content": "Sort this ticket. Labels: billing, bug report, account."}]
    failed = 0
    for number in range(200):
        said = reply("offline/chatty", [*talk, {"role": "user", "content": f"My invoice number {number} is wrong"}])
        try:
            parse(signature, said)
        except FormatError:
            failed += 1
    assert 0.1 < failed / 200 < 0.4


# --- contracts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Answer with exactly one of: a, b b, c. Write nothing else.",
        "Answer with exactly one of: a, b b, c or null. Write nothing else.",
        "Answer with one of: a, b b, c.",
        "Pick one of a, b b or c.",
        "Return Literal['a', 'b b', 'c'].",
        'The schema is {"enum": ["a", "b b", "c"]}.',
        "Labels:\n- a: the first\n- b b: the second\n- c\n",
        "The categories are: `a`, `b b`, `c`.",
        "Choose between a, b b and not more, or c.\nAnswer with exactly one of: a, b b, c. Write nothing else.",
    ],
)
def test_labels_are_found_however_they_are_listed(text: str) -> None:
    assert find_labels(text) == ("a", "b b", "c")


def test_a_quoted_label_keeps_its_comma() -> None:
    assert find_labels('Answer with exactly one of: "yes, now", no. Write nothing else.') == ("yes, now", "no")


def test_a_prompt_without_labels_takes_them_from_its_demos() -> None:
    assert read_contract("Sort it.", ["a", "b", "a ", "b"]).fields[0].labels == ("a", "b")
    assert read_contract("Sort it.", ["a", "b", "c", "d"]).fields[0].labels == ()


def test_the_fields_of_a_json_rule_are_read() -> None:
    rule = (
        "Judge.\n\nAnswer with a JSON object with these fields and nothing else:\n"
        '- "reasoning": think it through step by step first\n- "team": one of billing, bug, account, who answers it\n'
        '- "level": one of low, high or null\n- "urgent": true or false\n- "count": a whole number, at least 1\n'
        '- "price": a number\n- "tags": a list of text\n- "summary": text, one sentence'
    )
    contract = read_contract(rule, [])
    assert contract.shape is Shape.JSON
    assert contract.has_reasoning
    assert contract.fields == (
        OutputField(name="reasoning"),
        OutputField(name="team", labels=("billing", "bug", "account")),
        OutputField(name="level", labels=("low", "high")),
        OutputField(name="urgent", labels=("true", "false"), kind=Kind.BOOL),
        OutputField(name="count", kind=Kind.WHOLE_NUMBER),
        OutputField(name="price", kind=Kind.NUMBER),
        OutputField(name="tags", kind=Kind.LIST),
        OutputField(name="summary"),
    )


CHAT_MARKERS = """\
Your input fields are:
1. `ticket` (str): the text
Your output fields are:
1. `reasoning` (str):
2. `team` (Literal['billing', 'bug']):
All interactions will be structured in the following way, with the appropriate values filled in.

[[ ## ticket ## ]]
{ticket}

[[ ## reasoning ## ]]
{reasoning}

[[ ## team ## ]]
{team}        # note: the value you produce must exactly match (no extra characters) one of: billing; bug

[[ ## completed ## ]]
In adhering to this structure, your objective is:
        Decide which team should answer."""


def test_chat_markers_are_read_and_written() -> None:
    asked = (
        "[[ ## ticket ## ]]\nThere is a bug in the app\n\nRespond with the corresponding output fields, starting with "
        "the field `[[ ## reasoning ## ]]`, then `[[ ## team ## ]]`, and then ending with the marker for "
        "`[[ ## completed ## ]]`."
    )
    said = reply("offline/keyword", [{"role": "system", "content": CHAT_MARKERS}, {"role": "user", "content": asked}])
    assert read_values(said)["team"] == "bug"
    assert said.endswith("[[ ## completed ## ]]")


def test_a_json_schema_is_read_and_answered() -> None:
    schema = {"type": "object", "properties": {"team": {"enum": ["billing", "bug"]}, "count": {"type": "integer"}}}
    orders = f"Route the ticket. Reply with JSON only, following this schema: {json.dumps(schema)}"
    messages = [{"role": "system", "content": orders}, {"role": "user", "content": "7 items on my billing page"}]
    assert json.loads(reply("offline/keyword", messages)) == {"team": "billing", "count": 7}


# --- conversations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("plain words", {"": "plain words"}),
        ("words first\nNote: then a name", {"": "words first\nNote: then a name"}),
        ("ticket: lost\ncustomer: Ada", {"ticket": "lost", "customer": "Ada"}),
        ("ticket: lost\n<body>\nfirst\nsecond\n</body>", {"ticket": "lost", "body": "first\nsecond"}),
        ('{"a": "x", "b": 2}', {"a": "x", "b": "2"}),
        ("{broken", {"": "{broken"}),
        ("[[ ## a ## ]]\nx\n\n[[ ## b ## ]]\ny", {"a": "x", "b": "y"}),
        ("note: one\nnote: two", {"note": "one\ntwo"}),
        ("", {"": ""}),
    ],
)
def test_the_values_of_a_message_are_read_in_every_notation(text: str, values: dict[str, str]) -> None:
    assert read_values(text) == values


def test_the_last_paragraph_of_a_lone_message_is_the_question() -> None:
    content = "Pick one of: a, b.\n\nBe quick.\n\nwhat is this\nabout"
    found = take_apart([{"role": "user", "content": content}])
    assert found.question == "what is this\nabout"
    assert found.prefix == (("system", "Pick one of: a, b.\n\nBe quick."),)


def test_message_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert take_apart([{"role": "system", "content": ""}, {"role": "user", "content": parts}]).question == "one\ntwo"


def test_labels_are_read_as_one_would_say_them() -> None:
    assert spoken("GetWeather") == spoken("get_weather") == spoken("get-weather") == "get weather"


def test_words_lose_their_endings() -> None:
    assert stem("charged") == stem("charges") == stem("charging") == "charg"
    assert stem("the") == ""


# --- free answers -----------------------------------------------------------------------------------------------------


def answer(text: str, kind: Kind = Kind.TEXT, demos: Sequence[tuple[list[str], str]] = (), orders: str = "") -> str:
    field = OutputField(name="answer", kind=kind)
    return answer_freely(
        Assignment(field=field, texts=text.split("|"), demos=demos, orders=orders, is_distracted=False)
    )


def test_a_number_is_found() -> None:
    assert answer("I bought 1,200 apples", Kind.WHOLE_NUMBER) == "1200"
    assert answer("Hello there. It costs 12.50 dollars", Kind.NUMBER) == "12.5"
    assert answer("nothing to count", Kind.WHOLE_NUMBER) == "0"


def test_the_sentence_that_shares_words_with_the_question_is_told() -> None:
    text = "The sky is blue. The kettle stands in the kitchen.|Where is the kettle?"
    assert answer(text) == "The kettle stands in the kitchen."


def test_demos_show_how_wide_an_answer_is() -> None:
    demos = [(["My name is Ada and I am here"], "Ada"), (["Sir, my name is Bob"], "Bob")]
    assert answer("Yes, my name is Carl and that is all", demos=demos) == "Carl"


# --- requests for an instruction --------------------------------------------------------------------------------------

SOURCE = "Decide which team should answer this support ticket."
EXAMPLES = (
    ("I was charged twice for my invoice, one of my cards", "billing"),
    ("Refund the bug report fee: it was charged", "billing"),
    ("The app crashes when I open it", "bug report"),
    ("It crashes on start", "bug report"),
    ("I can't log in since the password reset", "account"),
)


def request() -> tuple[Message, ...]:
    signature = read_signature(route, name="route")
    prompt = TunablePrompt(name="route", signature=signature, source=CompiledPrompt(instruction=SOURCE))
    call = PromptCall(
        prompt="route",
        inputs={"ticket": "The bug report page ate my money"},
        reply="bug report",
        output="bug report",
        reasoning=None,
        is_parsed=True,
    )
    failure = Case(row="r1", call=call, feedback="AssertionError: assert 'bug report' == 'billing'\n  - billing")
    return ask_for_instruction(
        prompt,
        SOURCE,
        examples=[Demo(inputs={"ticket": text}, output=label) for text, label in EXAMPLES],
        attempts=[Attempt(instruction="Sort the ticket. billing: refund.", score=0.5)],
        failures=[failure],
    )


def test_the_rows_in_our_own_request_are_read_and_nothing_else() -> None:
    text = request()[1]["content"]
    assert find_all_labels(text) == ("billing", "bug report", "account")
    pairs = read_rows(without_instructions(text), find_all_labels(text)).pairs
    assert pairs == (*EXAMPLES, ("The bug report page ate my money", "billing"))


def test_the_instruction_to_improve_is_found() -> None:
    assert current_instruction(request()[1]["content"]) == SOURCE


@pytest.mark.parametrize("model", MODELS)
def test_our_own_request_is_answered_with_an_instruction(model: str) -> None:
    written = [clean_instruction(reply(model, request(), temperature=1.0, seed=seed)) for seed in range(8)]
    assert all(written)
    assert not any("```" in text for text in written)
    assert any("billing" in text for text in written)
    assert len(set(written)) > 4


@pytest.mark.parametrize(
    "text",
    [
        "ticket: it crashes -> bug\nticket: pay twice -> billing",
        'ticket: "it crashes"\nlabel: "bug"\n\nticket: "pay twice"\nlabel: "billing"',
        '{"ticket": "it crashes", "label": "bug"}\n{"ticket": "pay twice", "label": "billing"}',
        "input: it crashes\nexpected: bug\ngot: billing\n\ninput: pay twice\nexpected: billing\ngot: bug",
        "input: it crashes\nE assert 'billing' == 'bug'\n\ninput: pay twice\nE assert 'bug' == 'billing'",
        "it crashes => bug\npay twice => billing",
    ],
)
def test_rows_are_read_in_every_notation(text: str) -> None:
    assert read_rows(text, ("billing", "bug")).pairs == (("it crashes", "bug"), ("pay twice", "billing"))


def test_labels_that_nobody_lists_are_those_that_come_back() -> None:
    text = "a b -> bug\nc d -> billing\ne f -> bug\ng h -> billing"
    assert read_rows(text, ()).labels == ("bug", "billing")


def test_a_row_gives_a_label_for_every_field() -> None:
    text = 'ticket: "it crashes" -> {"team": "bug", "level": "high"}'
    assert read_rows(text, ("bug", "billing", "high", "low")).pairs == (("it crashes", "bug"), ("it crashes", "high"))


def test_a_dataset_is_described_on_request() -> None:
    shown = "\n".join(f"text: {text} -> {label}" for text, label in EXAMPLES)
    content = f"Labels: billing, bug report, account.\n{shown}"
    messages = [
        {"role": "system", "content": "Write observations about this dataset."},
        {"role": "user", "content": content},
    ]
    assert "sorted into billing, bug report, account" in reply("offline/keyword", messages)
