"""Models that call prompts while they answer: which calls the code that runs here is a part of.

Such an inner call must not wait for what the outer one holds until it ends: it takes no slot, and for money it waits
only as long as somebody else may give some back.
"""

from __future__ import annotations

from contextlib import suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass

from pytest_promptopt.errors import ModelError
from pytest_promptopt.lms.base import Request
from pytest_promptopt.lms.ceiling import Hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    """A call that a model is answering: of which model, what it was asked, and what is held for it."""

    model: str
    request: Request
    hold: Hold


MOST_DEPTH = 8
"""So many calls of one model, each inside the one before, and it is taken for one that asks itself for ever."""

_outers: ContextVar[tuple[Outer, ...]] = ContextVar("promptopt_outer_calls", default=())


class Answering:
    """While this is entered, a model is answering ``outer``: what is called meanwhile is inside it."""

    __slots__ = ("_outer", "_token")

    def __init__(self, *, model: str, request: Request, hold: Hold) -> None:
        self._outer = Outer(model=model, request=request, hold=hold)

    def __enter__(self) -> None:
        self._token: Token[tuple[Outer, ...]] = _outers.set((*_outers.get(), self._outer))

    def __exit__(self, *_: object) -> None:
        with suppress(ValueError):  # a call that Ctrl-C ends may be closed from elsewhere, where nothing was set
            _outers.reset(self._token)


def outer_holds() -> tuple[Hold, ...]:
    """What is held for the calls that this one is inside of, the outermost first; empty for most."""
    outers = _outers.get()
    return tuple([outer.hold for outer in outers]) if outers else ()


def refuse_endless_calls(model: str) -> None:
    """Raise ``ModelError`` where ``model`` is asked while it answers, and so on without an end in sight."""
    outers = _outers.get()
    if outers and sum(outer.model == model for outer in outers) >= MOST_DEPTH:
        raise _endless(model)


def refuse_waiting_for_oneself(model: str, request: Request) -> None:
    """Raise ``ModelError`` where the answer that is to be waited for is the one that is being made here."""
    if any(outer.request == request for outer in _outers.get()):
        raise _endless(model)


def _endless(model: str) -> ModelError:
    return ModelError(
        f"{model} asks itself while it answers, and would never come to an end: name another model for the prompt that "
        "it calls, with @prompt(model=...) or using_model(...)."
    )
