"""The most that a run may call and spend: asked before every attempt, told afterwards what it cost."""

from __future__ import annotations

from threading import Lock

from pytest_promptopt.errors import BudgetExhausted, UsageError


class Ceiling:
    """Two ceilings over one run, shared by all its threads: attempts at providers, and US dollars.

    ``None`` lifts a ceiling. Calls are exact: attempt ``max_calls + 1`` never starts. What an attempt costs is known
    only after it, so until then it counts for as much as the dearest one so far: the money ceiling can be passed only
    by attempts that run before the first price is known, or by one dearer than all before it.
    """

    def __init__(self, *, max_calls: int | None = None, max_cost_usd: float | None = None) -> None:
        _refuse_negative("--prompt-budget", max_calls)
        _refuse_negative("--prompt-max-cost", max_cost_usd)
        self.max_calls = max_calls
        self.max_cost_usd = max_cost_usd
        self._lock = Lock()
        self._calls = 0
        self._in_flight = 0
        self._cost_usd = 0.0
        self._dearest_usd = 0.0
        self._unknown = 0

    def reserve(self, *, is_free: bool = False) -> None:
        """Take one attempt, or raise :class:`BudgetExhausted` naming the ceiling. Every reservation must be settled.

        ``is_free`` attempts, of models inside this process, may run under a money ceiling of 0 too.
        """
        with self._lock:
            if self.max_calls is not None and self._calls >= self.max_calls:
                raise BudgetExhausted(_calls_spent(self.max_calls))
            if self.max_cost_usd is not None:
                self._refuse_overspending(self.max_cost_usd, is_free)
            self._calls += 1
            self._in_flight += 1

    def settle(self, cost_usd: float | None) -> None:
        """Say what a reserved attempt cost; ``None`` when nobody knows, which is counted as unknown and never as 0."""
        with self._lock:
            self._in_flight -= 1
            if cost_usd is None:
                self._unknown += 1
                return
            self._cost_usd += cost_usd
            self._dearest_usd = max(self._dearest_usd, cost_usd)

    @property
    def calls(self) -> int:
        """Attempts taken so far, those in flight included."""
        return self._calls

    @property
    def remaining_calls(self) -> int | None:
        """Attempts left under ``max_calls``; ``None`` when it is lifted."""
        return None if self.max_calls is None else self.max_calls - self._calls

    @property
    def cost_usd(self) -> float:
        """The sum of all known costs."""
        return self._cost_usd

    @property
    def has_unknown_cost(self) -> bool:
        """Whether an attempt was made that nobody could price, so that :attr:`cost_usd` is too low."""
        return self._unknown > 0

    def _refuse_overspending(self, max_cost_usd: float, is_free: bool) -> None:
        if self._unknown and not self._dearest_usd and self.max_calls is None:
            raise BudgetExhausted(_UNPRICED)
        # Attempts in flight, those of unknown price and the next one: each as dear as the dearest so far.
        expected_usd = (self._in_flight + self._unknown + 1) * self._dearest_usd
        if self._cost_usd + expected_usd > max_cost_usd or (max_cost_usd == 0 and not is_free):
            raise BudgetExhausted(_money_spent(max_cost_usd, self._cost_usd))


_UNPRICED = (
    "The price of a call to this model is unknown, so the money ceiling (--prompt-max-cost) alone cannot hold. "
    "Add a ceiling on calls, for instance --prompt-budget 1000."
)


def _calls_spent(max_calls: int) -> str:
    return f"The ceiling of {max_calls:,} LM calls is reached (--prompt-budget {max_calls}). Raise it to go on."


def _money_spent(max_cost_usd: float, cost_usd: float) -> str:
    return (
        f"The next LM call could pass the ceiling of ${max_cost_usd:g} (--prompt-max-cost {max_cost_usd:g}); "
        f"${cost_usd:.4g} are spent. Raise it to go on."
    )


def _refuse_negative(option: str, value: float | None) -> None:
    if value is not None and not value >= 0:
        raise UsageError(f"{option} must be 0 or more, or none to lift the ceiling; got {value}.")
