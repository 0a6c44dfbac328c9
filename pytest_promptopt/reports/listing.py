"""What ``--prompt-list`` shows: the prompts that are managed, then texts that look like one and are not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from pytest_promptopt.prompts.discovery.findings import UnmanagedPrompt, Unread
from pytest_promptopt.reports.words import LINE_WIDTH, one_line, plural, table, wrapped

SHOWN_TEXTS = 12
SHOWN_METRICS = 3

_INDENT = "  "
_FAULT = "broken file"
_FAULT_INDENT = len(_INDENT) + len(_FAULT) + 2
_PLACE_WIDTH = 44
_SHOWN_PLACEHOLDERS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPrompt:
    """One managed prompt: where it stands, the metrics that cover it, and what is frozen for each model.

    ``snapshots`` is model → state and has at least one entry; ``note`` says what is odd about the prompt, ``faults``
    what is wrong with its files.
    """

    name: str
    place: str
    metrics: tuple[str, ...]
    snapshots: Mapping[str, str]
    note: str = ""
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All that is shown."""

    prompts: tuple[ListedPrompt, ...]
    models: tuple[str, ...]
    unmanaged: tuple[UnmanagedPrompt, ...]
    unread: tuple[Unread, ...]
    passed_over: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()


def listing_lines(listing: Listing, *, is_verbose: bool) -> list[str]:
    """The lines of the list; with ``is_verbose`` every text with its own line of adoption, and files not read."""
    return [
        *_managed_lines(listing),
        *_unmanaged_lines(listing.unmanaged, is_verbose=is_verbose),
        *_unread_lines(listing.unread, is_verbose=is_verbose),
        *_passed_over_lines(listing.passed_over if is_verbose else ()),
        *_closing_lines(listing, is_verbose=is_verbose),
    ]


# --- managed ----------------------------------------------------------------------------------------------------------


def _managed_lines(listing: Listing) -> list[str]:
    if not listing.prompts:
        named = f" that --prompt {' '.join(map(one_line, listing.patterns))} names" if listing.patterns else ""
        return [f"managed: no prompt{named or ' yet'}"]
    model = f" ({one_line(listing.models[0])})" if len(listing.models) == 1 else ""
    headers = ("prompt", "where", "metrics", f"snapshot{model}")
    rows = [row for prompt in listing.prompts for row in _rows(prompt, listing.models)]
    fitted = _fitted([headers, *rows], LINE_WIDTH - len(_INDENT))
    text = table(fitted[0], fitted[1:], ["left"] * len(headers))
    faults = [fault for prompt in listing.prompts for fault in prompt.faults]
    return [
        "managed",
        *(f"{_INDENT}{line}" for line in text.splitlines()),
        *(line for fault in dict.fromkeys(faults) for line in _fault_lines(fault)),
    ]


def _rows(prompt: ListedPrompt, models: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Its metrics under each other, beside them what is frozen for each model; the rest stands on the first line."""
    heads = [(one_line(prompt.name), one_line(prompt.place))]
    states = _states(prompt, models)
    for head, metric, state in zip_longest(heads, _metric_lines(prompt.metrics), states):
        yield *(head or ("", "")), metric or "", state or ""


def _states(prompt: ListedPrompt, models: Sequence[str]) -> list[str]:
    """What is frozen; with its model where the table's head cannot say that, and then without the number of rows."""
    if len(models) <= 1 and prompt.snapshots.keys() <= {*models, ""}:
        return [f"{one_line(state)}   {prompt.note}".rstrip() for state in prompt.snapshots.values()]
    named = [one_line(f"{model}: {state.partition(', ')[0]}") for model, state in prompt.snapshots.items()]
    return [*named, prompt.note] if prompt.note else named


def _metric_lines(metrics: Sequence[str]) -> list[str]:
    shown = [one_line(metric) for metric in metrics[:SHOWN_METRICS]] or ["none"]
    hidden = len(metrics) - SHOWN_METRICS
    return [*shown, f"and {hidden} more"] if hidden > 0 else shown


def _fitted(rows: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """``rows`` cut so that a line has at most ``width`` characters: the widest column gives way first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    places = range(len(widths))
    while sum(widths) > width - 2 * (len(widths) - 1):
        widths[max(places, key=widths.__getitem__)] -= 1
    return [[_cut(row[place], widths[place], place) for place in places] for row in rows]


def _cut(cell: str, width: int, place: int) -> str:
    """The cell in ``width`` characters; of a place the end tells most."""
    if len(cell) <= width:
        return cell
    return _cut_front(cell, width) if place == 1 else f"{cell[: width - 3]}..."


def _cut_front(text: str, width: int) -> str:
    return text if len(text) <= width else f"...{text[len(text) - width + 3 :]}"


def _fault_lines(fault: str) -> list[str]:
    first, *rest = fault.splitlines()
    told = wrapped(f"{_INDENT}{_FAULT}  {one_line(first)}", indent=_FAULT_INDENT)
    return [*told, *(f"{'':{_FAULT_INDENT}}{one_line(line)}" for line in rest)]


# --- unmanaged --------------------------------------------------------------------------------------------------------


def _unmanaged_lines(prompts: Sequence[UnmanagedPrompt], *, is_verbose: bool) -> list[str]:
    if not prompts:
        return ["no text was found that looks like a prompt and is not managed"]
    shown = prompts if is_verbose else prompts[:SHOWN_TEXTS]
    width = min(_PLACE_WIDTH, max(len(_place(prompt)) for prompt in shown))
    lines = [f"looks like a prompt, not managed ({len(prompts)})"]
    for prompt in shown:
        line = f"{_INDENT}{_cut_front(_place(prompt), width):<{width}}  {_description(prompt)}"
        lines.append(line if len(line) <= LINE_WIDTH or is_verbose else f"{line[: LINE_WIDTH - 3].rstrip()}...")
        if is_verbose:
            lines.append(f"{_INDENT * 3}adopt: {one_line(prompt.adoption)}")
    hidden = len(prompts) - len(shown)
    return [*lines, f"{_INDENT}... {hidden} more with -v"] if hidden else lines


def _place(prompt: UnmanagedPrompt) -> str:
    return one_line(prompt.file) if prompt.kind == "file" else f"{one_line(prompt.file)}:{prompt.line}"


def _description(prompt: UnmanagedPrompt) -> str:
    """Its name, what holds it, how long it is, its gaps, and who sends it."""
    name = prompt.name or (f"in {prompt.owner}()" if prompt.owner else "")
    kind = "" if prompt.kind in ("string", "file") else prompt.kind
    gaps = " ".join(prompt.placeholders[:_SHOWN_PLACEHOLDERS])
    gaps += " ..." if len(prompt.placeholders) > _SHOWN_PLACEHOLDERS else ""
    sent = f"sent by {prompt.sending}" if prompt.sending else ""
    return one_line(", ".join(part for part in (name, kind, plural(prompt.words, "word"), gaps, sent) if part))


def _unread_lines(unread: Sequence[Unread], *, is_verbose: bool) -> list[str]:
    if not unread:
        return []
    if not is_verbose:
        return [f"{plural(len(unread), 'file')} could not be searched (named with -v)"]
    return ["could not be searched", *(f"{_INDENT}{one_line(one.path)}: {one_line(one.reason)}" for one in unread)]


def _passed_over_lines(folders: Sequence[str]) -> list[str]:
    if not folders:
        return []
    return ["not searched: installed, built or copied code", *(f"{_INDENT}{one_line(folder)}/" for folder in folders)]


def _closing_lines(listing: Listing, *, is_verbose: bool) -> list[str]:
    """The next thing to write."""
    if listing.unmanaged:
        easiest = next((one for one in listing.unmanaged if " with " not in one.adoption), listing.unmanaged[0])
        adopt = f"adopt one without changing what is sent:  {one_line(easiest.adoption)}"
        return ["docs: docs/text-prompts.md" if is_verbose else f"{adopt}   docs: docs/text-prompts.md"]
    if listing.prompts or listing.patterns:
        return []
    return [
        "start: put @prompt above a typed function whose docstring says what to do (docs/metrics.md),",
        '       or adopt a text that you have: SYSTEM = text_prompt("support.system", "…") (docs/text-prompts.md)',
    ]
