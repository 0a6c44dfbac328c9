"""The store: what is in it survives, what is not ours is refused, and nobody else reads it."""

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.errors import UsageError
from pytest_promptopt.lms.base import Reply, Request, Usage
from pytest_promptopt.lms.store import FILE_NAME, SCHEMA_VERSION, Store

REQUEST = Request(model="scripted/x", messages=({"role": "user", "content": "hello"},))
ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()))  # lone surrogates too: providers send them
AMOUNT = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
TOKENS = st.integers(0, 10**9)
REPLIES = st.builds(
    Reply,
    text=ANY_TEXT,
    usage=st.none() | st.builds(Usage, prompt_tokens=TOKENS, completion_tokens=TOKENS),
    cost_usd=st.none() | AMOUNT,
    latency_seconds=AMOUNT,
    is_replayed=st.just(True),
)
posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX modes and signals")
not_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")


@pytest.fixture
def store(tmp_path: Path):
    with closing(Store(tmp_path / "replies")) as store:
        yield store


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(replies=st.lists(REPLIES, max_size=5))
def test_every_reply_comes_back_as_it_went_in(tmp_path_factory: pytest.TempPathFactory, replies: list[Reply]) -> None:
    folder = tmp_path_factory.getbasetemp() / "round-trip"
    with closing(Store(folder)) as store:
        for number, reply in enumerate(replies):
            store.put(f"key {number}", reply, REQUEST)
    with closing(Store(folder)) as reopened:
        assert [reopened.get(f"key {number}") for number in range(len(replies))] == replies


def test_a_key_that_nobody_stored_has_no_reply(store: Store) -> None:
    assert store.get("nothing") is None


def test_the_last_reply_put_under_a_key_counts(store: Store) -> None:
    for text in ("old", "new"):
        store.put("key", Reply(text=text), REQUEST)
    assert store.get("key") == Reply(text="new", is_replayed=True)


def test_constructing_a_store_touches_no_disk(tmp_path: Path) -> None:
    Store(tmp_path / "replies").close()
    assert list(tmp_path.iterdir()) == []


@posix_only
def test_nobody_else_may_read_it(store: Store) -> None:
    store.put("key", Reply(text="private"), REQUEST)
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in store.path.parent.glob(f"{FILE_NAME}*")}
    assert modes.keys() >= {FILE_NAME, f"{FILE_NAME}-wal"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


def test_git_never_sees_it(store: Store) -> None:
    store.get("key")
    folder = store.path.parent
    subprocess.run(["git", "init", "--quiet", folder.parent], check=True)
    status = ["git", "-C", folder.parent, "status", "--porcelain", "--untracked-files=all"]
    assert subprocess.run(status, check=True, capture_output=True, text=True).stdout == ""


def test_a_gitignore_that_somebody_wrote_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("!replies.sqlite3\n")
    with closing(Store(tmp_path)) as store:
        store.put("key", Reply(text="kept in git on purpose"), REQUEST)
    assert (tmp_path / ".gitignore").read_text() == "!replies.sqlite3\n"


KILLED = """
import sys
from pathlib import Path
from pytest_promptopt.lms.base import Reply, Request
from pytest_promptopt.lms.store import Store
store = Store(Path(sys.argv[1]))
number = 0
while True:
    store.put(str(number), Reply(text=f"reply {number}"), Request(model="m", messages=()))
    print(number, flush=True)
    number += 1
"""


@posix_only
def test_a_killed_run_loses_no_reply(tmp_path: Path) -> None:
    with run_python(KILLED, tmp_path / "replies") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 50:
                break
        process.send_signal(signal.SIGKILL)
        last = max([50, *(int(line) for line in process.stdout if line.endswith("\n"))])
    with closing(Store(tmp_path / "replies")) as store:
        kept = [store.get(str(number)) for number in range(last + 1)]
    assert [reply and reply.text for reply in kept] == [f"reply {number}" for number in range(last + 1)]


WRITER = """
import sys
from pathlib import Path
from pytest_promptopt.lms.base import Reply, Request
from pytest_promptopt.lms.store import Store
store = Store(Path(sys.argv[1]))
sys.stdin.readline()
for number in range(100):
    key = f"{sys.argv[2]}-{number}"
    store.put(key, Reply(text=key), Request(model="m", messages=()))
    assert store.get(key).text == key
"""


def test_several_processes_open_and_fill_it_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WRITER, str(tmp_path / "replies")]
    names = [f"worker {number}" for number in range(4)]
    workers = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for name in names
    ]
    complaints = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        complaints.append(worker.communicate()[1])
    assert complaints == [""] * 4
    with closing(Store(tmp_path / "replies")) as store:
        assert all(store.get(f"{name}-{number}") for name in names for number in range(100))
    leftovers = {entry.name for entry in (tmp_path / "replies").iterdir()} - {".gitignore", FILE_NAME}
    assert leftovers == set()


def test_many_threads_share_one_store(store: Store) -> None:
    def put_and_get(number: int) -> Reply | None:
        store.put(str(number), Reply(text=f"reply {number}"), REQUEST)
        return store.get(str(number))

    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(put_and_get, range(300)))
    assert [reply and reply.text for reply in replies] == [f"reply {number}" for number in range(300)]


def test_a_closed_store_opens_again(store: Store) -> None:
    store.put("key", Reply(text="still here"), REQUEST)
    store.close()
    store.close()
    assert store.get("key") == Reply(text="still here", is_replayed=True)


FORKED = """
import os, sys
from pathlib import Path
from pytest_promptopt.lms.base import Reply, Request
from pytest_promptopt.lms.store import Store
def count_open_files():
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return sum(os.path.realpath(link) == os.path.realpath(store.path) for link in links)
store, request = Store(Path(sys.argv[1])), Request(model="m", messages=())
store.put("parent", Reply(text="parent"), request)
inherited = count_open_files()
if os.fork() == 0:
    store.put("child", store.get("parent"), request)
    print(count_open_files() - inherited, flush=True)
    store.close()
    os._exit(0)
os.wait()
store.put("after", Reply(text="after"), request)
print(store.get("child").text, store.get("after").text)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="fork, and a way to see open files")
def test_both_sides_of_a_fork_go_on_each_with_a_connection_of_its_own(tmp_path: Path) -> None:
    with run_python(FORKED, tmp_path / "replies") as process:
        assert process.communicate()[0] == "1\nparent after\n"


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE somebody_elses (name TEXT)")


def newer(path: Path) -> None:
    with closing(Store(path.parent)) as store:
        store.get("key")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")


def corrupt_reply(path: Path) -> None:
    with closing(Store(path.parent)) as store:
        store.put("key", Reply(text="whole"), REQUEST)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE replies SET reply = '{'")


def no_database(path: Path) -> None:
    path.write_text("these are no replies " * 100)


def folder_instead(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("spoil", [newer, corrupt_reply, no_database])
def test_a_file_that_cannot_be_read_is_named_and_may_be_deleted(tmp_path: Path, spoil) -> None:
    path = tmp_path / FILE_NAME
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    with closing(Store(tmp_path)) as store, pytest.raises(UsageError) as refusal:
        store.get("key")
    assert str(path) in str(refusal.value)
    assert "Delete it (that is safe" in str(refusal.value)
    assert (path.read_bytes() if path.is_file() else None) == before


@pytest.mark.parametrize("spoil", [foreign, Path.touch, folder_instead])
def test_what_is_not_ours_is_named_and_left_alone(tmp_path: Path, spoil) -> None:
    path = tmp_path / FILE_NAME
    spoil(path)
    with closing(Store(tmp_path)) as store, pytest.raises(UsageError, match="promptopt_store") as refusal:
        store.get("key")
    assert str(path) in str(refusal.value)
    assert path.exists()


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (sqlite3.SQLITE_FULL, "Make room"),
        (sqlite3.SQLITE_IOERR_WRITE, "has room"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "wait for it to end"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, "writable"),
    ],
)
def test_a_store_that_is_sound_is_never_to_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
) -> None:
    class Failing(Store):
        def _insert(self, row: tuple[str, str, str]) -> None:
            error = sqlite3.OperationalError("as SQLite says it")
            error.sqlite_errorcode = code
            raise error

    monkeypatch.setattr("pytest_promptopt.lms.store._BUSY_SECONDS", 0.0)
    with closing(Failing(tmp_path)) as store:
        for put in (store.put, lambda *row: asyncio.run(store.aput(*row))):
            with pytest.raises(UsageError, match=advice) as refusal:
                put("key", Reply(text="lost"), REQUEST)
            assert "elete" not in str(refusal.value)


def test_a_folder_with_other_peoples_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with closing(Store(tmp_path)) as store, pytest.raises(UsageError, match="promptopt_store") as refusal:
        store.put("key", Reply(text="never written"), REQUEST)
    assert str(tmp_path) in str(refusal.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with closing(Store(tmp_path / "file" / "replies")) as store, pytest.raises(UsageError, match="promptopt_store"):
        store.get("key")


@not_root
def test_a_file_that_cannot_be_written_is_found_out_before_the_first_reply(tmp_path: Path) -> None:
    with closing(Store(tmp_path)) as store:
        store.prepare()
    (tmp_path / FILE_NAME).chmod(0o400)
    with closing(Store(tmp_path)) as store, pytest.raises(UsageError, match="cannot be used"):
        store.prepare()


@not_root
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with closing(Store(tmp_path)) as store, pytest.raises(UsageError, match="cannot be stored in"):
        store.get("key")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_store_that_came_from_elsewhere_is_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with closing(Store(folder)) as store:
        store.prepare()
    (folder / "replies.sqlite3").chmod(0o644)
    with closing(Store(folder)) as store:
        store.prepare()
    assert stat.S_IMODE((folder / "replies.sqlite3").stat().st_mode) == 0o600
