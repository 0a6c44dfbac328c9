"""The most that a run may call and spend: asked before every attempt, told afterwards what it cost."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Lock

from pytest_promptopt.errors import BudgetExhausted, UsageError
from pytest_promptopt.lms.background import Bell

PICODOLLARS = 1_000_000_000_000
"""To a dollar. Sums are whole numbers of them: floats would not add up to the ceiling exactly."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hold:
    """One attempt that was let through, and what is held for it, in picodollars; ``None``: nobody knows its price."""

    bound: int | None
    is_counted: bool = True


_FREE = {is_counted: Hold(bound=0, is_counted=is_counted) for is_counted in (True, False)}


Outer = tuple[Hold, ...]
"""What is held for the calls that an attempt is made inside of, by a model that asks others while it answers."""


class _Place:
    """A place in the queue of those for whom there is not enough money as long as others have not settled."""

    __slots__ = ("outer", "wake")

    def __init__(self, wake: Callable[[], object], outer: Outer) -> None:
        self.wake = wake
        self.outer = outer


class Ceiling:
    """Two ceilings over one run, shared by all its threads: attempts at providers, and US dollars.

    ``None`` lifts a ceiling. Calls are exact: attempt ``max_calls + 1`` never starts. Money is held before it is spent:
    every attempt comes with the most that it may cost, and what is spent and held together never passes
    ``max_cost_usd``. An attempt for which too little is left waits until those under way have settled, mostly for less
    than was held, and is refused when nobody is under way. One whose cost nobody knows afterwards stays on the account
    with what was held for it.

    Where the price is unknown beforehand too (a bound of ``None``), an attempt counts for as much as the dearest one so
    far, and such attempts go one at a time, until one of them has shown that even afterwards nobody knows what they
    cost. A model whose price was seen once has a bound from then on.

    An attempt inside another one (``outer``) stands in front of those who wait, and waits for nobody who waits for such
    an attempt himself: it is refused when no other is under way.
    """

    def __init__(self, *, max_calls: int | None = None, max_cost_usd: float | None = None) -> None:
        _refuse_negative("--prompt-budget", max_calls)
        _refuse_negative("--prompt-max-cost", max_cost_usd)
        self.max_calls = max_calls
        self.max_cost_usd = max_cost_usd
        self._max_cost = _picodollars(max_cost_usd)
        self._lock = Lock()
        self._queue: deque[_Place] = deque()
        self._calls = 0
        self._cost = self._presumed = self._dearest = 0
        self._has_unknown_cost = False
        self._unpriced_settled = 0
        self._hold_nothing()

    def reserve(self, bound_usd: float | None = None, *, outer: Outer = (), is_counted: bool = True) -> Hold:
        """Take one attempt that costs ``bound_usd`` at most, waiting in this thread where others may settle for less.

        One that is not counted, of a model inside this process say, takes none of ``max_calls``. Raises
        :class:`BudgetExhausted` naming the ceiling. Every hold must be settled, or given back.
        """
        hold = self.try_reserve(bound_usd, outer=outer, is_counted=is_counted)
        if hold is None:
            bell = Bell()
            with self._queued(bell.ring, outer) as place:
                while (hold := self._take(bound_usd, place, outer, is_counted)) is None:
                    bell.wait()
        return hold

    async def areserve(self, bound_usd: float | None = None, *, outer: Outer = ()) -> Hold:
        """As :meth:`reserve`, awaited in an asyncio loop. Cancelling the wait takes nothing."""
        hold = self.try_reserve(bound_usd, outer=outer)
        if hold is None:
            loop, news = asyncio.get_running_loop(), asyncio.Event()

            def wake() -> None:
                with suppress(RuntimeError):  # a loop that is gone needs no waking
                    loop.call_soon_threadsafe(news.set)

            with self._queued(wake, outer) as place:
                while (hold := self._take(bound_usd, place, outer, True)) is None:
                    await news.wait()
                    news.clear()
        return hold

    def try_reserve(self, bound_usd: float | None = None, *, outer: Outer = (), is_counted: bool = True) -> Hold | None:
        """As :meth:`reserve`; ``None`` where that would wait."""
        return self._take(bound_usd, None, outer, is_counted)

    def settle(self, hold: Hold, cost_usd: float | None) -> None:
        """Say what an attempt cost; ``None`` when nobody knows, which is counted as unknown and never as 0."""
        cost = _picodollars(cost_usd)
        if cost == hold.bound == 0:
            return  # nothing was held for it, and nobody can be waiting for it
        with self._lock:
            self._let_go(hold)
            if cost is not None:
                self._cost += cost
                self._dearest = max(self._dearest, cost)
            else:
                self._has_unknown_cost = True
                self._presumed += hold.bound or 0
                self._unpriced_settled += hold.bound is None
            self._wake_first()

    def give_back(self, hold: Hold) -> None:
        """Undo a reservation: the attempt was not made."""
        with self._lock:
            self._let_go(hold)
            self._calls -= hold.is_counted
            self._wake_first()

    def leave_to_parent(self) -> None:
        """After a fork: what was under way, or waited, or held the lock, exists in the parent only."""
        self._lock = Lock()
        self._queue.clear()
        self._hold_nothing()

    @property
    def calls(self) -> int:
        """Attempts taken so far, those in flight included."""
        return self._calls

    @property
    def remaining_calls(self) -> int | None:
        """Attempts left under ``max_calls``; ``None`` when it is lifted."""
        return None if self.max_calls is None else self.max_calls - self._calls

    @property
    def cost_usd(self) -> float:
        """The sum of all known costs."""
        return self._cost / PICODOLLARS

    @property
    def has_unknown_cost(self) -> bool:
        """Whether an attempt was made that nobody could price, so that :attr:`cost_usd` is too low."""
        return self._has_unknown_cost

    def _hold_nothing(self) -> None:
        self._held = self._unpriced_in_flight = 0
        self._payers: set[Hold] = set()

    def _take(self, bound_usd: float | None, place: _Place | None, outer: Outer, is_counted: bool) -> Hold | None:
        """A hold, or ``None`` for who has to wait; ``place`` is where the asker stands in the queue, if it does."""
        bound = _picodollars(bound_usd)
        with self._lock:
            if is_counted and self.max_calls is not None and self._calls >= self.max_calls:
                raise BudgetExhausted(_calls_spent(self.max_calls))
            if bound == 0:
                self._calls += is_counted
                return _FREE[is_counted]
            if self._max_cost is not None and self._must_wait(bound, self._max_cost, place, outer):
                return None
            self._calls += is_counted
            hold = Hold(bound=bound, is_counted=is_counted)
            self._payers.add(hold)
            self._held += bound or 0
            self._unpriced_in_flight += bound is None
            return hold

    def _must_wait(self, bound: int | None, max_cost: int, place: _Place | None, outer: Outer) -> bool:
        """Whether the money for an attempt has to be waited for. Raises where that would be in vain."""
        if self._queue and self._queue[0] is not place and not outer:
            return True
        if bound is None and max_cost > 0 and self._must_wait_for_a_price(outer):
            return True
        unpriced = self._unpriced_in_flight + self._unpriced_settled + (bound is None)
        needed = self._cost + self._presumed + self._held + (bound or 0) + unpriced * self._dearest
        if needed <= max_cost and not (bound is None and max_cost == 0):
            return False
        if not self._under_way(outer):
            raise BudgetExhausted(self._too_dear(self._dearest if bound is None else bound))
        return True

    def _under_way(self, outer: Outer) -> set[Hold]:
        """Attempts that will settle whatever becomes of who asks here: they are around nobody who waits."""
        return self._payers.difference(outer, *[place.outer for place in self._queue])

    def _must_wait_for_a_price(self, outer: Outer) -> bool:
        if self._unpriced_settled and self.max_calls is None and not self._dearest:
            raise BudgetExhausted(_UNPRICED)
        if not self._unpriced_in_flight or self._unpriced_settled:
            return False
        return any(hold.bound is None for hold in self._under_way(outer))

    def _let_go(self, hold: Hold) -> None:
        self._held -= hold.bound or 0
        self._payers.discard(hold)
        self._unpriced_in_flight -= hold.bound is None

    @contextmanager
    def _queued(self, wake: Callable[[], object], outer: Outer) -> Iterator[_Place]:
        """A place at the end of the queue, or in front of it inside of others, left in favour of the next one."""
        place = _Place(wake, outer)
        with self._lock:
            (self._queue.appendleft if outer else self._queue.append)(place)
        try:
            yield place
        finally:
            with self._lock, suppress(ValueError):  # a fork may have cleared the queue
                self._queue.remove(place)
                self._wake_first()

    def _wake_first(self) -> None:
        if self._queue:
            self._queue[0].wake()

    def _too_dear(self, bound: int) -> str:
        spent_usd = (self._cost + self._presumed) / PICODOLLARS
        could = f"cost up to ${bound / PICODOLLARS:.4g} and so pass" if bound else "pass"
        return (
            f"The next LM call could {could} the ceiling of ${self.max_cost_usd:g} (--prompt-max-cost "
            f"{self.max_cost_usd:g}); ${spent_usd:.4g} are spent. Raise it to go on, or bound what a reply may cost "
            "with max_tokens."
        )


_UNPRICED = (
    "The price of a call to this model is unknown, so the money ceiling (--prompt-max-cost) alone cannot hold. "
    "Add a ceiling on calls, for instance --prompt-budget 1000."
)


def _picodollars(usd: float | None) -> int | None:
    """``None`` for what is no amount: a cost that is not a number, or below nothing, is as good as unknown."""
    if usd == 0.0:
        return 0
    if usd is None or not 0.0 < usd < math.inf:
        return None
    return round(usd * PICODOLLARS)


def _calls_spent(max_calls: int) -> str:
    return f"The ceiling of {max_calls:,} LM calls is reached (--prompt-budget {max_calls}). Raise it to go on."


def _refuse_negative(option: str, value: float | None) -> None:
    if value is not None and not value >= 0:
        raise UsageError(f"{option} must be 0 or more, or none to lift the ceiling; got {value}.")
