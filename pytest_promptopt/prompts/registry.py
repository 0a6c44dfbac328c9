"""Every prompt that was imported, in the order of their definition."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_promptopt.errors import SignatureError

if TYPE_CHECKING:
    from pytest_promptopt.prompts.base import AnyPrompt

_prompts: dict[tuple[Path, str], AnyPrompt] = {}


Loading: TypeAlias = tuple[object, Mapping[str, Any]]
"""One run of a module's code: its import, which reloading makes anew, and its globals."""


def loading_of(module_globals: Mapping[str, Any]) -> Loading | None:
    """The run that code with these globals belongs to; ``None`` where people run code again, as in notebooks."""
    spec = module_globals.get("__spec__")
    is_interactive = "__file__" not in module_globals or hasattr(sys, "ps1")
    return None if spec is None and is_interactive else (spec, module_globals)


def register(prompt: AnyPrompt) -> None:
    """Remember ``prompt``; a module that is imported again replaces its own.

    Raises ``SignatureError`` where one run of a module gives one name to two prompts that differ, as a loop would: they
    would share their snapshots.
    """
    other = _prompts.get((prompt.home.file, prompt.name))
    if other is not None and _is_same_run(prompt.loading, other.loading) and _content(prompt) != _content(other):
        lines = (
            f"the lines {other.home.line} and {prompt.home.line}"
            if other.home.line != prompt.home.line
            else f"line {prompt.home.line}, which runs more than once"
        )
        raise SignatureError(
            f"{prompt.home.file} gives two prompts the name {prompt.name}, in {lines}; give each a name of its own: "
            '@prompt(name="…"), or text_prompt("…", …)'
        )
    _prompts[prompt.home.file, prompt.name] = prompt


def _is_same_run(one: Loading | None, other: Loading | None) -> bool:
    return one is not None and other is not None and one[0] is other[0] and one[1] is other[1]


def _content(prompt: AnyPrompt) -> tuple[object, ...]:
    return prompt.signature.digest, prompt.signature.source_digest, prompt.model


def registered_prompts(under: Path | None = None) -> list[AnyPrompt]:
    """Every imported prompt, of files below ``under`` only when given."""
    return [prompt for (file, _), prompt in _prompts.items() if under is None or file.is_relative_to(under)]


def prompts_named(name: str) -> list[AnyPrompt]:
    """Every imported prompt called ``name``: one, unless modules of different folders share their names."""
    return [prompt for (_, own), prompt in _prompts.items() if own == name]


def prompts_by_name(under: Path | None = None) -> dict[str, AnyPrompt]:
    """Every imported prompt by name. Raises ``SignatureError`` naming both places when two prompts share one."""
    named: dict[str, AnyPrompt] = {}
    for prompt in registered_prompts(under):
        other = named.setdefault(prompt.name, prompt)
        if other is not prompt:
            raise SignatureError(
                f"two prompts are called {prompt.name}: {other.home.file}:{other.home.line} and "
                f"{prompt.home.file}:{prompt.home.line}; give one of them another name: "
                '@prompt(name="…"), or text_prompt("…", …)'
            )
    return named


@contextmanager
def apart() -> Iterator[None]:
    """Start with no prompt and put the former ones back: for a session inside a session, as tests of plugins do."""
    before = dict(_prompts)
    _prompts.clear()
    try:
        yield
    finally:
        _prompts.clear()
        _prompts.update(before)
