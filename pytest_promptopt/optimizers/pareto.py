"""The per-row Pareto front: candidates that are the best on some row, however they do on the whole.

After GEPA (arXiv 2507.19457): whoever alone solves a hard row is kept as a parent, so that a search does not circle
around the best mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Front(Generic[KeyT]):
    """Who is on the front, in the order of the pool, with the indices of the rows that nobody did better on."""

    wins: Mapping[KeyT, frozenset[int]]

    def draw_parent(self, rng: Random) -> KeyT:
        """One of the front, as likely as it wins rows. Raises ``ValueError`` when nobody is on it."""
        if not self.wins:
            raise ValueError("nobody in the pool has a score, so there is no parent to draw")
        return rng.choices([*self.wins], [len(rows) for rows in self.wins.values()])[0]


def find_front(scores: Mapping[KeyT, Sequence[float | None]]) -> Front[KeyT]:
    """The front of a pool, given everybody's scores on the same rows in the same order.

    Who shares the best score of a row wins it too; where a score is ``None``, the row is nobody's win by it. Whoever
    wins nothing but rows that others on the front win as well is left out: the worst mean first, of equal ones the
    older, so that of two with the same wins the younger stays. Raises ``ValueError`` for rows of different number.
    """
    wins = _find_wins(scores)
    shared = Counter(row for rows in wins.values() for row in rows)
    for key in sorted(wins, key=lambda key: _mean(scores[key])):
        if all(shared[row] > 1 for row in wins[key]):
            shared.subtract(wins.pop(key))
    return Front(wins=MappingProxyType(wins))


def _find_wins(scores: Mapping[KeyT, Sequence[float | None]]) -> dict[KeyT, frozenset[int]]:
    """The rows that each wins, for those who win any."""
    columns = zip(*scores.values(), strict=True)
    best = [max((score for score in column if score is not None), default=None) for column in columns]
    wins = {
        key: frozenset(row for row, score in enumerate(own) if score is not None and score == best[row])
        for key, own in scores.items()
    }
    return {key: rows for key, rows in wins.items() if rows}


def _mean(scores: Sequence[float | None]) -> float:
    known = [score for score in scores if score is not None]
    return sum(known) / len(known)
