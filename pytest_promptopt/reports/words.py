"""Figures and words that all reports share: one way to write a score, an amount, a list of ids, a change of text."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import PurePosixPath

from pytest_promptopt.evaluation.statistics import Interval

LINE_WIDTH = 100
SHOWN_IDS = 8
_WORKFLOW_COMMAND = re.compile(r"(?:\A|[\r\n])\s*:(?=:)|#(?=#\[)")


def money(cost_usd: float | None) -> str:
    """US dollars: to the cent from one dollar on, to a tenth of a cent below."""
    if cost_usd is None:
        return "cost unknown"
    if 0 < cost_usd < 0.0005:
        return "<$0.001"
    return f"${cost_usd:.2f}" if cost_usd == 0 or cost_usd >= 0.9995 else f"${cost_usd:.3f}"


def fine_money(cost_usd: float | None) -> str:
    """US dollars to two digits that count, for what is a small part of a cent."""
    return "cost unknown" if cost_usd is None else f"${float(f'{cost_usd:.2g}'):f}".rstrip("0").rstrip(".")


def duration(seconds: float) -> str:
    """``0.3 s``, ``42 s``, ``3 min 5 s``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def p_value(p: float) -> str:
    """A p as tables show it."""
    if p < 0.001:
        return "<0.001"
    return f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def p_words(p: float) -> str:
    """A p as sentences show it."""
    return "p < 0.001" if p < 0.001 else f"p = {p_value(p)}"


def signed(value: float, digits: int) -> str:
    """A difference with its sign; one that rounds to nothing has none to show."""
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def interval_words(interval: Interval | None, *, is_signed: bool = False) -> str:
    """``0.85 .. 0.96``, or ``-0.28 .. -0.08`` for a difference."""
    if interval is None:
        return "-"
    bounds = (interval.low, interval.high)
    return " .. ".join(signed(bound, 2) if is_signed else f"{bound:.2f}" for bound in bounds)


def points(share: float) -> str:
    """A share as whole points of a hundred."""
    return plural(round(100 * share), "point")


def limit(threshold: float) -> str:
    """At least two decimals, and all that were typed."""
    short = f"{threshold:.2f}"
    return short if math.isclose(float(short), threshold) else f"{threshold:g}"


def plural(count: int, noun: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(names: Sequence[str], most: int | None = SHOWN_IDS) -> str:
    """Names in a row, ``most`` of them."""
    shown = [one_line(name) for name in names[:most]]
    hidden = len(names) - len(shown)
    return f"{', '.join(shown)} and {hidden} more" if hidden else ", ".join(shown)


def cut(text: str, width: int) -> str:
    """``text`` on one line of at most ``width`` characters."""
    line = one_line(text)
    return line if len(line) <= width else f"{line[: max(0, width - 3)].rstrip()}..."


def one_line(text: str) -> str:
    """``text`` on one line: a row must not steer the terminal it is shown on."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def harmless(text: str) -> str:
    """``text`` without what GitHub's runner takes for a command: ``::`` where a line begins, ``##[`` anywhere.

    Rows and replies are printed, and whoever writes them must not write annotations or end a group in a build's log.
    """
    return _WORKFLOW_COMMAND.sub(r"\g<0> ", text)


def wrapped(text: str, *, indent: int) -> list[str]:
    """``text`` in lines; no word, id or p is broken."""
    whole = re.sub(r"\bp ([=<]) ", "p\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", text)
    lines = textwrap.wrap(
        whole, LINE_WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def folder(path: str) -> str:
    """The folder of a file."""
    return PurePosixPath(path).parent.as_posix()


def diff_lines(before: str | None, after: str | None, *, most: int | None) -> list[str]:
    """The sentences that went (``-``) and came (``+``), in ``most`` lines; nothing when either text is unknown."""
    if before is None or after is None:
        return []
    old, new = _sentences(before), _sentences(after)
    lines: list[str] = []
    for kind, old_from, old_to, new_from, new_to in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind != "equal":
            lines += _marked("-", old[old_from:old_to]) + _marked("+", new[new_from:new_to])
    hidden = 0 if most is None else len(lines) - most
    return [*lines[:most], f"... {plural(hidden, 'more line')}"] if hidden > 0 else lines


def _marked(mark: str, sentences: Sequence[str]) -> list[str]:
    """Neighbouring sentences as one text, the mark before each of its lines."""
    return textwrap.wrap(" ".join(sentences), LINE_WIDTH - 14, initial_indent=f"{mark} ", subsequent_indent=f"{mark} ")


def _sentences(text: str) -> list[str]:
    """Sentences, and items of a list: wrapped anew, a text stays the same sentences."""
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*#]|\d+[.)])\s)", text)
    return [sentence for block in blocks for sentence in re.split(r"(?<=[.!?:])\s+", one_line(block)) if sentence]


def labelled(label: str, text: str) -> str:
    """A line of a block, its label in the margin."""
    return f"  {label:<9} {text}"


def moved(before: float | None, after: float | None) -> str:
    """``0.719 -> 0.906``, as far as known."""
    if before is None:
        return "-"
    return f"{before:.3f}" if after is None else f"{before:.3f} -> {after:.3f}"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], alignments: Sequence[str]) -> str:
    """A plain table. ``alignments`` are ``left`` or ``right``, one a column."""
    from tabulate import tabulate

    # As a row like any other the headers cost no extra space.
    text = tabulate([headers, *rows], tablefmt="plain", disable_numparse=True, colalign=alignments)
    return "\n".join(line.rstrip() for line in text.splitlines())
