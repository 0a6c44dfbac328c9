"""The prompt that every search of ``optimizers.py`` begins with, as this project sends and reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pytest_promptopt.errors import FormatError
from pytest_promptopt.prompts.compiled import CompiledPrompt
from pytest_promptopt.prompts.parsing import parse
from pytest_promptopt.prompts.rendering import render
from pytest_promptopt.prompts.signature import Signature, read_signature

NAME = "prompts.classify"


def signature_of(labels: Sequence[str], instruction: str) -> Signature:
    """``classify(utterance: str) -> Literal[labels]`` with ``instruction`` as its docstring."""

    def classify(utterance: str) -> str:
        raise NotImplementedError

    classify.__doc__ = instruction
    classify.__annotations__ = {"utterance": str, "return": Literal[tuple(labels)]}
    return read_signature(classify, name=NAME)


def read_reply(signature: Signature, text: str) -> tuple[str, str]:
    """The intent in a reply, or an empty one and why there is none."""
    try:
        return str(parse(signature, text).value), ""
    except FormatError as error:
        return "", str(error)


def prompt_words(signature: Signature, compiled: CompiledPrompt) -> int:
    """Words in front of a row's own, as they are sent."""
    return sum(len(message["content"].split()) for message in render(signature, compiled, {"utterance": ""}))
