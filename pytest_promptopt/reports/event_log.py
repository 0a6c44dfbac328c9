"""The log of the last optimize run, beside the store: one JSON object a line for every event of its searches.

It holds no times and no names of machines, so the same search writes the same bytes, whatever the store held and in
whatever order replies came. It holds what customers wrote, so it is for nobody else's eyes, like the store.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from errno import EISDIR
from pathlib import Path
from typing import Any, BinaryIO

from pytest_promptopt.errors import UsageError
from pytest_promptopt.lms.store import prepare_folder
from pytest_promptopt.optimizers.base import Rejection, Row
from pytest_promptopt.optimizers.driver import Proposed, Rejected, RoundEnded, RowsScored, TrialScored
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo
from pytest_promptopt.reports.events import Confirmed, SearchEnded, SearchEvent, SearchStarted

FILE_NAME = "events.jsonl"

# Half a surrogate pair fits into no file; the others end a line for some readers, though not for JSON.
_NEEDS_ESCAPE = re.compile(r"[\ud800-\udfff\x85\u2028\u2029]")

Fields = dict[str, Any]


class EventLog:
    """Hears the stream of events and writes it to ``folder/events.jsonl`` (mode 0600), each line when it happens.

    Constructing one touches no disk. What is written is said as ``redact`` says it.
    """

    def __init__(self, folder: Path, *, redact: Callable[[str], str] = str) -> None:
        self.path = folder / FILE_NAME
        self._redact = redact
        self._file: BinaryIO | None = None
        self._seen: set[str] = set()

    def check(self) -> None:
        """Raise ``UsageError`` where :meth:`open` would; meant for before the first call, and leaves the file alone."""
        prepare_folder(self.path.parent)
        try:
            if self.path.is_dir():
                raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
            with tempfile.TemporaryFile(dir=self.path.parent):  # permission bits do not tell of a full disk
                pass
        except OSError as error:
            raise self._refusal(error) from error

    def open(self) -> None:
        """Begin the file anew. Raises ``UsageError`` where that cannot be done."""
        prepare_folder(self.path.parent)
        try:
            self.path.unlink(missing_ok=True)  # one that came from elsewhere may be open to others
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise self._refusal(error) from error
        self._file = os.fdopen(handle, "wb")

    def _refusal(self, error: OSError) -> UsageError:
        return UsageError(
            f"The log {self.path} cannot be written: {error.strerror}. "
            "Make its folder writable, or name another folder with promptopt_store in pytest's ini file."
        )

    def pytest_promptopt_event(self, event: SearchEvent) -> None:
        """Write the line of ``event``, and before it those of candidates that nobody has heard of."""
        if self._file is None:
            return
        try:
            for fields in self._lines(event):
                self._file.write(self._redact(_line(fields).decode()).encode())
            self._file.flush()  # a run that is killed leaves what was said
        except OSError:
            self.close()  # half a line may stand there, so nothing follows it
            raise

    def close(self) -> None:
        """Let go of the file."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # what could not be written has been told of
                file.close()

    def _lines(self, event: SearchEvent) -> Iterator[Fields]:
        for candidate in _candidates_of(event):
            if candidate.digest not in self._seen:
                self._seen.add(candidate.digest)
                yield _introduction(candidate)
        yield fields_of(event)


def fields_of(event: SearchEvent) -> Fields:
    """``event`` as JSON values in their fixed order, its name first; a candidate stands as its name and digest."""
    match event:
        case SearchStarted():
            return _started(event)
        case RowsScored():
            return {
                "event": "rows_scored",
                **_named(event.candidate),
                "teacher_attempt": event.teacher_attempt,
                "scores": _scores(event.rows, event.scores),
                "calls": event.calls,
            }
        case TrialScored():
            return {
                "event": "trial_scored",
                **_named(event.trial.candidate),
                "score": event.trial.score,
                "best_score": event.best_score,
                "start_score": event.start_score,
                "calls": event.calls,
                "max_calls": event.max_calls,
            }
        case Proposed():
            return {"event": "proposed", "prompt": event.prompt, "draw": event.draw, "text": event.text}
        case Rejected():
            return {"event": "rejected", **_rejection(event.rejection)}
        case RoundEnded():
            return {
                "event": "round_ended",
                "round": event.round,
                "rounds": event.rounds,
                "text": event.text,
                "best_score": event.best_score,
                "start_score": event.start_score,
                "calls": event.calls,
                "max_calls": event.max_calls,
            }
        case Confirmed():
            return _confirmed(event)
        case SearchEnded():
            return _ended(event)


def _started(event: SearchStarted) -> Fields:
    return {
        "event": "search_started",
        "prompts": event.prompts,
        "model": event.model,
        "proposer": event.proposer,
        "optimizer": event.optimizer,
        "settings": _plain(event.settings),
        "seed": event.seed,
        "split": event.split,
        "metrics": [
            {"metric": rows.metric, "train": rows.train, "val": rows.val, "sealed": rows.sealed}
            for rows in event.metrics
        ],
        "source": _named(event.source),
        "start_score": event.start_score,
        "calls": event.calls,
        "max_calls": event.max_calls,
    }


def _confirmed(event: Confirmed) -> Fields:
    return {
        "event": "confirmed",
        **_named(event.candidate),
        "incumbent": _named(event.incumbent),
        "rows": event.rows,
        "before": event.before,
        "after": event.after,
        "difference": event.difference,
        "interval_90": [event.interval.low, event.interval.high],
        "p": event.p,
        "alpha": event.alpha,
        "is_proven": event.is_proven,
    }


def _ended(event: SearchEnded) -> Fields:
    return {
        "event": "search_ended",
        "outcome": event.outcome,
        "reason": event.reason,
        "unconfirmed": event.unconfirmed,
        **(_named(event.candidate) if event.candidate is not None else {"candidate": None, "digest": None}),
        "start_score": event.start_score,
        "selected_score": event.selected_score,
        "is_cut": event.is_cut,
        "paths": event.paths,
    }


def _candidates_of(event: SearchEvent) -> list[Candidate]:
    match event:
        case SearchStarted():
            return [event.source]
        case RowsScored():
            return [event.candidate]
        case TrialScored():
            return [event.trial.candidate]
        case Rejected() if isinstance(event.rejection.subject, Candidate):
            return [event.rejection.subject]
        case Confirmed():
            return [event.incumbent, event.candidate]
        case SearchEnded() if event.candidate is not None:
            return [event.candidate]
        case _:
            return []


def _introduction(candidate: Candidate) -> Fields:
    """What a candidate is, in full; later lines name it."""
    return {
        "event": "candidate",
        **_named(candidate),
        "prompts": {name: _compiled(compiled) for name, compiled in candidate.items()},
    }


def _named(candidate: Candidate) -> Fields:
    return {"candidate": candidate.short_name, "digest": candidate.digest}


def _compiled(compiled: CompiledPrompt) -> Fields:
    return {"instruction": compiled.instruction, "demos": [_demo(demo) for demo in compiled.demos]}


def _demo(demo: Demo) -> Fields:
    return {"row": demo.row, "inputs": _plain(demo.inputs), "reasoning": demo.reasoning, "output": _plain(demo.output)}


def _rejection(rejection: Rejection) -> Fields:
    subject = rejection.subject
    what: Fields = {"text": subject} if isinstance(subject, str) else _named(subject)
    return {**what, "reason": rejection.reason, "has_run": rejection.has_run}


def _scores(rows: Sequence[Row], scores: Sequence[float | None]) -> dict[str, dict[str, float | None]]:
    """Metric → row → score."""
    by_metric: dict[str, dict[str, float | None]] = {}
    for row, score in zip(rows, scores, strict=True):
        by_metric.setdefault(row.metric, {})[row.id] = score
    return by_metric


def _plain(value: object) -> object:
    """``value`` in the types that JSON's writer knows."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _line(fields: Fields) -> bytes:
    text = json.dumps(fields, ensure_ascii=False)
    if _NEEDS_ESCAPE.search(text):
        text = json.dumps(fields)
    return f"{text}\n".encode()
