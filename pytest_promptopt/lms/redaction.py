"""Keys, tokens and passwords are taken out of whatever is written to a file: by their value, wherever it stands.

Keys of replies hash the request as it is, so what is hidden in a file changes no look-up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

from pytest_promptopt.lms.models import Catalog

T = TypeVar("T")

HIDDEN = "[redacted]"
FEWEST_CHARACTERS = 8
"""A shorter value would be found in texts that have nothing to do with it."""

_PARTS_OF_NAMES = re.compile(
    r"SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|AUTHORIZATION|API_?KEY|KEY\d*$|(?:^|_)(?:KEYS?|PASS|PWD|PAT)(?:_|\d*$)"
)
_WORKING_FOLDERS = frozenset({"PWD", "OLDPWD"})
_SCHEME = r"(?:(?:bearer|basic|token|digest|apikey)\s+)"
_HEADER = re.compile(
    r"\b(?:proxy-authorization|authorization|x-api-key|api-key|x-goog-api-key)\b"
    rf"""\\?["']?\s*[:=]\s*\\?["']?(?:{_SCHEME}|(?=\S*\d))(?P<secret>[^\s"'\\,;]{{{FEWEST_CHARACTERS},}})""",
    re.IGNORECASE,
)
_WORDS_OF_HEADERS = ("authorization", "api-key", "bearer", "basic")
_BEARER = re.compile(
    rf"\b(?:bearer|basic)\s+(?P<secret>(?=\S*\d)[A-Za-z0-9._~+/=-]{{{FEWEST_CHARACTERS},}})", re.IGNORECASE
)


class Redactor:
    """Hides ``secrets``, what stands in authorization headers, and what ``further`` finds in a text. Thread-safe.

    ``further`` gives the parts of a text that its project wants to be hidden as well.
    """

    def __init__(self, secrets: Iterable[str] = (), *, further: Callable[[str], Iterable[str]] | None = None) -> None:
        self._further = further
        self._forms = tuple({form for secret in secrets for form in _forms(secret)})
        self._known = _any_of(self._forms)

    def redact(self, text: str) -> str:
        """``text`` with each secret in it replaced by ``[redacted]``."""
        if len(text) < FEWEST_CHARACTERS and self._further is None:
            return text
        spans = [*self._spans(text)]
        if self._further is not None:
            found = {form for part in self._further(text) if part for form in (part, _escaped(part))}
            spans += _spans_of(_any_of(found), text)
        return _without(text, spans) if spans else text

    def holds_secret(self, text: str) -> bool:
        """Whether one of the ``secrets`` stands in ``text``."""
        return any(form in text for form in self._forms)

    def redact_json(self, value: T) -> T:
        """``value``, made of JSON values, with all its texts redacted; keys of mappings too."""
        return self._redact_json(value)  # type: ignore[no-any-return]  # JSON of the same shape

    def _redact_json(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, Mapping):
            return {self._redact_json(key): self._redact_json(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._redact_json(each) for each in value]
        return value

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        if self.holds_secret(text):  # asked first: most texts hold none, and a search for all of them takes its time
            yield from _spans_of(self._known, text)
        lower = text.lower()
        if any(word in lower for word in _WORDS_OF_HEADERS):
            for pattern in (_HEADER, _BEARER):
                yield from (found.span("secret") for found in pattern.finditer(text))


def secrets_in(environ: Mapping[str, str], catalog: Catalog, models: Iterable[str] = ()) -> Iterator[str]:
    """The values of variables that are named like secrets, and of those that hold the keys of ``models``."""
    named = {catalog.find(model).key_name for model in (*catalog.names, *models)}
    for name, value in environ.items():
        if name in named or is_named_like_secret(name):
            yield value


def is_named_like_secret(name: str) -> bool:
    """Whether an environment variable of that name holds a key, a token, a secret or a password."""
    upper = name.upper()
    return upper not in _WORKING_FOLDERS and _PARTS_OF_NAMES.search(upper) is not None


def _forms(secret: str) -> Iterator[str]:
    """A secret as it may stand in a text: itself, inside JSON, inside an address, and line by line."""
    plain = secret.strip()
    if len(plain) < FEWEST_CHARACTERS:
        return
    lines = [line.strip() for line in plain.splitlines()]
    for part in (plain, *(line for line in lines if len(line) >= FEWEST_CHARACTERS)):
        yield part
        yield _escaped(part)
        yield json.dumps(part)[1:-1]
        yield quote(part, safe="", errors="replace")
        yield quote_plus(part, errors="replace")


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    """Finds every place of every text, those that overlap included: a look-ahead takes no characters away."""
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile(f"(?=({'|'.join(map(re.escape, longest_first))}))") if longest_first else None


def _spans_of(pattern: re.Pattern[str] | None, text: str) -> list[tuple[int, int]]:
    return [] if pattern is None else [found.span(1) for found in pattern.finditer(text)]


def _without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """``text`` with what the spans cover together hidden; neighbours that touch become one."""
    pieces: list[str] = []
    end = 0
    for start, stop in sorted(spans):
        if start > end or not pieces:
            pieces += [text[end:start], HIDDEN]
        end = max(end, stop)
    return "".join([*pieces, text[end:]])
