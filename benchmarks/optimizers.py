"""Optimizers at equal numbers of LM calls: ours, DSPy's and GEPA's on the same simulators, rows and budgets.

``run`` appends one JSON line a run and goes on where it was stopped; ``report`` makes the tables and the plot of what
is there. The simulators are no language models: what is shown here is how well a search spends its calls on them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from _measure import HERE, circumstances, say, write_json
from _optimizers_blocks import EXTRA_TASKS, MAIN_TASKS, TASKS, Block, blocks
from _optimizers_report import BUDGETS, DEFAULT, THIRDS, report
from _optimizers_work import Job, key_of, missing, read_records, run_jobs

from pytest_promptopt.lms.offline import MODELS
from pytest_promptopt.optimizers.registry import OPTIMIZERS

EXTRA_BUDGETS = (400,)
RIVALS = ("start", "generate-and-halve")
PEERS = ("dspy RandomSearch", "dspy COPRO", "dspy MIPROv2", "dspy GEPA", "gepa 0.1.4")
RESULTS = HERE / "results" / "optimizers"


def main() -> None:
    options = read_options()
    if options.command == "run":
        run(options)
    if options.command == "report" or options.quick:
        report(read_records(options.out), folder=options.out, docs=HERE.parent / "docs" if options.write_docs else None)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.set_defaults(quick=False, write_docs=False)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="run what is missing")
    runs.add_argument("--data", type=Path, required=True, help="the folder with snips_*.jsonl and clinc30_*.jsonl")
    runs.add_argument("--who", choices=("ours", "peers", "all"), default="all")
    runs.add_argument("--strategies", nargs="+", help="of both sides; all unless given")
    runs.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    runs.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    runs.add_argument("--seeds", type=int, default=10)
    runs.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS))
    runs.add_argument("--jobs", type=int, default=2, help="processes at a time")
    runs.add_argument("--quick", action="store_true", help="one seed, two simulators, two budgets, and the report")
    reports = commands.add_parser("report", help="tables and plot of what is there")
    reports.add_argument("--write-docs", action="store_true", help="put them into docs/optimizers.md")
    for each in (runs, reports):
        each.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.models, options.budgets = 1, list(MODELS[:2]), [200, 400]
        options.out = options.out / "quick"
    return options


def run(options: argparse.Namespace) -> None:
    start = time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / ".gitignore").write_text("*\n", encoding="utf-8")
    done = {key_of(record) for record in read_records(options.out)}
    write_json(options.out / "circumstances.json", circumstances())
    jobs = missing(all_jobs(options), done)
    say(f"{len(jobs)} jobs, {len(done)} runs are there already")
    run_jobs(jobs, folder=options.out, lanes=options.jobs)
    say(f"{time.perf_counter() - start:.0f} s")


def all_jobs(options: argparse.Namespace) -> list[Job]:
    """Seed by seed, block by block, ours before the peers'."""
    drawn = blocks(
        str(options.data.resolve()), seeds=options.seeds, models=tuple(options.models), tasks=tuple(options.tasks)
    )
    sides = ("ours", "peers") if options.who == "all" else (options.who,)
    return [Job(who=who, block=block, wanted=wanted_on(block, who, options)) for block in drawn for who in sides]


def wanted_on(block: Block, who: str, options: argparse.Namespace) -> dict[str, Sequence[int]]:
    """Strategy → budgets. The default also gets a third of every budget."""
    names = PEERS if who == "peers" else (*RIVALS, *OPTIMIZERS)
    chosen = [name for name in names if not options.strategies or name in options.strategies]
    budgets = EXTRA_BUDGETS if block.task in EXTRA_TASKS else options.budgets
    thirds = [third for third, budget in zip(THIRDS, BUDGETS, strict=True) if budget in budgets]
    has_thirds = block.task in MAIN_TASKS
    return {name: sorted({*budgets, *(thirds if name == DEFAULT and has_thirds else ())}) for name in chosen}


if __name__ == "__main__":
    main()
