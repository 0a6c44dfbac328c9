"""What a typed function says about a prompt: its inputs, its output, and the instruction in its docstring."""

from __future__ import annotations

import dis
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from pytest_promptopt.errors import SignatureError
from pytest_promptopt.prompts.compiled import CompiledPrompt, Json, content_digest
from pytest_promptopt.prompts.shapes import Field, Kind, Shape, UnknownTypeError, field_of, shape_of, type_hints
from pytest_promptopt.prompts.template import Template, find_fault

__all__ = ["Field", "Kind", "Shape", "Signature", "bind", "read_signature", "text_signature"]

_JSON_KINDS = frozenset({Kind.LIST, Kind.MAP, Kind.RECORD, Kind.ANYTHING})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Signature:
    """What a prompt takes and gives, and how it is called; compared by identity, told apart on disk by ``digest``.

    ``digest`` changes with anything a model or a caller would notice except the instruction, ``source_digest`` with
    the instruction's words. ``answers_in_json`` tells whether a reply is a JSON object or the bare value.
    An adopted text has a ``template``, whose placeholders every instruction must keep, and ``fixed`` is what of its
    chat messages no search may change.
    """

    name: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    is_record: bool
    has_reasoning: bool
    instruction: str
    temperature: float
    max_tokens: int | None
    return_type: object
    parameters: inspect.Signature | None = None
    template: Template | None = None
    fixed: Json = None
    input_names: tuple[str, ...] = field(init=False)
    answers_in_json: bool = field(init=False)
    digest: str = field(init=False)
    source_digest: str = field(init=False)

    def __post_init__(self) -> None:
        settled = {
            "input_names": tuple(each.name for each in self.inputs),
            "answers_in_json": self.is_record or self.has_reasoning or self.outputs[0].kind in _JSON_KINDS,
            "digest": _digest(self),
            "source_digest": content_digest(" ".join(inspect.cleandoc(self.instruction).split())),
        }
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    @property
    def takes_demos(self) -> bool:
        """Whether demonstrations can be shown; an adopted text is sent as it is, so it has no place for them."""
        return self.template is None

    def find_fault(self, compiled: CompiledPrompt) -> str:
        """Why ``compiled`` cannot run as this prompt, in words that follow "it"; empty when it can."""
        if self.template is None:
            return ""
        if compiled.demos:
            return "has demos, for which an adopted text has no place"
        return find_fault(self.template, compiled.instruction)


def read_signature(
    function: Callable[..., object],
    *,
    name: str,
    reasoning: bool = False,
    temperature: float = 0.0,
    max_tokens: int | None = None,
) -> Signature:
    """Read the prompt that ``function`` declares; ``name`` is what it is called in messages and files.

    Raises :class:`~pytest_promptopt.errors.SignatureError` for whatever cannot be asked of a model.
    """
    instruction = _instruction(function, name)
    _check_body(function, name)
    parameters = _parameters(function, name)
    hints = type_hints(function, name)
    return_type = hints.get("return", str)
    shape = _output_shape(return_type, name)
    is_record = shape.kind is Kind.RECORD and not shape.may_be_nothing
    outputs = shape.parts if is_record else (field_of("answer", shape),)
    _check_reasoning(outputs, name, reasoning=reasoning)
    return Signature(
        name=name,
        inputs=tuple(_input(each, hints.get(each.name, str)) for each in parameters.parameters.values()),
        outputs=outputs,
        is_record=is_record,
        has_reasoning=reasoning,
        instruction=instruction,
        temperature=temperature,
        max_tokens=max_tokens,
        return_type=return_type,
        parameters=parameters,
    )


def text_signature(
    *, name: str, template: Template, fixed: Json = None, temperature: float = 0.0, max_tokens: int | None = None
) -> Signature:
    """The prompt that an adopted text is: whatever fills its placeholders goes in, text comes out."""
    return Signature(
        name=name,
        inputs=(),
        outputs=(field_of("answer", shape_of(str)),),
        is_record=False,
        has_reasoning=False,
        instruction=template.text,
        temperature=temperature,
        max_tokens=max_tokens,
        return_type=str,
        template=template,
        fixed=fixed,
    )


def bind(signature: Signature, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
    """The inputs of one call by name, in declared order. Raises ``TypeError`` for wrong arguments, as a call does."""
    if not args and len(kwargs) == len(signature.input_names):
        try:
            return {name: kwargs[name] for name in signature.input_names}
        except KeyError:
            pass  # the slow way says what is wrong, or fills a default in
    parameters = signature.parameters or _parameters_of(signature.inputs)
    try:
        bound = parameters.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{signature.name}() {error}") from None
    bound.apply_defaults()
    return bound.arguments


def _instruction(function: Callable[..., object], name: str) -> str:
    if not isinstance(function, types.FunctionType):
        raise SignatureError(f"{name} is not a function; put @prompt on a plain function at module level")
    text = inspect.cleandoc(function.__doc__ or "").strip()
    if text:
        return text
    if sys.flags.optimize >= 2:
        raise SignatureError(f"{name} has no docstring, because python -OO strips them; run without -OO")
    raise SignatureError(f"{name} has no instruction; write the instruction as its docstring")


def _check_body(function: Callable[..., object], name: str) -> None:
    if not _is_idle(function.__code__):
        raise SignatureError(
            f"the body of {name} would never run: a model answers in its place; "
            "leave the docstring alone, or write '...' or 'raise NotImplementedError' after it"
        )


def _is_idle(code: types.CodeType) -> bool:
    """Whether a body does nothing, told from its bytecode, since the source may not be there."""
    instructions = list(dis.get_instructions(code))
    if not {each.opname for each in instructions} <= _idle_operations():
        return False
    if code.co_names:
        return code.co_names == ("NotImplementedError",)
    return all(each.argval is None for each in instructions if each.opcode in dis.hasconst)


@cache
def _idle_operations() -> frozenset[str]:
    """The operations that bodies without an effect consist of, as this Python compiles them."""
    bodies = (
        "'words'",
        "'words'; ...",
        "...",
        "pass",
        "raise NotImplementedError",
        "raise NotImplementedError('later')",
    )
    sources = (f"{prefix}def idle(ticket): {body}" for prefix in ("", "async ") for body in bodies)
    constants = (each for source in sources for each in compile(source, "<idle>", "exec").co_consts)
    codes = (each for each in constants if isinstance(each, types.CodeType))
    return frozenset(each.opname for code in codes for each in dis.get_instructions(code))


def _parameters(function: Callable[..., object], name: str) -> inspect.Signature:
    parameters = inspect.signature(function)
    for index, (argument, parameter) in enumerate(parameters.parameters.items()):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise SignatureError(f"{name} takes '{parameter}'; name each input as a parameter of its own")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise SignatureError(f"{name} takes '{argument}' by position only; drop the '/', inputs are known by name")
        if index == 0 and argument in ("self", "cls") and parameter.annotation is parameter.empty:
            raise SignatureError(f"{name} is a method; write the prompt as a function at module level")
    return parameters


def _parameters_of(inputs: Iterable[Field]) -> inspect.Signature:
    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(each.name, either) for each in inputs])


def _input(parameter: inspect.Parameter, annotation: object) -> Field:
    try:
        shape = shape_of(annotation)
    except UnknownTypeError:
        shape = Shape(kind=Kind.ANYTHING)  # whatever can be written as JSON may be an input
    return field_of(parameter.name, shape, is_required=parameter.default is parameter.empty)


def _output_shape(annotation: object, name: str) -> Shape:
    try:
        shape = shape_of(annotation)
        if shape.kind is Kind.ANYTHING:
            raise UnknownTypeError(annotation)
    except UnknownTypeError as error:
        raise SignatureError(
            f"{name} cannot return {inspect.formatannotation(error.annotation)}; return str, int, float, bool, "
            "Literal, an Enum, list[...], dict[str, ...], a dataclass, TypedDict, NamedTuple or pydantic model; "
            "or one of them or None"
        ) from None
    return shape


def _check_reasoning(outputs: Iterable[Field], name: str, *, reasoning: bool) -> None:
    if reasoning and any(each.name == "reasoning" for each in outputs):
        raise SignatureError(f"{name} returns a field 'reasoning' already; drop reasoning=True or rename the field")


def _digest(signature: Signature) -> str:
    inputs: list[Json] = [[each.name, each.type_words, each.description] for each in signature.inputs]
    outputs: list[Json] = [[each.name, each.type_words, each.description] for each in signature.outputs]
    adopted: dict[str, Json] = {}
    if signature.template is not None:
        adopted = {"template": str(signature.template.language), "fixed": signature.fixed}
    return content_digest(
        {
            **adopted,
            "inputs": inputs,
            "outputs": outputs,
            "is_record": signature.is_record,
            "reasoning": signature.has_reasoning,
            "temperature": float(signature.temperature),
            "max_tokens": signature.max_tokens,
        }
    )
