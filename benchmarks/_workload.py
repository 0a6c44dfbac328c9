"""The work that both sides of the overhead benchmarks do: rows, instant models, demos. Standard library only."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from hashlib import sha256

LABELS = ("positive", "negative", "neutral")
INSTRUCTION = "Classify the sentiment."
MARK = "example "


def text(number: int) -> str:
    return f"{MARK}{number} the film was long but the cast carried it through to the end"


def label(number: int) -> str:
    return LABELS[number % len(LABELS)]


def answer(asked: str) -> str:
    """What the instant model says: the label of the last row that the text mentions."""
    start = asked.rfind(MARK) + len(MARK)
    end = start
    while end < len(asked) and asked[end].isdigit():
        end += 1
    return label(int(asked[start:end]))


def guess(asked: str, messages: int) -> str:
    """As :func:`answer`, wrong in about three of ten cases: which ones, the text and the number of messages decide."""
    digest = sha256(f"{messages} {asked}".encode()).digest()
    return answer(asked) if digest[0] % 10 < 7 else LABELS[digest[1] % len(LABELS)]


def demos(count: int) -> list[tuple[str, str]]:
    """Inputs and labels of ``count`` demos, none of which is a row."""
    return [(text(1_000_000 + number), label(number)) for number in range(count)]


def timed(work: Callable[[], int], rows: int) -> dict[str, float]:
    """CPU and wall microseconds a row of ``work``, which returns how many rows it got right; all must be."""
    wall, cpu = time.perf_counter(), time.process_time()
    correct = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if correct != rows:
        raise SystemExit(f"{correct} of {rows} rows are right; the instant model answers all of them")
    return {"cpu_us": 1e6 * cpu / rows, "wall_us": 1e6 * wall / rows, "rows": rows}


def run_cells(cells: dict[str, Callable[[int], dict[str, float]]]) -> None:
    """Run the cells named on the command line as ``name=rows`` in that order; print one JSON object."""
    asked = [argument.partition("=") for argument in sys.argv[1:]]
    print(json.dumps({f"{name}={rows}": cells[name](int(rows)) for name, _, rows in asked}))
