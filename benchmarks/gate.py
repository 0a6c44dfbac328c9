"""How often does the gate cry wolf, and how often does it see the wolf? Thousands of simulated pull requests.

Four tables: pull requests without a real change, in projects of all kinds and after a freeze; real drops at many sizes
of dataset; and losses of a point a week whose scores are blessed every week. The truth is known, and everything goes
through the gate, the confirmation and the anchor as the plugin calls them. docs/statistics.md holds the result.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
from _gate_world import (
    Slide,
    any_pull_request_is_red,
    rewording_after_freeze_is_red,
    rewording_is_red,
    rewordings_in_turn,
    share_of,
    share_of_red,
    slide,
)
from numpy.random import Generator
from tabulate import tabulate

from pytest_promptopt.gate import Outcome

WORLDS: dict[str, Callable[[Generator], bool]] = {
    "any project: 12 to 200 rows, 1 to 5 metrics, any rewording": any_pull_request_is_red,
    "100 rows, a third reworded": lambda rng: rewording_is_red(rng, rows=100, share=0.3),
    "100 rows, written anew": lambda rng: rewording_is_red(rng, rows=100, share=1.0),
    "30 rows, written anew": lambda rng: rewording_is_red(rng, rows=30, share=1.0),
    "100 rows in groups of 4, written anew": lambda rng: rewording_is_red(rng, rows=100, share=1.0, group_size=4),
    "60 graded rows, written anew": lambda rng: rewording_is_red(rng, rows=60, share=1.0, kind="grades"),
    "60 rows, 3 repeats, written anew": lambda rng: rewording_is_red(rng, rows=60, share=1.0, kind="repeats"),
    "5 metrics of 100 rows, written anew": lambda rng: rewording_is_red(rng, rows=100, share=1.0, metrics=5),
}
FREEZES: dict[str, Callable[[Generator], bool]] = {
    "replies vary (a fresh draw is the baseline), a lucky winner": lambda rng: rewording_after_freeze_is_red(
        rng, rows=79, is_fresh=True
    ),
    "pinned, winners 5 +- 3 points better, a fifth reworded": lambda rng: rewording_after_freeze_is_red(
        rng, rows=79, share=0.2, gain=0.05, spread=0.03
    ),
    "pinned, winners 5 +- 3 points better, written anew": lambda rng: rewording_after_freeze_is_red(
        rng, rows=79, share=1.0, gain=0.05, spread=0.03
    ),
    "pinned, a lucky winner, a fifth reworded": lambda rng: rewording_after_freeze_is_red(rng, rows=79, share=0.2),
    "pinned, a lucky winner, written anew": lambda rng: rewording_after_freeze_is_red(rng, rows=79, share=1.0),
    "the last but one with 200 sealed rows": lambda rng: rewording_after_freeze_is_red(rng, rows=200, share=0.2),
}
POWER_ROWS = ((10, 0.10), (20, 0.10), (30, 0.10), (50, 0.10), (100, 0.03), (100, 0.10), (200, 0.03), (200, 0.10))
DROPS = (0.0, 0.05, 0.10, 0.20)
WEEKS = 20


def main() -> None:
    options = read_options()
    start = time.perf_counter()
    print("Pull requests without a real change\n")
    print_shares({**WORLDS, "100 rows, written anew, the 20th blessing in turn": _after_blessings}, options)
    print("\nThe same right after a freeze, 79 sealed rows\n")
    print_shares(FREEZES, options)
    print("\nA real drop, 0/1 scores\n")
    print_power(options)
    print(f"\nA point a week, blessed every week, for {WEEKS} weeks\n")
    print_slides(options)
    print(f"\n{time.perf_counter() - start:.0f} s, seed {options.seed}")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2_000, help="simulated pull requests of each kind")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _after_blessings(rng: Generator) -> bool:
    """Whether the twentieth of as many rewordings is red, all of them blessed."""
    *_, last = rewordings_in_turn(rng, rows=100, share=1.0, weeks=20)
    return last.outcome is Outcome.FAIL


def print_shares(worlds: dict[str, Callable[[Generator], bool]], options: argparse.Namespace) -> None:
    table = []
    for number, (name, is_red) in enumerate(worlds.items()):
        rng = np.random.default_rng([options.seed, number])
        share = share_of([is_red(rng) for _ in range(options.runs)])
        table.append([name, f"{100 * share:.1f} %", f"{196 * (share * (1 - share) / options.runs) ** 0.5:.1f}"])
    print(tabulate(table, ["pull request", "red", "+-"], tablefmt="github", colalign=("left", "right", "right")))


def print_power(options: argparse.Namespace) -> None:
    table = []
    for rows, idle in POWER_ROWS:
        rng = np.random.default_rng([options.seed, rows, round(100 * idle)])
        shares = [share_of_red(rng, rows=rows, drop=drop, idle=idle, runs=5 * options.runs) for drop in DROPS]
        table.append([rows, f"{100 * idle:.0f} %", *(f"{100 * share:.1f} %" for share in shares)])
    drops = ["no drop", *(f"{100 * drop:.0f} points" for drop in DROPS[1:])]
    print(tabulate(table, ["rows", "flip idly, each way", *drops], tablefmt="github", stralign="right"))


def print_slides(options: argparse.Namespace) -> None:
    table = []
    for rows in (50, 100, 200):
        for share in (0.02, 0.10, 0.30):
            rng = np.random.default_rng([options.seed, rows, round(100 * share)])
            runs = max(50, options.runs // 10)
            held, alone = (
                [
                    slide(rng, rows=rows, weekly_loss=0.01, share=share, weeks=WEEKS, has_anchor=has_anchor)
                    for _ in range(runs)
                ]
                for has_anchor in (True, False)
            )
            by_anchor = share_of([each.by_anchor for each in held])
            table.append([rows, f"{100 * share:.0f} %", *_caught(held), f"{100 * by_anchor:.0f} %", *_caught(alone)])
    headers = ["rows", "drawn anew each week", "caught", "median week", "by the anchor", "without it", "median week"]
    print(tabulate(table, headers, tablefmt="github", stralign="right"))


def _caught(slides: Sequence[Slide]) -> tuple[str, str]:
    """The share that was caught, and in which week the median of all of them was."""
    weeks = [WEEKS + 1 if each.week is None else each.week for each in slides]
    median = float(np.median(weeks))
    return f"{100 * share_of([week <= WEEKS for week in weeks]):.0f} %", "-" if median > WEEKS else f"{median:.0f}"


if __name__ == "__main__":
    main()
