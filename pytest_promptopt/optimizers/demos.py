"""Where demos come from: labelled train rows, and the teacher's own successful traces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random

from pytest_promptopt.optimizers.base import Outcome, Row, Task, TunablePrompt
from pytest_promptopt.optimizers.evaluating import Steps, trace
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo

DemoSet = Mapping[str, tuple[Demo, ...]]
"""Prompt name → its demos."""

SMALLEST_BATCH = 8


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
            found.update({row: read_demos(row, outcome, rng) for row, outcome in traced.items() if outcome.is_success})
        left = [row for row in left if row not in found]
    return found if wanted is None else dict([*found.items()][:wanted])


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
