"""A model that answers from a script: for tests, ours and yours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import TypeAlias

from pytest_promptopt.errors import LMError, LMErrorKind
from pytest_promptopt.lms.base import Reply, Request

Answer: TypeAlias = "str | Reply | Exception"
Script: TypeAlias = "Mapping[str, Answer] | Sequence[Answer] | Callable[[Request], Answer]"


class ScriptedLM:
    """A language model inside the test, which says what it is told to and remembers what it was asked.

    A sequence is answered in order; a mapping by the first key that occurs in the last user message; a callable by
    what it returns for the request. An exception among the answers is raised. ``default`` answers where the script
    has nothing (left) to say; without it that is an :class:`~pytest_promptopt.errors.LMError` saying so::

        lm = ScriptedLM({"refund": "billing", "crash": "bug"}, default="account")
        request = Request(model="scripted/router", messages=({"role": "user", "content": "I want a refund"},))
        assert lm.complete(request).text == "billing"
        assert lm.requests == [request]

    Thread-safe. It costs nothing and computes in every mode, ``replay`` included.
    """

    is_offline = True

    def __init__(self, replies: Script, *, default: str | None = None) -> None:
        self.requests: list[Request] = []
        self._answer = _script(replies)
        self._default = default
        self._lock = Lock()

    def complete(self, request: Request) -> Reply:
        """Answer from the script. Raises what the script holds, or ``LMError`` where it holds nothing."""
        with self._lock:
            self.requests.append(request)
            turn = len(self.requests) - 1
        answer = self._answer(request, turn)
        if answer is None:
            answer = self._default if self._default is not None else _speechless(request, turn)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Reply) else Reply(text=answer, cost_usd=0.0)


def _script(replies: Script) -> Callable[[Request, int], Answer | None]:
    """One way to ask, whatever the script was written as: by request and by turn, counted from 0."""
    if isinstance(replies, str):
        raise TypeError(f"ScriptedLM takes a sequence of replies; write [{replies!r}] for a single one.")
    if isinstance(replies, Mapping):
        by_words = dict(replies)
        return lambda request, _: _first_match(by_words, request)
    if callable(replies):
        return lambda request, _: replies(request)
    in_order = tuple(replies)
    return lambda _, turn: in_order[turn] if turn < len(in_order) else None


def _first_match(replies: Mapping[str, Answer], request: Request) -> Answer | None:
    asked = _last_user_message(request)
    return next((answer for words, answer in replies.items() if words in asked), None)


def _last_user_message(request: Request) -> str:
    return next((m["content"] for m in reversed(request.messages) if m["role"] == "user"), "")


def _speechless(request: Request, turn: int) -> LMError:
    message = (
        f"ScriptedLM has no reply for request {turn + 1} to {request.model}: "
        f"{_last_user_message(request)[:200]!r}. Add one to its script, or give it default=."
    )
    return LMError(message, kind=LMErrorKind.BAD_REQUEST)
