"""What one metric and one optimized prompt have to report: plain data that travels between processes as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from pytest_promptopt.evaluation.outcome import Status
from pytest_promptopt.evaluation.repeats import Repeats
from pytest_promptopt.evaluation.statistics import Interval
from pytest_promptopt.gate import Verdict

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReport:
    """One row: its score (``None`` without one), and the metric's own words in one line and in full.

    ``cost_usd`` is what its replies cost when they were made, replayed or not; ``None`` where nobody knows.
    ``repeats`` are the scores of its trials and ``pass_hats`` their pass^1 to pass^k, where it had more than one.
    ``flip`` says which edit of the row costs it its score, where the metric perturbs.
    """

    id: str
    digest: str
    score: float | None
    status: Status
    group: str | None = None
    why: str = ""
    feedback: str = ""
    text: str = ""
    is_outside_mean: bool = False
    cost_usd: float | None = 0.0
    flip: str = ""
    repeats: tuple[float, ...] = ()
    pass_hats: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptState:
    """What one prompt ran as, and where that stands.

    ``before`` and ``after`` are its instructions around a change, as far as known. ``has_moved`` says of a source that
    the baseline was taken with something else: a snapshot that is gone (``before`` is its instruction) or another text.
    ``is_text``: it is an adopted text, so what stands in the code is its text and not a docstring. ``cost_usd`` is what
    its ``calls`` cost when they were made, replayed or not; ``None`` where nobody knows. ``unconfirmed`` is why what is
    frozen was never proven better; empty where it was, and for a source. ``search_options`` are those that found it,
    as far as they are not the session's own anyway.
    """

    name: str
    standing: str
    digest: str
    model: str
    source_place: str
    snapshot_place: str
    frozen_demos: int = 0
    before: str | None = None
    after: str | None = None
    has_moved: bool = False
    calls: int = 0
    cost_usd: float | None = 0.0
    is_text: bool = False
    unconfirmed: str = ""
    search_options: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """LM calls of one metric or one run: asked for, replayed, sent out, and their cost (``None``: unknown).

    ``handed_out`` are those that somebody else's client makes; what they cost is not in ``cost_usd``.
    """

    calls: int = 0
    replayed: int = 0
    attempts: int = 0
    handed_out: int = 0
    cost_usd: float | None = 0.0
    seconds: float = 0.0

    @property
    def made(self) -> int:
        """Requests that went out, whoever's client made them."""
        return self.attempts + self.handed_out

    @property
    def total_usd(self) -> float | None:
        """What all of them cost; ``None`` as soon as nobody knows of one."""
        return None if self.handed_out else self.cost_usd

    def __add__(self, other: Spending) -> Spending:
        known = self.cost_usd is not None and other.cost_usd is not None
        return Spending(
            calls=self.calls + other.calls,
            replayed=self.replayed + other.replayed,
            attempts=self.attempts + other.attempts,
            handed_out=self.handed_out + other.handed_out,
            cost_usd=(self.cost_usd or 0) + (other.cost_usd or 0) if known else None,
            seconds=self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferScore:
    """The prompts of ``prompt_of``, a model or the source (empty), on ``model``: their score on rows no search saw.

    ``problem`` says why there is none. ``candidate`` names what ran (``p-7f3a``): several models may share it.
    ``is_source``: what stands for ``prompt_of`` is the source itself. ``difference``, ``interval`` (90 %) and ``p``
    (one-sided, uncorrected) compare with the model's own prompts, row by row; they are ``None`` where these are the
    same.
    """

    prompt_of: str
    model: str
    candidate: str = ""
    rows: int = 0
    score: float | None = None
    problem: str = ""
    is_own: bool = False
    is_source: bool = False
    difference: float | None = None
    interval: Interval | None = None
    p: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferTable:
    """Each model's prompts on each of ``models``, on the same rows of one metric."""

    metric: str
    owner: str
    rows: int
    models: tuple[str, ...]
    scores: tuple[TransferScore, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricReport:
    """One metric's run on one model: rows, verdict, and what it takes to accept the scores as a baseline.

    ``transfer`` holds the scores of other models' prompts, where they were asked for; their calls are part of
    ``spending``, and nothing else here knows of them. ``perturb`` are the kinds of edits that its rows ran under, and
    ``flips_path`` the file of the edited rows that lost.
    """

    nodeid: str
    name: str
    owner: str
    model: str
    path: str
    total_rows: int
    rows: tuple[RowReport, ...]
    verdict: Verdict
    threshold: float | None
    margin: float
    reads: str
    metric_digest: str
    baseline_path: str
    text_name: str
    prompts: tuple[PromptState, ...] = ()
    must_pass: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    skipped: int = 0
    format_failures: int = 0
    repeats: Repeats | None = None
    perturb: tuple[str, ...] = ()
    flips_path: str = ""
    spending: Spending = field(default_factory=Spending)
    notes: tuple[str, ...] = ()
    anchor_move: str = ""
    transfer: tuple[TransferScore, ...] = ()

    @property
    def stale(self) -> tuple[PromptState, ...]:
        """The prompts whose frozen version no longer fits the code."""
        return tuple(prompt for prompt in self.prompts if prompt.standing == "stale")

    @property
    def edited(self) -> tuple[PromptState, ...]:
        """The prompts whose snapshot was changed by hand."""
        return tuple(prompt for prompt in self.prompts if prompt.standing == "edited")

    @property
    def moved(self) -> tuple[PromptState, ...]:
        """The prompts that run a source with which the baseline was not taken."""
        return tuple(prompt for prompt in self.prompts if prompt.has_moved)

    @property
    def unfrozen(self) -> tuple[PromptState, ...]:
        """The prompts that run their source because nothing was frozen for their model."""
        return tuple(prompt for prompt in self.prompts if prompt.standing == "source")


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedResult:
    """What one metric's sealed rows said about a winner."""

    metric: str
    rows: int
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """How the search of one prompt ended.

    ``outcome`` is ``frozen``, ``unchanged`` (it is what is frozen already), ``kept`` or ``held``; ``reason`` says why.
    ``selected`` scores are those the winner was chosen by, so optimistic, on ``selected_rows`` of ``val_rows``, fewer
    where a budget cut the last comparison short; ``sealed`` ones are confirmed. A winner that
    is not frozen lies in the folder ``kept``, and ``after`` and ``demos`` are what it would bring. ``unconfirmed`` is
    why what is frozen was never proven better; empty where it was. ``tried`` are the models before this one whose
    winners were candidates too, ``taken_from`` those of them that found the winner.
    """

    prompt: str
    model: str
    outcome: str
    reason: str = ""
    metrics: tuple[str, ...] = ()
    start_score: float | None = None
    selected_score: float | None = None
    selected_rows: int = 0
    val_rows: int = 0
    sealed_before: float | None = None
    sealed_after: float | None = None
    sealed_rows: int = 0
    difference: float | None = None
    interval: Interval | None = None
    p: float | None = None
    alpha: float | None = None
    candidate: str = ""
    kept: str = ""
    unconfirmed: str = ""
    path: str = ""
    before: str = ""
    after: str = ""
    demos: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
    spending: Spending = field(default_factory=Spending)
    is_cut: bool = False
    leads_group: bool = True
    tried: tuple[str, ...] = ()
    taken_from: tuple[str, ...] = ()


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def to_json(record: MetricReport | JobReport | TransferTable) -> dict[str, Any]:
    """``record`` as JSON values only: what crosses to another process must be nothing else."""
    kind: Any = type(record)
    dumped: dict[str, Any] = _adapter(kind).dump_python(record, mode="json")
    return dumped


def from_json(kind: type[T], data: object) -> T:
    """The record of type ``kind`` that :func:`to_json` made ``data`` of."""
    adapter: Any = _adapter
    record: T = adapter(kind).validate_python(data)
    return record
