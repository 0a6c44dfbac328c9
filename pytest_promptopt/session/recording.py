"""What a metric's rows used of models outside the process: recorded, counted as not recorded, or missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from pytest_promptopt.errors import PromptOptError
from pytest_promptopt.evaluation.outcome import RowResult, Status
from pytest_promptopt.lms.client import Draw, Mode
from pytest_promptopt.lms.redaction import Redactor
from pytest_promptopt.session.metric_item import MetricItem, ReadRows, from_root
from pytest_promptopt.session.missing import Missing, forget_missing, missing_of, write_missing
from pytest_promptopt.snapshots.change import Change, ChangeKind
from pytest_promptopt.snapshots.recordings import (
    Recording,
    as_json,
    compare_recordings,
    from_json,
    merged,
)

if TYPE_CHECKING:
    from pytest_promptopt.session.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricUse:
    """What one metric's plain run used: plain data that may come from another process.

    ``path`` is the file of its recordings, from rootdir. ``is_whole``: every row came to its end, so what is not in
    ``used`` is not needed any more. ``unrecorded`` counts the replies that it had from elsewhere, and ``missing`` are
    the requests that nobody answered. ``unasked`` are the recorded replies where not one of them was asked for, and
    ``rewritten`` the prompts of missing requests that differ from what the baseline had. Only what the mode asks for is
    filled in.
    """

    nodeid: str
    metric: str
    path: str
    is_whole: bool
    used: tuple[Recording, ...] = ()
    unrecorded: int = 0
    missing: tuple[Missing, ...] = ()
    unasked: int = 0
    rewritten: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """JSON values, as pytest's reports carry them from process to process."""
        return {
            "nodeid": self.nodeid,
            "metric": self.metric,
            "path": self.path,
            "is_whole": self.is_whole,
            "used": [as_json(each) for each in self.used],
            "unrecorded": self.unrecorded,
            "missing": [each.as_json() for each in self.missing],
            "unasked": self.unasked,
            "rewritten": list(self.rewritten),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> MetricUse:
        """What :meth:`as_json` gave."""
        used = tuple(from_json(each) for each in fields["used"])
        missing = tuple(Missing.from_json(each) for each in fields["missing"])
        return cls(**{**fields, "used": used, "missing": missing, "rewritten": tuple(fields["rewritten"])})


def use_of(run: Run, item: MetricItem, read: ReadRows, results: Sequence[RowResult]) -> MetricUse:
    """What the ``results`` of a metric used, of the rows that were to be ``read``."""
    planned = (len(read.deciding) + len(read.outside)) * item.options.repeats
    mode, redactor = run.settings.mode, run.redactor
    draws = list(draws_of(results))
    missing = tuple(missing_of(item, results, redactor))
    is_run = len(results) == planned and not any(result.judgement.status is Status.ERROR for result in results)
    return MetricUse(
        nodeid=item.nodeid,
        metric=item.owner,
        path=item.recordings_file,
        is_whole=len(results) == planned and not any(has_no_end(result) for result in results),
        used=tuple(recordings_of(draws, redactor)) if mode.writes_recordings else (),
        unrecorded=len({draw.key for _, draw in draws if draw.reply is not None} - item.recordings.keys()),
        missing=missing,
        unasked=len(item.recordings) if is_run and not any(draw.key in item.recordings for _, draw in draws) else 0,
        rewritten=tuple(_rewritten(run, item, missing)),
    )


def _rewritten(run: Run, item: MetricItem, missing: Sequence[Missing]) -> list[str]:
    """The prompts of ``missing`` requests that are not what they were when the metric's baseline was written."""
    if not missing or item.baseline is None:
        return []
    before, now = item.baseline.prompts, run.standing_digests(item.model)
    names = {each.prompt for each in missing} & before.keys() & now.keys()
    return sorted(name for name in names if before[name] != now[name])


def draws_of(results: Iterable[RowResult]) -> Iterator[tuple[str, Draw]]:
    """The calls of models outside the process, each with the id of its row."""
    return ((result.id, draw) for result in results for draw in result.draws)


def has_no_end(result: RowResult) -> bool:
    """Whether a row ended before its time, so that nobody knows all that it needs."""
    return result.judgement.status in (Status.ERROR, Status.UNRECORDED)


def recordings_of(draws: Iterable[tuple[str, Draw]], redactor: Redactor) -> list[Recording]:
    """The answered ones as recordings, in the order of their keys and without secrets."""
    found = merged(_recording(row, draw, redactor) for row, draw in draws if draw.reply is not None)
    return [found[key] for key in sorted(found)]


def _recording(row: str, draw: Draw, redactor: Redactor) -> Recording:
    reply, request = draw.reply, draw.request
    assert reply is not None
    return Recording(
        key=draw.key,
        model=redactor.redact(request.model),
        prompt=redactor.redact(request.prompt),
        rows=(redactor.redact(row),),
        reply=redactor.redact(reply.text),
        usage=reply.usage,
        cost_usd=reply.cost_usd,
    )


def frozen_recordings(
    item: MetricItem, draws: Iterable[tuple[str, Draw]], redactor: Redactor, *, is_whole: bool
) -> Change:
    """What recording ``draws`` changes: those of what is frozen, the ``whole`` of what the gate will read or not."""
    used = recordings_of(draws, redactor)
    return compare_recordings(item.recordings_path, used, metric=item.owner, is_whole=is_whole)


def conclude(run: Run) -> list[str]:
    """At the end of a plain run: write what its mode asks for, and give the lines to say about it.

    Raises :class:`~pytest_promptopt.errors.PromptOptError` where a file cannot be read or written; none is changed.
    """
    uses = sorted(run.uses.values(), key=lambda use: use.path)  # workers end in any order
    mode = run.settings.mode
    unasked = list(_tell_unasked(uses))
    if mode.writes_recordings:
        return [*unasked, *_record(run, uses)]
    if mode is Mode.REPLAY:
        return [*unasked, *_tell_rewritten(uses), *_tell_missing(run, [each for use in uses for each in use.missing])]
    unrecorded = sum(use.unrecorded for use in uses)
    if mode is Mode.AUTO and unrecorded:
        are = "1 reply is" if unrecorded == 1 else f"{unrecorded} replies are"
        missing = f'{are} not recorded, and missing in CI: "pytest --prompt-lm record" writes what the gate needs'
        return [*unasked, missing]
    return unasked


def _tell_unasked(uses: Iterable[MetricUse]) -> Iterator[str]:
    for use in uses:
        if use.unasked:
            none = "its only recorded reply was not" if use.unasked == 1 else f"none of {use.unasked} replies there was"
            yield (
                f"warning: {use.path}: {none} asked for; the prompts, their models or the rows are others than when "
                "they were recorded, or they belong to another metric"
            )


def _tell_rewritten(uses: Iterable[MetricUse]) -> Iterator[str]:
    for name in sorted({name for use in uses for name in use.rewritten}):
        yield f"the text of {name} changed since it was recorded"


def _record(run: Run, uses: Iterable[MetricUse]) -> list[str]:
    rootdir = run.settings.rootdir
    changes = [
        compare_recordings(rootdir / use.path, use.used, metric=use.metric, is_whole=use.is_whole) for use in uses
    ]
    run.write(changes)
    words = {ChangeKind.CREATE: "recorded", ChangeKind.UPDATE: "recorded", ChangeKind.RETIRE: "no longer needed"}
    told = [change for change in changes if change.kind is not ChangeKind.UNCHANGED]
    return [f"{words[change.kind]}: {_described(change, rootdir)}" for change in told]


def _described(change: Change, rootdir: Path) -> str:
    path = from_root(change.path, rootdir)
    if change.after is None:
        return f"{path}, deleted"
    before, after = (set((text or "").splitlines()) for text in (change.before, change.after))
    added, gone = len(after - before), len(before - after)
    return f"{path} ({len(after)} replies: {added} new or changed, {gone} replaced or dropped)"


def _tell_missing(run: Run, missing: Sequence[Missing]) -> list[str]:
    folder = run.settings.store
    if not missing:
        forget_missing(folder)
        return []
    path = write_missing(folder, missing)
    shown = from_root(path, run.settings.rootdir)
    requests = "1 missing request was" if len(missing) == 1 else f"{len(missing)} missing requests were"
    return [f"{requests} written to {shown}; trusted code answers them: pytest --prompt-fulfil={quote(shown)}"]


def failure_of(error: PromptOptError) -> str:
    """What to say when nothing could be recorded."""
    return f"not recorded: {error}"


def broken_off(fault: BaseException, mode: Mode) -> str:
    """What to say of a metric that ended before its time, and what that means for its recordings."""
    written = "\nNothing was written: its recordings are as they were." if mode.writes_recordings else ""
    return f"{fault}{written}"
