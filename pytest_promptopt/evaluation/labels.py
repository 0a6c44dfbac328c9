"""Labelled rows become demonstrations: which field of a row is a prompt's right answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_promptopt.errors import FormatError
from pytest_promptopt.evaluation.dataset import Example
from pytest_promptopt.evaluation.outcome import RowResult
from pytest_promptopt.evaluation.split import LABEL_ALIASES
from pytest_promptopt.prompts.compiled import Demo, Json
from pytest_promptopt.prompts.parsing import coerce_output, dump_output
from pytest_promptopt.prompts.signature import Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledDemos:
    """Demos made from rows, and when there are none, the reason in words that say what to do."""

    demos: tuple[Demo, ...]
    refusal: str | None = None


def labelled_demos(
    signature: Signature,
    rows: Sequence[Example],
    *,
    labels: Mapping[str, str],
    traced: Sequence[tuple[Example, RowResult]],
) -> LabelledDemos:
    """One demo for each row that names the inputs and a valid output of the prompt.

    The output is the field that ``labels`` names for the prompt (by full or short name), else a field called
    ``expected``, ``expected_output``, ``target`` or ``answer``, else for several outputs the fields of their names,
    else the one other field that equals the prompt's value on every passing and no failing traced row.
    """
    names = [field.name for field in signature.inputs]
    missing = [name for name in names if not any(name in row for row in rows)]
    if missing:
        return _refuse(signature, f"the rows have no field {', '.join(missing)}, which are its inputs")
    field = _label_field(signature, rows, labels, traced)
    if field is None:
        return _refuse(signature, "no one field of the rows is its label")
    demos = tuple(demo for row in rows if (demo := _demo(signature, row, names, field)) is not None)
    return LabelledDemos(demos=demos) if demos else _refuse(signature, f"field {field} holds none of its outputs")


def _refuse(signature: Signature, reason: str) -> LabelledDemos:
    short = signature.name.rpartition(".")[2]
    return LabelledDemos(
        demos=(), refusal=f'{signature.name}: no labelled demos, {reason}; name it: labels={{"{short}": "FIELD"}}'
    )


def _label_field(
    signature: Signature,
    rows: Sequence[Example],
    labels: Mapping[str, str],
    traced: Sequence[tuple[Example, RowResult]],
) -> str | None:
    """The field's name; an empty string stands for "the fields named like the outputs"."""
    named = labels.get(signature.name) or labels.get(signature.name.rpartition(".")[2])
    if named:
        return named
    fields = dict.fromkeys(name for row in rows for name in row)
    for alias in LABEL_ALIASES:
        if alias in fields:
            return alias
    if signature.is_record and all(output.name in fields for output in signature.outputs):
        return ""
    inputs = {field.name for field in signature.inputs}
    others = [name for name in fields if name not in inputs and name not in ("id", "split")]
    telling = [name for name in others if _tells(signature.name, name, traced)]
    return telling[0] if len(telling) == 1 else None


def _tells(prompt: str, field: str, traced: Sequence[tuple[Example, RowResult]]) -> bool:
    """Whether ``field`` equals the prompt's value on every passing and on no failing row, with at least one passing."""
    has_passed = False
    for row, result in traced:
        score = result.judgement.score
        values = [call.output for call in result.own_calls if call.prompt == prompt and call.is_parsed]
        if score is None or len(values) != 1:
            continue
        is_equal = row.get(field) == values[0]
        if is_equal != (score >= 1.0):
            return False
        has_passed = has_passed or is_equal
    return has_passed


def _demo(signature: Signature, row: Example, inputs: Sequence[str], field: str) -> Demo | None:
    fields = row.as_json()
    if any(name not in fields for name in inputs):
        return None
    value: Json = fields.get(field) if field else {output.name: fields.get(output.name) for output in signature.outputs}
    try:
        output = dump_output(signature, coerce_output(signature, value))
    except (FormatError, ValueError):
        return None
    return Demo(inputs={name: fields[name] for name in inputs}, output=output, row=row.id)
