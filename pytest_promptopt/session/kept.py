"""Winners that were kept, not frozen, lie beside the replies as the files that they would have become."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pytest_promptopt.errors import UsageError
from pytest_promptopt.lms.store import prepare_folder
from pytest_promptopt.prompts.candidate import Candidate

FOLDER = "kept"


def kept_folder(store: Path, winner: Candidate) -> Path:
    """Where ``winner`` lies: under its name, in the folder of the local store."""
    return store / FOLDER / winner.short_name


def keep(store: Path, winner: Candidate, texts: Mapping[str, str]) -> Path:
    """Write ``texts`` (file name → text) into the folder of ``winner``, for nobody else's eyes; gives that folder.

    Raises ``UsageError`` where that cannot be done.
    """
    folder = kept_folder(store, winner)
    prepare_folder(store)
    try:
        for level in (folder.parent, folder):
            level.mkdir(mode=0o700, exist_ok=True)
        for name, text in texts.items():
            write_whole(folder / name, text)
    except OSError as error:
        raise UsageError(
            f"The winner {winner.short_name} cannot be kept in {folder}: {error.strerror}. "
            "Make room or permit it; every reply is stored, so the same command loses nothing."
        ) from error
    return folder


def write_whole(path: Path, text: str) -> None:
    """Write ``text``, all or nothing; the file of the last time is replaced. For nobody else's eyes (mode 0600)."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)  # mode 0600
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
