"""Measures the landscape that the offline models span: what instructions, demos, their order and their noise are worth.

    python benchmarks/offline_landscape.py --data FOLDER [--json OUT] [--tasks snips,clinc30]

FOLDER holds ``NAME_train.jsonl`` and ``NAME_test.jsonl`` with ``utterance`` and ``intent`` in every row. The first 150
rows of the training file are the user's dataset, rows of the test file are fresh. A reply counts when it is the label
and nothing else.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from random import Random
from statistics import correlation, fmean, median, pstdev

from pytest_promptopt.lms.base import Message
from pytest_promptopt.lms.offline import MODELS, reply

OWN_ROWS, MANY_ROWS, SOME_ROWS = 150, 400, 200
DRAWS, ORDER_SETS, ORDERS = 12, 3, 12
BLAND = "Decide what the user wants."
PARAPHRASES = (
    BLAND,
    "Work out what the user wants.",
    "Decide which intent the user has.",
    "Classify the request of the user.",
    "Find the intent behind this request.",
    "Sort this request by its intent.",
    "You are an assistant that sorts requests.",
    "Determine the intent of the text below.",
    "Read the request and tell which intent it is.",
    "Given a request, name its intent.",
)
NO_RULE, WEAK_RULE = "Possible intents: {}.", "Answer with one of: {}."
EXPLICIT_RULE = "Answer with exactly one of: {}. Write nothing else."
DIALS = ("+dull", "", "+sharp")
FREQUENT = frozenset(
    re.findall(r"\w+", "the my me to of in on for at by with from and or is are was it you your can what")
)

Row = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One data set as a user has it: own rows, fresh rows, and the words that tell its labels apart."""

    name: str
    labels: tuple[str, ...]
    own: tuple[Row, ...]
    fresh: tuple[Row, ...]
    words: dict[str, list[str]]
    own_words: dict[str, list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """An instruction, a rule about replies and demos."""

    instruction: str = BLAND
    rule: str = WEAK_RULE
    demos: tuple[Row, ...] = ()

    def messages(self, labels: Sequence[str]) -> list[Message]:
        """Everything before the question."""
        orders = f"{self.instruction}\n\n{self.rule.format(', '.join(labels))}"
        turns = [(("user", asked), ("assistant", answered)) for asked, answered in self.demos]
        return [
            {"role": "system", "content": orders},
            *({"role": role, "content": text} for turn in turns for role, text in turn),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A model on a task."""

    model: str
    task: Task

    def replies(self, prompt: Prompt, rows: Sequence[Row]) -> list[str]:
        """The reply to each row."""
        prefix = prompt.messages(self.task.labels)
        return [reply(self.model, [*prefix, {"role": "user", "content": asked}]) for asked, _ in rows]

    def hits(self, prompt: Prompt, rows: Sequence[Row]) -> list[bool]:
        """Whether each reply is the label and nothing else."""
        return [said == label for said, (_, label) in zip(self.replies(prompt, rows), rows, strict=True)]

    def accuracy(self, prompt: Prompt, rows: Sequence[Row]) -> float:
        """The share of hits."""
        return fmean(self.hits(prompt, rows))

    def failures(self, prompt: Prompt) -> float:
        """The share of replies that are no label."""
        return fmean(said not in self.task.labels for said in self.replies(prompt, self.task.fresh[:MANY_ROWS]))

    def many(self, prompt: Prompt) -> float:
        """Accuracy on 400 fresh rows."""
        return self.accuracy(prompt, self.task.fresh[:MANY_ROWS])

    def some(self, prompt: Prompt) -> float:
        """Accuracy on 200 fresh rows."""
        return self.accuracy(prompt, self.task.fresh[:SOME_ROWS])


# --- data -------------------------------------------------------------------------------------------------------------


def read_task(folder: Path, name: str) -> Task:
    train, test = (tuple(_read_rows(folder / f"{name}_{part}.jsonl")) for part in ("train", "test"))
    labels = tuple(sorted({label for _, label in train}))
    own = train[:OWN_ROWS]
    return Task(name=name, labels=labels, own=own, fresh=test, words=telling_words(train), own_words=telling_words(own))


def _read_rows(path: Path) -> Iterator[Row]:
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield row["utterance"], row["intent"]


def telling_words(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Per label the words that occur with it often and with others seldom, best first."""
    told: dict[str, Counter[str]] = {}
    every: Counter[str] = Counter()
    for text, label in rows:
        words = set(re.findall(r"[a-z]{3,}", text.lower())) - FREQUENT
        told.setdefault(label, Counter()).update(words)
        every.update(words)
    return {
        label: sorted(seen, key=lambda word: (2 * every[word] - 3 * seen[word], word)) for label, seen in told.items()
    }


# --- prompts ----------------------------------------------------------------------------------------------------------


def rules_from(words: dict[str, list[str]], each: int = 8, opening: str = BLAND) -> str:
    return "\n".join([opening, *(f"{label}: {', '.join(best[:each])}." for label, best in sorted(words.items()))])


def with_wrong_words(task: Task, share: float, rng: Random) -> dict[str, list[str]]:
    """The telling words, some of them taken from another label."""
    others = {label: [each for each in task.labels if each != label] for label in task.labels}
    return {
        label: [
            rng.choice(task.words[rng.choice(others[label])][:8]) if rng.random() < share else word for word in best[:8]
        ]
        for label, best in task.words.items()
    }


def shifted(words: dict[str, list[str]]) -> dict[str, list[str]]:
    """Every label with the words of the next one."""
    labels = sorted(words)
    return {label: words[other] for label, other in zip(labels, labels[1:] + labels[:1], strict=True)}


def demo_sets(task: Task, size: int, count: int = DRAWS) -> list[tuple[Row, ...]]:
    rng = Random(f"demos {task.name} {size}")
    return [tuple(rng.sample(task.own, size)) for _ in range(count)]


def with_noise(demos: tuple[Row, ...], share: float, labels: Sequence[str], rng: Random) -> tuple[Row, ...]:
    wrong = set(rng.sample(range(len(demos)), round(share * len(demos))))
    return tuple(
        (text, rng.choice([each for each in labels if each != label]) if place in wrong else label)
        for place, (text, label) in enumerate(demos)
    )


def thirty_prompts(task: Task) -> list[Prompt]:
    """Ordinary prompts of every kind, the same for all models."""
    rng = Random(f"thirty {task.name}")
    half = {label: best for place, (label, best) in enumerate(sorted(task.own_words.items())) if place % 2}
    instructions = [
        *PARAPHRASES[:4],
        rules_from(task.words),
        rules_from(half),
        rules_from(with_wrong_words(task, 0.4, rng), each=3),
    ]
    return [
        Prompt(
            instruction=rng.choice(instructions),
            rule=rng.choice((WEAK_RULE, EXPLICIT_RULE)),
            demos=tuple(rng.sample(task.own, rng.choice((0, 4, 8, 16)))),
        )
        for _ in range(30)
    ]


def strong_prompts(task: Task) -> list[tuple[str, Prompt]]:
    """75 prompts that an expert may arrive at, each with a word about it."""
    rng = Random(f"strong {task.name}")
    named = [
        ("bland", BLAND),
        ("own words", rules_from(task.own_words)),
        *((f"{each} words", rules_from(task.words, each=each)) for each in (4, 8, 12)),
    ]
    return [
        (f"{size} demos, {name}", Prompt(instruction=text, rule=EXPLICIT_RULE, demos=tuple(rng.sample(task.own, size))))
        for name, text in named
        for size in (0, 4, 8, 16, 24)
        for _ in range(3)
    ]


def proposals(bench: Bench, count: int = 8) -> list[Prompt]:
    """What the model itself writes when it is shown 30 labelled rows."""
    shown = "\n".join(f'text: "{text}" -> {label}' for text, label in bench.task.own[:30])
    request = (
        f"Current instruction:\n```\n{BLAND}\n```\n\nThe answer is one of: {', '.join(bench.task.labels)}\n\n"
        f"Examples:\n{shown}\n\nWrite the improved instruction between ``` fences."
    )
    messages = [
        {"role": "system", "content": "You improve the instruction of a prompt."},
        {"role": "user", "content": request},
    ]
    texts = [reply(bench.model, messages, temperature=1.0, seed=seed) for seed in range(count)]
    return [Prompt(instruction=text.strip("`\n"), rule=EXPLICIT_RULE) for text in texts]


# --- measures ---------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f} ± {pstdev(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def single(value: float) -> str:
    return f"{value:.3f}"


def order_sd(bench: Bench) -> str:
    rng = Random("orders")
    scores = [
        [bench.some(Prompt(demos=tuple(rng.sample(demos, len(demos))))) for _ in range(ORDERS)]
        for demos in demo_sets(bench.task, 8, ORDER_SETS)
    ]
    return single(fmean(map(pstdev, scores)))


def noise_curve(bench: Bench) -> str:
    sets = demo_sets(bench.task, 16, DRAWS)
    rng = Random("noise")
    scores = [
        [bench.some(Prompt(demos=with_noise(demos, share, bench.task.labels, rng))) for demos in sets]
        for share in (0.0, 0.25, 0.5)
    ]
    return " / ".join(single(fmean(each)) for each in scores)


def shares_of_variance(bench: Bench, prompts: Sequence[Prompt]) -> str:
    """Question, prompt, rest: a two-way analysis of variance of the hits."""
    rows = bench.task.fresh[:SOME_ROWS]
    grid = [[float(hit) for hit in bench.hits(prompt, rows)] for prompt in prompts]
    whole = fmean(fmean(line) for line in grid)
    question = fmean((fmean(column) - whole) ** 2 for column in zip(*grid, strict=True))
    prompt = fmean((fmean(line) - whole) ** 2 for line in grid)
    total = whole * (1 - whole)
    return f"{question / total:.0%} / {prompt / total:.1%} / {1 - (question + prompt) / total:.0%}"


def range_of_thirty(bench: Bench) -> str:
    scores = [bench.some(prompt) for prompt in thirty_prompts(bench.task)]
    return f"{min(scores):.3f}, {median(scores):.3f}, {max(scores):.3f}"


def best_strong(bench: Bench) -> str:
    """Chosen on the user's rows, measured on fresh ones."""
    name, prompt = max(strong_prompts(bench.task), key=lambda named: bench.accuracy(named[1], bench.task.own))
    return f"{bench.many(prompt):.3f} ({name})"


def gain_of_proposals(bench: Bench, dial: str) -> str:
    """Mean and best of eight proposals, the best chosen on the user's rows, over the bland prompt; on fresh rows."""
    writer = replace(bench, model=bench.model + dial)
    candidates = proposals(writer)
    start = bench.many(Prompt(rule=EXPLICIT_RULE))
    best = max(candidates, key=lambda prompt: bench.accuracy(prompt, bench.task.own))
    return f"{fmean(map(bench.some, candidates)) - start:+.3f} / {bench.many(best) - start:+.3f}"


def microseconds(bench: Bench) -> str:
    """Of one reply with eight demos; every prompt and question for the first time."""
    sets, rows = demo_sets(bench.task, 8, 4), bench.task.fresh[-100:]
    prompts = [Prompt(instruction="Tell what is wanted.", demos=demos) for demos in sets]
    started = time.perf_counter()
    for prompt in prompts:
        bench.replies(prompt, rows)
    return f"{(time.perf_counter() - started) / (len(prompts) * len(rows)) * 1e6:.0f}"


def measures(task: Task) -> dict[str, Callable[[Bench], str]]:
    good, rng = rules_from(task.words), Random("wrong words")
    wrong, harmful = rules_from(with_wrong_words(task, 0.25, rng)), rules_from(shifted(task.words))
    table: dict[str, Callable[[Bench], str]] = {
        "microseconds per reply, 8 demos": microseconds,
        "bland zero-shot": lambda bench: single(bench.many(Prompt())),
        "  format failures, weak rule": lambda bench: single(bench.failures(Prompt())),
        "  format failures, no rule": lambda bench: single(bench.failures(Prompt(rule=NO_RULE))),
        "  format failures, explicit rule": lambda bench: single(bench.failures(Prompt(rule=EXPLICIT_RULE))),
        "bland + explicit rule": lambda bench: single(bench.many(Prompt(rule=EXPLICIT_RULE))),
        "good instruction": lambda bench: single(bench.many(Prompt(instruction=good))),
        "good instruction from the 150 rows": lambda bench: single(
            bench.many(Prompt(instruction=rules_from(task.own_words)))
        ),
        "good instruction, 25 % wrong words": lambda bench: single(bench.many(Prompt(instruction=wrong))),
        "harmful instruction": lambda bench: single(bench.many(Prompt(instruction=harmful))),
    }
    for size in (4, 8, 16, 32):
        table[f"{size} random demos"] = _with_demos(Prompt(), size)
    return table | {
        "8 random demos + explicit rule": _with_demos(Prompt(rule=EXPLICIT_RULE), 8),
        "good instruction + 8 demos": _with_demos(Prompt(instruction=good), 8),
        "order sd, 8 demos (3 sets x 12 orders)": order_sd,
        "16 demos: clean / 25 % / 50 % wrong labels": noise_curve,
        "10 paraphrases of bland": lambda bench: spread([bench.many(Prompt(instruction=text)) for text in PARAPHRASES]),
        "10 paraphrases in the good instruction": lambda bench: spread(
            [bench.many(Prompt(instruction=rules_from(task.words, opening=text))) for text in PARAPHRASES]
        ),
        "30 prompts: min, median, max": range_of_thirty,
        "variance, 30 prompts: question / prompt / rest": lambda bench: shares_of_variance(bench, thirty_prompts(task)),
        "best of 75 strong prompts, on fresh rows": best_strong,
        "gain of its own proposals, dull: mean / best of 8": lambda bench: gain_of_proposals(bench, "+dull"),
        "gain of its own proposals: mean / best of 8": lambda bench: gain_of_proposals(bench, ""),
        "gain of its own proposals, sharp: mean / best of 8": lambda bench: gain_of_proposals(bench, "+sharp"),
    }


def _with_demos(prompt: Prompt, size: int) -> Callable[[Bench], str]:
    return lambda bench: spread([bench.some(replace(prompt, demos=demos)) for demos in demo_sets(bench.task, size)])


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0, ties shared."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]


def rank_correlations(task: Task) -> dict[str, str]:
    """Spearman's, of thirty prompts between every two models."""
    prompts = thirty_prompts(task)
    scores = {model: [Bench(model=model, task=task).some(prompt) for prompt in prompts] for model in MODELS}
    return {
        f"{_short(one)}-{_short(other)}": f"{correlation(ranks(scores[one]), ranks(scores[other])):.2f}"
        for one, other in combinations(MODELS, 2)
    }


# --- report -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Landscape:
    """The tables of one task."""

    task: str
    table: dict[str, dict[str, str]] = field(default_factory=dict)
    correlations: dict[str, str] = field(default_factory=dict)


def survey(task: Task) -> Landscape:
    landscape = Landscape(task=task.name, correlations=rank_correlations(task))
    for name, measure in measures(task).items():
        landscape.table[name] = {model: measure(Bench(model=model, task=task)) for model in MODELS}
    return landscape


def show(landscape: Landscape, labels: int) -> None:
    print(f"\n## {landscape.task} ({labels} labels)\n")
    print(f"| measure | {' | '.join(map(_short, MODELS))} |\n|---|{'---|' * len(MODELS)}")
    for name, cells in landscape.table.items():
        print(f"| {name} | {' | '.join(cells.values())} |")
    listed = ", ".join(f"{pair} {value}" for pair, value in landscape.correlations.items())
    print(f"\nRank correlation of 30 prompts: {listed}.")


def _short(model: str) -> str:
    return model.removeprefix("offline/")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the landscape of the offline models.")
    parser.add_argument("--data", type=Path, required=True, help="folder with NAME_train.jsonl and NAME_test.jsonl")
    parser.add_argument("--tasks", default="snips,clinc30", help="names, separated by commas")
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    options = parser.parse_args()
    found = {}
    for name in options.tasks.split(","):
        task = read_task(options.data, name)
        landscape = survey(task)
        show(landscape, len(task.labels))
        found[name] = {"table": landscape.table, "rank_correlations": landscape.correlations}
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
