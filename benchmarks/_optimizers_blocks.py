"""What ``optimizers.py`` compares on: tasks × simulators, rows drawn by a seed and dealt to their sides."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from _projects import INSTRUCTION, Row, Task, draw_fresh_rows, draw_rows, labels_of, misleading_instruction

from pytest_promptopt.evaluation.dataset import Example
from pytest_promptopt.evaluation.split import position, split_key
from pytest_promptopt.lms.offline import MODELS

ROWS, TRAIN_ROWS, VAL_ROWS, SEALED_ROWS = 160, 48, 48, 64
FRESH_ROWS = 300
MAIN_TASKS = ("snips", "clinc30")
EXTRA_TASKS = ("null", "harmful")
TASKS = (*MAIN_TASKS, *EXTRA_TASKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One task on one simulator under one seed. ``null`` and ``harmful`` are snips with other labels or words."""

    task: str
    model: str
    seed: int
    folder: str

    @property
    def dataset(self) -> str:
        """The data that the task is made of."""
        return self.task if self.task in MAIN_TASKS else "snips"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """The rows of a block: what a search sees, what only a confirmation sees, and what is in no dataset."""

    train: tuple[Row, ...]
    val: tuple[Row, ...]
    sealed: tuple[Row, ...]
    fresh: tuple[Row, ...]


def blocks(folder: str, *, seeds: int, models: tuple[str, ...] = MODELS, tasks: tuple[str, ...] = TASKS) -> list[Block]:
    """Seed by seed, so that whatever is done when a run is stopped is balanced."""
    return [
        Block(task=task, model=model, seed=seed, folder=folder)
        for seed in range(seeds)
        for task in tasks
        for model in models
    ]


def sides_of(block: Block) -> Sides:
    """The rows of a block, the same for everybody: 48 + 48 + 64 in hash order, and 300 fresh ones."""
    task = Task(
        dataset=block.dataset,
        folder=block.folder,
        seed=block.seed,
        model=block.model,
        rows=ROWS,
        has_shuffled_labels=block.task == "null",
    )
    rows = sorted(draw_rows(task), key=lambda row: position(split_key(Example(row), group=None, labels=["intent"]), ""))
    fresh = draw_fresh_rows(block.folder, block.dataset, block.seed)[:FRESH_ROWS]
    return Sides(
        train=tuple(rows[:TRAIN_ROWS]),
        val=tuple(rows[TRAIN_ROWS : TRAIN_ROWS + VAL_ROWS]),
        sealed=tuple(rows[TRAIN_ROWS + VAL_ROWS :]),
        fresh=tuple(_relabelled(fresh, block) if block.task == "null" else fresh),
    )


def _relabelled(rows: list[Row], block: Block) -> Iterator[Row]:
    """Fresh rows of a task that has nothing to learn have labels by chance too."""
    labels = labels_of(block.folder, block.dataset)
    deck = [labels[number % len(labels)] for number in range(len(rows))]
    random.Random(f"fresh labels {block.seed}").shuffle(deck)
    return ({**row, "intent": intent} for row, intent in zip(rows, deck, strict=True))


def instruction_of(block: Block) -> str:
    """Where every search starts."""
    return misleading_instruction(block.folder, block.dataset) if block.task == "harmful" else INSTRUCTION


def as_json(block: Block) -> dict[str, object]:
    """A block as another process gets it. Searches are given ``train`` and ``val``, and nothing else of it."""
    sides = sides_of(block)
    return {
        "task": block.task,
        "model": block.model,
        "seed": block.seed,
        "instruction": instruction_of(block),
        "labels": labels_of(block.folder, block.dataset),
        "train": sides.train,
        "val": sides.val,
        "sealed": sides.sealed,
        "fresh": sides.fresh,
    }
