"""OpenAI's chat protocol: which schemas are strict, and that any reply is a text or an error of ours."""

import json
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pytest_promptopt.errors import LMError
from pytest_promptopt.lms.base import Usage
from pytest_promptopt.lms.chat import is_strict, read_completion, read_usage, response_format
from pytest_promptopt.lms.faults import Origin
from pytest_promptopt.lms.models import Catalog

ORIGIN = Origin(settings=Catalog().find("openai/gpt-4o-mini"))
TEXT = {"type": "string"}


def closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "schema",
    [
        closed(team=TEXT),
        closed(),
        closed(teams={"type": "array", "items": closed(name=TEXT)}),
        closed(team={"anyOf": [TEXT, {"type": "null"}]}),
        closed(team={"enum": ["a", "b"]}),
        {**closed(team={"$ref": "#/$defs/Team"}), "$defs": {"Team": closed(name=TEXT)}},
        closed(default=TEXT),  # a property of that name, not the word
    ],
)
def test_a_schema_that_leaves_nothing_open_is_strict(schema: dict[str, Any]) -> None:
    assert is_strict(schema)
    assert response_format(json.dumps(schema))["json_schema"]["strict"] is True


OPEN = {"type": "object", "properties": {"name": TEXT}}


@pytest.mark.parametrize(
    "schema",
    [
        OPEN,
        {**OPEN, "additionalProperties": False},
        {**OPEN, "required": ["name"]},
        {**OPEN, "required": ["name"], "additionalProperties": TEXT},
        {"type": "object"},
        {"type": ["object", "null"], "additionalProperties": {"type": "integer"}},
        closed(team=OPEN),
        closed(team={}),
        closed(team=True),
        closed(teams={"type": "array", "items": OPEN}),
        closed(team={"anyOf": [TEXT, OPEN]}),
        closed(team={"type": "string", "default": "a"}),
        closed(pair={"type": "array", "prefixItems": [TEXT, TEXT]}),
        {**closed(team={"$ref": "#/$defs/Team"}), "$defs": {"Team": OPEN}},
    ],
)
def test_a_schema_with_something_open_is_not_strict(schema: dict[str, Any]) -> None:
    assert not is_strict(schema)
    assert "strict" not in response_format(json.dumps(schema))["json_schema"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "error", "usage", "finish_reason", "text", "type", "refusal"]
            ),
            parts,
        )
    ),
    max_leaves=12,
)


@given(JSON | st.fixed_dictionaries({"choices": st.lists(JSON), "usage": JSON}))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_whatever_json_comes_is_a_text_or_an_error_of_ours(content: object) -> None:
    is_billed = True
    try:
        text, usage, _ = read_completion(content, ORIGIN, lambda usage: 0.5)
    except LMError as error:
        text, usage = str(error).removeprefix("openai/gpt-4o-mini: "), None
        is_billed = bool(error.is_billed or error.status)
        event("an error")
    assert is_billed
    assert isinstance(text, str)
    assert usage is None or usage.prompt_tokens > 0


@given(JSON)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_schema_is_judged(schema: object) -> None:
    assert is_strict(schema) in (True, False)


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 0}, Usage(prompt_tokens=7, completion_tokens=0)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, None),
        ({"prompt_tokens": 7}, None),
        ({"prompt_tokens": -7, "completion_tokens": 3}, None),
        ({"prompt_tokens": "7", "completion_tokens": 3}, None),
        ([], None),
        (None, None),
    ],
)
def test_usage_is_what_was_counted_or_unknown(usage: object, read: Usage | None) -> None:
    assert read_usage(usage) == read
