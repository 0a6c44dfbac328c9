"""Prompt regression tests and prompt optimization inside pytest.

A test is the metric, a fixture the dataset; ``pytest --optimize-prompts`` searches better prompts, confirms them on
rows that the search never saw, and freezes them into files that every later ``pytest`` asserts against.

Importing this package imports neither pytest nor a model client: names are looked up when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_promptopt.errors import FormatError, LMError, PromptOptError
    from pytest_promptopt.evaluation.dataset import Example, load_dataset
    from pytest_promptopt.evaluation.outcome import Score
    from pytest_promptopt.prompts.active import using_model
    from pytest_promptopt.prompts.base import Prediction
    from pytest_promptopt.prompts.prompt import Prompt, prompt
    from pytest_promptopt.prompts.runtime import PromptOptWarning, configure
    from pytest_promptopt.prompts.text_prompt import ChatPrompt, TextPrompt, text_prompt

__version__ = "0.1.0"

__all__ = [
    "ChatPrompt",
    "Example",
    "FormatError",
    "LMError",
    "Prediction",
    "Prompt",
    "PromptOptError",
    "PromptOptWarning",
    "Score",
    "TextPrompt",
    "configure",
    "load_dataset",
    "prompt",
    "text_prompt",
    "using_model",
]

_HOMES = {
    "ChatPrompt": "prompts.text_prompt",
    "Example": "evaluation.dataset",
    "FormatError": "errors",
    "LMError": "errors",
    "Prediction": "prompts.base",
    "Prompt": "prompts.prompt",
    "PromptOptError": "errors",
    "PromptOptWarning": "prompts.runtime",
    "Score": "evaluation.outcome",
    "TextPrompt": "prompts.text_prompt",
    "configure": "prompts.runtime",
    "load_dataset": "evaluation.dataset",
    "prompt": "prompts.prompt",
    "text_prompt": "prompts.text_prompt",
    "using_model": "prompts.active",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
