"""Rows keep an identity that survives reordering, and files that cannot be read are told with their line."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import BaseModel

from pytest_promptopt.errors import DatasetError
from pytest_promptopt.evaluation.dataset import Example, as_examples, load_dataset, read_dataset


class Colour(Enum):
    RED = "red"


@dataclass
class Ticket:
    text: str
    tags: list[str]


class Model(BaseModel):
    text: str
    tags: list[str]


Named = namedtuple("Named", "text tags")


def test_fields_are_items_and_attributes() -> None:
    row = Example(ticket="a", values=[1])
    assert (row["ticket"], row.ticket, row["values"]) == ("a", "a", [1])
    assert (list(row), len(row), dict(row)) == (["ticket", "values"], 2, {"ticket": "a", "values": [1]})


def test_a_missing_field_is_told_with_those_that_are_there() -> None:
    row = Example(id="t1", ticket="a")
    with pytest.raises(KeyError, match="row t1 has no field 'team'; it has id, ticket"):
        _ = row["team"]
    with pytest.raises(AttributeError, match="row t1 has no field 'team'; it has id, ticket"):
        _ = row.team
    assert row.get("team") is None


def test_examples_are_equal_by_content_and_may_be_in_sets() -> None:
    assert Example(a=1) == Example({"a": 1}) == {"a": 1}
    assert len({Example(a=1), Example(a=1), Example(a=2)}) == 2


def test_the_id_is_the_rows_own_else_its_content() -> None:
    assert Example(id=7, a=1).id == "7"
    assert Example(a=1, b=2).id == Example(b=2, a=1).id == Example(a=1, b=2).digest
    assert Example(a=1).id != Example(a=2).id


def test_the_content_digest_is_pinned() -> None:
    assert Example(ticket="a refund", team="billing").digest == "e78144f11ad8ebea"


def test_the_digest_leaves_out_the_id_and_named_fields() -> None:
    assert Example(id="x", a=1).digest == Example(id="y", a=1).digest == Example(a=1).digest
    assert Example(a=1, team="b").digest_without(["team"]) == Example(a=1).digest


@pytest.mark.parametrize(
    ("value", "as_json"),
    [
        (Colour.RED, "red"),
        (date(2026, 1, 2), "2026-01-02"),
        (Decimal("1.50"), "1.50"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Path("a") / "b", "a/b"),
        (b"\x01", "01"),
        ({"b", "a"}, ["a", "b"]),
        ((1, None), [1, None]),
        ({1: {"x": Colour.RED}}, {"1": {"x": "red"}}),
        (Ticket("t", ["x"]), {"text": "t", "tags": ["x"]}),
        (Model(text="t", tags=[]), {"text": "t", "tags": []}),
        (Named("t", []), ["t", []]),
    ],
)
def test_values_have_one_stable_text(value: object, as_json: object) -> None:
    assert Example(field=value).as_json() == {"field": as_json}


def test_a_value_without_a_stable_text_is_refused_when_the_rows_are_read() -> None:
    with pytest.raises(DatasetError, match="field 'tool' holds a object, which has no stable text"):
        as_examples([{"id": "x", "tool": object()}], name="rows")


def test_rows_of_any_type_with_named_fields_are_the_same_rows() -> None:
    fields = {"text": "t", "tags": ["x"]}
    rows = [fields, Ticket(**fields), Model(**fields), Named(**fields), Example(fields)]
    examples = as_examples(rows, name="rows")
    assert [dict(example) for example in examples] == [fields] * 5
    assert [example.id.partition("#")[2] for example in examples] == ["", "2", "3", "4", "5"]


def test_equal_rows_are_numbered_and_keep_their_content() -> None:
    first, second, third = as_examples([{"a": 1}, {"a": 2}, {"a": 1}], name="rows")
    assert third.id == f"{first.id}#2"
    assert third.digest == first.digest
    assert second.id == second.digest


def test_ids_do_not_depend_on_the_order_of_the_rows() -> None:
    rows = [{"a": n} for n in range(5)]
    assert {row.id for row in as_examples(rows, name="rows")} == {
        row.id for row in as_examples(rows[::-1], name="rows")
    }


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("text", "is a str; it must be a list"),
        ({"a": 1}, "is a dict; it must be a list"),
        (None, "is a NoneType; it must be a list"),
        ([1], "row 1 is a int; it must be a dict"),
        (iter([{"a": 1}]), "which can be read only once; make it a list"),
        ([{"id": "x"}, {"id": "x"}], "rows 1 and 2 both have the id 'x'"),
    ],
)
def test_what_is_no_dataset_is_refused_by_name(rows: object, words: str) -> None:
    with pytest.raises(DatasetError, match="dataset 'rows'") as caught:
        as_examples(rows, name="rows")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.jsonl", '{"a": "1"}\n\n  \n{"a": "ü\\u2028"}'),
        ("r.json", '[{"a": "1"}, {"a": "ü\\u2028"}]'),
        ("r.csv", 'a\n1\n"ü\u2028"\n'),
        ("r.JSONL", '\ufeff{"a": "1"}\r\n{"a": "ü\u2028"}\r\n'),
    ],
)
def test_files_are_read_by_their_suffix(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert [row.a for row in read_dataset(tmp_path / name)] == ["1", "ü\u2028"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("r.jsonl", b'{"a": 1}\nnope\n{"a": 2}\n7\n', ["line 2: ", "line 4: a JSON int, not an object"]),
        ("r.jsonl", b"nope\n" * 9, ["line 5: ", "and 4 more lines"]),
        ("r.jsonl", b"\xff", ["cannot be read as UTF-8 text"]),
        ("r.jsonl", b'{"id": "x"}\n\n{"id": "x"}\n', ["rows 1 and 3 both have the id 'x'; ids must differ"]),
        ("r.json", b'{"a": 1}', ["must hold one JSON list of objects"]),
        ("r.json", b"[1]", ["must hold one JSON list of objects"]),
        ("r.json", b"[", ["not JSON"]),
        ("r.csv", b"a,b\n1\n", ["line 2 does not have the columns of the first line (a, b)"]),
        ("r.csv", b"a,b\n1,2,3\n", ["line 2 does not have the columns of the first line (a, b)"]),
        ("r.csv", b'a\n"1\n', ["line 2: "]),
        ("r.txt", b"", ["a dataset is a .jsonl, .json, .csv file"]),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_its_line(
    tmp_path: Path, name: str, content: bytes, words: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        read_dataset(tmp_path / name)
    for text in [name, *words]:
        assert text in str(caught.value)


def test_a_quoted_csv_field_may_hold_line_breaks(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text('a,b\n"one\ntwo",3\n')
    assert [dict(row) for row in read_dataset(tmp_path / "r.csv")] == [{"a": "one\ntwo", "b": "3"}]


def test_a_relative_path_is_beside_the_file_that_calls() -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset("nowhere.jsonl")
    assert str(Path(__file__).parent / "nowhere.jsonl") in str(caught.value)


def test_a_folder_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(DatasetError, match="cannot be read"):
        read_dataset(tmp_path / "rows.jsonl")
