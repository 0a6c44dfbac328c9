"""What a search says while it runs: the driver's events, and around them how it began, what was proven, how it ended.

All of them are immutable records and go to one hook, ``pytest_promptopt_event``: the live line, the log beside the
store and whoever else implements it hear the same stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pytest_promptopt.evaluation.statistics import Interval
from pytest_promptopt.optimizers.driver import Event
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRows:
    """How the rows of one metric, named by its node id, were dealt; a search sees none of the sealed ones."""

    metric: str
    train: int
    val: int
    sealed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStarted:
    """A search begins: where, with what, and on which rows.

    ``start_score`` is the source's on the val rows, ``None`` without one. ``calls`` are those of the run so far,
    replies from a store included, ``max_calls`` is its ceiling on them. ``settings`` are the strategy's.
    """

    prompts: tuple[str, ...]
    model: str
    proposer: str
    optimizer: str
    settings: Mapping[str, Json]
    seed: int
    split: str
    metrics: tuple[MetricRows, ...]
    source: Candidate
    start_score: float | None
    calls: int
    max_calls: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """The sealed rows have compared a winner with what stood before; ``is_proven`` says whether it is better.

    ``alpha`` is the p that it had to reach. A winner that is better may still be refused, for a must-pass row say.
    """

    candidate: Candidate
    incumbent: Candidate
    rows: int
    before: float
    after: float
    difference: float
    interval: Interval
    p: float
    alpha: float
    is_proven: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchEnded:
    """A search ended with ``outcome`` ``frozen``, ``unchanged``, ``kept`` or ``errored``, and ``reason`` says why.

    ``paths`` are the snapshots that hold its winner, relative to rootdir. ``unconfirmed`` is why what is frozen was not
    proven better, empty where it was. An errored search has neither a candidate nor scores.
    """

    outcome: str
    reason: str = ""
    unconfirmed: str = ""
    candidate: Candidate | None = None
    start_score: float | None = None
    selected_score: float | None = None
    is_cut: bool = False
    paths: tuple[str, ...] = ()


SearchEvent: TypeAlias = SearchStarted | Event | Confirmed | SearchEnded
