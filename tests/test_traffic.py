"""A lane: how wide, how fast, when it holds back and when it closes; in a time that the tests make pass."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from itertools import count
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.errors import BudgetExhausted, LMError, LMErrorKind
from pytest_promptopt.lms.models import Edge, ModelSettings
from pytest_promptopt.lms.traffic import WINDOW_SECONDS, Lane, Traffic, Turn, Window

T = TypeVar("T")


class World:
    """Time that passes only when nothing else can happen."""

    def __init__(self) -> None:
        self.now_seconds = 1_000.0
        self._numbers = count()
        self._sleepers: dict[int, tuple[float, asyncio.Future[None]]] = {}

    def clock(self) -> float:
        return self.now_seconds

    async def sleep(self, seconds: float) -> None:
        number, alarm = next(self._numbers), asyncio.get_running_loop().create_future()
        self._sleepers[number] = (self.now_seconds + seconds, alarm)
        try:
            await alarm
        finally:
            del self._sleepers[number]

    async def quiet(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def pass_time(self) -> bool:
        """Let time pass until the next sleeper wakes; whether there was one."""
        await self.quiet()
        if not self._sleepers:
            return False
        self.now_seconds, alarm = min(self._sleepers.values(), key=lambda sleeper: sleeper[0])
        alarm.set_result(None)
        await self.quiet()
        return True

    async def until(self, task: asyncio.Future[T]) -> T:
        while not task.done():
            assert await self.pass_time() or task.done(), "nothing can happen any more"
        return task.result()

    def traffic(self, max_concurrency: int = 4) -> Traffic:
        return Traffic(max_concurrency=max_concurrency, clock=self.clock, sleep=self.sleep)


def model(name: str = "remote/x", /, **limits: int) -> ModelSettings:
    return ModelSettings(
        name=name,
        model=name,
        edge=Edge.OPENAI,
        requests_per_minute=limits.get("requests"),
        tokens_per_minute=limits.get("tokens"),
    )


async def nothing() -> None:
    return None


def ignore(_: object) -> None:
    return None


async def enter(lane: Lane, tokens: int = 0) -> Turn:
    return (await lane.enter(tokens, nothing, ignore))[0]


async def entered(world: World, lane: Lane, tries: int, tokens: int = 0) -> list[asyncio.Task[Turn]]:
    """That many who want in, after all has happened that needs no time."""
    tasks = [asyncio.create_task(enter(lane, tokens)) for _ in range(tries)]
    await world.quiet()
    return tasks


def inside(tasks: list[asyncio.Task[Turn]]) -> int:
    return sum(task.done() and not task.cancelled() and task.exception() is None for task in tasks)


def play(scene: Callable[[World], Coroutine[Any, Any, T]]) -> T:
    async def main() -> T:
        ending = await scene(World())
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        return ending

    return asyncio.run(main())


def failure(kind: LMErrorKind = LMErrorKind.AUTH) -> LMError:
    return LMError("wrong key", kind=kind, status=401, is_lasting=True)


# --- how many at once


def test_as_many_start_at_once_as_allowed_in_the_order_in_which_they_came() -> None:
    async def scene(world: World) -> None:
        lane = world.traffic(3).lane(model())
        tasks = await entered(world, lane, 6)
        assert [task.done() for task in tasks] == [True] * 3 + [False] * 3
        lane.leave()
        await world.quiet()
        assert [task.done() for task in tasks] == [True] * 4 + [False] * 2

    play(scene)


def test_all_lanes_share_the_runs_limit_and_a_full_lane_keeps_nobody_elses_slot() -> None:
    async def scene(world: World) -> None:
        traffic = world.traffic(3)
        one, other = traffic.lane(model("remote/one", requests=1)), traffic.lane(model("remote/other"))
        held = await entered(world, one, 9)
        free = await entered(world, other, 9)
        assert (inside(held), inside(free)) == (1, 2)

    play(scene)


def test_a_refusal_halves_the_lane_once_however_many_were_refused_together() -> None:
    async def scene(world: World) -> None:
        lane = world.traffic(16).lane(model())
        burst = [task.result() for task in await entered(world, lane, 16)]
        for turn in burst:
            lane.narrow(turn)
            lane.leave()
        assert lane.limit == 8
        second = await entered(world, lane, 16)
        assert inside(second) == 8
        lane.narrow(second[0].result())
        assert lane.limit == 4

    play(scene)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.lists(st.booleans(), max_size=120))
def test_the_lane_stays_between_one_and_the_maximum_and_recovers(most: int, refusals: list[bool]) -> None:
    async def scene(world: World) -> None:
        lane = world.traffic(most).lane(model())
        for is_refused in (*refusals, *[False] * most * (most + 1)):
            turn = await enter(lane)
            if is_refused:
                lane.narrow(turn)
            else:
                lane.succeed(turn, None)
            lane.leave()
            assert 1 <= lane.limit <= most
        assert lane.limit == most

    play(scene)


def test_nobody_starts_before_the_pause_is_over() -> None:
    async def scene(world: World) -> None:
        lane = world.traffic().lane(model())
        lane.hold_back(7.0)
        lane.hold_back(30.0)
        tasks = await entered(world, lane, 2)
        await world.pass_time()
        assert inside(tasks) == 0
        await world.pass_time()
        assert (inside(tasks), world.now_seconds) == (2, 1_030.0)

    play(scene)


# --- how many a minute


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    most=st.integers(1, 5),
    waits=st.lists(st.floats(0.0, 40.0), min_size=1, max_size=25),
    is_by_tokens=st.booleans(),
)
def test_no_minute_sees_more_starts_than_allowed(most: int, waits: list[float], is_by_tokens: bool) -> None:
    limits = {"tokens": 10 * most} if is_by_tokens else {"requests": most}
    starts: list[float] = []

    async def call(world: World, lane: Lane) -> None:
        await enter(lane, 10)
        starts.append(world.now_seconds)
        lane.leave()

    async def scene(world: World) -> None:
        lane = world.traffic().lane(model(**limits))

        async def arrive() -> None:
            calls = []
            for seconds in waits:
                await world.sleep(seconds)
                calls.append(asyncio.create_task(call(world, lane)))
            await asyncio.gather(*calls)

        await world.until(asyncio.create_task(arrive()))

    play(scene)
    assert len(starts) == len(waits)
    for first, later in zip(starts, starts[most:], strict=False):
        assert later >= first + WINDOW_SECONDS


def test_the_window_is_used_to_the_full() -> None:
    async def scene(world: World) -> None:
        lane = world.traffic(9).lane(model(requests=3))
        assert inside(await entered(world, lane, 5)) == 3
        await world.pass_time()
        assert world.now_seconds == 1_060.0

    play(scene)


def test_a_request_larger_than_a_minutes_tokens_goes_alone() -> None:
    async def scene(world: World) -> None:
        lane = world.traffic().lane(model(tokens=100))
        await enter(lane, 30)
        (large,) = await entered(world, lane, 1, 500)
        assert not large.done()
        await world.until(large)
        assert world.now_seconds == 1_060.0
        (small,) = await entered(world, lane, 1, 1)
        await world.until(small)
        assert world.now_seconds == 1_120.0

    play(scene)


def test_tokens_are_corrected_by_what_was_used() -> None:
    async def scene(world: World) -> None:
        lane = world.traffic().lane(model(tokens=100))
        turn = await enter(lane, 90)
        (waiting,) = await entered(world, lane, 1, 50)
        assert not waiting.done()
        lane.succeed(turn, 50)
        await world.quiet()
        assert waiting.done()
        lane.succeed(waiting.result(), 60)  # more than was guessed, and more than there was room for
        assert not (await entered(world, lane, 1, 1))[0].done()

    play(scene)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 20), st.lists(st.tuples(st.integers(0, 30), st.floats(0, 90), st.integers(0, 30)), max_size=30))
def test_a_window_waits_exactly_until_it_fits(most: int, steps: list[tuple[int, float, int]]) -> None:
    window, now = Window(most), 0.0
    log: list[tuple[float, int]] = []
    for amount, pause, used in steps:
        now += pause
        while (seconds := window.wait_seconds(amount, now)) > 0.0:
            now += seconds
        recent = [each for start, each in log if start + WINDOW_SECONDS > now]
        assert not recent or sum(recent) + amount <= most
        entry = window.add(amount, now)
        window.correct(entry, used)
        log.append((now, used))


# --- what is given up


def test_a_closed_lane_lets_nobody_in_and_those_who_wait_go_with_its_cause() -> None:
    async def scene(world: World) -> None:
        lane = world.traffic(1).lane(model())
        tasks = await entered(world, lane, 3)
        lane.give_up(failure())
        lane.give_up(LMError("later", kind=LMErrorKind.SERVER))
        await world.quiet()
        for task in tasks[1:]:
            with pytest.raises(LMError, match=r"^wrong key") as info:
                task.result()
            assert (info.value.kind, info.value.status, info.value.is_lasting) == (LMErrorKind.AUTH, 401, True)

    play(scene)


def test_who_rests_is_woken_when_the_lane_closes() -> None:
    async def scene(world: World) -> None:
        lane = world.traffic().lane(model(requests=1))
        await enter(lane)
        resting = asyncio.create_task(lane.rest(50.0))
        (waiting,) = await entered(world, lane, 1)
        lane.give_up(failure())
        await world.quiet()
        assert resting.done()
        assert isinstance(waiting.exception(), LMError)
        assert world.now_seconds == 1_000.0

    play(scene)


# --- what is left behind


@pytest.mark.parametrize("obstacle", ["slot", "rate", "pause", "money"])
def test_a_wait_that_is_cancelled_leaves_nothing_behind(obstacle: str) -> None:
    async def scene(world: World) -> None:
        lane = world.traffic(1).lane(model(**({"requests": 1} if obstacle == "rate" else {})))
        if obstacle in ("slot", "rate"):
            await enter(lane)
        if obstacle == "rate":
            lane.leave()
        if obstacle == "pause":
            lane.hold_back(9.0)
        reserve = asyncio.Event().wait if obstacle == "money" else nothing
        waiting = asyncio.create_task(lane.enter(0, reserve, ignore))
        behind = asyncio.create_task(enter(lane))
        await world.quiet()
        assert not waiting.done()
        waiting.cancel()
        if obstacle == "slot":
            lane.leave()
        await world.until(behind)

    play(scene)


def test_who_is_refused_money_leaves_nothing_behind() -> None:
    async def refuse() -> None:
        raise BudgetExhausted("no money")

    async def scene(world: World) -> None:
        lane = world.traffic(1).lane(model())
        with pytest.raises(BudgetExhausted):
            await lane.enter(0, refuse, ignore)
        await enter(lane)

    play(scene)


def test_a_reservation_whose_attempt_does_not_start_is_given_back() -> None:
    async def scene(world: World) -> None:
        lane, money = world.traffic(1).lane(model()), asyncio.Event()
        given_back: list[bool] = []

        def reserve() -> Awaitable[bool]:
            return money.wait()

        waiting = asyncio.create_task(lane.enter(0, reserve, given_back.append))
        await world.quiet()
        lane.give_up(failure())
        money.set()
        await world.quiet()
        assert isinstance(waiting.exception(), LMError)
        assert given_back == [True]

    play(scene)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    most=st.integers(1, 4),
    requests=st.none() | st.integers(1, 6),
    steps=st.lists(st.tuples(st.sampled_from(["ask", "answer", "refuse", "cancel", "time"]), st.integers(0, 99))),
)
def test_after_any_course_of_events_everybody_gets_through(
    most: int, requests: int | None, steps: list[tuple[str, int]]
) -> None:
    async def scene(world: World) -> None:
        traffic = world.traffic(most)
        lanes = [traffic.lane(model(name, **({"requests": requests} if requests else {}))) for name in ("a/a", "b/b")]
        tasks: list[tuple[Lane, asyncio.Task[Turn]]] = []
        under_way: list[tuple[Lane, Turn]] = []

        def note() -> None:
            started = [(lane, task.result()) for lane, task in tasks if task.done() and not task.cancelled()]
            tasks[:] = [(lane, task) for lane, task in tasks if not task.done()]
            under_way.extend(started)
            assert len(under_way) <= most

        for step, number in steps:
            if step == "ask":
                lane = lanes[number % 2]
                tasks.append((lane, asyncio.create_task(enter(lane))))
            elif step in ("answer", "refuse") and under_way:
                lane, turn = under_way.pop(number % len(under_way))
                if step == "answer":
                    lane.succeed(turn, None)
                else:
                    lane.narrow(turn)
                    lane.hold_back(number)
                lane.leave()
            elif step == "cancel" and tasks:
                tasks[number % len(tasks)][1].cancel()
            elif step == "time":
                await world.pass_time()
            await world.quiet()
            note()
        while tasks or under_way:
            for lane, _ in under_way:
                lane.leave()
            is_moving = bool(under_way)
            under_way.clear()
            assert await world.pass_time() or is_moving, "somebody waits for ever"
            note()

    play(scene)
