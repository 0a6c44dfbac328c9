"""Asking a model behind a network, attempt after attempt, until it answers or is not worth another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Protocol

from pytest_promptopt.errors import LMError, LMErrorKind
from pytest_promptopt.lms.base import AsyncLM, Reply, Request, Usage
from pytest_promptopt.lms.bounds import Bound
from pytest_promptopt.lms.ceiling import Ceiling, Hold, Outer
from pytest_promptopt.lms.models import ModelSettings
from pytest_promptopt.lms.nesting import Answering, outer_holds
from pytest_promptopt.lms.retries import NO_PAUSE, TRANSIENT, Patience, Pause, last_words
from pytest_promptopt.lms.traffic import Lane, Traffic, Turn

_MAYBE_BILLED = frozenset({LMErrorKind.TIMEOUT, LMErrorKind.MALFORMED})
"""Kinds that come after work was done, whatever the status; and so does a refusal that came as an answer."""


class Settle(Protocol):
    """Says what an attempt took, to all who count."""

    def __call__(self, hold: Hold, cost_usd: float | None, usage: Usage | None = None) -> None:
        """Settle ``hold``."""


class Attempts:
    """Attempts of all models, on whichever event loop runs now; every one is reserved under ``ceiling`` and settled.

    ``check`` is asked before each reservation, and raises where no provider may be asked any more.

    Another loop, after a fork or a close, starts with open lanes, models to prepare, and nothing under way.
    """

    def __init__(
        self,
        *,
        ceiling: Ceiling,
        settle: Settle,
        make_traffic: Callable[[], Traffic],
        rng: Random,
        gives_up: bool,
        check: Callable[[], None],
    ) -> None:
        self._ceiling = ceiling
        self._settle = settle
        self._make_traffic = make_traffic
        self._rng = rng
        self._gives_up = gives_up
        self._check = check
        self._here: _Here | None = None

    @property
    def is_used(self) -> bool:
        """Whether a model has been asked, so that there may be something to hang up."""
        return self._here is not None

    async def answer(self, lm: AsyncLM, settings: ModelSettings, request: Request, bound: Bound) -> Reply:
        """The reply of ``lm``. Raises ``LMError`` when it does not come, and ``BudgetExhausted``."""
        here = self._on_this_loop()
        lane = here.traffic.lane(settings)
        await self._prepare(here, lm, lane)
        patience, outer, first = Patience(self._rng), outer_holds(), None
        while True:
            turn, hold = await self._enter(lane, request, bound, outer)
            first = first or turn
            try:
                with Answering(model=settings.name, request=request, hold=hold):
                    return await self._attempt(lm, request, bound, lane, turn, hold, is_inner=bool(outer))
            except LMError as error:
                pause = self._pause_after(error, request, lane, first, patience)
            if pause is not NO_PAUSE:
                await lane.rest(pause.seconds)

    async def hang_up(self) -> None:
        """Let models that keep connections (they have ``aclose``) close them on the loop that made them."""
        here, self._here = self._here, None
        for lm in here.lms.values() if here is not None else ():
            if (aclose := getattr(lm, "aclose", None)) is not None:
                await aclose()

    def leave_to_parent(self) -> None:
        """After a fork: the loop, and all that is bound to it, exists in the parent only."""
        self._here = None

    async def _prepare(self, here: _Here, lm: AsyncLM, lane: Lane) -> None:
        lane.check()
        try:
            await here.prepare(lm)
        except LMError as error:
            if error.is_lasting and self._gives_up:
                lane.give_up(error)
            raise

    async def _enter(self, lane: Lane, request: Request, bound: Bound, outer: Outer) -> tuple[Turn, Hold]:
        """A turn in the lane, and the money for it; asked for last, since what only waits has not been paid for."""
        tokens = bound.probable_tokens(request) if lane.counts_tokens else 0
        reserve = partial(self._reserve, request, bound, outer)
        return await lane.enter(tokens, reserve, self._ceiling.give_back, is_inner=bool(outer))

    async def _reserve(self, request: Request, bound: Bound, outer: Outer) -> Hold:
        """The money for an attempt that could start right now, by all that its bound has learned while it waited."""
        self._check()
        bound_usd = None if self._ceiling.max_cost_usd is None else bound.cost_usd(request)
        return await self._ceiling.areserve(bound_usd, outer=outer)

    async def _attempt(
        self, lm: AsyncLM, request: Request, bound: Bound, lane: Lane, turn: Turn, hold: Hold, *, is_inner: bool
    ) -> Reply:
        try:
            reply = await lm.acomplete(request)
        except BaseException as error:
            self._settle(hold, cost_of_failure(error))
            if isinstance(error, LMError) and error.kind is LMErrorKind.RATE_LIMIT:
                lane.narrow(turn)
            raise
        else:
            self._settle(hold, reply.cost_usd, reply.usage)
        finally:
            lane.leave(is_inner=is_inner)
        bound.learn(request, reply)
        lane.succeed(turn, None if reply.usage is None else reply.usage.prompt_tokens + reply.usage.completion_tokens)
        return reply

    def _pause_after(self, error: LMError, request: Request, lane: Lane, first: Turn, patience: Patience) -> Pause:
        """How long to wait before the next attempt. Where there is none, raises what there is to say.

        A model that answered nobody while several calls used up all their attempts is down, and not asked again.
        """
        pause = patience.pause_after(error)
        if pause is None:
            is_down = error.kind in TRANSIENT and lane.is_down_after(
                first, _content_of(request), is_unreached=patience.is_unreached
            )
            final = last_words(error)
            if self._gives_up and (error.is_lasting or is_down):
                lane.give_up(final)
            raise final
        if error.kind is LMErrorKind.RATE_LIMIT:
            lane.hold_back(pause.least_seconds)
        return pause

    def _on_this_loop(self) -> _Here:
        loop = asyncio.get_running_loop()
        if self._here is None or self._here.loop is not loop:
            self._here = _Here(loop, self._make_traffic())
        return self._here


class _Here:
    """What is bound to one event loop."""

    __slots__ = ("_preparations", "lms", "loop", "traffic")

    def __init__(self, loop: asyncio.AbstractEventLoop, traffic: Traffic) -> None:
        self.loop = loop
        self.traffic = traffic
        self.lms: dict[int, AsyncLM] = {}
        self._preparations: dict[int, asyncio.Task[None]] = {}

    async def prepare(self, lm: AsyncLM) -> None:
        """Let ``lm`` load what it needs: once, for all who ask, and again after a failure."""
        self.lms[id(lm)] = lm
        if (prepare := getattr(lm, "prepare", None)) is None:
            return
        task = self._preparations.get(id(lm))
        if task is None:
            task = self._preparations[id(lm)] = self.loop.create_task(prepare())
        if not task.done():
            await asyncio.wait((task,))  # who gives up waiting takes it from nobody else
        if task.cancelled() or task.exception() is not None:
            self._preparations.pop(id(lm), None)
        task.result()


def _content_of(request: Request) -> str:
    """What tells a request from others that a model may be asked, draws of the same one aside."""
    return repr((request.messages, request.schema, request.temperature, request.max_tokens))


def cost_of_failure(error: BaseException) -> float | None:
    """A request that the provider refused is free; one that was cut off may still be on the bill (``None``)."""
    if not isinstance(error, LMError):
        return None
    if error.cost_usd is not None:
        return error.cost_usd
    is_billed = _may_be_billed(error) if error.is_billed is None else error.is_billed
    return None if is_billed else 0.0


def _may_be_billed(error: LMError) -> bool:
    is_withheld = error.kind is LMErrorKind.CONTENT_POLICY and error.status is None
    return is_withheld or error.kind in _MAYBE_BILLED
