"""The one way from a prompt to a model: nothing is asked twice at once, paid twice, or called past a ceiling.

Outermost first: single flight, recordings, store, refusal to call in ``replay``, retry, limits on rate and concurrency,
ceiling, provider. A model inside this process is answered in the calling thread and never retried; one behind a network
is awaited on the background loop, in the lane of its model. Failures are never stored.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from itertools import count
from json import JSONEncoder
from json.encoder import encode_basestring
from random import Random
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeGuard, cast

from pytest_promptopt.errors import LMError, LMErrorKind, UnrecordedError, UsageError
from pytest_promptopt.lms.attempts import Attempts, cost_of_failure
from pytest_promptopt.lms.background import BackgroundLoop, awaited, result_of
from pytest_promptopt.lms.base import LM, AsyncLM, Message, Messages, Reply, Request, Usage
from pytest_promptopt.lms.bounds import Bounds, MostOutputTokensOf, PriceOf
from pytest_promptopt.lms.ceiling import Ceiling, Hold
from pytest_promptopt.lms.models import Catalog, ModelSettings
from pytest_promptopt.lms.nesting import Answering, outer_holds, refuse_endless_calls, refuse_waiting_for_oneself
from pytest_promptopt.lms.traffic import Traffic, given_up

if TYPE_CHECKING:
    from pytest_promptopt.lms.store import Store  # simulators and production need no database


class Mode(StrEnum):
    """Where replies may come from, and whether the recordings are to hold what was used."""

    AUTO = "auto"
    REPLAY = "replay"
    LIVE = "live"
    RECORD = "record"
    RERECORD = "rerecord"

    @property
    def reads_store(self) -> bool:
        """Whether a reply that was known before this run, recorded or in the store, may answer."""
        return self not in (Mode.LIVE, Mode.RERECORD)

    @property
    def writes_recordings(self) -> bool:
        """Whether what was used is recorded."""
        return self in (Mode.RECORD, Mode.RERECORD)


class Draw(NamedTuple):
    """One call of a model outside this process: its key, the request as that model sees it, and how it was answered.

    ``model`` is what the caller names the model, an alias or not. Without a ``reply`` it was not recorded, and nobody
    was asked. A tuple, because making a frozen dataclass for every call is felt in a replay.
    """

    key: str
    model: str
    request: Request
    reply: Reply | None


@dataclass(slots=True, kw_only=True, eq=False)
class Scope:
    """What all calls of one (row, repeat) share. Thread-safe.

    ``spend`` is called once for every logical call, before it is made or looked up; it may raise
    :class:`~pytest_promptopt.errors.BudgetExhausted`. A call is logical when its client is asked for that draw for the
    first time, whether a store knows the reply or not: what a run would pay for that started with nothing. ``calls``
    are all calls made so far, ``fresh`` the logical ones among them, ``replayed`` those that cost nothing now, and
    ``cost_usd`` is the sum of known costs of the others. ``fault`` is the first failure that is not about one request:
    whatever the code under test made of it, what it then returned is no score. ``recorded`` are the replies that its
    metric has in files, by key, and ``draws`` the calls that recordings are about.
    """

    repeat: int = 0
    spend: Callable[[], None] | None = None
    recorded: Mapping[str, Reply] = field(default_factory=dict, repr=False)
    calls: int = 0
    fresh: int = 0
    replayed: int = 0
    cost_usd: float = 0.0
    fault: LMError | None = None
    draws: list[Draw] = field(default_factory=list, repr=False)
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

    def blame(self, error: LMError) -> None:
        """Remember that a call failed, or was not recorded."""
        if isinstance(error, UnrecordedError) and isinstance(error.draw, Draw):
            self.draws.append(error.draw)
        if error.is_lasting or error.kind not in _ABOUT_ONE_REQUEST:
            self.fault = self.fault or error


_ABOUT_ONE_REQUEST = frozenset({LMErrorKind.CONTEXT_WINDOW, LMErrorKind.CONTENT_POLICY, LMErrorKind.BAD_REQUEST})
"""Refusals that would come again: a program may well have an answer to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What went through a client: ``calls`` were asked for, ``replayed`` of them cost nothing, ``attempts`` went out.

    Tokens and costs are those of attempts, never of replayed replies; ``unknown_costs`` counts the attempts that
    ``cost_usd`` leaves out, because nobody knows what they cost. ``handed_out`` are requests that somebody else's
    client makes.
    """

    calls: int = 0
    attempts: int = 0
    replayed: int = 0
    cost_usd: float = 0.0
    unknown_costs: int = 0
    handed_out: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def has_unknown_cost(self) -> bool:
        """Whether ``cost_usd`` is too low."""
        return self.unknown_costs > 0


def request_digest(request: Request) -> str:
    """SHA-256 over what decides a reply, as canonical JSON: the same on every machine and in every version.

    That is ``model``, ``messages``, ``parameters`` (``temperature``, and ``max_tokens`` when given), and ``endpoint``
    and ``schema`` (its text, unsorted) when given. Neither ``repeat`` nor ``ordinal``: they tell equal requests apart.
    """
    tail = _tail(request.model, request.temperature, request.max_tokens, request.schema)
    if type(request.messages) is Messages:
        return _digest_after(request.messages, request.endpoint, tail)
    text = _head(request.endpoint) + ",".join([_message_json(message) for message in request.messages]) + tail
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _parameters(temperature: float, max_tokens: int | None) -> dict[str, object]:
    parameters: dict[str, object] = {"temperature": float(temperature) + 0.0}  # so that -0.0 is 0.0
    return parameters if max_tokens is None else {**parameters, "max_tokens": max_tokens}


def _head(endpoint: str | None) -> str:
    """The start of the canonical JSON, up to the first message."""
    return '{"messages":[' if endpoint is None else f'{{"endpoint":{_canonical(endpoint)},"messages":['


@lru_cache(maxsize=256)
def _tail(model: str, temperature: float, max_tokens: int | None, schema: str | None) -> str:
    """The end of the canonical JSON, which all rows of a prompt share."""
    parameters = _canonical(_parameters(temperature, max_tokens))
    last = "" if schema is None else f',"schema":{schema}'  # as it is: a model writes properties in their order
    return f'],"model":{_canonical(model)},"parameters":{parameters}{last}}}'


def _digest_after(messages: Messages, endpoint: str | None, tail: str) -> str:
    """The same digest where everything in front of the last message was hashed before: a search asks by the row."""
    prefix = messages.prefix
    memo: Any = prefix.memo  # where the hash object was made for, and that object; nobody else writes it
    if memo is None or memo[0] != endpoint:
        start = _head(endpoint) + "".join([f"{_message_json(message)}," for message in prefix])
        memo = prefix.memo = (endpoint, sha256(start.encode("utf-8", "surrogatepass")))
    digest = memo[1].copy()
    digest.update((_message_json(messages[-1]) + tail).encode("utf-8", "surrogatepass"))
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

    ``models`` says what names stand for, and ``lm_for`` finds what answers for a name. ``store=None`` keeps nothing;
    what is kept there is said as ``redact`` says it.
    ``price_of`` and ``most_output_tokens`` tell what a model's tokens cost and how many it writes, so that the ceiling
    on money holds. ``gives_up`` lets a model be given up for good once it cannot be reached; a process that serves for
    weeks goes on asking. ``counts_offline`` lets models inside this process use up a ceiling on calls like any other.
    ``rng`` draws the jitter between attempts, ``sleep`` waits pauses out and ``clock`` counts the
    seconds of a minute's limits.
    """

    def __init__(
        self,
        *,
        lm_for: Callable[[str], LM | AsyncLM],
        store: Store | None,
        ceiling: Ceiling,
        models: Catalog | None = None,
        mode: Mode = Mode.AUTO,
        max_concurrency: int = 16,
        gives_up: bool = True,
        counts_offline: bool = True,
        price_of: PriceOf | None = None,
        most_output_tokens: MostOutputTokensOf | None = None,
        redact: Callable[[str], str] | None = None,
        background: BackgroundLoop | None = None,
        rng: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.mode = mode
        self._lm_for = lm_for
        self._store = store
        self._redact = redact
        self._renewed: set[str] = set()  # what ``rerecord`` has called anew: asked again, it is the same reply
        self._ceiling = ceiling
        self._background = background or BackgroundLoop()
        self._models = models or Catalog()
        self._counts_offline = counts_offline
        self._bounds = Bounds(price_of, most_output_tokens)
        self._attempts = Attempts(
            ceiling=ceiling,
            settle=self._settle,
            make_traffic=lambda: Traffic(max_concurrency=max_concurrency, clock=clock, sleep=sleep),
            rng=rng or Random(),
            gives_up=gives_up,
            check=self._check_store,
        )
        self._store_fault: UsageError | None = None
        self._given_up: dict[str, LMError] = {}  # models that answer in the thread that asks
        self._gives_up = gives_up
        self._lock = Lock()
        self._pid = os.getpid()
        self._flights: dict[str, _Flight] = {}
        self._draws = count()
        self._asked: set[str] = set()
        self._tally = _Tally()

    def complete(self, request: Request, scope: Scope | None = None) -> Reply:
        """Answer ``request``, waiting in this thread.

        Raises :class:`~pytest_promptopt.errors.LMError` when the model does not answer, ``UnrecordedError`` when it may
        not be asked, ``BudgetExhausted`` when a ceiling is reached, and ``ModelError`` for an unknown model.
        """
        try:
            return self._complete(request, scope)
        except LMError as error:
            if scope is not None:
                scope.blame(error)
            raise

    def _complete(self, request: Request, scope: Scope | None) -> Reply:
        settings = self._models.find(request.model)
        refuse_endless_calls(settings.name)
        request, key = self._identify(request, settings, scope)
        lm = self._lm_for(settings.name)
        self._tally.add_call(self._lock)
        while True:
            flight, landing = self._board(key)
            if landing is not None:
                self._background.refuse_waiting_here()
                refuse_waiting_for_oneself(settings.name, request)
                reply = self._shared(result_of(landing))
            else:
                try:
                    reply = self._answer_here(lm, settings, request, flight, scope)
                    if reply is None:
                        reply = self._background.run(self._fly(lm, settings, request, flight))
                finally:
                    self._land(flight, None)
            if reply is not None:
                return _noted(reply, scope, lm, settings, request, key)

    async def acomplete(self, request: Request, scope: Scope | None = None) -> Reply:
        """Answer ``request``, awaited in any asyncio loop; otherwise as :meth:`complete`."""
        try:
            return await self._acomplete(request, scope)
        except LMError as error:
            if scope is not None:
                scope.blame(error)
            raise

    async def _acomplete(self, request: Request, scope: Scope | None) -> Reply:
        settings = self._models.find(request.model)
        refuse_endless_calls(settings.name)
        request, key = self._identify(request, settings, scope)
        lm = self._lm_for(settings.name)
        self._tally.add_call(self._lock)
        while True:
            flight, landing = self._board(key)
            if landing is not None:
                refuse_waiting_for_oneself(settings.name, request)
                reply = self._shared(await awaited(landing))
            else:
                try:
                    reply = self._answer_here(lm, settings, request, flight, scope)
                    if reply is None:
                        reply = await self._background.arun(self._fly(lm, settings, request, flight))
                finally:
                    self._land(flight, None)
            if reply is not None:
                return _noted(reply, scope, lm, settings, request, key)

    def identify(self, request: Request) -> tuple[Request, str]:
        """The request as its model sees it, alias resolved, and the key that its reply is looked up by."""
        return self._identify(request, self._models.find(request.model), None)

    def hand_out(self) -> None:
        """Count a request that somebody else's client makes: nothing else can be done about it here."""
        with self._lock:
            self._tally.handed_out += 1

    @property
    def counters(self) -> Counters:
        """What went through this client so far."""
        with self._lock:
            return self._tally.read()

    def close(self) -> None:
        """Close connections, cancel what is under way, stop the background loop and let go of the store."""
        if self._pid != os.getpid():
            self._forget_parent()
        if self._attempts.is_used:
            self._background.run(self._attempts.hang_up())
        self._background.close()
        self._store_fault, self._given_up = None, {}
        if self._store is not None:
            self._store.close()

    def _identify(self, request: Request, settings: ModelSettings, scope: Scope | None) -> tuple[Request, str]:
        """The request as its model sees it, alias resolved, repeat and ordinal filled in, and the key of its reply."""
        if self._pid != os.getpid():
            self._forget_parent()  # before any lock is asked for
        if settings.model != request.model or (settings.base_url is not None and request.endpoint is None):
            request = replace(request, model=settings.model, endpoint=request.endpoint or settings.base_url)
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

    def _answer_here(
        self, lm: LM | AsyncLM, settings: ModelSettings, request: Request, flight: _Flight, scope: Scope | None
    ) -> Reply | None:
        """Answer from what is known or inside this process; ``None`` when the network must be asked."""
        try:
            reply = self._known_reply(lm, settings, request, flight.key, scope)
            if reply is None and _answers_in_thread(lm):
                reply = self._ask(lm, settings, request, flight.key)
        except LMError as error:
            self._land(flight, error)
            raise
        if reply is not None:
            self._land(flight, reply)
        return reply

    def _known_reply(
        self, lm: LM | AsyncLM, settings: ModelSettings, request: Request, key: str, scope: Scope | None
    ) -> Reply | None:
        reply = self._look_up(key, scope)
        if reply is not None:
            self._tally.add_replayed(self._lock)
        elif self.mode is Mode.REPLAY and not _is_offline(lm):
            raise _unrecorded(Draw(key=key, model=settings.name, request=request, reply=None))
        else:
            self._check_store()
        return reply

    def _look_up(self, key: str, scope: Scope | None) -> Reply | None:
        """The reply that is recorded, else the one in the store, as far as the mode lets them answer."""
        if self.mode.reads_store:
            reply = None if scope is None else scope.recorded.get(key)
            return reply or (None if self._store is None else self._store.get(key))
        if self._store is not None:
            if key in self._renewed:
                return self._store.get(key)
            self._store.prepare()
        return None

    def _check_store(self) -> None:
        """Raise ``UsageError`` once a reply could not be kept: what is paid for from then on would be lost."""
        if self._store_fault is not None:
            raise UsageError(str(self._store_fault)) from self._store_fault

    def _ask(self, lm: LM, settings: ModelSettings, request: Request, key: str) -> Reply:
        """One attempt in this thread."""
        is_offline = _is_offline(lm)
        bound = self._bounds.find(settings, is_offline=is_offline)
        if settings.name in self._given_up:
            raise given_up(self._given_up[settings.name])
        bound_usd, outer = bound.cost_usd(request), outer_holds()
        is_counted = self._counts_offline or not is_offline
        hold = self._ceiling.try_reserve(bound_usd, outer=outer, is_counted=is_counted)
        if hold is None:
            self._background.refuse_waiting_here()  # what is waited for may happen on this very thread
            hold = self._ceiling.reserve(bound_usd, outer=outer, is_counted=is_counted)
        try:
            if is_offline:
                reply = lm.complete(request)  # a simulator asks nobody
            else:
                with Answering(model=settings.name, request=request, hold=hold):
                    reply = lm.complete(request)
        except BaseException as error:
            self._settle(hold, 0.0 if is_offline else cost_of_failure(error))
            if self._gives_up and isinstance(error, LMError) and error.is_lasting:
                self._given_up[settings.name] = error
            raise
        self._settle(hold, reply.cost_usd, reply.usage)
        bound.learn(request, reply)
        self._keep(key, reply, request)
        return reply

    async def _fly(self, lm: LM | AsyncLM, settings: ModelSettings, request: Request, flight: _Flight) -> Reply:
        """All attempts, on the background loop; lands the flight there, whatever became of those who wait."""
        behind_network = cast("AsyncLM", lm)  # all others have answered in their thread
        outcome: _Outcome = None
        try:
            bound = self._bounds.find(settings, is_offline=_is_offline(lm))
            outcome = await self._attempts.answer(behind_network, settings, request, bound)
            await self._akeep(flight.key, outcome, request)
            return outcome
        except LMError as error:
            outcome = error
            raise
        finally:
            self._land(flight, outcome)

    def _keep(self, key: str, reply: Reply, request: Request) -> None:
        """Store ``reply``. One that cannot be stored still reaches who asked for it, and is the last."""
        if self._store is not None:
            try:
                self._store.put(key, self._as_kept(reply), request)
                self._note_renewed(key)
            except UsageError as error:
                self._store_fault = error

    async def _akeep(self, key: str, reply: Reply, request: Request) -> None:
        """As :meth:`_keep`, on the loop, which goes on while another process holds the store."""
        if self._store is not None:
            try:
                await self._store.aput(key, self._as_kept(reply), request)
                self._note_renewed(key)
            except UsageError as error:
                self._store_fault = error

    def _as_kept(self, reply: Reply) -> Reply:
        """``reply`` as files may hold it."""
        text = reply.text if self._redact is None else self._redact(reply.text)
        return reply if text == reply.text else replace(reply, text=text)

    def _note_renewed(self, key: str) -> None:
        if self.mode is Mode.RERECORD:
            with self._lock:
                self._renewed.add(key)

    def _settle(self, hold: Hold, cost_usd: float | None, usage: Usage | None = None) -> None:
        self._ceiling.settle(hold, cost_usd)
        self._tally.add_attempt(self._lock, cost_usd, usage)

    def _forget_parent(self) -> None:
        """After a fork: the threads that led these flights, or held a lock, exist in the parent only."""
        self._lock, self._flights, self._pid = Lock(), {}, os.getpid()
        for shared in (self._ceiling, self._bounds, self._attempts):
            shared.leave_to_parent()


class _Tally:
    """The client's counters while they grow."""

    __slots__ = tuple(field.name for field in fields(Counters))

    def __init__(self) -> None:
        self.calls = self.attempts = self.replayed = self.unknown_costs = self.handed_out = 0
        self.prompt_tokens = self.completion_tokens = 0
        self.cost_usd = 0.0

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
                self.unknown_costs += 1
            else:
                self.cost_usd += cost_usd
            if usage is not None:
                self.prompt_tokens += usage.prompt_tokens
                self.completion_tokens += usage.completion_tokens

    def read(self) -> Counters:
        return Counters(**{name: getattr(self, name) for name in self.__slots__})


def _answers_in_thread(lm: LM | AsyncLM) -> TypeGuard[LM]:
    return hasattr(lm, "complete")  # isinstance of a protocol costs more than the whole rest of the way


def _is_offline(lm: LM | AsyncLM) -> bool:
    return bool(getattr(lm, "is_offline", False))


def _noted(
    reply: Reply, scope: Scope | None, lm: LM | AsyncLM, settings: ModelSettings, request: Request, key: str
) -> Reply:
    if scope is not None:
        scope.note(reply)
        if not _is_offline(lm):
            scope.draws.append(Draw(key=key, model=settings.name, request=request, reply=reply))
    return reply


def _unrecorded(draw: Draw) -> UnrecordedError:
    request, model = draw.request, draw.model
    asked = " ".join(str(request.messages[-1]["content"]).split())[:80] if request.messages else ""
    who = f"{request.prompt}: no" if request.prompt else "No"
    return UnrecordedError(
        f"{who} reply of {model} is recorded for the request that ends {asked!r}, and this run makes no calls. "
        "To call the model and record what it answers: pytest --prompt-lm record",
        draw=draw,
    )
