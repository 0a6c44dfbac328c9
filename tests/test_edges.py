"""The contract of both edges: one request on the wire, one reply, one name for each fault."""

import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from email.utils import formatdate
from threading import Event
from typing import Any, TypeAlias

import pytest

from pytest_promptopt.errors import LMError, LMErrorKind
from pytest_promptopt.lms.attempts import cost_of_failure
from pytest_promptopt.lms.background import BackgroundLoop
from pytest_promptopt.lms.base import AsyncLM, Reply, Request, Usage
from pytest_promptopt.lms.litellm_edge import LiteLLM, litellm_module
from pytest_promptopt.lms.models import Catalog, Edge, ModelSettings
from pytest_promptopt.lms.openai_edge import OpenAICompatible
from tests.loopback import Answer, Loopback, completion, nobody_listens, refusal, serving

KEY = "sk-test-0123456789abcdef"
PASTED = "sk-“quoted”"  # as a word processor would
ENVIRON = {"OPENAI_API_KEY": KEY}
HELLO = {"role": "user", "content": "hello"}
REQUEST = Request(model="openai/gpt-4o-mini", messages=(HELLO,))
HTML = Answer(headers={"Content-Type": "text/html"}, body="<html><h1>Bad gateway</h1></html>")
STRICT = {
    "type": "object",
    "properties": {"team": {"type": "string"}},
    "required": ["team"],
    "additionalProperties": False,
}
LOOSE = {"type": "object", "properties": {"team": {"type": "string"}}}

EdgeLM: TypeAlias = OpenAICompatible | LiteLLM
Make: TypeAlias = Callable[..., EdgeLM]


@pytest.fixture(scope="module")
def background() -> Iterator[BackgroundLoop]:
    with closing(BackgroundLoop()) as background:
        yield background
        background.run(litellm_module().close_litellm_async_clients())


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as server:
        yield server


@pytest.fixture(params=list(Edge))
def make(request: pytest.FixtureRequest, background: BackgroundLoop) -> Iterator[Make]:
    """Makes the edge under test from what a model's table says."""
    made: list[EdgeLM] = []

    def make(base_url: str | None = None, *, environ: Mapping[str, str] = ENVIRON, **table: Any) -> EdgeLM:
        values = {"model": "openai/gpt-4o-mini", "edge": str(request.param), **table}
        if base_url is not None:
            values["base_url"] = base_url
        settings = Catalog({"mini": values}).find("mini")
        made.append(edge_for(settings, environ))
        return made[-1]

    yield make
    for lm in made:
        if isinstance(lm, OpenAICompatible):  # litellm's connections belong to all
            background.run(lm.aclose())


def edge_for(settings: ModelSettings, environ: Mapping[str, str]) -> EdgeLM:
    edge = OpenAICompatible if settings.edge is Edge.OPENAI else LiteLLM
    return edge(settings, environ=environ)


def answer(background: BackgroundLoop, lm: EdgeLM, request: Request = REQUEST) -> Reply:
    return background.run(lm.acomplete(request))


def failure(background: BackgroundLoop, lm: EdgeLM, request: Request = REQUEST) -> LMError:
    with pytest.raises(LMError) as caught:
        answer(background, lm, request)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    return caught.value


def asking_for(schema: Mapping[str, Any]) -> Request:
    return replace(REQUEST, schema=json.dumps(schema, sort_keys=True, separators=(",", ":")))


def message(**fields: Any) -> Answer:
    return completion(None, choices=[{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **fields}}])


def usage(**changes: Any) -> dict[str, Any]:
    return {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, **changes}


FORMAT = {"type": "json_schema", "json_schema": {"name": "reply", "schema": STRICT, "strict": True}}
LOOSE_FORMAT = {"type": "json_schema", "json_schema": {"name": "reply", "schema": LOOSE}}
DEMOS = (
    {"role": "system", "content": "Route tickets."},
    {"role": "user", "content": "refund"},
    {"role": "assistant", "content": "billing — “now”"},
    HELLO,
)


@pytest.mark.parametrize(
    ("request_", "more"),
    [
        (REQUEST, {}),
        (replace(REQUEST, repeat=2, ordinal=1), {}),
        (replace(REQUEST, temperature=0.3), {"temperature": 0.3}),
        (replace(REQUEST, max_tokens=50), {"max_tokens": 50}),
        (replace(REQUEST, messages=DEMOS), {"messages": list(DEMOS)}),
        (asking_for(STRICT), {"response_format": FORMAT}),
        (asking_for(LOOSE), {"response_format": LOOSE_FORMAT}),
    ],
)
def test_the_server_is_sent_the_request_and_nothing_more(
    make: Make, background: BackgroundLoop, server: Loopback, request_: Request, more: dict[str, Any]
) -> None:
    server.will(completion("billing"))
    answer(background, make(server.url), request_)
    (heard,) = server.heard
    assert heard.path == "/v1/chat/completions"
    assert heard.headers["authorization"] == f"Bearer {KEY}"
    assert heard.headers["content-type"] == "application/json"
    assert heard.body == {"model": "gpt-4o-mini", "messages": [HELLO], "temperature": 0.0, **more}


def test_a_model_that_reasons_gets_no_temperature_and_its_own_name_for_max_tokens(
    make: Make, background: BackgroundLoop, server: Loopback
) -> None:
    server.will(completion("billing", model="o3-mini"))
    lm = make(server.url, model="openai/o3-mini")
    answer(background, lm, replace(REQUEST, model="openai/o3-mini", max_tokens=50))
    assert server.heard[0].body == {"model": "o3-mini", "messages": [HELLO], "max_completion_tokens": 50}


def test_a_model_without_structured_output_is_asked_for_none(
    make: Make, background: BackgroundLoop, server: Loopback
) -> None:
    server.will(completion("billing"))
    answer(background, make(server.url, structured_output=False), asking_for(STRICT))
    assert "response_format" not in server.heard[0].body


def test_a_reply_brings_its_text_usage_and_cost(make: Make, background: BackgroundLoop, server: Loopback) -> None:
    server.will(completion("billing"))
    reply = answer(background, make(server.url))
    assert (reply.text, reply.usage) == ("billing", Usage(prompt_tokens=7, completion_tokens=3))
    assert reply.cost_usd == pytest.approx((7 * 0.15 + 3 * 0.60) / 1e6)
    assert reply.latency_seconds > 0
    assert not reply.is_replayed


def test_cached_tokens_cost_what_the_table_says(make: Make, background: BackgroundLoop, server: Loopback) -> None:
    server.will(completion("billing", usage=usage(prompt_tokens_details={"cached_tokens": 4})))
    reply = answer(background, make(server.url))
    assert reply.usage == Usage(prompt_tokens=7, completion_tokens=3, cached_tokens=4)
    assert reply.cost_usd == pytest.approx((3 * 0.15 + 4 * 0.075 + 3 * 0.60) / 1e6)


def test_the_price_of_an_alias_is_stronger_than_the_table(
    make: Make, background: BackgroundLoop, server: Loopback
) -> None:
    server.will(completion("billing"))
    reply = answer(background, make(server.url, price={"input": 2.0, "output": 8}))
    assert reply.cost_usd == pytest.approx((7 * 2.0 + 3 * 8.0) / 1e6)


@pytest.mark.parametrize("changes", [{"usage": None}, {"usage": {}}, {"usage": {"prompt_tokens": None}}])
def test_without_usage_the_cost_is_unknown_and_not_0(
    make: Make, background: BackgroundLoop, server: Loopback, changes: dict[str, Any]
) -> None:
    server.will(completion("billing", **changes))
    reply = answer(background, make(server.url))
    assert (reply.text, reply.usage, reply.cost_usd) == ("billing", None, None)


def test_a_model_without_a_price_has_an_unknown_cost(make: Make, background: BackgroundLoop, server: Loopback) -> None:
    server.will(completion("billing", model="my-own"))
    reply = answer(background, make(server.url, model="openai/my-own"))
    assert (reply.usage, reply.cost_usd) == (Usage(prompt_tokens=7, completion_tokens=3), None)


def test_of_several_choices_the_first_counts(make: Make, background: BackgroundLoop, server: Loopback) -> None:
    choices = [
        {"index": index, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        for index, text in enumerate(["one", "two"])
    ]
    server.will(completion(None, choices=choices))
    assert answer(background, make(server.url)).text == "one"


def test_a_reply_that_was_cut_short_is_still_the_reply(
    make: Make, background: BackgroundLoop, server: Loopback
) -> None:
    server.will(completion("bill", finish_reason="length"))
    assert answer(background, make(server.url)).text == "bill"


def test_an_empty_text_that_the_model_ended_itself_is_its_answer(
    make: Make, background: BackgroundLoop, server: Loopback
) -> None:
    server.will(completion(""))
    assert answer(background, make(server.url)).text == ""


MODEL_GONE = refusal(404, "The model `gpt-4o-mini` does not exist or you do not have access", code="model_not_found")


@pytest.mark.parametrize(
    ("response", "kind", "status", "is_lasting"),
    [
        (refusal(401, "Incorrect API key", code="invalid_api_key"), LMErrorKind.AUTH, 401, True),
        (refusal(402, "Insufficient Balance"), LMErrorKind.AUTH, 402, True),
        (refusal(403), LMErrorKind.AUTH, 403, False),
        (refusal(403, "You have no permission to use this model"), LMErrorKind.AUTH, 403, True),
        (refusal(429), LMErrorKind.RATE_LIMIT, 429, False),
        (refusal(429, "You exceeded your quota", code="insufficient_quota"), LMErrorKind.AUTH, 429, True),
        (refusal(408), LMErrorKind.TIMEOUT, 408, False),
        (refusal(504), LMErrorKind.TIMEOUT, 504, False),
        (refusal(500), LMErrorKind.SERVER, 500, False),
        (refusal(502), LMErrorKind.SERVER, 502, False),
        (replace(HTML, status=502), LMErrorKind.SERVER, 502, False),
        (refusal(503), LMErrorKind.SERVER, 503, False),
        (refusal(529, "Overloaded"), LMErrorKind.SERVER, 529, False),
        (refusal(400), LMErrorKind.BAD_REQUEST, 400, False),
        (refusal(422), LMErrorKind.BAD_REQUEST, 422, False),
        (refusal(404), LMErrorKind.BAD_REQUEST, 404, False),
        (MODEL_GONE, LMErrorKind.BAD_REQUEST, 404, True),
        (refusal(413), LMErrorKind.CONTEXT_WINDOW, 413, False),
        (refusal(400, "Too long", code="context_length_exceeded"), LMErrorKind.CONTEXT_WINDOW, 400, False),
        (refusal(400, "Rejected", code="content_policy_violation"), LMErrorKind.CONTENT_POLICY, 400, False),
        (completion(None, finish_reason="content_filter"), LMErrorKind.CONTENT_POLICY, None, False),
        (message(content=None, refusal="I cannot help"), LMErrorKind.CONTENT_POLICY, None, False),
        (completion("", finish_reason="length"), LMErrorKind.MALFORMED, None, False),
        (completion(None), LMErrorKind.MALFORMED, None, False),
        (completion("", choices=[]), LMErrorKind.MALFORMED, None, False),
        (HTML, LMErrorKind.MALFORMED, None, False),
        (Answer(body=completion("billing").body[:50]), LMErrorKind.MALFORMED, None, False),
        (Answer(body="[1, 2]"), LMErrorKind.MALFORMED, None, False),
        (Answer(body='{"error": {"message": "busy", "code": "server_error"}}'), LMErrorKind.SERVER, None, False),
        (Answer(body='{"error": {"message": "slow down", "code": 429}}'), LMErrorKind.RATE_LIMIT, 429, False),
        (replace(completion("billing"), cut_after=40), LMErrorKind.SERVER, None, False),
        (replace(completion("billing"), cut_after=0), LMErrorKind.SERVER, None, False),
    ],
)
def test_a_failure_is_called_by_its_right_name_after_one_attempt(
    make: Make,
    background: BackgroundLoop,
    server: Loopback,
    response: Answer,
    kind: LMErrorKind,
    status: int | None,
    is_lasting: bool,
) -> None:
    server.will(response)
    error = failure(background, make(server.url))
    assert (error.kind, error.status, error.is_lasting) == (kind, status, is_lasting)
    assert str(error).startswith(f"mini (openai/gpt-4o-mini) at {server.url}: ")
    assert len(str(error)) < 600
    assert "litellm" not in str(error).lower()
    assert len(server.heard) == 1  # whether there is another attempt is not for this layer to decide


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (refusal(401, "Incorrect API key", code="invalid_api_key"), "set OPENAI_API_KEY to a key that"),
        (refusal(429, "You exceeded your quota", code="insufficient_quota"), "see its plan and billing"),
        (refusal(429), "requests_per_minute and tokens_per_minute in [tool.pytest-promptopt.models.mini]"),
        (refusal(404), "is base_url right? It often ends in /v1"),
        (MODEL_GONE, "is 'gpt-4o-mini' a model that this provider has"),
        (refusal(504), "timeout_seconds"),
        (replace(HTML, status=502), ": Bad gateway"),
    ],
)
def test_a_failure_says_what_to_do_next(
    make: Make, background: BackgroundLoop, server: Loopback, response: Answer, words: str
) -> None:
    server.will(response)
    assert words in str(failure(background, make(server.url)))


def test_reasoning_that_used_up_max_tokens_is_named_as_the_cause(
    make: Make, background: BackgroundLoop, server: Loopback
) -> None:
    spent = usage(completion_tokens_details={"reasoning_tokens": 3})
    server.will(completion("", finish_reason="length", usage=spent))
    assert "max_tokens is too small: reasoning used all of it" in str(failure(background, make(server.url)))


WITHHELD = [
    completion(None, finish_reason="content_filter"),
    message(content=None, refusal="I cannot help"),
    completion("", finish_reason="length"),
    completion(None),
]


@pytest.mark.parametrize("response", WITHHELD)
def test_an_answer_that_cannot_be_used_costs_what_it_cost(
    make: Make, background: BackgroundLoop, server: Loopback, response: Answer
) -> None:
    server.will(response)
    error = failure(background, make(server.url))
    assert cost_of_failure(error) == error.cost_usd == pytest.approx((7 * 0.15 + 3 * 0.60) / 1e6)


@pytest.mark.parametrize(
    ("response", "cost_usd"),
    [
        (replace(completion("billing"), cut_after=40), None),
        (replace(completion("billing"), cut_after=0), None),
        (completion(None, finish_reason="content_filter", usage=None), None),
        (Answer(body='{"error": {"message": "busy", "code": "server_error"}}'), None),
        (HTML, None),
        (Answer(body='{"error": {"message": "slow down", "code": 429}}'), 0.0),
        (refusal(400, "Rejected", code="content_policy_violation"), 0.0),
        (refusal(401), 0.0),
        (refusal(429), 0.0),
        (refusal(503), 0.0),
    ],
)
def test_what_broke_off_after_its_status_has_an_unknown_cost_and_a_refusal_has_none(
    make: Make, background: BackgroundLoop, server: Loopback, response: Answer, cost_usd: float | None
) -> None:
    server.will(response)
    assert cost_of_failure(failure(background, make(server.url))) == cost_usd


def test_a_connection_that_never_stood_costs_nothing(make: Make, background: BackgroundLoop) -> None:
    with nobody_listens() as nowhere:
        assert cost_of_failure(failure(background, make(nowhere))) == 0.0


def test_no_key_of_another_provider_is_shown_either(make: Make, background: BackgroundLoop, server: Loopback) -> None:
    server.will(refusal(401, "q7Zt0aBv93kLmXpR is no key"))
    lm = make(server.url, environ={**ENVIRON, "SOMEBODYS_TOKEN": "q7Zt0aBv93kLmXpR"})
    background.run(lm.prepare())
    error = failure(background, lm)
    assert "… is no key" in str(error)
    assert "q7Zt" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("header", "value", "is_right"),
    [
        ("retry_after", "7", lambda seconds: seconds == 7.0),
        ("retry_after_ms", "250", lambda seconds: seconds == 0.25),
        ("retry_after", formatdate(4102444800.0, usegmt=True), lambda seconds: seconds > 1e6),
        ("retry_after", "soon", lambda seconds: seconds is None),
        ("x_ratelimit_reset_tokens", "1m2s", lambda seconds: seconds == 62.0),
    ],
)
def test_how_long_to_wait_is_read_in_every_form(
    make: Make,
    background: BackgroundLoop,
    server: Loopback,
    header: str,
    value: str,
    is_right: Callable[[float | None], bool],
) -> None:
    server.will(refusal(429, **{header: value}))
    assert is_right(failure(background, make(server.url)).retry_after_seconds)


@pytest.mark.parametrize(
    ("response", "request_", "was", "becomes"),
    [
        (
            refusal(400, "Unsupported value: 'temperature' does not support 0.0 with this model."),
            REQUEST,
            {"temperature": 0.0},
            {},
        ),
        (
            refusal(400, "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."),
            replace(REQUEST, max_tokens=9),
            {"temperature": 0.0, "max_tokens": 9},
            {"temperature": 0.0, "max_completion_tokens": 9},
        ),
        (
            refusal(422, "This model does not support response format json_schema"),
            asking_for(STRICT),
            {"temperature": 0.0, "response_format": FORMAT},
            {"temperature": 0.0},
        ),
        (
            refusal(400, "Invalid schema for response_format 'reply': uniqueItems is not permitted."),
            asking_for(STRICT),
            {"temperature": 0.0, "response_format": FORMAT},
            {"temperature": 0.0},
        ),
    ],
)
def test_a_parameter_that_a_server_refuses_is_left_out_from_then_on(
    make: Make,
    background: BackgroundLoop,
    server: Loopback,
    response: Answer,
    request_: Request,
    was: dict[str, Any],
    becomes: dict[str, Any],
) -> None:
    server.will(response, completion("billing"), response)
    lm = make(server.url)
    error = failure(background, lm, request_)
    assert (error.kind, error.is_amended, error.is_lasting) == (LMErrorKind.BAD_REQUEST, True, False)
    assert answer(background, lm, request_).text == "billing"
    common = {"model": "gpt-4o-mini", "messages": [HELLO]}
    assert [heard.body for heard in server.heard] == [{**common, **was}, {**common, **becomes}]
    assert not failure(background, lm, request_).is_amended  # what was not sent amends nothing


@pytest.mark.parametrize(
    "words",
    ["max_tokens is too large: 99. This model supports at most 16", "Invalid 'temperature': expected a value <= 2"],
)
def test_a_value_that_is_out_of_range_is_the_users_to_mend(
    make: Make, background: BackgroundLoop, server: Loopback, words: str
) -> None:
    server.will(refusal(400, words))
    error = failure(background, make(server.url), replace(REQUEST, max_tokens=99, temperature=3.0))
    assert (error.kind, error.is_amended) == (LMErrorKind.BAD_REQUEST, False)


def test_a_missing_key_is_found_before_any_call(make: Make, background: BackgroundLoop) -> None:
    with pytest.raises(LMError, match="Set OPENAI_API_KEY") as caught:
        background.run(make(environ={}).prepare())
    assert (caught.value.kind, caught.value.is_lasting) == (LMErrorKind.AUTH, True)


def test_a_key_variable_is_named_when_it_is_missing_and_read_when_it_is_set(
    make: Make, background: BackgroundLoop, server: Loopback
) -> None:
    with pytest.raises(LMError, match="Set GATEWAY_KEY") as caught:
        background.run(make(server.url, key_variable="GATEWAY_KEY").prepare())
    assert caught.value.is_lasting
    server.will(completion("billing"))
    lm = make(server.url, key_variable="GATEWAY_KEY", environ={**ENVIRON, "GATEWAY_KEY": " of-the-gateway\n"})
    background.run(lm.prepare())
    answer(background, lm)
    assert server.heard[0].headers["authorization"] == "Bearer of-the-gateway"


def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(make: Make, background: BackgroundLoop) -> None:
    with pytest.raises(LMError, match="OPENAI_API_KEY holds is no key") as caught:
        background.run(make(environ={"OPENAI_API_KEY": PASTED}).prepare())
    assert PASTED not in "".join(traceback.format_exception(caught.value))


def test_a_server_at_an_address_of_ones_own_needs_no_key(
    make: Make, background: BackgroundLoop, server: Loopback
) -> None:
    server.will(completion("billing"))
    lm = make(server.url, environ={})
    background.run(lm.prepare())
    assert answer(background, lm).text == "billing"


def test_the_endpoint_of_a_request_is_stronger_than_the_models(
    make: Make, background: BackgroundLoop, server: Loopback
) -> None:
    server.will(completion("billing"))
    with nobody_listens() as nowhere:
        assert answer(background, make(nowhere), replace(REQUEST, endpoint=server.url)).text == "billing"


def test_a_refused_connection_names_the_address_and_what_sets_it(make: Make, background: BackgroundLoop) -> None:
    with nobody_listens() as nowhere:
        error = failure(background, make(nowhere))
    assert (error.kind, error.status, error.is_lasting) == (LMErrorKind.SERVER, None, False)
    assert f"at {nowhere}: nothing answers at this address" in str(error)
    assert "is base_url (OPENAI_BASE_URL or OPENAI_API_BASE) right?" in str(error)


def test_a_server_that_keeps_silent_times_out(make: Make, background: BackgroundLoop, server: Loopback) -> None:
    silence = Event()
    server.will(replace(completion("too late"), waits_for=silence))
    error = failure(background, make(server.url, timeout_seconds=0.05))
    silence.set()
    assert error.kind is LMErrorKind.TIMEOUT
    assert "timeout_seconds in [tool.pytest-promptopt.models.mini]" in str(error)


@pytest.mark.parametrize("key", [KEY, "of-no-known-shape"])
@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
def test_a_key_that_a_server_repeats_is_repeated_no_further(
    make: Make, background: BackgroundLoop, server: Loopback, key: str, status: int
) -> None:
    words = f"Incorrect key {key}, header Bearer {key}, also sk-proj-****************abcd"
    server.will(replace(refusal(status, words), body=f"<html>{words}</html>"))
    error = failure(background, make(server.url, environ={"OPENAI_API_KEY": key}))
    shown = "".join(traceback.format_exception(error)) + repr(error.__dict__)
    assert key not in shown
    assert "abcd" not in shown
    assert "Incorrect key …" in str(error)


def test_it_is_an_asynchronous_model(make: Make) -> None:
    assert isinstance(make(), AsyncLM)
