"""What went wrong at a provider, read from status, code and words, and said with the next step to take.

Names of exceptions decide nothing here: litellm calls a missing key, a refused connection and a page of HTML alike an
"internal server error". Both edges hand over what came back, or what broke, and get the same
:class:`~pytest_promptopt.errors.LMError` for it. No message holds a key.

An error is *lasting* where no other call to the model can succeed either: a key that is missing or wrong (401, and 403
that speaks of keys, permissions or regions), an account without money (402, ``insufficient_quota``), a model that
nobody knows, an address that is none. A 403 or 404 that says nothing of the sort may be about one request. What a
server says may repeat what it was sent, so words count only under statuses that go with them.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from math import isfinite

from pytest_promptopt.errors import LMError, LMErrorKind
from pytest_promptopt.lms.models import ModelSettings, without_credentials

MOST_CHARACTERS = 300
"""How much of a provider's own words a message repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who was asked, where, and with which key: what messages are made of. They show no key and no other secret."""

    settings: ModelSettings
    address: str | None = None
    key_variable: str | None = None
    key: str = field(default="", repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        """The model as its user calls it, what is behind it, and where it was looked for."""
        settings = self.settings
        name = settings.name if settings.name == settings.model else f"{settings.name} ({settings.model})"
        return f"{name} at {without_credentials(self.address)}" if self.address else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """The words of an error: its codes and types, its text, and the parameter that it is about, if it names one."""

    code: str = ""
    text: str = ""
    parameter: str = ""
    status: int | None = None


def kind_of(status: int | None, code: str, text: str) -> LMErrorKind:
    """What went wrong, by what was said first, then by status. ``None`` is no status: a reply that held an error."""
    rule = _rule_for(status, code, text)
    if rule is not None:
        return rule.kind
    if status is None:
        return LMErrorKind.BAD_REQUEST if _BLAMES_REQUEST.search(f"{code} {text}") else LMErrorKind.SERVER
    if status in _KIND_BY_STATUS:
        return _KIND_BY_STATUS[status]
    return LMErrorKind.SERVER if status >= 500 else LMErrorKind.BAD_REQUEST


def is_lasting(status: int | None, code: str, text: str) -> bool:
    """Whether no other call to the model can succeed either."""
    rule = _rule_for(status, code, text)
    if rule is not None:
        return rule.is_lasting
    return status in (401, 402, 407) or (status is not None and 300 <= status < 400)


def error_from_words(
    origin: Origin, said: Said, *, status: int | None, headers: Mapping[str, str] | None = None, now: float = 0.0
) -> LMError:
    """The error for what a provider said, however it was said."""
    kind = kind_of(status, said.code, said.text)
    words = words_of(said.text, origin) or f"status {status}, and no word why"
    wait = retry_after_seconds(headers or {}, now, is_rate_limited=kind is LMErrorKind.RATE_LIMIT)
    if wait is None and kind is LMErrorKind.RATE_LIMIT:
        wait = _wait_in_words(said.text)
    return LMError(
        f"{origin.name}: {words}{_next_step(kind, status, said, origin)}",
        kind=kind,
        status=status,
        retry_after_seconds=wait,
        is_lasting=is_lasting(status, said.code, said.text),
    )


def error_from_exception(origin: Origin, error: BaseException, *, is_sent: bool = True) -> LMError:
    """The error for a connection that failed, by what the operating system said of it.

    ``is_sent``: the connection stood, so that the provider may have worked on the answer, and charge for it.
    """
    causes = tuple(causes_of(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        step = "its certificate is not trusted here. Set SSL_CERT_FILE to a file with the certificates to trust."
        return LMError(f"{origin.name}: {step}", kind=LMErrorKind.BAD_REQUEST, is_lasting=True)
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return _unreachable(origin, "no such host. Is the network up")
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return _unreachable(origin, "nothing answers at this address. Is the server running")
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return timed_out(origin)
    if not is_sent:
        return _unreachable(origin, "no connection could be made. Is the network up")
    broke_off = f"{origin.name}: the connection broke off before the reply was complete."
    return LMError(broke_off, kind=LMErrorKind.SERVER, is_billed=True)


def read_key(settings: ModelSettings, environ: Mapping[str, str]) -> str:
    """The key that the environment has for a model, or nothing. Raises ``LMError`` for one that cannot be a key."""
    variable = settings.key_name
    key = environ.get(variable, "").strip() if variable else ""
    if not (key.isascii() and key.isprintable()):
        origin = Origin(settings=settings, address=settings.base_url)
        message = f"{origin.name}: what {variable} holds is no key: it has characters that no header may have."
        raise LMError(message, kind=LMErrorKind.AUTH, is_lasting=True)
    return key


def missing_key(origin: Origin) -> LMError:
    """The error for a key that is not set, found before any call is made."""
    variable = origin.key_variable or "the environment variable with the provider's key"
    message = f"{origin.name}: no key. Set {variable}."
    return LMError(message, kind=LMErrorKind.AUTH, is_lasting=True)


def timed_out(origin: Origin) -> LMError:
    """The error for a server that took longer than it may."""
    seconds = f"{origin.settings.timeout_seconds:g}"
    message = f"{origin.name}: no complete reply within {seconds} seconds.{_longer(origin)}"
    return LMError(message, kind=LMErrorKind.TIMEOUT)


def malformed(origin: Origin, what: str, came: str = "") -> LMError:
    """The error for a reply that is no completion; ``came`` is what came instead, of which the first words show."""
    words = words_of(came, origin, most=80)
    return LMError(f"{origin.name}: {what}{f': {words!r}' if words else '.'}", kind=LMErrorKind.MALFORMED)


def read_words(body: str) -> Said:
    """What the body of an error says, in any of the shapes that servers give it."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return Said(text=_plain(body))
    return words_in(content) or Said(text=body)


def words_in(content: object) -> Said | None:
    """What a decoded body says of an error; ``None`` where it speaks of none."""
    if isinstance(content, list):
        return words_in(content[0]) if content else None
    if not isinstance(content, Mapping):
        return None
    error = content.get("error") or content.get("detail") or (content if "message" in content else None)
    if not error:
        return None
    if isinstance(error, list):
        return _words_of_checks(error)
    if not isinstance(error, Mapping):
        return Said(text=error if isinstance(error, str) else json.dumps(error))
    codes = [error.get(key) for key in ("code", "type", "status")]
    code = codes[0]
    return Said(
        code=" ".join(str(each) for each in codes if each),
        text=_text_of(error),
        parameter=str(error.get("param") or ""),
        status=code if isinstance(code, int) and 400 <= code < 600 else None,
    )


def _words_of_checks(checks: list[object]) -> Said:
    """What pydantic's list of failed checks says, but for what was checked: that is what customers wrote."""
    said = [each for each in checks if isinstance(each, Mapping)]
    places = [".".join(map(str, each["loc"])) if isinstance(each.get("loc"), list) else "" for each in said]
    texts = [f"{place}: {each.get('msg') or ''}".strip(": ") for place, each in zip(places, said, strict=True)]
    texts += [each for each in checks if isinstance(each, str)]
    return Said(code=" ".join(str(each["type"]) for each in said if each.get("type")), text="; ".join(texts))


def words_of(text: str, origin: Origin, *, most: int = MOST_CHARACTERS) -> str:
    """``text`` on one line, without keys, and not too long."""
    shown = redacted(" ".join(text.split()), origin.key, *origin.secrets)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def redacted(text: str, *secrets: str) -> str:
    """``text`` without any of ``secrets``, and without anything that looks like a key."""
    for secret in sorted(secrets, key=len, reverse=True):  # one may be the start of another
        if len(secret) >= _SHORTEST_KEY:
            text = text.replace(secret, "…")
    return _KEYS.sub("…", text)


def secrets_in(environ: Mapping[str, str]) -> tuple[str, ...]:
    """What the environment holds under names of keys: whichever of them is sent, and repeated, it is not shown."""
    values = {" ".join(value.split()) for name, value in environ.items() if name.upper().endswith(_SECRET_NAMES)}
    return tuple(value for value in values if len(value) >= _SHORTEST_KEY)


def retry_after_seconds(headers: Mapping[str, str], now: float, *, is_rate_limited: bool = False) -> float | None:
    """How long the provider asks to be left alone: ``Retry-After`` as seconds or date, ``retry-after-ms``.

    After a refusal for too many calls (``is_rate_limited``), else when the limit that was hit is lifted
    (``x-ratelimit-reset-requests`` and ``-tokens``). ``now`` in seconds since 1970.
    """
    said = {name.lower(): value.strip() for name, value in headers.items()}
    milliseconds = _number(said.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    after = said.get("retry-after", "")
    seconds = _number(after)
    if seconds is None:
        seconds = _seconds_until(after, now)
    return _reset_seconds(said) if seconds is None and is_rate_limited else seconds


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on to the first."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """Words that tell more than the status does, under the statuses with which they mean it (``None``: all).

    Under the statuses of ``with_code`` they mean it where a code comes along: a text alone may repeat what was sent.
    With ``is_code`` they are looked for in the code alone.
    """

    kind: LMErrorKind
    words: re.Pattern[str]
    is_lasting: bool = False
    statuses: frozenset[int | None] | None = None
    but: frozenset[int | None] = frozenset()
    with_code: frozenset[int | None] = frozenset()
    is_code: bool = False

    def holds(self, status: int | None, code: str, text: str) -> bool:
        if status in self.but or not (self.statuses is None or status in self.statuses):
            return False
        if status in self.with_code and not code:
            return False
        return self.words.search(code if self.is_code else f"{code} {text}") is not None


def _either(*phrases: str) -> re.Pattern[str]:
    return re.compile("|".join(phrases), re.IGNORECASE | re.DOTALL)


_NO_MONEY = _either(
    r"insufficient_quota",
    r"billing_(?:hard_limit|not_active)",
    r"credit balance is too low",
    r"insufficient (?:balance|credits?|funds)",
    r"requires more credits",
    r"exceeded your monthly included credits",
)
_UNKNOWN_MODEL = _either(
    r"model_not_found|invalid_model|model_not_exist|unknown model|invalid model|no endpoints found for",
    r"\bmodel\b.{0,150}?(?:does not exist|doesn't exist|not found|not exist|decommissioned)",
    r"is not a (?:valid|chat) model|llm provider not provided",
)
_RATE_LIMIT = _either(r"rate[ _]limit|too many requests|throttl|resource[ _]exhausted")
_RULES = (
    _Rule(
        kind=LMErrorKind.CONTEXT_WINDOW,
        words=_either(
            r"context_length_exceeded|exceed_context_size|context window",
            r"maximum (?:context|model) length|available context size|than the context length",
            r"(?:prompt|input) is too long|exceeds the maximum number of tokens|reduce the length of the messages",
            r"request too large",  # a whole minute's tokens would not hold it
        ),
    ),
    _Rule(
        kind=LMErrorKind.AUTH,
        is_lasting=True,
        words=_NO_MONEY,
        statuses=frozenset({400, 402, 403, 429, None}),
        with_code=frozenset({400}),
    ),
    _Rule(
        kind=LMErrorKind.AUTH,
        is_lasting=True,
        words=_either(
            r"invalid_api_key|api_key_invalid|(?:incorrect|invalid|wrong) (?:x-)?api[ -]key",
            r"api key (?:is )?(?:not valid|invalid|expired|missing)|provide an api key",
            r"missing credentials|api_key client option must be set|no auth credentials|authentication_error",
        ),
    ),
    _Rule(
        kind=LMErrorKind.CONTENT_POLICY,
        words=_either(
            r"content_policy_violation|content_filter|content management policy|responsible ai policy",
            r"data_inspection_failed|violat\w+ (?:our|the) (?:\w+ )?(?:usage |content )?polic|flagged as potentially",
            r"input was flagged|requires moderation",
        ),
    ),
    _Rule(
        kind=LMErrorKind.BAD_REQUEST,
        is_lasting=True,
        words=_UNKNOWN_MODEL,
        statuses=frozenset({400, 404, 410, 422, None}),
    ),
    _Rule(
        kind=LMErrorKind.AUTH,
        is_lasting=True,
        # A web server's own page speaks of permission too, of that to one address.
        words=_either(
            r"permission(?! to access (?:this|/|the requested))", r"api[ _-]?key", r"country|region|territory"
        ),
        statuses=frozenset({403}),
    ),
    _Rule(kind=LMErrorKind.RATE_LIMIT, words=_RATE_LIMIT, statuses=frozenset({429, 503, None})),
    _Rule(kind=LMErrorKind.RATE_LIMIT, words=_RATE_LIMIT, statuses=frozenset({400}), is_code=True),  # Bedrock's way
    # An engine that is overloaded and says 429 is better left alone like any limit.
    _Rule(kind=LMErrorKind.SERVER, words=_either(r"overloaded"), but=frozenset({429})),
)

_KIND_BY_STATUS: Mapping[int, LMErrorKind] = {
    401: LMErrorKind.AUTH,
    402: LMErrorKind.AUTH,
    403: LMErrorKind.AUTH,
    407: LMErrorKind.AUTH,
    408: LMErrorKind.TIMEOUT,
    409: LMErrorKind.SERVER,  # a lock that was not to be had, as providers use it
    413: LMErrorKind.CONTEXT_WINDOW,
    425: LMErrorKind.SERVER,
    429: LMErrorKind.RATE_LIMIT,
    504: LMErrorKind.TIMEOUT,
    524: LMErrorKind.TIMEOUT,
}

_BLAMES_REQUEST = _either(r"invalid_request|bad_request|unsupported|not supported")
_SHORTEST_KEY = 6  # "none" and "EMPTY" are what people set where no key is asked for
_SECRET_NAMES = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")
_KEYS = re.compile(
    r"\bBearer\s+[^\s\"',}]+"
    r"|\b(?:sk|pk|rk|gsk|csk|xai|nvapi|pplx|hf|r8|fw|tgp)[-_][\w*-]{8,}"
    r"|\bAIza[\w*-]{10,}"
    r"|[\w-]*\*{3,}[\w*-]*",  # keys that a provider has shortened itself
    re.IGNORECASE,
)
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")
_UNIT_SECONDS = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)


def _rule_for(status: int | None, code: str, text: str) -> _Rule | None:
    return next((rule for rule in _RULES if rule.holds(status, code, text)), None)


def _next_step(kind: LMErrorKind, status: int | None, said: Said, origin: Origin) -> str:
    words = f"{said.code} {said.text}"
    if kind is LMErrorKind.AUTH:
        return _step_to_access(status, words, origin)
    if kind is LMErrorKind.RATE_LIMIT:
        return f" (requests_per_minute and tokens_per_minute in {_table(origin)} keep calls below a limit)"
    if kind is LMErrorKind.TIMEOUT:
        return _longer(origin)
    if kind is LMErrorKind.BAD_REQUEST and status in (400, 404, 410, 422, None) and _UNKNOWN_MODEL.search(words):
        return f" (is {origin.settings.model_name!r} a model that this provider has, and this account may use?)"
    if status in (404, 405) or (status is not None and 300 <= status < 400):
        return f" (status {status}: is base_url right? It often ends in /v1)"
    return ""


def _step_to_access(status: int | None, words: str, origin: Origin) -> str:
    variable = origin.key_variable or "the provider's key variable, such as OPENAI_API_KEY"
    if status == 402 or (status != 401 and _NO_MONEY.search(words)):
        return " (the account has no credit left: see its plan and billing)"
    if status == 407:
        return " (the proxy wants credentials: see HTTPS_PROXY)"
    if status == 403:
        return f" (status 403: may the key in {variable} use this model?)"
    return f" (set {variable} to a key that the provider accepts)"


def _unreachable(origin: Origin, what: str) -> LMError:
    variables = origin.settings.base_url_variables
    set_by = f" ({' or '.join(variables)})" if variables else ""
    return LMError(f"{origin.name}: {what}, and is base_url{set_by} right?", kind=LMErrorKind.SERVER, is_billed=False)


def _longer(origin: Origin) -> str:
    return f" A model that needs longer gets it by timeout_seconds in {_table(origin)}."


def _table(origin: Origin) -> str:
    return f"[tool.pytest-promptopt.models.{origin.settings.table_name}]"


def _text_of(error: Mapping[str, object]) -> str:
    """The message, and what a gateway repeats of the words of the provider behind it."""
    message = error.get("message") or error.get("msg") or ""
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, Mapping) else None
    text = message if isinstance(message, str) else json.dumps(message)
    return f"{text} {raw}" if raw else text


def _plain(body: str) -> str:
    """A page's words without its tags."""
    return re.sub(r"<(?:style|script)\b.*?</(?:style|script)>|<[^>]{0,500}>", " ", body[:20_000], flags=re.DOTALL)


def _number(written: str) -> float | None:
    try:
        number = float(written)
    except ValueError:
        return None
    return max(0.0, number) if isfinite(number) else None


def _seconds_until(date: str, now: float) -> float | None:
    """From now to an HTTP date, which is the other way to write ``Retry-After``."""
    try:
        moment = parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, moment - now)


def _reset_seconds(headers: Mapping[str, str]) -> float | None:
    """Until the limits that are used up are lifted; where none is known to be, until the first that may be."""
    resets = {
        limit: seconds
        for limit in ("requests", "tokens")
        if (seconds := _duration_seconds(headers.get(f"x-ratelimit-reset-{limit}", ""))) is not None
    }
    used_up = [resets[limit] for limit in resets if headers.get(f"x-ratelimit-remaining-{limit}") == "0"]
    return max(used_up) if used_up else min(resets.values(), default=None)


def _duration_seconds(written: str) -> float | None:
    """Seconds in ``6m0s``, ``1h2m3.5s``, ``20ms`` or ``12``."""
    number = _number(written)
    if number is not None:
        return number
    parts = _DURATION.fullmatch(written.strip())
    if parts is None or not any(parts.groups()):
        return None
    return sum(float(part) * unit for part, unit in zip(parts.groups(), _UNIT_SECONDS, strict=True) if part)


def _wait_in_words(text: str) -> float | None:
    """The wait that OpenAI and others write into the sentence itself: "Please try again in 6.2s."""
    found = re.search(r"(?:try again|retry) in (\d[\dhms.]*[ms])\b", text)
    return _duration_seconds(found[1]) if found else None
