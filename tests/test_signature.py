"""What a typed function says about its prompt, and what it says when it cannot be one."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import subprocess
import sys
import textwrap
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union

import pydantic
import pytest

from pytest_promptopt.errors import SignatureError
from pytest_promptopt.prompts.signature import Field, Kind, Signature, bind, read_signature


class Team(enum.Enum):
    BILLING = "billing"
    BUG = "bug report"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass(frozen=True)
class Person:
    name: Annotated[str, "full name"]
    age: int | None = None


@dataclasses.dataclass
class Ticket:
    team: Team
    reporter: Person
    tags: list[Annotated[str, "a word"]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Branch:
    word: str
    below: list[Branch]


class Row(typing.TypedDict):
    team: Team
    note: typing.NotRequired[str]


class Pair(NamedTuple):
    left: int
    right: float = 0.0


class Model(pydantic.BaseModel):
    priority: int = pydantic.Field(description="1 is urgent", ge=1, le=5)
    due: datetime.date | None = None
    odd: str = pydantic.Field(alias="oddName", default="")


def signature_of(annotation: object, **settings: Any) -> Signature:
    def answer(ticket: str) -> object:
        """Answer."""

    answer.__annotations__["return"] = annotation
    return read_signature(answer, name="module.answer", **settings)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (str, "text"),
        (int, "whole number"),
        (float, "number"),
        (bool, "true or false"),
        (datetime.date, "date as YYYY-MM-DD"),
        (datetime.datetime, "date and time as YYYY-MM-DDTHH:MM:SS"),
        (Literal["b", "a"], "one of: b, a"),
        (Literal["a, b", "c", "1", 2, "null"], 'one of: "a, b", c, "1", 2, "null"'),
        (Literal["a", None], "one of: a or nothing"),
        (Team, "one of: billing, bug report"),
        (Level, "one of: 1, 2"),
        (Optional[int], "whole number or nothing"),  # noqa: UP045 - the old spelling is what is tested
        (Union[None, str], "text or nothing"),  # noqa: UP007 - so is this one
        (str | None, "text or nothing"),
        (list[str], "list of text"),
        (list, "list of anything"),
        (set[int], "list of whole number"),
        (tuple[float, ...], "list of number"),
        (Sequence[str], "list of text"),
        (list[Literal["x", "y"]], "list of (one of: x, y)"),
        (list[int | None], "list of (whole number or nothing)"),
        (list[list[str]], "list of list of text"),
        (dict[str, int], "map of text to whole number"),
        (Mapping[str, list[str]], "map of text to list of text"),
        (Person | None, "object with (name: text, full name; age: whole number or nothing) or nothing"),
        (list[Row], "list of object with (team: one of: billing, bug report; note: text)"),
        (list[Pair], "list of object with (left: whole number; right: number)"),
        (list[Branch], "list of object with (word: text; below: list of object of the same form)"),
        (Annotated[int, pydantic.Field(ge=1, lt=10)], "whole number, at least 1, less than 10"),
        (typing.NewType("Word", str), "text"),
    ],
)
def test_a_type_is_spelled_in_words_that_never_change(annotation: object, words: str) -> None:
    (answer,) = signature_of(annotation).outputs
    assert (answer.name, answer.type_words) == ("answer", words)


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        (Person, [("name", "text", "full name", True), ("age", "whole number or nothing", "", False)]),
        (
            Ticket,
            [
                ("team", "one of: billing, bug report", "", True),
                ("reporter", "object with (name: text, full name; age: whole number or nothing)", "", True),
                ("tags", "list of (text, a word)", "", False),
            ],
        ),
        (Row, [("team", "one of: billing, bug report", "", True), ("note", "text", "", False)]),
        (Pair, [("left", "whole number", "", True), ("right", "number", "", False)]),
        (
            Model,
            [
                ("priority", "whole number, at least 1, at most 5", "1 is urgent", True),
                ("due", "date as YYYY-MM-DD or nothing", "", False),
                ("oddName", "text", "", False),
            ],
        ),
    ],
)
def test_a_record_is_an_output_per_field(record: object, fields: list[tuple[str, str, str, bool]]) -> None:
    signature = signature_of(record)
    assert signature.is_record
    assert [(each.name, each.type_words, each.description, each.is_required) for each in signature.outputs] == fields


def test_parameters_are_inputs_and_the_docstring_is_the_instruction() -> None:
    def reply(ticket: Annotated[str, "what the customer\n wrote"], tone, *, words: int = 50, style: object = None):
        """Answer this customer.

        Be brief.
        """

    signature = read_signature(reply, name="support.reply", temperature=0.5, max_tokens=9)
    assert signature.instruction == "Answer this customer.\n\nBe brief."
    assert [(each.name, each.type_words, each.description, each.is_required) for each in signature.inputs] == [
        ("ticket", "text", "what the customer wrote", True),
        ("tone", "text", "", True),
        ("words", "whole number", "", False),
        ("style", "anything", "", False),
    ]
    assert [each.kind for each in signature.outputs] == [Kind.TEXT]
    assert (signature.name, signature.temperature, signature.max_tokens) == ("support.reply", 0.5, 9)
    assert (signature.is_record, signature.has_reasoning, signature.return_type) == (False, False, str)


def test_digests_are_the_same_for_ever() -> None:
    def route(ticket: str, tone: Annotated[str, "how they sound"] = "calm") -> Literal["billing", "bug"]:
        """Decide which team answers."""

    assert read_signature(route, name="a").digest == "f4251ca62da4be8b"
    assert read_signature(route, name="a").source_digest == "b46c4e9ca7044ae2"
    assert signature_of(Ticket, reasoning=True, temperature=1, max_tokens=100).digest == "dcbb7c8ef8a139d9"


def test_a_digest_changes_with_whatever_a_model_would_notice() -> None:
    settings: list[dict[str, Any]] = [{}, {"reasoning": True}, {"temperature": 0.7}, {"max_tokens": 5}]
    types = [str, int, Literal["a", "b"], Literal["b", "a"], Annotated[str, "short"], Person, list[str]]
    digests = [signature_of(each, **setting).digest for each in types for setting in settings]
    assert len(set(digests)) == len(digests)


def test_a_digest_ignores_the_name_the_instruction_and_the_spelling_of_a_type() -> None:
    def other(ticket: str) -> int | None:
        """Something else entirely."""

    first, second = signature_of(int | None, temperature=0), read_signature(other, name="other", temperature=0.0)
    assert first.digest == second.digest
    assert first.source_digest != second.source_digest


def test_a_source_digest_ignores_how_a_docstring_is_wrapped() -> None:
    def one(ticket: str) -> str:
        """Decide which team answers this ticket."""

    def two(ticket: str) -> str:
        """Decide which team
        answers   this ticket.
        """

    assert read_signature(one, name="m").source_digest == read_signature(two, name="m").source_digest


def _docstring_alone(ticket: str) -> str:
    """Answer."""


def _dots(ticket: str) -> str:
    """Answer."""


def _pass(ticket: str) -> str:
    """Answer."""


def _not_implemented(ticket: str) -> str:
    """Answer."""
    raise NotImplementedError


def _not_implemented_yet(ticket: str) -> str:
    """Answer."""
    raise NotImplementedError("a model answers")


async def _awaited(ticket: str) -> str:
    """Answer."""


async def _awaited_not_implemented(ticket: str) -> str:
    """Answer."""
    raise NotImplementedError


@pytest.mark.parametrize(
    "function",
    [_docstring_alone, _dots, _pass, _not_implemented, _not_implemented_yet, _awaited, _awaited_not_implemented],
)
def test_a_body_without_effect_is_welcome(function: Callable[..., object]) -> None:
    assert read_signature(function, name="m").instruction == "Answer."


def _returns_text(ticket: str) -> str:
    """Answer."""
    return "billing"


def _returns_a_number(ticket: str) -> int:
    """Answer."""
    return 7


def _returns_its_input(ticket: str) -> str:
    """Answer."""
    return ticket


def _calls(ticket: str) -> str:
    """Answer."""
    print(ticket)
    return ""


def _raises_something_else(ticket: str) -> str:
    """Answer."""
    raise ValueError


def _branches(ticket: str) -> str:
    """Answer."""
    if ticket:
        raise NotImplementedError


async def _awaits(ticket: Any) -> str:
    """Answer."""
    await ticket


def _yields(ticket: str) -> Any:
    """Answer."""
    yield


@pytest.mark.parametrize(
    "function",
    [_returns_text, _returns_a_number, _returns_its_input, _calls, _raises_something_else, _branches, _awaits, _yields],
)
def test_a_body_that_would_never_run_is_refused(function: Callable[..., object]) -> None:
    with pytest.raises(SignatureError, match=r"the body of m would never run.*'\.\.\.'"):
        read_signature(function, name="m")


def test_a_function_without_source_can_be_read() -> None:
    namespace: dict[str, Any] = {}
    exec("def route(ticket: str) -> bool:\n    'Is it urgent?'", namespace)
    assert read_signature(namespace["route"], name="m").outputs[0].kind is Kind.FLAG


def test_a_prompt_without_a_docstring_is_refused() -> None:
    def route(ticket: str) -> str: ...

    with pytest.raises(SignatureError, match=r"support\.route has no instruction; write the instruction as its docstr"):
        read_signature(route, name="support.route")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(*parts):", r"takes '\*parts'; name each input"),
        ("def f(**parts):", r"takes '\*\*parts'; name each input"),
        ("def f(ticket, /):", r"'ticket' by position only; drop the '/'"),
        ("def f(self, ticket):", "is a method; write the prompt as a function at module level"),
        ("def f(ticket: Missing):", "'Missing', which its module does not know.*at module level"),
        ("def f(ticket: 'no type'):", "annotations of m cannot be read"),
    ],
)
def test_parameters_that_cannot_be_inputs_are_refused_with_a_way_out(source: str, message: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"from __future__ import annotations\n{source}\n    'Answer.'", namespace)
    with pytest.raises(SignatureError, match=message):
        read_signature(namespace["f"], name="m")


class Empty(enum.Enum):
    pass


class Opaque:
    pass


@dataclasses.dataclass
class WithOpaque:
    inner: list[Opaque]


class Root(pydantic.RootModel[list[int]]):
    pass


class Blank(enum.Enum):
    NONE = None
    SOME = "some"


@pytest.mark.parametrize(
    ("annotation", "named"),
    [
        (None, "None"),
        (Opaque, "Opaque"),
        (WithOpaque, "Opaque"),
        (int | str, r"int \| str"),
        (Any, "Any"),
        (bytes, "bytes"),
        (dict[int, str], r"dict\[int, str\]"),
        (tuple[int, str], r"tuple\[int, str\]"),
        (Empty, "Empty"),
        (Blank, "Blank"),
        (Root, "Root"),
        (Literal["1", 1], "Literal"),
        (Literal[""], "Literal"),
        (Literal[b"x"], "Literal"),
    ],
)
def test_a_return_type_without_words_is_refused_by_name(annotation: object, named: str) -> None:
    with pytest.raises(SignatureError, match=rf"module\.answer cannot return .*{named}.*; return str, int"):
        signature_of(annotation)


def test_reasoning_cannot_stand_beside_a_field_of_that_name() -> None:
    record = dataclasses.make_dataclass("Thought", [("reasoning", str), ("team", str)])
    with pytest.raises(SignatureError, match="drop reasoning=True or rename the field"):
        signature_of(record, reasoning=True)
    assert not signature_of(record).has_reasoning


@pytest.mark.parametrize("thing", [str, len, "text", Opaque()])
def test_only_a_function_can_be_a_prompt(thing: Any) -> None:
    with pytest.raises(SignatureError, match="is not a function"):
        read_signature(thing, name="m")


def _called(ticket: str, tone: str = "calm", *, words: int = 5) -> str:
    """Answer."""


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {"ticket": "x"}),
        (("x",), {}),
        (("x", "calm"), {"words": 5}),
        ((), {"words": 5, "tone": "calm", "ticket": "x"}),
    ],
)
def test_a_call_is_bound_by_name_in_declared_order(args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    bound = bind(read_signature(_called, name="m"), args, kwargs)
    assert list(bound.items()) == [("ticket", "x"), ("tone", "calm"), ("words", 5)]


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing a required argument: 'ticket'"),
        (("a", "b", "c"), {}, "too many positional arguments"),
        (("a",), {"ticket": "b"}, "multiple values for argument 'ticket'"),
        ((), {"tickets": "a", "tone": "b", "words": 3}, "missing a required argument: 'ticket'"),
        ((), {"ticket": "a", "loud": True}, "unexpected keyword argument 'loud'"),
    ],
)
def test_wrong_arguments_are_a_type_error(args: tuple[object, ...], kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=rf"^support\.called\(\) .*{message}"):
        bind(read_signature(_called, name="support.called"), args, kwargs)


def test_a_signature_made_by_hand_binds_its_inputs() -> None:
    text = Field(name="ticket", type_words="text", description="", kind=Kind.TEXT, labels=(), is_required=True)
    answer = dataclasses.replace(text, name="answer")
    signature = Signature(
        name="support.reply",
        inputs=(text,),
        outputs=(answer,),
        is_record=False,
        has_reasoning=False,
        instruction="Answer politely.",
        temperature=0.0,
        max_tokens=None,
        return_type=str,
    )
    assert bind(signature, ("x",), {}) == bind(signature, (), {"ticket": "x"}) == {"ticket": "x"}
    assert signature.digest == signature_of(str).digest


def test_reading_plain_types_imports_no_pydantic() -> None:
    script = """
        import dataclasses, enum, sys
        from typing import Literal
        from pytest_promptopt.prompts.parsing import parse
        from pytest_promptopt.prompts.signature import read_signature
        Color = enum.Enum("Color", {"RED": "red"})
        Pair = dataclasses.make_dataclass("Pair", [("left", int), ("right", list[str])])
        for annotation in (str, int, float, bool, Literal["a", "b"], Color, list[str], Pair, int | None):
            def answer(ticket: str): "Answer."
            answer.__annotations__["return"] = annotation
            signature = read_signature(answer, name="m")
        answer.__annotations__["return"] = Color
        assert parse(read_signature(answer, name="m"), "**Red**").value is Color.RED
        print(sorted({"pydantic", "pydantic_core", "pytest", "litellm"} & set(sys.modules)))
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ran.stdout.strip(), ran.stderr) == ("[]", "")
