"""The ceiling: what it promises about calls and money, under any interleaving."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.errors import BudgetExhausted, UsageError
from pytest_promptopt.lms.ceiling import Ceiling

CENTS = st.integers(min_value=0, max_value=50)


def reserves(ceiling: Ceiling) -> bool:
    try:
        ceiling.reserve()
    except BudgetExhausted:
        return False
    return True


def take_turns(*_: object) -> object:
    """Traces a thread, and lets another one run before every line: a missing lock shows."""
    time.sleep(0)
    return take_turns


@settings(max_examples=20, deadline=None, derandomize=True)
@given(max_calls=st.integers(0, 20), threads=st.integers(2, 6), tries=st.integers(1, 6))
def test_one_attempt_more_than_the_ceiling_never_happens(max_calls: int, threads: int, tries: int) -> None:
    ceiling = Ceiling(max_calls=max_calls)
    start = Barrier(threads)

    def attempt(_: int) -> int:
        start.wait()
        sys.settrace(take_turns)  # type: ignore[arg-type]
        return sum(reserves(ceiling) for _ in range(tries))

    with ThreadPoolExecutor(threads) as pool:
        granted = sum(pool.map(attempt, range(threads)))
    assert granted == ceiling.calls == min(max_calls, threads * tries)
    assert ceiling.remaining_calls == max_calls - granted


@settings(max_examples=200, deadline=None, derandomize=True)
@given(price=st.integers(1, 30), ceiling_cents=st.integers(0, 200), in_flight=st.integers(1, 6))
def test_attempts_of_one_price_pass_the_money_ceiling_by_the_first_burst_at_most(
    price: int, ceiling_cents: int, in_flight: int
) -> None:
    ceiling = Ceiling(max_cost_usd=ceiling_cents)  # whole numbers, so that sums are exact
    running = 0
    while True:
        while running < in_flight and reserves(ceiling):
            running += 1
        if not running:
            break
        ceiling.settle(price)
        running -= 1
    assert ceiling.cost_usd <= max(ceiling_cents, in_flight * price)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(ceiling_cents=st.integers(0, 200), prices=st.lists(CENTS, max_size=30))
def test_one_at_a_time_only_an_attempt_dearer_than_all_before_passes_the_money_ceiling(
    ceiling_cents: int, prices: list[int]
) -> None:
    ceiling = Ceiling(max_cost_usd=ceiling_cents)
    dearest = 0
    for price in prices:
        if not reserves(ceiling):
            break
        ceiling.settle(price)
        assert ceiling.cost_usd <= ceiling_cents or price > dearest
        dearest = max(dearest, price)


def test_the_message_names_the_ceiling_on_calls() -> None:
    with pytest.raises(BudgetExhausted, match="--prompt-budget 0"):
        Ceiling(max_calls=0).reserve()


def test_the_message_names_the_ceiling_on_money_and_what_is_spent() -> None:
    ceiling = Ceiling(max_cost_usd=1.0)
    ceiling.reserve()
    ceiling.settle(0.75)
    with pytest.raises(BudgetExhausted, match=r"--prompt-max-cost 1\).*\$0\.75 are spent"):
        ceiling.reserve()


def test_without_ceilings_nothing_is_refused() -> None:
    ceiling = Ceiling()
    for _ in range(100):
        ceiling.reserve()
        ceiling.settle(1e6)
    assert (ceiling.calls, ceiling.cost_usd, ceiling.remaining_calls) == (100, 1e8, None)


def test_an_unknown_cost_is_unknown_and_not_nothing() -> None:
    ceiling = Ceiling(max_calls=9, max_cost_usd=1.0)
    ceiling.reserve()
    assert not ceiling.has_unknown_cost
    ceiling.settle(None)
    assert ceiling.has_unknown_cost
    assert ceiling.cost_usd == 0.0


def test_an_unknown_cost_counts_for_as_much_as_the_dearest_known_one() -> None:
    ceiling = Ceiling(max_cost_usd=1.0)
    for cost_usd in (0.5, None):
        ceiling.reserve()
        ceiling.settle(cost_usd)
    with pytest.raises(BudgetExhausted):
        ceiling.reserve()


def test_a_money_ceiling_alone_stops_at_the_first_unpriced_call_and_says_what_to_add() -> None:
    ceiling = Ceiling(max_cost_usd=1.0)
    ceiling.reserve()
    ceiling.settle(None)
    with pytest.raises(BudgetExhausted, match="--prompt-budget"):
        ceiling.reserve()


def test_a_money_ceiling_of_nothing_lets_free_models_run_and_no_other() -> None:
    ceiling = Ceiling(max_cost_usd=0.0)
    ceiling.reserve(is_free=True)
    ceiling.settle(0.0)
    with pytest.raises(BudgetExhausted):
        ceiling.reserve()


@pytest.mark.parametrize("wrong", [{"max_calls": -1}, {"max_cost_usd": -0.5}, {"max_cost_usd": float("nan")}])
def test_a_ceiling_below_nothing_is_misuse(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="must be 0 or more"):
        Ceiling(**wrong)  # type: ignore[arg-type]
