"""The one way from a prompt to a model: nothing is asked twice at once, paid twice, or called past a ceiling.

Outermost first: single flight, store, refusal to call in ``replay``, ceiling, limit on concurrency, retry, provider.
A model inside this process is answered in the calling thread and never retried; one behind a network is awaited on the
background loop, at most ``max_concurrency`` at a time. Failures are never stored.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from itertools import count
from json import JSONEncoder
from json.encoder import encode_basestring
from random import Random
from threading import Lock
from typing import Any, TypeAlias, TypeGuard, cast

from pytest_promptopt.errors import LMError, LMErrorKind, UnrecordedError
from pytest_promptopt.lms.background import BackgroundLoop, awaited, result_of
from pytest_promptopt.lms.base import LM, AsyncLM, Message, Messages, Reply, Request, Usage
from pytest_promptopt.lms.ceiling import Ceiling
from pytest_promptopt.lms.store import Store

MAX_ATTEMPTS = 4
MAX_PAUSE_SECONDS = 60.0


class Mode(StrEnum):
    """Where replies may come from. So far ``record`` behaves as ``auto``, and ``rerecord`` as ``live``."""

    AUTO = "auto"
    REPLAY = "replay"
    LIVE = "live"
    RECORD = "record"
    RERECORD = "rerecord"

    @property
    def reads_store(self) -> bool:
        """Whether a reply that is already known may answer."""
        return self not in (Mode.LIVE, Mode.RERECORD)


@dataclass(slots=True, kw_only=True, eq=False)
class Scope:
    """What all calls of one (row, repeat) share. Thread-safe.

    ``spend`` is called once for every logical call, before it is made or looked up; it may raise
    :class:`~pytest_promptopt.errors.BudgetExhausted`. A call is logical when its client is asked for that draw for the
    first time, whether a store knows the reply or not: what a run would pay for that started with nothing. ``calls``
    are all calls made so far, ``fresh`` the logical ones among them, ``replayed`` those that cost nothing now, and
    ``cost_usd`` is the sum of known costs of the others.
    """

    repeat: int = 0
    spend: Callable[[], None] | None = None
    calls: int = 0
    fresh: int = 0
    replayed: int = 0
    cost_usd: float = 0.0
    _ordinals: dict[str, int] = field(default_factory=dict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def ordinal(self, digest: str) -> int:
        """How many identical requests came before this one: 0, 1, 2, … Counts the call."""
        with self._lock:
            self.calls += 1
            ordinal = self._ordinals.get(digest, 0)
            self._ordinals[digest] = ordinal + 1
            return ordinal

    def note(self, reply: Reply) -> None:
        """Add what an answered call took."""
        with self._lock:
            if reply.is_replayed:
                self.replayed += 1
            elif reply.cost_usd is not None:
                self.cost_usd += reply.cost_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What went through a client: ``calls`` were asked for, ``replayed`` of them cost nothing, ``attempts`` went out.

    Tokens and costs are those of attempts, never of replayed replies; unknown costs are left out and flagged.
    """

    calls: int = 0
    attempts: int = 0
    replayed: int = 0
    cost_usd: float = 0.0
    has_unknown_cost: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0


def request_digest(request: Request) -> str:
    """SHA-256 over what decides a reply, as canonical JSON: the same on every machine and in every version.

    That is ``model``, ``messages``, ``parameters`` (``temperature``, and ``max_tokens`` when given), and ``endpoint``
    and ``schema`` when given. Neither ``repeat`` nor ``ordinal``: they tell equal requests apart.
    """
    if type(request.messages) is Messages and request.endpoint is None and request.schema is None:
        return _digest_after(request.messages, request)
    parameters = _parameters(request.temperature, request.max_tokens)
    content: dict[str, object] = {"model": request.model, "messages": request.messages, "parameters": parameters}
    if request.endpoint is not None:
        content["endpoint"] = request.endpoint
    if request.schema is not None:
        content["schema"] = request.schema
    return sha256(_canonical(content).encode("utf-8", "surrogatepass")).hexdigest()


def _parameters(temperature: float, max_tokens: int | None) -> dict[str, object]:
    parameters: dict[str, object] = {"temperature": float(temperature) + 0.0}  # so that -0.0 is 0.0
    return parameters if max_tokens is None else {**parameters, "max_tokens": max_tokens}


@lru_cache(maxsize=256)
def _tail(model: str, temperature: float, max_tokens: int | None) -> str:
    """The end of the canonical JSON, which all rows of a prompt share."""
    return f'],"model":{_canonical(model)},"parameters":{_canonical(_parameters(temperature, max_tokens))}}}'


def _digest_after(messages: Messages, request: Request) -> str:
    """The same digest where everything in front of the last message was hashed before: a search asks by the row."""
    prefix = messages.prefix
    state = prefix.memo
    if state is None:
        start = '{"messages":[' + "".join(f"{_canonical(message)}," for message in prefix)
        state = prefix.memo = sha256(start.encode("utf-8", "surrogatepass"))
    digest: Any = state.copy()  # type: ignore[attr-defined]  # a hash object; nobody else writes the memo
    rest = _message_json(messages[-1]) + _tail(request.model, request.temperature, request.max_tokens)
    digest.update(rest.encode("utf-8", "surrogatepass"))
    return str(digest.hexdigest())


def _message_json(message: Message) -> str:
    """The canonical JSON of one message; written out, because a JSON encoder costs as much as the rest of a digest."""
    if len(message) != 2 or type(message.get("role")) is not str or type(message.get("content")) is not str:
        return _canonical(message)
    return f'{{"content":{encode_basestring(message["content"])},"role":{encode_basestring(message["role"])}}}'


def request_key(digest: str, repeat: int, ordinal: int) -> str:
    """What one draw is stored under: the request, the repeat of its row, and its ordinal within that."""
    return f"{digest}-{repeat}-{ordinal}"


def _as_dict(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a request may hold JSON values only, not {type(value).__name__}")


_canonical = JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_as_dict).encode

_Outcome: TypeAlias = "Reply | LMError | None"


class _Flight:
    """One key on its way; those who ask for it meanwhile wait for how it ends (``None``: it did not, ask yourself)."""

    __slots__ = ("key", "landing")

    def __init__(self, key: str) -> None:
        self.key = key
        self.landing: Future[_Outcome] | None = None  # made by the first who waits: most keys are asked for once


class Client:
    """Asks models on behalf of prompts. Thread-safe; one for a whole run.

    ``lm_for`` finds the model, ``store=None`` keeps nothing, ``rng`` draws the jitter between attempts and ``sleep``
    waits them out.
    """

    def __init__(
        self,
        *,
        lm_for: Callable[[str], LM | AsyncLM],
        store: Store | None,
        ceiling: Ceiling,
        mode: Mode = Mode.AUTO,
        max_concurrency: int = 16,
        background: BackgroundLoop | None = None,
        rng: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.mode = mode
        self._lm_for = lm_for
        self._store = store
        self._known = store if mode.reads_store else None
        self._ceiling = ceiling
        self._background = background or BackgroundLoop()
        self._slots = _Slots(max_concurrency)
        self._rng = rng or Random()
        self._sleep = sleep
        self._lock = Lock()
        self._pid = os.getpid()
        self._flights: dict[str, _Flight] = {}
        self._draws = count()
        self._asked: set[str] = set()
        self._tally = _Tally()
        self._behind_network: dict[int, AsyncLM] = {}

    def complete(self, request: Request, scope: Scope | None = None) -> Reply:
        """Answer ``request``, waiting in this thread.

        Raises :class:`~pytest_promptopt.errors.LMError` when the model does not answer, ``UnrecordedError`` when it may
        not be asked, ``BudgetExhausted`` when a ceiling is reached, and ``ModelError`` for an unknown model.
        """
        request, key = self._identify(request, scope)
        lm = self._lm_for(request.model)
        self._tally.add_call(self._lock)
        while True:
            flight, landing = self._board(key)
            if landing is not None:
                reply = self._shared(result_of(landing))
            else:
                try:
                    reply = self._answer_here(lm, request, flight)
                    if reply is None:
                        reply = self._background.run(self._fly(lm, request, flight))
                finally:
                    self._land(flight, None)
            if reply is not None:
                return _noted(reply, scope)

    async def acomplete(self, request: Request, scope: Scope | None = None) -> Reply:
        """Answer ``request``, awaited in any asyncio loop; otherwise as :meth:`complete`."""
        request, key = self._identify(request, scope)
        lm = self._lm_for(request.model)
        self._tally.add_call(self._lock)
        while True:
            flight, landing = self._board(key)
            if landing is not None:
                reply = self._shared(await awaited(landing))
            else:
                try:
                    reply = self._answer_here(lm, request, flight)
                    if reply is None:
                        reply = await self._background.arun(self._fly(lm, request, flight))
                finally:
                    self._land(flight, None)
            if reply is not None:
                return _noted(reply, scope)

    @property
    def counters(self) -> Counters:
        """What went through this client so far."""
        with self._lock:
            return self._tally.read()

    def close(self) -> None:
        """Close connections, cancel what is under way, stop the background loop and let go of the store."""
        if self._behind_network:
            self._background.run(self._hang_up())
        self._background.close()
        if self._store is not None:
            self._store.close()

    def _identify(self, request: Request, scope: Scope | None) -> tuple[Request, str]:
        """The request as its model sees it, repeat and ordinal filled in, and the key of its reply."""
        if scope is None:
            key = request_key(request_digest(request), request.repeat, request.ordinal)
            if self._store is None and request.temperature > 0:
                key = f"{key}-{next(self._draws)}"  # nobody counts ordinals here, and two samples are two calls
            return request, key
        digest = request_digest(request)
        ordinal = scope.ordinal(digest)
        if request.repeat != scope.repeat or request.ordinal != ordinal:
            request = replace(request, repeat=scope.repeat, ordinal=ordinal)
        key = request_key(digest, scope.repeat, ordinal)
        self._spend_once(key, scope)
        return request, key

    def _spend_once(self, key: str, scope: Scope) -> None:
        """Let ``scope`` spend on a draw that nobody asked this client for before; one refused was not asked for."""
        with self._lock:
            if key in self._asked:
                return
            if scope.spend is not None:
                scope.spend()
            self._asked.add(key)
        scope.fresh += 1

    def _board(self, key: str) -> tuple[_Flight, Future[_Outcome] | None]:
        """The flight for ``key``, and where to wait for it; ``None`` when it is the caller who leads it."""
        if self._pid != os.getpid():
            self._forget_parent()
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                self._flights[key] = flight = _Flight(key)
                return flight, None
            if flight.landing is None:
                flight.landing = Future()
            return flight, flight.landing

    def _land(self, flight: _Flight, outcome: _Outcome) -> None:
        """Let those who wait have ``outcome``; only the first landing of a flight counts."""
        with self._lock:
            if self._flights.get(flight.key) is not flight:
                return
            del self._flights[flight.key]
        if flight.landing is not None:
            flight.landing.set_result(outcome)

    def _shared(self, outcome: _Outcome) -> Reply | None:
        """What a flight led by somebody else brought; the reply cost nothing to those who waited for it."""
        if isinstance(outcome, LMError):
            raise outcome
        if outcome is None:
            return None
        self._tally.add_replayed(self._lock)
        return replace(outcome, is_replayed=True)

    def _answer_here(self, lm: LM | AsyncLM, request: Request, flight: _Flight) -> Reply | None:
        """Answer from the store or inside this process; ``None`` when the network must be asked."""
        try:
            reply = self._recorded(lm, request, flight.key)
            if reply is None and _answers_in_thread(lm):
                reply = self._ask(lm, request, flight.key)
        except LMError as error:
            self._land(flight, error)
            raise
        if reply is not None:
            self._land(flight, reply)
        return reply

    def _recorded(self, lm: LM | AsyncLM, request: Request, key: str) -> Reply | None:
        reply = None
        if self._known is not None:
            reply = self._known.get(key)
        elif self._store is not None:
            self._store.prepare()
        if reply is not None:
            self._tally.add_replayed(self._lock)
        elif self.mode is Mode.REPLAY and not _is_offline(lm):
            raise _unrecorded(request)
        return reply

    def _ask(self, lm: LM, request: Request, key: str) -> Reply:
        """One attempt in this thread."""
        is_offline = _is_offline(lm)
        self._ceiling.reserve(is_free=is_offline)
        try:
            reply = lm.complete(request)
        except BaseException as error:
            self._settle(0.0 if is_offline else _cost_of_failure(error))
            raise
        return self._keep(reply, request, key)

    async def _fly(self, lm: LM | AsyncLM, request: Request, flight: _Flight) -> Reply:
        """All attempts, on the background loop; lands the flight there, whatever became of those who wait."""
        behind_network = cast("AsyncLM", lm)  # all others have answered in their thread
        self._behind_network[id(lm)] = behind_network
        outcome: _Outcome = None
        try:
            outcome = await self._attempt_often(behind_network, request, flight.key)
            return outcome
        except LMError as error:
            outcome = error
            raise
        finally:
            self._land(flight, outcome)

    async def _hang_up(self) -> None:
        """Let models that keep connections (they have ``aclose``) close them on the loop that made them."""
        for lm in list(self._behind_network.values()):
            if (aclose := getattr(lm, "aclose", None)) is not None:
                await aclose()
        self._behind_network.clear()

    async def _attempt_often(self, lm: AsyncLM, request: Request, key: str) -> Reply:
        for attempt in range(1, MAX_ATTEMPTS):
            try:
                return await self._attempt(lm, request, key)
            except LMError as error:
                if error.kind not in _TRANSIENT:
                    raise
                pause_seconds = _pause_seconds(error, attempt, self._rng)
            await self._sleep(pause_seconds)
        return await self._attempt(lm, request, key)

    async def _attempt(self, lm: AsyncLM, request: Request, key: str) -> Reply:
        """One attempt. The ceiling is asked with a slot in hand: what waits for one has not been paid for."""
        async with self._slots.of_this_loop():
            self._ceiling.reserve(is_free=_is_offline(lm))
            try:
                reply = await lm.acomplete(request)
            except BaseException as error:
                self._settle(_cost_of_failure(error))
                raise
        return self._keep(reply, request, key)

    def _keep(self, reply: Reply, request: Request, key: str) -> Reply:
        self._settle(reply.cost_usd, reply.usage)
        if self._store is not None:
            self._store.put(key, reply, request)
        return reply

    def _settle(self, cost_usd: float | None, usage: Usage | None = None) -> None:
        self._ceiling.settle(cost_usd)
        self._tally.add_attempt(self._lock, cost_usd, usage)

    def _forget_parent(self) -> None:
        """After a fork: the threads that led these flights, or held the lock, exist in the parent only."""
        self._lock, self._flights, self._behind_network, self._pid = Lock(), {}, {}, os.getpid()


class _Tally:
    """The client's counters while they grow."""

    __slots__ = ("attempts", "calls", "completion_tokens", "cost_usd", "has_unknown_cost", "prompt_tokens", "replayed")

    def __init__(self) -> None:
        self.calls = self.attempts = self.replayed = self.prompt_tokens = self.completion_tokens = 0
        self.cost_usd = 0.0
        self.has_unknown_cost = False

    def add_call(self, lock: Lock) -> None:
        with lock:
            self.calls += 1

    def add_replayed(self, lock: Lock) -> None:
        with lock:
            self.replayed += 1

    def add_attempt(self, lock: Lock, cost_usd: float | None, usage: Usage | None) -> None:
        with lock:
            self.attempts += 1
            if cost_usd is None:
                self.has_unknown_cost = True
            else:
                self.cost_usd += cost_usd
            if usage is not None:
                self.prompt_tokens += usage.prompt_tokens
                self.completion_tokens += usage.completion_tokens

    def read(self) -> Counters:
        return Counters(**{name: getattr(self, name) for name in self.__slots__})


class _Slots:
    """As many attempts at once as allowed, on whichever loop runs now: after a fork it is another one."""

    def __init__(self, max_concurrency: int) -> None:
        self._max_concurrency = max_concurrency
        self._loop: asyncio.AbstractEventLoop | None = None
        self._semaphore = asyncio.Semaphore(max_concurrency)

    def of_this_loop(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._semaphore = loop, asyncio.Semaphore(self._max_concurrency)
        return self._semaphore


_TRANSIENT = frozenset({LMErrorKind.RATE_LIMIT, LMErrorKind.TIMEOUT, LMErrorKind.SERVER})
_MAYBE_BILLED = frozenset({LMErrorKind.TIMEOUT, LMErrorKind.MALFORMED})


def _pause_seconds(error: LMError, attempt: int, rng: Random) -> float:
    """What the provider asked for, else half a second, doubled each time, with jitter so that callers spread out."""
    jittered_seconds: float = 0.5 * 2 ** (attempt - 1) * rng.uniform(0.5, 1.5)
    return min(MAX_PAUSE_SECONDS, max(jittered_seconds, error.retry_after_seconds or 0.0))


def _cost_of_failure(error: BaseException) -> float | None:
    """A request that the provider refused is free; one that was cut off may still be on the bill."""
    return 0.0 if isinstance(error, LMError) and error.kind not in _MAYBE_BILLED else None


def _answers_in_thread(lm: LM | AsyncLM) -> TypeGuard[LM]:
    return hasattr(lm, "complete")  # isinstance of a protocol costs more than the whole rest of the way


def _is_offline(lm: LM | AsyncLM) -> bool:
    return bool(getattr(lm, "is_offline", False))


def _noted(reply: Reply, scope: Scope | None) -> Reply:
    if scope is not None:
        scope.note(reply)
    return reply


def _unrecorded(request: Request) -> UnrecordedError:
    asked = " ".join(request.messages[-1]["content"].split())[:80] if request.messages else ""
    return UnrecordedError(
        f"No reply of {request.model} is recorded for the request that ends {asked!r}, and this run makes no calls. "
        "To call the model and record what it answers: pytest --prompt-lm record"
    )
