"""Our side of ``optimizers.py``: strategies by name, driven as a session drives them, without pytest around each row.

Jobs come in as JSON lines; results go out as JSON lines, and ``null`` after the last. Replies are remembered across the
strategies of a block, for they are the same; every run counts its calls as if it were alone. What a run may spend pays
for the source on train and val rows first; the confirmation on sealed rows comes on top and is counted apart.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from _optimizers_prompt import NAME, prompt_words, read_reply, signature_of
from _optimizers_rivals import GenerateAndHalve

from pytest_promptopt.evaluation.confirmation import Confirmation, Stratum, confirm
from pytest_promptopt.evaluation.confirmation import Pair as Compared
from pytest_promptopt.evaluation.dataset import Example
from pytest_promptopt.evaluation.labels import labelled_demos
from pytest_promptopt.evaluation.split import split_key
from pytest_promptopt.lms.base import Request
from pytest_promptopt.lms.offline import OfflineLM
from pytest_promptopt.optimizers.base import (
    Completion,
    Optimizer,
    Outcome,
    Pair,
    PromptCall,
    Row,
    Task,
    TunablePrompt,
)
from pytest_promptopt.optimizers.driver import Allowance, Found, drive
from pytest_promptopt.optimizers.registry import make_optimizer
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt
from pytest_promptopt.prompts.rendering import render
from pytest_promptopt.prompts.signature import Signature

METRIC = "test_intents.py::test_intent"
ALPHA = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One block: its rows by id, the prompt, and all that the model was asked so far."""

    model: str
    seed: int
    signature: Signature
    sides: Mapping[str, tuple[Example, ...]]
    lm: OfflineLM = field(default_factory=OfflineLM)
    outcomes: dict[object, Outcome] = field(default_factory=dict)
    texts: dict[object, str] = field(default_factory=dict)

    @classmethod
    def read(cls, block: Mapping[str, Any]) -> World:
        """The block as it comes in."""
        sides = {side: tuple(map(Example, block[side])) for side in ("train", "val", "sealed", "fresh")}
        signature = signature_of(block["labels"], block["instruction"])
        return cls(model=block["model"], seed=block["seed"], signature=signature, sides=sides)

    @property
    def source(self) -> Candidate:
        """Where every search starts."""
        return Candidate({NAME: CompiledPrompt(instruction=self.signature.instruction)})

    def outcome(self, candidate: Candidate, example: Example, *, temperature: float = 0.0, draw: int = 0) -> Outcome:
        """How a candidate does on a row."""
        key = candidate.digest, example.id, temperature, draw
        if key not in self.outcomes:
            self.outcomes[key] = self._run(candidate[NAME], example, temperature, draw)
        return self.outcomes[key]

    def _run(self, compiled: CompiledPrompt, example: Example, temperature: float, draw: int) -> Outcome:
        messages = render(self.signature, compiled, {"utterance": example["utterance"]})
        text = self.lm.complete(Request(model=self.model, messages=messages, temperature=temperature, repeat=draw)).text
        said, fault = read_reply(self.signature, text)
        expected = example["intent"]
        call = PromptCall(
            prompt=NAME,
            inputs={"utterance": example["utterance"]},
            output=None if fault else said,
            reasoning=None,
            reply=text,
            is_parsed=not fault,
            digest=compiled.digest,
            model=self.model,
        )
        feedback = fault or ("" if said == expected else f"assert {said!r} == {expected!r}")
        return Outcome(score=float(said == expected), feedback=feedback, calls=(call,))

    def complete(self, completion: Completion) -> str:
        """What the model writes."""
        messages = tuple((message["role"], message["content"]) for message in completion.messages)
        key = messages, completion.temperature, completion.draw
        if key not in self.texts:
            request = Request(
                model=self.model,
                messages=completion.messages,
                temperature=completion.temperature,
                ordinal=completion.draw,
            )
            self.texts[key] = self.lm.complete(request).text
        return self.texts[key]

    def mean(self, candidate: Candidate, side: str) -> float:
        """The share of rows that a candidate gets right."""
        rows = self.sides[side]
        return sum(self.outcome(candidate, row).score or 0.0 for row in rows) / len(rows)


class Bench:
    """The workbench of one run; every call of it is paid from the run's allowance."""

    is_own_teacher = True

    def __init__(self, world: World, allowance: Allowance) -> None:
        self.world, self.allowance = world, allowance
        self.examples = {row.id: row for side in ("train", "val") for row in world.sides[side]}

    def evaluate(self, pairs: Sequence[Pair]) -> Sequence[Outcome]:
        """Each row with its candidate."""
        return [self._run(candidate, row, temperature=0.0, draw=0) for candidate, row in pairs]

    def trace(self, pairs: Sequence[Pair], attempt: int) -> Sequence[Outcome]:
        """The same as a teacher; attempts after the first are drawn."""
        return [
            self._run(candidate, row, temperature=1.0 if attempt else 0.0, draw=attempt) for candidate, row in pairs
        ]

    def complete(self, completions: Sequence[Completion]) -> Sequence[str]:
        """One call each."""
        texts = []
        for completion in completions:
            self.allowance.spend()
            texts.append(self.world.complete(completion))
        return texts

    def _run(self, candidate: Candidate, row: Row, *, temperature: float, draw: int) -> Outcome:
        self.allowance.spend()
        return self.world.outcome(candidate, self.examples[row.id], temperature=temperature, draw=draw)


def strategy_of(name: str) -> Optimizer:
    """A strategy with its default settings."""
    return GenerateAndHalve() if name == "generate-and-halve" else make_optimizer(name, {})


def search(world: World, strategy: str, budget: int) -> tuple[Found | None, int]:
    """What a search found and the calls it took; nothing where the budget does not even hold the source's scores."""
    rows = {side: tuple(Row(metric=METRIC, id=row.id) for row in world.sides[side]) for side in ("train", "val")}
    allowance = Allowance(budget)
    known_rows = (*rows["train"], *rows["val"])
    if strategy == "start" or not allowance.covers(len(known_rows)):
        return None, 0
    source = world.source
    bench = Bench(world, allowance)
    pairs = [(source, row) for row in known_rows]
    known = dict(zip(pairs, bench.evaluate(pairs), strict=True))
    prompt = TunablePrompt(
        name=NAME,
        signature=world.signature,
        source=source[NAME],
        labelled=labelled_demos(world.signature, world.sides["train"], labels={"classify": "intent"}, traced=()).demos,
    )
    task = Task(
        prompts=(prompt,),
        source=source,
        trainset=rows["train"],
        valset=rows["val"],
        weights={METRIC: 1.0},
        max_calls=allowance.remaining,
        calls_on_valset=len(rows["val"]),
    )
    found = drive(
        strategy_of(strategy),
        task,
        bench,
        allowance,
        rng=Random(f"{world.seed} {world.model} {NAME}"),
        known=known,
        calls_per_row=dict.fromkeys(known_rows, 1),
        observer=lambda event: None,
    )
    return found, allowance.calls


def confirmed(world: World, winner: Candidate) -> Confirmation:
    """The winner against the start on the sealed rows, as a session confirms it."""
    pairs = tuple(
        Compared(
            winner=world.outcome(winner, row).score or 0.0,
            incumbent=world.outcome(world.source, row).score or 0.0,
            group=split_key(row, group=None, labels=["intent"]),
        )
        for row in world.sides["sealed"]
    )
    return confirm([Stratum(metric=METRIC, pairs=pairs)], alpha=ALPHA)


def run_one(world: World, strategy: str, budget: int) -> dict[str, object]:
    """One search, confirmed, and scored on fresh rows."""
    start = time.perf_counter()
    found, calls = search(world, strategy, budget)
    seconds = round(time.perf_counter() - start, 3)
    winner = world.source if found is None else found.candidate
    confirmation = None if winner == world.source else confirmed(world, winner)
    is_frozen = confirmation is not None and confirmation.is_better
    fresh = world.mean(winner, "fresh")
    begun = world.mean(world.source, "fresh")
    return {
        "seconds": seconds,
        "fits": found is not None,
        "calls": calls,
        "confirmation_calls": 0 if confirmation is None else 2 * len(world.sides["sealed"]),
        "score": fresh,
        "start": begun,
        "is_frozen": is_frozen,
        "frozen_score": fresh if is_frozen else begun,
        "p": None if confirmation is None else confirmation.p,
        "val_score": None if found is None else found.score,
        "is_start": winner == world.source,
        "is_cut": found is not None and found.is_cut,
        "prompt_words": prompt_words(world.signature, winner[NAME]),
        "start_words": prompt_words(world.signature, world.source[NAME]),
        "instruction": winner[NAME].instruction,
        "demos": len(winner[NAME].demos),
    }


def run_job(job: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """All that is wanted on one block; a strategy that raises has no result, and its error is told."""
    world = World.read(job["block"])
    for strategy, budgets in job["wanted"].items():
        for budget in budgets:
            named = {"strategy": strategy, "budget": budget}
            try:
                yield {**named, **run_one(world, strategy, budget)}
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and the other runs go on
                traceback.print_exc()
                yield {**named, "error": f"{type(error).__name__}: {error}"}


def main() -> None:
    for line in sys.stdin:
        for result in (*run_job(json.loads(line)), None):
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
