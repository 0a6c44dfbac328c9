"""What the instruction of a candidate must not do, whoever wrote it: copy a training input, or lose a placeholder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pytest_promptopt.prompts.compiled import CompiledPrompt, Json
from pytest_promptopt.prompts.signature import Signature

COPIED_WORDS = 5
"""So many words in a row, taken from a training input, are a copy rather than a lesson."""


FEWEST_SHARING = 3
"""Of fewer rows nobody can tell what most of them share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Placeholders that an instruction keeps, and runs of words it does not contain, each with the row it is from."""

    placeholders: tuple[str, ...] = ()
    copied: Mapping[tuple[str, ...], str] = field(default_factory=dict)

    def find_fault(self, instruction: str) -> str:
        """Why ``instruction`` is no candidate; empty when it is one."""
        if lost := [placeholder for placeholder in self.placeholders if placeholder not in instruction]:
            return f"loses {lost[0]}"
        row = next((self.copied[run] for run in _runs(instruction) if run in self.copied), None)
        return "" if row is None else f"copies row {row}"


NO_GUARD = Guard()


def make_guard(signature: Signature, source: CompiledPrompt, train_inputs: Iterable[tuple[str, str]]) -> Guard:
    """A guard against copies of ``train_inputs`` (row id, text), save for words that the source instruction has itself.

    A text that most rows share, such as a list of labels or a policy, is no row's own and may be repeated; one that
    only some share, because a row comes twice or in a second metric, is as much theirs as any.
    """
    rows: dict[str, dict[str, None]] = {}
    for row, text in train_inputs:
        rows.setdefault(text, {})[row] = None
    shared = _shared_by_most(rows)
    free = {run for text in shared for run in _runs(text)}.union(_runs(source.instruction))
    copied: dict[tuple[str, ...], str] = {}
    for text, ids in rows.items():
        for run in _runs(text) if text not in shared else ():
            if run not in free:
                copied.setdefault(run, next(iter(ids)))
    is_adopted = signature.template is not None  # an adopted text checks its own placeholders
    return Guard(placeholders=() if is_adopted else find_placeholders(signature, source), copied=copied)


def _shared_by_most(rows: Mapping[str, Iterable[str]]) -> set[str]:
    """The texts, of those given with their rows, that more than half of three rows or more have."""
    ids = {text: {*each} for text, each in rows.items()}
    total = len(set().union(*ids.values()))
    return {text for text, each in ids.items() if total >= FEWEST_SHARING and 2 * len(each) > total}


def find_placeholders(signature: Signature, source: CompiledPrompt) -> tuple[str, ...]:
    """What stands for inputs in the source instruction, as it is written there.

    In a docstring those are ``{name}`` and ``{{ name }}``, which somebody else may fill in; in an adopted text, all
    that its language makes a placeholder or a statement.
    """
    if signature.template is not None:
        return signature.template.placeholders
    names = {field.name for field in signature.inputs}
    found = re.finditer(r"\{\{?\s*(\w+)[^{}]*\}\}?", source.instruction)
    return tuple(dict.fromkeys(match[0] for match in found if match[1] in names))


def spell(value: Json) -> str:
    """A field's value as a reader of the request sees it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _runs(text: str) -> Iterable[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return zip(*(words[start:] for start in range(COPIED_WORDS)), strict=False)
