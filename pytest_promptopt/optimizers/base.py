"""What an optimizer is: a generator that yields work and receives results.

The order of things, for anyone who writes one:

1. The driver calls ``search(task, rng)`` once. ``task.source`` is where every search starts; its scores on train and
   val rows are already known, so asking for them again costs nothing. So are those of ``task.seeds`` on val rows.
2. The generator yields one request at a time: :class:`Evaluate`, :class:`Trace`, :class:`Complete`,
   :class:`CallsLeft`, :class:`Reject`, :class:`Announce`. What ``yield`` returns is written at each of them, in the
   order of what was asked.
3. It returns the candidate it believes in. The driver confirms that one on rows that no optimizer ever sees.

It never calls a model, a clock, a file or a thread, and takes all randomness from ``rng``; so the same task and seed
give the same search, and a killed run is resumed by running it again. When the budget ends, ``BudgetExhausted`` is
thrown in at the current ``yield``, once: catch it to return your best, or let it pass and the driver takes the best
candidate that was evaluated on all val rows.

A score of ``None`` means that the row was left out (``pytest.skip``) or, with ``is_rejected``, that the metric raised
under this candidate but not under the source; :meth:`Task.mean` knows the difference.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol, TypeAlias

from pytest_promptopt.lms.base import Message
from pytest_promptopt.optimizers.guards import NO_GUARD, Guard
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo
from pytest_promptopt.prompts.signature import Signature
from pytest_promptopt.prompts.trace import PromptCall as PromptCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of one metric's dataset, by name: optimizers see its traces, never a row's hidden side."""

    metric: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one candidate did on one row: a score in [0, 1], the metric's own words, and the prompt calls behind it."""

    score: float | None
    feedback: str = ""
    calls: tuple[PromptCall, ...] = ()
    is_rejected: bool = False

    @property
    def is_success(self) -> bool:
        """Whether the row is worth showing as a demonstration: full marks."""
        return self.score is not None and self.score >= 1.0


Pair: TypeAlias = tuple[Candidate, Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Ask for the outcomes of ``pairs``, in that order → ``tuple[Outcome, ...]``. Known pairs cost nothing."""

    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Ask for outcomes as the teacher answers → ``tuple[Outcome, ...]``.

    ``attempt`` 0 is the teacher as it is; later attempts are fresh draws at temperature 1. With the model under test as
    its own teacher, attempt 0 is what :class:`Evaluate` gives and costs nothing twice.
    """

    pairs: tuple[Pair, ...]
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One request to the proposer. ``draw`` tells identical requests apart where ``temperature`` is not 0.

    ``prompt`` names the prompt that it writes for, and is empty where it writes for none.
    """

    messages: tuple[Message, ...]
    temperature: float = 1.0
    draw: int = 0
    prompt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete:
    """Ask the proposer for texts, each in a call of its own → ``tuple[str, ...]``."""

    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A candidate that cannot be judged, or a proposed text that became none, and why.

    ``has_run`` is false for a candidate that was refused before any row ran.
    """

    subject: Candidate | str
    reason: str
    has_run: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Tell which proposals are thrown away, before anything else is asked: the budget may end there → ``None``."""

    rejected: tuple[Rejection, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """Tell the reader that a round ended, in a few words ("6 instructions proposed, 1 rejected") → ``None``."""

    text: str
    round: int
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsLeft:
    """Ask how many calls the search may still make → ``int``, ``None`` where nothing limits it.

    They are logical calls, replies from a store included, so a plan that is made by them is the same in every run.
    """


Request: TypeAlias = Evaluate | Trace | Complete | CallsLeft | Reject | Announce
Response: TypeAlias = tuple[Outcome, ...] | tuple[str, ...] | int | None
Search: TypeAlias = Generator[Request, Response, Candidate]


@dataclass(frozen=True, slots=True, kw_only=True)
class TunablePrompt:
    """One prompt under search: its signature, its source, and demos made from labelled train rows (may be empty).

    An adopted text (``signature.template`` is set) takes no demos, and every instruction must keep its placeholders;
    ``guard`` holds what else an instruction must keep or avoid. The driver refuses candidates for which
    :meth:`find_fault` finds one.
    """

    name: str
    signature: Signature
    source: CompiledPrompt
    labelled: tuple[Demo, ...] = ()
    guard: Guard = NO_GUARD

    @property
    def takes_demos(self) -> bool:
        """Whether it can show demonstrations."""
        return self.signature.takes_demos

    def find_fault(self, compiled: CompiledPrompt) -> str:
        """Why ``compiled`` cannot run as this prompt, in words that follow its name; empty when it can."""
        if fault := self.signature.find_fault(compiled):
            return fault
        return "" if compiled.instruction == self.source.instruction else self.guard.find_fault(compiled.instruction)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a search may know: prompts, where to start, train and val rows of each metric, and the metrics' weights.

    ``max_calls`` is what the budget leaves it, and ``calls_on_valset`` what one run over the val rows takes (``None``
    where nothing limits it, or nobody knows): a strategy may plan by them, and is stopped by the driver in any case.

    ``seeds`` are what searches on other models found for the same prompts. The driver scores them on all val rows
    before the search, so asking for that costs nothing, and a strategy that asks decides itself what they are worth.
    Those that it never asked for compete with its answer.
    """

    prompts: tuple[TunablePrompt, ...]
    source: Candidate
    trainset: tuple[Row, ...]
    valset: tuple[Row, ...]
    weights: Mapping[str, float]
    max_calls: int | None = None
    calls_on_valset: int | None = None
    seeds: tuple[Candidate, ...] = ()

    @property
    def takes_demos(self) -> bool:
        """Whether any of its prompts can show demonstrations."""
        return any(prompt.takes_demos for prompt in self.prompts)

    @property
    def calls_per_row(self) -> float:
        """Calls that one val row takes, on average; one for each prompt where nobody knows."""
        return self.calls_on_valset / len(self.valset) if self.calls_on_valset else len(self.prompts)

    def find_fault(self, candidate: Candidate) -> str:
        """Why ``candidate`` cannot run, with the name of the prompt; empty when it can."""
        faults = ((prompt.name, prompt.find_fault(candidate[prompt.name])) for prompt in self.prompts)
        return next((f"{name} {fault}" for name, fault in faults if fault), "")

    def mean(self, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> float | None:
        """Σ weight·mean / Σ weight over the metrics of ``rows``; ``None`` when rejected or when no row has a score."""
        if any(outcome.is_rejected for outcome in outcomes):
            return None
        scores: dict[str, list[float]] = {}
        for row, outcome in zip(rows, outcomes, strict=True):
            if outcome.score is not None:
                scores.setdefault(row.metric, []).append(outcome.score)
        total = sum(self.weights[metric] for metric in scores)
        if not total:
            return None
        return sum(self.weights[metric] * sum(values) / len(values) for metric, values in scores.items()) / total


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the number of calls of a search hangs on; known before anything is called.

    ``labelled_rows`` are the train rows that make demos, ``calls_per_row`` the prompt calls of one program run.
    ``takes_demos``: one prompt at least can show some, as an adopted text cannot. ``is_own_teacher``: the model under
    test bootstraps, so its traces of the source are known from the baseline. ``calls_on_trainset`` and
    ``calls_on_valset`` are what one run over all these rows takes at most, where that is known to be less than
    ``calls_per_row`` for each: metrics may share calls, and some rows call fewer prompts.
    """

    train_rows: int
    labelled_rows: int
    val_rows: int
    prompts: int = 1
    calls_per_row: int = 1
    is_own_teacher: bool = True
    takes_demos: bool = True
    calls_on_trainset: int | None = None
    calls_on_valset: int | None = None

    @property
    def training(self) -> int:
        """Calls of one run over all train rows."""
        return self.train_rows * self.calls_per_row if self.calls_on_trainset is None else self.calls_on_trainset

    @property
    def validation(self) -> int:
        """Calls of one run over all val rows."""
        return self.val_rows * self.calls_per_row if self.calls_on_valset is None else self.calls_on_valset


class Optimizer(Protocol):
    """A strategy: a frozen record of settings with two methods."""

    def search(self, task: Task, rng: Random) -> Search:
        """Look for a better candidate than ``task.source``; see the module's text for the protocol."""

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        """The fewest and the most calls of a search, when no budget cuts it and the source has something to gain."""
