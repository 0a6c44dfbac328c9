"""Endpoints that speak OpenAI's chat protocol, over aiohttp: OpenAI itself, vLLM, llama.cpp, LM Studio, a gateway."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from ipaddress import ip_address
from time import perf_counter, time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from weakref import finalize

from pytest_promptopt.errors import LMError, LMErrorKind
from pytest_promptopt.lms.base import Reply, Request, Usage
from pytest_promptopt.lms.chat import Amendments, parameters_of, read_completion
from pytest_promptopt.lms.faults import (
    Origin,
    Said,
    error_from_exception,
    error_from_words,
    malformed,
    missing_key,
    read_key,
    read_words,
    secrets_in,
    timed_out,
    words_of,
)
from pytest_promptopt.lms.models import OPENAI_PROVIDERS, ModelSettings, Price, Provider, without_credentials
from pytest_promptopt.lms.prices import find_price

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

CONNECT_SECONDS = 10.0
_to_json = json.JSONEncoder(separators=(",", ":")).encode
_LARGE_BYTES = 1024 * 1024
MOST_BYTES = 16 * 1024 * 1024
"""A reply that is longer is none."""


class OpenAICompatible:
    """Answers for one model over connections of its own.

    The key is read from ``environ`` whenever it gets ready, and goes nowhere but into the header.
    """

    def __init__(self, settings: ModelSettings, *, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._amendments = Amendments(is_reasoning=is_reasoning(settings.model_name))
        self._routes: dict[str | None, _Route] = {}
        self._line: _Line | None = None
        self._secrets = secrets_in(environ)

    async def prepare(self) -> None:
        """Get ready on this loop. Raises ``LMError`` where no call could succeed: no key, no address."""
        self._routes, self._secrets = {}, secrets_in(self._environ)
        self._route(None)
        self._line_here()
        _ = self._price  # its table takes a moment to read

    async def acomplete(self, request: Request) -> Reply:
        """Answer in one attempt. Raises :class:`~pytest_promptopt.errors.LMError` for whatever goes wrong."""
        settings = self._settings
        route = self._routes.get(request.endpoint) or self._route(request.endpoint)
        parameters = parameters_of(request, takes_schema=settings.has_structured_output)
        sent = self._amendments.apply({"model": settings.model_name, **parameters})
        started = perf_counter()
        status, headers, content = await self._line_here().post(route, sent)
        if 200 <= status < 300:
            return self._reply(content, route.origin, perf_counter() - started)
        said = read_words(content.decode("utf-8", "replace"))
        error = error_from_words(route.origin, said, status=status, headers=headers, now=time())
        raise self._amendments.note(error, said, sent)

    async def aclose(self) -> None:
        """Close the connections. Awaited on the loop that made them, at the very end."""
        line, self._line = self._line, None
        if line is not None and line.is_here():
            await line.hang_up()

    @cached_property
    def _price(self) -> Price | None:
        return find_price(self._settings)

    def _cost_of(self, usage: Usage) -> float | None:
        return None if self._price is None else self._price.cost_usd(usage)

    def _line_here(self) -> _Line:
        """The connections of the loop that runs here; those of another loop, or of the parent, are not touched."""
        if self._line is None or not self._line.is_here():
            self._line = _Line(self._settings.timeout_seconds)
        return self._line

    def _route(self, endpoint: str | None) -> _Route:
        """Where requests go that name ``endpoint``, and what goes with each."""
        origin = self._origin(endpoint)
        if not origin.key and self._settings.needs_key and (endpoint is None or self._settings.key_variable):
            raise missing_key(origin)
        try:
            route = self._routes[endpoint] = _Route.to(origin, self._environ)
        except ValueError as error:
            raise _no_address(origin, error) from None
        return route

    def _origin(self, endpoint: str | None) -> Origin:
        settings = self._settings
        key = read_key(settings, self._environ)
        address = endpoint or settings.base_url or OPENAI_PROVIDERS.get(settings.provider, _NOBODY).base_url
        origin = Origin(
            settings=settings, address=address, key_variable=settings.key_name, key=key, secrets=self._secrets
        )
        if address is None:
            variable = "".join(f", or {name}" for name in settings.base_url_variables[:1])
            message = f"{origin.name}: no address. Set base_url in [tool.pytest-promptopt.models.{settings.table_name}]"
            raise LMError(f"{message}{variable}.", kind=LMErrorKind.BAD_REQUEST, is_lasting=True)
        return origin

    def _reply(self, content: bytes, origin: Origin, latency_seconds: float) -> Reply:
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            came = content[:2000].decode("utf-8", "replace")
            raise malformed(origin, "the reply is no JSON", came) from None
        text, usage, cost_usd = read_completion(body, origin, self._cost_of)
        return Reply(text=text, usage=usage, cost_usd=cost_usd, latency_seconds=latency_seconds)


_NOBODY = Provider(base_url=None, base_url_variables=(), key_variable="", needs_key=False)


def _no_address(origin: Origin, error: ValueError) -> LMError:
    message = f"{origin.name}: no request can be sent there, is base_url right? {words_of(str(error), origin)}"
    return LMError(message, kind=LMErrorKind.BAD_REQUEST, is_lasting=True)


def is_reasoning(model_name: str) -> bool:
    """Whether OpenAI's model of this name reasons first: it takes no temperature, and ``max_completion_tokens``."""
    return re.match(r"(?:o[134]|gpt-5)(?!\d)(?!-chat)", model_name.rpartition("/")[2]) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """One address with everything that is the same for each request to it."""

    origin: Origin
    url: URL
    headers: Mapping[str, str]
    proxy: Proxy | None

    @classmethod
    def to(cls, origin: Origin, environ: Mapping[str, str]) -> _Route:
        from yarl import URL

        address = f"{origin.address}/chat/completions"
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "pytest-promptopt"}
        if origin.key:
            headers["Authorization"] = f"Bearer {origin.key}"
        proxy = proxy_for(address, environ)
        if proxy is not None and proxy.url.lower().startswith("socks"):
            raise _only_http(proxy, origin)
        return cls(origin=origin, url=URL(address), headers=headers, proxy=proxy)


def _connector() -> aiohttp.TCPConnector:
    """One that leaves connections alone which nobody closed.

    After a fork the child has a copy of the parent's, and shares the kernel's list of what the parent waits for:
    closing one when it is collected would strike the parent's off that list, and the parent would wait for ever.
    """
    import aiohttp

    class Connector(aiohttp.TCPConnector):
        def __del__(self, _warnings: object = None) -> None:
            pass

    return Connector(limit=0)


def _close_there(connector: aiohttp.TCPConnector, loop: asyncio.AbstractEventLoop, pid: int) -> None:
    """Let the loop that made the connections close them. Those of the parent are the parent's."""

    async def close() -> None:
        await connector.close()

    if pid == os.getpid() and loop.is_running():
        with suppress(RuntimeError):  # it stopped in this moment
            loop.call_soon_threadsafe(lambda: loop.create_task(close()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """Where requests go instead of straight to the server, and the environment variable that says so."""

    url: str
    variable: str


def proxy_for(address: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy on the way to ``address``, as the environment has it; none to this machine.

    Asked once for each address: aiohttp's own ``trust_env`` asks for every call, and reads ``~/.netrc`` besides.
    """
    parts = urlsplit(address)
    host = parts.hostname or ""
    if _is_this_machine(host) or _is_exempt(host, environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
        return None
    names = (f"{parts.scheme}_proxy", f"{parts.scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")
    variable = next((name for name in names if environ.get(name)), None)
    if variable is None:
        return None
    url = environ[variable]
    return Proxy(url=url if "://" in url else f"http://{url}", variable=variable)


def _only_http(proxy: Proxy, origin: Origin) -> LMError:
    message = (
        f"{origin.name}: {proxy.variable} names the SOCKS proxy {without_credentials(proxy.url)}, and aiohttp speaks "
        "HTTP proxies only. Name one of those, or exempt this address with NO_PROXY."
    )
    return LMError(message, kind=LMErrorKind.BAD_REQUEST, is_lasting=True)


def _no_way_through(proxy: Proxy, origin: Origin) -> LMError:
    shown = without_credentials(proxy.url)
    message = f"{origin.name}: no connection to the proxy {shown}. Is it running, and is {proxy.variable} right?"
    return LMError(message, kind=LMErrorKind.SERVER, is_billed=False)


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_exempt(host: str, no_proxy: str) -> bool:
    """Whether a list such as ``localhost,.example.com`` has the host, or a domain that it is in."""
    names = [name.strip().lower().lstrip(".") for name in no_proxy.split(",") if name.strip()]
    return any(name == "*" or host == name or host.endswith(f".{name}") for name in names)


class _Line:
    """The connections of one event loop, in one process. How many are open at once is for the caller to decide.

    Whoever forgets to hang up gets no warning: once nobody uses them, their loop closes them, if it still runs.
    """

    def __init__(self, timeout_seconds: float) -> None:
        import aiohttp

        self._loop, self._pid = asyncio.get_running_loop(), os.getpid()
        connector = _connector()
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds, connect=CONNECT_SECONDS),
        )
        self._silence = finalize(self, aiohttp.ClientSession.detach, self._session)
        self._closing = finalize(self, _close_there, connector, self._loop, self._pid)
        self._closing.atexit = False

    def is_here(self) -> bool:
        """Whether this is the loop, and the process, that the connections belong to."""
        return self._loop is asyncio.get_running_loop() and self._pid == os.getpid()

    async def post(self, route: _Route, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and content of the answer. Raises ``LMError`` where there is none."""
        import aiohttp

        origin = route.origin
        try:
            return await self._post(route, _to_json(body).encode())
        except aiohttp.ServerTimeoutError:  # no time-out but that for connecting is this one's
            seconds = f"{CONNECT_SECONDS:g}"
            message = f"{origin.name}: no connection within {seconds} seconds. Is base_url right, and the network up?"
            raise LMError(message, kind=LMErrorKind.SERVER, is_billed=False) from None
        except TimeoutError:
            raise timed_out(origin) from None
        except aiohttp.ClientHttpProxyError as error:
            raise error_from_words(origin, Said(text=error.message), status=error.status) from None
        except aiohttp.ClientResponseError as error:
            raise malformed(origin, "what answers there does not speak HTTP", error.message) from None
        except ValueError as error:
            raise _no_address(origin, error) from None
        except (aiohttp.ClientError, OSError, EOFError) as error:
            no_proxy = (aiohttp.ClientProxyConnectionError, aiohttp.ClientConnectorDNSError)
            if route.proxy is not None and isinstance(error, no_proxy):
                raise _no_way_through(route.proxy, origin) from None
            is_sent = not isinstance(error, aiohttp.ClientConnectorError)
            raise error_from_exception(origin, error, is_sent=is_sent) from None

    async def _post(self, route: _Route, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        import aiohttp

        proxy = None if route.proxy is None else route.proxy.url
        data = body if len(body) < _LARGE_BYTES else BytesIO(body)  # else aiohttp warns of the moment that it takes
        async with self._session.post(
            route.url, data=data, headers=route.headers, proxy=proxy, allow_redirects=False
        ) as response:
            try:
                return response.status, response.headers, await _content_of(response, route.origin)
            except (aiohttp.ClientError, OSError, EOFError) as error:
                broken = error_from_exception(route.origin, error)
                broken.is_billed = response.status < 400
                raise broken from None

    async def hang_up(self) -> None:
        """Close every connection."""
        self._silence.detach()
        self._closing.detach()
        await self._session.close()


async def _content_of(response: aiohttp.ClientResponse, origin: Origin) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            response.close()
            raise malformed(origin, f"the reply is longer than {MOST_BYTES // 2**20} MiB")
    return b"".join(parts)
