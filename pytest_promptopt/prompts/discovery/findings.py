"""What a search of a source tree found, as values: in one file, and in the whole tree."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedPrompt:
    """A prompt of ours as the source tells it; ``file`` is relative to the root, with slashes."""

    name: str
    file: str
    line: int
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """The call that hands a text to a model, or to the function that does."""

    file: str
    line: int
    sdk: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.sdk})"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmanagedPrompt:
    """A text that looks like a prompt and is none of ours.

    ``name`` is how the code calls it, ``""`` where it has no name; ``owner`` the function it stands in. ``kind`` is
    ``string``, ``f-string``, ``messages``, ``file`` or the class that holds it. ``has_own_name`` says that a line below
    can bind ``name`` anew. ``adoption`` is the line to write.
    """

    file: str
    line: int
    name: str
    owner: str
    kind: str
    words: int
    placeholders: tuple[str, ...]
    has_own_name: bool
    sending: Sending | None
    adoption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A file or folder that could not be searched, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """All that was found below the root. ``files`` were looked at, ``files_read`` of them not known from the cache.

    ``passed_over`` are folders of installed, built or copied code, which were not searched.
    """

    managed: tuple[ManagedPrompt, ...]
    unmanaged: tuple[UnmanagedPrompt, ...]
    unread: tuple[Unread, ...]
    passed_over: tuple[str, ...]
    files: int
    files_read: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundText:
    """One text in one file. Without ``is_evident`` it counts only when it reaches a model.

    ``has_own_name`` says that ``name`` is bound to the text itself, at a place where a line below can bind it anew.
    """

    line: int
    name: str
    owner: str
    kind: str
    words: int
    placeholders: tuple[str, ...]
    is_evident: bool
    has_own_name: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Text gets from one node to another at ``line``.

    A node is a name with a letter before it: ``T:3`` the file's fourth text, ``F:ask.j2`` a template file,
    ``G:pkg.mod.NAME`` a global, ``P:pkg.mod.function:parameter`` a parameter, by name or place, ``L:…`` a local name,
    ``R:pkg.mod.function`` what it returns, ``S:openai`` a model, ``M:`` a prompt of ours.
    """

    source: str
    target: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What one file says, without any of its text; ``fault`` is why it could not be read."""

    managed: tuple[tuple[str, int, str], ...] = ()
    texts: tuple[FoundText, ...] = ()
    flows: tuple[Flow, ...] = ()
    fault: str = ""
