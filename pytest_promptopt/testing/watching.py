"""An optimizer under watch: what its searches ask for, what they answer, and how they end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Any

from pytest_promptopt.errors import BudgetExhausted
from pytest_promptopt.optimizers.base import CallsLeft, Optimizer, Request, Response, Search, Sizes, Task

LONGEST_TALK = 2_000
"""More requests than this, and a search over a few rows is taken for one that never ends."""


class WatchedSearch(Generator[Request, Response, Any]):
    """A search that keeps its requests, those that it made after the budget had ended, and its answer."""

    def __init__(self, search: Search) -> None:
        self.requests: list[Request] = []
        self.asked_after_the_end: list[Request] = []
        self.answer: object = None
        self._search = search
        self._has_ended = False

    @property
    def is_closed(self) -> bool:
        """Whether nothing of the search is left that could run."""
        return getattr(self._search, "gi_frame", None) is None

    @property
    def plans_by_the_budget(self) -> bool:
        """Whether it asked how many calls were left."""
        return any(isinstance(request, CallsLeft) for request in self.requests)

    def send(self, value: Response) -> Request:
        """Hand the search what it asked for."""
        return self._watch(lambda: self._search.send(value))

    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None) -> Request:
        """Raise inside the search, the end of its budget say."""
        self._has_ended = self._has_ended or isinstance(typ, BudgetExhausted)
        return self._watch(lambda: self._search.throw(typ))

    def close(self) -> None:
        """End the search."""
        self._search.close()

    def _watch(self, advance: Callable[[], Request]) -> Request:
        try:
            request = advance()
        except StopIteration as end:
            self.answer = end.value
            raise
        self.requests.append(request)
        if self._has_ended:
            self.asked_after_the_end.append(request)
        assert len(self.requests) <= LONGEST_TALK, f"no end in sight after {LONGEST_TALK} requests"
        return request


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """``optimizer`` as it is, with a record of its searches."""

    optimizer: Optimizer
    searches: list[WatchedSearch] = field(default_factory=list)

    def search(self, task: Task, rng: Random) -> Search:
        """Its search, watched."""
        self.searches.append(WatchedSearch(self.optimizer.search(task, rng)))
        return self.searches[-1]

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        """As the optimizer says."""
        return self.optimizer.expected_calls(sizes)
