"""The most that one attempt may cost, known before it is made; and the tokens that it will probably take."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from threading import Lock

from pytest_promptopt.lms.base import Reply, Request
from pytest_promptopt.lms.models import ModelSettings, Price

MOST_OUTPUT_TOKENS = 4_096
"""Taken for the longest reply of a request without ``max_tokens``, where the model allows as much."""

TOKENS_PER_MESSAGE = 16
"""More than any provider adds for a role and its marks."""

FIRST_COMPLETION_TOKENS = 256.0
"""The guess at a reply's length until the first one is there."""

PriceOf = Callable[[ModelSettings], Price | None]
MostOutputTokensOf = Callable[[ModelSettings], int | None]


class Bound:
    """What one model's attempts may cost, and learns from its replies. Thread-safe."""

    def __init__(self, *, price: Price | None, most_output_tokens: int | None, is_free: bool = False) -> None:
        self._price = price
        self._most_output_tokens = min(most_output_tokens or MOST_OUTPUT_TOKENS, MOST_OUTPUT_TOKENS)
        self._is_free = is_free
        self._lock = Lock()
        self._dearest_usd = 0.0
        self._has_seen_price = is_free
        self._longest: dict[int | None, int] = {}  # by max_tokens, which not every provider keeps to
        self._completions = 0
        self._completion_tokens = 0

    def cost_usd(self, request: Request) -> float | None:
        """The most that an attempt costs, in US dollars; ``None`` when nobody knows.

        A model without a price costs as much as its dearest reply so far, nothing if all of them said so; one in this
        process nothing until it does.
        """
        if self._price is None:
            return self._dearest_usd if self._has_seen_price else None
        input_usd = max(self._price.input_usd, self._price.cached_input_usd or 0.0)
        output_tokens = max(request.max_tokens or self._most_output_tokens, self._longest.get(request.max_tokens, 0))
        usd = most_prompt_tokens(request) * input_usd + output_tokens * self._price.output_usd
        return max(usd / 1_000_000, 0.0)

    def probable_tokens(self, request: Request) -> int:
        """A guess at prompt and completion together: four characters a token, and replies as long as they were."""
        mean = self._completion_tokens / self._completions if self._completions else FIRST_COMPLETION_TOKENS
        return sum(len(text) for text in _texts(request)) // 4 + int(request.max_tokens or mean)

    def learn(self, request: Request, reply: Reply) -> None:
        """Take ``reply`` into account."""
        if not reply.cost_usd and self._has_seen_price and (self._is_free or reply.usage is None):
            return
        with self._lock:
            if reply.cost_usd is not None and 0.0 <= reply.cost_usd < inf:
                self._dearest_usd = max(self._dearest_usd, reply.cost_usd)
                self._has_seen_price = True
            if reply.usage is not None:
                tokens = reply.usage.completion_tokens
                self._longest[request.max_tokens] = max(tokens, self._longest.get(request.max_tokens, 0))
                self._completions += 1
                self._completion_tokens += tokens


class Bounds:
    """The :class:`Bound` of every model. Thread-safe. ``price_of`` is asked once a model, as ``most_output_tokens`` is.

    Without them a model costs what its own table says, and is else unknown.
    """

    def __init__(self, price_of: PriceOf | None, most_output_tokens: MostOutputTokensOf | None) -> None:
        self._price_of = price_of
        self._most_output_tokens = most_output_tokens
        self._lock = Lock()
        self._found: dict[str, Bound] = {}

    def find(self, settings: ModelSettings, *, is_offline: bool) -> Bound:
        """The bound of that model: the same object every time."""
        found = self._found.get(settings.name)
        return self._find(settings, is_offline) if found is None else found

    def leave_to_parent(self) -> None:
        """After a fork: whoever held the lock exists in the parent only."""
        self._lock, self._found = Lock(), {}

    def _find(self, settings: ModelSettings, is_offline: bool) -> Bound:
        with self._lock:
            if settings.name not in self._found:
                self._found[settings.name] = self._make(settings, is_offline)
            return self._found[settings.name]

    def _make(self, settings: ModelSettings, is_offline: bool) -> Bound:
        if is_offline:
            return Bound(price=None, most_output_tokens=None, is_free=True)
        price = settings.price or (self._price_of(settings) if self._price_of else None)
        most_output_tokens = self._most_output_tokens(settings) if self._most_output_tokens else None
        return Bound(price=price, most_output_tokens=most_output_tokens)


def most_prompt_tokens(request: Request) -> int:
    """More tokens than any tokenizer makes of the request: none is shorter than a byte."""
    return sum(_byte_count(text) for text in _texts(request)) + TOKENS_PER_MESSAGE * len(request.messages)


def _texts(request: Request) -> list[str]:
    texts = [message["content"] for message in request.messages]
    return texts if request.schema is None else [*texts, request.schema]


def _byte_count(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
