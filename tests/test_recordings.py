"""Recordings on disk: what is written is read back, always by the same bytes, and what is broken is named."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.errors import SnapshotError
from pytest_promptopt.lms.base import Usage
from pytest_promptopt.snapshots.change import ChangeKind, apply
from pytest_promptopt.snapshots.recordings import (
    Recording,
    as_json,
    compare_recordings,
    dump_recordings,
    from_json,
    merged,
    parse_recordings,
    read_recordings,
)

PATH = Path("tests/__prompts__/test_desk.test_routes@paid-desk.jsonl")
METRIC = "test_desk.test_routes"

texts = st.text(st.characters(), max_size=20)
keys = st.builds(
    lambda digest, repeat, ordinal: f"{digest:064x}-{repeat}-{ordinal}",
    st.integers(0, 2**256 - 1),
    st.integers(0, 20),
    st.integers(0, 3),
)
recordings = st.builds(
    Recording,
    key=keys,
    model=texts,
    prompt=texts,
    rows=st.lists(texts, max_size=3, unique=True).map(lambda rows: tuple(sorted(rows))),
    reply=texts,
    usage=st.none() | st.builds(Usage, prompt_tokens=st.integers(0, 10**6), completion_tokens=st.integers(0, 10**6)),
    cost_usd=st.none() | st.floats(0, 10, allow_nan=False),
)
several = st.lists(recordings, max_size=5, unique_by=lambda each: each.key)


def one(**changes: object) -> Recording:
    fields = {"key": f"{7:064x}-0-0", "model": "paid/desk", "prompt": "p", "rows": ("t1",), "reply": "bug"}
    return Recording(**{**fields, **changes})  # type: ignore[arg-type]  # as the tests have them


@settings(max_examples=150, deadline=None, derandomize=True)
@given(several)
def test_what_is_written_is_read_back(written: list[Recording]) -> None:
    text = dump_recordings(written)
    text.encode("utf-8")

    assert parse_recordings(text, path=PATH, metric=METRIC) == {each.key: each for each in written}
    assert [from_json(as_json(each)) for each in written] == written


@settings(max_examples=60, deadline=None, derandomize=True)
@given(several, st.randoms(use_true_random=False))
def test_the_same_recordings_give_the_same_bytes_in_any_order(written: list[Recording], random: Random) -> None:
    shuffled = list(written)
    random.shuffle(shuffled)

    text = dump_recordings(shuffled)

    assert text == dump_recordings(written)
    assert [json.loads(line)["key"] for line in text.split("\n")[:-1]] == sorted(each.key for each in written)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(several)
def test_no_character_hides_or_ends_a_line(written: list[Recording]) -> None:
    text = dump_recordings(written)

    assert len(text.splitlines()) == text.count("\n")
    assert not any(character in text for character in "\u202e\u2066\u200b\x9b\x1b\r")


def test_a_line_shows_what_a_reviewer_needs() -> None:
    line = json.loads(dump_recordings([one(usage=Usage(prompt_tokens=9, completion_tokens=2), cost_usd=0.001)]))

    names = ["key", "model", "prompt", "rows", "repeat", "ordinal", "reply", "usage", "cost_usd"]
    assert list(line) == names
    assert (line["repeat"], line["ordinal"], line["usage"]) == (0, 0, [9, 2])


def test_rows_that_ask_alike_share_a_line() -> None:
    found = merged([one(rows=("t2",)), one(rows=("t1",)), one(rows=("t2",), reply="another")])

    assert found == {one().key: one(rows=("t1", "t2"))}


def test_a_whole_run_replaces_and_a_partial_one_adds(tmp_path: Path) -> None:
    path = tmp_path / PATH.name
    old, new = one(key=f"{1:064x}-0-0"), one(key=f"{2:064x}-0-0")
    apply([compare_recordings(path, [old], metric=METRIC, is_whole=True)])

    partial = compare_recordings(path, [new], metric=METRIC, is_whole=False)
    whole = compare_recordings(path, [new], metric=METRIC, is_whole=True)

    assert partial.after == dump_recordings([old, new])
    assert whole.after == dump_recordings([new])
    assert compare_recordings(path, [old], metric=METRIC, is_whole=True).kind is ChangeKind.UNCHANGED
    assert compare_recordings(path, [], metric=METRIC, is_whole=True).kind is ChangeKind.RETIRE


def test_no_file_is_no_recordings(tmp_path: Path) -> None:
    assert read_recordings(tmp_path / "none.jsonl", metric=METRIC) == {}
    assert compare_recordings(tmp_path / "none.jsonl", [], metric=METRIC, is_whole=True).kind is ChangeKind.UNCHANGED


def test_line_ends_of_a_checkout_are_no_change(tmp_path: Path) -> None:
    path = tmp_path / PATH.name
    path.write_bytes(dump_recordings([one()]).replace("\n", "\r\n").encode())

    assert compare_recordings(path, [one()], metric=METRIC, is_whole=True).kind is ChangeKind.UNCHANGED


GOOD = dump_recordings([one()])[:-1]
DAMAGES = {
    "truncated": (GOOD[:-9], "at column"),
    "a list": ("[1]", "no JSON object"),
    "a merge": ("=======", "a merge left its markers here"),
    "another tool's line": ('{"id": 1}', "unknown field 'id'"),
    "a field less": (GOOD.replace(', "reply": "bug"', ""), "the field 'reply' is missing"),
    "a field twice": (GOOD[:-1] + ', "key": "x"}', "a field stands twice in it"),
    "a key that is none": (GOOD.replace("0007-0-0", "7-0-0"), "its key is none"),
    "a key of another repeat": (GOOD.replace('"repeat": 0', '"repeat": 1'), "its key is none"),
    "a number for a text": (GOOD.replace('"bug"', "7"), "its 'reply' is no text"),
    "usage of words": (GOOD.replace('"usage": null', '"usage": ["a", 1]'), "its 'usage' is neither"),
    "a negative cost": (GOOD.replace('"cost_usd": null', '"cost_usd": -1'), "its 'cost_usd' is neither"),
    "no number": (GOOD.replace('"cost_usd": null', '"cost_usd": NaN'), "its 'cost_usd' is neither"),
    "too deep": ('{"key": ' + "[" * 100_000, "this is not a recording"),
    "the same key": (GOOD, "the key of this line stands in line 1 already"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_line_is_named_with_what_mends_it(damage: str) -> None:
    line, words = DAMAGES[damage]

    with pytest.raises(SnapshotError) as caught:
        parse_recordings(f"{GOOD}\n\n{line}\n", path=PATH, metric=METRIC)

    assert str(caught.value).startswith(f"{PATH}:3: ")
    assert words in str(caught.value)
    assert "pytest -k test_routes --prompt-lm record" in str(caught.value)
    assert caught.value.line == 3
