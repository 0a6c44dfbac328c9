"""A small world for optimizers: no model, no clock; what a prompt is worth can be read off its words.

Each row is about one topic. A prompt answers it with the topic's label when its instruction names the topic or one of
its demos shows it, and with "unknown" otherwise; a row scores the share of its prompts that did. The proposer adds the
topic of one failure that it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar, cast

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
from pytest_promptopt.prompts.signature import Signature, read_signature, text_signature
from pytest_promptopt.prompts.template import Language, Template
from pytest_promptopt.prompts.trace import PromptCall

TOPICS = ("rain", "music", "food", "books", "trains", "money")
METRIC = "test_topics"
WorkT = TypeVar("WorkT")
AnswerT = TypeVar("AnswerT")


def make_signature(name: str, instruction: str = "Name the topic.") -> Signature:
    """The signature of a prompt function with one input, ``text``."""

    def ask(text: str) -> str:
        raise NotImplementedError

    ask.__doc__ = instruction
    return read_signature(ask, name=name)


def topic_of(row: Row) -> str:
    """What ``row`` is about: its number says."""
    return TOPICS[int(row.id.rpartition("-")[2]) % len(TOPICS)]


def text_of(row: Row) -> str:
    """What a prompt is given of ``row``."""
    return f"{row.id} speaks at length of nothing but {topic_of(row)} today"


def make_rows(prefix: str, count: int, metrics: Sequence[str] = (METRIC,)) -> tuple[Row, ...]:
    """``count`` rows, topics in turn; each metric's rows go through all topics."""
    return tuple(
        Row(metric=metrics[number // len(TOPICS) % len(metrics)], id=f"{prefix}-{number}") for number in range(count)
    )


def make_demo(row: Row) -> Demo:
    """The demo that a label gives of ``row``."""
    return Demo(inputs={"text": text_of(row)}, output=topic_of(row), row=row.id)


def make_task(
    *,
    train: int = 12,
    val: int = 12,
    prompts: Sequence[str] = ("route",),
    labelled: Sequence[str] | None = None,
    adopted: Sequence[str] = (),
    instruction: str = "Name the topic. It may be rain.",
    weights: Mapping[str, float] | None = None,
    is_merged: bool = False,
) -> Task:
    """``labelled`` names the prompts that have labelled demos; all of them unless given.

    ``adopted`` ones are texts with the placeholder ``{text}``, which take no demos. With ``is_merged`` the train rows
    are the val rows too.
    """
    metrics = weights or {METRIC: 1.0}
    trainset = make_rows("train", train, [*metrics])
    demos = {name: tuple(map(make_demo, trainset)) for name in (prompts if labelled is None else labelled)}
    tunable = tuple(
        _make_adopted(name, instruction) if name in adopted else _make_prompt(name, instruction, demos.get(name, ()))
        for name in prompts
    )
    return Task(
        prompts=tunable,
        source=Candidate({prompt.name: prompt.source for prompt in tunable}),
        trainset=trainset,
        valset=trainset if is_merged else make_rows("val", val, [*metrics]),
        weights=metrics,
    )


def _make_prompt(name: str, instruction: str, labelled: tuple[Demo, ...]) -> TunablePrompt:
    source = CompiledPrompt(instruction=instruction)
    return TunablePrompt(name=name, signature=make_signature(name, instruction), source=source, labelled=labelled)


def _make_adopted(name: str, instruction: str) -> TunablePrompt:
    text = instruction if "{text}" in instruction else f"{instruction} {{text}}"
    signature = text_signature(name=name, template=Template(language=Language.FORMAT, text=text))
    return TunablePrompt(name=name, signature=signature, source=CompiledPrompt(instruction=text))


def is_right(compiled: CompiledPrompt, row: Row) -> bool:
    """Whether a prompt compiled like this answers ``row`` with its topic."""
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
    """Keep the current instruction and add one topic that the request names; without a fence, list the topics."""
    request = completion.messages[-1]["content"]
    if "```" not in request:
        return f"Texts, each about one of {', '.join(topic for topic in TOPICS if topic in request) or 'many things'}."
    current = request.split("```")[1].strip()
    shown = [topic for topic in TOPICS if topic in request and topic not in current]
    return f"```\n{current} Or {shown[completion.draw % len(shown)]}.\n```" if shown else current


def calls_of(candidate: Candidate, row: Row) -> int:
    """One call of each prompt, whatever the row."""
    return len(candidate)


def out_of_budget() -> BaseException:
    """What a ceiling raises when it is hit."""
    return BudgetExhausted("the most money is spent")


@dataclass
class World:
    """A workbench over this world; it fails when a row is none of the task's.

    ``proposer``, ``judge`` and ``calls_of`` say what a request, a (candidate, row) gives and how many calls that takes.
    In the middle of the ``end_at``-th batch and ever after it raises what ``ending`` makes. With ``order`` the replies
    of a batch come in an order drawn from it. ``store`` keeps replies from one world to the next: ``provider_calls``
    are those that it did not hold, ``paid_twice`` what the model under test or the teacher was asked again.
    """

    task: Task
    allowance: Allowance
    is_own_teacher: bool = True
    proposer: Callable[[Completion], str] = propose
    judge: Callable[[Candidate, Row], Outcome] = outcome_of
    calls_of: Callable[[Candidate, Row], int] = calls_of
    end_at: int | None = None
    ending: Callable[[], BaseException] = out_of_budget
    order: Random | None = None
    store: MutableMapping[object, object] = field(default_factory=dict)
    asked: set[object] = field(default_factory=set)
    paid_twice: list[Pair] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    batches: int = 0
    provider_calls: int = 0
    rows: frozenset[Row] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = frozenset((*self.task.trainset, *self.task.valset))

    def evaluate(self, pairs: Sequence[Pair]) -> Sequence[Outcome]:
        """As the driver wants it of a workbench."""
        return self._answer(pairs, lambda pair: self._run(pair, "student", self.judge))

    def trace(self, pairs: Sequence[Pair], attempt: int) -> Sequence[Outcome]:
        """As the driver wants it of a workbench; the teacher knows everything."""
        assert not (self.is_own_teacher and attempt == 0), "known from the evaluation"
        return self._answer(pairs, lambda pair: self._run(pair, f"teacher {attempt}", _teach))

    def complete(self, completions: Sequence[Completion]) -> Sequence[str]:
        """As the driver wants it of a workbench."""
        return self._answer(completions, self._propose)

    def _answer(self, batch: Sequence[WorkT], work: Callable[[WorkT], AnswerT]) -> list[AnswerT]:
        """Piece by piece in an order of its own, until the ceiling is hit; the answers in the order of ``batch``."""
        self.batches += 1
        places = list(range(len(batch)))
        if self.order is not None:
            self.order.shuffle(places)
        answers: dict[int, AnswerT] = {}
        for number, place in enumerate(places):
            if self._is_over(done=number, size=len(batch)):
                raise self.ending()
            answers[place] = work(batch[place])
        return [answers[place] for place in range(len(batch))]

    def _is_over(self, *, done: int, size: int) -> bool:
        if self.end_at is None or self.batches < self.end_at:
            return False
        return self.batches > self.end_at or 2 * done >= size - 1

    def _run(self, pair: Pair, who: str, judge: Callable[[Candidate, Row], Outcome]) -> Outcome:
        candidate, row = pair
        assert row in self.rows
        key = (candidate.digest, row, who)
        if key in self.asked:
            self.paid_twice.append(pair)
        self.asked.add(key)
        return self._call(key, lambda: judge(candidate, row), calls=self.calls_of(candidate, row))

    def _propose(self, completion: Completion) -> str:
        self.completions.append(completion)
        key = (repr(completion.messages), completion.temperature, completion.draw)
        return self._call(key, lambda: self.proposer(completion), calls=1)

    def _call(self, key: object, provider: Callable[[], AnswerT], *, calls: int) -> AnswerT:
        """From the store, else from the provider; the allowance counts both."""
        for _ in range(calls):
            self.allowance.spend()
        if key not in self.store:
            self.provider_calls += calls
            self.store[key] = provider()
        return cast(AnswerT, self.store[key])


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
    rng: Random | None = None,
    max_calls: int | None = None,
    known: Mapping[Pair, Outcome] | None = None,
    **world_settings: Any,
) -> Run:
    """Drive ``optimizer`` with the source known on all rows, as after a baseline run, the rest goes to `World`."""
    allowance = Allowance(max_calls)
    world = World(task=task, allowance=allowance, **world_settings)
    rows = (*task.trainset, *task.valset)
    baseline = {(task.source, row): world.judge(task.source, row) for row in rows} if known is None else known
    events: list[Event] = []
    found = drive(
        optimizer,
        task,
        world,
        allowance,
        rng=Random(seed) if rng is None else rng,
        known=baseline,
        calls_per_row={row: world.calls_of(task.source, row) for row in rows},
        observer=events.append,
    )
    return Run(found=found, world=world, events=events)


def sizes_of(task: Task, *, is_own_teacher: bool = True) -> Sizes:
    """What is known of a search over ``task`` beforehand."""
    return Sizes(
        train_rows=len(task.trainset),
        labelled_rows=max(len(prompt.labelled) for prompt in task.prompts),
        val_rows=len(task.valset),
        prompts=len(task.prompts),
        calls_per_row=len(task.prompts),
        is_own_teacher=is_own_teacher,
        takes_demos=task.takes_demos,
    )
