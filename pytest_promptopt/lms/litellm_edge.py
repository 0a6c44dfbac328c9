"""Every provider that litellm knows, through its asynchronous call: one attempt, our own errors, our own retries."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import ssl
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from threading import Lock
from time import perf_counter, time
from types import ModuleType
from typing import Any

from pytest_promptopt.errors import LMError
from pytest_promptopt.lms.base import Reply, Request, Usage
from pytest_promptopt.lms.chat import Amendments, parameters_of, read_completion
from pytest_promptopt.lms.faults import (
    Origin,
    Said,
    causes_of,
    error_from_exception,
    error_from_words,
    malformed,
    missing_key,
    read_key,
    read_words,
    secrets_in,
    timed_out,
)
from pytest_promptopt.lms.models import OPENAI_PROVIDERS, ModelSettings, Price
from pytest_promptopt.lms.prices import find_price


class LiteLLM:
    """Answers for one ``provider/model`` that litellm knows.

    Its key is the variable that the settings name, read from ``environ``; where they name none, litellm finds the
    provider's own in the process environment.
    """

    def __init__(self, settings: ModelSettings, *, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._amendments = Amendments()
        self._module: ModuleType | None = None
        self._takes_schema = False
        self._secrets = secrets_in(environ)

    async def prepare(self) -> None:
        """Import litellm, for seconds, in which others go on. Raises ``LMError`` where the key is missing."""
        self._secrets = secrets_in(self._environ)
        origin = self._origin(None)
        litellm = await self._litellm()
        if not origin.key and origin.address is None and (variable := _missing_variable(litellm, self._settings)):
            raise missing_key(Origin(settings=self._settings, key_variable=variable))
        _ = self._price  # its table takes a moment to read

    async def acomplete(self, request: Request) -> Reply:
        """Answer in one attempt. Raises :class:`~pytest_promptopt.errors.LMError` for whatever goes wrong."""
        origin = self._origin(request.endpoint)
        litellm = await self._litellm()
        parameters = parameters_of(request, takes_schema=self._takes_schema)
        sent = self._amendments.apply({**parameters, "messages": [dict(message) for message in request.messages]})
        arguments = {"model": self._settings.model, **sent, **_way(origin), "drop_params": True, "max_retries": 0}
        started, limit = perf_counter(), asyncio.timeout(self._settings.timeout_seconds)
        try:
            async with limit:  # litellm's own counts from one piece of the answer to the next
                response = await litellm.acompletion(**arguments, timeout=self._settings.timeout_seconds)
        except Exception as error:  # noqa: BLE001 - litellm raises what its providers' libraries raise
            if limit.expired():
                raise timed_out(origin) from None
            raise self._lm_error(error, origin, sent) from None  # their words may hold the key
        return self._reply(response, origin, perf_counter() - started)

    async def aclose(self) -> None:
        """Close the connections that litellm keeps for reuse. Awaited on the loop that made them, at the very end."""
        if self._module is not None:
            await self._module.close_litellm_async_clients()

    @cached_property
    def _price(self) -> Price | None:
        return find_price(self._settings)

    async def _litellm(self) -> ModuleType:
        if self._module is None:
            litellm = await asyncio.to_thread(litellm_module)
            self._takes_schema = self._settings.has_structured_output and _takes_schema(litellm, self._settings.model)
            self._module = litellm
        return self._module

    def _origin(self, endpoint: str | None) -> Origin:
        """Who is asked. Raises ``LMError`` for want of a key, as far as that can be told without litellm."""
        settings = self._settings
        key = read_key(settings, self._environ)
        address = endpoint or settings.base_url
        origin = Origin(
            settings=settings, address=address, key_variable=_key_variable(settings), key=key, secrets=self._secrets
        )
        if not key and settings.needs_key and (endpoint is None or settings.key_variable):
            raise missing_key(origin)
        return origin

    def _reply(self, response: Any, origin: Origin, latency_seconds: float) -> Reply:
        def cost_of(usage: Usage) -> float | None:
            if self._price is not None:
                return self._price.cost_usd(usage)
            return (getattr(response, "_hidden_params", None) or {}).get("response_cost") or None  # 0 is a guess

        text, usage, cost_usd = read_completion(_body_of(response), origin, cost_of)
        return Reply(text=text, usage=usage, cost_usd=cost_usd, latency_seconds=latency_seconds)

    def _lm_error(self, error: Exception, origin: Origin, sent: Mapping[str, Any]) -> LMError:
        """What went wrong: by the provider's own response where there is one, else by what broke underneath."""
        response = _refusal_in(error)
        if response is not None:
            status, headers, body = response
            said = read_words(body)
            lm_error = error_from_words(origin, said, status=status, headers=headers, now=time())
            return self._amendments.note(lm_error, said, sent)
        came = _unreadable_in(error)
        if came is not None:
            return malformed(origin, "the reply is no completion", came)
        if _is_of_transport(error):
            return error_from_exception(origin, error, is_sent=not _is_unconnected(error))
        return _error_by_attributes(error, origin)


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


def _way(origin: Origin) -> dict[str, Any]:
    """Where a request goes, and with which key, as litellm is told. It refuses to send one without any."""
    way: dict[str, Any] = {} if origin.address is None else {"base_url": origin.address}
    if origin.key:
        way["api_key"] = origin.key
    elif origin.address is not None and origin.settings.provider in OPENAI_PROVIDERS:
        way["api_key"] = "none"
    return way


def _body_of(response: Any) -> dict[str, Any]:
    """The parts of litellm's response that count, as the protocol has them; dumping all of it warns about its types."""
    usage = getattr(response, "usage", None)
    return {
        "choices": [
            {
                "finish_reason": getattr(choice, "finish_reason", None),
                "message": _fields(getattr(choice, "message", None), "content", "refusal", "provider_specific_fields"),
            }
            for choice in getattr(response, "choices", None) or ()
        ],
        "usage": {
            **_fields(usage, "prompt_tokens", "completion_tokens"),
            "prompt_tokens_details": _fields(getattr(usage, "prompt_tokens_details", None), "cached_tokens"),
            "completion_tokens_details": _fields(getattr(usage, "completion_tokens_details", None), "reasoning_tokens"),
        },
    }


def _fields(part: object, *names: str) -> dict[str, Any]:
    return {name: getattr(part, name, None) for name in names}


def _takes_schema(litellm: ModuleType, model: str) -> bool:
    try:
        return bool(litellm.supports_response_schema(model=model))
    except Exception:  # noqa: BLE001 - a provider that it does not know, which the call will say
        return False


_SEVERAL_WAYS = frozenset(
    {"azure", "azure_ai", "bedrock", "sagemaker", "vertex_ai", "watsonx", "ollama", "ollama_chat"}
)
"""Providers that let one in by roles, tokens or files as well, or ask for nothing: a missing key says little there."""


def _key_variable(settings: ModelSettings) -> str | None:
    """The variable that the key was read from; litellm tells its name only of one that is missing."""
    if settings.key_name is not None or settings.provider in _SEVERAL_WAYS:
        return settings.key_name
    return f"{settings.provider.upper().replace('-', '_')}_API_KEY"


def _missing_variable(litellm: ModuleType, settings: ModelSettings) -> str | None:
    """The variable with the provider's key, where litellm is sure that it needs one and finds none."""
    if settings.provider in _SEVERAL_WAYS:
        return None
    missing = litellm.validate_environment(model=settings.model)["missing_keys"]
    return missing[-1] if missing and all(name.endswith(("_KEY", "_TOKEN")) for name in missing) else None


def _refusal_in(error: BaseException) -> tuple[int, Mapping[str, str], str] | None:
    """Status, headers and body as the provider sent them: some cause has the response, with a status of 4xx or 5xx.

    litellm's own exceptions have a response too, which it made up.
    """
    for cause in reversed(tuple(causes_of(error))):
        response = getattr(cause, "response", None)
        status = getattr(response, "status_code", 0)
        if isinstance(status, int) and status >= 300 and not type(cause).__module__.startswith("litellm"):
            with suppress(Exception):  # one whose body was not read
                return status, response.headers, response.text  # type: ignore[union-attr]
    return None


def _unreadable_in(error: BaseException) -> str | None:
    """What came where litellm could not read a reply, which it calls an internal server error."""
    documents = [cause.doc for cause in causes_of(error) if isinstance(cause, json.JSONDecodeError)]
    if documents:
        return documents[0]
    return _PREFIX.sub("", str(error)) if _UNREADABLE.search(str(error)) else None


def _is_of_transport(error: BaseException) -> bool:
    """Whether a connection failed, or took too long. litellm's clients are httpx's, at times with aiohttp beneath."""
    import httpx

    kinds = (ConnectionError, TimeoutError, EOFError, socket.gaierror, ssl.SSLError, httpx.TransportError)
    return any(isinstance(cause, kinds) for cause in causes_of(error))


def _is_unconnected(error: BaseException) -> bool:
    """Whether there never was a connection, so that nobody can have worked on an answer."""
    import httpx

    kinds = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
    return any(isinstance(cause, kinds) for cause in causes_of(error))


_UNREADABLE = re.compile(r"empty or invalid response from llm endpoint|invalid response object", re.IGNORECASE)
_PREFIX = re.compile(r"^(?:litellm\.)?(?:\w+(?:Error|Timeout|Exception): |Timeout Error: |\w+Exception - )+")


def _error_by_attributes(error: Exception, origin: Origin) -> LMError:
    """What litellm says itself, where nothing better is left of the cause."""
    status = getattr(error, "status_code", None)
    code = getattr(error, "code", None)
    codes = [each for each in (status, code) if isinstance(each, str)]
    said = Said(code=" ".join(codes), text=_PREFIX.sub("", str(error)))
    headers = getattr(error, "litellm_response_headers", None)
    lm_error = error_from_words(
        origin, said, status=status if isinstance(status, int) else None, headers=headers, now=time()
    )
    if lm_error.status is None:  # it may have come in place of an answer, after some work on that
        lm_error.is_billed = True
    return lm_error
