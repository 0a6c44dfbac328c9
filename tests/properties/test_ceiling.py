"""Calls and money under every order of events: ceilings hold, all is settled, all is counted, nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from random import Random
from threading import Lock

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.errors import BudgetExhausted, LMError, LMErrorKind
from pytest_promptopt.lms.background import BackgroundLoop
from pytest_promptopt.lms.base import LM, AsyncLM, Reply, Request, Usage
from pytest_promptopt.lms.ceiling import Ceiling
from pytest_promptopt.lms.client import Client
from pytest_promptopt.lms.models import Catalog

TICKS = 40
"""More turns of the loop than anything needs that waits for nobody."""

MOST_TOKENS = 10
PRICED = Catalog({"mini": {"model": "remote/mini", "price": {"input": 0.0, "output": 10_000.0}}})  # 1 cent a token


@dataclass(frozen=True)
class Ending:
    """How one attempt ends: with so many tokens, counted or not, or in a failure."""

    tokens: int = 0
    has_usage: bool = True
    kind: LMErrorKind | None = None


endings = st.one_of(
    st.builds(Ending, tokens=st.integers(0, MOST_TOKENS)),
    st.builds(Ending, tokens=st.integers(0, MOST_TOKENS), has_usage=st.just(False)),
    st.builds(Ending, kind=st.sampled_from([kind for kind in LMErrorKind if kind is not LMErrorKind.UNRECORDED])),
    st.builds(
        Ending,
        kind=st.just(LMErrorKind.CONTENT_POLICY),
        tokens=st.integers(0, MOST_TOKENS),
        has_usage=st.booleans(),
    ),
)


class Provider:
    """A provider that keeps its own books; its answers come when, and in the order in which, the test lets them."""

    def __init__(self, endings: list[Ending]) -> None:
        self._endings = iter(endings)
        self.attempts = 0
        self.known_cents = self.billed_cents = self.unknown = 0
        self.waiting: list[asyncio.Future[None]] = []

    def next_ending(self) -> Ending:
        return next(self._endings, Ending())

    async def acomplete(self, request: Request) -> Reply:
        self.attempts += 1
        ending = self.next_ending()
        gate = asyncio.get_running_loop().create_future()
        self.waiting.append(gate)
        try:
            await gate
        except asyncio.CancelledError:
            self._bill(ending, is_known=False)  # it may have worked on the answer all the same
            raise
        finally:
            self.waiting.remove(gate)
        return self.end(ending)

    def end(self, ending: Ending) -> Reply:
        if ending.kind in (LMErrorKind.TIMEOUT, LMErrorKind.MALFORMED):
            self._bill(ending, is_known=False)
        if ending.kind is LMErrorKind.CONTENT_POLICY:  # withheld, and charged for all the same
            self._bill(ending, is_known=ending.has_usage)
            raise LMError("no", kind=ending.kind, cost_usd=ending.tokens / 100 if ending.has_usage else None)
        if ending.kind is not None:
            raise LMError("no", kind=ending.kind)
        self._bill(ending, is_known=ending.has_usage)
        usage = Usage(prompt_tokens=0, completion_tokens=ending.tokens) if ending.has_usage else None
        return Reply(text="yes", usage=usage, cost_usd=ending.tokens / 100 if ending.has_usage else None)

    def _bill(self, ending: Ending, *, is_known: bool) -> None:
        self.billed_cents += ending.tokens
        self.known_cents += ending.tokens if is_known else 0
        self.unknown += not is_known


async def no_pause(_: float) -> None:
    await asyncio.sleep(0)


def make(
    lm: LM | AsyncLM, ceiling: Ceiling, background: BackgroundLoop, concurrency: int, models: Catalog = PRICED
) -> Client:
    return Client(
        lm_for=lambda _: lm,
        store=None,
        ceiling=ceiling,
        models=models,
        max_concurrency=concurrency,
        background=background,
        sleep=no_pause,
        rng=Random(0),
        gives_up=False,
    )


def ask(number: int, model: str = "mini") -> Request:
    content = {"role": "user", "content": str(number)}
    return Request(model=model, messages=(content,), max_tokens=MOST_TOKENS)


async def settle_down() -> None:
    for _ in range(TICKS):
        await asyncio.sleep(0)


async def drive(
    client: Client,
    provider: Provider,
    calls: int,
    choose: Callable[[int], int],
    *,
    gives_up: bool = True,
    model: str = "mini",
) -> list[object]:
    """On the background loop, step by step: another call, an answer, or one that gives up, as ``choose`` draws."""
    tasks: list[asyncio.Future[Reply]] = []
    while True:
        await settle_down()
        is_open = [task for task in tasks if not task.done() and gives_up]
        steps = ["call"] * (len(tasks) < calls) + ["answer"] * 3 * bool(provider.waiting)
        if not steps:
            break
        step = (steps + ["give up"] * bool(is_open))[choose(len(steps) + bool(is_open))]
        if step == "call":
            tasks.append(asyncio.ensure_future(client.acomplete(ask(len(tasks), model))))
        elif step == "answer":
            provider.waiting[choose(len(provider.waiting))].set_result(None)
        else:
            is_open[choose(len(is_open))].cancel()
    assert all(task.done() for task in tasks), "somebody waits although nobody is under way"
    return list(await asyncio.gather(*tasks, return_exceptions=True))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    course=st.lists(st.integers(0, 10_000), max_size=80),
    script=st.lists(endings, max_size=40),
    calls=st.integers(1, 12),
    max_calls=st.none() | st.integers(0, 15),
    ceiling_cents=st.none() | st.integers(0, 100),
    concurrency=st.integers(1, 6),
)
def test_no_order_of_answers_failures_and_cancellations_passes_a_ceiling(
    course: list[int],
    script: list[Ending],
    calls: int,
    max_calls: int | None,
    ceiling_cents: int | None,
    concurrency: int,
) -> None:
    max_cost_usd = None if ceiling_cents is None else ceiling_cents / 100
    provider, ceiling = Provider(script), Ceiling(max_calls=max_calls, max_cost_usd=max_cost_usd)
    background = BackgroundLoop()
    with closing(make(provider, ceiling, background, concurrency)) as client:
        turns = iter(course)
        outcomes = background.run(drive(client, provider, calls, lambda count: next(turns, 0) % count))
        counters = client.counters
    assert all(isinstance(outcome, (Reply, LMError, BudgetExhausted, asyncio.CancelledError)) for outcome in outcomes)
    assert ceiling.calls == counters.attempts == provider.attempts
    assert max_calls is None or provider.attempts <= max_calls
    assert ceiling_cents is None or provider.billed_cents <= ceiling_cents
    assert round(counters.cost_usd * 100) == round(ceiling.cost_usd * 100) == provider.known_cents
    assert counters.has_unknown_cost == ceiling.has_unknown_cost == (provider.unknown > 0)
    if max_cost_usd is not None and not provider.unknown:  # all was settled: what is left can be reserved again
        left_usd = (ceiling_cents - provider.known_cents) / 100  # type: ignore[operator]
        assert max_calls == provider.attempts or ceiling.try_reserve(left_usd) is not None


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    course=st.lists(st.integers(0, 10_000), max_size=60),
    refusals=st.lists(st.sampled_from([None, LMErrorKind.SERVER, LMErrorKind.RATE_LIMIT, LMErrorKind.AUTH])),
    tokens=st.integers(1, MOST_TOKENS),
    calls=st.integers(1, 12),
    ceiling_cents=st.integers(1, 60),
    concurrency=st.integers(1, 6),
)
def test_refusals_that_cost_nothing_open_no_door_to_calls_whose_price_nobody_has_seen(
    course: list[int],
    refusals: list[LMErrorKind | None],
    tokens: int,
    calls: int,
    ceiling_cents: int,
    concurrency: int,
) -> None:
    """A model without a price in any table, all replies of which cost the same: only the first may be a surprise."""
    script = [Ending(tokens=tokens, kind=kind) for kind in refusals]
    provider = Provider([*script, *[Ending(tokens=tokens)] * 200])
    ceiling = Ceiling(max_calls=999, max_cost_usd=ceiling_cents / 100)
    background = BackgroundLoop()
    with closing(make(provider, ceiling, background, concurrency, models=Catalog())) as client:
        turns = iter(course)
        draw = lambda count: next(turns, 0) % count  # noqa: E731
        background.run(drive(client, provider, calls, draw, gives_up=False, model="remote/unpriced"))
    assert provider.billed_cents <= max(tokens, ceiling_cents)


class InThread:
    """The same provider inside this process: it answers at once, in whichever thread asks."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._lock = Lock()

    def complete(self, request: Request) -> Reply:
        with self._lock:
            self._provider.attempts += 1
            return self._provider.end(self._provider.next_ending())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    script=st.lists(endings, max_size=30),
    threads=st.integers(2, 6),
    max_calls=st.none() | st.integers(0, 15),
    ceiling_cents=st.integers(0, 100),
)
def test_threads_never_pass_a_ceiling_together(
    script: list[Ending], threads: int, max_calls: int | None, ceiling_cents: int
) -> None:
    provider = Provider(script)
    ceiling = Ceiling(max_calls=max_calls, max_cost_usd=ceiling_cents / 100)
    client = make(InThread(provider), ceiling, BackgroundLoop(), threads)

    def call(number: int) -> None:
        try:
            client.complete(ask(number))
        except (LMError, BudgetExhausted):
            return

    with closing(client), ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, range(24)))
    assert ceiling.calls == client.counters.attempts == provider.attempts
    assert max_calls is None or provider.attempts <= max_calls
    assert provider.billed_cents <= ceiling_cents
    assert round(ceiling.cost_usd * 100) == provider.known_cents
