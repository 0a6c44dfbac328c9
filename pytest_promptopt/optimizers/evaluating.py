"""What strategies share: asking for scores, and picking the best of what was scored.

The generators among them are for ``yield from``; they let ``BudgetExhausted`` pass: the driver knows the best so far.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TypeAlias, TypeVar, cast

from pytest_promptopt.errors import BudgetExhausted, UsageError
from pytest_promptopt.optimizers.base import (
    Announce,
    CallsLeft,
    Complete,
    Completion,
    Evaluate,
    Outcome,
    Pair,
    Reject,
    Rejection,
    Request,
    Response,
    Search,
    Task,
    Trace,
)
from pytest_promptopt.prompts.candidate import Candidate

ResultT = TypeVar("ResultT")
Steps: TypeAlias = Generator[Request, Response, ResultT]
Scores: TypeAlias = Mapping[Candidate, float]

ROUNDING = 1e-9
"""The means of the same scores in another order differ by less."""


def evaluate(pairs: Iterable[Pair]) -> Steps[tuple[Outcome, ...]]:
    """The outcomes of ``pairs`` on the model under test."""
    return cast("tuple[Outcome, ...]", (yield Evaluate(pairs=tuple(pairs))))


def trace(pairs: Iterable[Pair], attempt: int) -> Steps[tuple[Outcome, ...]]:
    """The outcomes of ``pairs`` as the teacher answers."""
    return cast("tuple[Outcome, ...]", (yield Trace(pairs=tuple(pairs), attempt=attempt)))


def complete(completions: Iterable[Completion]) -> Steps[tuple[str, ...]]:
    """The proposer's texts."""
    return cast("tuple[str, ...]", (yield Complete(completions=tuple(completions))))


def calls_left() -> Steps[int | None]:
    """How many calls the search may still make; ``None`` where nothing limits it."""
    return cast("int | None", (yield CallsLeft()))


def reject(rejected: Iterable[Rejection]) -> Steps[None]:
    """Tell which proposals are thrown away, if any are."""
    if rejected := tuple(rejected):
        yield Reject(rejected=rejected)


def announce(text: str, *, round: int, rounds: int) -> Steps[None]:
    """Tell the reader that a round ended."""
    yield Announce(text=text, round=round, rounds=rounds)


def score(task: Task, candidates: Iterable[Candidate]) -> Steps[Scores]:
    """The scores of ``candidates`` on all val rows, in their order; rejected ones are left out.

    A batch for each: the budget refuses whole batches, and smaller ones use it up.
    """
    scores: dict[Candidate, float] = {}
    for candidate in dict.fromkeys(candidates):
        outcomes = yield from evaluate((candidate, row) for row in task.valset)
        mean = task.mean(task.valset, outcomes)
        if mean is not None:
            scores[candidate] = mean
    return scores


def best_of(scores: Scores) -> Candidate:
    """The candidate with the highest score; of equal ones the first that was scored."""
    return max(scores, key=lambda candidate: scores[candidate])


def is_perfect(scores: Scores) -> bool:
    """Whether nothing is left to gain."""
    return max(scores.values(), default=0.0) >= 1.0


def require_at_least(name: str, value: float, least: float) -> None:
    """Refuse a setting below ``least``; ``name`` is ``optimizer.key``."""
    if value < least:
        raise UsageError(f"{name} must be at least {least}, not {value}: --prompt-set {name}={least}")


def require_at_most(name: str, value: float, most: float) -> None:
    """Refuse a setting above ``most``; ``name`` is ``optimizer.key``."""
    if value > most:
        raise UsageError(f"{name} must be at most {most}, not {value}: --prompt-set {name}={most}")


def nothing_fits(calls: int) -> str:
    """What a search announces that cannot try anything for want of calls."""
    return f"nothing fits into the {counted(calls, 'call')} that {'is' if calls == 1 else 'are'} left"


def counted(count: int, noun: str) -> str:
    """``1 demo``, ``2 demos``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(reasons: Sequence[str]) -> str:
    """Reasons in the order they came, each once, with a count where it came more than once."""
    counts = {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
    return ", ".join(reason if count == 1 else f"{count} {reason}" for reason, count in counts.items())


def renumbered(search: Search, *, before: int, rounds: int) -> Search:
    """``search`` as a part of a longer one: its rounds count on after ``before``, of ``rounds`` in all."""
    with closing(search):
        try:
            request = next(search)
            while True:
                if isinstance(request, Announce):
                    request = replace(request, round=before + request.round, rounds=rounds)
                try:
                    reply = yield request
                except BudgetExhausted as end:
                    request = search.throw(end)
                else:
                    request = search.send(reply)
        except StopIteration as done:
            winner: Candidate = done.value
            return winner
