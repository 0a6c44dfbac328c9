"""What one evaluated row costs beside the model's own time, ours and DSPy's, measured in turn in one run.

CPU time of the process, medians over rounds, ratios within a round. DSPy lives in an environment of its own: ``--peer``
names its Python; without it one is made under ``.peers/`` beside this file, and kept. ``--no-peer`` measures us alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from _measure import DSPY, HERE, circumstances, peer_python, plain_environment, print_table, run_json, say, write_json

OURS = ("0 demos", "16 demos", "0 demos, threads", "16 demos, threads", "replay", "replay, 16 demos", "bare sqlite")
GROWTH = ("0 demos=1000", "0 demos=10000")
PEER_GROWTH_ROUNDS = 3
RATIOS = (
    ("a row, 0 demos, 1 thread", "0 demos", "dspy 0 demos", "<= 0.10"),
    ("a row, 16 demos, 1 thread", "16 demos", "dspy 16 demos", "<= 0.02"),
    ("a row, 0 demos, 16 threads", "0 demos, threads", "dspy 0 demos, threads", ""),
    ("a replayed row", "replay", "dspy replay", "<= 0.05"),
    ("a replayed row over a bare SQLite look-up", "replay", "bare sqlite", "<= 4"),
    ("a row, 10,000 rows over 1,000", "0 demos=10000", "0 demos=1000", "<= 1.15"),
    ("the same through pytest", "pytest=10000", "pytest=1000", "<= 1.15"),
    ("DSPy: a row, 10,000 rows over 1,000", "dspy 0 demos=10000", "dspy 0 demos=1000", ""),
)
PROJECT = {
    "support_prompts.py": '''from typing import Literal

from pytest_promptopt import prompt


@prompt
def classify(text: str) -> Literal["positive", "negative", "neutral"]:
    """Classify the sentiment."""
''',
    "conftest.py": """import json
import sys
import time

import pytest

sys.path.insert(0, {here!r})
from _workload import answer
from pytest_promptopt.lms.base import Reply

spent = {{}}


class Instant:
    is_offline = True

    def complete(self, request):
        return Reply(text=answer(request.messages[-1]["content"]), cost_usd=0.0)


def pytest_promptopt_make_lm(model):
    return Instant() if model == "instant/oracle" else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    start = time.process_time()
    result = yield
    spent[item.name] = time.process_time() - start
    return result


def pytest_unconfigure():
    print()
    print(json.dumps(spent))
""",
    "test_rows.py": """import pytest
from _workload import label, text
from support_prompts import classify


@pytest.fixture(scope="session")
def few():
    return [{{"text": text(number), "label": label(number)}} for number in range(50)]


@pytest.fixture(scope="session")
def many():
    return [{{"text": text(number), "label": label(number)}} for number in range({count})]


@pytest.mark.prompt_metric("few", threshold=1.0, concurrency=1)
def test_warm_up(example):
    assert classify(text=example["text"]) == example["label"]


@pytest.mark.prompt_metric("many", threshold=1.0, concurrency=1)
def test_measured(example):
    assert classify(text=example["text"]) == example["label"]
""",
}


def main() -> None:
    options = read_options()
    peer = None if options.no_peer else options.peer or peer_python()
    samples: dict[str, list[float]] = defaultdict(list)
    for number in range(options.rounds):
        say(f"round {number + 1} of {options.rounds}")
        for name, value in one_round(options, peer, has_growth=number < PEER_GROWTH_ROUNDS).items():
            samples[name].append(value)
    report(options, samples)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", metavar="PYTHON", help="a Python that has DSPy")
    parser.add_argument("--no-peer", action="store_true", help="measure us alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args()


def one_round(options: argparse.Namespace, peer: str | None, *, has_growth: bool) -> dict[str, float]:
    """CPU microseconds a row, by cell; one process for each side, one after the other."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        environment = plain_environment(DSPY_CACHEDIR=str(folder / "dspy"))

        def measure(python: str, script: str, cells: Sequence[str], name_of: Callable[[str], str]) -> None:
            results = run_json([python, str(HERE / script), *cells], cwd=folder, environment=environment)
            found.update({name_of(cell): result["cpu_us"] for cell, result in results.items()})

        plain = [f"{cell}={options.rows}" for cell in OURS]
        measure(sys.executable, "_rows.py", plain, lambda cell: cell.partition("=")[0])
        measure(sys.executable, "_rows.py", GROWTH, str)
        found.update(through_pytest(folder))
        if peer is not None:
            rows = options.rows  # as many as on our side: DSPy's cost of a row grows with their number
            cells = [f"{cell}={rows}" for cell in ("0 demos", "16 demos", "0 demos, threads", "fill")]
            measure(peer, "peer_dspy.py", cells, lambda cell: f"dspy {cell.partition('=')[0]}")
            measure(peer, "peer_dspy.py", [f"replay={rows}"], lambda cell: f"dspy {cell.partition('=')[0]}")
            if has_growth:
                measure(peer, "peer_dspy.py", GROWTH, lambda cell: f"dspy {cell}")
    return found


def through_pytest(folder: Path) -> dict[str, float]:
    """CPU microseconds a row of a metric under ``pytest``: set-up, rows, verdict, report; start-up and summary are not.

    Taken inside the process, after a small metric has warmed everything up: 1,000 rows are little beside the start-up
    of an interpreter, and would drown in its noise. The summary is left out because other plugins' work is done there
    too: Hypothesis's plugin imports all of Hypothesis at that point, which costs more than 1,000 rows.
    """
    return {f"pytest={count}": pytest_cpu_us(folder / f"rows-{count}", count) for count in (1_000, 10_000)}


def pytest_cpu_us(folder: Path, count: int) -> float:
    """One metric over ``count`` rows in live mode: replies are written to a store, as they are in a user's run."""
    folder.mkdir()
    for name, text in PROJECT.items():
        filled = text.format(here=str(HERE), count=count) if name != "support_prompts.py" else text
        (folder / name).write_text(filled, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    wanted = ["--prompt-model", "instant/oracle", "--prompt-lm", "live"]
    spent = run_json([*command, *wanted], cwd=folder, environment=plain_environment())
    return 1e6 * spent["test_measured"] / count


def report(options: argparse.Namespace, samples: dict[str, list[float]]) -> None:
    cells = [(name, f"{statistics.median(taken):.1f}", spread(taken), len(taken)) for name, taken in samples.items()]
    print_table(cells, ("cell", "CPU us a row", "lowest - highest", "rounds"))
    print()
    ratios = {title: pairs(samples, above, below) for title, above, below, _ in RATIOS}
    shown = [
        (title, *ratio_cells(ratios[title]), goal, reached(ratios[title], goal))
        for title, _, _, goal in RATIOS
        if ratios[title]
    ]
    print_table(shown, ("ratio", "median", "lowest - highest", "one over", "goal", "reached"))
    settings = {"rounds": options.rounds, "rows": options.rows, "peer": None if options.no_peer else DSPY}
    content = {"settings": settings, "cpu_us": samples, "ratios": ratios, "circumstances": circumstances()}
    write_json(options.json, content)


def pairs(samples: dict[str, list[float]], above: str, below: str) -> list[float]:
    """The ratio in each round that has both."""
    return [a / b for a, b in zip(samples.get(above, ()), samples.get(below, ()), strict=False)]


def spread(values: Sequence[float]) -> str:
    return f"{min(values):.3g} - {max(values):.3g}"


def ratio_cells(values: Sequence[float]) -> tuple[str, str, str]:
    median = statistics.median(values)
    return f"{median:.3f}", spread(values), f"{1 / median:.1f}"


def reached(values: Sequence[float], goal: str) -> str:
    if not goal:
        return ""
    return "yes" if statistics.median(values) <= float(goal.removeprefix("<= ")) else "no"


if __name__ == "__main__":
    main()
