"""What a recorded gate costs: whole ``pytest`` processes in CI mode from a fresh checkout, by the number of rows.

Beside them a ``pytest`` without a metric, a bare SQLite look-up with the request hashed for it, and DSPy's warm cache,
which has to be asked inside a process that is under way. CPU time, one process at a time, medians over rounds.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from _measure import HERE, circumstances, peer_python, plain_environment, print_table, run, run_json, say, write_json

SIZES = (0, 100, 1_000, 10_000)
LEAST, MOST = 100, 10_000
"""The cost of a row is the slope between these."""

PROJECT = {
    "support_prompts.py": '''from typing import Literal

from pytest_promptopt import prompt


@prompt
def classify(text: str) -> Literal["positive", "negative", "neutral"]:
    """Classify the sentiment."""
''',
    "conftest.py": """import sys

sys.path.insert(0, {here!r})
from _workload import answer


class Paid:
    def complete(self, request):
        from pytest_promptopt.lms.base import Reply

        if {is_gone}:
            raise AssertionError("a replay asks nobody")
        return Reply(text=answer(request.messages[-1]["content"]), cost_usd=0.001)


def pytest_promptopt_make_lm(model):
    return Paid() if model == "paid/oracle" else None
""",
    "test_rows.py": """import pytest
from _workload import label, text
from support_prompts import classify


@pytest.fixture(scope="session")
def rows():
    return [{{"text": text(number), "label": label(number)}} for number in range({count})]


@pytest.mark.prompt_metric("rows", threshold=1.0, concurrency=1)
def test_classifies(example):
    assert classify(text=example["text"]) == example["label"]
""",
}
WITHOUT_METRIC = "def test_nothing():\n    pass\n"
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


def main() -> None:
    options = read_options()
    peer = None if options.no_peer else options.peer or peer_python()
    seconds: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        projects = {count: make(Path(scratch) / f"rows-{count}", count) for count in SIZES}
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            for count, folder in projects.items():
                seconds[name_of(count)].append(gate_seconds(folder))
            for name, value in per_row(Path(scratch), options.rows, peer).items():
                seconds[name].append(value)
    seconds["a recorded row, with verdict and reports"] = [
        (most - least) / (MOST - LEAST)
        for most, least in zip(seconds[name_of(MOST)], seconds[name_of(LEAST)], strict=True)
    ]
    report(options, seconds)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", metavar="PYTHON", help="a Python that has DSPy")
    parser.add_argument("--no-peer", action="store_true", help="measure us alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2_000, help="of the look-ups to compare with")
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args()


def name_of(count: int) -> str:
    return f"pytest, {count:,} recorded rows" if count else "pytest, no metric"


def make(folder: Path, count: int) -> Path:
    """A project whose ``count`` rows are recorded, with a model that is gone by now and no store."""
    folder.mkdir()
    if not count:
        (folder / "test_nothing.py").write_text(WITHOUT_METRIC, encoding="utf-8")
        return folder
    write(folder, count, is_gone=False)
    recording = ("--prompt-lm", "record", "--prompt-bless", "--prompt-budget", "none", "--prompt-max-cost", "none")
    command = (*PYTEST, "--prompt-model", "paid/oracle", *recording)
    recorded = run(command, cwd=folder, environment=plain_environment())
    if recorded.code:
        raise SystemExit(recorded.output)
    shutil.rmtree(folder / ".promptopt")
    write(folder, count, is_gone=True)
    return folder


def write(folder: Path, count: int, *, is_gone: bool) -> None:
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    for name, text in PROJECT.items():
        filled = text if name == "support_prompts.py" else text.format(here=str(HERE), count=count, is_gone=is_gone)
        (folder / name).write_text(filled, encoding="utf-8")


def gate_seconds(folder: Path) -> float:
    """CPU seconds of one whole process in CI mode."""
    shutil.rmtree(folder / ".promptopt", ignore_errors=True)
    has_metric = (folder / "support_prompts.py").exists()
    command = (*PYTEST, "--prompt-model", "paid/oracle") if has_metric else PYTEST
    ended = run(command, cwd=folder, environment={**plain_environment(), "CI": "true"})
    if ended.code:
        raise SystemExit(ended.output)
    return ended.cpu_seconds


def per_row(folder: Path, rows: int, peer: str | None) -> dict[str, float]:
    """CPU seconds of one look-up inside a process that is under way."""
    environment = plain_environment(DSPY_CACHEDIR=str(folder / "dspy"))
    cells = {"a recorded row, by itself": f"recorded={rows}", "a bare SQLite look-up": f"bare sqlite={rows}"}
    ours = run_json([sys.executable, str(HERE / "_rows.py"), *cells.values()], cwd=folder, environment=environment)
    found = {name: ours[cell]["cpu_us"] / 1e6 for name, cell in cells.items()}
    if peer is not None:
        run_json([peer, str(HERE / "peer_dspy.py"), f"fill={rows}"], cwd=folder, environment=environment)
        warm = run_json([peer, str(HERE / "peer_dspy.py"), f"replay={rows}"], cwd=folder, environment=environment)
        found["a row from DSPy's warm cache"] = warm[f"replay={rows}"]["cpu_us"] / 1e6
    return found


def report(options: argparse.Namespace, seconds: dict[str, list[float]]) -> None:
    cells = [
        (name, shown(statistics.median(taken)), f"{shown(min(taken))} - {shown(max(taken))}")
        for name, taken in seconds.items()
    ]
    print_table(cells, ("CPU time", "median", "lowest - highest"))
    content = {"settings": {"rounds": options.rounds}, "cpu_seconds": seconds, "circumstances": circumstances()}
    write_json(options.json, content)


def shown(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.01 else f"{1e6 * seconds:.0f} us"


if __name__ == "__main__":
    main()
