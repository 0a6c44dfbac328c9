"""Read a reply as the value a prompt promises: lenient about dress, strict about doubt.

Fences, quotes, case, a label inside a sentence are all read; but where a reply holds two readings, none is picked.
"""

from __future__ import annotations

import json
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, get_args, get_origin

from pytest_promptopt.errors import FormatError, SignatureError
from pytest_promptopt.prompts.compiled import Json
from pytest_promptopt.prompts.loose_json import json_values
from pytest_promptopt.prompts.rendering import to_json
from pytest_promptopt.prompts.reply_text import UnreadableError, says_nothing, shown, undress
from pytest_promptopt.prompts.shapes import Field, Kind, Shape
from pytest_promptopt.prompts.signature import Signature
from pytest_promptopt.prompts.spoken_labels import fold, labels_of, read_label, spoken_label
from pytest_promptopt.prompts.written_numbers import read_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A reply, read: the typed value, and the reasoning when there was any."""

    value: object
    reasoning: str | None = None


def parse(signature: Signature, text: str) -> Parsed:
    """The value in a reply. Raises :class:`~pytest_promptopt.errors.FormatError` saying what was expected and came."""
    try:
        return _read_json_reply(signature, text) if signature.answers_in_json else _read_bare_reply(signature, text)
    except UnreadableError as error:
        raise FormatError(f"{error}; got {shown(text)}", reply=text) from None


def dump_output(signature: Signature, value: object) -> Json:
    """A typed output as JSON values, which is how demos and recordings keep it."""
    return value if type(value) is str else to_json(value)


def coerce_output(signature: Signature, value: Json) -> object:
    """A dataset's label as the typed output. Raises ``FormatError`` when it is none.

    Text may stand for what it spells ("3", "yes", a JSON object), since a CSV file knows nothing else.
    """
    try:
        return _coerce(signature, to_json(value))
    except UnreadableError as error:
        written = value if isinstance(value, str) else json.dumps(to_json(value), ensure_ascii=False)
        raise FormatError(f"{error}; got {shown(written)}", reply=written) from None


def _coerce(signature: Signature, value: Json) -> object:
    if signature.is_record:
        plain = _loads(value) if isinstance(value, str) else value
        return _validate(signature, _settle_record(signature.outputs, plain) if isinstance(plain, Mapping) else plain)
    shape = signature.outputs[0].shape
    if isinstance(value, str) and shape.kind in (Kind.LIST, Kind.MAP, Kind.RECORD):
        value = _loads(value)
    return _typed(signature, _settle(shape, value))


def _loads(text: str) -> Json:
    try:
        value: Json = json.loads(text)
    except ValueError:
        return text
    return value


# --- bare replies -----------------------------------------------------------------------------------------------------


def _read_bare_reply(signature: Signature, text: str) -> Parsed:
    shape = signature.outputs[0].shape
    value = _read_bare(shape, text)
    return Parsed(value=_validate(signature, to_json(value)) if shape.needs_validation else value)


def _read_bare(shape: Shape, text: str) -> object:
    if shape.may_be_nothing and says_nothing(text) and undress(text).casefold() not in shape.labels:
        return None
    match shape.kind:
        case Kind.TEXT:
            return text.strip()
        case Kind.LABEL | Kind.FLAG:
            return read_label(labels_of(shape), text)
        case Kind.WHOLE_NUMBER | Kind.NUMBER:
            return read_number(shape, text)
    return undress(text)


# --- JSON replies -----------------------------------------------------------------------------------------------------

_BULLET = re.compile(r"\s*(?:[-*•]|\d+[.)])\s+(.+)")


def _read_json_reply(signature: Signature, text: str) -> Parsed:
    found = list(json_values(text))
    settled = [record for each in found if (record := _record(signature, each)) is not None]
    fitting = [each for each in settled if not _missing(signature, each)]
    if not fitting:
        return Parsed(value=_read_without_fields(signature, text, found, settled))
    if any(each != fitting[0] for each in fitting):
        raise UnreadableError(f"{_expected(signature)}, not several that differ")
    return _read_object(signature, fitting[0])


def _read_object(signature: Signature, fields: Mapping[str, Json]) -> Parsed:
    rest = dict(fields)
    thoughts = rest.pop("reasoning", None) if signature.has_reasoning else None
    reasoning = thoughts if thoughts is None or isinstance(thoughts, str) else _joined(thoughts)
    value = _validate(signature, rest) if signature.is_record else _typed(signature, rest["answer"])
    return Parsed(value=value, reasoning=reasoning)


def _joined(thoughts: Json) -> str:
    if isinstance(thoughts, list):
        return "\n".join(each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in thoughts)
    return json.dumps(thoughts, ensure_ascii=False)


def _read_without_fields(signature: Signature, text: str, found: list[Json], settled: list[dict[str, Json]]) -> object:
    """The value of a reply that left the object around it away; refuses when that would be a guess."""
    if signature.is_record:
        raise UnreadableError(_complaint(signature, text, settled))
    shape = signature.outputs[0].shape
    if shape.may_be_nothing and says_nothing(text):
        return None
    wanted = list if shape.kind is Kind.LIST else Mapping
    bare = [each for each in found if isinstance(each, wanted)]
    if shape.kind in (Kind.LIST, Kind.MAP, Kind.RECORD) and bare and all(each == bare[0] for each in bare):
        return _typed(signature, _settle(shape, bare[0]))
    if shape.kind is Kind.LIST and not found and (bullets := _bullets(text)):
        return _typed(signature, _settle(shape, bullets))
    if not found and shape.kind in (Kind.LABEL, Kind.FLAG, Kind.WHOLE_NUMBER, Kind.NUMBER):
        return _read_bare_reply(signature, text).value
    raise UnreadableError(_complaint(signature, text, settled))


def _bullets(text: str) -> list[Json]:
    lines = [_BULLET.fullmatch(line) for line in text.splitlines() if line.strip()]
    return [line[1].strip() for line in lines if line] if all(lines) else []


def _complaint(signature: Signature, text: str, settled: list[dict[str, Json]]) -> str:
    if not settled:
        breaks_off = text.count("{") > text.count("}")
        return f"{_expected(signature)}{', but it breaks off (max_tokens?)' if breaks_off else ''}"
    names = [each.name for each in _fields(signature)]
    missing, unexpected = _missing(signature, settled[-1]), [name for name in settled[-1] if name not in names]
    parts = [f"missing: {_quoted(missing)}", *([f"unexpected: {_quoted(unexpected)}"] if unexpected else [])]
    return "; ".join([_expected(signature), *parts])


def _expected(signature: Signature) -> str:
    return f"expected a JSON object with {_quoted(each.name for each in _fields(signature))}"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


_REASONING = Field(
    name="reasoning", type_words="text", description="", kind=Kind.TEXT, labels=(), is_required=False, shape=Shape()
)


def _fields(signature: Signature) -> tuple[Field, ...]:
    return (_REASONING, *signature.outputs) if signature.has_reasoning else signature.outputs


def _missing(signature: Signature, settled: Mapping[str, Json]) -> list[str]:
    return [each.name for each in signature.outputs if each.is_required and each.name not in settled]


def _record(signature: Signature, value: Json) -> dict[str, Json] | None:
    """``value`` with the output's fields, if it is an object; or the one it holds, if only that has them."""
    inner = list(value.values()) if isinstance(value, Mapping) else value
    layers = (value, inner[0] if isinstance(inner, list) and len(inner) == 1 else None)
    settled = [_settle_record(_fields(signature), each) for each in layers if isinstance(each, Mapping)]
    fitting = [each for each in settled if not _missing(signature, each)]
    return next(iter(fitting or settled), None)


# --- typed values -----------------------------------------------------------------------------------------------------


def _settle_record(fields: Iterable[Field], value: Mapping[str, Json]) -> dict[str, Json]:
    """An object with its keys and values as the fields spell them; what belongs to no field stays as it is."""
    shapes = {each.name: each.shape for each in fields}
    spoken = {fold(name, splits_camel=True): name for name in shapes}
    settled: dict[str, Json] = {}
    for key, each in value.items():
        name = key if key in shapes else spoken.get(undress(fold(key, splits_camel=True)), key)
        name = key if name != key and (name in value or name in settled) else name
        settled[name] = _settle(shapes[name], each) if name in shapes else each
    return settled


def _settle(shape: Shape, value: Json) -> Json:
    """A JSON value as its type would write it, where there is no doubt; the rest is left for pydantic to judge."""
    if value is None:
        return value
    if isinstance(value, str):
        return _settle_text(shape, value)
    if shape.kind in (Kind.WHOLE_NUMBER, Kind.NUMBER) and isinstance(value, bool):
        return json.dumps(value)  # pydantic would take true for 1
    if shape.kind is Kind.TEXT and type(value) is int:
        return str(value)
    if isinstance(value, list) and shape.kind is Kind.LIST and shape.item is not None:
        return [_settle(shape.item, each) for each in value]
    if isinstance(value, Mapping) and shape.kind is Kind.MAP and shape.item is not None:
        return {key: _settle(shape.item, each) for key, each in value.items()}
    if isinstance(value, Mapping) and shape.kind is Kind.RECORD and shape.parts:
        return _settle_record(shape.parts, value)
    return value


def _settle_text(shape: Shape, text: str) -> Json:
    if shape.kind in (Kind.LABEL, Kind.FLAG):
        labels = labels_of(shape)
        label = text if text in labels.values else spoken_label(labels, text)
        return to_json(labels.values[label]) if label is not None else _settle_nothing(shape, text)
    if shape.kind in (Kind.WHOLE_NUMBER, Kind.NUMBER):
        try:
            return to_json(read_number(shape, text))
        except UnreadableError:
            return _settle_nothing(shape, text)
    return text


def _settle_nothing(shape: Shape, text: str) -> Json:
    return None if shape.may_be_nothing and says_nothing(text) else text


def _typed(signature: Signature, value: Json) -> object:
    """The single output of a prompt from its JSON value; pydantic is spared where a look-up does."""
    shape = signature.outputs[0].shape
    if shape.kind is Kind.LABEL and not shape.needs_validation:
        labels = labels_of(shape)
        if value is None and shape.may_be_nothing:
            return None
        label = value if isinstance(value, str) else json.dumps(value)
        if label not in labels.values:
            raise UnreadableError(labels.expected)
        return labels.values[label]
    return _validate(signature, value)


def _validate(signature: Signature, value: Json) -> object:
    from pydantic import ValidationError

    try:
        return _adapter(signature).validate_json(json.dumps(value, allow_nan=False))
    except ValidationError as error:
        raise UnreadableError(f"{_promise(signature)}; {_reasons(error)}") from None
    except ValueError:
        raise UnreadableError(f"{_promise(signature)} with finite numbers") from None


def _promise(signature: Signature) -> str:
    if signature.answers_in_json:
        return _expected(signature)
    return f"expected {signature.outputs[0].type_words}"


def _reasons(error: Any) -> str:
    """Pydantic's complaint in one line."""
    details = error.errors(include_url=False, include_context=False)
    lines = [f"{_place(each['loc'])}{each['msg']}" for each in details[:3]]
    more = f"; and {len(details) - 3} more" if len(details) > 3 else ""
    return "; ".join(" ".join(line.split()) for line in lines) + more


def _place(location: tuple[int | str, ...]) -> str:
    return f'"{".".join(map(str, location))}": ' if location else ""


@lru_cache(maxsize=512)
def _adapter(signature: Signature) -> Any:
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

    try:
        return TypeAdapter(_modern(signature.return_type))
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        raise SignatureError(f"{signature.name}: pydantic cannot validate its output: {error.message}") from None


def _modern(annotation: Any) -> Any:
    """The same type with the ``TypedDict`` that pydantic takes: before Python 3.12, not the one in ``typing``."""
    if sys.version_info >= (3, 12):
        return annotation
    if typing.is_typeddict(annotation) and type(annotation).__module__ == "typing":
        return _modern_typed_dict(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return Annotated[(_modern(args[0]), *annotation.__metadata__)]
    if origin is None or origin is typing.Literal or not any(_modern(each) is not each for each in args):
        return annotation
    modern = tuple(_modern(each) for each in args)
    return typing.Union[modern] if origin in (typing.Union, types.UnionType) else origin[modern]  # noqa: UP007


def _modern_typed_dict(annotation: Any) -> Any:
    from typing_extensions import TypedDict

    hints = {name: _modern(hint) for name, hint in typing.get_type_hints(annotation, include_extras=True).items()}
    return TypedDict(annotation.__name__, hints, total=annotation.__total__)  # type: ignore[operator]
