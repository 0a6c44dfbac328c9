"""Compare what a run found with what is on disk; the answer is a value, and a separate step writes it.

Writing is all or nothing for each file: a reader, a crash or a full disk meets the old text or the new one.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Collection, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from secrets import token_hex

from pytest_promptopt.errors import UsageError
from pytest_promptopt.prompts.frozen import file_stem, named_owner
from pytest_promptopt.prompts.toml_file import decode

"""The folder beside an owner's file in which frozen things live."""


class ChangeKind(StrEnum):
    """What happens to one file."""

    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    RETIRE = "retire"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One file's text before and after; ``None`` is no file."""

    path: Path
    kind: ChangeKind
    before: str | None
    after: str | None


def read_text(path: Path) -> str | None:
    """The text of ``path`` with its line ends as they are, ``None`` where there is no file.

    Raises :class:`~pytest_promptopt.errors.SnapshotError` for bytes that are no text and
    :class:`~pytest_promptopt.errors.UsageError` for what cannot be read.
    """
    try:
        return decode(path.read_bytes(), path=path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); mend its permissions or move it away") from None


def compare(path: Path, after: str | None) -> Change:
    """What would happen to ``path`` if its text became ``after``; ``None`` retires it. Writes nothing."""
    before = read_text(path)
    return Change(path=path, kind=_kind(before, after), before=before, after=after)


def apply(changes: Iterable[Change]) -> list[Path]:
    """Write ``changes``; gives the paths that were touched.

    All new texts are on disk before the first file is replaced. Raises :class:`~pytest_promptopt.errors.UsageError`,
    with every file as it was, when one changed since it was compared or cannot be written. Ctrl-C after that point is
    raised once all files are replaced.
    """
    pending = [change for change in changes if change.kind is not ChangeKind.UNCHANGED]
    for change in pending:
        _refuse_overwriting(change)
    with ExitStack() as cleanup:
        staged = [(_stage(change, cleanup), change.path) for change in pending]
        try:
            _swap_all(staged)
        except KeyboardInterrupt:  # a baseline without its snapshot would be half a freeze
            _swap_all([each for each in staged if _is_pending(*each)])
            raise
    return [change.path for change in pending]


def check_writable(folder: Path) -> None:
    """Raise :class:`~pytest_promptopt.errors.UsageError` unless files can be made in ``folder``, or it itself can be.

    Meant for the time before the first paid call; leaves nothing behind.
    """
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if os.path.lexists(parent))
    if not nearest.is_dir():
        raise UsageError(f"{folder}: snapshots cannot be written, because {nearest} is not a folder; move it away")
    try:
        # Asking the permission bits is not enough: a file system can be read-only, full, or closed to this user.
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        what = f"snapshots cannot be written, because {nearest} takes no files ({error.strerror})"
        raise UsageError(f"{folder}: {what}; make it writable, or work in a copy that is") from None


def find_orphans(folder: Path, owners: Collection[str]) -> list[Path]:
    """The files in ``folder`` whose prompt or metric is none of ``owners``, with their recordings; deletes nothing.

    A file that names no owner at all is nobody's orphan: reading it is an error of its own. Recordings without a
    baseline beside them are known by their name alone.
    """
    orphans = [path for path in sorted(folder.glob("*.toml")) if _owner(path) not in (None, *owners)]
    recordings = [path.with_suffix(".jsonl") for path in orphans]
    known = {_owner_in_name(file_stem(owner, "")) for owner in owners}
    alone = [path for path in folder.glob("*@*.jsonl") if not path.with_suffix(".toml").exists()]
    nameless = [path for path in alone if _owner_in_name(path.stem) not in known]
    return sorted(orphans + [path for path in recordings if path.is_file()] + nameless)


def _owner_in_name(stem: str) -> str:
    return stem.partition("@")[0]


def _owner(path: Path) -> str | None:
    return named_owner(path.read_bytes().decode("utf-8", "replace"))


def _kind(before: str | None, after: str | None) -> ChangeKind:
    if before is None:
        return ChangeKind.UNCHANGED if after is None else ChangeKind.CREATE
    if after is None:
        return ChangeKind.RETIRE
    # A checkout may turn LF into CRLF; that is not an edit, and undoing it would touch a file in every run.
    return ChangeKind.UNCHANGED if before.replace("\r\n", "\n") == after else ChangeKind.UPDATE


def _refuse_overwriting(change: Change) -> None:
    if read_text(change.path) != change.before:
        raise UsageError(f"{change.path}: somebody changed this file during the run; it is left as it is. Run again")


def _stage(change: Change, cleanup: ExitStack) -> Path | None:
    """A file beside the target that holds the new text, on disk for certain; ``None`` when there is none."""
    if change.after is None:
        return None
    target = _target(change.path)
    temporary = target.with_name(f".{target.name}.{token_hex(4)}.tmp")
    cleanup.callback(_discard, temporary)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, change.after, mode=_mode(target))
    except OSError as error:
        what = f"cannot be written ({error.strerror}); every file is left as it was"
        raise UsageError(f"{change.path}: {what}. Make room or permit it, then run again") from None
    return temporary


def _write(path: Path, text: str, *, mode: int | None) -> None:
    with path.open("xb") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())
    if mode is not None:
        path.chmod(mode)


def _discard(temporary: Path) -> None:
    # Where writing failed, removing may fail as well; the first failure is the one to tell.
    with suppress(OSError):
        temporary.unlink()


def _swap_all(staged: Iterable[tuple[Path | None, Path]]) -> None:
    for temporary, path in staged:
        _swap(temporary, path)


def _is_pending(temporary: Path | None, path: Path) -> bool:
    return path.exists() if temporary is None else temporary.exists()


def _swap(temporary: Path | None, path: Path) -> None:
    try:
        if temporary is None:
            path.unlink()
        else:
            temporary.replace(_target(path))
    except OSError as error:
        raise UsageError(f"{path}: cannot be replaced ({error.strerror}); it is left as it was. Run again") from None


def _target(path: Path) -> Path:
    """The file behind a symbolic link, so that the link itself stays."""
    return Path(os.path.realpath(path))


def _mode(path: Path) -> int | None:
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else None
