"""Replies that were paid for once, kept in one SQLite file that threads and processes share."""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from threading import Lock

from pytest_promptopt.errors import UsageError
from pytest_promptopt.lms.base import Reply, Request, Usage

FILE_NAME = "replies.sqlite3"
SCHEMA_VERSION = 1

_APPLICATION_ID = 0x50724F70  # "PrOp": tells our files from other people's SQLite files
_BUSY_SECONDS = 30.0
_IGNORE_ITSELF = "# Written by pytest-promptopt: replies of language models, which are nobody else's business.\n*\n"
_SCHEMA = f"""
    CREATE TABLE replies (key TEXT PRIMARY KEY, model TEXT NOT NULL, reply TEXT NOT NULL) WITHOUT ROWID;
    PRAGMA application_id = {_APPLICATION_ID};
    PRAGMA user_version = {SCHEMA_VERSION};
"""


class Store:
    """Replies by key in ``folder/replies.sqlite3``. Any number of threads and processes may use it at once.

    Constructing one touches no disk; its first use creates the folder (mode 0700, ignored by git) and
    the file (mode 0600). Whatever is wrong with them is a :class:`~pytest_promptopt.errors.UsageError` that names the
    file and the way out.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._inherited: list[sqlite3.Connection] = []

    def prepare(self) -> None:
        """Make sure that replies can be kept, before the first one is paid for. Raises ``UsageError`` when not."""
        try:
            with self._lock:
                self._open()
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error

    def get(self, key: str) -> Reply | None:
        """The reply stored under ``key``, marked as replayed, or ``None``."""
        try:
            with self._lock:
                row = self._open().execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
            return None if row is None else _reply(row[0])
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            raise _unusable(self.path, error) from error

    def put(self, key: str, reply: Reply, request: Request) -> None:
        """Keep ``reply``. When this returns it is committed: killing the process loses nothing."""
        row = (key, request.model, _text(reply))
        try:
            with self._lock:
                self._open().execute("INSERT OR REPLACE INTO replies (key, model, reply) VALUES (?, ?, ?)", row)
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error

    def close(self) -> None:
        """Let go of the file; the next ``get`` or ``put`` opens it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None and self._pid == os.getpid():
                connection.close()

    def _open(self) -> sqlite3.Connection:
        if self._pid != os.getpid():
            self._leave_to_parent()
        if self._connection is None:
            prepare_folder(self.path.parent)
            _create_whole(self.path)
            self._connection = _connect(self.path)
        return self._connection

    def _leave_to_parent(self) -> None:
        """A connection must not be used, or even closed, on the other side of a fork."""
        if self._connection is not None:
            self._inherited.append(self._connection)
        self._connection, self._pid = None, os.getpid()


def _connect(path: Path) -> sqlite3.Connection:
    if not os.access(path, os.W_OK):  # SQLite would open it for reading, and complain after the first paid call
        raise _unusable(path, PermissionError("it may not be written"))
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        # In WAL mode NORMAL still survives the death of the process; only a power cut can take the last replies.
        connection.execute("PRAGMA synchronous = NORMAL")
        _refuse_foreign(path, connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _refuse_foreign(path: Path, connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise UsageError(f"{path} is not a reply store of pytest-promptopt. {_WAYS_OUT}")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        found = f"{path} has format {version}, and this version of pytest-promptopt reads format {SCHEMA_VERSION}"
        raise UsageError(f"{found}. {_WAYS_OUT}")


def prepare_folder(folder: Path) -> None:
    """Make ``folder`` ours: private, and ignored by git through a file of its own."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_foreign(folder):
            raise UsageError(
                f"{folder} holds other files, so replies are not stored there. "
                "Name an empty or a new folder with promptopt_store in pytest's ini file."
            )
        with suppress(FileExistsError), (folder / ".gitignore").open("x", encoding="utf-8") as ignore:
            ignore.write(_IGNORE_ITSELF)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _is_foreign(folder: Path) -> bool:
    """Whether something here is not ours, and no ``.gitignore`` says that all of it is to be ignored."""
    if all(entry.name == ".gitignore" or entry.name.startswith(FILE_NAME) for entry in folder.iterdir()):
        return False
    with suppress(FileNotFoundError):
        return "*" not in (folder / ".gitignore").read_text(encoding="utf-8", errors="replace").split()
    return True


def _create_whole(path: Path) -> None:
    """Let the file appear complete, in WAL mode: several processes may want to be the first."""
    if path.exists():
        return
    try:
        handle, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".new", dir=path.parent)  # mode 0600
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    os.close(handle)
    draft = Path(name)
    try:
        with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)
        _publish(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _publish(draft: Path, path: Path) -> None:
    try:
        path.hardlink_to(draft)
    except OSError:
        # Another process was first, and its file is as good as ours; else this file system has no hard links.
        if not path.exists():
            draft.replace(path)


def _text(reply: Reply) -> str:
    usage = None if reply.usage is None else [reply.usage.prompt_tokens, reply.usage.completion_tokens]
    content = {"text": reply.text, "usage": usage, "cost_usd": reply.cost_usd, "latency_seconds": reply.latency_seconds}
    return json.dumps(content, separators=(",", ":"))


def _reply(text: str) -> Reply:
    content, _ = _decode(text)
    usage = content["usage"]
    return Reply(
        text=content["text"],
        usage=None if usage is None else Usage(prompt_tokens=usage[0], completion_tokens=usage[1]),
        cost_usd=content["cost_usd"],
        latency_seconds=content["latency_seconds"],
        is_replayed=True,
    )


_decode = json.JSONDecoder().raw_decode  # json.loads looks for blanks around what we wrote ourselves

_WAYS_OUT = (
    "Delete it (that is safe: it holds nothing but replies, which are then asked for again), "
    "or name another folder with promptopt_store in pytest's ini file."
)


def _unusable(path: Path, error: Exception) -> UsageError:
    return UsageError(f"The reply store {path} cannot be used: {error}. {_WAYS_OUT}")


def _unwritable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"Replies cannot be stored in {folder}: {error.strerror or error}. "
        "Make it writable, or name another folder with promptopt_store in pytest's ini file."
    )
