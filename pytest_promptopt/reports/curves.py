"""The course of a search as reports draw it: its stream of events, made into one curve."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pytest_promptopt.optimizers.driver import Proposed, Rejected, RoundEnded, TrialScored
from pytest_promptopt.reports.events import Confirmed, SearchEnded, SearchEvent, SearchStarted

Heard = tuple[tuple[str, ...], str, SearchEvent]
"""Prompts, model and event, as the hook for events is told them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """A candidate that was scored on all val rows after ``calls`` calls, and the best score by then."""

    candidate: str
    calls: int
    score: float
    best_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchCurve:
    """How one search went. ``outcome`` is empty for one that was under way when the run ended."""

    prompts: tuple[str, ...]
    model: str
    optimizer: str = ""
    seed: int = 0
    start_score: float | None = None
    start_calls: int = 0
    max_calls: int | None = None
    points: tuple[CurvePoint, ...] = ()
    rounds: tuple[str, ...] = ()
    proposals: int = 0
    rejections: tuple[str, ...] = ()
    confirmed: Confirmed | None = None
    outcome: str = ""
    reason: str = ""


class _Notes:
    """What has been heard of one search so far."""

    def __init__(self) -> None:
        self.started: SearchStarted | None = None
        self.points: list[CurvePoint] = []
        self.rounds: list[str] = []
        self.rejections: list[str] = []
        self.proposals = 0
        self.confirmed: Confirmed | None = None
        self.ended: SearchEnded | None = None

    def hear(self, event: SearchEvent) -> None:
        match event:
            case SearchStarted():
                self.started = event
            case TrialScored():
                trial = event.trial
                self.points.append(
                    CurvePoint(
                        candidate=trial.candidate.short_name,
                        calls=event.calls,
                        score=trial.score,
                        best_score=event.best_score,
                    )
                )
            case RoundEnded():
                self.rounds.append(f"{event.round}/{event.rounds}: {event.text}, best {event.best_score:.3f}")
            case Rejected():
                self.rejections.append(event.rejection.reason)
            case Proposed():
                self.proposals += 1
            case Confirmed():
                self.confirmed = event
            case SearchEnded():
                self.ended = event
            case _:
                pass


def search_curves(heard: Iterable[Heard]) -> tuple[SearchCurve, ...]:
    """One curve a search, in the order in which they began."""
    notes: dict[tuple[tuple[str, ...], str], _Notes] = {}
    for prompts, model, event in heard:
        notes.setdefault((prompts, model), _Notes()).hear(event)
    return tuple(_curve(prompts, model, one) for (prompts, model), one in notes.items())


def _curve(prompts: tuple[str, ...], model: str, notes: _Notes) -> SearchCurve:
    started, ended = notes.started, notes.ended
    return SearchCurve(
        prompts=prompts,
        model=model,
        optimizer=started.optimizer if started else "",
        seed=started.seed if started else 0,
        start_score=started.start_score if started else None,
        start_calls=started.calls if started else 0,
        max_calls=started.max_calls if started else None,
        points=tuple(notes.points),
        rounds=tuple(notes.rounds),
        proposals=notes.proposals,
        rejections=tuple(notes.rejections),
        confirmed=notes.confirmed,
        outcome=ended.outcome if ended else "",
        reason=ended.reason if ended else "",
    )
