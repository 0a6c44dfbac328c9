"""Which rows a search may learn from, choose by, and never see."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from pytest_promptopt.errors import DatasetError
from pytest_promptopt.evaluation.dataset import Example, as_examples
from pytest_promptopt.evaluation.split import SplitRule, position, rows_after_freeze, split_key, split_rows

KEY = partial(split_key, group=None, labels=())


def rows(count: int, **more: Any) -> tuple[Example, ...]:
    return as_examples([{"text": f"row {n}", **more} for n in range(count)], name="rows")


def test_shares_are_near_what_was_asked_for() -> None:
    split = split_rows(rows(2_000), SplitRule(most_sealed_keys=2_000), key_of=KEY)
    assert len(split.train) == pytest.approx(600, abs=60)
    assert len(split.val) == pytest.approx(600, abs=60)
    assert len(split.test) == pytest.approx(800, abs=60)


@pytest.mark.parametrize(("count", "sides"), [(49, (15, 15, 19)), (40, (12, 12, 16)), (20, (6, 6, 8))])
def test_few_rows_are_dealt_by_quota(count: int, sides: tuple[int, int, int]) -> None:
    split = split_rows(rows(count), SplitRule(), key_of=KEY)
    assert (len(split.train), len(split.val), len(split.test)) == sides


def test_sides_are_pinned() -> None:
    assert round(position("group:a", ""), 6) == 0.945494
    assert position("group:a", "other") != position("group:a", "")


def test_duplicates_share_a_side_whatever_their_labels() -> None:
    doubled = as_examples(
        [{"id": f"{copy}{n}", "text": f"row {n}", "expected": copy} for n in range(60) for copy in "ab"], name="rows"
    )
    split = split_rows(doubled, SplitRule(), key_of=KEY)
    for side in (split.train, split.val, split.test):
        texts = [row.text for row in side]
        assert all(texts.count(text) == 2 for text in texts)


def test_a_group_stays_together() -> None:
    tickets = as_examples([{"text": f"row {n}", "customer": n % 60} for n in range(240)], name="rows")
    split = split_rows(tickets, SplitRule(), key_of=partial(split_key, group="customer", labels=()))
    sides = [{row.customer for row in side} for side in (split.train, split.val, split.test)]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 60


def test_a_row_without_the_group_goes_by_its_content() -> None:
    assert split_key(Example(text="a"), group="customer", labels=()) == KEY(Example(text="a"))


def test_named_labels_do_not_move_a_row() -> None:
    key = partial(split_key, group=None, labels=("team",))
    assert key(Example(text="a", team="x")) == key(Example(text="a", team="y"))
    assert KEY(Example(text="a", team="x")) != KEY(Example(text="a", team="y"))


def test_a_split_field_decides() -> None:
    mixed = (*rows(10, split="train"), *rows(12, split=" Val "), *rows(14, split="test"))
    split = split_rows(
        as_examples([{**row, "id": n} for n, row in enumerate(mixed)], name="rows"), SplitRule(), key_of=KEY
    )
    assert (len(split.train), len(split.val), len(split.test)) == (10, 12, 14)


def test_a_split_field_that_names_no_side_is_refused_with_its_row() -> None:
    with pytest.raises(DatasetError, match="row t1: split='dev' is none of train, val, test"):
        split_rows([Example(id="t1", split="dev")], SplitRule(), key_of=KEY)


def test_small_sides_are_merged_and_the_test_side_is_not() -> None:
    split = split_rows(rows(12), SplitRule(), key_of=KEY)
    assert split.is_merged
    assert split.train == split.val == split.searchable
    assert len(split.train) + len(split.test) == 12
    assert not set(split.train) & set(split.test)


def test_sides_of_five_rows_are_not_merged() -> None:
    split = split_rows(rows(17), SplitRule(), key_of=KEY)
    assert (len(split.train), len(split.val), split.is_merged) == (6, 5, False)
    assert split.searchable == (*split.train, *split.val)


def test_at_most_so_many_keys_are_sealed_and_they_are_the_lowest() -> None:
    many = rows(400)
    whole = split_rows(many, SplitRule(most_sealed_keys=400), key_of=KEY)
    capped = split_rows(many, SplitRule(most_sealed_keys=50), key_of=KEY)
    lowest = sorted(whole.test, key=lambda row: position(KEY(row), ""))[:50]
    assert set(capped.test) == set(lowest)
    assert capped.train == whole.train


def test_a_new_salt_deals_the_rows_anew() -> None:
    assert (
        split_rows(rows(100), SplitRule(salt="2"), key_of=KEY).test
        != split_rows(rows(100), SplitRule(), key_of=KEY).test
    )


def test_an_edited_sealed_row_opens_no_door_to_rows_that_the_search_saw() -> None:
    before = as_examples([{"id": f"r{n}", "text": f"row {n}"} for n in range(100)], name="rows")
    split = split_rows(before, SplitRule(), key_of=KEY)
    sealed = {row.id: row.digest for row in split.test}
    edited = split.test[0].id
    low = next(f"edit {n}" for n in range(1_000) if position(KEY(Example(text=f"edit {n}")), "") < 0.01)
    after = [Example(id=row.id, text=low) if row.id == edited else row for row in before]
    read = {row.id for row in rows_after_freeze(after, SplitRule(), key_of=KEY, sealed=sealed)}
    assert read == set(sealed)


def test_where_no_sealed_row_is_left_no_other_row_is_read() -> None:
    split = split_rows(rows(20), SplitRule(), key_of=KEY)
    sealed = {row.id: row.digest for row in split.test}
    assert rows_after_freeze(split.searchable, SplitRule(), key_of=KEY, sealed=sealed) == ()


def test_rows_with_a_split_field_join_the_gate_by_it() -> None:
    old = rows(30, split="test")
    sealed = {row.id: row.digest for row in old}
    new = (Example(text="new", split="test"), Example(text="new", split="train"), Example(text="free"))
    assert rows_after_freeze((*old, *new), SplitRule(), key_of=KEY, sealed=sealed) == (*old, new[0])


def test_the_rule_says_itself_in_words() -> None:
    assert str(SplitRule()) == "30/30/40"
    assert str(SplitRule(train=0.5, val=0.2, salt="b")) == "50/20/30, salt b"
