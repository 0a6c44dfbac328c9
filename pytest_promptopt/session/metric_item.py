"""A collected metric: the pytest item, what its marker says, its baseline, and the rows it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from pytest_promptopt.errors import DatasetError, PromptOptError
from pytest_promptopt.evaluation.dataset import Example, as_examples, read_dataset
from pytest_promptopt.evaluation.perturbations import KINDS
from pytest_promptopt.evaluation.split import Split, rows_after_freeze, split_key, split_rows
from pytest_promptopt.gate import ScoredRow
from pytest_promptopt.lms.base import Reply
from pytest_promptopt.prompts.active import provided_runtime
from pytest_promptopt.prompts.frozen import snapshot_path
from pytest_promptopt.reports.failures import without_model
from pytest_promptopt.session.git import committed_text
from pytest_promptopt.session.marker import MODEL_ARGUMENT, MetricOptions, metric_digest_lines, read_marker
from pytest_promptopt.session.settings import Settings
from pytest_promptopt.snapshots.baseline import Baseline, read_baseline
from pytest_promptopt.snapshots.change import read_text
from pytest_promptopt.snapshots.recordings import Recording, read_recordings, recordings_path

NO_MODEL_NAME = "no-model"

UNSAFE_FIXTURES = frozenset(
    {
        *("monkeypatch", "recwarn", "pytester", "subtests", "tmp_path", "tmpdir"),
        *("capsys", "capsysbinary", "capfd", "capfdbinary", "capteesys", "caplog"),
    }
)
"""Fixtures that several threads cannot share: they change the process or hand out one folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRows:
    """The rows that one plain run reads: those that decide, and must-pass rows that run outside the mean.

    ``unread`` are the ids of the others where every sealed row got another id: the search may have seen any of them.
    """

    deciding: tuple[Example, ...]
    outside: tuple[Example, ...]
    total: int
    unread: tuple[str, ...] = ()


class MetricItem:
    """One metric on one model."""

    def __init__(self, item: pytest.Function, options: MetricOptions, settings: Settings, model: str | None) -> None:
        self.item = item
        self.function = item.function  # before any driver takes its place
        self.options = options
        self.settings = settings
        self.model = model

    @classmethod
    def of(cls, item: pytest.Function, settings: Settings) -> MetricItem:
        """The metric that ``item`` is; its marker was checked at collection."""
        mark = item.get_closest_marker("prompt_metric")
        assert mark is not None
        return cls(item, read_marker(mark), settings, _model_of(item))

    @property
    def nodeid(self) -> str:
        """The item's node id."""
        return self.item.nodeid

    @property
    def name(self) -> str:
        """How tables call it: the test with its parameters."""
        return self.item.name

    @property
    def title(self) -> str:
        """The same without the model."""
        return self.owner.removeprefix(f"{self.item.path.stem}.")

    @cached_property
    def owner(self) -> str:
        """What names its baseline: module, classes, test and parameters, without the model."""
        return owner_of(self.item)

    @property
    def baseline_path(self) -> Path:
        """The file of its baseline, which may not exist."""
        return snapshot_path(self.item.path, self.owner, self.model or NO_MODEL_NAME)

    @cached_property
    def baseline(self) -> Baseline | None:
        """The accepted scores. Raises ``SnapshotError`` for a file that cannot be read."""
        text = read_text(self.baseline_path)
        return None if text is None else read_baseline(text, path=self.baseline_path)

    @cached_property
    def baseline_at_base(self) -> Baseline | None:
        """The accepted scores that the branch started from, where ``--prompt-base`` names one."""
        base = self.settings.base
        text = None if base is None else committed_text(self.baseline_path, base)
        return None if text is None else read_baseline(text, path=self.baseline_path)

    @property
    def compared(self) -> Baseline | None:
        """The accepted scores that the gate compares with: those of the base, where there are any.

        A branch that froze something reads the sealed rows only, so only those of the base count then.
        """
        base, own = self.baseline_at_base, self.baseline
        if base is None:
            return own
        if own is not None and own.reads == "sealed" and base.reads == "all":
            read = {row.id for row in own.rows}
            return replace(base, rows=tuple(row for row in base.rows if row.id in read))
        return base

    @property
    def recordings_path(self) -> Path:
        """The file of its recordings, which may not exist."""
        return recordings_path(self.baseline_path)

    @property
    def recordings_file(self) -> str:
        """The same from rootdir, as one would type it; absolute outside of it."""
        return from_root(self.recordings_path, self.settings.rootdir)

    @cached_property
    def recordings(self) -> dict[str, Recording]:
        """Its recorded replies by key. Raises ``SnapshotError`` for a file that cannot be read."""
        return read_recordings(self.recordings_path, metric=self.owner)

    @cached_property
    def replies(self) -> dict[str, Reply]:
        """The same as the client answers with them."""
        return {key: recording.as_reply() for key, recording in self.recordings.items()}

    @cached_property
    def digest(self) -> str:
        """16 hex digits over the metric's code and the options that change a score."""
        lines = metric_digest_lines(self.function)
        options = self.options
        labels = ",".join(f"{prompt}:{field}" for prompt, field in sorted((options.labels or {}).items()))
        settings = f"repeats={options.repeats} group={options.group} arg={options.arg} labels={labels}"
        if options.perturb:
            kinds = ",".join(kind for kind in KINDS if kind in options.perturb)
            settings += f" perturb={kinds} perturb_budget={options.perturb_budget} seed={self.settings.seed}"
        return sha256("\n".join([*lines, settings]).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def is_async(self) -> bool:
        """Whether the test is a coroutine function."""
        import inspect

        return inspect.iscoroutinefunction(self.function)

    @property
    def unsafe_fixtures(self) -> list[str]:
        """The fixtures in its closure that threads cannot share."""
        return [name for name in self.item.fixturenames if name in UNSAFE_FIXTURES]

    @property
    def concurrency(self) -> int:
        """Rows at a time: one under a debugger, else the marker's word, else one with an unsafe fixture."""
        if self.is_debugged:
            return 1
        if self.options.concurrency is not None:
            return self.options.concurrency
        return 1 if self.unsafe_fixtures else self.settings.concurrency

    @property
    def is_debugged(self) -> bool:
        """Whether the user wants to land in the first failing row."""
        option = self.item.config.option
        return bool(getattr(option, "usepdb", False) or getattr(option, "trace", False))

    @property
    def most_edits(self) -> int:
        """How often a row runs edited at most; a search does not look for the smallest edit behind a flip."""
        options = self.options
        return options.sampled_edits if self.settings.is_optimizing or not options.perturb else options.perturb_budget

    def examples(self) -> tuple[Example, ...]:
        """The rows of its dataset; the item must be set up. Raises ``DatasetError`` for rows that cannot be read."""
        name = self.options.dataset
        if self.options.is_path:
            rows: Any = read_dataset(self.item.path.parent / name)
        else:
            rows = self.item.funcargs[name]
        return as_examples(rows, name=name)

    def key_of(self, example: Example) -> str:
        """What decides the side of ``example``."""
        return split_key(example, group=self.options.group, labels=tuple((self.options.labels or {}).values()))

    def split(self, examples: Sequence[Example]) -> Split:
        """The sides of ``examples``."""
        return split_rows(examples, self.settings.split, key_of=self.key_of)

    def rows_to_read(self, examples: Sequence[Example]) -> ReadRows:
        """What a plain run reads: all rows, or after a freeze the sealed ones, and the must-pass rows always."""
        must_pass = set(self.options.must_pass)
        unknown = must_pass - {example.id for example in examples}
        if unknown:
            raise DatasetError(f"must_pass names rows that the dataset does not have: {', '.join(sorted(unknown))}")
        deciding, has_new_ids = tuple(examples), False
        baseline = self.baseline
        if baseline is not None and baseline.reads == "sealed":
            rule = replace(self.settings.split, salt=baseline.salt)  # a new salt deals anew at the next freeze only
            sealed = {row.id: row.digest for row in baseline.rows}
            searched = frozenset(baseline.searched)
            deciding = rows_after_freeze(examples, rule, key_of=self.key_of, sealed=sealed, searched=searched)
            if not deciding:  # every sealed row got another id; what is read instead is compared with nothing
                dealt = split_rows(examples, rule, key_of=self.key_of)
                deciding = tuple(row for row in dealt.test if row.id not in searched)
                has_new_ids = True
        read = {example.id for example in deciding}
        outside = tuple(example for example in examples if example.id in must_pass and example.id not in read)
        unread = tuple(example.id for example in examples if has_new_ids and example.id not in read)
        return ReadRows(deciding=deciding, outside=outside, total=len(examples), unread=unread)

    def has_changed(self, digests: Mapping[str, str]) -> bool:
        """Whether its prompts, as ``digests`` of what stands now, or its own code differ from its baseline's."""
        try:
            baseline = self.compared
        except PromptOptError:
            return True
        if baseline is None:
            return False
        same = all(digests.get(name) == digest for name, digest in baseline.prompts.items())
        return not same or baseline.metric_digest != self.digest

    def call(self, kwargs: Mapping[str, Any], function: Any, example: Example) -> object:
        """The test itself, called for one row."""
        arguments = self.options.arguments
        values = {arguments[0]: example} if len(arguments) == 1 else {name: example[name] for name in arguments}
        return function(**{**kwargs, **values})


def owner_of(item: pytest.Function) -> str:
    """What names the baseline of ``item``: its classes' names and its own, in whose parameters ``::`` may stand."""
    tests = [node.name for node in item.listchain() if node.getparent(pytest.Module) not in (None, node)]
    matrix = matrix_model(item)
    if matrix is not None:
        tests[-1] = without_model(tests[-1], matrix)
    return ".".join((item.path.stem, *tests))


def from_root(path: Path, rootdir: Path) -> str:
    """``path`` from ``rootdir``, as one would type it there; absolute outside of it."""
    return path.relative_to(rootdir).as_posix() if path.is_relative_to(rootdir) else path.as_posix()


def scored_rows(baseline: Baseline | None) -> dict[str, ScoredRow] | None:
    """The baseline's rows as the gate reads them; ``None`` without any."""
    if baseline is None or not baseline.rows:
        return None
    return {row.id: ScoredRow(id=row.id, digest=row.digest, score=row.score, group=row.group) for row in baseline.rows}


def matrix_model(item: pytest.Function) -> str | None:
    """The model that ``item`` has as a parameter, where several are under test."""
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get(MODEL_ARGUMENT)


def _model_of(item: pytest.Function) -> str | None:
    matrix = matrix_model(item)
    if matrix is not None:
        return matrix
    runtime = provided_runtime()
    try:
        return None if runtime is None else runtime.choose_model()
    except PromptOptError:
        return None
