"""DSPy's side of ``optimize_overhead.py``: random search over demos on an instant model, with DSPy's disk cache."""

from __future__ import annotations

import io
import json
import logging
import sys
import time

import dspy
from _workload import guess, label, text
from dspy.lm15 import Message, Response, TextPart, Usage
from peer_dspy import Classify


class Fallible:
    """A model that answers at once and is wrong now and then, in the form that DSPy's chat adapter asks for."""

    def __init__(self) -> None:
        self.calls = 0

    def complete(self, request):
        """A label, in fields."""
        self.calls += 1
        said = guess(request.messages[-1].text or "", len(request.messages))
        return Response(
            id=None,
            model="oracle",
            message=Message.assistant([TextPart(f"[[ ## label ## ]]\n{said}\n\n[[ ## completed ## ]]")]),
            finish_reason="stop",
            usage=Usage(input_tokens=0, output_tokens=0, total_tokens=0),
        )

    def close(self) -> None:
        """Nothing to close."""


def is_right(example, prediction, trace=None) -> bool:
    return example.label == prediction.label


def rows_of(start: int, count: int):
    numbers = range(start, start + count)
    return [dspy.Example(text=text(number), label=label(number)).with_inputs("text") for number in numbers]


def main() -> None:
    logging.getLogger("dspy").setLevel(logging.ERROR)
    train, val, candidates = map(int, sys.argv[1:])
    engine = Fallible()
    dspy.configure(lm=dspy.LM("oracle", engine=engine, cache=True))
    search = dspy.BootstrapFewShotWithRandomSearch(
        metric=is_right, num_candidate_programs=candidates, num_threads=1, max_errors=10**9
    )
    answers, sys.stdout = sys.stdout, io.StringIO()  # it prints to where we answer
    cpu = time.process_time()
    search.compile(dspy.Predict(Classify), trainset=rows_of(0, train), valset=rows_of(train, val))
    cpu = time.process_time() - cpu
    print(json.dumps({"cpu_seconds": cpu, "calls": engine.calls}), file=answers)


if __name__ == "__main__":
    main()
