"""The way to one model: how many calls at once, how many a minute, when to hold back, and when to give it up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pytest_promptopt.errors import LMError
from pytest_promptopt.lms.models import ModelSettings

T = TypeVar("T")

WINDOW_SECONDS = 60.0

EXHAUSTED_CALLS = 2
"""So many calls in a row, all attempts of them in vain for a reason that no request can be, and a model is down."""

EXHAUSTED_REQUESTS = 3
"""So many different requests in a row, whatever the reason: the faulty rows of a dataset may be neighbours."""

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


class Entry:
    """Something that started at ``start_seconds`` and counts for ``amount``."""

    __slots__ = ("amount", "start_seconds")

    def __init__(self, start_seconds: float, amount: int) -> None:
        self.start_seconds = start_seconds
        self.amount = amount


class Window:
    """At most ``most`` in any 60 seconds, exactly: every start is remembered until it is that old.

    What alone is more than ``most`` goes when nothing else is remembered.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: deque[Entry] = deque()
        self._sum = 0

    def wait_seconds(self, amount: int, now_seconds: float) -> float:
        """How long ``amount`` has to wait, from ``now_seconds`` on; 0.0 when it fits."""
        self._forget(now_seconds)
        excess = self._sum + amount - self._most
        seconds = 0.0
        for entry in self._entries:
            if excess <= 0:
                break
            excess -= entry.amount
            seconds = entry.start_seconds + WINDOW_SECONDS - now_seconds
        return seconds

    def add(self, amount: int, now_seconds: float) -> Entry:
        """Remember that ``amount`` started now."""
        self._entries.append(Entry(now_seconds, amount))
        self._sum += amount
        return self._entries[-1]

    def correct(self, entry: Entry, amount: int) -> None:
        """What ``entry`` counts for turned out to be ``amount``."""
        if self._entries and entry.start_seconds >= self._entries[0].start_seconds:  # else it is forgotten
            self._sum += amount - entry.amount
            entry.amount = amount

    def _forget(self, now_seconds: float) -> None:
        while self._entries and self._entries[0].start_seconds + WINDOW_SECONDS <= now_seconds:
            self._sum -= self._entries.popleft().amount


class Turn:
    """One attempt under way: how often the lane had been narrowed, and what had succeeded, when it started."""

    __slots__ = ("cuts", "successes", "tokens")

    def __init__(self, cuts: int, successes: int, tokens: Entry | None) -> None:
        self.cuts = cuts
        self.successes = successes
        self.tokens = tokens


class Lane:
    """One model's attempts on one event loop, let in one after the other in the order in which they came.

    The limit on attempts at once is halved when the provider refuses one for its rate, and grows by one with about as
    many successes as it is wide (additive increase, multiplicative decrease: TCP's way). ``slots`` is the run's limit
    over all models, of which each attempt takes one.
    """

    def __init__(
        self,
        *,
        max_concurrency: int,
        slots: asyncio.Semaphore,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        clock: Clock,
        sleep: Sleep,
    ) -> None:
        self.successes = 0
        self._calls_in_vain = 0
        self._requests_in_vain: set[str] = set()
        self._is_unreached = True
        self.counts_tokens = tokens_per_minute is not None
        self._max_concurrency = self._limit = float(max_concurrency)
        self._slots = slots
        self._requests = Window(requests_per_minute) if requests_per_minute is not None else None
        self._tokens = Window(tokens_per_minute) if tokens_per_minute is not None else None
        self._clock = clock
        self._sleep = sleep
        self._door = asyncio.Lock()
        self._news: asyncio.Future[None] | None = None
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cause: LMError | None = None
        self._pauses: set[asyncio.Future[None]] = set()
        self._in_flight = 0
        self._cuts = 0

    @property
    def limit(self) -> int:
        """How many attempts may be under way now."""
        return int(self._limit)

    async def enter(
        self,
        tokens: int,
        reserve: Callable[[], Awaitable[T]],
        undo: Callable[[T], None],
        *,
        is_inner: bool = False,
    ) -> tuple[Turn, T]:
        """Wait until an attempt may start, and start it; with what ``reserve`` gave, asked when all else was there.

        Who has entered must :meth:`leave`. Raises what ``reserve`` raises, and ``LMError`` when the model is given up.
        A wait that is cancelled leaves nothing behind: ``undo`` takes back a reservation whose attempt does not start.
        ``is_inner``: it is made while another one is answered, and takes no slot, since that one keeps its own.
        """
        if is_inner:
            return await self._enter_inside(tokens, reserve, undo)
        async with self._door:
            await self._take_slot(tokens)
            try:
                reservation = await reserve()
                try:
                    await self._room(tokens)  # money may have taken its time
                except BaseException:
                    undo(reservation)
                    raise
            except BaseException:
                self._slots.release()
                raise
            self._in_flight += 1
            return self._start(tokens), reservation

    def leave(self, *, is_inner: bool = False) -> None:
        """The attempt has ended, one way or the other."""
        if not is_inner:
            self._in_flight -= 1
            self._slots.release()
        self._tell()

    def succeed(self, turn: Turn, tokens: int | None) -> None:
        """The model has answered, and taken so many tokens (``None``: nobody knows)."""
        self.successes += 1
        if self._requests_in_vain:
            self._forget_failures()
        self._limit = min(self._max_concurrency, self._limit + 1.0 / self._limit)
        if self._tokens is not None and turn.tokens is not None and tokens is not None:
            self._tokens.correct(turn.tokens, tokens)
            self._tell()

    def narrow(self, turn: Turn) -> None:
        """Halve the limit, unless that was done since ``turn`` started: a burst of refusals is one refusal."""
        if turn.cuts == self._cuts:
            self._cuts += 1
            self._limit = max(1.0, self._limit / 2.0)

    def hold_back(self, seconds: float) -> None:
        """Let nobody start before ``seconds`` are over."""
        pause = asyncio.ensure_future(self._sleep(seconds))
        self._pauses.add(pause)
        pause.add_done_callback(self._resume)

    async def rest(self, seconds: float) -> None:
        """Let ``seconds`` pass, or less if the model is given up in between."""
        await self._first_of(self._end, seconds)

    def give_up(self, cause: LMError) -> None:
        """Let nobody start any more: every :meth:`enter` from now on fails with what ``cause`` says."""
        if self._cause is None:
            self._cause = cause
            self._end.set_result(None)
            self._tell()

    def is_down_after(self, first: Turn, request: str, *, is_unreached: bool) -> bool:
        """Whether the model is down, once a call that ``first`` began has used up all its attempts in vain.

        It is when nobody was answered meanwhile, and neither were the calls before: a ``request`` may be at fault
        itself, unless the model was never reached by it (``is_unreached``).
        """
        if self.successes == first.successes:
            self._calls_in_vain += 1
            if len(self._requests_in_vain) < EXHAUSTED_REQUESTS:  # in a process that gives nobody up they would pile up
                self._requests_in_vain.add(request)
            self._is_unreached = self._is_unreached and is_unreached
        if self._is_unreached and self._calls_in_vain >= EXHAUSTED_CALLS:
            return True
        return len(self._requests_in_vain) >= EXHAUSTED_REQUESTS

    def _forget_failures(self) -> None:
        self._calls_in_vain = 0
        self._requests_in_vain.clear()
        self._is_unreached = True

    def check(self) -> None:
        """Raise ``LMError``, in the words of the cause, if the model is given up."""
        if self._cause is not None:
            raise given_up(self._cause)

    async def _enter_inside(
        self, tokens: int, reserve: Callable[[], Awaitable[T]], undo: Callable[[T], None]
    ) -> tuple[Turn, T]:
        await self._room(tokens, is_inner=True)
        reservation = await reserve()
        try:
            await self._room(tokens, is_inner=True)
        except BaseException:
            undo(reservation)
            raise
        return self._start(tokens), reservation

    async def _take_slot(self, tokens: int) -> None:
        """One of the run's slots, while there is room in the lane; it is not kept while there is none."""
        while True:
            await self._room(tokens)
            await self._slots.acquire()
            if self._cause is None and self._wait_seconds(tokens) == 0.0:
                return
            self._slots.release()

    async def _room(self, tokens: int, *, is_inner: bool = False) -> None:
        """Wait until nothing of this lane's own stands in the way."""
        while True:
            self.check()
            seconds = self._wait_seconds(tokens, is_inner=is_inner)
            if seconds == 0.0:
                return
            if self._news is None or self._news.done():
                self._news = asyncio.get_running_loop().create_future()
            await self._first_of(self._news, seconds)

    def _wait_seconds(self, tokens: int, *, is_inner: bool = False) -> float | None:
        """How long to wait for room, ``None`` until something happens; 0.0 when there is room."""
        if self._pauses or (self._in_flight >= self.limit and not is_inner):
            return None
        if self._requests is None and self._tokens is None:
            return 0.0
        now_seconds = self._clock()
        return max(
            self._requests.wait_seconds(1, now_seconds) if self._requests else 0.0,
            self._tokens.wait_seconds(tokens, now_seconds) if self._tokens else 0.0,
        )

    def _start(self, tokens: int) -> Turn:
        if self._requests is None and self._tokens is None:
            return Turn(self._cuts, self.successes, None)
        now_seconds = self._clock()
        if self._requests is not None:
            self._requests.add(1, now_seconds)
        entry = self._tokens.add(tokens, now_seconds) if self._tokens is not None else None
        return Turn(self._cuts, self.successes, entry)

    async def _first_of(self, news: asyncio.Future[None], seconds: float | None) -> None:
        """Wait for ``news``, or until ``seconds`` have passed."""
        if seconds is None:
            await asyncio.wait((news,))  # several may wait for the same news: one who gives up takes it from nobody
            return
        nap = asyncio.ensure_future(self._sleep(seconds))
        try:
            await asyncio.wait((nap, news), return_when=asyncio.FIRST_COMPLETED)
        finally:
            nap.cancel()

    def _resume(self, pause: asyncio.Future[None]) -> None:
        self._pauses.discard(pause)
        self._tell()

    def _tell(self) -> None:
        """Let who stands at the door look again."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


def given_up(cause: LMError) -> LMError:
    """The error of a call that is not made, because the model was given up for ``cause``, in its words."""
    error = LMError(str(cause), kind=cause.kind, status=cause.status, is_lasting=True)
    error.__cause__ = cause
    return error


class Traffic:
    """Everything that goes out on one event loop: at most ``max_concurrency`` attempts at once, each in a lane."""

    def __init__(self, *, max_concurrency: int, clock: Clock, sleep: Sleep) -> None:
        self._max_concurrency = max_concurrency
        self._clock = clock
        self._sleep = sleep
        self._slots = asyncio.Semaphore(max_concurrency)
        self._lanes: dict[str, Lane] = {}

    def lane(self, settings: ModelSettings) -> Lane:
        """The lane of that model: the same one every time."""
        found = self._lanes.get(settings.name)
        if found is None:
            found = self._lanes[settings.name] = Lane(
                max_concurrency=self._max_concurrency,
                slots=self._slots,
                requests_per_minute=settings.requests_per_minute,
                tokens_per_minute=settings.tokens_per_minute,
                clock=self._clock,
                sleep=self._sleep,
            )
        return found
