"""What holds for the split of any dataset."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.evaluation.dataset import Example, as_examples
from pytest_promptopt.evaluation.split import SplitRule, rows_after_freeze, split_key, split_rows

FEW = settings(max_examples=60, deadline=None, derandomize=True)

row = st.fixed_dictionaries(
    {"text": st.integers(0, 400).map("text {}".format)},
    optional={
        "customer": st.integers(0, 40),
        "expected": st.sampled_from("ab"),
        "split": st.sampled_from(["train", "val", "test"]),
    },
)
rule = st.builds(
    SplitRule,
    salt=st.sampled_from(["", "x"]),
    most_sealed_keys=st.integers(5, 60),
    train=st.just(0.3),
    val=st.just(0.3),
)
group = st.sampled_from([None, "customer"])


def of(raw: list[dict[str, Any]]) -> tuple[Example, ...]:
    return as_examples(raw, name="rows")


@FEW
@given(st.lists(row, max_size=120), rule, group)
def test_no_row_is_searched_and_sealed(raw: list[dict[str, Any]], rule: SplitRule, group: str | None) -> None:
    examples = of(raw)
    split = split_rows(examples, rule, key_of=partial(split_key, group=group, labels=()))
    ids = [example.id for example in (*split.searchable, *split.test)]
    assert len(ids) == len(set(ids))
    assert set(ids) <= {example.id for example in examples}
    if not split.is_merged:
        assert not {e.id for e in split.train} & {e.id for e in split.val}


@FEW
@given(st.lists(row, max_size=120), group)
def test_every_row_has_a_side_where_nothing_caps_the_sealed_ones(raw: list[dict[str, Any]], group: str | None) -> None:
    examples = of(raw)
    split = split_rows(examples, SplitRule(most_sealed_keys=200), key_of=partial(split_key, group=group, labels=()))
    assert {e.id for e in (*split.searchable, *split.test)} == {e.id for e in examples}


@FEW
@given(st.integers(50, 150), st.integers(1, 100), rule)
def test_adding_rows_to_fifty_or_more_moves_none(before: int, more: int, rule: SplitRule) -> None:
    key_of = partial(split_key, group=None, labels=())
    examples = of([{"text": f"row {n}"} for n in range(before + more)])
    small, large = (split_rows(rows, rule, key_of=key_of) for rows in (examples[:before], examples))
    old = set(examples[:before])
    assert {e for e in large.train if e in old} == set(small.train)
    assert {e for e in large.val if e in old} == set(small.val)
    assert {e for e in large.test if e in old} <= set(small.test)


@FEW
@given(st.data(), st.lists(row, min_size=1, max_size=90), st.lists(row, max_size=60), rule, group)
def test_a_gate_never_reads_a_row_that_the_search_saw(
    data: st.DataObject,
    raw: list[dict[str, Any]],
    added: list[dict[str, Any]],
    rule: SplitRule,
    group: str | None,
) -> None:
    key_of = partial(split_key, group=group, labels=())
    examples = of(raw)
    split = split_rows(examples, rule, key_of=key_of)
    sealed = {e.id: e.digest for e in split.test}
    kept = data.draw(st.lists(st.sampled_from(raw), unique_by=id)) if data.draw(st.booleans()) else raw
    now = of(data.draw(st.permutations([*kept, *added])))
    read = rows_after_freeze(now, rule, key_of=key_of, sealed=sealed)
    seen = {e.digest for e in split.searchable} - {e.digest for e in split.test}
    assert not {e.digest for e in read} & seen


@FEW
@given(st.lists(row, min_size=1, max_size=90), st.lists(row, max_size=60), rule, group)
def test_a_gate_reads_every_sealed_row_that_is_still_there(
    raw: list[dict[str, Any]], added: list[dict[str, Any]], rule: SplitRule, group: str | None
) -> None:
    key_of = partial(split_key, group=group, labels=())
    split = split_rows(of(raw), rule, key_of=key_of)
    sealed = {e.id: e.digest for e in split.test}
    now = of([*raw, *added])
    read = {e.id for e in rows_after_freeze(now, rule, key_of=key_of, sealed=sealed)}
    assert set(sealed) <= read
