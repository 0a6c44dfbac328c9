"""One event loop on a daemon thread: it owns the connections, and everybody else waits for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from threading import Lock, Thread, current_thread
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")

_SLICE_SECONDS = 0.5
"""Where a lock cannot be interrupted (Windows), Ctrl-C is noticed after at most this long."""


class Bell:
    """One thread waits, any other rings: at the cost of one lock, and so that Ctrl-C gets through."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """End the wait that is under way, or the next one."""
        with suppress(RuntimeError):  # it has been rung, and nobody has heard it yet
            self._lock.release()

    def wait(self) -> None:
        """Wait for a ring. Further rings end further waits."""
        while not self._lock.acquire(timeout=_SLICE_SECONDS):
            pass


class BackgroundLoop:
    """Runs coroutines for threads and for other event loops. Started by the first one, restarted after a fork."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._pid = os.getpid()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result, waited for in this thread. Ctrl-C gets out and cancels it."""
        try:
            self.refuse_waiting_here()
        except BaseException:
            coroutine.close()
            raise
        bell = Bell()
        call = _Call(coroutine, bell.ring)
        self._submit(call)
        try:
            while not call.is_done:
                bell.wait()
        finally:
            call.cancel()
        return call.result()

    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result, awaited on any asyncio or trio loop. Cancelling the wait cancels the coroutine."""
        done, wake = _alarm()
        call = _Call(coroutine, wake)
        self._submit(call)
        try:
            await done.wait()
        finally:
            call.cancel()
        return call.result()

    def refuse_waiting_here(self) -> None:
        """Raise ``RuntimeError`` on the loop's own thread, where waiting for what happens on it would never end."""
        if self._thread is current_thread():
            raise RuntimeError("This code runs on the background loop, and would wait for itself: await it there.")

    def close(self) -> None:
        """Cancel what runs, stop the loop and wait for its thread; the next coroutine starts a new one."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None or self._pid != os.getpid():
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join()

    def _submit(self, call: _Call[T]) -> None:
        if self._pid != os.getpid():
            # The parent's thread does not exist in a forked child, and its lock may be held for ever.
            self._lock, self._loop, self._thread, self._pid = Lock(), None, None, os.getpid()
        try:
            with self._lock:  # so that nothing is submitted to a loop that has been told to stop, and is lost there
                call.submit(self._running_loop())
        except BaseException:
            call.abandon()
            raise

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = Thread(target=_serve, args=(self._loop,), name="promptopt-loop", daemon=True)
            self._thread.start()
        return self._loop


class _Call(Generic[T]):
    """A coroutine on its way to the loop and back: ``run_coroutine_threadsafe`` for half its price."""

    __slots__ = ("_coroutine", "_loop", "_task", "_wake", "is_done")

    def __init__(self, coroutine: Coroutine[Any, Any, T], wake: Callable[[], object]) -> None:
        self.is_done = False
        self._coroutine = coroutine
        self._wake = wake
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[T] | None = None

    def submit(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let ``loop`` run the coroutine, in a copy of the context that stands here."""
        loop.call_soon_threadsafe(self._start, loop)
        self._loop = loop

    def abandon(self) -> None:
        """The coroutine does not run at all, if it has not been submitted."""
        if self._loop is None:
            self._coroutine.close()

    def cancel(self) -> None:
        """Cancel the coroutine unless it is done."""
        if not self.is_done and self._loop is not None:
            with suppress(RuntimeError):  # a loop that is closed has cancelled it
                self._loop.call_soon_threadsafe(self._cancel)

    def result(self) -> T:
        """What the coroutine returned; what it raised is raised here."""
        assert self._task is not None
        return self._task.result()

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._task = loop.create_task(self._coroutine)
        self._task.add_done_callback(self._finish)

    def _cancel(self) -> None:
        assert self._task is not None
        self._task.cancel()

    def _finish(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # seen, whether or not anybody still waits to hear of it
        self.is_done = True
        self._wake()


def result_of(future: Future[T]) -> T:
    """What ``future`` holds, waited for in this thread, interruptibly. Leaves the future alone."""
    while not future.done():
        wait((future,), timeout=_SLICE_SECONDS)
    return _result(future)


async def awaited(future: Future[T]) -> T:
    """What ``future`` holds, awaited on any asyncio or trio loop. Cancelling the wait leaves the future alone."""
    done, wake = _alarm()
    future.add_done_callback(lambda _: wake())
    await done.wait()
    return _result(future)


def _result(future: Future[T]) -> T:
    try:
        return future.result()
    except CancelledError:
        # asyncio's is a BaseException: no metric may take the end of a run for a failed row.
        raise asyncio.CancelledError from None


class _Event(Protocol):
    async def wait(self) -> object: ...


def _alarm() -> tuple[_Event, Callable[[], None]]:
    """An event of the loop that runs here, and how another thread sets it. A loop that is gone needs no waking."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return _trio_alarm()
    event = asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(event.set)

    return event, wake


def _trio_alarm() -> tuple[_Event, Callable[[], None]]:
    import trio  # what runs here is not asyncio, so it has been imported by whoever runs it

    event, token = trio.Event(), trio.lowlevel.current_trio_token()

    def wake() -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(event.set)

    return event, wake


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        _cancel_all(loop)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
