"""How often luck is frozen when winners that are no better are tried again and again on the same sealed rows.

A simulation of the worst case: every attempt brings another winner, independent of those before and exactly as good as
the incumbent, row by row. Real searches stop at a source that nothing beats, and their winners resemble each other.
"""

from __future__ import annotations

import argparse
from random import Random

from tabulate import tabulate

from pytest_promptopt.evaluation.confirmation import Pair, Stratum, confirm, spent_alpha

ALPHA = 0.2


def is_fooled(attempts: int, rows: int, rng: Random) -> bool:
    """Whether any of so many null winners is frozen."""
    easiness = [rng.betavariate(1.2, 0.3) for _ in range(rows)]
    incumbent = [float(rng.random() < each) for each in easiness]
    for before in range(attempts):
        winner = [float(rng.random() < each) for each in easiness]
        pairs = tuple(Pair(winner=new, incumbent=old) for new, old in zip(winner, incumbent, strict=True))
        if confirm([Stratum(metric="metric", pairs=pairs)], alpha=spent_alpha(ALPHA, before)).is_better:
            return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1500, help="simulated datasets a cell")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tries = (1, 2, 5, 10)
    table = []
    for rows in (20, 40, 64, 200):
        rng = Random(options.seed * 1000 + rows)
        shares = [sum(is_fooled(attempts, rows, rng) for _ in range(options.runs)) / options.runs for attempts in tries]
        table.append([rows, *(f"{share:.3f}" for share in shares)])
    print(tabulate(table, ["sealed rows", *(f"{attempts} attempts" for attempts in tries)], tablefmt="github"))


if __name__ == "__main__":
    main()
