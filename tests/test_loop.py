"""The loop over rows: in threads or in tasks, results in the order of the work, and an end that is an end."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from threading import Barrier, Event, Lock, current_thread, main_thread

import anyio
import pytest

from pytest_promptopt.evaluation.loop import run_in_order, run_in_tasks, run_in_threads

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
PATIENCE_SECONDS = 30


class High:
    """How many are inside at once, at most."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.lock = Lock()

    def enter(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def leave(self) -> None:
        with self.lock:
            self.now -= 1


def test_in_order_means_in_this_thread_one_after_the_other() -> None:
    seen: list[int] = []
    assert run_in_order([3, 1, 2], lambda n: (seen.append(n), current_thread() is main_thread())[1]) == [True] * 3
    assert seen == [3, 1, 2]


def test_results_of_threads_come_in_the_order_of_the_work() -> None:
    turns = {n: Event() for n in range(4)}
    turns[3].set()

    def work(n: int) -> int:
        assert turns[n].wait(PATIENCE_SECONDS)
        if n:
            turns[n - 1].set()
        return n * n

    assert run_in_threads(range(4), work, concurrency=4) == [0, 1, 4, 9]


def test_so_many_rows_run_at_a_time_and_no_more() -> None:
    high, together = High(), Barrier(3, timeout=PATIENCE_SECONDS)

    def work(n: int) -> None:
        high.enter()
        together.wait()
        high.leave()

    run_in_threads(range(9), work, concurrency=3)
    assert high.most == 3


def test_no_work_is_no_trouble() -> None:
    assert run_in_threads([], lambda n: n, concurrency=4) == []


def test_each_thread_starts_from_the_callers_context_and_keeps_its_changes() -> None:
    tenant = ContextVar("tenant", default="nobody")
    tenant.set("acme")

    def work(name: str) -> str:
        before = tenant.get()
        tenant.set(name)
        return before

    assert run_in_threads(["a"], work, concurrency=1) == ["acme"]
    assert tenant.get() == "acme"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken"), SystemExit(1)])
def test_what_is_no_result_stops_the_work_and_is_raised_here(error: BaseException) -> None:
    started: list[int] = []

    def work(n: int) -> None:
        started.append(n)
        raise error

    with pytest.raises(type(error)):
        run_in_threads(range(100), work, concurrency=1)
    assert started == [0]


def test_rows_under_way_end_before_the_failure_is_raised() -> None:
    under_way, failed, ended = Event(), Event(), []

    def work(n: int) -> None:
        if n == 0:
            assert under_way.wait(PATIENCE_SECONDS)
            failed.set()
            raise KeyboardInterrupt
        under_way.set()
        assert failed.wait(PATIENCE_SECONDS)
        ended.append(n)

    with pytest.raises(KeyboardInterrupt):
        run_in_threads([0, 1], work, concurrency=2)
    assert ended == [1]


def test_a_row_that_takes_too_long_gets_its_time_out_and_the_others_their_results() -> None:
    never = Event()

    def work(n: int) -> str:
        if n == 1:
            never.wait(PATIENCE_SECONDS)
        return f"done {n}"

    results = run_in_threads(range(4), work, concurrency=1, timeout_seconds=0.05, timed_out=lambda n: f"late {n}")
    never.set()
    assert results == ["done 0", "late 1", "done 2", "done 3"]


def in_loop(backend: str, start: Callable[[], object]) -> object:
    async def main() -> object:
        return await start()  # type: ignore[misc]  # a coroutine of run_in_tasks

    return anyio.run(main, backend=backend)


@BACKENDS
def test_results_of_tasks_come_in_the_order_of_the_work(backend: str) -> None:
    async def main() -> list[int]:
        turns = {n: anyio.Event() for n in range(4)}
        turns[3].set()

        async def work(n: int) -> int:
            await turns[n].wait()
            if n:
                turns[n - 1].set()
            return n * n

        return await run_in_tasks(range(4), work, concurrency=4)

    assert in_loop(backend, main) == [0, 1, 4, 9]


@BACKENDS
def test_so_many_tasks_run_at_a_time_and_no_more(backend: str) -> None:
    high = High()

    async def work(n: int) -> None:
        high.enter()
        await anyio.lowlevel.checkpoint()
        high.leave()

    in_loop(backend, lambda: run_in_tasks(range(9), work, concurrency=3))
    assert high.most == 3


@BACKENDS
def test_ctrl_c_in_a_task_stops_the_others_and_is_raised_bare(backend: str) -> None:
    ended: list[int] = []

    async def work(n: int) -> None:
        if n == 0:
            await anyio.lowlevel.checkpoint()
            raise KeyboardInterrupt
        await anyio.sleep(PATIENCE_SECONDS)
        ended.append(n)

    with pytest.raises(KeyboardInterrupt):
        in_loop(backend, lambda: run_in_tasks(range(3), work, concurrency=3))
    assert ended == []


@BACKENDS
def test_a_task_that_takes_too_long_gets_its_time_out(backend: str) -> None:
    async def work(n: int) -> str:
        if n == 1:
            await anyio.sleep(PATIENCE_SECONDS)
        return f"done {n}"

    results = in_loop(
        backend,
        lambda: run_in_tasks(range(3), work, concurrency=3, timeout_seconds=0.05, timed_out=lambda n: f"late {n}"),
    )
    assert results == ["done 0", "late 1", "done 2"]


@BACKENDS
def test_a_time_out_that_the_row_itself_raised_is_not_ours(backend: str) -> None:
    async def work(n: int) -> str:
        raise TimeoutError("the row's own")

    with pytest.raises(TimeoutError, match="the row's own"):
        in_loop(
            backend,
            lambda: run_in_tasks([1], work, concurrency=1, timeout_seconds=20, timed_out=lambda n: "late"),
        )


@pytest.mark.parametrize("way", ["order", "threads", "asyncio", "trio"])
def test_after_enough_no_further_row_is_begun(way: str) -> None:
    begun: list[int] = []

    def work(n: int) -> int:
        begun.append(n)
        return n

    async def awork(n: int) -> int:
        await anyio.sleep(0)
        return work(n)

    def is_enough(n: int) -> bool:
        return n == 2

    if way == "order":
        results = run_in_order(range(100), work, is_enough=is_enough)
    elif way == "threads":
        results = run_in_threads(range(100), work, concurrency=1, is_enough=is_enough)
    else:
        results = in_loop(way, lambda: run_in_tasks(range(100), awork, concurrency=1, is_enough=is_enough))
    assert results == begun == [0, 1, 2]


def test_rows_under_way_end_when_there_is_enough() -> None:
    both = Barrier(2, timeout=PATIENCE_SECONDS)

    def work(n: int) -> int:
        both.wait()
        return n

    assert run_in_threads(range(100), work, concurrency=2, is_enough=lambda n: True) == [0, 1]


@BACKENDS
def test_a_spent_budget_lets_the_tasks_under_way_end(backend: str) -> None:
    ended: list[int] = []

    class Spent(BaseException):
        pass

    async def work(n: int) -> None:
        await anyio.sleep(0)
        if n == 1:
            raise Spent
        for _ in range(3):
            await anyio.sleep(0)
        ended.append(n)

    with pytest.raises(Spent):
        in_loop(backend, lambda: run_in_tasks(range(100), work, concurrency=4))
    assert sorted(ended) == [0, 2, 3]
