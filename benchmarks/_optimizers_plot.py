"""A plain SVG of curves over a logarithmic axis, readable on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import log2

WIDTH, HEIGHT = 880, 480
LEFT, RIGHT, TOP, BOTTOM = 60, 230, 44, 52
COLOURS = ("#2f7ed8", "#d9480f", "#2b9348", "#9c36b5", "#b8860b", "#6c757d", "#6c757d")
LABEL_GAP = 16
STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.grid { stroke: #d0d7de; stroke-width: 1 }
.line { fill: none; stroke-width: 2.2; stroke-linejoin: round }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .grid { stroke: #30363d } }
</style>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One curve: points of calls and score, ``colour`` a number, ``dashes`` as SVG writes them."""

    name: str
    points: tuple[tuple[int, float], ...]
    colour: int
    dashes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Where calls and scores fall on the page."""

    calls: tuple[int, int]
    scores: tuple[float, float]

    def x(self, calls: float) -> float:
        """From the left."""
        low, high = map(log2, self.calls)
        return LEFT + (WIDTH - LEFT - RIGHT) * (log2(calls) - low) / max(1e-9, high - low)

    def y(self, score: float) -> float:
        """From the top."""
        low, high = self.scores
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (score - low) / (high - low)


def draw(lines: Sequence[Line], *, title: str) -> str:
    """The whole picture."""
    scale = _scale(lines)
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" aria-label="{escape(title)}">',
        STYLE,
        f'<text x="{LEFT}" y="24" style="font-weight:600">{escape(title)}</text>',
        *_grid(scale, lines),
        *(_curve(line, scale) for line in lines),
        *_labels(lines, scale),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _scale(lines: Sequence[Line]) -> Scale:
    calls = [calls for line in lines for calls, _ in line.points]
    scores = [score for line in lines for _, score in line.points]
    low, high = int(min(scores) * 50) / 50, (int(max(scores) * 50) + 1) / 50
    return Scale(calls=(min(calls), max(calls)), scores=(low, high))


def _grid(scale: Scale, lines: Sequence[Line]) -> list[str]:
    low, high = scale.scores
    steps = [low + 0.02 * number for number in range(round((high - low) / 0.02) + 1)]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for score in steps[:: 1 + len(steps) // 12]:
        y = scale.y(score)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{score:.2f}</text>')
    doubled = [scale.calls[0] * 2**number for number in range(int(log2(scale.calls[1] / scale.calls[0]) + 1.001))]
    for calls in doubled:
        x = scale.x(calls)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{calls:,}</text>')
    middle = (LEFT + right) / 2
    return [*parts, f'<text x="{middle:.0f}" y="{HEIGHT - 10}" text-anchor="middle">LM calls of the search</text>']


def _curve(line: Line, scale: Scale) -> str:
    points = " ".join(f"{scale.x(calls):.1f},{scale.y(score):.1f}" for calls, score in line.points)
    dashes = f' stroke-dasharray="{line.dashes}"' if line.dashes else ""
    colour = COLOURS[line.colour % len(COLOURS)]
    return f'<polyline class="line" stroke="{colour}"{dashes} points="{points}"/>'


def _labels(lines: Sequence[Line], scale: Scale) -> list[str]:
    """Names behind the ends of their curves, pushed apart, with a piece of the line before each."""
    ends = sorted((scale.y(line.points[-1][1]), number) for number, line in enumerate(lines))
    places: list[float] = []
    for y, _ in ends:
        places.append(max(y, places[-1] + LABEL_GAP) if places else max(y, TOP))
    excess = max(0.0, places[-1] - (HEIGHT - BOTTOM)) if places else 0.0
    parts = []
    for place, (_, number) in zip(places, ends, strict=True):
        line, y, x = lines[number], place - excess, WIDTH - RIGHT + 12
        dashes = f' stroke-dasharray="{line.dashes}"' if line.dashes else ""
        colour = COLOURS[line.colour % len(COLOURS)]
        parts.append(f'<line class="line" stroke="{colour}"{dashes} x1="{x}" x2="{x + 24}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{x + 30}" y="{y + 4:.1f}">{escape(line.name)}</text>')
    return parts
