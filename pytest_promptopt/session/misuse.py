"""What is refused before anything is spent, with exit status 4."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from pytest_promptopt.errors import PromptOptError


@contextmanager
def usage_errors() -> Iterator[None]:
    """Our errors as pytest's own kind of misuse: a line of text and exit status 4, never an internal error."""
    try:
        yield
    except PromptOptError as error:
        raise pytest.UsageError(str(error)) from error


def refuse_workers(config: pytest.Config) -> str | None:
    """One process owns a search: ``-n`` typed is refused, from elsewhere it is switched off with a line."""
    if not getattr(config.option, "numprocesses", None) and not getattr(config.option, "tx", None):
        return None
    if _is_typed(config.invocation_params.args):
        raise pytest.UsageError(
            "--optimize-prompts runs in one process, which already works on many rows at a time; leave out -n "
            "(--prompt-concurrency N sets how many)"
        )
    config.option.numprocesses = None
    config.option.tx = []
    config.option.dist = "no"
    return "-n from addopts is switched off: --optimize-prompts runs in one process"


def _is_typed(arguments: Sequence[str]) -> bool:
    return any(
        argument.startswith(("-n", "--numprocesses", "--tx", "--dist")) and not argument.startswith("--no")
        for argument in map(str, arguments)
    )
