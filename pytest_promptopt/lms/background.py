"""One event loop on a daemon thread: it owns the connections, and everybody else waits for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from threading import Lock, Thread, current_thread
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

_SLICE_SECONDS = 0.5
"""Where a lock cannot be interrupted (Windows), Ctrl-C is noticed after at most this long."""


class BackgroundLoop:
    """Runs coroutines for threads and for other event loops. Started by the first one, restarted after a fork."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._pid = os.getpid()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result, waited for in this thread. Ctrl-C gets out and cancels it."""
        if self._thread is current_thread():
            coroutine.close()
            raise RuntimeError("This code runs on the background loop, and would wait for itself: await it there.")
        future = self._submit(coroutine)
        try:
            return result_of(future)
        finally:
            future.cancel()

    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result, awaited on any asyncio or trio loop. Cancelling the wait cancels the coroutine."""
        future = self._submit(coroutine)
        try:
            return await awaited(future)
        finally:
            future.cancel()

    def close(self) -> None:
        """Cancel what runs, stop the loop and wait for its thread; the next coroutine starts a new one."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None or self._pid != os.getpid():
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join()

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        try:
            loop = self._running_loop()
        except BaseException:
            coroutine.close()
            raise
        return asyncio.run_coroutine_threadsafe(coroutine, loop)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._pid != os.getpid():
            # The parent's thread does not exist in a forked child, and its lock may be held for ever.
            self._lock, self._loop, self._thread, self._pid = Lock(), None, None, os.getpid()
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = Thread(target=_serve, args=(self._loop,), name="promptopt-loop", daemon=True)
                self._thread.start()
            return self._loop


def result_of(future: Future[T]) -> T:
    """What ``future`` holds, waited for in this thread, interruptibly. Leaves the future alone."""
    while not future.done():
        wait((future,), timeout=_SLICE_SECONDS)
    return _result(future)


async def awaited(future: Future[T]) -> T:
    """What ``future`` holds, awaited on any asyncio or trio loop. Cancelling the wait leaves the future alone."""
    done, wake = _alarm()
    future.add_done_callback(wake)
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


def _alarm() -> tuple[_Event, Callable[[object], None]]:
    """An event of the loop that runs here, and how another thread sets it. A loop that is gone needs no waking."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return _trio_alarm()
    event = asyncio.Event()

    def wake(_: object) -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(event.set)

    return event, wake


def _trio_alarm() -> tuple[_Event, Callable[[object], None]]:
    import trio  # what runs here is not asyncio, so it has been imported by whoever runs it

    event, token = trio.Event(), trio.lowlevel.current_trio_token()

    def wake(_: object) -> None:
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
