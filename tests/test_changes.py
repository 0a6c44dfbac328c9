"""Changes are values; applying them loses nothing, whoever reads, crashes or edits meanwhile."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from threading import Event, Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.errors import UsageError
from pytest_promptopt.prompts.frozen import snapshot_path
from pytest_promptopt.snapshots.change import (
    Change,
    ChangeKind,
    apply,
    check_writable,
    compare,
    find_orphans,
    read_text,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return snapshot_path(tmp_path / "prompts.py", "prompts.route", "offline/keyword")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_snapshot_stands_beside_its_owner() -> None:
    found = snapshot_path(Path("support/prompts.py"), "prompts.route", "offline/keyword")
    assert found == Path("support/__prompts__/prompts.route@offline-keyword.toml")


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (None, "new\n", ChangeKind.CREATE),
        ("old\n", "new\n", ChangeKind.UPDATE),
        ("", "new\n", ChangeKind.UPDATE),
        ("old\n", "old\n", ChangeKind.UNCHANGED),
        ("old\r\n", "old\n", ChangeKind.UNCHANGED),
        (None, None, ChangeKind.UNCHANGED),
        ("old\n", None, ChangeKind.RETIRE),
    ],
)
def test_comparing_says_what_would_happen_and_writes_nothing(
    before: str | None, after: str | None, kind: ChangeKind, path: Path
) -> None:
    if before is not None:
        write(path, before)
    assert compare(path, after) == Change(path=path, kind=kind, before=before, after=after)
    assert path.parent.exists() == (before is not None)
    assert read_text(path) == before


texts = st.none() | st.text(max_size=20).map(lambda text: text.replace("\r", ""))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(texts, min_size=1, max_size=4))
def test_after_applying_nothing_is_left_to_change(tmp_path_factory: pytest.TempPathFactory, afters: list[str]) -> None:
    path = tmp_path_factory.mktemp("snapshots") / "__prompts__" / "a.toml"
    for after in afters:
        change = compare(path, after)
        touched = apply([change])
        assert touched == ([] if change.kind is ChangeKind.UNCHANGED else [path])
        assert read_text(path) == after
        assert compare(path, after).kind is ChangeKind.UNCHANGED


def test_applying_leaves_nothing_else_behind(path: Path) -> None:
    apply([compare(path, "one\n")])
    apply([compare(path, "two\n"), compare(path.with_name("b.toml"), "b\n")])
    assert names_in(path.parent) == ["b.toml", path.name]
    apply([compare(path, None)])
    assert names_in(path.parent) == ["b.toml"]


def test_an_unchanged_file_is_not_touched(path: Path) -> None:
    write(path, "same\r\n")
    before = path.stat()
    assert apply([compare(path, "same\n")]) == []
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert path.read_bytes() == b"same\r\n"


def test_line_ends_are_written_as_they_are(path: Path) -> None:
    apply([compare(path, "one\ntwo\n")])
    assert path.read_bytes() == b"one\ntwo\n"


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_replaced_file_keeps_its_mode_and_a_new_one_has_the_users_own(path: Path, tmp_path: Path) -> None:
    write(path, "old\n").chmod(0o640)
    ordinary = write(tmp_path / "ordinary", "")
    apply([compare(path, "new\n"), compare(path.with_name("b.toml"), "b\n")])
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(path.with_name("b.toml").stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need a privilege elsewhere")
def test_a_symbolic_link_stays_one(path: Path, tmp_path: Path) -> None:
    shared = write(tmp_path / "shared.toml", "old\n")
    path.parent.mkdir()
    path.symlink_to(shared)
    apply([compare(path, "new\n")])
    assert path.is_symlink()
    assert shared.read_text() == "new\n"


def test_a_failing_write_leaves_every_file_as_it_was(path: Path) -> None:
    write(path, "old\n")
    too_long = path.with_name("x" * 250 + ".toml")
    impossible = Change(path=too_long, kind=ChangeKind.CREATE, before=None, after="b\n")
    with pytest.raises(UsageError, match=r"cannot be written \(.*\); every file is left as it was"):
        apply([compare(path, "new\n"), impossible])
    assert names_in(path.parent) == [path.name]
    assert path.read_text() == "old\n"


def test_a_text_that_cannot_be_encoded_leaves_every_file_as_it_was(path: Path) -> None:
    write(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        apply([compare(path, "half a pair: \ud83d")])
    assert names_in(path.parent) == [path.name]
    assert path.read_text() == "old\n"


@pytest.mark.parametrize("meanwhile", ["an edit\n", None])
def test_what_somebody_wrote_meanwhile_is_not_overwritten(meanwhile: str | None, path: Path) -> None:
    change = compare(write(path, "old\n"), "new\n")
    other = compare(path.with_name("b.toml"), "b\n")
    apply([compare(path, meanwhile)])
    with pytest.raises(UsageError, match="somebody changed this file during the run"):
        apply([other, change])
    assert read_text(path) == meanwhile
    assert not other.path.exists()


def test_a_reader_never_sees_half_a_file(path: Path) -> None:
    whole = ["a" * 400_000, "b" * 400_000]
    write(path, whole[0])
    seen: set[str | None] = set()
    has_begun, is_done = Event(), Event()

    def read() -> None:
        while not is_done.is_set():
            seen.add(read_text(path))
            has_begun.set()

    reader = Thread(target=read)
    reader.start()
    has_begun.wait()
    for round_number in range(60):
        apply([compare(path, whole[(round_number + 1) % 2])])
    is_done.set()
    reader.join()
    assert seen <= set(whole)


@pytest.mark.parametrize("content", [b"format = 1\n\xff\n", None], ids=["bytes", "folder"])
def test_what_cannot_be_read_is_not_overwritten(content: bytes | None, path: Path) -> None:
    path.parent.mkdir()
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(UsageError, match=r"UTF-8|cannot be read"):
        compare(path, "new\n")
    assert path.is_dir() if content is None else path.read_bytes() == content


def test_a_folder_that_can_be_written_is_found_so_without_a_trace(tmp_path: Path) -> None:
    check_writable(tmp_path / "support" / "__prompts__")
    check_writable(tmp_path)
    assert names_in(tmp_path) == []


def test_a_relative_folder_is_looked_up_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_writable(Path("support/__prompts__"))
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("below", ["", "__prompts__", "a/__prompts__"])
def test_a_file_in_the_way_of_the_folder_is_named_before_any_call(below: str, tmp_path: Path) -> None:
    file = write(tmp_path / "support", "I am a file")
    with pytest.raises(UsageError, match=f"because {file} is not a folder"):
        check_writable(file / below)


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need a privilege elsewhere")
def test_a_dangling_link_in_the_way_is_named_before_any_call(tmp_path: Path) -> None:
    link = tmp_path / "__prompts__"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is not a folder"):
        check_writable(link)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no files, even from root")
def test_a_folder_that_takes_no_files_is_named_before_any_call() -> None:
    with pytest.raises(UsageError, match=r"because /proc/self takes no files"):
        check_writable(Path("/proc/self/support/__prompts__"))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="modes do not bind root")
def test_a_read_only_folder_is_named_before_any_call(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(UsageError, match="takes no files"):
        check_writable(tmp_path / "__prompts__")
    tmp_path.chmod(0o755)


def test_files_of_prompts_and_metrics_that_are_gone_are_found_and_kept(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", 'format = 1\nprompt = "prompts.route"\n')
    write(tmp_path / "b.toml", "format = 1\r\nprompt = 'prompts.gone'\r\n")
    write(tmp_path / "c.toml", 'format = 1\nmetric = "test_x.test_gone"\nbroken')
    write(tmp_path / "c.jsonl", "{}\n")
    write(tmp_path / "d.toml", 'format = 1\nmetric = "test_x.test_\\u0061"\n')
    write(tmp_path / "e.toml", "names nobody\n")
    before = names_in(tmp_path)
    found = find_orphans(tmp_path, {"prompts.route", "test_x.test_a"})
    assert [path.name for path in found] == ["b.toml", "c.jsonl", "c.toml"]
    assert names_in(tmp_path) == before


def test_a_folder_that_is_not_there_has_no_orphans(tmp_path: Path) -> None:
    assert find_orphans(tmp_path / "__prompts__", set()) == []
