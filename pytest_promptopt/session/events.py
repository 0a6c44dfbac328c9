"""Carries what a search says to everybody who implements ``pytest_promptopt_event``, and survives them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_promptopt.reports.events import SearchEvent

HOOK = "pytest_promptopt_event"


class EventStream:
    """The one stream of events of a session.

    Whoever raises on hearing one harms neither the search, which is being paid for, nor the others: that is told once a
    plugin, as a warning. So implementations are called one by one, which leaves no place for wrappers around them.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._warned: set[str] = set()

    def emit(self, event: SearchEvent, *, prompts: tuple[str, ...], model: str) -> None:
        """Tell everybody. Ctrl-C and ``pytest.exit`` pass."""
        facts = {"config": self._config, "prompts": prompts, "model": model, "event": event}
        for listener in reversed(getattr(self._config.hook, HOOK).get_hookimpls()):
            try:
                if listener.wrapper or listener.hookwrapper:
                    raise TypeError("a wrapper has nothing to wrap here: implement the hook itself")
                listener.function(*(facts[name] for name in listener.argnames))
            except (KeyboardInterrupt, SystemExit, pytest.exit.Exception):
                raise
            except BaseException as error:  # noqa: BLE001 - pytest.fail and a spent budget are none of Exception's kind
                self._warn(listener, error)

    def _warn(self, listener: Any, error: BaseException) -> None:
        name = _name_of(listener)
        if name in self._warned:
            return
        self._warned.add(name)
        words = " ".join(f"{type(error).__name__}: {error}".split())
        with warnings.catch_warnings():
            warnings.simplefilter("always")  # a filter that makes errors of warnings must not end the search either
            warnings.warn(
                pytest.PytestWarning(f"{name} raised in {HOOK}, and the search goes on: {words}"), stacklevel=2
            )


def _name_of(listener: Any) -> str:
    """The plugin's name; an object that was registered without one goes by its type."""
    name = str(listener.plugin_name)
    return type(listener.plugin).__name__ if name.isdecimal() else name
