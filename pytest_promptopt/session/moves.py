"""``--prompt-base REF``: what a branch made of its own yardsticks, its baselines and recordings, since it left REF."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import TYPE_CHECKING

from pytest_promptopt.errors import PromptOptError
from pytest_promptopt.session.git import committed_text
from pytest_promptopt.snapshots.baseline import Baseline
from pytest_promptopt.snapshots.recordings import Recording, parse_recordings

if TYPE_CHECKING:
    from pytest_promptopt.session.metric_item import MetricItem


def moves_of(item: MetricItem) -> tuple[str, ...]:
    """What to say of a metric whose branch moves what it is judged by; nothing without a base."""
    base = item.settings.base
    if base is None:
        return ()
    return (*_baseline_moves(item), *_recording_moves(item, base))


def _baseline_moves(item: MetricItem) -> Iterator[str]:
    before, after = item.baseline_at_base, item.baseline
    if before == after:
        return
    if before is None:
        yield f"{item.name}: this branch brings its first baseline ({_mean(after)})"
    elif after is None:
        yield f"{item.name}: this branch deletes its own baseline ({_mean(before)}); it is compared with all the same"
    else:
        moved = f"moves its own baseline ({_mean(before)} -> {_mean(after)})"
        yield f"{item.name}: this branch {moved}; it is compared with the one it started from"


def _mean(baseline: Baseline | None) -> str:
    rows = () if baseline is None else baseline.rows
    return f"{fmean(row.score for row in rows):.3f} on {len(rows)} rows" if rows else "no rows"


def _recording_moves(item: MetricItem, base: str) -> Iterator[str]:
    before, after = _recordings_at(item, base), item.recordings
    changed = sum(before[key].reply != after[key].reply for key in before.keys() & after.keys())
    if changed:
        # A request that is answered otherwise by now: recorded anew, or edited by hand.
        yield (
            f"{item.name}: this branch changes {changed} of its own recorded replies, to requests that stayed "
            "the same; it is judged by them, so look at them"
        )
    brought, dropped = len(after.keys() - before.keys()), len(before.keys() - after.keys())
    if brought:
        requests = "a request" if brought == 1 else "requests"
        yield (
            f"{item.name}: this branch brings {_replies(brought)} of its own, to {requests} that the commit it started "
            "from has not; it is judged by them, so look at them"
        )
    if dropped:
        yield f"{item.name}: this branch drops {_replies(dropped)} that the commit it started from has"


def _replies(count: int) -> str:
    return "1 recorded reply" if count == 1 else f"{count} recorded replies"


def _recordings_at(item: MetricItem, base: str) -> Mapping[str, Recording]:
    text = committed_text(item.recordings_path, base)
    try:
        return {} if text is None else parse_recordings(text, path=item.recordings_path, metric=item.owner)
    except PromptOptError:
        return {}
