"""Everything that can go wrong, in one tree; each message says what happened, where, and what to type next.

::

    PromptOptError
    ├── UsageError              the user can mend it: exit 4 or a collection error
    │   ├── SignatureError      a prompt function or text that cannot be read
    │   ├── DatasetError        rows that cannot be read
    │   ├── SnapshotError       a file under ``__prompts__`` that cannot be read
    │   └── ModelError          no model, or one that nobody knows
    ├── FormatError             a reply that is not what the prompt asked for: a score of 0.0
    ├── DetachedCallError       a prompt called by code that carries no candidate, or after its run
    └── LMError                 the provider failed: never a score
        └── UnrecordedError     no recorded reply, and no call may be made

    BudgetExhausted             a ``BaseException``: no metric may swallow it
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path


class PromptOptError(Exception):
    """The root of all errors that this package raises on purpose."""


class UsageError(PromptOptError):
    """Something the user asked for cannot be done; the message says how to ask for it."""


class SignatureError(UsageError):
    """A function that ``@prompt`` cannot turn into a prompt, or a text that ``text_prompt`` cannot adopt."""


class DatasetError(UsageError):
    """Rows that cannot be read, or that contradict each other."""


class SnapshotError(UsageError):
    """A file under ``__prompts__`` that cannot be read; it is left as it is.

    ``path`` is the file, ``line`` the 1-based line where it broke, when known.
    """

    def __init__(self, message: str, *, path: Path, line: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.line = line


class ModelError(UsageError):
    """No model is configured, or nobody knows the one that is."""


class FormatError(PromptOptError):
    """A reply that could not be read as the prompt's output; ``reply`` is its text."""

    def __init__(self, message: str, *, reply: str) -> None:
        super().__init__(message)
        self.reply = reply


class DetachedCallError(PromptOptError):
    """A prompt was called by code that does not carry the candidate under evaluation, or whose run is over."""


class LMErrorKind(StrEnum):
    """What went wrong at a provider; decides whether a call is worth another try."""

    AUTH = "auth"
    RATE_LIMIT = "rate limit"
    TIMEOUT = "timeout"
    CONTEXT_WINDOW = "context window"
    CONTENT_POLICY = "content policy"
    BAD_REQUEST = "bad request"
    SERVER = "server"
    MALFORMED = "malformed"
    UNRECORDED = "unrecorded"


class LMError(PromptOptError):
    """A language model did not answer; ``kind`` says why. Never a score.

    ``status`` is the provider's HTTP status and ``retry_after_seconds`` what it asked for, when it said so.
    ``is_lasting``: no other call to this model can succeed either (no key, an unknown model). ``is_amended``: the
    provider refused a parameter that is left out from now on, so the same call is worth another try at once.
    ``cost_usd`` is what the provider charges for it all the same, where that is known. Where it is not, ``is_billed``
    says whether it may charge anything; ``None`` leaves that to the kind and the status.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: LMErrorKind,
        status: int | None = None,
        retry_after_seconds: float | None = None,
        is_lasting: bool = False,
        is_amended: bool = False,
        cost_usd: float | None = None,
        is_billed: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.is_lasting = is_lasting
        self.is_amended = is_amended
        self.cost_usd = cost_usd
        self.is_billed = is_billed


class UnrecordedError(LMError):
    """The reply is not recorded and this run may make no call; ``draw`` is the call, as the client knows it."""

    def __init__(self, message: str, *, draw: object = None) -> None:
        super().__init__(message, kind=LMErrorKind.UNRECORDED)
        self.draw = draw


class BudgetExhausted(BaseException):
    """The next call would exceed the ceiling. A ``BaseException``, so that no metric swallows it."""
