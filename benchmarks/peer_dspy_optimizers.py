"""DSPy's and GEPA's side of ``optimizers.py``; runs in an environment that has them.

Jobs come in as JSON lines; results go out as JSON lines, one for each budget of LM calls, and ``null`` after the last.
The model is the same offline model that ours use, and it gets DSPy's messages as they are. Requests at temperature 0
that repeat within a run count once, as DSPy's cache would have it; at other temperatures every call is a draw of its
own and counts.

A run is made once for all budgets wherever a smaller setting makes the same steps and stops sooner: the winner within a
budget is what the largest setting that fits it would have returned. Where that is so is said at each strategy.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from types import SimpleNamespace
from typing import Any, Literal

os.environ.setdefault("TQDM_DISABLE", "1")
warnings.simplefilter("ignore")

import dspy  # noqa: E402 - quiet first
import gepa  # noqa: E402
from _optimizers_prompt import prompt_words, read_reply, signature_of  # noqa: E402
from gepa.core.adapter import EvaluationBatch  # noqa: E402

from pytest_promptopt.lms.offline import reply  # noqa: E402
from pytest_promptopt.prompts.compiled import CompiledPrompt  # noqa: E402
from pytest_promptopt.prompts.rendering import render  # noqa: E402

Row = Mapping[str, str]
NEVER = 10**9
COPRO_BREADTH, COPRO_DEPTH = 10, 3


class LM(dspy.BaseLM):
    """An offline model behind DSPy's interface; copies share the ``ledger``."""

    def __init__(self, model: str, ledger: Ledger) -> None:
        super().__init__(model, temperature=0.0, cache=False)
        self.ledger = ledger

    def forward(self, prompt: str | None = None, messages: Any = None, **kwargs: Any) -> Any:
        """One choice, or ``n`` of them; what ``copy`` put on stands in ``self.kwargs``."""
        asked = {**self.kwargs, **kwargs}
        messages = messages or [{"role": "user", "content": prompt}]
        rollout = int(asked.get("rollout_id") or 0)
        heat = asked.get("temperature") or 0.0
        texts = [self.ledger.ask(self.model, messages, heat, rollout) for _ in range(asked.get("n") or 1)]
        choices = [SimpleNamespace(message=SimpleNamespace(content=text), finish_reason="stop") for text in texts]
        return SimpleNamespace(choices=choices, usage={}, model=self.model)


@dataclass
class Ledger:
    """The distinct calls of one run."""

    calls: int = 0
    replies: dict[object, str] = field(default_factory=dict)
    draws: Counter[object] = field(default_factory=Counter)
    is_off: bool = False

    def ask(self, model: str, messages: Sequence[Mapping[str, str]], temperature: float, rollout: int = 0) -> str:
        """The reply; ``rollout`` tells apart what DSPy wants to be told apart."""
        key = (*((message["role"], message["content"]) for message in messages), temperature, rollout)
        if temperature:
            self.draws[key] += 1
            key = (*key, self.draws[key])
        if key not in self.replies:
            self.calls += not self.is_off
            draw = rollout * 1_000 + self.draws[key[:-1]] if temperature else 0
            self.replies[key] = reply(model, messages, temperature=temperature, seed=draw)
        return self.replies[key]


class Classify(dspy.Module):
    """Say what the user wants."""

    def __init__(self, signature: Any) -> None:
        super().__init__()
        self.predict = dspy.Predict(signature)

    def forward(self, utterance: str) -> Any:
        """The intent."""
        return self.predict(utterance=utterance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What a run had after so many calls: its best program so far, and that one's score on the val rows."""

    calls: int
    program: Any
    val_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One block and seed as DSPy has it."""

    model: str
    seed: int
    labels: tuple[str, ...]
    instruction: str
    train: list[Any]
    val: list[Any]
    fresh: list[Any]

    @classmethod
    def read(cls, block: Mapping[str, Any]) -> Task:
        """The block as it comes in."""
        sides = {side: [_example(row) for row in block[side]] for side in ("train", "val", "fresh")}
        plain = {name: block[name] for name in ("model", "seed", "instruction")}
        return cls(**plain, labels=tuple(block["labels"]), **sides)

    def start(self) -> Classify:
        """The program that every search begins with.

        The labels are a ``Literal``: DSPy then lists them in the prompt and reads them back, as its users have it.
        """
        utterance, intent = (str, dspy.InputField()), (Literal[self.labels], dspy.OutputField())  # type: ignore[valid-type]
        return Classify(dspy.Signature({"utterance": utterance, "intent": intent}, self.instruction))


def _example(row: Row) -> Any:
    return dspy.Example(utterance=row["utterance"], intent=row["intent"]).with_inputs("utterance")


def is_right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(example.intent == prediction.intent)


def words_of(said: str, expected: str) -> str:
    """The feedback on one row: pytest's words where it failed; where it passed, what DSPy's own examples say."""
    return f"The answer {expected!r} is correct." if said == expected else f"assert {said!r} == {expected!r}"


def right_with_words(example: Any, prediction: Any, trace: Any = None, name: Any = None, inner: Any = None) -> Any:
    said = words_of(prediction.intent, example.intent)
    return dspy.Prediction(score=float(prediction.intent == example.intent), feedback=said)


# --- strategies: each yields the points of one run, or of several settings, cheapest first ----------------------------


def random_search(task: Task, lm: LM, budgets: Sequence[int]) -> Iterator[Point]:
    """BootstrapFewShotWithRandomSearch with its defaults and as many candidates as fit.

    Candidates do not depend on each other, so each is made by itself with ``restrict``, which is what a loop over all
    of them does; the first best one wins there and here.
    """
    best: Point | None = None
    for number in range(-3, max(budgets)):
        search = dspy.BootstrapFewShotWithRandomSearch(
            metric=is_right, num_candidate_programs=max(budgets), num_threads=1
        )
        made = search.compile(task.start(), trainset=task.train, valset=task.val, restrict=[number])
        score = made.candidate_programs[0]["score"] / 100
        if best is None or score > best.val_score:
            best = Point(calls=0, program=made, val_score=score)
        yield Point(calls=lm.ledger.calls, program=best.program, val_score=best.val_score)


class _Enough(BaseException):
    """A run has spent what it may."""


class _WatchedMIPROv2(dspy.MIPROv2):  # type: ignore[misc]  # DSPy is not typed here
    """MIPROv2 that tells after each full trial what it has; nothing else is changed."""

    after_trial: Callable[[Mapping[str, Any]], None]

    def _log_normal_eval(
        self, score: float, best_score: float, chosen: Any, score_data: Sequence[Mapping[str, Any]], *more: Any
    ) -> None:
        self.after_trial(max(score_data, key=lambda trial: trial["score"]))  # the first of equal ones, as there


def mipro(task: Task, lm: LM, budgets: Sequence[int]) -> Iterator[Point]:
    """MIPROv2 by its authors' rules for ``auto``: ``n`` demo sets, half as many instructions, no minibatches.

    ``auto`` has no minibatches up to 50 val rows. ``n`` is the largest whose trials by the authors' formula fit the
    budget, or one more where all combinations would be tried before it is spent; 3 at least, since 2 sets hold no
    bootstrapped one. Trials go on until the budget is spent, for those that repeat an earlier combination cost nothing;
    the first trials of a longer run are those of a shorter one.
    """
    (budget,) = budgets
    sets = max((n for n in range(4, 60) if _mipro_calls(task, n, _mipro_trials(n)) <= budget), default=3)
    while _mipro_calls(task, sets, sets * _mipro_instructions(sets)) <= budget:
        sets += 1
    search = _WatchedMIPROv2(
        metric=is_right, auto=None, num_candidates=sets, num_threads=1, seed=1_000 + task.seed, max_errors=NEVER
    )
    search.num_instruct_candidates = _mipro_instructions(sets)
    points: list[Point] = []

    def after_trial(best: Mapping[str, Any]) -> None:
        points.append(Point(calls=lm.ledger.calls, program=best["program"], val_score=best["score"] / 100))
        if lm.ledger.calls >= budget or len(points) > 3 * budget // len(task.val):
            raise _Enough

    search.after_trial = after_trial
    with suppress(_Enough):
        search.compile(task.start(), trainset=task.train, valset=task.val, num_trials=NEVER, minibatch=False)
    yield from points


def _mipro_trials(sets: int) -> int:
    return int(max(4 * math.log2(sets), 1.5 * sets))


def _mipro_instructions(sets: int) -> int:
    return max(2, sets // 2)


def _mipro_calls(task: Task, sets: int, trials: int) -> int:
    """What a search takes if no trial repeats another: dataset summary, proposals, bootstraps, trials and the start."""
    proposals = 2 + min(9, math.ceil((len(task.train) - 10) / 10)) + 3 * _mipro_instructions(sets)
    return proposals + 4 * (sets - 2) + len(task.val) * (trials + 1)


def copro(task: Task, lm: LM, budgets: Sequence[int]) -> Iterator[Point]:
    """COPRO with the most candidates that fit, at most its default breadth and depth.

    A shape that takes more than it should, because replies had to be asked for again, gives way to the next smaller
    one; where repeats leave room it goes deeper, up to twice. It has one set of rows, to choose by, and shows none of
    them to anybody: so it gets the val rows.
    """
    (budget,) = budgets
    every = product(range(2, COPRO_BREADTH + 1), range(1, COPRO_DEPTH + 1))
    shapes = [shape for shape in every if _copro_calls(task, *shape) <= budget]
    point = None
    for breadth, depth in sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape[1]), reverse=True):
        point = _run_copro(task, lm, breadth, depth)
        if point.calls <= budget:
            break
    while point is not None:
        yield point
        is_full = budget - point.calls < len(task.val) or depth == 2 * COPRO_DEPTH
        depth += 1
        point = None if is_full else _run_copro(task, lm, breadth, depth)


def _run_copro(task: Task, lm: LM, breadth: int, depth: int) -> Point:
    lm.ledger = Ledger()
    search = dspy.COPRO(metric=is_right, breadth=breadth, depth=depth)
    made = search.compile(task.start(), trainset=task.val, eval_kwargs={"num_threads": 1, "display_progress": False})
    return Point(calls=lm.ledger.calls, program=made, val_score=made.candidate_programs[0]["score"] / 100)


def _copro_calls(task: Task, breadth: int, depth: int) -> int:
    return breadth * depth - 1 + len(task.val) * breadth * depth


def dspy_gepa(task: Task, lm: LM, budgets: Sequence[int]) -> Iterator[Point]:
    """DSPy's GEPA with its defaults, stopped between iterations, which is where its own budget is looked at too."""
    points: list[Point] = []
    search = dspy.GEPA(
        metric=right_with_words,
        max_metric_calls=20 * max(budgets),
        reflection_lm=lm.copy(temperature=1.0),
        num_threads=1,
        seed=task.seed,
        gepa_kwargs={"stop_callbacks": [_stopper(points, lm.ledger, max(budgets))]},
    )
    search.compile(task.start(), trainset=task.train, valset=task.val)
    for point in points:
        yield Point(calls=point.calls, program=_instructed(task, point.program), val_score=point.val_score)


def _instructed(task: Task, candidate: Mapping[str, str]) -> Classify:
    program = task.start()
    (instruction,) = candidate.values()
    program.predict.signature = program.predict.signature.with_instructions(instruction)
    return program


def _stopper(points: list[Point], ledger: Ledger, most: int) -> Callable[[Any], bool]:
    """Puts down what there is between iterations; ends a run that has spent ``most`` or does nothing new any more."""
    idle = [0]

    def stop(state: Any) -> bool:
        scores = [sum(each.values()) / len(each) for each in state.prog_candidate_val_subscores]
        best = max(range(len(scores)), key=scores.__getitem__)
        idle[0] = idle[0] + 1 if points and points[-1].calls == ledger.calls else 0
        points.append(Point(calls=ledger.calls, program=dict(state.program_candidates[best]), val_score=scores[best]))
        return ledger.calls >= most or idle[0] > 50

    return stop


class PlainAdapter:
    """GEPA without DSPy: the prompt as ours sends it, the reply as ours reads it."""

    propose_new_texts = None

    def __init__(self, task: Task, ledger: Ledger) -> None:
        self.task, self.ledger, self.signature = task, ledger, signature_of(task.labels, task.instruction)

    def answer(self, instruction: str, utterance: str) -> tuple[str, str]:
        """The intent, or an empty one and why."""
        messages = render(self.signature, CompiledPrompt(instruction=instruction), {"utterance": utterance})
        return read_reply(self.signature, self.ledger.ask(self.task.model, messages, 0.0))

    def evaluate(self, batch: list[Any], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        """Scores, and what GEPA reflects on."""
        traces = []
        for row in batch:
            said, fault = self.answer(candidate["instruction"], row.utterance)
            traces.append({"row": row, "said": said, "feedback": fault or words_of(said, row.intent)})
        scores = [float(trace["said"] == trace["row"].intent) for trace in traces]
        return EvaluationBatch(
            outputs=[trace["said"] for trace in traces], scores=scores, trajectories=traces if capture_traces else None
        )

    def make_reflective_dataset(self, candidate: Any, batch: Any, components: list[str]) -> dict[str, list[Any]]:
        """The records that GEPA shows, under the keys that its documentation gives them."""
        records = [
            {
                "Inputs": {"utterance": trace["row"].utterance},
                "Generated Outputs": {"intent": trace["said"]},
                "Feedback": trace["feedback"],
            }
            for trace in batch.trajectories
        ]
        return dict.fromkeys(components, records)


def plain_gepa(task: Task, lm: LM, budgets: Sequence[int]) -> Iterator[Point]:
    """GEPA 0.1.4 as its own package has it, with its defaults, on the prompt that ours starts from.

    Stopped as ``dspy_gepa`` is.
    """
    points: list[Point] = []
    ledger = lm.ledger

    def reflect(prompt: Any) -> str:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return ledger.ask(task.model, messages, 1.0)

    gepa.optimize(
        seed_candidate={"instruction": task.instruction},
        trainset=task.train,
        valset=task.val,
        adapter=PlainAdapter(task, ledger),
        reflection_lm=reflect,
        max_metric_calls=20 * max(budgets),
        stop_callbacks=[_stopper(points, ledger, max(budgets))],
        logger=SimpleNamespace(log=lambda _: None),
        seed=task.seed,
    )
    yield from points


STRATEGIES: Mapping[str, Callable[[Task, LM, Sequence[int]], Iterator[Point]]] = {
    "dspy RandomSearch": random_search,
    "dspy COPRO": copro,
    "dspy MIPROv2": mipro,
    "dspy GEPA": dspy_gepa,
    "gepa 0.1.4": plain_gepa,
}
APART = ("dspy COPRO", "dspy MIPROv2")
"""Their settings hang on the budget, so each budget is a run of its own."""


# --- one job ----------------------------------------------------------------------------------------------------------


@dataclass
class Judge:
    """Scores programs of one task on its fresh rows, each content once."""

    task: Task
    known: dict[object, float] = field(default_factory=dict)

    def score(self, program: Any) -> float:
        """The share of fresh rows that it gets right."""
        key = _content(program)
        if key not in self.known:
            self.known[key] = self._measure(program)
        return self.known[key]

    def _measure(self, program: Any) -> float:
        if isinstance(program, Classify):
            return _score(program, self.task.fresh)
        adapter = PlainAdapter(self.task, Ledger(is_off=True))
        right = [adapter.answer(program["instruction"], row.utterance)[0] == row.intent for row in self.task.fresh]
        return sum(right) / len(right)


def _content(program: Any) -> tuple[object, ...]:
    """Instruction and demos."""
    if not isinstance(program, Classify):
        return (program["instruction"],)
    predict = program.predict
    return predict.signature.instructions, *((demo["utterance"], demo["intent"]) for demo in predict.demos)


def _score(program: Classify, rows: Sequence[Any]) -> float:
    run = dspy.Evaluate(devset=rows, metric=is_right, num_threads=1, max_errors=NEVER, display_progress=False)
    return float(sum(score for *_, score in run(program).results)) / len(rows)


def words_sent(program: Any, task: Task) -> int:
    """Words in front of a row's own, as they are sent."""
    if not isinstance(program, Classify):
        compiled = CompiledPrompt(instruction=program["instruction"])
        return prompt_words(signature_of(task.labels, task.instruction), compiled)
    predict = program.predict
    messages = dspy.ChatAdapter().format(predict.signature, predict.demos, {"utterance": ""})
    return sum(len(message["content"].split()) for message in messages)


def run_job(job: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """The results on one block: of every strategy that is wanted, for its budgets."""
    task = Task.read(job["block"])
    judge = Judge(task)
    for strategy, wanted in job["wanted"].items():
        for budgets in [[budget] for budget in wanted] if strategy in APART else [wanted]:
            start = time.perf_counter()
            lm = LM(task.model, Ledger())
            with dspy.context(lm=lm):
                points = list(_until(STRATEGIES[strategy](task, lm, budgets), max(budgets)))
            seconds = round(time.perf_counter() - start, 3)
            with dspy.context(lm=LM(task.model, Ledger(is_off=True))):
                for budget in budgets:
                    found = _result(task, judge, points, budget, is_plain=strategy.startswith("gepa"))
                    yield {"strategy": strategy, "budget": budget, "seconds": seconds, **found}


def _until(points: Iterator[Point], most: int) -> Iterator[Point]:
    for point in points:
        yield point
        if point.calls >= most:
            return


def _result(task: Task, judge: Judge, points: Sequence[Point], budget: int, *, is_plain: bool) -> dict[str, object]:
    start: Any = {"instruction": task.instruction} if is_plain else task.start()
    fitting = [point for point in points if point.calls <= budget]
    winner = fitting[-1] if fitting else Point(calls=0, program=start, val_score=0.0)
    instruction, *demos = _content(winner.program)
    return {
        "fits": bool(fitting),
        "calls": winner.calls,
        "score": judge.score(winner.program),
        "start": judge.score(start),
        "val_score": winner.val_score if fitting else None,
        "is_start": _content(winner.program) == _content(start),
        "prompt_words": words_sent(winner.program, task),
        "start_words": words_sent(start, task),
        "instruction": instruction,
        "demos": len(demos),
    }


def main() -> None:
    logging.disable(logging.ERROR)
    sys.setrecursionlimit(50_000)  # each of COPRO's candidates copies the signature of the one before it, nested
    dspy.configure(max_errors=NEVER, disable_history=True, num_threads=1)
    answers, sys.stdout = sys.stdout, io.StringIO()  # DSPy prints to where we answer
    for line in sys.stdin:
        job = json.loads(line)
        for result in (*run_job(job), None):
            print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
