"""The driver runs a strategy: it answers what the generator asks, keeps count of calls, and picks the winner.

It never pays twice for one (candidate, row), refuses a batch that the allowance cannot hold before any of it runs, and
falls back to the best candidate that was scored on all val rows whenever a strategy ends without a better answer. An
answer that the budget kept from the last of these rows is compared on those that it ran on. What searches on other
models found is scored first, and never taken for as good here as it was there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from random import Random
from threading import Lock
from typing import Protocol, TypeAlias

from pytest_promptopt.errors import BudgetExhausted, UsageError
from pytest_promptopt.optimizers.base import (
    Announce,
    CallsLeft,
    Complete,
    Completion,
    Evaluate,
    Optimizer,
    Outcome,
    Pair,
    Reject,
    Rejection,
    Request,
    Response,
    Row,
    Search,
    Task,
    Trace,
    TunablePrompt,
)
from pytest_promptopt.optimizers.guards import make_guard, spell
from pytest_promptopt.prompts.candidate import Candidate


class Workbench(Protocol):
    """What the driver needs from the world: it runs what it is handed concurrently and answers in that order.

    Every prompt call and every completion in it spends from the search's :class:`Allowance`. It raises
    ``BudgetExhausted`` when a ceiling is hit; any other exception ends the search and is passed on.
    """

    @property
    def is_own_teacher(self) -> bool:
        """Whether the model under test is its own teacher, so that a first trace is what an evaluation gives."""

    def evaluate(self, pairs: Sequence[Pair]) -> Sequence[Outcome]:
        """Run each row with its candidate on the model under test; outcomes hold the prompt calls they came from."""

    def trace(self, pairs: Sequence[Pair], attempt: int) -> Sequence[Outcome]:
        """Run each row with its candidate on the teacher; attempts after 0 are fresh draws at temperature 1."""

    def complete(self, completions: Sequence[Completion]) -> Sequence[str]:
        """Ask the proposer, one call a completion."""


class Allowance:
    """How many logical calls one search may make, replies from a store included; thread-safe.

    Counting what is asked, not what is paid, keeps a search's course the same whether its replies were stored or not.
    ``reason_to_stop`` says in words why no further call may be made, whatever is left; empty as long as there is none.
    """

    def __init__(self, max_calls: int | None, *, reason_to_stop: Callable[[], str] | None = None) -> None:
        self.max_calls = max_calls
        self._reason_to_stop = reason_to_stop
        self._calls = 0
        self._lock, self._pid = Lock(), os.getpid()

    def spend(self) -> None:
        """Count one call that is about to be made. Raises ``BudgetExhausted`` when it is one too many."""
        if reason := self.reason_to_stop():
            raise BudgetExhausted(reason)
        if self._pid != os.getpid():  # in a forked child, whoever held the lock exists in the parent only
            self._lock, self._pid = Lock(), os.getpid()
        with self._lock:
            if not self.covers(1):
                raise BudgetExhausted(f"the search may make {self.max_calls} calls and has made them")
            self._calls += 1

    def reason_to_stop(self) -> str:
        """Why no further call may be made, whatever is left; empty as long as there is none."""
        return "" if self._reason_to_stop is None else self._reason_to_stop()

    @property
    def calls(self) -> int:
        """Calls so far."""
        return self._calls

    @property
    def remaining(self) -> int | None:
        """Calls left; ``None`` without a limit."""
        return None if self.max_calls is None else self.max_calls - self._calls

    def covers(self, calls: int) -> bool:
        """Whether that many more calls may be made."""
        return self.remaining is None or calls <= self.remaining


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A candidate and its score on all val rows."""

    candidate: Candidate
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialScored:
    """A candidate has been scored on all val rows."""

    trial: Trial
    best_score: float
    start_score: float
    calls: int
    max_calls: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundEnded:
    """A strategy says that a round of ``rounds`` is over, and what it was about."""

    text: str
    round: int
    rounds: int
    best_score: float
    start_score: float
    calls: int
    max_calls: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A candidate or a proposal is out, without a score."""

    rejection: Rejection


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsScored:
    """A candidate ran on rows, whose scores are in the order of ``rows``; ``None`` is no score.

    The first one has what the baseline run knows of the source. ``teacher_attempt`` counts from 0 where the teacher ran
    it, to bootstrap from, and is ``None`` for the model under test.
    """

    candidate: Candidate
    rows: tuple[Row, ...]
    scores: tuple[float | None, ...]
    teacher_attempt: int | None
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposed:
    """What the proposer replied to one request, before anybody looked whether it is of use.

    ``prompt`` is the one that the request writes for, if any.
    """

    text: str
    draw: int
    prompt: str = ""


Event: TypeAlias = TrialScored | RoundEnded | Rejected | RowsScored | Proposed


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search came back with.

    ``score`` is the winner's on the ``rows`` val rows that it was chosen by, so it is optimistic, ``source_score`` the
    source's on the same ones; ``trials`` are in the order of evaluation, the source first; ``is_cut`` says that the
    budget ended the search. ``seeds`` are those of the task that were tried.
    """

    candidate: Candidate
    score: float
    source_score: float
    rows: int
    trials: tuple[Trial, ...]
    is_cut: bool
    rejected: tuple[Rejection, ...]
    calls: int
    seeds: tuple[Candidate, ...] = ()


SEEDS_SHARE = 0.5
"""Of the calls that a search may make, as much goes to the winners of other models; the others are for its own."""

FEWEST_COMMON_ROWS = 8
"""A candidate that the budget kept from the rest of the val rows may win on so many of them, and on no fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """The winner, its score and the source's on the same rows, and how many these are."""

    candidate: Candidate
    score: float
    source_score: float
    rows: int


def drive(
    optimizer: Optimizer,
    task: Task,
    workbench: Workbench,
    allowance: Allowance,
    *,
    rng: Random,
    known: Mapping[Pair, Outcome],
    calls_per_row: Mapping[Row, int],
    observer: Callable[[Event], None],
) -> Found:
    """Run ``optimizer`` on ``task`` and return the best candidate it found, the source if none is better.

    ``known`` are the source's outcomes from the baseline run, prompt calls included, ``calls_per_row`` how many calls a
    row made there. Full marks on all val rows cannot be beaten, so nothing is searched where the source has them, or a
    seed of the ``task``: these are scored first, as many of them as fit into their share of the allowance. Raises
    ``UsageError`` when no val row has a score, ``BudgetExhausted`` when not even the source could be scored, and
    whatever ended the workbench's work.
    """
    calls_before = allowance.calls
    task = guarded(task, known)
    ledger = _Ledger(task, workbench, allowance, known, calls_per_row, observer)
    ledger.tell_what_is_known()
    start = ledger.score_source()
    seeds = ledger.score_seeds() if start.score < 1.0 else ()
    answer, is_cut = None, False
    if ledger.best().score < 1.0:
        left = replace(task, seeds=seeds, max_calls=allowance.remaining)
        answer, is_cut = _converse(optimizer.search(left, rng), ledger)
    verdict, is_short = ledger.judge(answer)
    return Found(
        candidate=verdict.candidate,
        score=verdict.score,
        source_score=verdict.source_score,
        rows=verdict.rows,
        trials=tuple(ledger.trials.values()),
        is_cut=is_cut or is_short,
        rejected=tuple(ledger.rejected),
        calls=allowance.calls - calls_before,
        seeds=seeds,
    )


def guarded(task: Task, known: Mapping[Pair, Outcome]) -> Task:
    """``task`` with prompts that refuse what is copied from the train rows, as ``known`` outcomes show them."""
    rows = [(row.id, outcome) for row in task.trainset if (outcome := known.get((task.source, row))) is not None]
    prompts = (
        replace(prompt, guard=make_guard(prompt.signature, prompt.source, _train_inputs(prompt, rows)))
        for prompt in task.prompts
    )
    return replace(task, prompts=tuple(prompts))


def _train_inputs(prompt: TunablePrompt, rows: Iterable[tuple[str, Outcome]]) -> Iterable[tuple[str, str]]:
    """Row id and text of every input that ``prompt`` met in training: in labelled demos and in traced calls."""
    for demo in prompt.labelled:
        yield from ((demo.row or "?", spell(value)) for value in demo.inputs.values())
    for row, outcome in rows:
        for call in outcome.calls:
            yield from ((row, spell(value)) for value in call.inputs.values())


def _converse(search: Search, ledger: _Ledger) -> tuple[Candidate | None, bool]:
    """Answer the generator until it returns. Gives its candidate, if any, and whether the budget ended the talk."""
    with closing(search):
        request = _advance(search, None)
        while not isinstance(request, _Returned):
            try:
                results = ledger.answer(request)
            except BudgetExhausted as end:
                return _last_word(search, end), True
            request = _advance(search, results)
    return request.candidate, False


@dataclass(frozen=True, slots=True)
class _Returned:
    candidate: Candidate


def _advance(search: Search, results: Response) -> Request | _Returned:
    try:
        return search.send(results)
    except StopIteration as end:
        return _Returned(_checked(end.value))


def _checked(answer: object) -> Candidate:
    if not isinstance(answer, Candidate):
        raise TypeError(f"an optimizer returns a Candidate, not {answer!r}")
    return answer


def _last_word(search: Search, end: BudgetExhausted) -> Candidate | None:
    """What the generator returns once it knows that the budget is gone; ``None`` when it lets it pass or asks on."""
    try:
        search.throw(end)
    except StopIteration as returned:
        return None if returned.value is None else _checked(returned.value)
    except BudgetExhausted:
        return None
    with suppress(RuntimeError):  # a generator that asks on while it is being closed
        search.close()
    return None


class _Ledger:
    """All that one search asked and was told."""

    def __init__(
        self,
        task: Task,
        workbench: Workbench,
        allowance: Allowance,
        known: Mapping[Pair, Outcome],
        calls_per_row: Mapping[Row, int],
        observer: Callable[[Event], None],
    ) -> None:
        self.task = task
        self.workbench = workbench
        self.allowance = allowance
        self.outcomes: dict[Pair, Outcome] = dict(known)
        self.traces: dict[tuple[Pair, int], Outcome] = {}
        self.calls_per_row = calls_per_row
        self.usual_calls = max(calls_per_row.values(), default=1)
        self.observer = observer
        self.rows = frozenset((*task.trainset, *task.valset))
        self.trials: dict[Candidate, Trial] = {}
        self.asked: set[Candidate] = set()
        self.out: set[Candidate] = set()
        self.faulty: dict[Candidate, str] = {}
        self.rejected: list[Rejection] = []
        self.start_score = 0.0

    def tell_what_is_known(self) -> None:
        """Say how the source did in the baseline run, which nobody pays for again."""
        pairs = [(self.task.source, row) for row in (*self.task.trainset, *self.task.valset)]
        self.note_rows({pair: self.outcomes[pair] for pair in pairs if pair in self.outcomes}, teacher_attempt=None)

    def score_source(self) -> Trial:
        """Put the source down as the first trial."""
        rows = self.task.valset
        score = self.task.mean(rows, self.evaluate([(self.task.source, row) for row in rows]))
        if score is None:
            raise UsageError(
                f"none of the {len(rows)} val rows has a score under the source, so nothing can be compared: "
                "add rows, or let fewer of them skip"
            )
        self.start_score = score
        return self.trials.setdefault(self.task.source, Trial(candidate=self.task.source, score=score))

    def score_seeds(self) -> tuple[Candidate, ...]:
        """Score the winners of other models, each on all val rows, within their share; gives those that were tried."""
        before, left = self.allowance.calls, self.allowance.remaining
        tried: list[Candidate] = []
        for seed in self.task.seeds:
            pairs = [(seed, row) for row in self.task.valset]
            if left is not None and self.allowance.calls - before + self.count_calls(pairs) > SEEDS_SHARE * left:
                continue
            try:
                self.evaluate(pairs)
            except BudgetExhausted:
                break
            tried.append(seed)
        return tuple(tried)

    def answer(self, request: Request) -> Response:
        """Do what the strategy asks for."""
        match request:
            case Evaluate():
                self.asked.update(candidate for candidate, _ in request.pairs)
                return self.evaluate(request.pairs)
            case Trace():
                self.asked.update(candidate for candidate, _ in request.pairs)
                return self.trace(request.pairs, request.attempt)
            case Complete():
                return self.complete(request.completions)
            case CallsLeft():
                return self.allowance.remaining
            case Reject():
                for rejection in request.rejected:
                    self.reject(rejection)
                return None
            case Announce():
                self.announce(request)
                return None
        raise TypeError(
            f"an optimizer yields Evaluate, Trace, Complete, CallsLeft, Reject or Announce, not {request!r}"
        )

    def evaluate(self, pairs: Sequence[Pair]) -> tuple[Outcome, ...]:
        self.check(pairs)
        self.refuse_faulty(pairs)
        missing = [pair for pair in dict.fromkeys(pairs) if pair not in self.outcomes]
        if missing:
            self.refuse_beyond_allowance(missing)
            self.outcomes.update(zip(missing, self.workbench.evaluate(missing), strict=True))
            self.note_rows({pair: self.outcomes[pair] for pair in missing}, teacher_attempt=None)
            self.note(candidate for candidate, _ in missing)
        return tuple(self.outcomes[pair] for pair in pairs)

    def trace(self, pairs: Sequence[Pair], attempt: int) -> tuple[Outcome, ...]:
        if attempt == 0 and self.workbench.is_own_teacher:
            return self.evaluate(pairs)
        self.check(pairs)
        self.refuse_faulty(pairs)
        known = {pair: self.outcomes[pair] for pair in pairs if pair[0] in self.faulty}
        missing = [pair for pair in dict.fromkeys(pairs) if pair not in known and (pair, attempt) not in self.traces]
        if missing:
            self.refuse_beyond_allowance(missing)
            outcomes = self.workbench.trace(missing, attempt)
            self.traces.update(zip([(pair, attempt) for pair in missing], outcomes, strict=True))
            self.note_rows(dict(zip(missing, outcomes, strict=True)), teacher_attempt=attempt)
        return tuple(known.get(pair) or self.traces[pair, attempt] for pair in pairs)

    def complete(self, completions: Sequence[Completion]) -> tuple[str, ...]:
        if not self.allowance.covers(len(completions)):
            raise BudgetExhausted(f"{len(completions)} completions do not fit into the calls that are left")
        texts = tuple(self.workbench.complete(completions)) if completions else ()
        for completion, text in zip(completions, texts, strict=True):
            self.observer(Proposed(text=text, draw=completion.draw, prompt=completion.prompt))
        return texts

    def announce(self, announce: Announce) -> None:
        self.observer(
            RoundEnded(
                text=announce.text,
                round=announce.round,
                rounds=announce.rounds,
                best_score=self.best().score,
                start_score=self.start_score,
                calls=self.allowance.calls,
                max_calls=self.allowance.max_calls,
            )
        )

    def check(self, pairs: Sequence[Pair]) -> None:
        """A strategy may ask for rows it was given, and for prompts it was given."""
        for candidate, row in pairs:
            if row not in self.rows:
                raise ValueError(f"the optimizer asked for {row}, which is neither a train nor a val row of its task")
            if candidate.keys() != self.task.source.keys():
                raise ValueError(f"the optimizer made a candidate for {[*candidate]}, not for {[*self.task.source]}")

    def refuse_faulty(self, pairs: Sequence[Pair]) -> None:
        """Know the outcome of candidates that cannot run, such as those without a placeholder, before any row runs."""
        for candidate in dict.fromkeys(candidate for candidate, _ in pairs):
            if candidate not in self.faulty and (fault := self.task.find_fault(candidate)):
                self.faulty[candidate] = fault
                self.out.add(candidate)
                self.reject(Rejection(subject=candidate, reason=fault, has_run=False))
        for pair in pairs:
            if fault := self.faulty.get(pair[0], ""):
                self.outcomes[pair] = Outcome(score=None, feedback=fault, is_rejected=True)

    def refuse_beyond_allowance(self, pairs: Sequence[Pair]) -> None:
        """Refuse a batch as a whole, so that none of it is paid for and then thrown away."""
        calls = self.count_calls(pairs)
        if not self.allowance.covers(calls):
            raise BudgetExhausted(f"{len(pairs)} rows with about {calls} calls do not fit into the calls that are left")

    def count_calls(self, pairs: Sequence[Pair]) -> int:
        """About as many calls as ``pairs`` take, by what the source took."""
        return sum(self.calls_per_row.get(row, self.usual_calls) for _, row in pairs)

    def note_rows(self, outcomes: Mapping[Pair, Outcome], *, teacher_attempt: int | None) -> None:
        """Say how each candidate did on its rows."""
        ran: dict[Candidate, list[tuple[Row, float | None]]] = {}
        for (candidate, row), outcome in outcomes.items():
            ran.setdefault(candidate, []).append((row, outcome.score))
        for candidate, scored in ran.items():
            rows, scores = zip(*scored, strict=True)
            event = RowsScored(
                candidate=candidate,
                rows=rows,
                scores=scores,
                teacher_attempt=teacher_attempt,
                calls=self.allowance.calls,
            )
            self.observer(event)

    def note(self, candidates: Iterable[Candidate]) -> None:
        """Put down which candidates raised and which are now known on all val rows, in the order of asking."""
        for candidate in dict.fromkeys(candidates):
            if candidate not in self.out:
                self.note_rejection(candidate)
            if candidate not in self.out and candidate not in self.trials:
                self.note_score(candidate)

    def note_rejection(self, candidate: Candidate) -> None:
        asked = (self.outcomes.get((candidate, row)) for row in (*self.task.valset, *self.task.trainset))
        raised = next((outcome for outcome in asked if outcome is not None and outcome.is_rejected), None)
        if raised is not None:
            self.out.add(candidate)
            self.trials.pop(candidate, None)
            self.reject(Rejection(subject=candidate, reason=raised.feedback))

    def note_score(self, candidate: Candidate) -> None:
        rows = self.task.valset
        known = [outcome for row in rows if (outcome := self.outcomes.get((candidate, row))) is not None]
        score = self.task.mean(rows, known) if len(known) == len(rows) else None
        if score is not None and candidate != self.task.source:
            self.enter(Trial(candidate=candidate, score=score))

    def enter(self, trial: Trial) -> None:
        self.trials[trial.candidate] = trial
        self.observer(
            TrialScored(
                trial=trial,
                best_score=self.best().score,
                start_score=self.start_score,
                calls=self.allowance.calls,
                max_calls=self.allowance.max_calls,
            )
        )

    def reject(self, rejection: Rejection) -> None:
        self.rejected.append(rejection)
        self.observer(Rejected(rejection=rejection))

    def best(self) -> Trial:
        """The best trial so far; of equal ones the first, and the source is the first of all."""
        return max(self.trials.values(), key=lambda trial: trial.score)

    def judge(self, answer: Candidate | None) -> tuple[_Verdict, bool]:
        """Who wins, and whether the allowance was too short to score the strategy's own answer on all val rows."""
        if answer is None:
            return self.verdict_on(self.best()), False
        try:
            self.evaluate([(answer, row) for row in self.task.valset])
        except BudgetExhausted:
            return self.verdict_on_common_rows(answer) or self.verdict_on(self.best()), True
        start = self.trials[self.task.source]
        trial = self.trials.get(answer) or self.best()
        best = max([trial, *self.overlooked_seeds()], key=lambda each: each.score)
        return self.verdict_on(best if best.score >= start.score else start), False

    def overlooked_seeds(self) -> list[Trial]:
        """The winners of other models that the strategy never asked about."""
        seeds = (seed for seed in self.task.seeds if seed not in self.asked)
        return [self.trials[seed] for seed in seeds if seed in self.trials]

    def verdict_on(self, trial: Trial) -> _Verdict:
        return _Verdict(
            candidate=trial.candidate, score=trial.score, source_score=self.start_score, rows=len(self.task.valset)
        )

    def verdict_on_common_rows(self, answer: Candidate) -> _Verdict | None:
        """``answer``, if it is better than the best candidate on the val rows that it ran on, and these are enough."""
        rows = [row for row in self.task.valset if (answer, row) in self.outcomes]
        if len(rows) < FEWEST_COMMON_ROWS:
            return None
        score, best, source = (
            self.task.mean(rows, [self.outcomes[candidate, row] for row in rows])
            for candidate in (answer, self.best().candidate, self.task.source)
        )
        if score is None or best is None or source is None or score <= best:
            return None
        return _Verdict(candidate=answer, score=score, source_score=source, rows=len(rows))
