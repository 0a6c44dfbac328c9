from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.optimizers.pareto import Front, find_front

Pool = Mapping[int, Sequence[float | None]]

SCORES = st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 1.0]))


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    rows = draw(st.integers(1, 6))
    own = st.lists(SCORES, min_size=rows, max_size=rows)
    return dict(enumerate(draw(st.lists(own, max_size=7))))


def best_on(pool: Pool, row: int) -> float | None:
    return max((own[row] for own in pool.values() if own[row] is not None), default=None)  # type: ignore[type-var]


def holds_for_any(check: object) -> object:
    return settings(max_examples=80, deadline=None, derandomize=True)(given(pools())(check))  # type: ignore[arg-type]


@holds_for_any
def test_wins_are_the_rows_that_nobody_did_better_on(pool: Pool) -> None:
    for key, rows in find_front(pool).wins.items():
        assert (
            rows
            == {row for row, score in enumerate(pool[key]) if score is not None and score == best_on(pool, row)}
            != frozenset()
        )


@holds_for_any
def test_every_row_that_has_a_score_is_won_by_somebody_on_the_front(pool: Pool) -> None:
    won = {row for rows in find_front(pool).wins.values() for row in rows}
    assert won == {row for own in pool.values() for row, score in enumerate(own) if score is not None}


@holds_for_any
def test_nobody_on_the_front_can_be_spared(pool: Pool) -> None:
    wins = find_front(pool).wins
    for key, rows in wins.items():
        assert rows - {row for other, more in wins.items() if other != key for row in more}


@holds_for_any
def test_a_front_keeps_the_order_of_the_pool_and_is_the_front_of_itself(pool: Pool) -> None:
    wins = find_front(pool).wins
    assert [*wins] == [key for key in pool if key in wins]
    assert find_front({key: pool[key] for key in wins}).wins == wins


@holds_for_any
def test_a_parent_is_drawn_from_the_front_and_the_same_for_the_same_seed(pool: Pool) -> None:
    front = find_front(pool)
    if front.wins:
        assert front.draw_parent(Random(7)) == front.draw_parent(Random(7))
        assert front.draw_parent(Random(7)) in front.wins


def test_a_parent_is_as_likely_as_it_wins_rows() -> None:
    front = find_front({"one": [1.0, 0.0, 0.0, 0.0], "three": [0.0, 1.0, 1.0, 1.0]})
    rng = Random(0)
    drawn = Counter(front.draw_parent(rng) for _ in range(4000))
    assert drawn["three"] / 4000 == pytest.approx(3 / 4, abs=0.03)


def test_the_best_mean_may_leave_room_for_whoever_solves_what_it_cannot() -> None:
    assert [*find_front({"specialist": [0, 0, 0, 1], "best": [1, 1, 1, 0], "second": [1, 1, 0, 0]}).wins] == [
        "specialist",
        "best",
    ]


def test_the_worst_of_those_who_can_be_spared_goes_first() -> None:
    pool = {"a": [1.0, 1.0, 0.0], "b": [0.0, 1.0, 1.0], "c": [1.0, 0.9, 1.0]}
    assert [*find_front(pool).wins] == ["b", "c"], "b and a cover one another and c; a is the older of the worse two"


def test_of_two_with_the_same_wins_the_younger_stays() -> None:
    assert [*find_front({"older": [1.0, 0.0], "younger": [1.0, 0.0]}).wins] == ["younger"]


def test_a_row_without_scores_is_nobodys() -> None:
    assert find_front({"a": [None, 0.0], "b": [None, None]}).wins == {"a": frozenset({1})}


@pytest.mark.parametrize("pool", [{}, {"a": []}, {"a": [None]}])
def test_without_any_score_there_is_no_parent_to_draw(pool: Pool) -> None:
    front: Front[int] = find_front(pool)
    with pytest.raises(ValueError, match="nobody in the pool has a score"):
        front.draw_parent(Random(0))


def test_scores_on_different_numbers_of_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        find_front({"a": [1.0, 0.0], "b": [1.0]})
