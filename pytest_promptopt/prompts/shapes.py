"""What a type is in words: "one of: billing, bug", "whole number or nothing", "list of text".

The words are our own, because they go into digests that are stored in files: neither a new Python nor a new pydantic
may change them.
"""

from __future__ import annotations

import dataclasses
import datetime
import sys
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum, StrEnum
from json import dumps
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin

from pytest_promptopt.errors import SignatureError


class Kind(StrEnum):
    """What sort of value a field holds; the value is how we say it."""

    TEXT = "text"
    WHOLE_NUMBER = "whole number"
    NUMBER = "number"
    FLAG = "true or false"
    LABEL = "one of"
    DATE = "date as YYYY-MM-DD"
    MOMENT = "date and time as YYYY-MM-DDTHH:MM:SS"
    LIST = "list"
    MAP = "map"
    RECORD = "object"
    ANYTHING = "anything"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shape:
    """One type as a model is told of it; compared by identity, so that what is derived from it is cached cheaply.

    ``labels`` are the texts of a label and ``values`` what they stand for, in the same order; ``parts`` the fields
    of a record; ``item`` what a list or a map holds; ``limits`` bounds in words; ``needs_validation`` says that even a
    bare value of this type is for pydantic to judge.
    """

    kind: Kind = Kind.TEXT
    labels: tuple[str, ...] = ()
    values: tuple[object, ...] = ()
    parts: tuple[Field, ...] = ()
    item: Shape | None = None
    limits: str = ""
    description: str = ""
    may_be_nothing: bool = False
    needs_validation: bool = False

    def words(self, *, nothing: str = "nothing") -> str:
        """The type in words; ``nothing`` is what ``None`` is called."""
        words = self._bare_words(nothing)
        if self.limits:
            words += f", {self.limits}"
        return f"{words} or {nothing}" if self.may_be_nothing else words

    def _bare_words(self, nothing: str) -> str:
        match self.kind:
            case Kind.LABEL:
                return f"one of: {', '.join(map(_spell_label, self.labels, self.values))}"
            case Kind.LIST if self.item is not None:
                return f"list of {self.item._inner_words(nothing)}"
            case Kind.MAP if self.item is not None:
                return f"map of text to {self.item._inner_words(nothing)}"
            case Kind.RECORD:
                return self._record_words(nothing)
        return self.kind.value

    def _inner_words(self, nothing: str) -> str:
        words = described(self.words(nothing=nothing), self.description)
        is_simple = not (self.labels or self.limits or self.description or self.may_be_nothing)
        return words if is_simple else f"({words})"

    def _record_words(self, nothing: str) -> str:
        if not self.parts:
            return "object of the same form"
        parts = (
            f"{part.name}: {described(part.shape.words(nothing=nothing), part.description)}" for part in self.parts
        )
        return f"object with ({'; '.join(parts)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One input or one output of a prompt."""

    name: str
    type_words: str
    description: str
    kind: Kind
    labels: tuple[str, ...]
    is_required: bool
    shape: Shape = Shape()


class UnknownTypeError(Exception):
    """A type that we have no words for."""

    def __init__(self, annotation: object) -> None:
        super().__init__(annotation)
        self.annotation = annotation


def described(words: str, description: str) -> str:
    """``words``, and the description after a comma when there is one."""
    return f"{words}, {description}" if description else words


def shape_of(annotation: object) -> Shape:
    """The shape of a type. Raises ``UnknownTypeError`` with the type, or the part of it, that has none."""
    return _shape(annotation, ())


def field_of(name: str, shape: Shape, *, is_required: bool = True) -> Field:
    """A field of that shape."""
    return Field(
        name=name,
        type_words=shape.words(),
        description=shape.description,
        kind=shape.kind,
        labels=shape.labels,
        is_required=is_required,
        shape=shape,
    )


def type_hints(function: Callable[..., object] | type, name: str) -> dict[str, Any]:
    """The annotations of ``function``, resolved. Raises ``SignatureError`` when a name in them is unknown."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise SignatureError(
            f"{name} is annotated with {error.name!r}, which its module does not know when the prompt is read; "
            "define or import it at module level, above the prompt and outside 'if TYPE_CHECKING'"
        ) from None
    except (TypeError, SyntaxError, AttributeError) as error:
        raise SignatureError(f"the annotations of {name} cannot be read: {error}") from None


_LISTS = frozenset({list, set, frozenset, Sequence, Set})
_MAPS = frozenset({dict, Mapping})
_PLAIN = {
    str: Shape(kind=Kind.TEXT),
    bool: Shape(kind=Kind.FLAG),
    int: Shape(kind=Kind.WHOLE_NUMBER),
    float: Shape(kind=Kind.NUMBER),
    datetime.date: Shape(kind=Kind.DATE, needs_validation=True),
    datetime.datetime: Shape(kind=Kind.MOMENT, needs_validation=True),
    Any: Shape(kind=Kind.ANYTHING),
    object: Shape(kind=Kind.ANYTHING),
}
_LIMITS = (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than"))


def _shape(annotation: Any, above: tuple[object, ...]) -> Shape:
    """The shape of a type; ``above`` are the records it stands in, so that a record may hold itself."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _annotated(_shape(args[0], above), annotation.__metadata__)
    if origin in (Required, NotRequired):
        return _shape(args[0], above)
    if origin in (Union, types.UnionType):
        return _optional(annotation, args, above)
    if origin is Literal:
        return _labels([(each, each) for each in args], annotation)
    if isinstance(annotation, Hashable) and annotation in _PLAIN:
        return _PLAIN[annotation]
    if (origin or annotation) in _LISTS or (origin is tuple and args[1:] == (...,)):
        return Shape(kind=Kind.LIST, item=_shape(args[0], above) if args else Shape(kind=Kind.ANYTHING))
    if (origin or annotation) in _MAPS:
        return _map(annotation, args, above)
    return _named(annotation, origin, above)


def _named(annotation: Any, origin: object, above: tuple[object, ...]) -> Shape:
    for alias in ("__value__", "__supertype__"):  # "type X = ..." and NewType
        if not isinstance(annotation, type) and hasattr(annotation, alias):
            return _shape(getattr(annotation, alias), above)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        if any(member.value is None for member in annotation):
            raise UnknownTypeError(annotation)
        return _labels([(member.value, member) for member in annotation], annotation)
    record = origin or annotation
    if not isinstance(record, type):
        raise UnknownTypeError(annotation)
    if record in above:
        return Shape(kind=Kind.RECORD)
    parts = _parts(record, (*above, record))
    if not parts:
        raise UnknownTypeError(annotation)
    return Shape(kind=Kind.RECORD, parts=tuple(parts))


def _annotated(shape: Shape, metadata: Sequence[object]) -> Shape:
    marks = list(_flat(metadata))
    descriptions = [mark for mark in map(_description, marks) if mark]
    limits = [limit for mark in marks for limit in _limits(mark)]
    return dataclasses.replace(
        shape,
        description=" ".join(descriptions[-1].split()) if descriptions else shape.description,
        limits=", ".join(limits) or shape.limits,
        needs_validation=shape.needs_validation or any(not isinstance(mark, str) for mark in marks),
    )


def _flat(metadata: Iterable[object]) -> Iterator[object]:
    """Every mark, and the marks that pydantic's ``Field(...)`` keeps inside itself."""
    for mark in metadata:
        yield mark
        inner = getattr(mark, "metadata", ())
        if isinstance(inner, list | tuple):
            yield from inner


def _description(mark: object) -> str | None:
    if isinstance(mark, str):
        return mark
    words = getattr(mark, "description", None) or getattr(mark, "documentation", None)
    return words if isinstance(words, str) else None


def _limits(mark: object) -> list[str]:
    bounds = [(words, getattr(mark, name, None)) for name, words in _LIMITS]
    return [f"{words} {bound}" for words, bound in bounds if isinstance(bound, int | float)]


def _optional(annotation: object, args: Sequence[object], above: tuple[object, ...]) -> Shape:
    some = [each for each in args if each is not types.NoneType]
    if len(some) != 1:
        raise UnknownTypeError(annotation)
    return dataclasses.replace(_shape(some[0], above), may_be_nothing=True)


def _map(annotation: object, args: Sequence[object], above: tuple[object, ...]) -> Shape:
    if not args:
        return Shape(kind=Kind.MAP, item=Shape(kind=Kind.ANYTHING))
    if _shape(args[0], above).kind not in (Kind.TEXT, Kind.LABEL):
        raise UnknownTypeError(annotation)
    return Shape(kind=Kind.MAP, item=_shape(args[1], above))


def _labels(pairs: Sequence[tuple[object, object]], annotation: object) -> Shape:
    """The shape of a choice, from what each choice is written as and the value it stands for."""
    written = [(raw.value if isinstance(raw, Enum) else raw, value) for raw, value in pairs]
    some = [(raw, value) for raw, value in written if raw is not None]
    labels = tuple(label_text(raw) for raw, _ in some if isinstance(raw, str | int | float))
    if not labels or len(labels) < len(some) or len(set(labels)) < len(labels) or "" in labels:
        raise UnknownTypeError(annotation)
    return Shape(
        kind=Kind.LABEL,
        labels=labels,
        values=tuple(value for _, value in some),
        may_be_nothing=len(some) < len(written),
    )


def label_text(raw: str | int | float) -> str:
    """A label as a model is to write it: ``true``, not ``True``."""
    return str(raw) if isinstance(raw, str) else dumps(raw)


def _spell_label(label: str, value: object) -> str:
    """A label as it stands in a list of them; quoted where it would read as two, or as something else than text."""
    raw = value.value if isinstance(value, Enum) else value
    is_plain = label == " ".join(label.split()) and not set(label) & set(',;"')
    if not isinstance(raw, str) or (is_plain and not _reads_as_json(label)):
        return label
    return dumps(label, ensure_ascii=False)


def _reads_as_json(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return label in ("true", "false", "null")
    return True


def _parts(record: type, above: tuple[object, ...]) -> list[Field]:
    """The fields of a record; none for any other type."""
    if (infos := pydantic_fields(record)) is not None:
        return [_pydantic_part(name, info, above) for name, info in infos.items()]
    if dataclasses.is_dataclass(record):
        names, optional = _dataclass_names(record)
    elif typing.is_typeddict(record):
        names, optional = _typed_dict_names(record)
    elif issubclass(record, tuple) and hasattr(record, "_fields"):
        names, optional = list(record._fields), set(getattr(record, "_field_defaults", {}))
    else:
        return []
    hints = type_hints(record, record.__name__)
    return [field_of(name, _shape(hints.get(name, Any), above), is_required=name not in optional) for name in names]


def _dataclass_names(record: Any) -> tuple[list[str], set[str]]:
    """The fields that are given on construction, and those of them that may be left out."""
    given = [each for each in dataclasses.fields(record) if each.init]
    missing = dataclasses.MISSING
    optional = {each.name for each in given if each.default is not missing or each.default_factory is not missing}
    return [each.name for each in given], optional


def _typed_dict_names(record: Any) -> tuple[list[str], set[str]]:
    """The keys, and those that may be left out; from the hints, since Python reads no string annotation for it."""
    hints = type_hints(record, record.__name__)
    left_out = {name for name, hint in hints.items() if get_origin(hint) is NotRequired}
    required = {name for name, hint in hints.items() if get_origin(hint) is Required}
    return list(hints), (set(record.__optional_keys__) | left_out) - required


def pydantic_fields(record: Any) -> Mapping[str, Any] | None:
    """The fields of a pydantic model or dataclass by attribute; ``None`` for any other type."""
    pydantic = sys.modules.get("pydantic")  # nobody can have made a model before it was imported
    if pydantic is None or issubclass(record, pydantic.RootModel):
        return None
    if issubclass(record, pydantic.BaseModel):
        return dict(record.model_fields)
    return getattr(record, "__pydantic_fields__", None)


def pydantic_name(attribute: str, info: Any) -> str:
    """What a field is called in JSON."""
    alias = info.validation_alias if isinstance(info.validation_alias, str) else info.alias
    return alias or attribute


def _pydantic_part(attribute: str, info: Any, above: tuple[object, ...]) -> Field:
    shape = _annotated(_shape(info.annotation, above), [info])
    return field_of(pydantic_name(attribute, info), shape, is_required=info.is_required())
