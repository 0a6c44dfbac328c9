"""What is litellm's alone: its import, its traps, and providers that it alone knows. The rest is in test_edges.py."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from pytest_promptopt.errors import LMError, LMErrorKind
from pytest_promptopt.lms.background import BackgroundLoop
from pytest_promptopt.lms.base import Request, Usage
from pytest_promptopt.lms.ceiling import Ceiling
from pytest_promptopt.lms.client import Client
from pytest_promptopt.lms.litellm_edge import LiteLLM, litellm_module
from pytest_promptopt.lms.models import Catalog
from tests.loopback import Answer, Loopback, completion, nobody_listens, refusal, serving

REQUEST = Request(model="deepseek/deepseek-chat", messages=({"role": "user", "content": "hello"},))
SCHEMA = '{"additionalProperties":false,"properties":{},"required":[],"type":"object"}'


@pytest.fixture(scope="module")
def background() -> Iterator[BackgroundLoop]:
    with closing(BackgroundLoop()) as background:
        yield background
        background.run(litellm_module().close_litellm_async_clients())


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the developer has set must not decide what these tests see."""
    for name in ("OPENAI_API_KEY", "DEEPSEEK_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def lm_for(model: str = "deepseek/deepseek-chat", base_url: str | None = None, **table: Any) -> LiteLLM:
    values = {"model": model, "edge": "litellm", **table, **({"base_url": base_url} if base_url else {})}
    return LiteLLM(Catalog({model: values}).find(model), environ=os.environ)


def failure(background: BackgroundLoop, lm: LiteLLM) -> LMError:
    with pytest.raises(LMError) as caught:
        background.run(lm.acomplete(REQUEST))
    return caught.value


def test_a_provider_that_only_litellm_knows_answers_at_an_address_of_ones_own(
    background: BackgroundLoop, server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_KEY", "key-of-the-gateway")
    server.will(completion("billing", model="deepseek-chat"))
    reply = background.run(lm_for(base_url=server.url, key_variable="GATEWAY_KEY").acomplete(REQUEST))
    (heard,) = server.heard
    assert heard.path == "/v1/chat/completions"
    assert heard.headers["authorization"] == "Bearer key-of-the-gateway"
    assert heard.body == {
        "model": "deepseek-chat",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.0,
    }
    assert (reply.text, reply.usage) == ("billing", Usage(prompt_tokens=7, completion_tokens=3))
    assert reply.cost_usd == pytest.approx((7 * 0.28 + 3 * 0.42) / 1e6)


@pytest.mark.parametrize(
    ("response", "kind", "status", "is_lasting"),
    [
        (refusal(401, "Authentication Fails"), LMErrorKind.AUTH, 401, True),
        (refusal(402, "Insufficient Balance"), LMErrorKind.AUTH, 402, True),
        (refusal(429, retry_after="7"), LMErrorKind.RATE_LIMIT, 429, False),
        (refusal(500), LMErrorKind.SERVER, 500, False),
        (refusal(400, "Too long", code="context_length_exceeded"), LMErrorKind.CONTEXT_WINDOW, 400, False),
        (refusal(404, "Model Not Exist"), LMErrorKind.BAD_REQUEST, 404, True),
        (Answer(body="<html>Bad gateway</html>"), LMErrorKind.MALFORMED, None, False),
        (Answer(body="[1, 2]"), LMErrorKind.MALFORMED, None, False),
        (Answer(body='{"error": {"message": "busy", "code": "server_error"}}'), LMErrorKind.SERVER, None, False),
        (replace(completion("x"), cut_after=40), LMErrorKind.SERVER, None, False),
    ],
)
def test_its_other_client_library_calls_failures_by_the_same_names(
    background: BackgroundLoop,
    server: Loopback,
    response: Answer,
    kind: LMErrorKind,
    status: int | None,
    is_lasting: bool,
) -> None:
    server.will(response)
    error = failure(background, lm_for(base_url=server.url))
    assert (error.kind, error.status, error.is_lasting) == (kind, status, is_lasting)
    assert error.retry_after_seconds == (7.0 if status == 429 else None)
    assert "litellm" not in str(error)


def test_a_refused_connection_names_the_address(background: BackgroundLoop) -> None:
    with nobody_listens() as nowhere:
        error = failure(background, lm_for(base_url=nowhere))
    assert error.kind is LMErrorKind.SERVER
    assert f"{nowhere}: nothing answers at this address" in str(error)
    assert "DEEPSEEK_API_BASE" in str(error)


@pytest.mark.parametrize(
    ("model", "variable"),
    [
        ("deepseek/deepseek-chat", "DEEPSEEK_API_KEY"),
        ("anthropic/claude-3-haiku-20240307", "ANTHROPIC_API_KEY"),
        ("gemini/gemini-2.5-flash", "GEMINI_API_KEY"),
    ],
)
def test_the_key_that_a_provider_needs_is_named_before_any_call(
    background: BackgroundLoop, model: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LMError, match=f"no key. Set {variable}") as caught:
        background.run(lm_for(model).prepare())
    assert (caught.value.kind, caught.value.is_lasting) == (LMErrorKind.AUTH, True)
    monkeypatch.setenv(variable, "set-in-the-meantime")
    background.run(lm_for(model).prepare())


@pytest.mark.parametrize("model", ["bedrock/anthropic.claude-v2", "vertex_ai/gemini-2.5-pro", "ollama/llama3"])
def test_a_provider_that_lets_one_in_without_a_key_is_not_refused_for_want_of_one(
    background: BackgroundLoop, model: str
) -> None:
    background.run(lm_for(model).prepare())


def test_an_unknown_provider_is_a_lasting_bad_request(background: BackgroundLoop) -> None:
    lm = lm_for("nonsense/x")
    background.run(lm.prepare())
    error = failure(background, lm)
    assert (error.kind, error.is_lasting) == (LMErrorKind.BAD_REQUEST, True)
    assert str(error).startswith("nonsense/x: ")


def test_structured_output_is_asked_of_models_that_have_it_alone(background: BackgroundLoop, server: Loopback) -> None:
    request = replace(REQUEST, schema=SCHEMA)
    server.will(completion("{}"), completion("{}"))
    for model in ("openai/gpt-4o-mini", "openai/my-own"):
        background.run(lm_for(model, server.url).acomplete(request))
    assert ["response_format" in heard.body for heard in server.heard] == [True, False]


def test_a_local_server_is_sent_a_word_instead_of_a_key(background: BackgroundLoop, server: Loopback) -> None:
    server.will(completion("billing"))
    background.run(lm_for("openai/my-own", server.url).acomplete(REQUEST))
    assert server.heard[0].headers["authorization"] == "Bearer none"  # its library refuses to send none at all


def test_text_in_parts_is_more_than_litellm_can_read(background: BackgroundLoop, server: Loopback) -> None:
    choice = {"message": {"role": "assistant", "content": [{"type": "text", "text": "billing"}]}}
    server.will(completion(None, choices=[choice]))
    assert failure(background, lm_for(base_url=server.url)).kind is LMErrorKind.MALFORMED


def test_the_client_retries_through_it_and_closes_its_connections(server: Loopback) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    server.will(refusal(429, retry_after="7"), refusal(500), completion("billing"))
    lm = lm_for("openai/gpt-4o-mini", server.url)
    client = Client(lm_for=lambda _: lm, store=None, ceiling=Ceiling(max_calls=4), sleep=sleep)
    request = replace(REQUEST, model="openai/gpt-4o-mini")
    with closing(client):
        reply = client.complete(request)
    assert reply.text == "billing"
    assert max(pauses) >= 7.0 - 0.1
    assert client.counters.attempts == len(server.heard) == 3
    server.will(completion("bug"))
    with closing(client):
        assert client.complete(replace(request, ordinal=1), None).text == "bug"


QUIET = """
import asyncio, json, sys
from pytest_promptopt.errors import LMError
from pytest_promptopt.lms.base import Request
from pytest_promptopt.lms.models import Catalog
from pytest_promptopt.lms.registry import Registry
tables = {"mini": {"model": "openai/gpt-4o-mini", "edge": "litellm", "base_url": sys.argv[1]}}
registry = Registry(Catalog(tables), environ={})
lm, nonsense = registry.lm_for("mini"), registry.lm_for("nonsense/x")
is_lazy = "litellm" not in sys.modules
request = Request(model="openai/gpt-4o-mini", messages=({"role": "user", "content": "hello"},))
async def session():
    await lm.prepare()
    reply = await lm.acomplete(request)
    try:
        await nonsense.acomplete(request)
    except LMError:
        await lm.aclose()
    return reply
print(json.dumps([is_lazy, asyncio.run(session()).text]))
"""


def test_it_is_imported_on_the_first_call_and_says_nothing(server: Loopback) -> None:
    server.will(completion("billing"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error", "-c", QUIET, server.url]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert finished.stderr == ""
    assert json.loads(finished.stdout) == [True, "billing"]


def test_a_key_that_litellm_finds_itself_is_not_shown_and_its_variable_is_named(
    background: BackgroundLoop, server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "q7Zt0aBv93kLmXpR2sWc8dYfGh1jNu46"
    monkeypatch.setenv("DEEPSEEK_API_KEY", key)
    server.will(refusal(401, f"Unauthorized: the key {key} is not known here"))
    lm = lm_for(base_url=server.url)
    background.run(lm.prepare())
    error = failure(background, lm)
    assert server.heard[0].headers["authorization"] == f"Bearer {key}"
    assert key not in str(error) + repr(error.__dict__)
    assert "(set DEEPSEEK_API_KEY to a key that the provider accepts)" in str(error)
