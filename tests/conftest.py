"""What every test of ours stands on: a clean environment, and projects that know the plugin and nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from pytest_promptopt.prompts import registry

pytest_plugins = ["pytester"]

BUILD_SERVER = ("CI", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE", "BUILD_NUMBER", "BUILDKITE")


@pytest.fixture(autouse=True)
def _own_prompts() -> Iterator[None]:
    """Let the prompts of one test be nobody else's: sessions inside this process would see them."""
    with registry.apart():
        yield


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behave as on a laptop, wherever this runs; a test that means a build server sets ``CI`` itself."""
    ours = [name for name in os.environ if name.startswith("PROMPTOPT_")]
    for name in (*BUILD_SERVER, *ours):
        monkeypatch.delenv(name, raising=False)


def pytest_configure() -> None:
    """Let Ctrl-C work in the processes that tests start: a shell that runs these tests in the background ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
