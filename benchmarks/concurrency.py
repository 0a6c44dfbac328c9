"""How close 1,000 calls of 100 ms come to the ideal, from synchronous metrics: ours, litellm, DSPy and bare aiohttp.

The ideal is calls × latency / calls at a time. The server is a process of its own on this machine; every client is one
too, runs after the others, and is warmed by a call that is not counted. Medians over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _measure import DSPY, HERE, circumstances, peer_python, plain_environment, print_table, run_json, say, write_json

GOALS = {32: 1.10, 128: 1.35}
OURS = ("ours", "bare aiohttp", "litellm.acompletion", "litellm.completion")
PEERS = ("default", "litellm")


def main() -> None:
    options = read_options()
    peer = None if options.no_peer else options.peer or peer_python()
    samples: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    with slow_server(options.latency_seconds) as url, tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            for at_a_time in options.at_a_time:
                for name, command in commands(url, at_a_time, options.calls, peer).items():
                    spent = run_json(command, cwd=Path(folder), environment=plain_environment(**QUIET))
                    samples[name, at_a_time].append(spent)
    report(options, samples)


QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONWARNINGS": "ignore"}


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", metavar="PYTHON", help="a Python that has DSPy")
    parser.add_argument("--no-peer", action="store_true", help="measure without DSPy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--latency-seconds", type=float, default=0.1)
    parser.add_argument("--at-a-time", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args()


@contextmanager
def slow_server(latency_seconds: float) -> Iterator[str]:
    command = [sys.executable, str(HERE / "_slow_server.py"), str(latency_seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def commands(url: str, at_a_time: int, calls: int, peer: str | None) -> dict[str, list[str]]:
    """Name → what runs it, in the order of a round."""
    here = {name: [sys.executable, str(HERE / "_calls.py"), url, f"{name}={at_a_time}", str(calls)] for name in OURS}
    if peer is None:
        return here
    script = str(HERE / "peer_dspy_calls.py")
    there = {f"dspy, {name}": [peer, script, url, f"{name}={at_a_time}", str(calls)] for name in PEERS}
    return {**here, **there}


def report(options: argparse.Namespace, samples: dict[tuple[str, int], list[dict[str, float]]]) -> None:
    rows = []
    for (name, at_a_time), taken in samples.items():
        ideal_us = 1e6 * options.latency_seconds / at_a_time
        over_ideal = [spent["wall_us"] / ideal_us for spent in taken]
        cpu_us = statistics.median(spent["cpu_us"] for spent in taken)
        goal = GOALS.get(at_a_time) if name == "ours" else None
        rows.append(
            (
                name,
                at_a_time,
                f"{statistics.median(over_ideal):.2f}",
                f"{min(over_ideal):.2f} - {max(over_ideal):.2f}",
                f"{cpu_us:.0f}",
                "" if goal is None else f"<= {goal:.2f}",
                "" if goal is None else "yes" if statistics.median(over_ideal) <= goal else "no",
            )
        )
    rows.sort(key=lambda row: row[1])
    headers = ("client", "at a time", "wall over ideal", "lowest - highest", "CPU us a call", "goal", "reached")
    print_table(rows, headers)
    settings = {name: getattr(options, name) for name in ("rounds", "calls", "latency_seconds", "at_a_time")}
    content = {
        "settings": {**settings, "peer": None if options.no_peer else DSPY},
        "samples": {f"{name}={at_a_time}": taken for (name, at_a_time), taken in samples.items()},
        "circumstances": circumstances("aiohttp", "litellm"),
    }
    write_json(options.json, content)


if __name__ == "__main__":
    main()
