"""Instructions grounded in what the proposer is told first: the dataset in a few sentences, the program, a tip.

After the grounded proposer of DSPy's ``MIPROv2``, in words of our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from pytest_promptopt.lms.base import Message
from pytest_promptopt.optimizers.base import Completion, Outcome, PromptCall, Row, Task, TunablePrompt
from pytest_promptopt.optimizers.demos import Shelves
from pytest_promptopt.optimizers.evaluating import Steps, complete
from pytest_promptopt.optimizers.guards import spell
from pytest_promptopt.optimizers.proposals import (
    ask_for_instruction,
    clean_instruction,
    describe_fields,
    find_successes,
    propose,
    show_example,
    show_inputs,
    summarise,
)
from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo

MOST_BATCHES = 10
"""Batches of rows that are looked at, whatever the size of the dataset: DSPy's."""

MOST_SILENT = 5
"""So many batches that add nothing end the looking: DSPy's."""

LONGEST_TEXT = 2_000
"""Characters of one observation, summary or description that later requests repeat."""

OBSERVE = """\
Describe what holds for most or all of these examples of a dataset: topics, wording, length, how inputs with different \
answers differ, and which task they are probably for. Be brief, and never quote a whole example. If everything worth \
saying has been observed before, reply with the single word COMPLETE."""

SUMMARISE = """\
Summarize these observations about a dataset in two or three sentences. Keep what matters most to somebody who has to \
do the task, such as what tells the answers apart."""

DESCRIBE_PROGRAM = """\
Describe this program from its steps and the examples in two or three sentences: which task it is for, and how its \
steps work together. Each step sends an input to a language model."""

DESCRIBE_STEP = """\
Describe one step of this program from the examples in one or two sentences: what it has to do, and what the other \
steps need from it."""

TIPS = (
    "",
    "Be creative: word it in a way that nobody has tried before.",
    "Keep it short and clear.",
    "Make it informative: say what each answer means and when it is right.",
    "Say in it what is at stake when an answer is wrong.",
    'Begin it with a role that suits the task, such as "You are a ...".',
)
"""DSPy's six ways to vary proposals; the first is none at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounds:
    """What is known of a task, as text: its dataset, the program, each prompt's part in it. Empty is unknown."""

    dataset: str = ""
    program: str = ""
    steps: tuple[tuple[str, str], ...] = ()

    def about(self, prompt: TunablePrompt) -> Mapping[str, str]:
        """What a request for ``prompt`` says before it shows rows, by title."""
        return {
            "About the dataset": self.dataset,
            "About the program that this prompt is a step of": self.program,
            "About this step": dict(self.steps).get(prompt.name, ""),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """Instructions for each prompt by name, the source's own first, and words about them."""

    instructions: Mapping[str, tuple[str, ...]]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundedProposer:
    """Looks at ``batch_size`` train rows a time, and shows up to ``max_examples`` of them in each request."""

    batch_size: int
    max_examples: int
    temperature: float
    max_words: int

    def count_batches(self, rows: int) -> int:
        """How many batches of ``rows`` train rows are looked at, at most."""
        return min(MOST_BATCHES, -(-rows // self.batch_size))

    def count_grounding(self, rows: int, prompts: int) -> tuple[int, int]:
        """The fewest and the most calls of :meth:`look_around`: rows may read alike, and the proposer may be mute."""
        batches = self.count_batches(rows)
        descriptions = 1 + prompts if prompts > 1 else 0
        return min(batches, 1) + descriptions, batches + (batches > 0) + descriptions

    def look_around(self, task: Task, trained: Mapping[Row, Outcome]) -> Steps[Grounds]:
        """Ask for a summary of the dataset and for a description of the program.

        A program of one prompt is not described: its fields and its instruction, which every request shows, are all
        there is to know of it.
        """
        dataset = yield from self._summarise_dataset(task, trained)
        if len(task.prompts) == 1:
            return Grounds(dataset=dataset)
        program, steps = yield from self._describe_program(task, trained)
        return Grounds(dataset=dataset, program=program, steps=steps)

    def _summarise_dataset(self, task: Task, trained: Mapping[Row, Outcome]) -> Steps[str]:
        lines = _show_rows(task, trained, most=MOST_BATCHES * self.batch_size)
        observations: list[str] = []
        for number in range(self.count_batches(len(lines))):
            batch = lines[number * self.batch_size : (number + 1) * self.batch_size]
            observed = yield from self._ask(OBSERVE, _join(("Examples", batch), ("Observed before", observations)))
            if observed and not observed.upper().startswith("COMPLETE"):
                observations.append(observed)
            elif number + 1 - len(observations) == MOST_SILENT:
                break
        if not observations:
            return ""
        some = lines[: self.batch_size]
        return (yield from self._ask(SUMMARISE, _join(("Observations", observations), ("Some of the examples", some))))

    def _ask(self, orders: str, text: str) -> Steps[str]:
        replies = yield from complete([Completion(messages=_messages(orders, text), temperature=self.temperature)])
        return _read(replies[0])

    def _describe_program(
        self, task: Task, trained: Mapping[Row, Outcome]
    ) -> Steps[tuple[str, tuple[tuple[str, str], ...]]]:
        shown = _show_program(task, trained)
        about = yield from self._ask(DESCRIBE_PROGRAM, shown)
        names = [prompt.name for prompt in task.prompts]
        requests = [
            _messages(
                DESCRIBE_STEP, _join(("About the program", [about]), ("The step to describe", [name]), ("", [shown]))
            )
            for name in names
        ]
        replies = yield from complete(Completion(messages=each, temperature=self.temperature) for each in requests)
        return about, tuple(zip(names, map(_read, replies), strict=True))

    def propose(
        self, task: Task, grounds: Grounds, shelves: Shelves, trained: Mapping[Row, Outcome], *, count: int, rng: Random
    ) -> Steps[Proposals]:
        """Ask for ``count`` instructions for each prompt, each grounded in another of its demo sets, with a tip."""
        instructions: dict[str, tuple[str, ...]] = {}
        texts: list[str] = []
        for prompt in task.prompts:
            current = task.source[prompt.name].instruction
            completions = [
                self._ask_with(prompt, current, grounds, _pick(shelves[prompt.name], draw), trained, tip, draw, rng)
                for draw, tip in enumerate(_deal_tips(count, rng))
            ]
            sifted = yield from propose(prompt, completions, [current], max_words=self.max_words)
            instructions[prompt.name] = (current, *sifted.instructions)
            texts.append(summarise(sifted, target=f" for {prompt.name}" if len(task.prompts) > 1 else ""))
        return Proposals(instructions=instructions, text="; ".join(texts))

    def _ask_with(
        self,
        prompt: TunablePrompt,
        current: str,
        grounds: Grounds,
        demos: Sequence[Demo],
        trained: Mapping[Row, Outcome],
        tip: str,
        draw: int,
        rng: Random,
    ) -> Completion:
        examples = self._examples(prompt, demos, rng)
        worked = () if examples else find_successes(prompt.name, ((row.id, each) for row, each in trained.items()))
        messages = ask_for_instruction(
            prompt,
            current,
            background=grounds.about(prompt),
            examples=examples,
            successes=rng.sample(worked, min(self.max_examples, len(worked))),
            wish=tip,
        )
        return Completion(messages=messages, temperature=self.temperature, draw=draw, prompt=prompt.name)

    def _examples(self, prompt: TunablePrompt, demos: Sequence[Demo], rng: Random) -> list[Demo]:
        """The demos, and other labelled rows behind them."""
        shown = {demo.row for demo in demos}
        others = [demo for demo in prompt.labelled if demo.row not in shown]
        room = max(0, self.max_examples - len(demos))
        return [*demos[: self.max_examples], *rng.sample(others, min(room, len(others)))]


def _pick(shelf: Sequence[CompiledPrompt], draw: int) -> tuple[Demo, ...]:
    """The demos that proposal ``draw`` is grounded in: each set's in turn, the source's where there are no others."""
    sets = shelf[1:] or shelf
    return sets[draw % len(sets)].demos


def _deal_tips(count: int, rng: Random) -> list[str]:
    """A tip for each of ``count`` proposals; none comes again before all others came."""
    tips: list[str] = []
    while len(tips) < count:
        tips += rng.sample(TIPS, len(TIPS))
    return tips[:count]


def _messages(orders: str, text: str) -> tuple[Message, ...]:
    return ({"role": "system", "content": orders}, {"role": "user", "content": text})


def _read(reply: str) -> str:
    return clean_instruction(reply)[:LONGEST_TEXT]


def _join(*parts: tuple[str, Iterable[str]]) -> str:
    """Titles with lines under them; what has no lines is left out."""
    shown = ((title, [line for line in lines if line]) for title, lines in parts)
    return "\n\n".join("\n".join([f"{title}:", *lines] if title else lines) for title, lines in shown if lines)


def _show_rows(task: Task, trained: Mapping[Row, Outcome], *, most: int) -> list[str]:
    """The first ``most`` train rows that read differently: several metrics may share a dataset."""
    lines: dict[str, None] = {}
    for row in task.trainset:
        if len(lines) < most and (line := _show_row(task, row, trained[row])):
            lines[line] = None
    return [*lines]


def _show_row(task: Task, row: Row, outcome: Outcome) -> str:
    """Input and expected answer, of a prompt that the row called if one is labelled; else what its first call read."""
    called = {call.prompt for call in outcome.calls}
    prompts = sorted(task.prompts, key=lambda prompt: prompt.name not in called)
    demos = (demo for prompt in prompts for demo in prompt.labelled if demo.row == row.id)
    if (demo := next(demos, None)) is not None:
        return show_example(demo)
    return show_inputs(outcome.calls[0].inputs.items()) if outcome.calls else ""


def _show_program(task: Task, trained: Mapping[Row, Outcome]) -> str:
    """Each step with its fields and its instruction, and the best run through all of them."""
    steps = [
        (f"Step {prompt.name}", [describe_fields(prompt), task.source[prompt.name].instruction])
        for prompt in task.prompts
    ]
    best = max(
        trained.values(), key=lambda outcome: (outcome.score or 0.0, len(outcome.calls)), default=Outcome(score=None)
    )
    return _join(*steps, ("Examples of calls, from one run", map(_show_call, best.calls)))


def _show_call(call: PromptCall) -> str:
    answer = f" -> {spell(call.output)[:LONGEST_TEXT]}" if call.is_parsed else ""
    return f"{call.prompt}: {show_inputs(call.inputs.items())}{answer}"
