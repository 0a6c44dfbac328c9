"""What a search costs beside the model's own time, ours and DSPy's in turn: for each LM call, and run again warm.

The same search on both sides: random search over bootstrapped demos, on the same rows, with an instant model. Ours is a
whole ``pytest --optimize-prompts`` and writes to its store, DSPy's a ``compile`` and writes to its disk cache; then the
same again, every reply from there. CPU time after start-up, and of the whole process; ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _measure import DSPY, HERE, circumstances, peer_python, plain_environment, print_table, run, say, write_json
from _workload import label, text

SEALED_ROWS = 20
PROJECT = {
    "pytest.ini": "[pytest]\npythonpath = .\n",
    "prompts.py": '''from typing import Literal

from pytest_promptopt import prompt


@prompt
def classify(text: str) -> Literal["positive", "negative", "neutral"]:
    """Classify the sentiment."""
''',
    "test_sentiment.py": """import pytest
from prompts import classify


@pytest.mark.prompt_metric("rows.jsonl")
def test_sentiment(example):
    assert classify(text=example["text"]) == example["label"]
""",
    "conftest.py": """import json
import sys
import time

import pytest

sys.path.insert(0, {here!r})
from _workload import guess
from pytest_promptopt.lms.base import Reply

start = 0.0


class Fallible:
    is_offline = True
    calls = 0

    def complete(self, request):
        Fallible.calls += 1
        return Reply(text=guess(request.messages[-1]["content"], len(request.messages)), cost_usd=0.0)


def pytest_promptopt_make_lm(model):
    return Fallible() if model == "instant/oracle" else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop():
    start = time.process_time()
    result = yield
    with open("spent.json", "w") as file:
        json.dump({{"cpu_seconds": time.process_time() - start, "calls": Fallible.calls}}, file)
    return result
""",
}
RATIOS = (
    ("CPU of the search for each LM call", "ours", "dspy", "cpu_us_a_call", ""),
    ("CPU of the search, warm", "ours, warm", "dspy, warm", "cpu_seconds", ""),
    ("CPU of the whole process, warm", "ours, warm", "dspy, warm", "process_seconds", "<= 0.10"),
    ("CPU of the whole process", "ours", "dspy", "process_seconds", ""),
)
Cell = dict[str, float]


def main() -> None:
    options = read_options()
    peer = options.peer or peer_python()
    samples: dict[str, list[Cell]] = defaultdict(list)
    for number in range(options.rounds):
        say(f"round {number + 1} of {options.rounds}")
        for name, cell in one_round(options, peer).items():
            samples[name].append(cell)
    report(options, samples)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", metavar="PYTHON", help="a Python that has DSPy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=200, help="rows of the train side, and of the val side")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args()


def one_round(options: argparse.Namespace, peer: str) -> dict[str, Cell]:
    """Each side cold, then warm; processes of their own, one after the other."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_project(folder / "project", options.rows)
        theirs = [
            peer,
            str(HERE / "peer_dspy_optimize.py"),
            *map(str, (options.rows, options.rows, options.candidates)),
        ]
        cells = {"ours": search(folder / "project", options.candidates)}
        cells["dspy"] = compile_dspy(theirs, folder)
        cells["ours, warm"] = search(folder / "project", options.candidates)
        cells["dspy, warm"] = compile_dspy(theirs, folder)
    for side in ("ours", "dspy"):
        if cells[f"{side}, warm"]["calls"]:
            raise SystemExit(f"the warm run of {side} called the model")
        cells[side]["cpu_us_a_call"] = 1e6 * cells[side]["cpu_seconds"] / cells[side]["calls"]
    return cells


def make_project(folder: Path, rows: int) -> None:
    folder.mkdir()
    sides = ["train"] * rows + ["val"] * rows + ["test"] * SEALED_ROWS
    dataset = [{"text": text(number), "label": label(number), "split": side} for number, side in enumerate(sides)]
    files = {**PROJECT, "conftest.py": PROJECT["conftest.py"].format(here=str(HERE))}
    files["rows.jsonl"] = "".join(json.dumps(row) + "\n" for row in dataset)
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")


def search(folder: Path, candidates: int) -> Cell:
    """One ``pytest --optimize-prompts`` as a user types it; other installed plugins stay out."""
    name = "bootstrap-random-search"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_promptopt.plugin", "-p", "no:cacheprovider"]
    wanted = ["--optimize-prompts", "--prompt-optimizer", name, "--prompt-model", "instant/oracle"]
    settings = ["--prompt-set", f"{name}.num_candidates={candidates}"]
    ended = run(
        [*command, *wanted, *settings], cwd=folder, environment=plain_environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    )
    if ended.code:
        raise SystemExit(f"our search ended with {ended.code}:\n{ended.output[-3000:]}")
    spent: Cell = json.loads((folder / "spent.json").read_text(encoding="utf-8"))
    return {**spent, "process_seconds": ended.cpu_seconds}


def compile_dspy(command: Sequence[str], folder: Path) -> Cell:
    environment = plain_environment(DSPY_CACHEDIR=str(folder / "dspy"), TQDM_DISABLE="1")
    ended = run(command, cwd=folder, environment=environment)
    if ended.code:
        raise SystemExit(f"DSPy's search ended with {ended.code}:\n{ended.output[-3000:]}")
    spent: Cell = json.loads(ended.output.strip().splitlines()[-1])
    return {**spent, "process_seconds": ended.cpu_seconds}


def report(options: argparse.Namespace, samples: dict[str, list[Cell]]) -> None:
    rows = [(name, *(middle(cells, key) for key in CELLS)) for name, cells in samples.items()]
    print_table(rows, ("search", *CELLS.values()))
    print()
    ratios: dict[str, list[float]] = {}
    shown: list[tuple[Any, ...]] = []
    for title, ours, theirs, key, goal in RATIOS:
        ratios[title] = [a[key] / b[key] for a, b in zip(samples[ours], samples[theirs], strict=True)]
        median = statistics.median(ratios[title])
        reached = "" if not goal else "yes" if median <= float(goal.removeprefix("<= ")) else "no"
        spread = f"{min(ratios[title]):.3g} - {max(ratios[title]):.3g}"
        shown.append((title, f"{median:.3f}", spread, f"{1 / median:.1f}", goal, reached))
    print_table(shown, ("ours over DSPy's", "median", "lowest - highest", "one over", "goal", "reached"))
    settings = {name: getattr(options, name) for name in ("rounds", "rows", "candidates")}
    content = {"settings": {**settings, "peer": DSPY}, "samples": samples, "ratios": ratios}
    write_json(options.json, {**content, "circumstances": circumstances()})


CELLS = {
    "calls": "LM calls",
    "cpu_us_a_call": "CPU us a call",
    "cpu_seconds": "CPU s of the search",
    "process_seconds": "CPU s of the process",
}


def middle(cells: Sequence[Cell], key: str) -> str:
    """The median over rounds; empty where there is none."""
    if key not in cells[0]:
        return ""
    value = statistics.median(cell[key] for cell in cells)
    return f"{value:.0f}" if value >= 100 or key == "calls" else f"{value:.2f}"


if __name__ == "__main__":
    main()
