"""The ceiling: what it promises about calls and money, under any interleaving."""

import asyncio
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


def spend(ceiling: Ceiling, cost_usd: float | None, bound_usd: float | None = None) -> None:
    ceiling.settle(ceiling.reserve(bound_usd), cost_usd)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(ceiling_cents=st.integers(0, 200), bounds=st.lists(st.tuples(CENTS, CENTS), max_size=30))
def test_what_is_spent_and_held_never_passes_the_ceiling_and_nothing_is_refused_that_fits(
    ceiling_cents: int, bounds: list[tuple[int, int]]
) -> None:
    ceiling = Ceiling(max_cost_usd=ceiling_cents / 100)
    spent = 0
    for bound, share in bounds:
        cost = min(bound, share)
        try:
            spend(ceiling, cost / 100, bound / 100)
        except BudgetExhausted:
            assert spent + bound > ceiling_cents
        else:
            spent += cost
            assert spent - cost + bound <= ceiling_cents
    assert ceiling.cost_usd == pytest.approx(spent / 100)


def test_what_is_held_is_not_lent_to_others() -> None:
    ceiling = Ceiling(max_cost_usd=0.3)
    holds = [ceiling.try_reserve(0.1) for _ in range(4)]  # as floats, three times 0.1 is more than 0.3
    assert [hold is None for hold in holds] == [False, False, False, True]


def test_a_thread_waits_for_money_that_comes_back() -> None:
    ceiling = Ceiling(max_cost_usd=1.0)
    first = ceiling.reserve(0.9)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(ceiling.reserve, 0.5)
        until_somebody_waits(ceiling)
        ceiling.settle(first, 0.4)
        ceiling.settle(second.result(), 0.5)
    assert ceiling.cost_usd == 0.9


def test_who_waits_in_vain_is_refused_when_nobody_is_under_way() -> None:
    ceiling = Ceiling(max_cost_usd=1.0)
    first = ceiling.reserve(0.9)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(ceiling.reserve, 0.5)
        until_somebody_waits(ceiling)
        ceiling.settle(first, 0.9)
        with pytest.raises(BudgetExhausted, match=r"cost up to \$0\.5.*\$0\.9 are spent.*max_tokens"):
            second.result()


def test_nobody_overtakes_who_waits_but_what_is_free() -> None:
    ceiling = Ceiling(max_cost_usd=1.0)
    first = ceiling.reserve(0.5)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(ceiling.reserve, 0.8)
        until_somebody_waits(ceiling)
        assert ceiling.try_reserve(0.1) is None
        assert ceiling.try_reserve(0.0) is not None
        ceiling.settle(first, 0.1)
        assert second.result() is not None


def test_a_wait_that_is_cancelled_takes_nothing_and_lets_the_next_one_in() -> None:
    ceiling = Ceiling(max_calls=9, max_cost_usd=1.0)

    async def session() -> None:
        first = await ceiling.areserve(0.6)
        dear, cheap = (asyncio.create_task(ceiling.areserve(bound)) for bound in (0.9, 0.4))
        await asyncio.sleep(0)
        assert not cheap.done()
        dear.cancel()
        ceiling.settle(await cheap, 0.4)
        ceiling.settle(first, 0.6)

    asyncio.run(session())
    assert (ceiling.calls, ceiling.cost_usd) == (2, 1.0)


def test_what_is_given_back_was_never_taken() -> None:
    ceiling = Ceiling(max_calls=1, max_cost_usd=1.0)
    ceiling.give_back(ceiling.reserve(1.0))
    assert ceiling.calls == 0
    spend(ceiling, 1.0, 1.0)
    assert (ceiling.calls, ceiling.cost_usd) == (1, 1.0)


def test_a_forked_child_waits_for_nobody_in_the_parent() -> None:
    ceiling = Ceiling(max_calls=9, max_cost_usd=1.0)
    ceiling.reserve(0.9)
    ceiling.leave_to_parent()
    spend(ceiling, 0.9, 0.9)
    with pytest.raises(BudgetExhausted):
        ceiling.reserve(0.2)


def until_somebody_waits(ceiling: Ceiling) -> None:
    """Nobody else is let in then, however little it costs."""
    while (hold := ceiling.try_reserve(0.001)) is not None:
        ceiling.give_back(hold)


def test_the_message_names_the_ceiling_on_calls() -> None:
    with pytest.raises(BudgetExhausted, match="--prompt-budget 0"):
        Ceiling(max_calls=0).reserve()


def test_the_message_names_the_ceiling_on_money_and_what_is_spent() -> None:
    ceiling = Ceiling(max_cost_usd=1.0)
    spend(ceiling, 0.75)
    with pytest.raises(BudgetExhausted, match=r"--prompt-max-cost 1\).*\$0\.75 are spent"):
        ceiling.reserve()


def test_without_ceilings_nothing_is_refused() -> None:
    ceiling = Ceiling()
    for bound_usd in (None, 1.0) * 50:
        spend(ceiling, 1e6, bound_usd)
    assert (ceiling.calls, ceiling.cost_usd, ceiling.remaining_calls) == (100, 1e8, None)


def test_an_unknown_cost_is_unknown_and_not_nothing() -> None:
    ceiling = Ceiling(max_calls=9, max_cost_usd=1.0)
    hold = ceiling.reserve()
    assert not ceiling.has_unknown_cost
    ceiling.settle(hold, None)
    assert ceiling.has_unknown_cost
    assert ceiling.cost_usd == 0.0


@pytest.mark.parametrize("cost_usd", [None, float("nan"), float("inf"), -1.0])
def test_an_attempt_of_unknown_cost_stays_on_the_account_with_what_was_held(cost_usd: float | None) -> None:
    ceiling = Ceiling(max_cost_usd=1.0)
    spend(ceiling, cost_usd, 0.6)
    assert (ceiling.has_unknown_cost, ceiling.cost_usd) == (True, 0.0)
    with pytest.raises(BudgetExhausted, match=r"\$0\.6 are spent"):
        ceiling.reserve(0.5)
    spend(ceiling, 0.4, 0.4)


def test_an_unknown_cost_counts_for_as_much_as_the_dearest_known_one() -> None:
    ceiling = Ceiling(max_cost_usd=1.0)
    for cost_usd in (0.5, None):
        spend(ceiling, cost_usd)
    with pytest.raises(BudgetExhausted):
        ceiling.reserve()


@pytest.mark.parametrize("cost_usd", [0.3, 0.0])
def test_attempts_without_a_price_go_one_at_a_time(cost_usd: float) -> None:
    ceiling = Ceiling(max_calls=9, max_cost_usd=1.0)
    spend(ceiling, 0.001, 0.002)  # another model's price says nothing about this one's
    for _ in range(2):
        hold = ceiling.reserve()
        assert ceiling.try_reserve() is None
        ceiling.settle(hold, cost_usd)


def test_a_model_that_is_never_priced_is_not_slowed_down_for_ever() -> None:
    ceiling = Ceiling(max_calls=99, max_cost_usd=1.0)
    spend(ceiling, None)
    assert all(ceiling.try_reserve() is not None for _ in range(20))


def test_an_attempt_inside_another_one_does_not_wait_for_it() -> None:
    ceiling = Ceiling(max_calls=9, max_cost_usd=1.0)
    outer = ceiling.reserve(0.6)
    inner = ceiling.reserve(0.4, outer=(outer,))
    ceiling.settle(inner, 0.4)
    with pytest.raises(BudgetExhausted):
        ceiling.reserve(0.5, outer=(outer,))


def test_of_attempts_without_a_price_inside_another_one_one_goes_at_a_time() -> None:
    ceiling = Ceiling(max_calls=9, max_cost_usd=1.0)
    outer = ceiling.reserve()
    inner = ceiling.reserve(outer=(outer,))
    assert ceiling.try_reserve(outer=(outer,)) is None  # its sibling will settle
    ceiling.settle(inner, 0.3)
    assert ceiling.try_reserve(outer=(outer,)) is not None


def test_an_attempt_inside_another_one_goes_before_those_who_wait_for_that() -> None:
    ceiling = Ceiling(max_cost_usd=1.0)
    outer = ceiling.reserve(0.6)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ceiling.reserve, 0.5)
        until_somebody_waits(ceiling)
        ceiling.settle(ceiling.reserve(0.4, outer=(outer,)), 0.1)
        ceiling.settle(outer, 0.1)
        assert waiting.result(timeout=60) is not None


def test_attempts_inside_others_that_wait_for_each_other_are_refused() -> None:
    ceiling = Ceiling(max_cost_usd=1.0)
    one, other = ceiling.reserve(0.5), ceiling.reserve(0.5)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ceiling.reserve, 0.1, outer=(one,))
        until_somebody_waits(ceiling)
        with pytest.raises(BudgetExhausted):
            ceiling.reserve(0.1, outer=(other,))
        ceiling.settle(other, 0.2)
        assert waiting.result(timeout=60) is not None


def test_a_money_ceiling_alone_stops_at_the_first_unpriced_call_and_says_what_to_add() -> None:
    ceiling = Ceiling(max_cost_usd=1.0)
    spend(ceiling, None)
    with pytest.raises(BudgetExhausted, match="--prompt-budget"):
        ceiling.reserve()


def test_a_money_ceiling_of_nothing_lets_free_models_run_and_no_other() -> None:
    ceiling = Ceiling(max_cost_usd=0.0)
    spend(ceiling, 0.0, 0.0)
    for bound_usd in (None, 0.01):
        with pytest.raises(BudgetExhausted):
            ceiling.reserve(bound_usd)


@pytest.mark.parametrize("wrong", [{"max_calls": -1}, {"max_cost_usd": -0.5}, {"max_cost_usd": float("nan")}])
def test_a_ceiling_below_nothing_is_misuse(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="must be 0 or more"):
        Ceiling(**wrong)  # type: ignore[arg-type]
