"""Every prompt that was imported, in the order of their definition."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_promptopt.errors import SignatureError

if TYPE_CHECKING:
    from pytest_promptopt.prompts.base import AnyPrompt

_prompts: dict[tuple[Path, str], AnyPrompt] = {}


def register(prompt: AnyPrompt) -> None:
    """Remember ``prompt``; a module that is imported again replaces its own."""
    _prompts[prompt.home.file, prompt.name] = prompt


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
