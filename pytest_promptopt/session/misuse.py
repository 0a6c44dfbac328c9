"""What is refused before anything is spent, with exit status 4."""

from __future__ import annotations

from collections.abc import Sequence

import pytest


def refuse_workers(config: pytest.Config) -> None:
    """One process owns a search: ``-n`` typed is refused, ``-n`` from elsewhere is switched off with one line."""
    if not getattr(config.option, "numprocesses", None) and not getattr(config.option, "tx", None):
        return
    if _is_typed(config.invocation_params.args):
        raise pytest.UsageError(
            "--optimize-prompts runs in one process, which already works on many rows at a time; leave out -n "
            "(--prompt-concurrency N sets how many)"
        )
    config.option.numprocesses = None
    config.option.tx = []
    config.option.dist = "no"
    config.issue_config_time_warning(SearchInOneProcess(), stacklevel=2)


class SearchInOneProcess(pytest.PytestWarning):
    """Said once when ``addopts`` asked for workers."""

    def __str__(self) -> str:
        return "-n from addopts is switched off: --optimize-prompts runs in one process"


def _is_typed(arguments: Sequence[str]) -> bool:
    return any(
        argument.startswith(("-n", "--numprocesses", "--tx", "--dist")) and not argument.startswith("--no")
        for argument in map(str, arguments)
    )
