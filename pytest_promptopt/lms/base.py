"""What a language model is to us: something that answers a :class:`Request` with a :class:`Reply`.

Two protocols, because one call through an event loop costs more than an in-process model needs to answer:
:class:`LM` answers at once in the calling thread, :class:`AsyncLM` waits for a network on the background loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

Message = Mapping[str, str]
"""One chat message: ``{"role": "system" | "user" | "assistant", "content": text}``."""


class Prefix(tuple[Message, ...]):
    """The messages in front of a row's inputs: the same object for every row, so what is made of it is made once.

    ``memo`` belongs to whoever hashes requests.
    """

    memo: object = None


class Messages(tuple[Message, ...]):
    """The messages of one row: those of ``prefix`` and one more. To everyone else, a tuple of messages."""

    prefix: Prefix

    @classmethod
    def after(cls, prefix: Prefix, last: Message) -> Messages:
        """``prefix`` and ``last``."""
        messages = cls((*prefix, last))
        messages.prefix = prefix
        return messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One chat completion.

    ``repeat`` and ``ordinal`` tell draws apart: the n-th repeat of a row, and the n-th identical request within it.
    They are no part of what a provider is sent. ``schema`` is the JSON schema that the reply must follow, as compact
    JSON text whose order counts; ``endpoint`` is where the model answers, when that is not the provider's own address.
    ``prompt`` names who asks, and ``inputs`` are what it was filled with: for recordings and reports alone.
    """

    model: str
    messages: tuple[Message, ...]
    temperature: float = 0.0
    max_tokens: int | None = None
    schema: str | None = None
    endpoint: str | None = None
    repeat: int = 0
    ordinal: int = 0
    prompt: str = field(default="", compare=False, repr=False)
    inputs: Mapping[str, object] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that a provider counted; ``cached_tokens`` are those of the prompt that it had at hand already."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The text of one completion, and what it took. A cost of ``None`` is unknown, which is not 0."""

    text: str
    usage: Usage | None = None
    cost_usd: float | None = None
    latency_seconds: float = 0.0
    is_replayed: bool = False


@runtime_checkable
class LM(Protocol):
    """A model inside this process: thread-safe, answers in the thread that asks."""

    def complete(self, request: Request) -> Reply:
        """Answer ``request``. Raises :class:`~pytest_promptopt.errors.LMError` when it cannot."""


@runtime_checkable
class AsyncLM(Protocol):
    """A model behind a network: called on the background loop only, one attempt a call.

    It may have two more methods. ``async def prepare(self) -> None`` is awaited before an attempt is counted: it loads
    what is heavy, and raises ``LMError`` where no call could succeed, for want of a key, say. And ``async def
    aclose(self) -> None`` closes its connections, awaited once on the loop that made them.
    """

    async def acomplete(self, request: Request) -> Reply:
        """Answer ``request`` in one attempt. Raises :class:`~pytest_promptopt.errors.LMError` when it cannot."""
