"""The JSON schema of a prompt's reply, for providers that can hold a model to one."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from json import dumps

from pytest_promptopt.prompts.compiled import Json
from pytest_promptopt.prompts.shapes import Field, Kind, Shape
from pytest_promptopt.prompts.signature import Signature

_TYPES = {
    Kind.TEXT: "string",
    Kind.WHOLE_NUMBER: "integer",
    Kind.NUMBER: "number",
    Kind.FLAG: "boolean",
    Kind.DATE: "string",
    Kind.MOMENT: "string",
    Kind.LIST: "array",
    Kind.MAP: "object",
    Kind.RECORD: "object",
}
_FORMATS = {Kind.DATE: "date", Kind.MOMENT: "date-time"}


@lru_cache(maxsize=256)
def output_schema(signature: Signature) -> str | None:
    """The schema as JSON text; ``None`` for a prompt whose reply is no JSON object.

    Properties stand in the order in which a model is to write them: reasoning first. Every field is required, those
    with a default too: the format rule asks for all of them.
    """
    if not signature.answers_in_json:
        return None
    thoughts: dict[str, Json] = {"reasoning": {"type": "string"}} if signature.has_reasoning else {}
    schema = _object({**thoughts, **_properties(signature.outputs)})
    return dumps(schema, separators=(",", ":"), ensure_ascii=False)


def _object(properties: dict[str, Json]) -> dict[str, Json]:
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


def _properties(fields: Iterable[Field]) -> dict[str, Json]:
    return {field.name: _schema(field.shape) for field in fields}


def _schema(shape: Shape) -> dict[str, Json]:
    schema = _bare_schema(shape)
    if shape.may_be_nothing:
        schema = _or_null(schema)
    return {**schema, "description": shape.description} if shape.description else schema


def _bare_schema(shape: Shape) -> dict[str, Json]:
    match shape.kind:
        case Kind.ANYTHING:
            return {}
        case Kind.LABEL:
            return _choice(shape)
        case Kind.LIST:
            return {"type": "array", "items": _schema(shape.item) if shape.item else {}}
        case Kind.MAP:
            return {"type": "object", "additionalProperties": _schema(shape.item) if shape.item else {}}
        case Kind.RECORD:
            return _object(_properties(shape.parts)) if shape.parts else {"type": "object"}
    kind: dict[str, Json] = {"type": _TYPES[shape.kind]}
    return {**kind, "format": _FORMATS[shape.kind]} if shape.kind in _FORMATS else kind


def _choice(shape: Shape) -> dict[str, Json]:
    raw: list[Json] = [value.value if isinstance(value, Enum) else value for value in shape.values]  # type: ignore[misc]  # a label stands for a JSON value
    is_text = all(isinstance(each, str) for each in raw)
    return {"type": "string", "enum": raw} if is_text else {"enum": raw}


def _or_null(schema: dict[str, Json]) -> dict[str, Json]:
    if "enum" in schema:
        values = schema["enum"]
        assert isinstance(values, list)
        schema = {**schema, "enum": [*values, None]}
    if "type" in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return schema
