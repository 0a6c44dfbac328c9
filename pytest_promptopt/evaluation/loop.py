"""The loop over rows: in the calling thread, in several threads, or in tasks of the loop that runs the test.

Results come back in the order of the work. Whatever is not a row's result (a spent budget, Ctrl-C, ``pytest.exit``)
stops the loop and is raised in the caller's thread once the rows under way have ended. Where ``is_enough`` says so of a
result, no further row is begun, and the results are those of the rows that ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def run_in_order(work: Sequence[T], run: Callable[[T], R], *, is_enough: Callable[[R], bool] | None = None) -> list[R]:
    """One row after the other, in this thread."""
    results = []
    for item in work:
        results.append(run(item))
        if is_enough is not None and is_enough(results[-1]):
            break
    return results


@dataclass(slots=True)
class _Pool:
    """Threads that share one supply of work. Every slot is filled by the thread that took it, or by its time-out."""

    supply: Iterator[tuple[int, object]]
    size: int
    results: dict[int, object] = field(default_factory=dict)
    started: dict[int, float] = field(default_factory=dict)
    failure: BaseException | None = None
    has_enough: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self) -> tuple[int, object] | None:
        with self.changed:
            if self.failure is not None or self.has_enough:
                return None
            taken = next(self.supply, None)
            if taken is not None:
                self.started[taken[0]] = time.monotonic()
            return taken

    def give(self, index: int, result: object, *, is_enough: bool = False) -> bool:
        """Whether the result was still wanted."""
        with self.changed:
            if self.started.pop(index, None) is None:
                return False
            self.results[index] = result
            self.has_enough = self.has_enough or is_enough
            if self.failure is not None or self.has_enough or len(self.results) == self.size:
                self.changed.notify_all()
            return True

    def fail(self, error: BaseException, index: int) -> None:
        with self.changed:
            self.started.pop(index, None)
            self.failure = self.failure or error
            self.changed.notify_all()

    def is_done(self) -> bool:
        if self.failure is not None or self.has_enough:
            return not self.started
        return len(self.results) == self.size

    def overdue(self, seconds: float) -> list[int]:
        now = time.monotonic()
        with self.changed:
            return [index for index, start in self.started.items() if now - start > seconds]


def run_in_threads(
    work: Sequence[T],
    run: Callable[[T], R],
    *,
    concurrency: int,
    timeout_seconds: float | None = None,
    timed_out: Callable[[T], R] | None = None,
    is_enough: Callable[[R], bool] | None = None,
) -> list[R]:
    """Up to ``concurrency`` rows at a time, each thread in a copy of the caller's context.

    With ``timeout_seconds`` a row that takes longer gets ``timed_out(item)`` as its result; its thread cannot be killed
    and is left behind, and another takes its place.
    """
    if not work:
        return []
    pool = _Pool(iter(enumerate(work)), len(work))

    def labour() -> None:
        while (taken := pool.take()) is not None:
            index, item = taken
            try:
                result = run(item)  # type: ignore[arg-type]  # the supply holds what work holds
                ends = is_enough is not None and is_enough(result)
            except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
                pool.fail(error, index)
                return
            if not pool.give(index, result, is_enough=ends):
                return  # it came too late: another thread has taken this one's place

    def hire() -> None:
        threading.Thread(target=copy_context().run, args=(labour,), daemon=True, name="promptopt-row").start()

    for _ in range(min(concurrency, len(work))):
        hire()
    _wait(pool, work, timeout_seconds, timed_out, hire)
    if pool.failure is not None:
        raise pool.failure
    return [pool.results[index] for index in sorted(pool.results)]  # type: ignore[misc]  # filled by run and timed_out


def _wait(
    pool: _Pool,
    work: Sequence[T],
    timeout_seconds: float | None,
    timed_out: Callable[[T], R] | None,
    hire: Callable[[], None],
) -> None:
    """Wait until every row has a result; Ctrl-C gets through, lets the rows under way end, and is raised."""
    poll_seconds = None if timeout_seconds is None else min(0.2, timeout_seconds / 4)
    while not pool.is_done():
        try:
            with pool.changed:
                if not pool.is_done():
                    pool.changed.wait(poll_seconds)
        except KeyboardInterrupt as interrupt:
            pool.fail(interrupt, -1)
            return
        if timeout_seconds is not None and timed_out is not None:
            for index in pool.overdue(timeout_seconds):
                if pool.give(index, timed_out(work[index])):
                    hire()


async def run_in_tasks(
    work: Sequence[T],
    run: Callable[[T], Awaitable[R]],
    *,
    concurrency: int,
    timeout_seconds: float | None = None,
    timed_out: Callable[[T], R] | None = None,
    is_enough: Callable[[R], bool] | None = None,
) -> list[R]:
    """Up to ``concurrency`` rows at a time as tasks of the running loop, asyncio's or trio's."""
    results: dict[int, R] = {}
    supply = iter(enumerate(work))

    has_enough = False
    failures: list[BaseException] = []
    cancelled = _cancelled_class()

    async def labour() -> None:
        nonlocal has_enough
        while not (has_enough or failures) and (taken := next(supply, None)) is not None:
            index, item = taken
            try:
                results[index] = await _within(run, item, timeout_seconds, timed_out)
                has_enough = has_enough or (is_enough is not None and is_enough(results[index]))
            except (cancelled, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - raised once the rows under way have ended: they are paid for
                failures.append(error)

    await _run_together([labour] * min(concurrency, len(work)))
    if failures:
        raise failures[0]
    return [results[index] for index in sorted(results)]


async def _within(
    run: Callable[[T], Awaitable[R]], item: T, seconds: float | None, timed_out: Callable[[T], R] | None
) -> R:
    if seconds is None or timed_out is None:
        return await run(item)
    if _is_asyncio():
        import asyncio

        try:
            async with asyncio.timeout(seconds) as limit:
                return await run(item)
        except TimeoutError:
            if not limit.expired():
                raise
            return timed_out(item)
    import anyio

    with anyio.move_on_after(seconds):
        return await run(item)
    return timed_out(item)


async def _run_together(labours: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    try:
        if _is_asyncio():
            import asyncio

            async with asyncio.TaskGroup() as group:
                for labour in labours:
                    group.create_task(labour())
        else:
            import anyio

            async with anyio.create_task_group() as tasks:
                for labour in labours:
                    tasks.start_soon(labour)
    except BaseExceptionGroup as group_error:
        raise _first_leaf(group_error) from None


def _first_leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _cancelled_class() -> type[BaseException]:
    """What the loop that runs here cancels its tasks with."""
    if _is_asyncio():
        import asyncio

        return asyncio.CancelledError
    import anyio

    return anyio.get_cancelled_exc_class()


def _is_asyncio() -> bool:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
