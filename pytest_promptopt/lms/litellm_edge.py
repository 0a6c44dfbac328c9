"""Every provider that litellm knows, through its asynchronous call: one attempt, our own errors, our own retries."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import warnings
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from threading import Lock
from time import perf_counter, time
from types import ModuleType
from typing import Any

from pytest_promptopt.errors import LMError, LMErrorKind
from pytest_promptopt.lms.base import Reply, Request, Usage

DEFAULT_TIMEOUT_SECONDS = 120.0


class LiteLLM:
    """Answers for any ``provider/model`` that litellm knows.

    ``base_url`` is where requests go that name no endpoint of their own; without it ``OPENAI_BASE_URL`` holds for
    ``openai/…``, and for all others what litellm knows about the provider. ``api_key`` is sent instead of the
    provider's own key variable.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        base_url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._base_url = base_url
        self._api_key = api_key
        self._module: ModuleType | None = None

    async def acomplete(self, request: Request) -> Reply:
        """Answer in one attempt. Raises :class:`~pytest_promptopt.errors.LMError` for whatever goes wrong."""
        litellm = await self._litellm()
        base_url = request.endpoint or self._base_url or _openai_base_url(request.model)
        arguments = _arguments(request, base_url, self._api_key)
        started = perf_counter()
        try:
            response = await litellm.acompletion(**arguments, timeout=self._timeout_seconds, max_retries=0)
        except Exception as error:  # litellm raises what its providers' libraries raise
            raise _lm_error(error, request, base_url) from error
        return _reply(response, request, perf_counter() - started)

    async def aclose(self) -> None:
        """Close the connections that litellm keeps for reuse. Awaited on the loop that made them, at the very end."""
        if self._module is not None:
            await self._module.close_litellm_async_clients()

    async def _litellm(self) -> ModuleType:
        if self._module is None:
            self._module = await asyncio.to_thread(litellm_module)  # seconds, in which other calls go on
        return self._module


_import_lock = Lock()


def litellm_module() -> ModuleType:
    """litellm, imported on first use, without network and without banners."""
    with _import_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies deprecate things that nobody here can mend
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        import litellm

        litellm.suppress_debug_info = True
        litellm.ModelResponse()  # its types are completed on first use, which warns once more
        return litellm


def _openai_base_url(model: str) -> str | None:
    return os.environ.get("OPENAI_BASE_URL") or None if model.startswith("openai/") else None


def _arguments(request: Request, base_url: str | None, api_key: str | None) -> dict[str, Any]:
    """What litellm is called with; parameters that a model does not take (a temperature, say) are left out by it."""
    arguments: dict[str, Any] = {
        "model": request.model,
        "messages": [dict(message) for message in request.messages],
        "temperature": request.temperature,
        "drop_params": True,
    }
    if request.max_tokens is not None:
        arguments["max_tokens"] = request.max_tokens
    if request.schema is not None:
        schema = {"name": "reply", "schema": dict(request.schema)}
        arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
    if base_url is not None:
        arguments["base_url"] = base_url
    if api_key is not None or _needs_placeholder_key(request.model, base_url):
        arguments["api_key"] = api_key or "none"
    return arguments


def _needs_placeholder_key(model: str, base_url: str | None) -> bool:
    """A local server asks for no key, but the client library refuses to send a request without one."""
    return base_url is not None and model.startswith("openai/") and not os.environ.get("OPENAI_API_KEY")


def _reply(response: Any, request: Request, latency_seconds: float) -> Reply:
    choices = getattr(response, "choices", None)
    text = getattr(choices[0].message, "content", None) if choices else None
    if choices and choices[0].finish_reason == "content_filter":
        raise LMError(f"{request.model} withheld its answer: content filter.", kind=LMErrorKind.CONTENT_POLICY)
    if not isinstance(text, str):
        raise LMError(f"{request.model} answered without any text.", kind=LMErrorKind.MALFORMED)
    hidden = getattr(response, "_hidden_params", None) or {}
    cost_usd = hidden.get("response_cost")
    return Reply(
        text=text,
        usage=_usage(getattr(response, "usage", None)),
        cost_usd=None if cost_usd is None else float(cost_usd),
        latency_seconds=latency_seconds,
    )


def _usage(usage: Any) -> Usage | None:
    prompt_tokens = getattr(usage, "prompt_tokens", None)
    completion_tokens = getattr(usage, "completion_tokens", None)
    if prompt_tokens is None or completion_tokens is None:
        return None
    return Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)


def _lm_error(error: Exception, request: Request, base_url: str | None) -> LMError:
    status = _status(error)
    text = _text(error)
    kind = _kind(error, status, text)
    return LMError(
        f"{request.model}{f' at {base_url}' if base_url else ''}: {_said(error, kind, text)}",
        kind=kind,
        status=status,
        retry_after_seconds=_retry_after_seconds(error),
    )


def _kind(error: Exception, status: int | None, text: str) -> LMErrorKind:
    """What went wrong, by what was said and by status; litellm's class names and invented 500s mislead.

    It calls a missing key, a refused connection and a page of HTML alike "internal server error", status 500.
    """
    said = text.lower()
    for kind, phrases in _PHRASES.items():
        if any(phrase in said for phrase in phrases):
            return kind
    if status in (408, 504):
        return LMErrorKind.TIMEOUT
    if any(isinstance(cause, json.JSONDecodeError) for cause in _causes(error)):
        return LMErrorKind.MALFORMED
    if status in (401, 402, 403):
        return LMErrorKind.AUTH
    if status == 429:
        return LMErrorKind.RATE_LIMIT
    if _is_unreachable(error) or (status or 0) >= 500:
        return LMErrorKind.SERVER
    return LMErrorKind.BAD_REQUEST


_PHRASES: Mapping[LMErrorKind, tuple[str, ...]] = {
    LMErrorKind.AUTH: ("missing credentials", "api_key client option must be set", "insufficient_quota"),
    LMErrorKind.MALFORMED: ("empty or invalid response from llm endpoint",),
    LMErrorKind.CONTEXT_WINDOW: ("context_length_exceeded", "maximum context length", "prompt is too long"),
    LMErrorKind.CONTENT_POLICY: ("content_policy_violation", "content_filter", "content management policy"),
}


def _said(error: Exception, kind: LMErrorKind, text: str) -> str:
    if _is_unreachable(error):
        return "nothing answers at this address. Is the server running, and is base_url (OPENAI_BASE_URL) right?"
    words = " ".join(_KEY.sub("…", _PREFIX.sub("", text)).split())[:300]
    if kind is LMErrorKind.AUTH:
        return f"{words} (set the provider's key, for instance OPENAI_API_KEY, and check what its account may use)"
    return words


_PREFIX = re.compile(r"^(?:litellm\.)?(?:\w+(?:Error|Timeout|Exception): |Timeout Error: |\w+Exception - )+")
_KEY = re.compile(r"\bsk-[\w-]{8,}")


def _text(error: Exception) -> str:
    """The message, and the code that the provider gave in the body."""
    body = getattr(error, "body", None)
    code = body.get("code") if isinstance(body, Mapping) else None
    return f"{error} ({code})" if code else str(error)


def _status(error: Exception) -> int | None:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def _is_unreachable(error: Exception) -> bool:
    return any(isinstance(cause, ConnectionError | socket.gaierror) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on to the first."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _retry_after_seconds(error: Exception) -> float | None:
    headers = getattr(error, "litellm_response_headers", None) or {}
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        return _seconds_until(value)


def _seconds_until(date: str) -> float | None:
    """From now to an HTTP date, which is the other way to write ``Retry-After``."""
    try:
        moment = parsedate_to_datetime(date)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time())
