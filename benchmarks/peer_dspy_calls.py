"""DSPy's side of ``concurrency.py``: ``dspy.Evaluate`` over its own HTTP client; runs in DSPy's environment.

``python peer_dspy_calls.py URL ENGINE=AT_A_TIME CALLS`` with the engine ``default`` or ``litellm``.
"""

from __future__ import annotations

import json
import logging
import os
import sys

import dspy
from _workload import timed
from peer_dspy import is_right, program, rows_of

logging.getLogger("dspy").setLevel(logging.ERROR)


def main() -> None:
    url, cell, calls = sys.argv[1], sys.argv[2], int(sys.argv[3])
    engine, _, at_a_time = cell.partition("=")
    chosen = {} if engine == "default" else {"engine": engine}
    dspy.configure(
        lm=dspy.LM("openai/slow", api_base=url, api_key="none", cache=False, max_tokens=64, temperature=0.0, **chosen)
    )
    run = dspy.Evaluate(devset=rows_of(calls), metric=is_right, num_threads=int(at_a_time), display_progress=False)
    program(0)(text="example 0 warm-up")
    spent = timed(lambda: round(run(program(0)).score * calls / 100), calls)
    print(json.dumps(spent), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
