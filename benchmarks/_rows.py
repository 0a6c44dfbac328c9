"""Our side of ``overhead.py``, in a process of its own: what one evaluated row costs beside the model's own time."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Literal

from _workload import INSTRUCTION, answer, demos, label, run_cells, text, timed

from pytest_promptopt import prompt
from pytest_promptopt.evaluation.dataset import Example, as_examples
from pytest_promptopt.evaluation.loop import run_in_order, run_in_threads
from pytest_promptopt.evaluation.metric import Metric, Trial
from pytest_promptopt.evaluation.outcome import RowResult, TestExceptions
from pytest_promptopt.lms.base import Reply, Request
from pytest_promptopt.lms.ceiling import Ceiling
from pytest_promptopt.lms.client import Client, Mode
from pytest_promptopt.lms.redaction import Redactor
from pytest_promptopt.lms.store import Store
from pytest_promptopt.prompts.active import provide_runtime
from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo
from pytest_promptopt.prompts.runtime import Runtime
from pytest_promptopt.session.recording import draws_of, recordings_of
from pytest_promptopt.snapshots.change import apply
from pytest_promptopt.snapshots.recordings import compare_recordings, read_recordings

MODEL = "instant/oracle"
THREADS = 16  # the default of --prompt-concurrency


@prompt
def classify(text: str) -> Literal["positive", "negative", "neutral"]:
    """Classify the sentiment."""


class Instant:
    """A model that answers at once, and counts: a replay must not reach it."""

    def __init__(self) -> None:
        self.calls = 0

    def complete(self, request: Request) -> Reply:
        self.calls += 1
        return Reply(text=answer(request.messages[-1]["content"]), cost_usd=0.0)


def is_right(example: Example) -> None:
    assert classify(text=example["text"]) == example["label"]


METRIC = Metric(call=is_right, known=TestExceptions())


def enter(lm: Instant, *, mode: Mode, store: Store | None = None) -> Client:
    """Provide the runtime of a run on ``lm``."""
    client = Client(lm_for=lambda _: lm, store=store, ceiling=Ceiling(), mode=mode)
    runtime = Runtime(client=client, command_line_model=MODEL)
    provide_runtime(lambda: runtime)
    return client


def compiled(demo_count: int, instruction: str = INSTRUCTION) -> CompiledPrompt:
    shown = (Demo(inputs={"text": words}, output=output) for words, output in demos(demo_count))
    return CompiledPrompt(instruction=instruction, demos=tuple(shown))


def evaluate(rows: Sequence[dict[str, str]], candidate: CompiledPrompt, threads: int) -> int:
    """How many rows the candidate gets right: from plain dicts to results, as a metric does it."""
    return sum(result.judgement.score == 1.0 for result in results_of(rows, candidate, threads))


def results_of(
    rows: Sequence[dict[str, str]], candidate: CompiledPrompt, threads: int, recorded: Mapping[str, Reply] | None = None
) -> list[RowResult]:
    work = [
        Trial(example=example, candidate={classify.name: candidate}, model=MODEL, recorded=recorded or {})
        for example in as_examples(rows, name="rows")
    ]
    return run_in_threads(work, METRIC.run, concurrency=threads) if threads > 1 else run_in_order(work, METRIC.run)


def rows_of(count: int) -> list[dict[str, str]]:
    return [{"text": text(number), "label": label(number)} for number in range(count)]


def instant(demo_count: int, threads: int, count: int) -> dict[str, float]:
    """One candidate over ``count`` rows, nothing stored. The warm-up runs another candidate."""
    enter(Instant(), mode=Mode.LIVE)
    evaluate(rows_of(50), compiled(demo_count, "Warm up."), threads)
    rows, candidate = rows_of(count), compiled(demo_count)
    return timed(lambda: evaluate(rows, candidate, threads), count)


def replay(demo_count: int, count: int) -> dict[str, float]:
    """The same, every reply out of a store that another client has filled; the model is not reached."""
    with tempfile.TemporaryDirectory() as folder:
        rows, candidate = rows_of(count), compiled(demo_count)
        filling = enter(Instant(), mode=Mode.AUTO, store=Store(Path(folder) / "store"))
        evaluate(rows, candidate, 1)
        filling.close()
        lm = Instant()
        client = enter(lm, mode=Mode.REPLAY, store=Store(Path(folder) / "store"))
        evaluate(rows[:1], candidate, 1)  # opens the file
        result = timed(lambda: evaluate(rows, candidate, 1), count)
        client.close()
        if lm.calls:
            raise SystemExit("the replay called the model")
        return result


def recorded(count: int) -> dict[str, float]:
    """The same out of a file of recordings, which is read for it; there is no store, and the model is not reached."""
    with tempfile.TemporaryDirectory() as folder:
        rows, candidate, path = rows_of(count), compiled(0), Path(folder) / "recordings.jsonl"
        enter(Instant(), mode=Mode.AUTO)
        found = recordings_of(draws_of(results_of(rows, candidate, 1)), Redactor())
        apply([compare_recordings(path, found, metric="rows", is_whole=True)])
        del found
        lm = Instant()
        enter(lm, mode=Mode.REPLAY)

        def gate() -> int:
            replies = {key: each.as_reply() for key, each in read_recordings(path, metric="rows").items()}
            results = results_of(rows, candidate, 1, replies)
            return sum(result.judgement.score == 1.0 for result in results)

        result = timed(gate, count)
        if lm.calls:
            raise SystemExit("the replay called the model")
        return result


def bare_sqlite(count: int) -> dict[str, float]:
    """A floor: canonical JSON, SHA-256, one SELECT, ``json.loads``, compare; no framework at all."""

    def request(number: int) -> dict[str, object]:
        messages = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": text(number)}]
        return {"model": MODEL, "messages": messages, "temperature": 0.0}

    def key(number: int) -> str:
        return sha256(json.dumps(request(number), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "replies.sqlite3")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE replies (key TEXT PRIMARY KEY, reply TEXT) WITHOUT ROWID")
        kept = ((key(number), json.dumps({"text": label(number)})) for number in range(count))
        connection.executemany("INSERT INTO replies VALUES (?, ?)", kept)
        connection.commit()
        find = partial(connection.execute, "SELECT reply FROM replies WHERE key = ?")
        result = timed(
            lambda: sum(json.loads(find((key(n),)).fetchone()[0])["text"] == label(n) for n in range(count)), count
        )
        connection.close()
        return result


CELLS: dict[str, Callable[[int], dict[str, float]]] = {
    "0 demos": partial(instant, 0, 1),
    "16 demos": partial(instant, 16, 1),
    "0 demos, threads": partial(instant, 0, THREADS),
    "16 demos, threads": partial(instant, 16, THREADS),
    "replay": partial(replay, 0),
    "replay, 16 demos": partial(replay, 16),
    "recorded": recorded,
    "bare sqlite": bare_sqlite,
}

if __name__ == "__main__":
    run_cells(CELLS)
