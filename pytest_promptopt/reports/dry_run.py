"""What ``--prompt-dry-run`` says: rows, power, calls and money of a run before any of it is spent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_promptopt.reports.jobs import dealt_words, job_heading
from pytest_promptopt.reports.words import (
    cut,
    fine_money,
    labelled,
    listed,
    money,
    one_line,
    plural,
    points,
    table,
    wrapped,
)

CHARACTERS_PER_TOKEN = 4
SHORT_ANSWER = 16
LONG_ANSWER = 256
"""Tokens that an answer is taken for: a label, a number or a date, and anything else."""

NAME_WIDTH = 40
_INDENT = "  "
_PARAGRAPH_INDENT = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Calls, the ``fewest`` and the ``most`` (equal: exact), and about what these cost; ``None`` where nobody knows."""

    fewest: int
    most: int
    usd: tuple[float, float] | None = (0.0, 0.0)

    def __add__(self, other: Estimate) -> Estimate:
        known = self.usd is not None and other.usd is not None
        mine, its = self.usd or (0.0, 0.0), other.usd or (0.0, 0.0)
        return Estimate(
            fewest=self.fewest + other.fewest,
            most=self.most + other.most,
            usd=(mine[0] + its[0], mine[1] + its[1]) if known else None,
        )


NOTHING = Estimate(fewest=0, most=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSize:
    """An average call of one prompt. ``usd`` is ``None`` where the model has no price that anybody knows.

    ``demo_tokens`` are what each demo would add to the prompt; 0 where it takes none.
    """

    prompt: str
    model: str
    prompt_tokens: int
    answer_tokens: int
    demo_tokens: int
    usd: float | None
    is_free: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DealtRows:
    """The sides on which one metric's rows lie; ``provable_gain`` is ``None`` where no row is sealed."""

    metric: str
    train: int
    val: int
    sealed: int
    is_merged: bool
    provable_gain: float | None
    left_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyForecast:
    """What the search of one strategy takes, and a run with it; ``fault`` says why nobody can tell."""

    name: str
    is_chosen: bool
    search: Estimate = NOTHING
    whole: Estimate = NOTHING
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupForecast:
    """Prompts that are searched together. ``too_few`` says why nothing can be confirmed; empty where it can."""

    prompts: str
    rows: tuple[DealtRows, ...]
    baseline: Estimate
    confirmation: Estimate
    arms: int
    too_few: str
    strategies: tuple[StrategyForecast, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What the run may come to at most; ``None`` where nothing limits it."""

    calls: int | None
    usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchForecast:
    """A search that has not begun.

    ``unsearched`` are metrics whose rows are run though no prompt that is searched can be seen in them, ``uncovered``
    prompts that no metric calls as far as anybody can see, ``failures`` metrics whose rows cannot be counted.
    """

    optimizer: str
    groups: tuple[GroupForecast, ...]
    unsearched: tuple[tuple[str, Estimate], ...]
    uncovered: tuple[str, ...]
    whole: Estimate
    reserve: int
    ceilings: Ceilings
    sizes: tuple[CallSize, ...]
    notes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricForecast:
    """A plain run of one metric. ``provable_drop`` is ``None`` where its baseline has too few of the rows, or none."""

    metric: str
    read: int
    total_rows: int
    repeats: int
    calls: Estimate
    paired_rows: int
    provable_drop: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainForecast:
    """A plain run that has not begun."""

    metrics: tuple[MetricForecast, ...]
    whole: Estimate
    ceilings: Ceilings
    sizes: tuple[CallSize, ...]
    notes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


# --- a search ---------------------------------------------------------------------------------------------------------


def search_lines(forecast: SearchForecast) -> list[str]:
    """A block a group of prompts, then what all of it comes to and what was taken for granted."""
    lines = [line for group in forecast.groups for line in _group_lines(group)]
    for title, estimate in forecast.unsearched:
        what = f"{title}: {_calls(estimate)}; none of the prompts to search can be seen in it, and its rows are run"
        lines += _paragraph("also", what)
    lines += [
        line
        for name in forecast.uncovered
        for line in _paragraph("skipped", f"{name}: no selected metric calls it, as far as its code tells")
    ]
    lines += [line for failure in forecast.failures for line in _failure_lines(failure)]
    if not forecast.groups and not forecast.unsearched:
        return lines
    lines += _paragraph("in all", f"with {forecast.optimizer}: {_of_at_most(forecast.whole, forecast.ceilings)}")
    lines += _ceiling_lines(forecast)
    return [*lines, *_assumption_lines(forecast.sizes, forecast.notes, is_search=True)]


def _group_lines(group: GroupForecast) -> list[str]:
    return [
        job_heading(group.prompts, [rows.metric for rows in group.rows]),
        *_dealt_lines(group.rows),
        *_paragraph("baseline", f"{_calls(group.baseline)}: the source on the rows that a search may see"),
        *_paragraph("confirm", _confirmation_words(group)),
        *_strategy_lines(group.strategies),
    ]


def _dealt_lines(metrics: Sequence[DealtRows]) -> Iterator[str]:
    """One line for metrics whose rows are dealt alike, named where not all of them are."""
    alike: dict[str, list[str]] = {}
    for rows in metrics:
        words = dealt_words(
            rows.train, rows.val, rows.sealed, is_merged=rows.is_merged, provable_gain=rows.provable_gain
        )
        alike.setdefault(words, []).append(rows.metric)
    for words, names in alike.items():
        if len(alike) == 1:
            yield labelled("rows", words)  # to the letter as the search will say it
        else:
            yield from _paragraph("rows", f"{', '.join(names)}: {words}")
    for rows in metrics:
        if rows.left_out:
            what = f"{plural(rows.left_out, 'row')} of {rows.metric}"
            yield from _paragraph("note", f"{what} are sealed by another metric, so no search sees them")


def _confirmation_words(group: GroupForecast) -> str:
    if group.too_few:
        return f"nothing can be frozen: {group.too_few}"
    fresh = ", and a fresh baseline because replies vary" if group.arms > 2 else ""
    what = f"winner and incumbent on the sealed rows{fresh}; none where nothing better is found"
    return f"{_calls(group.confirmation)}: {what}"


def _strategy_lines(strategies: Sequence[StrategyForecast]) -> list[str]:
    """A table; what costs nothing needs no column of nothings."""
    headers = ["strategy", "calls of its search", "of the whole run", "cost"]
    columns = 4 if any(_is_paid(one.whole) for one in strategies) else 3
    rows = [_strategy_cells(one)[:columns] for one in strategies]
    text = table(headers[:columns], rows, ["left"] * columns)
    return [f"{_INDENT}{line}" for line in text.splitlines()]


def _is_paid(estimate: Estimate) -> bool:
    return estimate.usd is None or estimate.usd[1] > 0


def _strategy_cells(strategy: StrategyForecast) -> tuple[str, ...]:
    name = f"{strategy.name} (chosen)" if strategy.is_chosen else strategy.name
    if strategy.fault:
        return name, cut(strategy.fault, NAME_WIDTH), "unknown", "unknown"
    return name, _range(strategy.search), _range(strategy.whole), _cost(strategy.whole)


def _ceiling_lines(forecast: SearchForecast) -> list[str]:
    """What a ceiling that is lower than the most that may be called or paid will do."""
    most = forecast.ceilings.calls
    if most is None or forecast.whole.most <= most:
        money_too = "of money ends the search early where it comes to more"
        return _paragraph("ceiling", money_too) if _is_too_dear(forecast.whole, forecast.ceilings) else []
    if forecast.reserve > most:
        least = f"measuring the source and confirming a winner may take {forecast.reserve} calls"
        return _paragraph("ceiling", f"{least}: where they do, the run ends with exit status 4 before it searches")
    left = plural(most - forecast.reserve, "call")
    what = f"{left} are left for it once baseline and confirmation are set aside"
    return _paragraph("ceiling", f"ends the search early where it comes to more: {what}")


def _is_too_dear(estimate: Estimate, ceilings: Ceilings) -> bool:
    return ceilings.usd is not None and estimate.usd is not None and estimate.usd[1] > ceilings.usd


# --- a plain run ------------------------------------------------------------------------------------------------------


def plain_lines(forecast: PlainForecast) -> list[str]:
    """One table, then what was taken for granted."""
    failures = [line for failure in forecast.failures for line in _failure_lines(failure)]
    if not forecast.metrics:
        return failures
    headers = ["metric", "rows", "calls", "can prove drops of about", "cost"]
    columns = 5 if _is_paid(forecast.whole) else 4
    rows = [_metric_cells(metric)[:columns] for metric in forecast.metrics]
    text = table(headers[:columns], rows, ["left"] * columns)
    return [
        *text.splitlines(),
        *failures,
        *_paragraph("in all", _of_at_most(forecast.whole, forecast.ceilings)),
        *_plain_ceiling_lines(forecast),
        *_assumption_lines(forecast.sizes, forecast.notes, is_search=False),
    ]


def _plain_ceiling_lines(forecast: PlainForecast) -> list[str]:
    most = forecast.ceilings.calls
    is_too_much = most is not None and forecast.whole.most > most
    if not is_too_much and not _is_too_dear(forecast.whole, forecast.ceilings):
        return []
    return _paragraph("ceiling", "a metric that comes to it fails; raise it (--prompt-budget, --prompt-max-cost)")


def _metric_cells(metric: MetricForecast) -> tuple[str, ...]:
    read = str(metric.read) if metric.read == metric.total_rows else f"{metric.read} of {metric.total_rows}"
    rows = read if metric.repeats == 1 else f"{read}, {metric.repeats} times"
    return cut(metric.metric, NAME_WIDTH), rows, _range(metric.calls), _drop(metric), _cost(metric.calls)


def _drop(metric: MetricForecast) -> str:
    if metric.provable_drop is not None:
        return f"{points(metric.provable_drop)}, in 80 of 100 runs"
    return f"none, with {plural(metric.paired_rows, 'row')} to compare" if metric.paired_rows else "- (no baseline)"


# --- words of both ----------------------------------------------------------------------------------------------------


def _assumption_lines(sizes: Sequence[CallSize], notes: Sequence[str], *, is_search: bool) -> list[str]:
    taken = ["every row calls each prompt once", "no reply is in the store yet", "no call is retried"]
    if is_search:
        taken += ["no ceiling ends the search", "the source has something to gain"]
    return [
        *_paragraph("counted", f"as if {', '.join(taken[:-1])} and {taken[-1]}"),
        *_size_lines(sizes, is_search=is_search),
        *(line for note in notes for line in _paragraph("note", note)),
    ]


def _size_lines(sizes: Sequence[CallSize], *, is_search: bool) -> Iterator[str]:
    free = dict.fromkeys(size.model for size in sizes if size.is_free)
    paid = [size for size in sizes if not size.is_free]
    if free:
        yield from _paragraph("cost", f"none for {listed([*free])}, inside this process")
    for size in paid:
        yield from _paragraph("cost", _size_words(size, is_search=is_search))
    if paid:
        on_top = " demos come on top, and" if any(size.demo_tokens for size in paid) else ""
        longer = f";{on_top} proposals are longer" if is_search else ""
        answers = f"{SHORT_ANSWER} tokens for a label or a number as an answer, {LONG_ANSWER} for any other"
        yield from _paragraph("", f"taking {CHARACTERS_PER_TOKEN} characters for a token and {answers}{longer}")


def _size_words(size: CallSize, *, is_search: bool) -> str:
    """``desk.route: about 85 tokens in (60 more with each demo) and 256 out, about $0.0004 a call on MODEL``."""
    demos = f" ({size.demo_tokens} more with each demo)" if is_search and size.demo_tokens else ""
    tokens = f"{size.prompt}: about {size.prompt_tokens} tokens in{demos} and {size.answer_tokens} out"
    if not size.model:
        return f"{tokens}, at an unknown price: no model is configured"
    if size.usd is None:
        return (
            f"{tokens}, at an unknown price: give {size.model} one in [tool.pytest-promptopt.models] (docs/models.md)"
        )
    return f"{tokens}, about {fine_money(size.usd)} a call on {size.model}"


def _calls(estimate: Estimate) -> str:
    noun = "call" if estimate.fewest == estimate.most == 1 else "calls"
    return f"{_range(estimate)} {noun}"


def _range(estimate: Estimate) -> str:
    if estimate.fewest == estimate.most:
        return str(estimate.most)
    return f"{estimate.fewest} to {estimate.most}"


def _cost(estimate: Estimate) -> str:
    """``about $0.01 to $0.05``; exactly nothing where nothing is paid for."""
    if estimate.usd is None:
        return "unknown"
    fewest, most = map(money, estimate.usd)
    if not estimate.usd[1]:
        return most
    return f"about {most}" if fewest == most else f"about {fewest} to {most}"


def _of_at_most(estimate: Estimate, ceilings: Ceilings) -> str:
    calls = _calls(estimate) + ("" if ceilings.calls is None else f" of at most {ceilings.calls}")
    cost = f"cost {_cost(estimate)}" if estimate.usd is None else _cost(estimate)
    return f"{calls}, {cost}" + ("" if ceilings.usd is None else f" of at most ${ceilings.usd:.2f}")


def _failure_lines(failure: str) -> list[str]:
    """The first line beside its label, what pytest says of it under it."""
    first, *rest = failure.splitlines() or [""]
    return [*_paragraph("failed", one_line(first)), *(f"{'':{_PARAGRAPH_INDENT}}{line}".rstrip() for line in rest)]


def _paragraph(label: str, text: str) -> list[str]:
    return wrapped(labelled(label, text), indent=_PARAGRAPH_INDENT)
