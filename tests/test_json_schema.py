"""The JSON schema of a reply: it fits what the format rule asks for, and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import jsonschema
import pytest
from pydantic import BaseModel

from pytest_promptopt.prompts.json_schema import output_schema
from pytest_promptopt.prompts.parsing import parse
from pytest_promptopt.prompts.rendering import render_output, to_json
from pytest_promptopt.prompts.signature import Signature, read_signature


class Team(Enum):
    BILLING = "billing"
    BUG = 2


@dataclass
class Order:
    item: str
    count: int = 1


class Visit(TypedDict):
    day: date
    note: str | None


class Point(NamedTuple):
    x: float
    y: float


class Invoice(BaseModel):
    number: Annotated[str, "as printed"]
    orders: list[Order]
    is_paid: bool


class Tree(BaseModel):
    name: str
    branches: list[Tree]


def returning(kind: Any, *, reasoning: bool = False) -> Signature:
    def ask(text: str):  # type: ignore[no-untyped-def]  # the annotation is a parameter of the test
        """Answer."""

    ask.__annotations__["return"] = kind
    return read_signature(ask, name="ask", reasoning=reasoning)


def schema_of(signature: Signature) -> dict[str, Any]:
    text = output_schema(signature)
    assert text is not None
    schema: dict[str, Any] = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Order, Order("nest", 2)),
        (Visit, {"day": date(2026, 5, 4), "note": None}),
        (Point, Point(1.5, -2.0)),
        (Invoice, Invoice(number="17", orders=[Order("nest")], is_paid=True)),
        (list[str], ["a", "b"]),
        (list[Team], [Team.BILLING, Team.BUG]),
        (list[Literal["a", "b"] | None], ["a", None]),
        (dict[str, int], {"a": 1}),
        (Order | None, None),
        (Tree, Tree(name="oak", branches=[Tree(name="twig", branches=[])])),
    ],
)
def test_what_the_parser_reads_fits_the_schema(kind: Any, value: object) -> None:
    signature = returning(kind)
    reply = render_output(signature, to_json(value), None)
    jsonschema.validate(json.loads(reply), schema_of(signature))
    assert to_json(parse(signature, reply).value) == to_json(value)


@pytest.mark.parametrize(
    ("kind", "reply"),
    [
        (Order, {"item": "nest"}),  # the format rule asks for every field
        (Order, {"item": "nest", "count": 1, "more": 1}),
        (Order, {"item": "nest", "count": "one"}),
        (list[Literal["a", "b"]], {"answer": ["c"]}),
        (list[str], ["a"]),
    ],
)
def test_what_the_format_rule_forbids_does_not_fit(kind: Any, reply: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(reply, schema_of(returning(kind)))


@pytest.mark.parametrize("kind", [str, int, float, bool, Team, Literal["a", "b"], date])
def test_a_bare_answer_has_no_schema(kind: Any) -> None:
    assert output_schema(returning(kind)) is None


def test_properties_stand_in_the_order_in_which_they_are_to_be_written() -> None:
    assert output_schema(returning(Literal["a", "b"], reasoning=True)) == (
        '{"type":"object","properties":{"reasoning":{"type":"string"},"answer":{"type":"string","enum":["a","b"]}},'
        '"required":["reasoning","answer"],"additionalProperties":false}'
    )


def test_descriptions_and_records_inside_records_are_part_of_it() -> None:
    assert output_schema(returning(Invoice)) == (
        '{"type":"object","properties":{"number":{"type":"string","description":"as printed"},'
        '"orders":{"type":"array","items":{"type":"object","properties":{"item":{"type":"string"},'
        '"count":{"type":"integer"}},"required":["item","count"],"additionalProperties":false}},'
        '"is_paid":{"type":"boolean"}},"required":["number","orders","is_paid"],"additionalProperties":false}'
    )
