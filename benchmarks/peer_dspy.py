"""DSPy's side of ``overhead.py``; runs in an environment that has DSPy, and imports nothing of ours but the workload.

Its model is an engine inside the process, so that neither side pays for a network or for another client library.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import Literal

import dspy
from _workload import answer, demos, label, run_cells, text, timed
from dspy.lm15 import Message, Response, TextPart, Usage

logging.getLogger("dspy").setLevel(logging.ERROR)


class Classify(dspy.Signature):
    """Classify the sentiment."""

    text: str = dspy.InputField()
    label: Literal["positive", "negative", "neutral"] = dspy.OutputField()


class Instant:
    """A model that answers at once, in the form that DSPy's chat adapter asks for."""

    def __init__(self) -> None:
        self.calls = 0

    def complete(self, request):
        """The right label, in fields."""
        self.calls += 1
        said = f"[[ ## label ## ]]\n{answer(request.messages[-1].text or '')}\n\n[[ ## completed ## ]]"
        return Response(
            id=None,
            model="oracle",
            message=Message.assistant([TextPart(said)]),
            finish_reason="stop",
            usage=Usage(input_tokens=0, output_tokens=0, total_tokens=0),
        )

    def close(self) -> None:
        """Nothing to close."""


def program(demo_count: int):
    predict = dspy.Predict(Classify)
    predict.demos = [dspy.Example(text=words, label=output) for words, output in demos(demo_count)]
    return predict


def is_right(example, prediction, trace=None) -> bool:
    return example.label == prediction.label


def evaluate(rows, demo_count: int, threads: int) -> int:
    run = dspy.Evaluate(devset=rows, metric=is_right, num_threads=threads, display_progress=False)
    return round(run(program(demo_count)).score * len(rows) / 100)


def rows_of(count: int):
    return [dspy.Example(text=text(number), label=label(number)).with_inputs("text") for number in range(count)]


def instant(demo_count: int, threads: int, count: int) -> dict[str, float]:
    dspy.configure(lm=dspy.LM("oracle", engine=Instant(), cache=False))
    evaluate(rows_of(50), demo_count, threads)
    rows = rows_of(count)
    return timed(lambda: evaluate(rows, demo_count, threads), count)


def cached(must_hit: bool, count: int) -> dict[str, float]:
    """Through DSPy's disk cache: the first process fills it, a second one finds every reply there."""
    if "DSPY_CACHEDIR" not in os.environ:
        raise SystemExit("set DSPY_CACHEDIR to a folder of this run's own")
    engine = Instant()
    dspy.configure(lm=dspy.LM("oracle", engine=engine, cache=True))
    rows = rows_of(count)
    result = timed(lambda: evaluate(rows, 0, 1), count)
    if must_hit and engine.calls:
        raise SystemExit("the warm cache called the model")
    return result


if __name__ == "__main__":
    run_cells(
        {
            "0 demos": partial(instant, 0, 1),
            "16 demos": partial(instant, 16, 1),
            "0 demos, threads": partial(instant, 0, 16),
            "fill": partial(cached, False),
            "replay": partial(cached, True),
        }
    )
