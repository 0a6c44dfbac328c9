"""Who is running: the one place with process-wide state, because a prompt is called without being handed anything.

A run (the pytest session, a notebook) provides a :class:`~pytest_promptopt.prompts.runtime.Runtime`; an evaluated row
carries its :class:`Evaluation` in a ``ContextVar``. With neither, a prompt is in production.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from pytest_promptopt.lms.client import Scope
    from pytest_promptopt.prompts.compiled import CompiledPrompt
    from pytest_promptopt.prompts.runtime import Runtime
    from pytest_promptopt.prompts.trace import PromptCall

P = ParamSpec("P")
T = TypeVar("T")


class Evaluation:
    """The row that is being evaluated: what its prompts run as, and the calls they made so far.

    Written out, because making a dataclass takes longer than all else that an unused plugin does at start-up.
    """

    __slots__ = ("calls", "candidate", "model", "scope", "temperature")

    def __init__(
        self,
        *,
        scope: Scope,
        candidate: Mapping[str, CompiledPrompt] | None = None,
        model: str | None = None,
        temperature: float | None = None,
    ) -> None:
        self.scope = scope
        self.candidate: Mapping[str, CompiledPrompt] = candidate or {}
        self.model = model
        self.temperature = temperature
        self.calls: list[PromptCall] = []


class Strays:
    """The prompts that were called while a metric ran, by code that carries none of its rows.

    They run on the metric's ``model``: whichever else a table of several models would show under a wrong name.
    """

    __slots__ = ("model", "prompts")

    def __init__(self, model: str | None) -> None:
        self.model = model
        self.prompts: dict[str, None] = {}


class _Process:
    """What one process knows about the run it is in."""

    __slots__ = ("candidates_in_flight", "lock", "provider", "strays")

    def __init__(self) -> None:
        self.provider: Callable[[], Runtime] | None = None
        self.strays: Strays | None = None
        self.candidates_in_flight = 0
        self.lock = threading.Lock()


_process = _Process()
_thread = threading.local()
_evaluation: ContextVar[Evaluation | None] = ContextVar("promptopt_evaluation", default=None)
_chosen_model: ContextVar[str | None] = ContextVar("promptopt_model", default=None)


def current_evaluation() -> Evaluation | None:
    """The row that the calling thread or task evaluates, if any."""
    return _evaluation.get()


def chosen_model() -> str | None:
    """The model that an enclosing :func:`using_model` names, if any."""
    return _chosen_model.get()


def provided_runtime() -> Runtime | None:
    """The runtime of the run of ours that is active, if any."""
    return _process.provider() if _process.provider is not None else None


def provide_runtime(provider: Callable[[], Runtime] | None) -> Callable[[], Runtime] | None:
    """Make ``provider`` answer for this process and return the one that answered before; ``None`` ends the run."""
    before, _process.provider = _process.provider, provider
    return before


class evaluating:  # noqa: N801 - read as a statement: with evaluating(row)
    """Evaluate one row in this thread or task. A class, because a generator costs as much as all else in a scope."""

    __slots__ = ("_evaluation", "_token")

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation

    def __enter__(self) -> Evaluation:
        self._token = _evaluation.set(self._evaluation)
        return self._evaluation

    def __exit__(self, *failure: object) -> None:
        _evaluation.reset(self._token)


@contextmanager
def candidates_in_flight() -> Iterator[None]:
    """Say that candidates are under evaluation: a prompt call that carries none is an error meanwhile."""
    with _process.lock:
        _process.candidates_in_flight += 1
    try:
        yield
    finally:
        with _process.lock:
            _process.candidates_in_flight -= 1


def is_detached() -> bool:
    """Whether the caller ought to carry a candidate and does not."""
    return _process.candidates_in_flight > 0 and _evaluation.get() is None


def has_run_ended() -> bool:
    """Whether the caller is what is left of a run that is over: a thread that nobody waited for, with its row or not.

    Without the run it would be in production, where no ceiling holds.
    """
    return _process.provider is None and (_evaluation.get() is not None or getattr(_thread, "is_stray", False))


@contextmanager
def noting_strays(model: str | None) -> Iterator[Strays]:
    """Note which prompts are called meanwhile by code that carries no row, such as threads of the user's own."""
    before, _process.strays = _process.strays, Strays(model)
    try:
        yield _process.strays
    finally:
        _process.strays = before


def note_stray(prompt: str) -> None:
    """Note a call of ``prompt`` if a metric is running here and the caller carries none of its rows."""
    if _process.strays is not None and _evaluation.get() is None:
        _process.strays.prompts[prompt] = None
        _thread.is_stray = threading.current_thread() is not threading.main_thread()


def model_of_strays() -> str | None:
    """The model of the metric that is running here, for callers that carry none of its rows."""
    return _process.strays.model if _process.strays is not None else None


@contextmanager
def using_model(model: str) -> Iterator[None]:
    """Run the prompts called inside with ``model``, an alias or a ``provider/model`` string."""
    token = _chosen_model.set(model)
    try:
        yield
    finally:
        _chosen_model.reset(token)


def propagate(function: Callable[P, T]) -> Callable[P, T]:
    """Carry the candidate under evaluation into a thread that the plugin did not start.

    ::

        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(promptopt.propagate(ask), questions))
    """
    context = copy_context()

    @wraps(function)
    def carried(*args: P.args, **kwargs: P.kwargs) -> T:
        return context.copy().run(function, *args, **kwargs)

    return carried
