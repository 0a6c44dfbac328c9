"""What is refused before anything is spent, with exit status 4."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

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


_TAKE_PATHS = ("--prompt-fulfil", "--prompt-report")
_SETTINGS_FILES = {
    "pytest.toml": ("",),
    ".pytest.toml": ("",),
    "pytest.ini": ("",),
    ".pytest.ini": ("",),
    "pyproject.toml": ("[tool.pytest]", "[tool.pytest."),
    "tox.ini": ("[pytest]",),
    "setup.cfg": ("[tool:pytest]",),
}
"""Where pytest looks for its settings, and what makes a file one of them."""


def refuse_lost_settings(config: pytest.Config) -> None:
    """Refuse a run that lost its settings to the path of a report or of missing requests.

    pytest looks for rootdir before it knows the options of plugins. It takes what stands after a blank for a test path,
    where there is such a file, and reads the settings there.
    """
    folder = config.invocation_params.dir
    mine = _settings_file(folder)
    if hasattr(config, "workerinput") or config.option.inifilename or mine is None:
        return
    if config.inipath is not None and mine.samefile(config.inipath):
        return
    words = [*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *map(str, config.invocation_params.args)]
    for flag, value in pairwise(words):
        if flag in _TAKE_PATHS and os.path.exists(folder / value):  # noqa: PTH110 - Path.exists raises for long texts
            raise pytest.UsageError(
                f"pytest took {value} for a path of tests, and so read {config.inipath or 'no settings'} instead of "
                f"{mine}: write {flag}={shlex.quote(value)}"
            )


def _settings_file(folder: Path) -> Path | None:
    """The file that pytest reads its settings from in ``folder``: the nearest one, else the nearest pyproject.toml."""
    fallback: Path | None = None
    for base in (folder, *folder.parents):
        for path, marks in ((base / name, marks) for name, marks in _SETTINGS_FILES.items()):
            text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
            if text is not None and any(mark in text for mark in marks):
                return path
            if text is not None and path.name == "pyproject.toml":
                fallback = fallback or path
    return fallback
