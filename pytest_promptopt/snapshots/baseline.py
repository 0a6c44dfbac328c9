"""A baseline: what a metric scored, row by row, when its scores were last accepted; one line a row, for reviewers."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Literal, TypeAlias, cast

from pytest_promptopt.prompts.frozen import named_owner, require_file_name, require_owner
from pytest_promptopt.prompts.toml_file import Table, read_toml
from pytest_promptopt.snapshots.toml import Line, fill, quoted, quoted_key, text_list

FORMAT = 1
"""The format of baseline files that this version reads and writes."""

SEARCHED_WIDTH = 100

Reads: TypeAlias = Literal["all", "sealed"]

_KEYS = ("format", "metric", "model", "reads", "metric_digest", "prompts", "anchor", "sealed", "searched", "rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRow:
    """One row's score in [0, 1]; ``digest`` is that of the row's content, ``group`` its split key if it has one.

    ``anchor`` is what the row scored when the metric's accepted scores were best, ``None`` where that is its ``score``.
    """

    id: str
    digest: str
    score: float
    group: str | None = None
    anchor: float | None = None

    def __post_init__(self) -> None:
        if self.anchor == self.score:
            object.__setattr__(self, "anchor", None)

    @property
    def anchored(self) -> float:
        """The score to which the anchor holds this row."""
        return self.score if self.anchor is None else self.anchor


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The accepted scores of ``metric`` (the owner that names its file) on ``model``.

    ``reads`` says whether the metric reads all its rows or, after a freeze, the sealed ones. ``prompts`` gives the
    digest of what ran under each prompt's name. ``sealed`` holds the digests of all winners ever confirmed on these
    rows, oldest first, those under another ``salt`` as ``salt:digest``. ``searched`` are the ids of the rows that the
    search saw. ``blessings`` is how many blessings ago the rows' anchors were their scores, 0 where they still are;
    ``is_anchor_warned`` says that the last of them accepted scores proven worse than the anchor, and kept it.
    ``rows`` are kept sorted by id. Raises ``ValueError`` for an id that stands twice and for a score
    outside [0, 1].
    """

    metric: str
    model: str
    reads: Reads
    metric_digest: str
    prompts: Mapping[str, str]
    rows: tuple[BaselineRow, ...]
    sealed: tuple[str, ...]
    salt: str = ""
    searched: tuple[str, ...] = ()
    blessings: int = 0
    is_anchor_warned: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(sorted(self.rows, key=lambda row: row.id)))
        for row_id, count in Counter(row.id for row in self.rows).items():
            if count > 1:
                raise ValueError(f"the row {row_id!r} stands {count} times")
        for row in self.rows:
            for score in (row.score, row.anchored):
                if not 0 <= score <= 1:
                    raise ValueError(f"the score of row {row.id!r} is {score}, not between 0 and 1")
        object.__setattr__(self, "blessings", max(1, self.blessings) if self.has_anchor else 0)
        object.__setattr__(self, "is_anchor_warned", self.is_anchor_warned and self.has_anchor)

    @property
    def has_anchor(self) -> bool:
        """Whether the best accepted scores are others than these."""
        return any(row.anchor is not None for row in self.rows)


def read_baseline(text: str, *, path: Path, metric: str | None = None, model: str | None = None) -> Baseline:
    """The baseline in ``text``, the content of the file ``path``.

    ``metric`` and ``model``, where given, are whose file the caller wants. Raises
    :class:`~pytest_promptopt.errors.SnapshotError` for whatever is wrong with it, with line and remedy.
    """
    owner = metric or named_owner(text) or path.stem.partition("@")[0]
    top = read_toml(text, path=path, renew=f"pytest --prompt-bless -k {quote(owner.rpartition('.')[2])}")
    top.require_format(FORMAT)
    top.require_only(_KEYS)
    require_owner(top, "metric", metric)
    require_owner(top, "model", model)
    require_file_name(top, top.text("metric"), top.text("model"))
    return _baseline(top)


def dump_baseline(baseline: Baseline) -> str:
    """The text of the file; :func:`read_baseline` gives ``baseline`` back.

    Raises :class:`~pytest_promptopt.errors.UsageError` for a text that no file can hold (half a surrogate pair).
    """
    import tomlkit

    document = tomlkit.document()
    fill(document, _head(baseline))
    prompts: Iterator[Line] = (((name,), digest) for name, digest in sorted(baseline.prompts.items()))
    document.append("prompts", fill(tomlkit.table(), prompts))
    if baseline.has_anchor:
        document.append("anchor", fill(tomlkit.table(), _anchor(baseline)))
    sealed = fill(tomlkit.table(), [(("salt",), baseline.salt)] if baseline.salt else [])
    document.append("sealed", sealed.append("winners", text_list(baseline.sealed)))
    return document.as_string() + _searched(baseline.searched) + _rows(baseline.rows)


def _head(baseline: Baseline) -> Iterator[Line]:
    yield ("format",), FORMAT
    yield ("metric",), baseline.metric
    yield ("model",), baseline.model
    yield ("reads",), baseline.reads
    yield ("metric_digest",), baseline.metric_digest


def _anchor(baseline: Baseline) -> Iterator[Line]:
    yield ("blessings",), baseline.blessings
    if baseline.is_anchor_warned:
        yield ("warned",), True


def _searched(ids: Iterable[str]) -> str:
    """As many ids a line as fit: nobody reviews them one by one."""
    words = [f"{quoted(row_id)}," for row_id in sorted(ids)]
    if not words:
        return ""
    lines = textwrap.wrap(
        " ".join(word.replace(" ", "\0") for word in words),
        SEARCHED_WIDTH,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n[searched]\nrows = [\n" + "".join(f"    {line}\n" for line in lines).replace("\0", " ") + "]\n"


def _rows(rows: Iterable[BaselineRow]) -> str:
    # Not by tomlkit, which takes half a second for a thousand rows.
    return "\n[rows]\n" + "".join(f"{quoted_key(row.id)} = {{ {_fields(row)} }}\n" for row in rows)


def _fields(row: BaselineRow) -> str:
    anchor = "" if row.anchor is None else f"anchor = {float(row.anchor)!r}, "
    fields = f"score = {float(row.score)!r}, {anchor}digest = {quoted(row.digest)}"
    return fields if row.group is None else f"{fields}, group = {quoted(row.group)}"


def _baseline(top: Table) -> Baseline:
    sealed = top.table("sealed")
    sealed.require_only(("salt", "winners"))
    anchor = top.table("anchor")
    anchor.require_only(("blessings", "warned"))
    return Baseline(
        metric=top.text("metric"),
        model=top.text("model"),
        reads=_reads(top),
        metric_digest=top.text("metric_digest"),
        prompts=top.table("prompts").text_fields(),
        rows=tuple(_read_rows(top.required_table("rows"))),
        sealed=sealed.texts("winners"),
        salt=sealed.optional_text("salt") or "",
        searched=_read_searched(top),
        blessings=anchor.take("blessings", int, "a whole number") if "blessings" in anchor.values else 0,
        is_anchor_warned=anchor.take("warned", bool, "true or false") if "warned" in anchor.values else False,
    )


def _read_searched(top: Table) -> tuple[str, ...]:
    if "searched" not in top.values:
        return ()
    searched = top.table("searched")
    searched.require_only(("rows",))
    return searched.texts("rows")


def _reads(top: Table) -> Reads:
    reads = top.text("reads")
    if reads not in ("all", "sealed"):
        raise top.fault(f"'reads' must be 'all' or 'sealed', not {reads!r}", key="reads")
    return cast(Reads, reads)


def _read_rows(rows: Table) -> Iterator[BaselineRow]:
    for row_id in rows.values:
        row = rows.required_table(row_id)
        row.require_only(("score", "anchor", "digest", "group"))
        yield BaselineRow(
            id=row_id,
            digest=row.text("digest"),
            score=_score(row, "score"),
            group=row.optional_text("group"),
            anchor=_score(row, "anchor") if "anchor" in row.values else None,
        )


def _score(row: Table, key: str) -> float:
    score = row.number(key)
    if not 0 <= score <= 1:
        raise row.fault(f"the {key} {score} is not between 0 and 1", key=key)
    return score
