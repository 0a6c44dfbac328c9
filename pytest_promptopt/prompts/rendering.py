"""Write a prompt as the messages a model is sent: instruction and format rule, demonstrations, then the inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Set
from enum import Enum
from functools import lru_cache
from json import dumps

from pytest_promptopt.lms.base import Message, Messages, Prefix
from pytest_promptopt.prompts.compiled import CompiledPrompt, Json
from pytest_promptopt.prompts.shapes import Field, Kind, Shape, described, pydantic_fields, pydantic_name
from pytest_promptopt.prompts.signature import Signature

_NO_INPUT = "Answer now."


def render(signature: Signature, compiled: CompiledPrompt, inputs: Mapping[str, object]) -> Messages:
    """The messages of one call."""
    return Messages.after(render_prefix(signature, compiled), _user(render_inputs(signature, inputs)))


@lru_cache(maxsize=256)
def render_prefix(signature: Signature, compiled: CompiledPrompt) -> Prefix:
    """The messages in front of the inputs: the same for every row, so written once, and not to be changed."""
    parts = (compiled.instruction, _input_notes(signature), format_rule(signature))
    system = "\n\n".join(part for part in parts if part)
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for demo in compiled.demos:
        answer = render_output(signature, demo.output, demo.reasoning)
        messages += _user(render_inputs(signature, demo.inputs)), {"role": "assistant", "content": answer}
    return Prefix(messages)


def render_inputs(signature: Signature, inputs: Mapping[str, object]) -> str:
    """The user's turn: a single input as it is, several by name."""
    names = signature.input_names
    if len(names) == 1:
        return _text(inputs[names[0]])
    return "\n".join(_named(name, _text(inputs[name])) for name in names if name in inputs) or _NO_INPUT


def render_output(signature: Signature, output: Json, reasoning: str | None) -> str:
    """The assistant's turn, as the format rule asks for it; ``output`` is the value as JSON."""
    if not signature.answers_in_json:
        return _text(output)
    thoughts: dict[str, Json] = {} if reasoning is None or not signature.has_reasoning else {"reasoning": reasoning}
    if signature.is_record and isinstance(output, Mapping):
        return dumps({**thoughts, **output}, ensure_ascii=False)
    return dumps({**thoughts, "answer": output}, ensure_ascii=False)


def format_rule(signature: Signature) -> str:
    """What the reply must look like, in words; empty when any text will do."""
    if not signature.answers_in_json:
        return _bare_rule(signature.outputs[0])
    lines = ["Answer with a JSON object with these fields and nothing else:"]
    if signature.has_reasoning:
        lines.append('- "reasoning": think it through step by step first')
    lines += (f'- "{each.name}": {described(_shown(each.shape), each.description)}' for each in signature.outputs)
    return "\n".join(lines)


def json_inputs(inputs: Mapping[str, object]) -> dict[str, Json]:
    """Inputs by name as JSON values, as a demo keeps them."""
    return {name: value if type(value) is str else to_json(value) for name, value in inputs.items()}


def to_json(value: object) -> Json:
    """Any value as JSON values: enums by value, records by field, sets in a fixed order, dates as ISO text."""
    if isinstance(value, Enum):
        return to_json(value.value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    fields = _record_fields(value)
    if fields is not None:
        return {name: to_json(each) for name, each in fields.items()}
    if isinstance(value, Set):
        return sorted((to_json(each) for each in value), key=lambda each: dumps(each, sort_keys=True))
    if isinstance(value, list | tuple):
        return [to_json(each) for each in value]
    return _leaf(value)


def _bare_rule(answer: Field) -> str:
    shape, words = answer.shape, _shape_words(answer.shape)
    if shape.kind is Kind.TEXT:
        return _text_rule(shape, answer.description)
    if shape.kind in (Kind.LABEL, Kind.FLAG):
        about = f"The answer: {answer.description}.\n" if answer.description else ""
        choice = words if shape.kind is Kind.LABEL else words.replace("true or false", "one of: true, false", 1)
        return f"{about}Answer with exactly {choice}. Write nothing else."
    about = f": {answer.description}" if answer.description else ""
    return f"Answer with a single {words}{about}. Write nothing else."


def _text_rule(shape: Shape, description: str) -> str:
    if not description and not shape.may_be_nothing:
        return ""
    about = f": {description}" if description else ""
    return f"Answer with text{' or null' if shape.may_be_nothing else ''}{about}."


def _shown(shape: Shape) -> str:
    """A type as it stands in a list of fields: "a whole number", "one of billing, bug"."""
    words = _shape_words(shape)
    match shape.kind:
        case Kind.LABEL:
            return words.replace("one of: ", "one of ", 1)
        case Kind.RECORD:
            return f"an {words}"
        case Kind.TEXT | Kind.FLAG | Kind.ANYTHING:
            return words
    return f"a {words}"


def _shape_words(shape: Shape) -> str:
    words = shape.words(nothing="null")
    if shape.kind is Kind.LABEL and shape.may_be_nothing:
        return words.removesuffix(" or null") + ", or null"  # else the last label would read as "account or null"
    return words


def _input_notes(signature: Signature) -> str:
    notes = [f"- {each.name}: {each.description}" for each in signature.inputs if each.description]
    return "\n".join(["You are given:", *notes]) if notes else ""


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _named(name: str, text: str) -> str:
    return f"<{name}>\n{text}\n</{name}>" if "\n" in text or "\r" in text else f"{name}: {text}"


def _text(value: object) -> str:
    if type(value) is str:
        return value
    plain = to_json(value)
    return str(plain) if isinstance(plain, str) else dumps(plain, ensure_ascii=False)


def _record_fields(value: object) -> Mapping[str, object] | None:
    """The fields of a record by the names a reply uses, or ``None`` for anything else."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else _text(key): each for key, each in value.items()}
    if (infos := pydantic_fields(type(value))) is not None:
        return {pydantic_name(name, info): getattr(value, name) for name, info in infos.items()}
    if dataclasses.is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value) if each.init}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return dict(value._asdict())
    return None


def _leaf(value: object) -> Json:
    """Dates, numbers of other kinds, paths; what nobody can write as JSON is a ``TypeError``."""
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    try:
        written: Json = to_jsonable_python(value)
    except PydanticSerializationError:
        raise TypeError(
            f"a {type(value).__qualname__} cannot be sent to a model; pass text, a dataclass, or what JSON can hold"
        ) from None
    return written
