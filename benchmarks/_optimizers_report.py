"""Tables and plot of what ``optimizers.py`` has run: losses stand where wins do."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import log2
from pathlib import Path
from typing import Any

from _measure import bootstrap_interval, grouped, markdown_table, say, share_interval
from _optimizers_blocks import MAIN_TASKS, SEALED_ROWS
from _optimizers_plot import Line, draw

Record = dict[str, Any]
Score = Callable[[Record], float]
BUDGETS = (100, 200, 400, 800, 1_600)
THIRDS = (33, 67, 133, 267, 533)
ALPHA = 0.2
LOOKED_AT = 400
DEFAULT = "reflect-race"
"""What runs unless another strategy is named."""

CONFIRMED_THIRDS = ((133, 800), (400, 1_600))
"""Budgets that are a third of MIPROv2's once the confirmation is counted in."""

NAMESAKES = (
    ("bootstrap-random-search", "dspy RandomSearch"),
    ("copro", "dspy COPRO"),
    ("mipro", "dspy MIPROv2"),
    ("gepa", "dspy GEPA"),
    ("gepa", "gepa 0.1.4"),
    *((DEFAULT, rival) for rival in ("dspy MIPROv2", "gepa 0.1.4", "generate-and-halve")),
)
PLOTTED = ("reflect-race", "mipro", "gepa", "copro", "bootstrap-random-search", "generate-and-halve", "start")
DASHES = {"start": "1 5", "gepa 0.1.4": "2 4"}
PAIR = ("task", "model", "seed")
BEGIN, END = "<!-- optimizers:begin -->", "<!-- optimizers:end -->"
PREAMBLE = """\
The models are the offline simulators, not language models: the numbers tell how well a search spends its calls on \
them, and nothing about any real model. Scores are shares of 300 rows that are in no dataset, means over {blocks} \
blocks (task × simulator) and {seeds} seeds. Differences are paired within a block and seed; intervals are 95 % \
percentile bootstraps over blocks. Calls are distinct requests of the whole search, to the task and for proposals, \
the start's own scores included; ours confirm their winner on {sealed} further rows with {confirming} calls more."""


def report(records: Sequence[Record], *, folder: Path, docs: Path | None) -> None:
    """Print the tables; write them and the plot into ``folder``, and into ``docs`` where it is given."""
    main = [record for record in records if record["task"] in MAIN_TASKS]
    if not main:
        raise SystemExit("nothing is there to report: run `optimizers.py run` first")
    text = "\n\n".join(part for part in sections(records, main) if part)
    print(text)
    plot = draw(lines(main), title="Score on fresh rows against LM calls, simulators")
    (folder / "tables.md").write_text(text + "\n", encoding="utf-8")
    (folder / "optimizers-curve.svg").write_text(plot, encoding="utf-8")
    if docs is not None:
        (docs / "optimizers-curve.svg").write_text(plot, encoding="utf-8")
        replace_between_markers(docs / "optimizers.md", text)


def replace_between_markers(path: Path, text: str) -> None:
    """Put ``text`` where the page keeps room for it."""
    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise SystemExit(f"{path}: put one line {BEGIN} and one line {END} where the tables belong")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
    say(f"wrote {path}")


def sections(records: Sequence[Record], main: Sequence[Record]) -> Iterable[str]:
    """Title and table, one after the other."""
    seeds = len({record["seed"] for record in main})
    yield PREAMBLE.format(
        sealed=SEALED_ROWS, confirming=2 * SEALED_ROWS, blocks=len(grouped(main, "task", "model")), seeds=seeds
    )
    yield titled("Score by number of LM calls", score_table(main))
    yield titled("Ours as frozen: the winner where it is confirmed, else the start", frozen_table(main))
    yield titled("Differences at equal calls", namesake_table(main, score_of))
    yield titled(
        "The same, each against its own start: without what the rendering brings", namesake_table(main, gain_of)
    )
    yield titled("The same, ours as frozen: what a user is left with", namesake_table(main, standing_of))
    yield titled("The default at a third of MIPROv2's calls", thirds_table(main, zip(THIRDS, BUDGETS, strict=True)))
    yield titled("The same with the confirmation counted in", thirds_table(main, CONFIRMED_THIRDS))
    yield titled(f"What a run of {LOOKED_AT} calls does", conduct_table(main))
    yield titled(f"By task and simulator, {LOOKED_AT} calls", block_table(main))
    yield titled("Calls really made", calls_table(main))
    yield titled(
        f"Nothing to learn: labels shuffled, {LOOKED_AT} calls; a false freeze is a winner confirmed at {ALPHA:g}",
        null_table(task_of(records, "null")),
    )
    yield titled(
        f"A docstring that says wrong things, {LOOKED_AT} calls", harmful_table(task_of(records, "harmful"), main)
    )


def titled(title: str, table: str) -> str:
    return f"### {title}\n\n{table}" if table else ""


def task_of(records: Iterable[Record], task: str) -> list[Record]:
    return [record for record in records if record["task"] == task]


def score_of(record: Record) -> float:
    return float(record["score"])


def gain_of(record: Record) -> float:
    return float(record["score"]) - float(record["start"])


def frozen_of(record: Record) -> float:
    return float(record["frozen_score"])


def standing_of(record: Record) -> float:
    """What stands after a run: of ours the winner where it is confirmed, of the others the winner."""
    return float(record.get("frozen_score", record["score"]))


def strategies_of(records: Iterable[Record]) -> list[str]:
    """Ours before the peers', each in the order they were run."""
    names = {record["strategy"]: record["who"] for record in records}
    return sorted(names, key=lambda name: names[name] != "ours")


def at(records: Iterable[Record], strategy: str, budget: int) -> list[Record]:
    return [record for record in records if record["strategy"] == strategy and record["budget"] == budget]


def block_mean(records: Sequence[Record], value: Score) -> float:
    """The mean over blocks of the mean over seeds."""
    blocks = grouped(records, "task", "model")
    return statistics.fmean(statistics.fmean(map(value, block)) for block in blocks)


def area(values: Sequence[float | None]) -> float | None:
    """The mean height of the curve over log2 of the budgets; nothing where a point is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(BUDGETS):
        return None
    steps = [log2(b / a) for a, b in pairwise(BUDGETS)]
    heights = [(a + b) / 2 for a, b in pairwise(known)]
    return sum(s * h for s, h in zip(steps, heights, strict=True)) / sum(steps)


def shown(value: float | None, form: str = ".3f") -> str:
    return "" if value is None else format(value, form)


def curve(records: Sequence[Record], strategy: str, value: Score) -> list[float | None]:
    """The mean at every budget, where there are runs."""
    found = [at(records, strategy, budget) for budget in BUDGETS]
    return [block_mean(runs, value) if runs else None for runs in found]


def score_table(main: Sequence[Record]) -> str:
    rows = []
    for strategy in strategies_of(main):
        means = curve(main, strategy, score_of)
        start = block_mean([record for record in main if record["strategy"] == strategy], lambda r: float(r["start"]))
        rows.append((strategy, shown(start), *map(shown, means), shown(area(means))))
    return markdown_table(rows, ("strategy", "its start", *map(str, BUDGETS), "area under the curve"))


def frozen_table(main: Sequence[Record]) -> str:
    ours = [record for record in main if record["who"] == "ours" and record["strategy"] != "start"]
    rows = []
    for strategy in strategies_of(ours):
        means = curve(ours, strategy, frozen_of)
        rows.append((strategy, *map(shown, means), shown(area(means))))
    return markdown_table(rows, ("strategy", *map(str, BUDGETS), "area under the curve")) if rows else ""


def paired(left: Sequence[Record], right: Sequence[Record], value: Score) -> list[float]:
    """One difference a block: the mean over the seeds that both have."""
    others = {tuple(record[name] for name in PAIR): record for record in right}
    both = [(record, others.get(tuple(record[name] for name in PAIR))) for record in left]
    found = [{**record, "difference": value(record) - value(other)} for record, other in both if other is not None]
    return [statistics.fmean(record["difference"] for record in block) for block in grouped(found, "task", "model")]


def difference_cell(differences: Sequence[float]) -> str:
    if not differences:
        return ""
    low, high = bootstrap_interval(differences)
    return f"{statistics.fmean(differences):+.3f} ({low:+.3f} .. {high:+.3f})"


def areas_of(records: Sequence[Record], strategy: str, value: Score) -> list[Record]:
    """One record a block and seed, with the area under its own curve as the score."""
    found = []
    for runs in grouped((record for record in records if record["strategy"] == strategy), *PAIR):
        by_budget = {record["budget"]: value(record) for record in runs}
        height = area([by_budget.get(budget) for budget in BUDGETS])
        if height is not None:
            found.append({**runs[0], "area": height})
    return found


def namesake_table(main: Sequence[Record], value: Score) -> str:
    rows = []
    for ours, theirs in NAMESAKES:
        cells = [difference_cell(paired(at(main, ours, b), at(main, theirs, b), value)) for b in BUDGETS]
        whole = paired(areas_of(main, ours, value), areas_of(main, theirs, value), lambda record: record["area"])
        if any(cells):
            rows.append((f"{ours} - {theirs}", *cells, difference_cell(whole)))
    return markdown_table(rows, ("difference", *map(str, BUDGETS), "area under the curve")) if rows else ""


def thirds_table(main: Sequence[Record], pairs: Iterable[tuple[int, int]]) -> str:
    rows = []
    for third, budget in pairs:
        ours, theirs = at(main, DEFAULT, third), at(main, "dspy MIPROv2", budget)
        if ours and theirs:
            made = statistics.fmean(record["calls"] + record["confirmation_calls"] for record in ours)
            means = [shown(block_mean(runs, value)) for runs, value in _thirds_columns(ours, theirs)]
            cells = [difference_cell(paired(ours, theirs, value)) for value in (score_of, standing_of, gain_of)]
            rows.append((f"{third} : {budget}", f"{made:.0f}", *means, *cells))
    headers = (
        "calls of the search", "ours with the confirmation", DEFAULT, "as frozen", "dspy MIPROv2",
        "difference", "difference as frozen", "difference of the gains over the own start",
    )  # fmt: skip
    return markdown_table(rows, headers) if rows else ""


def _thirds_columns(ours: Sequence[Record], theirs: Sequence[Record]) -> list[tuple[Sequence[Record], Score]]:
    return [(ours, score_of), (ours, frozen_of), (theirs, score_of)]


def conduct_table(main: Sequence[Record]) -> str:
    rows = [conduct_row(strategy, runs) for strategy in strategies_of(main) if (runs := at(main, strategy, LOOKED_AT))]
    headers = (
        "strategy", "score", "sd over seeds", "runs worse than their start", "by 3 points or more", "frozen",
        "frozen and worse", "words of the prompt", "words more than the start", "seconds of the search",
    )  # fmt: skip
    return markdown_table(rows, headers) if rows else ""


def conduct_row(strategy: str, runs: Sequence[Record]) -> tuple[str, ...]:
    spreads = [statistics.stdev(map(score_of, block)) for block in grouped(runs, "task", "model") if len(block) > 1]
    frozen = [record for record in runs if record.get("is_frozen")]
    has_freeze = runs[0]["who"] == "ours"
    return (
        strategy,
        shown(block_mean(runs, score_of)),
        shown(statistics.fmean(spreads)) if spreads else "",
        f"{share(gain_of(record) < 0 for record in runs):.0%}",
        f"{share(gain_of(record) <= -0.03 for record in runs):.0%}",
        f"{len(frozen) / len(runs):.0%}" if has_freeze else "-",
        f"{sum(gain_of(record) < 0 for record in frozen)} of {len(frozen)}" if has_freeze else "-",
        f"{statistics.fmean(record['prompt_words'] for record in runs):.0f}",
        f"{statistics.fmean(record['prompt_words'] - record['start_words'] for record in runs):+.0f}",
        f"{statistics.median(record['seconds'] for record in runs):.2f}",
    )


def share(claims: Iterable[bool]) -> float:
    return statistics.fmean(map(float, claims))


def block_table(main: Sequence[Record]) -> str:
    blocks = grouped(main, "task", "model")
    names = [f"{block[0]['task']}, {block[0]['model'].removeprefix('offline/')}" for block in blocks]
    rows = []
    for strategy in strategies_of(main):
        found = [at(block, strategy, LOOKED_AT) for block in blocks]
        rows.append((strategy, *(shown(statistics.fmean(map(score_of, runs))) if runs else "" for runs in found)))
    return markdown_table(rows, ("strategy", *names))


def calls_table(main: Sequence[Record]) -> str:
    """Mean calls and, behind them, runs whose smallest setting did not fit."""
    rows = []
    for strategy in strategies_of(main):
        cells = []
        for budget in BUDGETS:
            runs = at(main, strategy, budget)
            unfit = sum(not record["fits"] for record in runs)
            over = sum(record["calls"] > budget for record in runs)
            notes = [f"{unfit} do not fit"] * (unfit > 0) + [f"{over} over"] * (over > 0)
            mean = f"{statistics.fmean(record['calls'] for record in runs):.0f}" if runs else ""
            cells.append(f"{mean} ({', '.join(notes)})" if notes and strategy != "start" else mean)
        rows.append((strategy, *cells))
    return markdown_table(rows, ("strategy", *map(str, BUDGETS)))


def null_table(records: Sequence[Record]) -> str:
    rows = []
    for strategy in strategies_of(records):
        runs = at(records, strategy, LOOKED_AT)
        changed = sum(not record["is_start"] for record in runs)
        cells = ["-"] * 3
        if runs[0]["who"] == "ours":
            frozen = sum(bool(record["is_frozen"]) for record in runs)
            verdict = "yes" if frozen / len(runs) <= ALPHA else "no"
            cells = [f"{frozen} ({frozen / len(runs):.0%})", share_interval(frozen, len(runs)), verdict]
        rows.append((strategy, len(runs), f"{changed} ({changed / len(runs):.0%})", *cells))
    headers = (
        "strategy",
        "runs",
        "something else than the start is best",
        "frozen",
        "95 % interval",
        f"<= {ALPHA:.0%}",
    )
    return markdown_table(rows, headers) if rows else ""


def harmful_table(records: Sequence[Record], main: Sequence[Record]) -> str:
    """Repaired: on fresh rows at least what the bland docstring reaches under the same model, seed and rendering."""
    rows = []
    for strategy in strategies_of(records):
        runs = at(records, strategy, LOOKED_AT)
        bland = {
            (record["model"], record["seed"]): float(record["start"])
            for record in main
            if record["strategy"] == strategy and record["task"] == "snips"
        }
        known = [record for record in runs if (record["model"], record["seed"]) in bland]
        if not known:
            continue
        repaired = sum(score_of(record) >= bland[record["model"], record["seed"]] for record in known)
        rows.append(
            (
                strategy,
                shown(statistics.fmean(bland.values())),
                shown(statistics.fmean(float(record["start"]) for record in known)),
                shown(statistics.fmean(map(score_of, known))),
                shown(statistics.fmean(map(frozen_of, known))) if known[0]["who"] == "ours" else "-",
                f"{repaired} of {len(known)}",
            )
        )
    headers = ("strategy", "bland docstring", "wrong docstring", "after", "after, as frozen", "repaired")
    return markdown_table(rows, headers) if rows else ""


def lines(main: Sequence[Record]) -> list[Line]:
    """What the plot shows: namesakes in one colour, ours drawn through, theirs dashed."""
    known = set(strategies_of(main))
    ours = [name for name in PLOTTED if name in known]
    theirs = {other: name for name, other in reversed(NAMESAKES) if other in known and other not in PLOTTED}
    colours = {name: number for number, name in enumerate(PLOTTED)}
    drawn = []
    for strategy in (*ours, *theirs):
        budgets = [budget for budget in BUDGETS if at(main, strategy, budget)]
        drawn.append(
            Line(
                name=strategy,
                points=tuple((budget, block_mean(at(main, strategy, budget), score_of)) for budget in budgets),
                colour=colours[theirs.get(strategy, strategy)],
                dashes=DASHES.get(strategy, "7 4" if strategy in theirs else ""),
            )
        )
    return drawn
