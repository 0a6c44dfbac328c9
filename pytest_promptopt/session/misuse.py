"""What is refused before anything is spent, with exit status 4."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from pytest_promptopt.errors import PromptOptError

_MANY_ROWS = ", which already works on many rows at a time (--prompt-concurrency N sets how many)"


@contextmanager
def usage_errors() -> Iterator[None]:
    """Our errors as pytest's own kind of misuse: a line of text and exit status 4, never an internal error."""
    try:
        yield
    except PromptOptError as error:
        raise pytest.UsageError(str(error)) from error


def refuse_workers(config: pytest.Config, flag: str = "--optimize-prompts") -> str | None:
    """One process owns a search or a list: ``-n`` typed is refused, from elsewhere it is switched off with a line."""
    if not getattr(config.option, "numprocesses", None) and not getattr(config.option, "tx", None):
        return None
    if _is_typed(config.invocation_params.args):
        reason = _MANY_ROWS if flag == "--optimize-prompts" else ""
        raise pytest.UsageError(f"{flag} runs in one process{reason}; leave out -n")
    config.option.numprocesses = None
    config.option.tx = []
    config.option.dist = "no"
    return f"-n from addopts is switched off: {flag} runs in one process"


def _is_typed(arguments: Sequence[str]) -> bool:
    return any(
        argument.startswith(("-n", "--numprocesses", "--tx", "--dist")) and not argument.startswith("--no")
        for argument in map(str, arguments)
    )
