"""What is the direct edge's own: its connections, the way to the server, and replies that litellm cannot read."""

import asyncio
import gc
import json
import os
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from typing import Any

import pytest

from pytest_promptopt.errors import LMError, LMErrorKind
from pytest_promptopt.lms.background import BackgroundLoop
from pytest_promptopt.lms.base import Request
from pytest_promptopt.lms.models import Catalog
from pytest_promptopt.lms.openai_edge import MOST_BYTES, OpenAICompatible, is_reasoning, proxy_for
from tests.loopback import Answer, Loopback, completion, nobody_listens, serving

REQUEST = Request(model="openai/gpt-4o-mini", messages=({"role": "user", "content": "hello"},))
GZIP = 31  # what zlib calls it


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as server:
        yield server


def lm_for(
    base_url: str | None, *, model: str = "openai/gpt-4o-mini", environ: dict[str, str] | None = None, **table: Any
) -> OpenAICompatible:
    values = {"model": model, **table, **({"base_url": base_url} if base_url else {})}
    return OpenAICompatible(Catalog({"mini": values}).find("mini"), environ=environ or {})


def answer(lm: OpenAICompatible, request: Request = REQUEST) -> str:
    async def session() -> str:
        try:
            return (await lm.acomplete(request)).text
        finally:
            await lm.aclose()

    return asyncio.run(session())


def failure(lm: OpenAICompatible) -> LMError:
    with pytest.raises(LMError) as caught:
        answer(lm)
    return caught.value


class Raw:
    """A server that counts connections, and answers every request with the same bytes."""

    def __init__(self, response: bytes) -> None:
        self.response = response
        self.connections = 0
        self.url = ""
        self.is_hung_up = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.lower().split(b": ") for line in head.split(b"\r\n")[1:-2])
                await reader.readexactly(int(fields[b"content-length"]))
                writer.write(self.response)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            self.is_hung_up.set()


@asynccontextmanager
async def raw(body: bytes, *headers: str) -> AsyncIterator[Raw]:
    head = "".join(f"{line}\r\n" for line in ("HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers, ""))
    server = Raw(head.encode() + body)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listening.close()


def test_connections_are_used_again_and_are_as_many_as_calls_at_once() -> None:
    async def session() -> tuple[int, int]:
        async with raw(completion("billing").body.encode()) as server:
            lm = lm_for(server.url)
            for _ in range(5):
                await lm.acomplete(REQUEST)
            one_by_one = server.connections
            await asyncio.gather(*(lm.acomplete(REQUEST) for _ in range(150)))
            at_once = server.connections
            await asyncio.gather(*(lm.acomplete(REQUEST) for _ in range(150)))
            assert server.connections == at_once
            await lm.aclose()
            return one_by_one, at_once

    assert asyncio.run(session()) == (1, 150)


def test_a_compressed_reply_is_read() -> None:
    async def session() -> str:
        packer = zlib.compressobj(wbits=GZIP)
        packed = packer.compress(completion("billing").body.encode()) + packer.flush()
        async with raw(packed, "Content-Encoding: gzip") as server:
            lm = lm_for(server.url)
            reply = await lm.acomplete(REQUEST)
            await lm.aclose()
            return reply.text

    assert asyncio.run(session()) == "billing"


def test_a_reply_without_end_is_none() -> None:
    async def session() -> None:
        async with raw(b" " * (MOST_BYTES + 1)) as server:
            lm = lm_for(server.url)
            with pytest.raises(LMError, match="longer than 16 MiB") as caught:
                await lm.acomplete(REQUEST)
            assert caught.value.kind is LMErrorKind.MALFORMED
            await lm.aclose()

    asyncio.run(session())


def test_what_speaks_no_http_is_malformed() -> None:
    async def session() -> LMError:
        async with raw(b"") as server:
            server.response = b"SSH-2.0-OpenSSH_9.6\r\n\r\n"
            lm = lm_for(server.url)
            with pytest.raises(LMError) as caught:
                await lm.acomplete(REQUEST)
            await lm.aclose()
            return caught.value

    error = asyncio.run(session())
    assert error.kind is LMErrorKind.MALFORMED
    assert "does not speak HTTP" in str(error)


def test_another_loop_gets_connections_of_its_own(server: Loopback) -> None:
    server.will(completion("one"), completion("two"), completion("three"))
    lm = lm_for(server.url)
    with closing(BackgroundLoop()) as first, closing(BackgroundLoop()) as second:
        texts = [loop.run(lm.acomplete(REQUEST)).text for loop in (first, second)]
        second.run(lm.aclose())
        texts.append(second.run(lm.acomplete(REQUEST)).text)
        second.run(lm.aclose())
        first.run(asyncio.sleep(0))
    assert texts == ["one", "two", "three"]


FORGETFUL = """
import asyncio, os, sys
from pytest_promptopt.lms.background import BackgroundLoop
from pytest_promptopt.lms.base import Request
from pytest_promptopt.lms.models import Catalog
from pytest_promptopt.lms.registry import Registry
request = Request(model="openai/gpt-4o-mini", messages=({"role": "user", "content": "hello"},))
lm = Registry(Catalog(environ={"OPENAI_BASE_URL": sys.argv[1]}), environ={}).lm_for(request.model)
background = BackgroundLoop()
print(background.run(lm.acomplete(request)).text, flush=True)
child = os.fork()
if not child:
    print(background.run(lm.acomplete(request)).text, flush=True)
    sys.exit()
os.waitpid(child, 0)
print(background.run(lm.acomplete(request)).text)
assert "litellm" not in sys.modules
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_program_that_forks_and_closes_nothing_gets_its_replies_and_no_warning(server: Loopback) -> None:
    server.will(completion("before"), completion("child"), completion("after"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "default::ResourceWarning", "-c", FORGETFUL, server.url]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert "nclosed client" not in finished.stderr
    assert "nclosed connect" not in finished.stderr
    assert finished.stdout.split() == ["before", "child", "after"]


def test_one_that_is_dropped_is_hung_up_by_its_loop_and_nobody_is_warned() -> None:
    async def session() -> None:
        async with raw(completion("billing").body.encode()) as server:
            lm = lm_for(server.url)
            await lm.acomplete(REQUEST)
            del lm
            gc.collect()
            await server.is_hung_up.wait()

    asyncio.run(asyncio.wait_for(session(), timeout=30))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_key_follows_no_redirect(server: Loopback, status: int) -> None:
    server.will(Answer(status=status, body="", headers={"Location": f"{server.url}/elsewhere"}))
    error = failure(lm_for(server.url, environ={"OPENAI_API_KEY": "sk-0123456789"}))
    assert (error.kind, error.is_lasting) == (LMErrorKind.BAD_REQUEST, True)
    assert "is base_url right?" in str(error)
    assert len(server.heard) == 1


def test_without_a_key_no_header_is_sent(server: Loopback) -> None:
    server.will(completion("billing"))
    answer(lm_for(server.url, model="hosted_vllm/mine"))
    assert "authorization" not in server.heard[0].headers


def test_a_key_is_read_whenever_it_gets_ready(server: Loopback) -> None:
    server.will(completion("one"), completion("two"))
    environ = {"OPENAI_API_KEY": "first-key"}
    lm = lm_for(server.url, environ=environ)

    async def session() -> None:
        await lm.prepare()
        await lm.acomplete(REQUEST)
        environ["OPENAI_API_KEY"] = "second-key"
        await lm.prepare()
        await lm.acomplete(REQUEST)
        await lm.aclose()

    asyncio.run(session())
    assert [heard.headers["authorization"] for heard in server.heard] == ["Bearer first-key", "Bearer second-key"]


@pytest.mark.parametrize("model", ["hosted_vllm/mine", "litellm_proxy/mine", "acme/mine"])
def test_a_provider_without_an_address_asks_for_one(model: str) -> None:
    lm = lm_for(None, model=model, edge="openai")
    with pytest.raises(
        LMError, match=r"Set base_url in \[tool.pytest-promptopt.models.mini\], or \w+_API_BASE"
    ) as caught:
        asyncio.run(lm.prepare())
    assert caught.value.is_lasting


@pytest.mark.parametrize("url", ["http://user:pass@127.0.0.1:1/v1", "http://[::1/v1", "http://"])
def test_an_address_that_cannot_be_one_is_the_users_to_mend(url: str) -> None:
    settings = replace(Catalog().find("openai/gpt-4o-mini"), base_url=url)
    error = failure(OpenAICompatible(settings, environ={"OPENAI_API_KEY": "sk-0123456789"}))
    assert (error.kind, error.is_lasting) == (LMErrorKind.BAD_REQUEST, True)
    assert "base_url" in str(error)
    assert "pass" not in str(error)


def test_text_in_parts_is_joined(server: Loopback) -> None:
    parts = [{"type": "text", "text": "bill"}, {"type": "thinking"}, {"type": "text", "text": "ing"}]
    server.will(completion(None, choices=[{"message": {"role": "assistant", "content": parts}}]))
    assert answer(lm_for(server.url)) == "billing"


def test_any_text_arrives_as_it_is(server: Loopback) -> None:
    text = 'Zoë 🐍 \u2028 \ud800 \x00 \\ "'
    server.will(completion("billing"))
    answer(lm_for(server.url), replace(REQUEST, messages=({"role": "user", "content": text},)))
    assert server.heard[0].body["messages"] == [{"role": "user", "content": text}]


def test_a_schema_is_sent_as_json_and_not_as_text(server: Loopback) -> None:
    server.will(completion("billing"))
    schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    answer(lm_for(server.url), replace(REQUEST, schema=json.dumps(schema)))
    assert server.heard[0].body["response_format"]["json_schema"]["schema"] == schema


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("o1", True),
        ("o3-mini", True),
        ("o4-mini-2025-04-16", True),
        ("gpt-5", True),
        ("gpt-5.4-mini", True),
        ("openai/gpt-5-nano", True),
        ("gpt-5-chat-latest", False),
        ("gpt-4o", False),
        ("gpt-50", False),
        ("o2-mini", False),
        ("olmo-1", False),
        ("gpt-oss-20b", False),
    ],
)
def test_models_that_reason_are_known_by_name(name: str, reasons: bool) -> None:
    assert is_reasoning(name) is reasons


PROXY = "http://proxy.example.com:3128"


@pytest.mark.parametrize(
    ("address", "environ", "proxy"),
    [
        ("https://api.openai.com/v1", {"HTTPS_PROXY": PROXY}, PROXY),
        ("https://api.openai.com/v1", {"https_proxy": "proxy.example.com:3128"}, PROXY),
        ("https://api.openai.com/v1", {"ALL_PROXY": PROXY}, PROXY),
        ("https://api.openai.com/v1", {"HTTP_PROXY": PROXY}, None),
        ("https://api.openai.com/v1", {"HTTPS_PROXY": PROXY, "NO_PROXY": "example.com, .openai.com"}, None),
        ("https://api.openai.com/v1", {"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}, None),
        ("https://notopenai.com/v1", {"HTTPS_PROXY": PROXY, "NO_PROXY": "openai.com"}, PROXY),
        ("http://127.0.0.1:8000/v1", {"HTTP_PROXY": PROXY}, None),
        ("http://[::1]:8000/v1", {"HTTP_PROXY": PROXY}, None),
        ("http://localhost:8000/v1", {"HTTP_PROXY": PROXY}, None),
        ("http://10.0.0.7:8000/v1", {"HTTP_PROXY": PROXY}, PROXY),
        ("http://10.0.0.7:8000/v1", {}, None),
    ],
)
def test_the_way_leads_through_the_users_proxy_but_not_on_this_machine(
    address: str, environ: dict[str, str], proxy: str | None
) -> None:
    found = proxy_for(address, environ)
    assert (found and found.url) == proxy
    assert found is None or environ[found.variable] in (PROXY, "proxy.example.com:3128")


@pytest.mark.parametrize("name", ["HTTP_PROXY", "all_proxy"])
def test_a_proxy_that_is_gone_is_named_with_its_variable_and_without_its_password(name: str) -> None:
    with nobody_listens() as nowhere:
        proxy = nowhere.removesuffix("/v1")
        environ = {name: proxy.replace("//", "//me:s3cret@"), "OPENAI_API_KEY": "sk-0123456789"}
        error = failure(lm_for("http://api.example.com/v1", environ=environ))
    assert (error.kind, error.is_lasting, error.is_billed) == (LMErrorKind.SERVER, False, False)
    assert f"no connection to the proxy {proxy}. Is it running, and is {name} right?" in str(error)
    assert "base_url" not in str(error)


@pytest.mark.parametrize("scheme", ["socks4", "socks5", "SOCKS5h"])
def test_a_socks_proxy_is_refused_before_the_first_call(scheme: str) -> None:
    environ = {"ALL_PROXY": f"{scheme}://me:s3cret@proxy.example.com:1080", "OPENAI_API_KEY": "sk-0123456789"}
    with pytest.raises(LMError, match=r"ALL_PROXY names the SOCKS proxy .*aiohttp speaks HTTP proxies only") as caught:
        asyncio.run(lm_for("http://api.example.com/v1", environ=environ).prepare())
    assert caught.value.is_lasting
    assert "s3cret" not in str(caught.value)


def test_a_large_request_is_sent_without_a_warning(server: Loopback) -> None:
    text = "long " * 300_000
    server.will(completion("billing"))
    assert answer(lm_for(server.url), replace(REQUEST, messages=({"role": "user", "content": text},))) == "billing"
    assert server.heard[0].body["messages"][0]["content"] == text
