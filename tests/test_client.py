"""The client: nothing asked twice at once, nothing paid twice, nothing called past a ceiling; in threads and loops."""

import asyncio
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from threading import Barrier, Event, current_thread
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.errors import BudgetExhausted, LMError, LMErrorKind, ModelError, UnrecordedError, UsageError
from pytest_promptopt.lms.background import BackgroundLoop
from pytest_promptopt.lms.base import LM, AsyncLM, Messages, Prefix, Reply, Request, Usage
from pytest_promptopt.lms.ceiling import Ceiling
from pytest_promptopt.lms.client import (
    Client,
    Mode,
    Scope,
    request_digest,
    request_key,
)
from pytest_promptopt.lms.models import Catalog, ModelSettings, Price
from pytest_promptopt.lms.registry import Registry
from pytest_promptopt.lms.retries import SOON_SECONDS, Patience
from pytest_promptopt.lms.scripted import ScriptedLM
from pytest_promptopt.lms.store import Store

ATTEMPTS = {LMErrorKind.RATE_LIMIT: 8, LMErrorKind.SERVER: 4, LMErrorKind.TIMEOUT: 3, LMErrorKind.MALFORMED: 2}
PERMANENT = tuple(kind for kind in LMErrorKind if kind not in ATTEMPTS)

Ask = Callable[[Client, Request, Scope | None], Reply]


class Remote:
    """A model behind an imagined network: answers in order, then with the number of the request."""

    def __init__(self, *answers: str | Reply | Exception) -> None:
        self.requests: list[Request] = []
        self.threads: set[str] = set()
        self.is_closed = False
        self._answers = iter(answers)

    async def acomplete(self, request: Request) -> Reply:
        self.requests.append(request)
        self.threads.add(current_thread().name)
        answer = next(self._answers, f"answer {len(self.requests)}")
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Reply) else Reply(text=answer, cost_usd=0.01)

    async def aclose(self) -> None:
        self.threads.add(current_thread().name)
        self.is_closed = True


class Held(Remote):
    """A remote model that lets requests in and answers once the test lets it."""

    def __init__(self, *answers: str | Reply | Exception) -> None:
        super().__init__(*answers)
        self.entered = Event()
        self.may_answer = Event()
        self.cancelled = Event()

    async def acomplete(self, request: Request) -> Reply:
        self.entered.set()
        try:
            await asyncio.to_thread(self.may_answer.wait)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return await super().acomplete(request)


class Crowd(Remote):
    """A remote model that counts how many requests it holds at once, at most."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = self.most = 0

    async def acomplete(self, request: Request) -> Reply:
        self.inside += 1
        self.most = max(self.most, self.inside)
        for _ in range(3):
            await asyncio.sleep(0)
        self.inside -= 1
        return await super().acomplete(request)


def ask(text: str = "hello", *, temperature: float = 0.0) -> Request:
    return Request(model="remote/x", messages=({"role": "user", "content": text},), temperature=temperature)


def failing(kind: LMErrorKind, **details: float | None) -> LMError:
    return LMError(f"it said: {kind}", kind=kind, retry_after_seconds=details.get("retry_after_seconds"))


class Pauses:
    """Stands in for ``asyncio.sleep``: remembers the pauses and makes none."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


Make = Callable[..., Client]


@pytest.fixture
def make() -> Iterator[Make]:
    """Clients around one model, closed at the end; they sleep through no pause."""
    clients: list[Client] = []

    def make(lm: LM | AsyncLM, **settings: object) -> Client:
        defaults: dict[str, object] = {"store": None, "ceiling": Ceiling(), "sleep": Pauses(), "rng": Random(0)}
        clients.append(Client(lm_for=lambda _: lm, **{**defaults, **settings}))  # type: ignore[arg-type]
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "replies")) as store:
        yield store


def in_thread(client: Client, request: Request, scope: Scope | None = None) -> Reply:
    return client.complete(request, scope)


def in_asyncio(client: Client, request: Request, scope: Scope | None = None) -> Reply:
    return asyncio.run(client.acomplete(request, scope))


def in_trio(client: Client, request: Request, scope: Scope | None = None) -> Reply:
    return trio.run(client.acomplete, request, scope)


@pytest.fixture(params=[in_thread, in_asyncio, in_trio])
def way(request: pytest.FixtureRequest) -> Ask:
    """Every way to ask: what holds for one holds for all."""
    return request.param


# --- what a reply is stored under


def test_the_digest_of_a_request_is_the_same_for_ever() -> None:
    request = Request(
        model="openai/gpt-4o-mini",
        messages=({"role": "system", "content": "Decide."}, {"role": "user", "content": "Grüße \ud83d"}),
        temperature=0.7,
        max_tokens=100,
        schema='{"enum":["a","b"],"type":"string"}',
        endpoint="http://localhost:8000/v1",
    )
    assert request_digest(request) == "a81fa33d4e5c4aeaf5f94581b78ce9092bb3996d8ddd8d9120c0082d28dbadc1"
    assert request_digest(ask()) == "c484f00ae7401cb4e3aac9ecddc174404552e04e7fdf3de02147da60952069e7"
    assert request_key("digest", 2, 1) == "digest-2-1"


@pytest.mark.parametrize(
    "change",
    [
        {"model": "remote/y"},
        {"messages": ({"role": "system", "content": "hello"},)},
        {"messages": ({"role": "user", "content": "hello"},) * 2},
        {"temperature": 0.5},
        {"max_tokens": 7},
        {"schema": "{}"},
        {"endpoint": "http://localhost/v1"},
    ],
)
def test_whatever_decides_a_reply_changes_the_digest(change: dict[str, object]) -> None:
    assert request_digest(replace(ask(), **change)) != request_digest(ask())


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content(request: Request) -> dict[str, object]:
    """What a digest covers, said the long way."""
    parameters = {"temperature": float(request.temperature), "max_tokens": request.max_tokens}
    schema = None if request.schema is None else json.loads(request.schema)
    given = {"endpoint": request.endpoint, "schema": schema}
    return {
        "model": request.model,
        "messages": request.messages,
        "parameters": {key: value for key, value in parameters.items() if value is not None},
        **{key: value for key, value in given.items() if value is not None},
    }


texts = st.text(max_size=40)
turns = st.builds(
    lambda role, content: {"role": role, "content": content}, st.sampled_from(["user", "assistant"]), texts
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(turns, max_size=4),
    turns,
    st.builds(
        Request,
        model=texts,
        messages=st.just(()),
        temperature=st.sampled_from([0.0, 0.3, 1, 1e-7]),
        max_tokens=st.none() | st.integers(1, 9),
        schema=st.none() | st.dictionaries(texts, texts | st.integers(), max_size=2).map(canonical),
    ),
    st.lists(st.none() | texts, min_size=1, max_size=3),
)
def test_the_digest_is_that_of_the_canonical_json_whatever_was_hashed_before(
    before: list[dict[str, str]], last: dict[str, str], request: Request, endpoints: list[str | None]
) -> None:
    prefix = Prefix(before)
    for endpoint in endpoints:
        for message in (last, {"role": "user", "content": "another row"}):
            plain = replace(request, messages=(*before, message), endpoint=endpoint)
            digest = hashlib.sha256(canonical(content(plain)).encode("utf-8", "surrogatepass")).hexdigest()
            assert request_digest(plain) == digest
            assert request_digest(replace(plain, messages=Messages.after(prefix, message))) == digest


def test_draws_and_spellings_of_one_request_share_a_digest() -> None:
    assert request_digest(replace(ask(), repeat=3, ordinal=2)) == request_digest(ask())
    assert request_digest(replace(ask(), temperature=0)) == request_digest(ask())


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(0, 3))
def test_the_model_is_told_which_draw_it_is(texts: list[str], repeat: int) -> None:
    lm = ScriptedLM([], default="yes")
    client = Client(lm_for=lambda _: lm, store=None, ceiling=Ceiling())
    scope = Scope(repeat=repeat)
    for text in texts:
        client.complete(ask(text), scope)
    assert [heard.ordinal for heard in lm.requests] == [texts[:place].count(text) for place, text in enumerate(texts)]
    assert {heard.repeat for heard in lm.requests} <= {repeat}
    assert scope.calls == len(texts)


def test_five_votes_are_five_draws_and_all_five_are_replayed(make: Make, store: Store, way: Ask) -> None:
    lm = Remote()
    client, again = make(lm, store=store), make(lm, store=store)
    scope, later = Scope(), Scope()
    votes = [way(client, ask(temperature=1.0), scope).text for _ in range(5)]
    replayed = [way(again, ask(temperature=1.0), later) for _ in range(5)]
    assert len(set(votes)) == 5
    assert [reply.text for reply in replayed] == votes
    assert all(reply.is_replayed for reply in replayed)
    assert len(lm.requests) == 5
    assert (scope.calls, scope.replayed, scope.cost_usd) == (5, 0, pytest.approx(0.05))
    assert (later.calls, later.replayed, later.cost_usd) == (5, 5, 0.0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_without_scope_the_request_says_which_draw_it_is(
    make: Make, store: Store, way: Ask, temperature: float
) -> None:
    client = make(Remote(), store=store)
    first = ask(temperature=temperature)
    second = replace(first, repeat=1)
    assert way(client, first, None).text != way(client, second, None).text
    assert way(client, first, None).is_replayed
    assert way(client, second, None).is_replayed


# --- what comes first


def test_a_draw_is_spent_once_a_run_before_it_is_called_or_looked_up(make: Make, store: Store, way: Ask) -> None:
    way(make(Remote(), store=store), ask(), Scope())
    client, steps = make(Remote(), store=store), []
    scopes = [Scope(spend=lambda: steps.append("spent")) for _ in range(2)]
    for scope in scopes:  # the store knows the reply; the client's second call asks for the same draw
        way(client, ask(), scope)
    assert steps == ["spent"]
    assert [scope.fresh for scope in scopes] == [1, 0]
    way(client, ask("other"), scopes[0])
    assert steps == ["spent", "spent"]


def test_a_search_out_of_steps_asks_nobody(make: Make, way: Ask) -> None:
    def refuse() -> None:
        raise BudgetExhausted("no steps left")

    lm, scope = Remote(), Scope(spend=refuse)
    with pytest.raises(BudgetExhausted, match="no steps left"):
        way(make(lm), ask(), scope)
    assert lm.requests == []
    assert scope.fresh == 0


# --- modes


@pytest.mark.parametrize("lm_type", [Remote, type("InThread", (), {"complete": lambda *_: pytest.fail("called")})])
def test_replay_calls_nobody_and_says_what_to_type(make: Make, store: Store, way: Ask, lm_type: type) -> None:
    client = make(lm_type(), store=store, mode=Mode.REPLAY)
    with pytest.raises(UnrecordedError, match=r"remote/x.*'hello'.*pytest --prompt-lm record"):
        way(client, ask(), None)
    assert client.counters.attempts == 0


def test_replay_answers_what_is_known(make: Make, store: Store, way: Ask) -> None:
    paid = way(make(Remote(), store=store), ask(), None)
    assert way(make(Remote(), store=store, mode=Mode.REPLAY), ask(), None) == replace(paid, is_replayed=True)


@pytest.mark.parametrize("mode", Mode)
def test_an_offline_model_computes_in_every_mode(make: Make, way: Ask, mode: Mode) -> None:
    assert way(make(ScriptedLM(["yes"]), mode=mode), ask(), None).text == "yes"


@pytest.mark.parametrize("mode", [Mode.LIVE, Mode.RERECORD])
def test_live_asks_again_and_keeps_the_newer_reply(make: Make, store: Store, way: Ask, mode: Mode) -> None:
    lm = Remote("old", "new")
    way(make(lm, store=store), ask(), None)
    assert way(make(lm, store=store, mode=mode), ask(), None).text == "new"
    assert way(make(lm, store=store), ask(), None).text == "new"


def test_a_failure_is_never_stored(make: Make, store: Store, way: Ask) -> None:
    client = make(Remote(failing(LMErrorKind.BAD_REQUEST), "better"), store=store)
    with pytest.raises(LMError):
        way(client, ask(), None)
    assert way(client, ask(), None) == Reply(text="better", cost_usd=0.01)


def test_an_unknown_model_is_the_users_to_mend(way: Ask) -> None:
    client = Client(lm_for=Registry().lm_for, store=None, ceiling=Ceiling())
    with pytest.raises(ModelError, match="gpt-4o-mini"):
        way(client, replace(ask(), model="gpt-4o-mini"), None)


@pytest.mark.parametrize("mode", Mode)
def test_a_store_that_cannot_be_used_is_found_out_before_the_first_paid_call(
    make: Make, way: Ask, tmp_path: Path, mode: Mode
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    lm = Remote()
    with pytest.raises(UsageError, match="promptopt_store"):
        way(make(lm, store=Store(tmp_path), mode=mode), ask(), None)
    assert lm.requests == []


# --- single flight


async def started(client: Client, request: Request, count: int) -> list[asyncio.Task[Reply]]:
    """That many identical calls, each run until it waits for something."""
    tasks = [asyncio.create_task(client.acomplete(request)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


def test_identical_calls_at_once_are_one_call_for_all(make: Make) -> None:
    lm = Held("shared")
    client = make(lm)

    async def session() -> list[Reply]:
        tasks = await started(client, ask(), 8)
        lm.may_answer.set()
        return await asyncio.gather(*tasks)

    replies = asyncio.run(session())
    assert [reply.text for reply in replies] == ["shared"] * 8
    assert [reply.is_replayed for reply in replies] == [False] + [True] * 7
    assert len(lm.requests) == 1
    assert (client.counters.calls, client.counters.attempts, client.counters.replayed) == (8, 1, 7)


def test_a_provider_error_is_shared_too(make: Make) -> None:
    error = failing(LMErrorKind.AUTH)
    lm = Held(error)
    client = make(lm)

    async def session() -> list[Reply | BaseException]:
        tasks = await started(client, ask(), 4)
        lm.may_answer.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert asyncio.run(session()) == [error] * 4
    assert len(lm.requests) == 1


def test_when_the_one_who_asks_gives_up_another_asks(make: Make) -> None:
    lm = Held("late")
    client = make(lm)

    async def session() -> list[Reply | BaseException]:
        tasks = await started(client, ask(), 3)
        tasks[0].cancel()
        await asyncio.to_thread(lm.cancelled.wait, 30)
        lm.may_answer.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    gave_up, *answered = asyncio.run(session())
    assert isinstance(gave_up, asyncio.CancelledError)
    assert [reply.text for reply in answered if isinstance(reply, Reply)] == ["late"] * 2


def test_one_who_waits_and_gives_up_takes_nothing_from_the_others(make: Make) -> None:
    lm = Held("shared")
    client = make(lm)

    async def session() -> list[Reply | BaseException]:
        tasks = await started(client, ask(), 3)
        tasks[1].cancel()
        await asyncio.sleep(0)
        lm.may_answer.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, gave_up, last = asyncio.run(session())
    assert isinstance(gave_up, asyncio.CancelledError)
    assert isinstance(first, Reply)
    assert last == replace(first, is_replayed=True)
    assert len(lm.requests) == 1


def test_when_the_budget_ends_it_ends_for_those_who_wait_too(make: Make) -> None:
    lm = Remote()
    client = make(lm, ceiling=Ceiling(max_calls=0))

    async def session() -> list[Reply | BaseException]:
        return await asyncio.gather(*await started(client, ask(), 3), return_exceptions=True)

    assert [type(outcome) for outcome in asyncio.run(session())] == [BudgetExhausted] * 3
    assert lm.requests == []


@pytest.mark.parametrize("lm_type", [Remote, ScriptedLM])
def test_a_bug_in_a_model_blocks_nobody(make: Make, way: Ask, lm_type: type) -> None:
    answers = (ValueError("a bug in the model"), "yes")
    client = make(lm_type(*answers) if lm_type is Remote else lm_type(answers))
    with pytest.raises(ValueError, match="a bug in the model"):
        way(client, ask(), None)
    assert way(client, ask(), None).text == "yes"


def test_a_thread_and_a_loop_wait_for_one_call(make: Make, store: Store) -> None:
    lm = Held("shared")
    client = make(lm, store=store)
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(client.complete, ask())
        lm.entered.wait()

        async def session() -> list[Reply]:
            tasks = await started(client, ask(), 2)
            lm.may_answer.set()
            return await asyncio.gather(*tasks)

        assert [reply.text for reply in asyncio.run(session())] == ["shared"] * 2
        assert leader.result() == Reply(text="shared", cost_usd=0.01)
    assert len(lm.requests) == 1


@pytest.mark.parametrize("lm_type", [Remote, lambda: ScriptedLM([str(turn) for turn in range(800)])])
def test_threads_that_ask_for_the_same_pay_once(make: Make, store: Store, lm_type: Callable[[], LM | AsyncLM]) -> None:
    client, start = make(lm_type(), store=store), Barrier(8)

    def ask_all(_: int) -> list[str]:
        start.wait()
        return [client.complete(ask(str(number))).text for number in range(25)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask_all, range(8)))
    assert all(answer == answers[0] for answer in answers)
    counters = client.counters
    assert (counters.calls, counters.attempts, counters.replayed) == (200, 25, 175)


def test_samples_that_nobody_counts_are_calls_of_their_own(make: Make) -> None:
    """In production five votes at once have no scope to number them, and still are five."""
    lm = Held()
    client = make(lm, mode=Mode.LIVE)

    async def session() -> list[Reply]:
        tasks = await started(client, ask(temperature=1.0), 5)
        lm.may_answer.set()
        return await asyncio.gather(*tasks)

    assert len({reply.text for reply in asyncio.run(session())}) == 5


# --- a store that fails on the way


class Full(Store):
    """A store on a disk that fills up after ``room`` replies, as SQLite says it."""

    def __init__(self, folder: Path, room: int) -> None:
        super().__init__(folder)
        self._room = room

    def _insert(self, row: tuple[str, str, str]) -> None:
        if self._room == 0:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        self._room -= 1
        super()._insert(row)


@pytest.mark.parametrize("lm_type", [Remote, lambda: ScriptedLM([], default="yes")])
def test_the_reply_that_cannot_be_stored_is_the_last_one_paid_for(
    make: Make, tmp_path: Path, way: Ask, lm_type: Callable[[], Any]
) -> None:
    lm, ceiling = lm_type(), Ceiling(max_calls=9)
    client = make(lm, store=Full(tmp_path / "replies", room=1), ceiling=ceiling)
    texts = [way(client, ask(text), None).text for text in ("kept", "lost")]
    assert len(texts) == 2
    for text in ("lost", "never asked"):
        with pytest.raises(UsageError, match=r"disk is full\. Make room on its disk"):
            way(client, ask(text), None)
    assert way(client, ask("kept"), None).is_replayed
    assert len(lm.requests) == ceiling.calls == 2


def test_calls_that_wait_for_their_turn_are_not_made_once_the_store_has_failed(make: Make, tmp_path: Path) -> None:
    lm = Crowd()
    client = make(lm, store=Full(tmp_path / "replies", room=0), max_concurrency=2)

    async def session() -> list[Reply | BaseException]:
        calls = [client.acomplete(ask(str(number))) for number in range(20)]
        return await asyncio.gather(*calls, return_exceptions=True)

    endings = asyncio.run(session())
    assert {type(ending) for ending in endings} == {Reply, UsageError}
    assert len(lm.requests) <= 4


def test_the_loop_goes_on_while_another_process_holds_the_store(make: Make, store: Store) -> None:
    store.prepare()
    background = BackgroundLoop()
    client = make(Remote(), store=store, background=background)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN IMMEDIATE")
        first = pool.submit(client.complete, ask())
        while client.counters.attempts == 0:
            background.run(asyncio.sleep(0))
        for _ in range(3):
            background.run(asyncio.sleep(0))
        assert not first.done()
        other.execute("ROLLBACK")
        assert first.result(timeout=60).text == "answer 1"
    assert client.complete(ask()).is_replayed


# --- attempts


@pytest.mark.parametrize(("kind", "attempts"), ATTEMPTS.items())
def test_what_may_pass_is_tried_again(make: Make, way: Ask, kind: LMErrorKind, attempts: int) -> None:
    lm = Remote(*[failing(kind)] * (attempts - 1), "at last")
    client = make(lm)
    assert way(client, ask(), None).text == "at last"
    assert client.counters.attempts == attempts


@pytest.mark.parametrize(("kind", "attempts"), ATTEMPTS.items())
def test_every_kind_has_attempts_enough(make: Make, way: Ask, kind: LMErrorKind, attempts: int) -> None:
    lm = Remote(*[failing(kind)] * attempts)
    with pytest.raises(LMError, match=f"it said: {kind}"):
        way(make(lm), ask(), None)
    assert len(lm.requests) == attempts


def test_kinds_are_counted_apart(make: Make, way: Ask) -> None:
    kinds = [LMErrorKind.SERVER] * 3 + [LMErrorKind.TIMEOUT] * 2 + [LMErrorKind.MALFORMED]
    lm = Remote(*map(failing, kinds), "at last")
    assert way(make(lm), ask(), None).text == "at last"


@pytest.mark.parametrize("kind", PERMANENT)
def test_what_will_not_pass_is_not_tried_again(make: Make, way: Ask, kind: LMErrorKind) -> None:
    lm, pauses = Remote(failing(kind)), Pauses()
    with pytest.raises(LMError, match=f"it said: {kind}"):
        way(make(lm, sleep=pauses), ask(), None)
    assert (len(lm.requests), pauses.seconds) == (1, [])


def test_pauses_double(make: Make) -> None:
    pauses = Pauses()
    make(Remote(*[failing(LMErrorKind.SERVER)] * 3), sleep=pauses).complete(ask())
    assert len(pauses.seconds) == 3
    for pause, least in zip(pauses.seconds, [0.5, 1.0, 2.0], strict=True):
        assert least <= pause <= 2 * least


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 99), st.none() | st.floats(0.0, 120.0), st.integers(1, 7))
def test_nobody_comes_back_earlier_than_the_provider_asks(seed: int, asked: float | None, failures: int) -> None:
    patience, error = Patience(Random(seed)), failing(LMErrorKind.RATE_LIMIT, retry_after_seconds=asked)
    pauses = [patience.pause_after(error) for _ in range(failures)]
    for pause in pauses:
        assert pause is not None
        assert (asked or 0.0) <= pause.least_seconds <= pause.seconds <= pause.least_seconds + 60.0


@pytest.mark.parametrize(("asked_seconds", "first_seconds"), [(0.08, 0.08), (0.0, SOON_SECONDS), (0.02, 0.02)])
def test_a_short_pause_asked_for_again_and_again_grows(asked_seconds: float, first_seconds: float) -> None:
    patience, error = Patience(Random(0)), failing(LMErrorKind.RATE_LIMIT, retry_after_seconds=asked_seconds)
    pauses = [patience.pause_after(error) for _ in range(7)]
    expected = [pytest.approx(first_seconds * 2**turn) for turn in range(7)]
    assert [pause.least_seconds for pause in pauses if pause] == expected


def test_a_pause_of_an_hour_is_not_waited_for(make: Make, way: Ask) -> None:
    lm, pauses = Remote(failing(LMErrorKind.RATE_LIMIT, retry_after_seconds=3600.0)), Pauses()
    with pytest.raises(LMError, match=r"it said: rate limit It asks for a pause of 3,600 seconds.*not waited") as info:
        way(make(lm, sleep=pauses), ask(), None)
    assert info.value.kind is LMErrorKind.RATE_LIMIT
    assert (len(lm.requests), pauses.seconds) == (1, [])


def test_an_amended_request_is_sent_again_at_once_and_counted(make: Make, way: Ask) -> None:
    amended = LMError("no temperature", kind=LMErrorKind.BAD_REQUEST, is_amended=True)
    lm, pauses = Remote(amended, amended, failing(LMErrorKind.SERVER), amended, "yes"), Pauses()
    client = make(lm, sleep=pauses)
    assert way(client, ask(), None).text == "yes"
    assert client.counters.attempts == 5
    assert len(pauses.seconds) == 1


def test_a_model_that_amends_for_ever_is_let_go(make: Make, way: Ask) -> None:
    lm = Remote(*[LMError("and again", kind=LMErrorKind.BAD_REQUEST, is_amended=True)] * 99)
    with pytest.raises(LMError, match="and again"):
        way(make(lm), ask(), None)
    assert len(lm.requests) == 9


class Prepared(Remote):
    """A remote model that has to be made ready; it fails with each of ``failures`` first."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__()
        self.prepared = 0
        self._failures = iter(failures)

    async def prepare(self) -> None:
        self.prepared += 1
        await asyncio.sleep(0)
        if (failure := next(self._failures, None)) is not None:
            raise failure


def test_a_model_is_made_ready_once_for_all_who_ask(make: Make) -> None:
    lm = Prepared()
    client = make(lm)

    async def session() -> None:
        await asyncio.gather(*(client.acomplete(ask(str(number))) for number in range(8)))

    asyncio.run(session())
    client.complete(ask("later"))
    assert lm.prepared == 1
    client.close()
    client.complete(ask("on another loop"))
    assert lm.prepared == 2


def test_a_model_that_cannot_be_made_ready_has_cost_no_attempt(make: Make, way: Ask) -> None:
    lm, ceiling = Prepared(failing(LMErrorKind.SERVER)), Ceiling(max_calls=1)
    client = make(lm, ceiling=ceiling)
    with pytest.raises(LMError, match="it said: server"):
        way(client, ask(), None)
    assert ceiling.calls == client.counters.attempts == 0
    assert way(client, ask(), None).text == "answer 1"


def test_without_a_key_the_model_is_asked_for_nothing_more(make: Make, way: Ask) -> None:
    lm = Prepared(LMError("set A_KEY", kind=LMErrorKind.AUTH, is_lasting=True))
    client = make(lm)
    for number in range(3):
        with pytest.raises(LMError, match=r"^set A_KEY$"):
            way(client, ask(str(number)), None)
    assert (lm.prepared, lm.requests) == (1, [])


# --- limits of a provider


class Busy(Remote):
    """A remote model that refuses a burst once, and counts how many it holds at once from then on."""

    def __init__(self, burst: int) -> None:
        super().__init__()
        self._burst = burst
        self.inside = self.most = 0

    async def acomplete(self, request: Request) -> Reply:
        if self._burst:
            self._burst -= 1
            await asyncio.sleep(0)
            raise failing(LMErrorKind.RATE_LIMIT, retry_after_seconds=3.0)
        self.inside += 1
        self.most = max(self.most, self.inside)
        for _ in range(100):  # long enough for all who may to come in meanwhile
            await asyncio.sleep(0)
        self.inside -= 1
        return await super().acomplete(request)


def test_after_a_burst_of_refusals_half_as_many_go_at_once_and_none_before_the_pause() -> None:
    pauses, has_paused = Pauses(), asyncio.Event()
    lm, background = Busy(burst=8), BackgroundLoop()

    async def sleep(seconds: float) -> None:
        await pauses(seconds)
        await has_paused.wait()

    client = Client(
        lm_for=lambda _: lm, store=None, ceiling=Ceiling(), max_concurrency=8, background=background, sleep=sleep
    )

    async def session() -> None:
        calls = [asyncio.ensure_future(client.acomplete(ask(str(number)))) for number in range(12)]
        for _ in range(50):
            await asyncio.sleep(0)
        assert lm.most == 0
        has_paused.set()
        await asyncio.gather(*calls)

    with closing(client):
        background.run(session())
    assert len(lm.requests) == 12
    assert 4 <= lm.most < 8
    assert min(pauses.seconds) >= 3.0


def test_requests_and_tokens_a_minute_are_those_of_the_model(make: Make) -> None:
    now = [0.0]

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    tables = {
        "by requests": {"model": "remote/x", "requests_per_minute": 2},
        "by tokens": {"model": "remote/y", "tokens_per_minute": 100},
    }
    usage = Usage(prompt_tokens=20, completion_tokens=30)
    replies = [Reply(text="yes", usage=usage, cost_usd=0.0) for _ in range(9)]
    for name, minutes in (("by requests", [0, 0, 1, 1, 2]), ("by tokens", [0, 0, 1, 1])):
        client = make(Remote(*replies), models=Catalog(tables), sleep=sleep, clock=lambda: now[0])
        began, starts = now[0], []
        for number in range(len(minutes)):
            client.complete(replace(ask(str(number)), model=name, max_tokens=40))
            starts.append((now[0] - began) / 60)
        assert starts == minutes


# --- models that are down


class Partial(Remote):
    """A remote model that fails for one text; what it does for others between those attempts, the test says."""

    async def acomplete(self, request: Request) -> Reply:
        if request.messages[-1]["content"] == "poison":
            self.requests.append(request)
            raise failing(LMErrorKind.SERVER)
        return await super().acomplete(request)


def lasting() -> LMError:
    return LMError("wrong key", kind=LMErrorKind.AUTH, is_lasting=True)


def test_after_a_lasting_failure_every_call_fails_at_once_with_its_cause(make: Make, way: Ask) -> None:
    lm, ceiling = Remote("fine", lasting()), Ceiling(max_calls=99)
    client = make(lm, ceiling=ceiling)
    way(client, ask("0"), None)
    with pytest.raises(LMError, match=r"^wrong key"):
        way(client, ask("1"), None)
    with pytest.raises(LMError, match=r"^wrong key") as info:
        way(client, ask("2"), None)
    assert (info.value.kind, info.value.is_lasting) == (LMErrorKind.AUTH, True)
    assert ceiling.calls == len(lm.requests) == 2


def refused_connection() -> LMError:
    return LMError("it said: nothing, nobody was there", kind=LMErrorKind.SERVER, is_billed=False)


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (failing(LMErrorKind.RATE_LIMIT), 2),
        (refused_connection(), 2),
        (failing(LMErrorKind.SERVER), 3),
        (failing(LMErrorKind.TIMEOUT), 3),
    ],
)
def test_a_model_that_stays_silent_is_down_for_the_rest_of_the_run(
    make: Make, way: Ask, error: LMError, calls: int
) -> None:
    lm = Remote(*[error] * 99)
    client = make(lm)
    for number in range(6):
        with pytest.raises(LMError, match=r"^it said"):
            way(client, ask(str(number)), None)
    assert len(lm.requests) == calls * ATTEMPTS[error.kind]


@pytest.mark.parametrize("is_refused_at_last", [True, False])
def test_two_faulty_rows_that_are_neighbours_take_no_model_down(make: Make, way: Ask, is_refused_at_last: bool) -> None:
    fault = [failing(LMErrorKind.SERVER)] * 3
    fault.append(refused_connection() if is_refused_at_last else fault[0])
    client = make(Remote(*fault * 2))
    for number in range(2):
        with pytest.raises(LMError, match=r"^it said"):
            way(client, ask(str(number)), None)
    assert way(client, ask("2"), None).text.startswith("answer")


def test_one_faulty_row_asked_again_and_again_takes_no_model_down(make: Make) -> None:
    client, scope = make(Partial()), Scope()
    for _ in range(5):
        with pytest.raises(LMError, match=r"^it said"):
            client.complete(ask("poison"), scope)
    assert client.complete(ask("fine")).text.startswith("answer")


def test_one_request_that_a_model_never_answers_leaves_it_to_the_others(make: Make, way: Ask) -> None:
    client = make(Partial())
    for text in ("poison", "fine", "poison", "fine"):
        if text == "fine":
            assert way(client, ask(text), None).text.startswith("answer")
        else:
            with pytest.raises(LMError, match=r"^it said"):
                way(client, ask(text), None)


@pytest.mark.parametrize("kind", [*PERMANENT, LMErrorKind.MALFORMED])
def test_what_is_about_one_request_ends_no_other(make: Make, way: Ask, kind: LMErrorKind) -> None:
    lm = Remote(*[failing(kind)] * ATTEMPTS.get(kind, 1))
    client = make(lm)
    with pytest.raises(LMError, match=f"it said: {kind}"):
        way(client, ask("0"), None)
    assert way(client, ask("1"), None).text.startswith("answer")


def test_a_success_in_between_keeps_a_model_up(make: Make) -> None:
    lm = Partial()
    turns = iter(range(99))

    async def sleep(_: float) -> None:
        await client.acomplete(ask(f"between {next(turns)}"))

    client = make(lm, sleep=sleep)
    with pytest.raises(LMError, match="it said"):
        client.complete(ask("poison"))
    assert client.complete(ask("after")).text.startswith("answer")


def test_a_process_that_serves_for_weeks_goes_on_asking(make: Make, way: Ask) -> None:
    client = make(Remote(*[failing(LMErrorKind.SERVER)] * 4, lasting()), gives_up=False)
    for number in range(2):
        with pytest.raises(LMError, match=r"^(it said|wrong key)"):
            way(client, ask(str(number)), None)
    assert way(client, ask("2"), None).text.startswith("answer")


def test_another_model_goes_on(make: Make, way: Ask) -> None:
    client = make(Remote(lasting()))
    with pytest.raises(LMError):
        way(client, ask(), None)
    assert way(client, replace(ask(), model="remote/y"), None).text.startswith("answer")


# --- aliases


ALIASES = {
    "mini": {"model": "remote/x"},
    "small": {"model": "remote/x"},
    "mine": {"model": "remote/x", "base_url": "http://localhost:1/v1"},
}


def test_an_alias_is_asked_for_by_name_and_sends_what_it_stands_for(way: Ask) -> None:
    lm, names = Remote(), []

    def lm_for(name: str) -> AsyncLM:
        names.append(name)
        return lm

    with closing(Client(lm_for=lm_for, store=None, ceiling=Ceiling(), models=Catalog(ALIASES))) as client:
        for name in ("mine", "mini", "remote/x"):
            way(client, replace(ask(name), model=name), None)
    assert names == ["mine", "mini", "remote/x"]
    assert [(heard.model, heard.endpoint) for heard in lm.requests] == [
        ("remote/x", "http://localhost:1/v1"),
        ("remote/x", None),
        ("remote/x", None),
    ]


def test_aliases_of_one_model_share_replies_and_other_addresses_do_not(make: Make, store: Store, way: Ask) -> None:
    lm = Remote()
    client = make(lm, store=store, models=Catalog(ALIASES))
    texts = [way(client, replace(ask(), model=name), None).text for name in ("mini", "small", "remote/x", "mine")]
    assert texts == ["answer 1", "answer 1", "answer 1", "answer 2"]


def test_an_alias_that_is_pointed_elsewhere_never_meets_old_replies(make: Make, store: Store, way: Ask) -> None:
    for number, model in enumerate(("remote/x", "remote/y"), start=1):
        client = make(Remote(f"reply {number}"), store=store, models=Catalog({"mini": {"model": model}}))
        assert way(client, replace(ask(), model="mini"), None).text == f"reply {number}"


def test_a_request_that_names_its_endpoint_keeps_it(make: Make, way: Ask) -> None:
    lm = Remote()
    way(make(lm, models=Catalog(ALIASES)), replace(ask(), model="mine", endpoint="http://localhost:2/v1"), None)
    assert lm.requests[0].endpoint == "http://localhost:2/v1"


# --- money


PRICED = Catalog({"mini": {"model": "remote/x", "price": {"input": 0.0, "output": 10_000.0}}})  # 1 cent a token


def priced(text: str, max_tokens: int | None = 10) -> Request:
    return replace(ask(text), model="mini", max_tokens=max_tokens)


def test_what_an_attempt_may_cost_is_held_before_it_starts(make: Make, way: Ask) -> None:
    lm, ceiling = Remote(*[Reply(text="yes", cost_usd=0.05)] * 9), Ceiling(max_cost_usd=0.20)
    client = make(lm, ceiling=ceiling, models=PRICED)
    for number in range(3):
        way(client, priced(str(number)), None)
    with pytest.raises(BudgetExhausted, match=r"cost up to \$0\.1 .*--prompt-max-cost 0\.2\).*\$0\.15.*max_tokens"):
        way(client, priced("3"), None)
    assert ceiling.cost_usd == 0.15


def test_a_server_that_omits_usage_cannot_pass_the_ceiling(make: Make, way: Ask) -> None:
    lm = Remote(*[Reply(text="yes")] * 9)
    client = make(lm, ceiling=Ceiling(max_cost_usd=0.25), models=PRICED)
    for number in range(2):
        way(client, priced(str(number)), None)
    with pytest.raises(BudgetExhausted):
        way(client, priced("2"), None)
    assert client.counters.has_unknown_cost
    assert len(lm.requests) == 2


def test_the_price_table_is_asked_once_a_model_and_only_where_an_alias_has_no_price(make: Make) -> None:
    asked: list[str] = []

    def price_of(settings: ModelSettings) -> Price:
        asked.append(settings.name)
        return Price(input_usd=0.0, output_usd=10_000.0)

    client = make(Remote(), ceiling=Ceiling(max_cost_usd=1.0), models=PRICED, price_of=price_of)
    for number in range(3):
        client.complete(replace(ask(str(number)), max_tokens=1))
        client.complete(priced(str(number)))
    assert asked == ["remote/x"]
    with pytest.raises(BudgetExhausted, match=r"up to \$2 "):
        client.complete(replace(ask(), max_tokens=200))


class Wallet(Remote):
    """A remote model that answers one cent a time, when the test lets it, and counts those inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[asyncio.Future[None]] = []

    async def acomplete(self, request: Request) -> Reply:
        self.inside.append(asyncio.get_running_loop().create_future())
        await self.inside[-1]
        self.requests.append(request)
        return Reply(text="yes", cost_usd=0.01)


def test_who_finds_too_little_money_waits_for_those_under_way() -> None:
    lm, background = Wallet(), BackgroundLoop()
    client = Client(
        lm_for=lambda _: lm, store=None, ceiling=Ceiling(max_cost_usd=0.25), models=PRICED, background=background
    )

    async def session() -> list[int]:
        """On the background loop itself, so that every step is in order; how many are inside, step by step."""
        calls = [asyncio.ensure_future(client.acomplete(priced(str(number)))) for number in range(5)]
        inside = []
        for _ in calls:
            for _ in range(30):
                await asyncio.sleep(0)
            inside.append(len(lm.inside))
            next(future for future in lm.inside if not future.done()).set_result(None)
        await asyncio.gather(*calls)
        return inside

    assert background.run(session()) == [2, 3, 4, 5, 5]  # 2 x 0.10 fit into 0.25, and then what the first ones left
    client.close()


def test_models_in_this_process_that_cost_money_go_the_same_way(make: Make) -> None:
    class Dear:
        def complete(self, request: Request) -> Reply:
            return Reply(text="yes", cost_usd=0.05)

    client = make(Dear(), ceiling=Ceiling(max_cost_usd=0.22), models=PRICED)
    with ThreadPoolExecutor(8) as pool:
        outcomes = [pool.submit(client.complete, priced(str(number))) for number in range(8)]
    endings = [outcome.exception() for outcome in outcomes]
    assert {type(ending) for ending in endings} == {type(None), BudgetExhausted}
    assert client.counters.cost_usd == pytest.approx(0.15)


def test_callers_spread_out(make: Make) -> None:
    pauses = Pauses()
    for seed in range(5):
        make(Remote(failing(LMErrorKind.SERVER)), sleep=pauses, rng=Random(seed)).complete(ask())
    assert len(set(pauses.seconds)) == 5


def test_a_model_in_this_process_is_not_tried_again(make: Make, way: Ask) -> None:
    lm = ScriptedLM([failing(LMErrorKind.SERVER), "never asked"])
    with pytest.raises(LMError):
        way(make(lm), ask(), None)
    assert len(lm.requests) == 1


def test_a_model_in_this_process_is_not_asked_again_with_a_wrong_key(make: Make, way: Ask) -> None:
    lm = ScriptedLM([lasting(), lasting()], default="yes")
    client = make(lm)
    for number in range(3):
        with pytest.raises(LMError, match=r"^wrong key") as info:
            way(client, ask(str(number)), None)
        assert info.value.is_lasting
    assert len(lm.requests) == client.counters.attempts == 1
    with pytest.raises(LMError):
        way(serving := make(lm, gives_up=False), ask(), None)
    assert way(serving, ask(), None).text == "yes"


def test_every_attempt_counts_against_the_ceiling(make: Make, way: Ask) -> None:
    lm = Remote(*[failing(LMErrorKind.SERVER)] * 9)
    client = make(lm, ceiling=Ceiling(max_calls=2))
    with pytest.raises(BudgetExhausted, match="ceiling of 2 LM calls"):
        way(client, ask(), None)
    assert len(lm.requests) == client.counters.attempts == 2


@pytest.mark.parametrize("lm_type", [Remote, lambda: ScriptedLM([], default="yes")])
def test_no_call_passes_the_ceiling_and_the_store_is_free(
    make: Make, store: Store, lm_type: Callable[[], Remote | ScriptedLM], way: Ask
) -> None:
    lm, ceiling = lm_type(), Ceiling(max_calls=3)
    client = make(lm, store=store, ceiling=ceiling)
    for number in (0, 1, 2, 0, 1, 2):
        way(client, ask(str(number)), None)
    with pytest.raises(BudgetExhausted):
        way(client, ask("one more"), None)
    assert len(lm.requests) == ceiling.calls == 3


def test_threads_together_never_pass_the_ceiling(make: Make) -> None:
    lm = Remote(*[failing(LMErrorKind.SERVER)] * 10)
    client = make(lm, ceiling=Ceiling(max_calls=20), gives_up=False)

    def tries(number: int) -> bool:
        try:
            client.complete(ask(str(number)))
        except (BudgetExhausted, LMError):
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tries, range(60)))
    assert len(lm.requests) == 20


@pytest.mark.parametrize("most", [1, 3, 16])
def test_no_more_attempts_at_once_than_allowed(make: Make, most: int) -> None:
    lm, background, may_start = Crowd(), BackgroundLoop(), Event()
    client = make(lm, max_concurrency=most, background=background)

    async def hold_the_loop() -> None:
        may_start.wait()  # blocks it on purpose: all calls below are to reach it at once

    async def session() -> None:
        tasks = [asyncio.create_task(client.acomplete(ask(str(number)))) for number in range(40)]
        await asyncio.sleep(0)
        may_start.set()
        await asyncio.gather(*tasks)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(background.run, hold_the_loop())
        asyncio.run(session())
    assert len(lm.requests) == 40
    assert lm.most == most


# --- what it took


def test_counters_add_up_what_attempts_took(make: Make, store: Store, way: Ask) -> None:
    usage = Usage(prompt_tokens=10, completion_tokens=2)
    client = make(Remote(*[Reply(text="yes", usage=usage, cost_usd=0.5)] * 2), store=store)
    for text in ("a", "b", "a"):
        way(client, ask(text), None)
    counters = client.counters
    assert (counters.calls, counters.attempts, counters.replayed) == (3, 2, 1)
    assert (counters.prompt_tokens, counters.completion_tokens) == (20, 4)
    assert (counters.cost_usd, counters.has_unknown_cost) == (1.0, False)


@pytest.mark.parametrize(
    ("answer", "is_unknown"),
    [
        (Reply(text="yes", cost_usd=0.0), False),
        (Reply(text="yes"), True),
        (failing(LMErrorKind.AUTH), False),  # refused: not on the bill
        (failing(LMErrorKind.MALFORMED), True),  # answered, and so perhaps on it; the second attempt is
        (ValueError("a bug in the model"), True),
    ],
)
def test_a_cost_is_unknown_where_nobody_knows_it(
    make: Make, way: Ask, answer: Reply | Exception, is_unknown: bool
) -> None:
    ceiling = Ceiling()
    client = make(Remote(answer), ceiling=ceiling)
    with suppress(LMError, ValueError):
        way(client, ask(), None)
    assert client.counters.has_unknown_cost is ceiling.has_unknown_cost is is_unknown


def test_a_failing_model_in_this_process_costs_nothing(make: Make, way: Ask) -> None:
    client = make(ScriptedLM([ValueError("a bug in the script")]))
    with pytest.raises(ValueError, match="a bug in the script"):
        way(client, ask(), None)
    assert (client.counters.attempts, client.counters.has_unknown_cost) == (1, False)


# --- threads and loops


def test_models_behind_a_network_live_on_one_loop(make: Make) -> None:
    lm = Remote()
    client = make(lm)
    for way in (in_thread, in_asyncio, in_trio):
        way(client, ask(way.__name__))
    client.close()
    assert lm.threads == {"promptopt-loop"}
    assert lm.is_closed


def test_a_closed_client_starts_anew(make: Make) -> None:
    client = make(Remote())
    for number in range(3):
        client.complete(ask(str(number)))
        client.close()
    assert client.counters.attempts == 3


def test_waiting_for_the_loop_on_the_loop_is_refused(make: Make) -> None:
    class Careless(Remote):
        async def acomplete(self, request: Request) -> Reply:
            return client.complete(ask("from inside"))

    client = make(Careless())
    with pytest.raises(RuntimeError, match="would wait for itself"):
        client.complete(ask())


def test_waiting_on_the_loop_for_a_call_under_way_is_refused(make: Make) -> None:
    class Circular(Remote):
        async def acomplete(self, request: Request) -> Reply:
            return client.complete(request)

    client = make(Circular())
    with pytest.raises(RuntimeError, match="would wait for itself"):
        client.complete(ask())


def test_waiting_on_the_loop_for_money_is_refused() -> None:
    class Dear:
        def complete(self, request: Request) -> Reply:
            return Reply(text="yes", cost_usd=0.05)

    class Asking(Remote):
        async def acomplete(self, request: Request) -> Reply:
            hold = ceiling.reserve(0.05)  # somebody else's, who is under way
            try:
                return client.complete(replace(request, model="dear"))
            finally:
                ceiling.settle(hold, 0.0)

    table = {"price": {"input": 0.0, "output": 10_000.0}}
    models = Catalog({name: {"model": f"remote/{name}", **table} for name in ("dear", "asking")})
    lms: dict[str, LM | AsyncLM] = {"dear": Dear(), "asking": Asking()}
    ceiling = Ceiling(max_cost_usd=0.15)
    client = Client(lm_for=lambda name: lms[name], store=None, ceiling=ceiling, models=models)
    with closing(client), pytest.raises(RuntimeError, match="would wait for itself"):
        client.complete(replace(ask(), model="asking", max_tokens=10))


def test_a_model_on_the_loop_may_ask_another_one(make: Make) -> None:
    class Delegating(Remote):
        async def acomplete(self, request: Request) -> Reply:
            text = request.messages[-1]["content"]
            return await client.acomplete(ask("inner")) if text == "outer" else Reply(text=text, cost_usd=0.0)

    client = make(Delegating())
    assert client.complete(ask("outer")).text == "inner"


# --- models that ask others while they answer


class Ensemble:
    """A model that asks another one three times at once, and says what most of them said."""

    def __init__(self, cost_usd: float | None = None) -> None:
        self.client: Client | None = None
        self.cost_usd = cost_usd

    async def acomplete(self, request: Request) -> Reply:
        assert self.client is not None
        text = request.messages[-1]["content"]
        votes = [self.client.acomplete(replace(ask(f"{text} {number}"), model="remote/inner")) for number in range(3)]
        return Reply(text=(await asyncio.gather(*votes))[0].text, cost_usd=self.cost_usd)


class Chooser:
    """A model in this process that asks another one."""

    client: Client

    def complete(self, request: Request) -> Reply:
        return self.client.complete(replace(request, model="remote/inner"))


def nested(outer: LM | AsyncLM, inner: LM | AsyncLM, ceiling: Ceiling, **settings: Any) -> Client:
    lms = {"remote/outer": outer, "remote/inner": inner}
    client = Client(lm_for=lambda name: lms[name], store=None, ceiling=ceiling, sleep=Pauses(), **settings)
    outer.client = client  # type: ignore[union-attr]
    return client


async def all_of(client: Client, calls: int) -> list[Reply | BaseException]:
    """The answers to that many calls at once; a wait for ever ends in a failure."""
    tasks = [client.acomplete(replace(ask(str(number)), model="remote/outer")) for number in range(calls)]
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), timeout=60)


@pytest.mark.parametrize("inner", [Remote, lambda: ScriptedLM([], default="yes")])
@pytest.mark.parametrize("outer", [Ensemble, lambda: Ensemble(0.01), Chooser])
@pytest.mark.parametrize("max_cost_usd", [None, 1.0])
def test_models_that_ask_others_get_their_answers_however_few_may_go_at_once(
    outer: Callable[[], Any], inner: Callable[[], LM | AsyncLM], max_cost_usd: float | None
) -> None:
    ceiling = Ceiling(max_calls=999, max_cost_usd=max_cost_usd)
    with closing(nested(outer(), inner(), ceiling, max_concurrency=2)) as client:
        answers = asyncio.run(all_of(client, 6))
    assert all(isinstance(answer, Reply) for answer in answers), answers


def test_a_model_that_asks_others_past_the_ceiling_is_refused_and_waits_for_nobody() -> None:
    price = {"price": {"input": 0.0, "output": 10_000.0}}
    models = Catalog({name: {"model": name, **price} for name in ("remote/inner", "remote/outer")})
    ceiling = Ceiling(max_cost_usd=60.0)  # holds one call, and not one inside it as well
    with closing(nested(Ensemble(0.0), Remote(), ceiling, models=models)) as client:
        answers = asyncio.run(all_of(client, 6))
    assert {type(answer) for answer in answers} <= {Reply, BudgetExhausted}
    assert BudgetExhausted in {type(answer) for answer in answers}
    assert ceiling.cost_usd <= 60.0


@pytest.mark.parametrize("is_same", [True, False])
def test_a_model_that_asks_itself_for_ever_is_told_so(make: Make, way: Ask, is_same: bool) -> None:
    class Circular(Remote):
        async def acomplete(self, request: Request) -> Reply:
            text = request.messages[-1]["content"]
            return await client.acomplete(ask(text if is_same else f"{text}!"))

    client = make(Circular())
    with pytest.raises(ModelError, match=r"remote/x asks itself while it answers.*name another model"):
        way(client, ask(), None)


def test_a_cancelled_wait_cancels_the_call(make: Make) -> None:
    lm = Held()
    client = make(lm)

    async def session() -> None:
        (task,) = await started(client, ask(), 1)
        await asyncio.to_thread(lm.entered.wait)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(lm.cancelled.wait)

    asyncio.run(session())
    assert lm.cancelled.is_set()
    lm.may_answer.set()


def test_a_loop_that_closes_ends_every_wait_and_no_metric_can_swallow_that() -> None:
    lm, background = Held(), BackgroundLoop()
    client = Client(lm_for=lambda _: lm, store=None, ceiling=Ceiling(), background=background)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.complete, ask())
        lm.entered.wait()
        background.close()
        lm.may_answer.set()
        ending = call.exception()
    assert isinstance(ending, asyncio.CancelledError)
    assert not isinstance(ending, Exception)


def test_a_timeout_of_the_coroutine_is_its_own() -> None:
    async def gives_up() -> None:
        raise TimeoutError("mine")

    with closing(BackgroundLoop()) as background, pytest.raises(TimeoutError, match="mine"):
        background.run(gives_up())


def run_python(code: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)


PRELUDE = """
import asyncio, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it runs in the background
from pytest_promptopt.lms.base import Reply, Request
from pytest_promptopt.lms.ceiling import Ceiling
from pytest_promptopt.lms.client import Client
request = Request(model="remote/x", messages=({"role": "user", "content": "hello"},))
"""
INTERRUPTED = (
    PRELUDE
    + """
from threading import Event
cancelled = Event()
class Endless:
    async def acomplete(self, request):
        print("asked", flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
client = Client(lm_for=lambda _: Endless(), store=None, ceiling=Ceiling())
try:
    client.complete(request)
except KeyboardInterrupt:
    print("out", cancelled.wait(timeout=10))
"""
)
FORKED_AMONG_PAYERS = (
    PRELUDE
    + """
from threading import Event, Thread
from pytest_promptopt.lms.models import Catalog
asked, parent = Event(), os.getpid()
class Endless:
    async def acomplete(self, request):
        if os.getpid() == parent:
            asked.set()
            await asyncio.Event().wait()
        return Reply(text="yes", cost_usd=0.01)
models = Catalog({"remote/x": {"model": "remote/x", "price": {"input": 0.0, "output": 100.0}}})
client = Client(lm_for=lambda _: Endless(), store=None, ceiling=Ceiling(max_cost_usd=0.5), models=models)
Thread(target=client.complete, args=(request,), daemon=True).start()
asked.wait()
Thread(target=client.complete, args=(Request(model="remote/x", messages=(), repeat=1),), daemon=True).start()
if child := os.fork():
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)
os._exit(7 if client.complete(request).text == "yes" else 1)
"""
)
FORKED = (
    PRELUDE
    + """
from threading import Event, Thread
asked, parent = Event(), os.getpid()
class Endless:
    async def acomplete(self, request):
        if os.getpid() == parent and not request.repeat:
            asked.set()
            await asyncio.Event().wait()
        return Reply(text="yes", cost_usd=0.0)
client = Client(lm_for=lambda _: Endless(), store=None, ceiling=Ceiling())
Thread(target=client.complete, args=(request,), daemon=True).start()
asked.wait()
if child := os.fork():
    again = Request(model="remote/x", messages=(), repeat=1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), client.complete(again).text, flush=True)
    os._exit(0)
os._exit(7 if client.complete(request).text == "yes" else 1)
"""
)


@pytest.mark.skipif(os.name != "posix", reason="SIGINT to a child")
def test_ctrl_c_gets_out_of_a_call_and_cancels_it() -> None:
    with run_python(INTERRUPTED) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate()[0] == "out True\n"


INTERRUPTED_AMONG_THREADS = (
    PRELUDE
    + """
from threading import Event, Thread
cancelled, endings = Event(), []
class Endless:
    def __init__(self):
        self.inside = 0
    async def acomplete(self, request):
        self.inside += 1
        if self.inside == 3:
            print("asked", flush=True)
        await asyncio.Event().wait()
client = Client(lm_for=lambda _, lm=Endless(): lm, store=None, ceiling=Ceiling())
def ask(repeat):
    try:
        client.complete(Request(model="remote/x", messages=(), repeat=repeat))
    except BaseException as ending:
        endings.append(type(ending).__name__)
        raise SystemExit
threads = [Thread(target=ask, args=(repeat,)) for repeat in (1, 2)]
for thread in threads:
    thread.start()
try:
    client.complete(request)
except KeyboardInterrupt:
    client.close()
    for thread in threads:
        thread.join()
    print(endings)
"""
)


@pytest.mark.skipif(os.name != "posix", reason="SIGINT to a child")
def test_after_ctrl_c_a_closed_client_lets_every_thread_go() -> None:
    with run_python(INTERRUPTED_AMONG_THREADS) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate()[0] == "['CancelledError', 'CancelledError']\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_both_sides_of_a_fork_go_on_calling_whatever_was_under_way() -> None:
    with run_python(FORKED) as process:
        assert process.communicate()[0] == "7 yes\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_forked_child_waits_for_no_money_that_its_parent_holds() -> None:
    with run_python(FORKED_AMONG_PAYERS) as process:
        assert process.communicate()[0] == "7\n"
