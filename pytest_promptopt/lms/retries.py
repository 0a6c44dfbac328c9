"""How often a failed call is asked again, and after which pause: one rule for each kind of failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from pytest_promptopt.errors import LMError, LMErrorKind

MOST_RETRY_AFTER_SECONDS = 120.0
"""A provider that asks for a longer pause is not waited for."""

SOON_SECONDS = 0.05
"""The first pause where a provider asks for none at all."""

MOST_AMENDMENTS = 8
"""So many parameters of one call can be left out, one after the other; a model that goes on is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """The rule for one kind: attempts in all, and pauses that double from the first to the longest."""

    max_attempts: int
    first_pause_seconds: float = 0.5
    max_pause_seconds: float = 60.0

    def back_off_seconds(self, failures: int, retry_after_seconds: float | None) -> float:
        """The pause after that many failures. It grows from what the provider asked for, where that is less."""
        first_seconds = self.first_pause_seconds
        if retry_after_seconds is not None:
            first_seconds = min(retry_after_seconds or SOON_SECONDS, first_seconds)
        return min(self.max_pause_seconds, first_seconds * 2.0 ** (failures - 1))


RETRIES: Mapping[LMErrorKind, Retry] = MappingProxyType(
    {
        LMErrorKind.RATE_LIMIT: Retry(max_attempts=8, first_pause_seconds=1.0),
        LMErrorKind.SERVER: Retry(max_attempts=4),
        LMErrorKind.TIMEOUT: Retry(max_attempts=3),
        LMErrorKind.MALFORMED: Retry(max_attempts=2),
    }
)
"""Kinds that are asked again; all others are not."""

TRANSIENT = frozenset({LMErrorKind.RATE_LIMIT, LMErrorKind.SERVER, LMErrorKind.TIMEOUT})
"""Kinds that are about the model and not about one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """How long to wait: ``least_seconds`` for anybody who asks this model, ``seconds`` for who has failed."""

    least_seconds: float
    seconds: float


NO_PAUSE = Pause(least_seconds=0.0, seconds=0.0)


class Patience:
    """What one call has put up with so far. Kinds are counted apart; amendments are not counted as failures.

    ``is_unreached`` as long as no attempt got as far as the model: connections that never stood, refusals for the rate.
    """

    __slots__ = ("_amendments", "_failures", "_rng", "is_unreached")

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._failures: Counter[LMErrorKind] = Counter()
        self._amendments = 0
        self.is_unreached = True

    def pause_after(self, error: LMError) -> Pause | None:
        """The pause before the next attempt, spread upwards so that callers part; ``None`` when there is none."""
        if error.is_amended and self._amendments < MOST_AMENDMENTS:
            self._amendments += 1
            return NO_PAUSE
        self.is_unreached = self.is_unreached and _is_unreached(error)
        rule = RETRIES.get(error.kind)
        if rule is None or error.is_lasting:
            return None
        self._failures[error.kind] += 1
        failures, asked_seconds = self._failures[error.kind], error.retry_after_seconds or 0.0
        if failures >= rule.max_attempts or asked_seconds > MOST_RETRY_AFTER_SECONDS:
            return None
        back_off_seconds = rule.back_off_seconds(failures, error.retry_after_seconds)
        least_seconds = max(asked_seconds, back_off_seconds)
        return Pause(
            least_seconds=least_seconds, seconds=least_seconds + back_off_seconds * self._rng.uniform(0.0, 1.0)
        )


def _is_unreached(error: LMError) -> bool:
    is_unconnected = error.kind is LMErrorKind.SERVER and error.status is None and error.is_billed is False
    return is_unconnected or error.kind is LMErrorKind.RATE_LIMIT


def last_words(error: LMError) -> LMError:
    """``error``, or what says more: that the provider asks for a longer pause than anybody waits for."""
    asked_seconds = error.retry_after_seconds
    if error.kind not in RETRIES or asked_seconds is None or asked_seconds <= MOST_RETRY_AFTER_SECONDS:
        return error
    final = LMError(
        f"{error} It asks for a pause of {asked_seconds:,.0f} seconds, and longer than "
        f"{MOST_RETRY_AFTER_SECONDS:.0f} is not waited: run again later.",
        kind=error.kind,
        status=error.status,
        retry_after_seconds=asked_seconds,
    )
    final.__cause__ = error
    return final
