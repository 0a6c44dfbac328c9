"""Replies that were paid for once, kept in one SQLite file that threads and processes share."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from threading import Lock, get_ident
from time import sleep
from typing import TypeVar

from pytest_promptopt.errors import UsageError
from pytest_promptopt.lms.base import Reply, Request, Usage

T = TypeVar("T")

FILE_NAME = "replies.sqlite3"
SCHEMA_VERSION = 1

_APPLICATION_ID = 0x50724F70  # "PrOp": tells our files from other people's SQLite files
_BUSY_SECONDS = 30.0
_FORK_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 0.05
_IGNORE_ITSELF = "# Written by pytest-promptopt: replies of language models, which are nobody else's business.\n*\n"
_SCHEMA = f"""
    CREATE TABLE replies (key TEXT PRIMARY KEY, model TEXT NOT NULL, reply TEXT NOT NULL) WITHOUT ROWID;
    PRAGMA application_id = {_APPLICATION_ID};
    PRAGMA user_version = {SCHEMA_VERSION};
"""


class _Sqlite:
    """The lock under which this process is inside SQLite, and which a fork holds too.

    SQLite has mutexes of its own for the whole process. A child that is forked while another thread is in there would
    inherit them as taken, and wait for ever when it opens its own connection.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self._forking: int | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._hold, after_in_parent=self._let_go, after_in_child=self._renew)

    def _hold(self) -> None:
        if self.lock.acquire(timeout=_FORK_SECONDS):  # a disk that stands still does not keep a program from forking
            self._forking = get_ident()

    def _let_go(self) -> None:
        if self._forking == get_ident():
            self._forking = None
            self.lock.release()

    def _renew(self) -> None:
        self.lock, self._forking = Lock(), None


_sqlite = _Sqlite()


class Store:
    """Replies by key in ``folder/replies.sqlite3``. Any number of threads and processes may use it at once.

    Constructing one touches no disk; its first use creates the folder (mode 0700, ignored by git) and
    the file (mode 0600). Whatever is wrong with them is a :class:`~pytest_promptopt.errors.UsageError` that names the
    file and the way out.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._inherited: list[sqlite3.Connection] = []

    def prepare(self) -> None:
        """Make sure that replies can be kept, before the first one is paid for. Raises ``UsageError`` when not."""
        try:
            self._patiently(self._open)
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error

    def get(self, key: str) -> Reply | None:
        """The reply stored under ``key``, marked as replayed, or ``None``."""
        try:
            try:
                with _sqlite.lock:
                    row = self._select(key)
            except sqlite3.OperationalError:
                row = self._patiently(partial(self._select, key))
            return None if row is None else _reply(row[0])
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            raise _unusable(self.path, error) from error

    def put(self, key: str, reply: Reply, request: Request) -> None:
        """Keep ``reply``. When this returns it is committed: killing the process loses nothing."""
        try:
            self._patiently(partial(self._insert, (key, request.model, _text(reply))))
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error

    async def aput(self, key: str, reply: Reply, request: Request) -> None:
        """As :meth:`put`, on an asyncio loop, which stands still for nobody who holds the file."""
        row = (key, request.model, _text(reply))
        try:
            for pause_seconds in _pauses():
                try:
                    with _sqlite.lock:
                        return self._insert(row)
                except sqlite3.OperationalError as error:
                    _raise_unless_busy(error)
                await asyncio.sleep(pause_seconds)
            with _sqlite.lock:
                self._insert(row)
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error

    def close(self) -> None:
        """Let go of the file; the next ``get`` or ``put`` opens it again."""
        with _sqlite.lock:
            connection, self._connection = self._connection, None
            if connection is not None and self._pid == os.getpid():
                connection.close()

    def _patiently(self, act: Callable[[], T]) -> T:
        """What ``act`` gives, once nobody else holds the file; no lock of ours is held in between."""
        for pause_seconds in _pauses():
            try:
                with _sqlite.lock:
                    return act()
            except sqlite3.OperationalError as error:
                _raise_unless_busy(error)
            sleep(pause_seconds)
        with _sqlite.lock:
            return act()

    def _select(self, key: str) -> tuple[str] | None:
        row: tuple[str] | None = self._open().execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return row

    def _insert(self, row: tuple[str, str, str]) -> None:
        self._open().execute("INSERT OR REPLACE INTO replies (key, model, reply) VALUES (?, ?, ?)", row)

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


def _pauses() -> Iterator[float]:
    """Pauses between one try and the next, until they add up to as long as anybody waits for a busy file."""
    waited_seconds, pause_seconds = 0.0, 0.001
    while waited_seconds < _BUSY_SECONDS:
        yield pause_seconds
        waited_seconds += pause_seconds
        pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)


def _raise_unless_busy(error: sqlite3.OperationalError) -> None:
    if _code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        raise error


def _code(error: BaseException) -> int | None:
    """SQLite's primary result code; none for what another library says."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _connect(path: Path) -> sqlite3.Connection:
    if not os.access(path, os.W_OK):  # SQLite would open it for reading, and complain after the first paid call
        raise UsageError(
            f"The reply store {path} cannot be used: it may not be written. {_ADVICE[sqlite3.SQLITE_PERM]}"
        )
    connection = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
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
        raise UsageError(f"{path} is not a reply store of pytest-promptopt, and left alone. {_ELSEWHERE}")
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
        _make_private(path)
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


def _make_private(path: Path) -> None:
    """Close a file to others that came from elsewhere, out of a build server's cache, say."""
    with suppress(OSError):
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


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

_ELSEWHERE = "Name another folder with promptopt_store in pytest's ini file."
_WAYS_OUT = (
    "Delete it (that is safe: it holds nothing but replies, which are then asked for again), "
    "or name another folder with promptopt_store in pytest's ini file."
)
_ADVICE: Mapping[int, str] = {
    sqlite3.SQLITE_FULL: f"Make room on its disk: what it holds stays, and is not paid for again. {_ELSEWHERE}",
    sqlite3.SQLITE_IOERR: f"See whether its disk has room and can be written. {_ELSEWHERE}",
    sqlite3.SQLITE_BUSY: f"Another run or program holds it: wait for it to end, and run again. {_ELSEWHERE}",
    sqlite3.SQLITE_LOCKED: f"Another run or program holds it: wait for it to end, and run again. {_ELSEWHERE}",
    sqlite3.SQLITE_READONLY: f"Make the file and its folder writable. {_ELSEWHERE}",
    sqlite3.SQLITE_CANTOPEN: f"See that it is a file, and may be read and written with its folder. {_ELSEWHERE}",
    sqlite3.SQLITE_PERM: f"Make the file and its folder writable. {_ELSEWHERE}",
}


def _unusable(path: Path, error: Exception) -> UsageError:
    advice = _ADVICE.get(_code(error) or 0, _WAYS_OUT)
    return UsageError(f"The reply store {path} cannot be used: {error}. {advice}")


def _unwritable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"Replies cannot be stored in {folder}: {error.strerror or error}. "
        "Make it writable, or name another folder with promptopt_store in pytest's ini file."
    )
