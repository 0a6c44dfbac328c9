"""The litellm edge against a real server: what it sends, what it reads, and what it calls by its right name."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from email.utils import formatdate
from threading import Event

import pytest

from pytest_promptopt.errors import LMError, LMErrorKind
from pytest_promptopt.lms.background import BackgroundLoop
from pytest_promptopt.lms.base import AsyncLM, Reply, Request, Usage
from pytest_promptopt.lms.ceiling import Ceiling
from pytest_promptopt.lms.client import Client
from pytest_promptopt.lms.litellm_edge import LiteLLM, litellm_module
from tests.loopback import Answer, Loopback, completion, nobody_listens, refusal, serving

REQUEST = Request(model="openai/gpt-4o-mini", messages=({"role": "user", "content": "hello"},))
HTML = Answer(headers={"Content-Type": "text/html"}, body="<html>Bad gateway</html>")


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
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_API_KEY", "HOSTED_VLLM_API_BASE"):
        monkeypatch.delenv(name, raising=False)


def answer(background: BackgroundLoop, lm: LiteLLM, request: Request = REQUEST) -> Reply:
    return background.run(lm.acomplete(request))


def failure(background: BackgroundLoop, lm: LiteLLM, request: Request = REQUEST) -> LMError:
    with pytest.raises(LMError) as caught:
        answer(background, lm, request)
    return caught.value


def test_a_reply_brings_its_text_usage_and_cost(background: BackgroundLoop, server: Loopback) -> None:
    server.will(completion("billing"))
    reply = answer(background, LiteLLM(base_url=server.url))
    assert (reply.text, reply.usage) == ("billing", Usage(prompt_tokens=7, completion_tokens=3))
    assert reply.cost_usd is not None
    assert reply.cost_usd > 0
    assert reply.latency_seconds > 0


def test_a_model_without_a_price_has_an_unknown_cost(background: BackgroundLoop, server: Loopback) -> None:
    server.will(completion("billing", model="my-own"))
    assert answer(background, LiteLLM(base_url=server.url), replace(REQUEST, model="openai/my-own")).cost_usd is None


def test_the_server_is_sent_the_request_and_nothing_more(background: BackgroundLoop, server: Loopback) -> None:
    server.will(completion("billing"))
    schema = {"type": "object", "properties": {"team": {"type": "string"}}}
    request = replace(REQUEST, temperature=0.3, max_tokens=50, schema=schema, repeat=2, ordinal=1)
    answer(background, LiteLLM(base_url=server.url, api_key="key-1"), request)
    (heard,) = server.heard
    assert heard.path == "/v1/chat/completions"
    assert heard.headers["authorization"] == "Bearer key-1"
    assert heard.body == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.3,
        "max_tokens": 50,
        "response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}},
    }


def test_the_endpoint_of_a_request_is_stronger_than_that_of_the_edge(
    background: BackgroundLoop, server: Loopback
) -> None:
    server.will(completion("billing"))
    with nobody_listens() as nowhere:
        assert answer(background, LiteLLM(base_url=nowhere), replace(REQUEST, endpoint=server.url)).text == "billing"


def test_openai_base_url_is_honoured(
    background: BackgroundLoop, server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.will(completion("billing"))
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert answer(background, LiteLLM()).text == "billing"


def test_a_local_server_needs_no_key(background: BackgroundLoop, server: Loopback) -> None:
    server.will(completion("billing"))
    assert answer(background, LiteLLM(base_url=server.url)).text == "billing"


@pytest.mark.parametrize(
    ("response", "kind", "status"),
    [
        (refusal(401, "Incorrect API key", code="invalid_api_key"), LMErrorKind.AUTH, 401),
        (refusal(403), LMErrorKind.AUTH, 403),
        (refusal(429), LMErrorKind.RATE_LIMIT, 429),
        (refusal(429, "You exceeded your quota", code="insufficient_quota"), LMErrorKind.AUTH, 429),
        (refusal(408), LMErrorKind.TIMEOUT, 408),
        (refusal(504), LMErrorKind.TIMEOUT, 504),
        (refusal(500), LMErrorKind.SERVER, 500),
        (refusal(502), LMErrorKind.SERVER, 502),
        (refusal(503), LMErrorKind.SERVER, 503),
        (refusal(529), LMErrorKind.SERVER, 529),
        (refusal(400), LMErrorKind.BAD_REQUEST, 400),
        (refusal(404), LMErrorKind.BAD_REQUEST, 404),
        (refusal(400, "Too long", code="context_length_exceeded"), LMErrorKind.CONTEXT_WINDOW, 400),
        (refusal(400, "Rejected", code="content_policy_violation"), LMErrorKind.CONTENT_POLICY, 400),
        (completion(None, finish_reason="content_filter"), LMErrorKind.CONTENT_POLICY, None),
        (completion(None), LMErrorKind.MALFORMED, None),
        (completion("", choices=[]), LMErrorKind.MALFORMED, None),
    ],
)
def test_a_failure_is_called_by_its_right_name(
    background: BackgroundLoop, server: Loopback, response: Answer, kind: LMErrorKind, status: int | None
) -> None:
    server.will(response)
    error = failure(background, LiteLLM(base_url=server.url))
    assert (error.kind, error.status) == (kind, status)
    assert "openai/gpt-4o-mini" in str(error)
    assert len(server.heard) == 1  # one attempt: whether there is another is not for litellm to decide


@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "hosted_vllm/mine"])
def test_a_page_of_html_is_malformed_and_no_server_error(
    background: BackgroundLoop, server: Loopback, model: str
) -> None:
    server.will(HTML)
    assert (
        failure(background, LiteLLM(base_url=server.url), replace(REQUEST, model=model)).kind is LMErrorKind.MALFORMED
    )


@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "hosted_vllm/mine"])
def test_a_refused_connection_names_the_address(background: BackgroundLoop, model: str) -> None:
    with nobody_listens() as nowhere:
        error = failure(background, LiteLLM(base_url=nowhere), replace(REQUEST, model=model))
    assert error.kind is LMErrorKind.SERVER
    assert nowhere in str(error)
    assert "nothing answers" in str(error)


@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "anthropic/claude-3-haiku-20240307"])
def test_a_missing_key_is_the_users_to_set(background: BackgroundLoop, model: str) -> None:
    error = failure(background, LiteLLM(), replace(REQUEST, model=model))
    assert error.kind is LMErrorKind.AUTH
    assert "API_KEY" in str(error)


def test_an_unknown_provider_is_a_bad_request(background: BackgroundLoop) -> None:
    error = failure(background, LiteLLM(), replace(REQUEST, model="nonsense/x"))
    assert error.kind is LMErrorKind.BAD_REQUEST
    assert "nonsense/x" in str(error)


def test_a_key_that_a_provider_repeats_is_not_repeated_further(background: BackgroundLoop, server: Loopback) -> None:
    server.will(refusal(401, "Incorrect API key provided: sk-abcdefgh12345678"))
    error = failure(background, LiteLLM(base_url=server.url))
    assert "Incorrect API key provided: …" in str(error)


def test_a_server_that_keeps_silent_times_out(background: BackgroundLoop, server: Loopback) -> None:
    silence = Event()
    server.will(replace(completion("too late"), waits_for=silence))
    error = failure(background, LiteLLM(base_url=server.url, timeout_seconds=0.05))
    silence.set()
    assert error.kind is LMErrorKind.TIMEOUT


@pytest.mark.parametrize("written", ["7", formatdate(4102444800.0, usegmt=True), "soon"])
def test_retry_after_is_read_as_seconds_or_date(background: BackgroundLoop, server: Loopback, written: str) -> None:
    server.will(refusal(429, retry_after=written))
    seconds = failure(background, LiteLLM(base_url=server.url)).retry_after_seconds
    expected = {"7": seconds == 7.0, "soon": seconds is None}
    assert expected.get(written, seconds is not None and seconds > 1e6)  # the date lies in the year 2100


def test_the_client_retries_through_it_and_closes_its_connections(server: Loopback) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    server.will(refusal(429, retry_after="7"), refusal(500), completion("billing"))
    lm = LiteLLM(base_url=server.url)
    client = Client(lm_for=lambda _: lm, store=None, ceiling=Ceiling(max_calls=4), sleep=sleep)
    with closing(client):
        reply = client.complete(REQUEST)
    assert reply.text == "billing"
    assert pauses[0] == 7.0
    assert client.counters.attempts == len(server.heard) == 3
    server.will(completion("bug"))
    with closing(client):
        assert client.complete(replace(REQUEST, ordinal=1), None).text == "bug"


def test_it_is_an_asynchronous_model() -> None:
    assert isinstance(LiteLLM(), AsyncLM)


QUIET = """
import json, sys
from pytest_promptopt.errors import LMError
from pytest_promptopt.lms.background import BackgroundLoop
from pytest_promptopt.lms.base import Request
from pytest_promptopt.lms.registry import lm_for
lm = lm_for("openai/gpt-4o-mini")
is_lazy = "litellm" not in sys.modules
background = BackgroundLoop()
request = Request(model="openai/gpt-4o-mini", messages=({"role": "user", "content": "hello"},), endpoint=sys.argv[1])
async def session():
    reply = await lm.acomplete(request)
    try:
        await lm.acomplete(Request(model="nonsense/x", messages=request.messages))
    except LMError:
        await lm.aclose()
    return reply
text = background.run(session()).text
background.close()
print(json.dumps([is_lazy, text]))
"""


def test_it_is_imported_on_the_first_call_and_says_nothing(server: Loopback) -> None:
    server.will(completion("billing"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error", "-c", QUIET, server.url]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert finished.stderr == ""
    assert json.loads(finished.stdout) == [True, "billing"]
