"""Reading replies: lenient about dress, strict about doubt, and a message that says what was expected."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import json
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

import pydantic
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pytest_promptopt.errors import FormatError
from pytest_promptopt.prompts.parsing import Parsed, coerce_output, dump_output, parse
from pytest_promptopt.prompts.rendering import render_output
from pytest_promptopt.prompts.signature import Signature, read_signature

Team = Literal["billing", "bug", "account"]
Report = Literal["bug report", "bug", "GetWeather", "sign_up", "dead-end"]
Grade = Literal["A", "B", "C"]


class Tone(enum.Enum):
    CALM = "calm"
    VERY_LOUD = "shouting"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Person:
    name: str
    age: int | None = None


@dataclasses.dataclass(frozen=True)
class Triage:
    team: Team
    priority: int
    is_urgent: bool = False


@dataclasses.dataclass(frozen=True)
class Case:
    tone: Tone
    people: list[Person]
    scores: dict[str, float]
    level: Level | None


class Row(typing.TypedDict):
    team: Team
    note: NotRequired[str]


class Point(NamedTuple):
    x: int
    tone: Tone


class Model(pydantic.BaseModel):
    stars: int = pydantic.Field(ge=1, le=5)
    due: datetime.date | None = None
    given_name: str = pydantic.Field(alias="givenName", default="")


def signature_of(annotation: object, **options: Any) -> Signature:
    def answer(ticket: str) -> object:
        """Answer."""

    answer.__annotations__["return"] = annotation
    return read_signature(answer, name="module.answer", **options)


def read(annotation: object, text: str, **options: Any) -> object:
    return parse(signature_of(annotation, **options), text).value


@pytest.mark.parametrize(
    "reply",
    [
        "billing",
        " billing\n",
        "Billing",
        "BILLING.",
        '"billing"',
        "'billing'",
        "`billing`",
        "**billing**",
        "**Billing.**",
        "“billing”",
        "(billing)",
        "```\nbilling\n```",
        "```text\nbilling\n```",
        "Answer: billing",
        "**Answer:** billing",
        "Answer:\nbilling",
        "The answer is billing.",
        "The category is: **billing**",
        "I considered bug and account.\n\nFinal answer: billing",
        "It could be a bug. The answer is billing.",
        "1. bug?\n2. billing?\n\n**So the best label is:** billing",
        "billing, because they were charged twice",
        "This belongs to the billing team.",
        "Billing. Yes, billing!",
        '{"answer": "billing"}',
        "No doubt in my mind, billing it is",
        "Team: billing",
    ],
)
def test_a_label_is_read_however_it_is_dressed(reply: str) -> None:
    assert read(Team, reply) == "billing"


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "```\n```",
        "refund",
        "bill",
        "billings",
        "debug",
        "billing or bug",
        "billing, not bug",
        "Not billing but bug",
        "It is not a bug.",
        "This isn't a bug",
        "never billing",
        "anything rather than billing",
        "billing is wrong",
        "Billing does not apply",
        "The answer is not billing.",
        "Answer: billing\nAnswer: bug",
        "Answer: billing\nbug",
        "bug\n\nLabel: billing",
        "bug, since the label is billing",
        "I would say it depends",
    ],
)
def test_a_label_in_doubt_is_refused(reply: str) -> None:
    with pytest.raises(FormatError) as refusal:
        read(Team, reply)
    assert str(refusal.value).startswith("expected exactly one of: billing, bug, account")
    assert refusal.value.reply == reply


@pytest.mark.parametrize(
    ("annotation", "reply", "value"),
    [
        (Report, "bug report", "bug report"),
        (Report, "It's a bug report.", "bug report"),
        (Report, "It's a bug.", "bug"),
        (Report, "get weather", "GetWeather"),
        (Report, "get_weather", "GetWeather"),
        (Report, "getweather", "GetWeather"),
        (Report, "I'd call getWeather here", "GetWeather"),
        (Report, "I'd call getweather here", "GetWeather"),
        (Report, "Sign-up", "sign_up"),
        (Report, "SignUp", "sign_up"),
        (Report, "this is a dead end", "dead-end"),
        (Tone, "shouting", Tone.VERY_LOUD),
        (Tone, "very loud", Tone.VERY_LOUD),
        (Tone, "Tone.CALM", Tone.CALM),
        (Level, "2", Level.HIGH),
        (Level, "high", Level.HIGH),
        (Literal[1, 2, 3], "I'd rate it 2.", 2),
        (Literal[-1, 0, 1], "-1", -1),
        (Literal[-1, 0, 1], "-1.", -1),
        (Grade, "B", "B"),
        (Grade, "b)", "B"),
        (Grade, "The answer is A", "A"),
        (Grade, "I choose C.", "C"),
        (Literal["a", "A"], "A", "A"),
        (Literal["C", "C++", "C#"], "It is C++", "C++"),
        (Literal["C", "C++", "C#"], "c#", "C#"),
        (Literal["yes", "no"], "No, it is late.", "no"),
        (Literal["yes", "no"], "no\n\nBecause it is late", "no"),
        (Literal["urgent", "not urgent"], "It is not urgent.", "not urgent"),
        (Literal["ja", "größer"], "GRÖSSER", "größer"),
        (Team | None, "null", None),
        (Team | None, "None.", None),
        (Team | None, "bug", "bug"),
        (Literal["none", "some", None], "none", "none"),
        (bool, "true", True),
        (bool, "Yes.", True),
        (bool, "yes, it is", True),
        (bool, "**No**", False),
        (bool, "Answer: false", False),
        (bool, "The statement is true.", True),
    ],
)
def test_a_choice_is_read_as_spoken(annotation: object, reply: str, value: object) -> None:
    found = read(annotation, reply)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("annotation", "reply"),
    [
        (Report, "bug report or bug"),
        (Literal["a", "A"], "the a"),
        (Literal["GetWeather", "get_weather"], "get weather"),
        (Grade, "A good choice is hard to make"),
        (Grade, "A is tempting, so B"),
        (Literal["yes", "no"], "There is no way to tell"),
        (Literal[1, 2, 3], "1.5"),
        (Literal[1, 2, 3], "-1"),
        (Literal[1, 2, 3], "12"),
        (Literal[1, 2, 3], "2/3"),
        (Literal[1, 2, 3], "1-3"),
        (Literal[1, 2, 3], "2%"),
        (bool, "maybe"),
        (bool, "I have no idea"),
        (bool, "not true"),
        (bool, "yes and no"),
        (bool, "true, false"),
        (Team, "null"),
    ],
)
def test_a_choice_in_doubt_is_refused(annotation: object, reply: str) -> None:
    with pytest.raises(FormatError, match=r"^expected exactly one of: "):
        read(annotation, reply)


@pytest.mark.parametrize(
    ("annotation", "reply", "value"),
    [
        (int, "3", 3),
        (int, " -3\n", -3),
        (int, "−3", -3),
        (int, "+3", 3),
        (int, "**3**", 3),
        (int, "3.", 3),
        (int, "3.0", 3),
        (int, "1,234,567", 1234567),
        (int, "1_000", 1000),
        (int, "about 12 hours", 12),
        (int, "$5", 5),
        (int, "12ms", 12),
        (int, "Answer: 7", 7),
        (int, "First 2, then 5 more.\nAnswer: 7", 7),
        (int, "2 and 5 make 7. The answer is 7.", 7),
        (int, '{"answer": 4}', 4),
        (int, "```\n4\n```", 4),
        (float, "3", 3.0),
        (float, "0.25", 0.25),
        (float, ".5", 0.5),
        (float, "1e-7", 1e-07),
        (float, "1,234.5 kg", 1234.5),
        (float, "-0.5 degrees", -0.5),
        (int | None, "none", None),
        (float | None, "2", 2.0),
    ],
)
def test_the_only_number_is_read(annotation: object, reply: str, value: object) -> None:
    found = read(annotation, reply)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("annotation", "reply"),
    [
        (int, ""),
        (int, "three"),
        (int, "3 or 4"),
        (int, "3-4"),
        (int, "3/4"),
        (int, "Answer: 3 or 4"),
        (int, "Answer: 3\nAnswer: 4"),
        (int, "Answer: 3\n4"),
        (int, "Answer: 3\n5k"),
        (int, "3\nAnswer: 4"),
        (int, "5, since the value is 3"),
        (int, "5 apples; the score is 3."),
        (int, "1.5"),
        (int, "1.000"),
        (int, "1e3"),
        (int, "5 million"),
        (int, "5k"),
        (int, "minus 5"),
        (int, "-$5"),
        (int, "not 5"),
        (int, "gpt4"),
        (int, "gpt-4"),
        (int, "H2O: 5"),
        (int, "1,23"),
        (int, "2024-05-06"),
        (int, "9" * 5000),
        (float, "1e999"),
        (float, "nan"),
        (float, "infinity"),
        (float, "1,5"),
        (float, "between 0.1 and 0.2"),
    ],
)
def test_a_number_in_doubt_is_refused(annotation: object, reply: str) -> None:
    with pytest.raises(FormatError, match=r"^expected a single (whole )?number"):
        read(annotation, reply)


@pytest.mark.parametrize(
    "reply",
    [
        '{"team": "bug", "priority": 2}',
        '```json\n{"team": "bug", "priority": 2}\n```',
        'Sure! Here it is:\n\n{"team": "bug", "priority": 2}\n\nAnything else?',
        '{"priority": "2", "team": "Bug."}',
        '{"Team": "bug", "PRIORITY": 2}',
        "{'team': 'bug', 'priority': 2,}",
        "{'team': 'bug', 'priority': 2, 'is_urgent': False}",
        '{"team": "bug", "priority": 2, "isUrgent": "no"}',
        '{"team": "bug", "priority": 2, "confidence": 0.9}',
        '{team: "bug", priority: 2}',
        '{"result": {"team": "bug", "priority": 2}}',
        '[{"team": "bug", "priority": 2}]',
        'Draft {"note": "think"} then {"team": "bug", "priority": 2}',
        '{"team": "bug", "priority": 2}\n{"team": "bug", "priority": 2}',
        'Use {braces} and {x: 1, but then {"team": "bug", "priority": 2}',
        '{"team": "bug",\n "priority": 2,\n}',
    ],
)
def test_an_object_is_found_wherever_it_stands(reply: str) -> None:
    assert read(Triage, reply) == Triage("bug", 2)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("", 'expected a JSON object with "team", "priority", "is_urgent"; got nothing'),
        ("bug, 2", 'expected a JSON object with "team", "priority", "is_urgent"; got "bug, 2"'),
        ('{"team": "bug", "prio": 2}', 'missing: "priority"; unexpected: "prio"; got '),
        ('{"team": "bug", "prior', "but it breaks off (max_tokens?); got "),
        ('{"team": "bug", "priority": "high"}', '"priority": Input should be a valid integer, unable to parse'),
        ('{"team": "bug", "priority": 1.5}', '"priority": Input should be a valid integer'),
        ('{"team": "bug", "priority": true}', '"priority": Input should be a valid integer'),
        ('{"team": "sales", "priority": 1}', "\"team\": Input should be 'billing', 'bug' or 'account'"),
        ('{"team": "bug or billing", "priority": 1}', "\"team\": Input should be 'billing', 'bug' or 'account'"),
        ('{"team": null, "priority": 1}', '"team": Input should be'),
        ('{"team": "bug", "priority": NaN}', "expected a JSON object"),
        ('{"team": "bug", "priority": 1e999}', "with finite numbers"),
        ('{"team": "bug", "priority": 1}{"team": "bug", "priority": 2}', "not several that differ"),
        ('{"team": "bug", "team": "billing", "priority": 1}', "expected a JSON object"),
        ("{'team': 'it's a bug', 'priority': 1}", "expected a JSON object"),
        ("[" * 100_000, "expected a JSON object"),
        ('{"a":' * 50_000, "expected a JSON object"),
    ],
)
def test_an_object_that_will_not_do_is_refused_with_the_reason(reply: str, message: str) -> None:
    with pytest.raises(FormatError, match=re.escape(message)) as refusal:
        read(Triage, reply)
    assert "\n" not in str(refusal.value)
    assert "http" not in str(refusal.value)
    assert len(str(refusal.value)) < 600


def test_a_long_reply_is_shown_in_one_short_line() -> None:
    with pytest.raises(FormatError) as refusal:
        read(Team, "so many\nwords " * 500)
    assert str(refusal.value).startswith('expected exactly one of: billing, bug, account; got "so many words so many')
    assert str(refusal.value).endswith('..."')
    assert len(str(refusal.value)) < 260
    assert refusal.value.reply == "so many\nwords " * 500


@pytest.mark.parametrize("piece", ["\n", " ", "answer: ", "{'", '{"', "1,", "bug or ", "'", "- ", ". "])
@pytest.mark.parametrize("annotation", [Team, int, Triage, list[str]])
def test_a_reply_of_many_kilobytes_is_read_in_linear_time(annotation: object, piece: str) -> None:
    with contextlib.suppress(FormatError):  # it hangs for minutes, rather than fails, where time is quadratic
        read(annotation, "```\n" + piece * 20_000)


def test_a_long_list_of_labels_is_shortened_in_a_message() -> None:
    many = Literal[tuple(f"intent-{number}" for number in range(150))]  # type: ignore[valid-type]
    assert read(many, "I'd say intent 149") == "intent-149"
    with pytest.raises(FormatError, match=r"intent-29, … \(150 in all\); got \"what\"$"):
        read(many, "what")


def test_a_limit_of_the_type_is_kept() -> None:
    stars = Annotated[int, pydantic.Field(ge=1, le=5)]
    assert read(stars, "4 stars") == 4
    with pytest.raises(FormatError, match=r"expected whole number, at least 1, at most 5; .*less than or equal to 5"):
        read(stars, "9")
    assert read(Model, '{"stars": 5, "due": "2024-05-06", "givenName": "Ö"}') == Model(
        stars=5, due=datetime.date(2024, 5, 6), givenName="Ö"
    )


@pytest.mark.parametrize(
    ("annotation", "reply", "value"),
    [
        (str, "  Dear you,\n\nthanks.\n", "Dear you,\n\nthanks."),
        (str, '"quoted" `code`.', '"quoted" `code`.'),
        (str | None, "null", None),
        (str | None, "nullable", "nullable"),
        (list[str], '{"answer": ["a", "b"]}', ["a", "b"]),
        (list[str], '["a", "b"]', ["a", "b"]),
        (list[str], "- a\n- b\n", ["a", "b"]),
        (list[Tone], '["Calm", "very loud"]', [Tone.CALM, Tone.VERY_LOUD]),
        (list[Person], '[{"name": "a"}, {"name": "b", "age": "3"}]', [Person("a"), Person("b", 3)]),
        (dict[str, int], '{"a": 1, "b": "2"}', {"a": 1, "b": 2}),
        (dict[str, int], '{"answer": {"a": 1}}', {"a": 1}),
        (Person | None, "null", None),
        (Person | None, '{"answer": {"name": "a"}}', Person("a")),
        (Person | None, '{"name": "a"}', Person("a")),
        (datetime.date, "2024-05-06.", datetime.date(2024, 5, 6)),
    ],
)
def test_other_types_are_read_with_the_same_leniency(annotation: object, reply: str, value: object) -> None:
    assert read(annotation, reply) == value


@pytest.mark.parametrize(
    ("reply", "value", "reasoning"),
    [
        ('{"reasoning": "It crashed.", "answer": "bug"}', "bug", "It crashed."),
        ('{"Reasoning": "It crashed.", "Answer": "Bug"}', "bug", "It crashed."),
        ('{"reasoning": ["It", "crashed."], "answer": "bug"}', "bug", "It\ncrashed."),
        ('{"answer": "bug"}', "bug", None),
        ("Answer: bug", "bug", None),
    ],
)
def test_reasoning_is_kept_apart_from_the_value(reply: str, value: str, reasoning: str | None) -> None:
    assert parse(signature_of(Team, reasoning=True), reply) == Parsed(value=value, reasoning=reasoning)


def test_text_after_reasoning_is_never_guessed() -> None:
    with pytest.raises(FormatError, match='expected a JSON object with "reasoning", "answer"; got "I think so"'):
        read(str, "I think so", reasoning=True)


@pytest.mark.parametrize(
    ("annotation", "label", "value"),
    [
        (str, "3", "3"),
        (str, 3, "3"),
        (int, "3", 3),
        (int, 3, 3),
        (float, 3, 3.0),
        (bool, "yes", True),
        (bool, False, False),
        (Team, "bug", "bug"),
        (Team, "Bug ", "bug"),
        (Tone, "calm", Tone.CALM),
        (Tone, Tone.CALM, Tone.CALM),
        (Level, 2, Level.HIGH),
        (Team | None, None, None),
        (Triage, {"team": "bug", "priority": 1}, Triage("bug", 1)),
        (Triage, '{"team": "bug", "priority": 1}', Triage("bug", 1)),
        (Triage, Triage("bug", 1), Triage("bug", 1)),
        (list[str], ["a"], ["a"]),
        (list[str], '["a"]', ["a"]),
    ],
)
def test_a_dataset_label_becomes_a_typed_output(annotation: object, label: Any, value: object) -> None:
    assert coerce_output(signature_of(annotation), label) == value


@pytest.mark.parametrize(
    ("annotation", "label", "message"),
    [
        (Team, "sales", 'expected exactly one of: billing, bug, account; got "sales"'),
        (Team, "billing-eu", 'expected exactly one of: billing, bug, account; got "billing-eu"'),
        (Team, None, 'expected exactly one of: billing, bug, account; got "null"'),
        (int, True, "expected whole number; "),
        (int, [1], "expected whole number; "),
        (str, None, "expected text; "),
        (Triage, "bug", "expected a JSON object"),
        (Triage, {"team": "bug"}, '"priority": Field required'),
    ],
)
def test_a_dataset_label_that_fits_no_output_is_refused(annotation: object, label: Any, message: str) -> None:
    with pytest.raises(FormatError, match=re.escape(message)):
        coerce_output(signature_of(annotation), label)


# --- properties -------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
bare_texts = texts.map(str.strip)
floats = st.floats(allow_nan=False, allow_infinity=False)
people = st.builds(Person, name=texts, age=st.none() | st.integers())
dates = st.dates()
VALUES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, bare_texts),
    (int, st.integers()),
    (float, floats),
    (bool, st.booleans()),
    (Team, st.sampled_from(["billing", "bug", "account"])),
    (Report, st.sampled_from(["bug report", "bug", "GetWeather", "sign_up", "dead-end"])),
    (Literal["a, b", "a", '"', " x ", -1, "null"], st.sampled_from(["a, b", "a", '"', " x ", -1, "null"])),
    (Tone, st.sampled_from(Tone)),
    (Level, st.sampled_from(Level)),
    (datetime.date, dates),
    (datetime.datetime, st.datetimes()),
    (int | None, st.none() | st.integers()),
    (Tone | None, st.none() | st.sampled_from(Tone)),
    (list[str], st.lists(texts, max_size=4)),
    (list[bool], st.lists(st.booleans(), max_size=4)),
    (set[str], st.sets(texts, max_size=4)),
    (tuple[int, ...], st.lists(st.integers(), max_size=4).map(tuple)),
    (Sequence[list[int]], st.lists(st.lists(st.integers(), max_size=3), max_size=3)),
    (dict[str, int], st.dictionaries(texts, st.integers(), max_size=4)),
    (Mapping[str, Tone], st.dictionaries(texts, st.sampled_from(Tone), max_size=4)),
    (Person, people),
    (Person | None, st.none() | people),
    (list[Person], st.lists(people, max_size=3)),
    (
        Case,
        st.builds(
            Case,
            tone=st.sampled_from(Tone),
            people=st.lists(people, max_size=2),
            scores=st.dictionaries(texts, floats, max_size=2),
            level=st.none() | st.sampled_from(Level),
        ),
    ),
    (Row, st.fixed_dictionaries({"team": st.sampled_from(["bug", "billing"])}, optional={"note": texts})),
    (list[Row], st.lists(st.fixed_dictionaries({"team": st.just("bug")}, optional={"note": texts}), max_size=3)),
    (Point, st.builds(Point, x=st.integers(), tone=st.sampled_from(Tone))),
    (Model, st.builds(Model, stars=st.integers(1, 5), due=st.none() | dates, givenName=texts)),
]


@pytest.mark.parametrize("reasoning", [False, True])
@pytest.mark.parametrize(("annotation", "values"), VALUES, ids=[str(annotation) for annotation, _ in VALUES])
def test_what_a_demo_shows_is_read_back(annotation: object, values: st.SearchStrategy[Any], reasoning: bool) -> None:
    signature = signature_of(annotation, reasoning=reasoning)

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(value=values, thoughts=texts)
    def check(value: object, thoughts: str) -> None:
        output = dump_output(signature, value)
        reply = render_output(signature, output, thoughts if reasoning else None)
        parsed = parse(signature, reply)
        assert parsed == Parsed(value=value, reasoning=thoughts if reasoning else None)
        assert type(parsed.value) is type(value)
        assert json.loads(json.dumps(output)) == output
        assert coerce_output(signature, output) == value

    check()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(first=st.integers(), second=st.integers(), words=st.tuples(texts, texts, texts))
def test_one_of_two_numbers_is_never_picked(first: int, second: int, words: tuple[str, str, str]) -> None:
    assume(not any(character.isdigit() for word in words for character in word))
    with pytest.raises(FormatError):
        read(int, f"{words[0]} {first} and{words[1]} {second} {words[2]}")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    teams=st.lists(st.sampled_from(["billing", "bug", "account"]), min_size=2, max_size=4, unique=True),
    joint=st.sampled_from([" or ", ", not ", ", ", " / ", "\n", ". Or rather ", " and maybe ", " -> "]),
    dress=st.sampled_from(["{}", "**{}**", "Answer: {}", "I'd say {}.", "```\n{}\n```", '{{"answer": "{}"}}']),
)
def test_one_of_two_labels_is_never_picked(teams: list[str], joint: str, dress: str) -> None:
    with pytest.raises(FormatError, match="not several"):
        read(Team, dress.format(joint.join(teams)))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    annotation=st.sampled_from([annotation for annotation, _ in VALUES]),
    reply=st.text("{}[]\"':,.-0129 \n`*abugillntrue\\\ud800é_", max_size=60) | st.text(max_size=60),
    reasoning=st.booleans(),
)
def test_any_reply_is_read_or_refused_as_a_format_error(annotation: object, reply: str, reasoning: bool) -> None:
    signature = signature_of(annotation, reasoning=reasoning)
    with contextlib.suppress(FormatError):
        assert isinstance(parse(signature, reply), Parsed)
