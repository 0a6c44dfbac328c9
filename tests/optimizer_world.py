"""A small world for optimizers: no model, no clock; what a prompt is worth can be read off its words.

Each row is about one topic. A prompt answers it with the topic's label when its instruction names the topic or one of
its demos shows it, and with "unknown" otherwise; a row scores the share of its prompts that did. The proposer adds the
topic of one failure that it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from pytest_promptopt.errors import BudgetExhausted
from pytest_promptopt.optimizers.base import (
    Completion,
    Optimizer,
    Outcome,
    Pair,
    Row,
    Sizes,
    Task,
    TunablePrompt,
)
from pytest_promptopt.optimizers.driver import Allowance, Event, Found, drive
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo
from pytest_promptopt.prompts.signature import Signature, read_signature
from pytest_promptopt.prompts.trace import PromptCall

TOPICS = ("rain", "music", "food", "books", "trains", "money")
METRIC = "test_topics"
WorkT = TypeVar("WorkT")


def make_signature(name: str, instruction: str = "Name the topic.") -> Signature:
    def ask(text: str) -> str:
        raise NotImplementedError

    ask.__doc__ = instruction
    return read_signature(ask, name=name)


def topic_of(row: Row) -> str:
    return TOPICS[int(row.id.rpartition("-")[2]) % len(TOPICS)]


def text_of(row: Row) -> str:
    return f"{row.id} speaks at length of nothing but {topic_of(row)} today"


def make_rows(prefix: str, count: int) -> tuple[Row, ...]:
    return tuple(Row(metric=METRIC, id=f"{prefix}-{number}") for number in range(count))


def make_demo(row: Row) -> Demo:
    return Demo(inputs={"text": text_of(row)}, output=topic_of(row), row=row.id)


def make_task(
    *,
    train: int = 12,
    val: int = 12,
    prompts: Sequence[str] = ("route",),
    labelled: Sequence[str] | None = None,
    instruction: str = "Name the topic. It may be rain.",
) -> Task:
    """``labelled`` names the prompts that have labelled demos; all of them unless given."""
    trainset = make_rows("train", train)
    with_labels = prompts if labelled is None else labelled
    tunable = tuple(
        TunablePrompt(
            name=name,
            signature=make_signature(name, instruction),
            source=CompiledPrompt(instruction=instruction),
            labelled=tuple(map(make_demo, trainset)) if name in with_labels else (),
        )
        for name in prompts
    )
    return Task(
        prompts=tunable,
        source=Candidate({prompt.name: prompt.source for prompt in tunable}),
        trainset=trainset,
        valset=make_rows("val", val),
        weights={METRIC: 1.0},
    )


def is_right(compiled: CompiledPrompt, row: Row) -> bool:
    topic = topic_of(row)
    return topic in compiled.instruction or any(demo.output == topic for demo in compiled.demos)


def outcome_of(candidate: Candidate, row: Row, *, always: bool = False) -> Outcome:
    """What a row of this world gives; ``always`` for a teacher that knows everything."""
    calls = tuple(
        PromptCall(
            prompt=name,
            inputs={"text": text_of(row)},
            output=topic_of(row) if always or is_right(compiled, row) else "unknown",
            reasoning=f"because of {topic_of(row)}" if always else None,
            reply="",
        )
        for name, compiled in candidate.items()
    )
    right = sum(call.output == topic_of(row) for call in calls)
    feedback = "" if right == len(calls) else f"assert 'unknown' == '{topic_of(row)}'"
    return Outcome(score=right / len(calls), feedback=feedback, calls=calls)


def propose(completion: Completion) -> str:
    """Keep the current instruction and add one topic that the request names."""
    request = completion.messages[-1]["content"]
    current = request.split("```")[1].strip()
    shown = [topic for topic in TOPICS if topic in request and topic not in current]
    return f"```\n{current} Or {shown[completion.draw % len(shown)]}.\n```" if shown else current


@dataclass
class World:
    """A workbench over this world; it fails when a pair is asked twice or a row is none of the task's.

    Its ceiling is hit in the middle of the ``end_at``-th batch.
    """

    task: Task
    allowance: Allowance
    is_own_teacher: bool = True
    proposer: Callable[[Completion], str] = propose
    judge: Callable[[Candidate, Row], Outcome] = outcome_of
    asked: set[object] = field(default_factory=set)
    completions: list[Completion] = field(default_factory=list)
    batches: int = 0
    end_at: int | None = None
    rows: frozenset[Row] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = frozenset((*self.task.trainset, *self.task.valset))

    def evaluate(self, pairs: Sequence[Pair]) -> Sequence[Outcome]:
        return [self._run(pair, "student", self.judge) for pair in self._met(pairs)]

    def trace(self, pairs: Sequence[Pair], attempt: int) -> Sequence[Outcome]:
        assert not (self.is_own_teacher and attempt == 0), "known from the evaluation"
        return [self._run(pair, f"teacher {attempt}", _teach) for pair in self._met(pairs)]

    def complete(self, completions: Sequence[Completion]) -> Sequence[str]:
        for completion in self._met(completions):
            self.allowance.spend()
            self.completions.append(completion)
        return [self.proposer(completion) for completion in completions]

    def _met(self, batch: Sequence[WorkT]) -> Iterator[WorkT]:
        """The batch piece by piece, until the ceiling is hit."""
        self.batches += 1
        for number, piece in enumerate(batch):
            if self.batches == self.end_at and 2 * number >= len(batch) - 1:
                raise BudgetExhausted("the most money is spent")
            yield piece

    def _run(self, pair: Pair, who: str, judge: Callable[[Candidate, Row], Outcome]) -> Outcome:
        candidate, row = pair
        assert row in self.rows
        assert (pair, who) not in self.asked, "paid twice"
        self.asked.add((pair, who))
        for _ in candidate:
            self.allowance.spend()
        return judge(candidate, row)


def _teach(candidate: Candidate, row: Row) -> Outcome:
    return outcome_of(candidate, row, always=True)


@dataclass
class Run:
    """What a search in the world came to."""

    found: Found
    world: World
    events: list[Event]


def run(
    optimizer: Optimizer,
    task: Task,
    *,
    seed: int = 0,
    max_calls: int | None = None,
    known: Mapping[Pair, Outcome] | None = None,
    **world_settings: object,
) -> Run:
    """Drive ``optimizer`` with the source known on all rows, as after a baseline run."""
    allowance = Allowance(max_calls)
    world = World(task=task, allowance=allowance, **world_settings)  # type: ignore[arg-type]
    rows = (*task.trainset, *task.valset)
    baseline = {(task.source, row): world.judge(task.source, row) for row in rows} if known is None else known
    events: list[Event] = []
    found = drive(
        optimizer,
        task,
        world,
        allowance,
        rng=Random(seed),
        known=baseline,
        calls_per_row={row: len(task.prompts) for row in rows},
        observer=events.append,
    )
    return Run(found=found, world=world, events=events)


def sizes_of(task: Task, *, is_own_teacher: bool = True) -> Sizes:
    labelled = max(len(prompt.labelled) for prompt in task.prompts)
    return Sizes(
        train_rows=len(task.trainset),
        labelled_rows=labelled,
        val_rows=len(task.valset),
        prompts=len(task.prompts),
        calls_per_row=len(task.prompts),
        is_own_teacher=is_own_teacher,
    )
