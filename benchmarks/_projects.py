"""Projects for ``real_data.py``: one prompt, one metric, rows drawn by a seed; run as a user would, then scored."""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from _measure import plain_environment, run

from pytest_promptopt.errors import FormatError
from pytest_promptopt.lms.base import Request
from pytest_promptopt.lms.offline import OfflineLM
from pytest_promptopt.prompts.compiled import CompiledPrompt
from pytest_promptopt.prompts.frozen import read_frozen
from pytest_promptopt.prompts.parsing import parse
from pytest_promptopt.prompts.rendering import render
from pytest_promptopt.prompts.signature import Signature, read_signature

INSTRUCTION = "Say what the user wants."
NAME = "prompts.classify"
FRESH_ROWS = 400
Row = dict[str, str]
PROMPTS = '''from typing import Literal

from pytest_promptopt import prompt


@prompt
def classify(utterance: str) -> Literal[{labels}]:
    """{instruction}"""
'''
TEST = """import pytest
from prompts import classify


@pytest.mark.prompt_metric("rows.jsonl", threshold={threshold})
def test_intent(example):
    assert classify(utterance=example["utterance"]) == example["intent"]
"""
CONFTEST = """import dataclasses
import json
from pathlib import Path


def pytest_promptopt_job_finished(config, report):
    with Path("jobs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(report)) + "\\n")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One ``pytest --optimize-prompts`` to its end."""

    code: int
    outcome: str
    attempts: int
    is_loud: bool
    sealed_before: float | None
    sealed_after: float | None
    p: float | None
    wall_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a project is about: rows to learn from, fresh rows to score on, and the prompt to begin with."""

    dataset: str
    folder: str
    seed: int
    model: str
    rows: int
    instruction: str = INSTRUCTION
    threshold: float = 0.0
    has_shuffled_labels: bool = False


@cache
def read_rows(folder: str, dataset: str, side: str) -> tuple[Row, ...]:
    path = Path(folder) / f"{dataset}_{side}.jsonl"
    if not path.is_file():
        raise SystemExit(f"{path}: no such file; --data names the folder that holds it")
    return tuple(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())


def labels_of(folder: str, dataset: str) -> tuple[str, ...]:
    return tuple(sorted({row["intent"] for row in read_rows(folder, dataset, "train")}))


def draw_rows(task: Task) -> list[Row]:
    """The dataset of a project.

    Shuffled labels are dealt from an even deck, so that not even the commonest label can be learnt.
    """
    rng = random.Random(f"rows {task.dataset} {task.seed}")
    rows = rng.sample(read_rows(task.folder, task.dataset, "train"), task.rows)
    if not task.has_shuffled_labels:
        return rows
    labels = labels_of(task.folder, task.dataset)
    deck = [labels[number % len(labels)] for number in range(len(rows))]
    rng.shuffle(deck)
    return [{**row, "intent": intent} for row, intent in zip(rows, deck, strict=True)]


def draw_fresh_rows(folder: str, dataset: str, seed: int) -> list[Row]:
    """Rows of the test file whose words occur nowhere in the train file, so in no dataset."""
    known = {_words(row) for row in read_rows(folder, dataset, "train")}
    fresh = [row for row in read_rows(folder, dataset, "test") if _words(row) not in known]
    return random.Random(f"fresh {dataset} {seed}").sample(fresh, min(FRESH_ROWS, len(fresh)))


def _words(row: Row) -> str:
    return " ".join(row["utterance"].casefold().split())


def misleading_instruction(folder: str, dataset: str) -> str:
    """Words that are typical of one label, said of another one: false about every label."""
    seen: dict[str, Counter[str]] = {label: Counter() for label in labels_of(folder, dataset)}
    for row in read_rows(folder, dataset, "train"):
        seen[row["intent"]].update(set(_words(row).split()))
    total = sum(seen.values(), Counter[str]())

    def typical(label: str) -> list[str]:
        ranked = sorted(seen[label], key=lambda word: (-(seen[label][word] ** 2) / total[word], word))
        return [word for word in ranked if word.isalpha()][:4]

    labels = list(seen)
    wrong = zip(labels, labels[1:] + labels[:1], strict=True)
    return " ".join(f"Choose {other} when the text mentions {', '.join(typical(label))}." for label, other in wrong)


def signature_of(folder: str, dataset: str, instruction: str) -> Signature:
    """What the project's own ``@prompt`` reads, without registering a prompt in this process."""
    source = PROMPTS.format(labels=", ".join(map(repr, labels_of(folder, dataset))), instruction=instruction)
    names: dict[str, object] = {}
    exec(compile(source.replace("@prompt\n", ""), "prompts.py", "exec"), names)
    return read_signature(names["classify"], name=NAME)  # type: ignore[arg-type]  # the function defined above


def score_fresh(task: Task, compiled: CompiledPrompt | None = None) -> float:
    """The share of fresh rows that a prompt gets right; an unreadable reply is wrong."""
    signature = signature_of(task.folder, task.dataset, task.instruction)
    compiled = compiled or CompiledPrompt(instruction=signature.instruction)
    lm, rows, right = OfflineLM(), draw_fresh_rows(task.folder, task.dataset, task.seed), 0
    for row in rows:
        messages = render(signature, compiled, {"utterance": row["utterance"]})
        text = lm.complete(Request(model=task.model, messages=messages)).text
        try:
            right += parse(signature, text).value == row["intent"]
        except FormatError:
            continue
    return right / len(rows)


class Project:
    """A project in a folder of its own, with its own store."""

    def __init__(self, task: Task, folder: Path) -> None:
        self.task, self.folder = task, folder
        labels = ", ".join(map(repr, labels_of(task.folder, task.dataset)))
        files = {
            "pytest.ini": "[pytest]\npythonpath = .\n",
            "prompts.py": PROMPTS.format(labels=labels, instruction=task.instruction),
            "test_intents.py": TEST.format(threshold=task.threshold),
            "conftest.py": CONFTEST,
            "rows.jsonl": "".join(json.dumps(row) + "\n" for row in draw_rows(task)),
        }
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")

    def optimize(self, strategy: str, search_seed: int) -> Attempt:
        """Run the search as a user types it; other installed plugins stay out, for they only cost time."""
        plugins = ["-p", "pytest_promptopt.plugin", "-p", "no:cacheprovider"]
        asked = ["--prompt-optimizer", strategy, "--prompt-seed", str(search_seed), "--prompt-model", self.task.model]
        log = self.folder / "jobs.jsonl"
        log.unlink(missing_ok=True)
        start = time.perf_counter()
        ended = run(
            [sys.executable, "-m", "pytest", *plugins, "--optimize-prompts", *asked],
            cwd=self.folder,
            environment=plain_environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
        )
        wall_seconds = time.perf_counter() - start
        if ended.code not in (0, 1) or not log.is_file():
            raise RuntimeError(f"{self.task} with {strategy} ended with {ended.code}:\n{ended.output[-3000:]}")
        job = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
        return Attempt(
            code=ended.code,
            outcome=job["outcome"],
            attempts=job["spending"]["attempts"],
            is_loud="BELOW THRESHOLD" in ended.output,
            sealed_before=job["sealed_before"],
            sealed_after=job["sealed_after"],
            p=job["p"],
            wall_seconds=wall_seconds,
        )

    def frozen(self) -> CompiledPrompt | None:
        """The prompt that the run froze, if it did."""
        found = sorted((self.folder / "__prompts__").glob(f"{NAME}@*.toml"))
        return read_frozen(found[0].read_text(encoding="utf-8"), path=found[0]).compiled if found else None


def search_once(task: Task, strategy: str, before: float) -> dict[str, object]:
    """One project, one search: what it took, and how what stands afterwards does on fresh rows."""
    with tempfile.TemporaryDirectory() as scratch:
        project = Project(task, Path(scratch))
        attempt = project.optimize(strategy, task.seed)
        frozen = project.frozen()
        after = before if frozen is None else score_fresh(task, frozen)
        return _record(task, strategy, attempt, before=before, after=after, is_frozen=frozen is not None)


def search_again_and_again(task: Task, strategy: str, attempts: int) -> dict[str, object]:
    """Searches with other seeds on the same rows until one freezes something, at most ``attempts`` of them."""
    with tempfile.TemporaryDirectory() as scratch:
        project, frozen_at, made = Project(task, Path(scratch)), None, []
        for number in range(attempts):
            made.append(project.optimize(strategy, task.seed + 1_000 * number))
            if project.frozen() is not None:
                frozen_at = number + 1
                break
        calls = sum(one.attempts for one in made)
        return {**_subject(task, strategy), "frozen_at": frozen_at, "searches": len(made), "calls": calls}


def _subject(task: Task, strategy: str) -> dict[str, object]:
    return {"dataset": task.dataset, "model": task.model, "strategy": strategy, "seed": task.seed}


def _record(
    task: Task, strategy: str, attempt: Attempt, *, before: float, after: float, is_frozen: bool
) -> dict[str, object]:
    told = {name: getattr(attempt, name) for name in Attempt.__dataclass_fields__}
    return {**_subject(task, strategy), **told, "before": before, "after": after, "is_frozen": is_frozen}


def column(records: Sequence[dict[str, object]], name: str) -> list[float]:
    return [float(str(record[name])) for record in records if record[name] is not None]
