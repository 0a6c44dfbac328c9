"""Pictures of scores as inline SVG: an interval on a line from 0 to 1, and the course of a search.

Colours and fonts come from the page's style by class names, so that a picture follows light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pytest_promptopt.evaluation.statistics import Interval
from pytest_promptopt.reports.curves import CurvePoint, SearchCurve
from pytest_promptopt.reports.document import visible

BAR_WIDTH = 200
BAR_HEIGHT = 26
CURVE_WIDTH = 640
CURVE_HEIGHT = 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 24, 14, 34
_STEPS = 4


def text(value: str) -> str:
    """``value`` as a page may hold it: no sign that opens a tag, ends an attribute or steers a terminal."""
    return escape(visible(value), quote=True)


def interval_bar(
    score: float | None, interval: Interval | None, *, baseline: float | None = None, floor: float | None = None
) -> str:
    """The score as a dot on its 90 % interval, the baseline as a stroke, the threshold as a dashed one."""
    if score is None:
        return ""
    words = f"score {score:.3f}"
    parts = [_line("axis", 0, BAR_HEIGHT / 2, BAR_WIDTH, BAR_HEIGHT / 2)]
    if interval is not None:
        words += f", 90 % interval {interval.low:.2f} to {interval.high:.2f}"
        width = _number((interval.high - interval.low) * _bar_span())
        parts.append(f'<rect class="interval" x="{_bar_x(interval.low)}" y="8" width="{width}" height="10" rx="3"/>')
    if floor is not None:
        words += f", threshold {floor:g}"
        parts.append(_line("floor", _bar_x(floor), 2, _bar_x(floor), BAR_HEIGHT - 2))
    if baseline is not None:
        words += f", baseline {baseline:.3f}"
        parts.append(_line("baseline", _bar_x(baseline), 4, _bar_x(baseline), BAR_HEIGHT - 4))
    parts.append(f'<circle class="score" cx="{_bar_x(score)}" cy="13" r="4.5"/>')
    return _svg("bar", BAR_WIDTH, BAR_HEIGHT, words, parts)


def _bar_span() -> float:
    return BAR_WIDTH - 12


def _bar_x(value: float) -> str:
    return _number(6 + min(1.0, max(0.0, value)) * _bar_span())


def search_curve(curve: SearchCurve) -> str:
    """Scores of candidates over the calls that the search had made by then, the best so far as a stair."""
    if not curve.points:
        return ""
    scale = _Scale(curve)
    best = curve.points[-1].best_score
    start = "" if curve.start_score is None else f", from {curve.start_score:.3f}"
    words = f"best selection score over calls: {best:.3f} after {curve.points[-1].calls} calls{start}"
    parts = [*_axes(scale), *_start_line(curve, scale), _stair(curve.points, scale)]
    parts += [_dot(point, scale) for point in curve.points]
    return _svg("curve", CURVE_WIDTH, CURVE_HEIGHT, words, parts)


class _Scale:
    """Where calls and scores lie in the picture."""

    def __init__(self, curve: SearchCurve) -> None:
        calls = [point.calls for point in curve.points]
        scores = [point.score for point in curve.points]
        scores += [] if curve.start_score is None else [curve.start_score]
        self.first, self.last = min(0, *calls), max(1, *calls)
        self.low, self.high = max(0.0, min(scores) - 0.05), min(1.0, max(scores) + 0.05)
        if self.high - self.low < 0.1:
            self.low, self.high = max(0.0, self.low - 0.05), min(1.0, self.high + 0.05)

    def x(self, calls: float) -> float:
        share = (calls - self.first) / (self.last - self.first)
        return _LEFT + share * (CURVE_WIDTH - _LEFT - _RIGHT)

    def y(self, score: float) -> float:
        share = (score - self.low) / (self.high - self.low)
        return CURVE_HEIGHT - _BOTTOM - share * (CURVE_HEIGHT - _TOP - _BOTTOM)


def _axes(scale: _Scale) -> list[str]:
    parts: list[str] = []
    for step in range(_STEPS + 1):
        score = scale.low + (scale.high - scale.low) * step / _STEPS
        y = scale.y(score)
        parts.append(_line("grid", _LEFT, y, CURVE_WIDTH - _RIGHT, y))
        parts.append(_words("end", _LEFT - 6, y + 4, f"{score:.2f}"))
        calls = scale.first + (scale.last - scale.first) * step / _STEPS
        parts.append(_words("middle", scale.x(calls), CURVE_HEIGHT - _BOTTOM + 16, f"{calls:.0f}"))
    middle = (_LEFT + CURVE_WIDTH - _RIGHT) / 2
    return [*parts, _words("middle", middle, CURVE_HEIGHT - 3, "calls")]


def _start_line(curve: SearchCurve, scale: _Scale) -> list[str]:
    if curve.start_score is None:
        return []
    y = scale.y(curve.start_score)
    return [_line("start", _LEFT, y, CURVE_WIDTH - _RIGHT, y), _words("start", _LEFT + 4, y - 4, "source")]


def _stair(points: Sequence[CurvePoint], scale: _Scale) -> str:
    steps = [f"M{_number(scale.x(points[0].calls))},{_number(scale.y(points[0].best_score))}"]
    for point in points[1:]:
        steps.append(f"H{_number(scale.x(point.calls))}V{_number(scale.y(point.best_score))}")
    return f'<path class="best" d="{"".join(steps)}"/>'


def _dot(point: CurvePoint, scale: _Scale) -> str:
    x, y = _number(scale.x(point.calls)), _number(scale.y(point.score))
    title = f"{text(point.candidate)}: {point.score:.3f} after {point.calls} calls"
    return f'<circle class="trial" cx="{x}" cy="{y}" r="3.5"><title>{title}</title></circle>'


def _svg(kind: str, width: int, height: int, words: str, parts: Sequence[str]) -> str:
    head = f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{text(words)}">'
    return "".join([head, f"<title>{text(words)}</title>", *parts, "</svg>"])


def _line(kind: str, x1: float | str, y1: float | str, x2: float | str, y2: float | str) -> str:
    ends = zip(("x1", "y1", "x2", "y2"), (x1, y1, x2, y2), strict=True)
    places = " ".join(f'{name}="{end if isinstance(end, str) else _number(end)}"' for name, end in ends)
    return f'<line class="{kind}" {places}/>'


def _words(anchor: str, x: float, y: float, words: str) -> str:
    return f'<text text-anchor="{anchor}" x="{_number(x)}" y="{_number(y)}">{text(words)}</text>'


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
