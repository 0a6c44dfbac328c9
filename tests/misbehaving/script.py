"""What a misbehaving server does, and when: rules that a test writes down, and the judge that picks one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from threading import Lock
from typing import Any

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What the server ``does`` (a name of :data:`~tests.misbehaving.answers.BEHAVIOURS`), when, and how.

    All conditions that are given must hold. ``key``, ``model``, ``contains`` (a text in any message) and ``parameter``
    (sent in the body) say which requests a rule is about; the numbers count those alone, from 1: these ``numbers``,
    ``every`` n-th, a ``share`` of them (by the script's seed and the number), those ``after`` the k-th, those ``until``
    the k-th. ``tries`` holds for the first so many times that one and the same body comes, ``in_flight_above`` while
    more requests than that are being answered, this one included.

    ``latency_seconds`` is waited first, on top of the script's own. ``retry_after`` is sent as it stands,
    ``retry_after_ms`` in OpenAI's header, ``retry_after_date_seconds`` as the date so far ahead. ``at`` is the byte of
    the whole response, head included, before which a connection is cut (by default in the middle of its body),
    ``pause_seconds`` the time between the pieces of a slow body. ``text`` replaces the answer, ``message`` and ``code``
    what an error says.
    """

    does: str
    key: str | None = None
    model: str | None = None
    contains: str | None = None
    parameter: str | None = None
    numbers: tuple[int, ...] | None = None
    every: int | None = None
    share: float | None = None
    after: int | None = None
    until: int | None = None
    tries: int | None = None
    in_flight_above: int | None = None
    latency_seconds: float = 0.0
    retry_after: str | None = None
    retry_after_ms: int | None = None
    retry_after_date_seconds: float | None = None
    at: int | None = None
    pause_seconds: float = 0.02
    text: str | None = None
    message: str | None = None
    code: str | None = None

    def is_about(self, key: str, body: Body) -> bool:
        """Whether the rule's numbers count this request."""
        return (
            self.key in (None, key)
            and self.model in (None, body.get("model"))
            and (self.parameter is None or self.parameter in body)
            and (self.contains is None or any(self.contains in str(each.get("content")) for each in body["messages"]))
        )

    def holds(self, number: int, *, tries: int, in_flight: int, draw: float) -> bool:
        """Whether the rule takes the ``number``-th request it is about; ``draw`` is that one's lot in [0, 1)."""
        return (
            (self.numbers is None or number in self.numbers)
            and (self.every is None or number % self.every == 0)
            and (self.share is None or draw < self.share)
            and (self.after is None or number > self.after)
            and (self.until is None or number <= self.until)
            and (self.tries is None or tries <= self.tries)
            and (self.in_flight_above is None or in_flight > self.in_flight_above)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What to answer where ``last`` stands in the last message and ``earlier`` in one before it; empty, anywhere."""

    says: str
    last: str = ""
    earlier: str = ""

    def fits(self, contents: Sequence[str]) -> bool:
        """Whether this is the answer to messages of these ``contents``."""
        *before, last = contents
        return self.last in last and (not self.earlier or any(self.earlier in content for content in before))


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A server's whole behaviour: the first rule that holds decides, and without one a request is answered well.

    The first of ``replies`` that fits is the answer; where none does, the offline simulator ``brain`` answers. Every
    request takes ``latency_seconds`` and up to ``spread_seconds`` more.
    """

    rules: tuple[Rule, ...] = ()
    seed: int = 0
    brain: str = "offline/keyword"
    replies: tuple[Told, ...] = ()
    latency_seconds: float = 0.0
    spread_seconds: float = 0.0

    def to_json(self) -> str:
        """The script as the server's command line takes it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Script:
        """Read it back. Raises ``ValueError`` for a key that nobody knows."""
        values = _known(Script, json.loads(text))
        rules = (_known(Rule, rule) for rule in values.pop("rules", ()))
        replies = tuple(Told(**_known(Told, told)) for told in values.pop("replies", ()))
        return cls(rules=tuple(Rule(**{**rule, **_numbers(rule)}) for rule in rules), replies=replies, **values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What becomes of one request: its number, the ``rule`` that takes it (``None``: all is well), its own delay."""

    number: int
    rule: Rule | None
    delay_seconds: float

    @property
    def behaviour(self) -> str:
        """The name it is logged under."""
        return self.rule.does if self.rule else "answer"


class Judge:
    """Counts requests and picks the rule for each; the same requests in the same order always meet the same rules."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._lock = Lock()
        self._number = 0
        self._counted = [0] * len(script.rules)
        self._tries: dict[bytes, int] = {}

    def judge(self, key: str, body: Body, *, in_flight: int) -> Judgement:
        """What becomes of this request; ``in_flight`` are those being answered, it included."""
        with self._lock:
            self._number += 1
            tries = self._count_tries(body)
            taken = [
                rule
                for index, rule in enumerate(self._script.rules)
                if rule.is_about(key, body) and self._takes(index, rule, tries, in_flight)
            ]
            return Judgement(
                number=self._number,
                rule=taken[0] if taken else None,
                delay_seconds=self._delay_seconds() + (taken[0].latency_seconds if taken else 0.0),
            )

    def _takes(self, index: int, rule: Rule, tries: int, in_flight: int) -> bool:
        self._counted[index] += 1
        number = self._counted[index]
        return rule.holds(number, tries=tries, in_flight=in_flight, draw=_draw(self._script.seed, index, number))

    def _count_tries(self, body: Body) -> int:
        digest = sha256(json.dumps(body, sort_keys=True).encode()).digest()
        self._tries[digest] = tries = self._tries.get(digest, 0) + 1
        return tries

    def _delay_seconds(self) -> float:
        spread = self._script.spread_seconds * _draw(self._script.seed, "latency", self._number)
        return self._script.latency_seconds + spread


def _draw(seed: int, what: int | str, number: int) -> float:
    """A number in [0, 1) that depends on nothing else: the same on every machine."""
    return int.from_bytes(sha256(f"{seed}/{what}/{number}".encode()).digest()[:6]) / 2**48


def _known(kind: type[Script | Rule | Told], values: Mapping[str, Any]) -> dict[str, Any]:
    unknown = values.keys() - {field.name for field in fields(kind)}
    if unknown:
        raise ValueError(f"a {kind.__name__.lower()} has no {', '.join(sorted(unknown))}")
    return dict(values)


def _numbers(rule: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no tuples."""
    numbers: Sequence[int] | None = rule.get("numbers")
    return {} if numbers is None else {"numbers": tuple(numbers)}
