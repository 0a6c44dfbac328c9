"""Where demos come from: labelled train rows, and the teacher's own successful traces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random

from pytest_promptopt.optimizers.base import Outcome, Row, Task, TunablePrompt
from pytest_promptopt.optimizers.evaluating import Steps, trace
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo

DemoSet = Mapping[str, tuple[Demo, ...]]
"""Prompt name → its demos."""

Shelves = Mapping[str, tuple[CompiledPrompt, ...]]
"""Prompt name → the prompt with each of its demo sets, as the source has it first."""

PLAIN_SETS = 3
"""Zero-shot, labelled rows only, and the first traces that succeeded."""

SMALLEST_BATCH = 8
REDRAWS = 20
"""How often a set that came up before is drawn anew: few rows make few sets."""


def with_demos(candidate: Candidate, demos: DemoSet) -> Candidate:
    """``candidate`` with these demos in place of its own; prompts that get none keep what they have."""
    compiled = {
        name: CompiledPrompt(instruction=prompt.instruction, demos=demos.get(name) or prompt.demos)
        for name, prompt in candidate.items()
    }
    return Candidate(compiled)


def without_demos(candidate: Candidate) -> Candidate:
    """``candidate`` zero-shot."""
    return Candidate({name: CompiledPrompt(instruction=prompt.instruction) for name, prompt in candidate.items()})


def draw_labelled(task: Task, k: int, rng: Random) -> DemoSet:
    """Up to ``k`` labelled rows for each prompt, drawn apart; a prompt without labelled demos gets none."""
    return {prompt.name: _sample(prompt.labelled, k, rng) for prompt in task.prompts}


def fill_with_labelled(bootstrapped: DemoSet, task: Task, size: int, rng: Random) -> DemoSet:
    """Labelled rows behind the bootstrapped demos of each prompt, until there are ``size`` of them; none is cut."""
    return {prompt.name: _fill(bootstrapped.get(prompt.name, ()), prompt, size, rng) for prompt in task.prompts}


def _fill(demos: tuple[Demo, ...], prompt: TunablePrompt, size: int, rng: Random) -> tuple[Demo, ...]:
    shown = {demo.row for demo in demos}
    fresh = [demo for demo in prompt.labelled if demo.row is None or demo.row not in shown]
    return (*demos, *_sample(fresh, size - len(demos), rng))


def _sample(demos: Iterable[Demo], size: int, rng: Random) -> tuple[Demo, ...]:
    pool = list(demos)
    return tuple(rng.sample(pool, max(0, min(size, len(pool)))))


def trace_successes(
    task: Task, rows: Iterable[Row], *, wanted: int | None, max_rounds: int, rng: Random
) -> Steps[Mapping[Row, DemoSet]]:
    """Demos of the rows that the teacher gets fully right, until ``wanted`` rows are found; all with ``None``.

    The teacher runs the source as it stands. Rounds after the first are fresh draws on the rows that failed. Where no
    prompt takes demos nothing is traced.
    """
    found: dict[Row, DemoSet] = {}
    left = list(rows) if task.takes_demos else []
    for attempt in range(max_rounds):
        for batch in _batches(left, wanted, found):
            outcomes = yield from trace([(task.source, row) for row in batch], attempt)
            traced = dict(zip(batch, outcomes, strict=True))
            successes = {row: outcome for row, outcome in traced.items() if outcome.is_success}
            found.update({row: _of_takers(task, read_demos(row, outcome, rng)) for row, outcome in successes.items()})
        left = [row for row in left if row not in found]
    return found if wanted is None else dict([*found.items()][:wanted])


def _of_takers(task: Task, demos: DemoSet) -> DemoSet:
    """What prompts of ``task`` can show; an adopted text has no place for demos, and a held prompt keeps its own."""
    return {prompt.name: demos[prompt.name] for prompt in task.prompts if prompt.takes_demos and prompt.name in demos}


def _batches(rows: list[Row], wanted: int | None, found: Mapping[Row, DemoSet]) -> Iterable[list[Row]]:
    """Batches wide enough to run at once and narrow enough to stop early; looks at ``found`` before each."""
    start = 0
    while start < len(rows) and (wanted is None or len(found) < wanted):
        size = len(rows) if wanted is None else max(SMALLEST_BATCH, 2 * (wanted - len(found)))
        yield rows[start : start + size]
        start += size


def read_demos(row: Row, outcome: Outcome, rng: Random) -> DemoSet:
    """One demo for each prompt that the row called; of several calls of one prompt ``rng`` keeps one."""
    steps: dict[str, list[Demo]] = {}
    for call in outcome.calls:
        if call.is_parsed:
            demo = Demo(inputs=call.inputs, output=call.output, reasoning=call.reasoning, row=row.id)
            steps.setdefault(call.prompt, []).append(demo)
    return {name: (demos[0] if len(demos) == 1 else rng.choice(demos),) for name, demos in steps.items()}


def join_demos(sets: Iterable[DemoSet]) -> DemoSet:
    """The demos of several rows, prompt by prompt; inputs that two metrics share are shown once."""
    joined: dict[str, tuple[Demo, ...]] = {}
    for demos in sets:
        for name, more in demos.items():
            shown = joined.get(name, ())
            fresh = tuple(demo for demo in more if all(demo.inputs != other.inputs for other in shown))
            joined[name] = (*shown, *fresh)
    return joined


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDrawer:
    """Draws demo sets for all prompts of a program at once: a bootstrapped row shows in each prompt that it called.

    ``found`` are the rows to bootstrap from; a set has at most ``max_bootstrapped_demos`` of them, and labelled rows
    until each prompt shows ``max_labeled_demos``.
    """

    task: Task
    found: Mapping[Row, DemoSet]
    max_bootstrapped_demos: int
    max_labeled_demos: int

    def draw_plain(self, rng: Random) -> tuple[Candidate, Candidate, Candidate]:
        """Zero-shot; labelled rows only; the first traces that succeeded, filled with labelled rows."""
        source = self.task.source
        first = join_demos([*self.found.values()][: self.max_bootstrapped_demos])
        labelled = draw_labelled(self.task, self.max_labeled_demos, rng)
        unshuffled = fill_with_labelled(first, self.task, self.max_labeled_demos, rng)
        return without_demos(source), with_demos(source, labelled), with_demos(source, unshuffled)

    def draw(self, size: int, seen: dict[Candidate, None], rng: Random) -> tuple[Candidate, ...]:
        """Up to ``size`` random sets that did not come up before; puts them down in ``seen``."""
        drawn: list[Candidate] = []
        for _ in range(size * REDRAWS):
            candidate = with_demos(self.task.source, self._draw_one(rng))
            if candidate not in seen:
                seen[candidate] = None
                drawn.append(candidate)
            if len(drawn) == size:
                break
        return tuple(drawn)

    def _draw_one(self, rng: Random) -> DemoSet:
        """One bootstrapped demo at least, where there are any."""
        rows = rng.sample([*self.found], len(self.found))
        most = min(self.max_bootstrapped_demos, len(rows))
        bootstrapped = join_demos(self.found[row] for row in rows[: rng.randint(min(1, most), most)])
        return fill_with_labelled(bootstrapped, self.task, self.max_labeled_demos, rng)
