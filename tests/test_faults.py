"""What went wrong, by status, code and words; how long to wait; and that no message holds a key."""

from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.errors import LMErrorKind
from pytest_promptopt.lms.faults import (
    MOST_CHARACTERS,
    Origin,
    Said,
    error_from_words,
    is_lasting,
    kind_of,
    read_words,
    redacted,
    retry_after_seconds,
    secrets_in,
    words_of,
)
from pytest_promptopt.lms.models import Catalog

NOW = 1_800_000_000.0
ORIGIN = Origin(settings=Catalog().find("openai/gpt-4o-mini"), key_variable="OPENAI_API_KEY", key="the-key-in-use")
AUTH, RATE, TIMEOUT, CONTEXT, POLICY, BAD, SERVER = (
    LMErrorKind.AUTH,
    LMErrorKind.RATE_LIMIT,
    LMErrorKind.TIMEOUT,
    LMErrorKind.CONTEXT_WINDOW,
    LMErrorKind.CONTENT_POLICY,
    LMErrorKind.BAD_REQUEST,
    LMErrorKind.SERVER,
)

# How providers word it: OpenAI, Anthropic, Gemini, Groq, DeepSeek, Moonshot, OpenRouter, vLLM, llama.cpp, Ollama.
SAID = [
    (400, "context_length_exceeded", "This model's maximum context length is 8192 tokens.", CONTEXT, False),
    (400, "invalid_request_error", "prompt is too long: 215000 tokens > 200000 maximum", CONTEXT, False),
    (400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number of tokens allowed", CONTEXT, False),
    (400, "exceed_context_size_error", "the request exceeds the available context size", CONTEXT, False),
    (400, "", "'max_tokens' is too large: 9000. This model's maximum context length is 4096", CONTEXT, False),
    (413, "rate_limit_exceeded", "Request too large for model `x` on tokens per minute (TPM)", CONTEXT, False),
    (429, "rate_limit_exceeded", "Request too large for gpt-4o: Limit 30000, Requested 50000", CONTEXT, False),
    (500, "", "Trying to keep the first 5000 tokens when context window is 4096", CONTEXT, False),
    (429, "insufficient_quota", "You exceeded your current quota, please check your plan", AUTH, True),
    (400, "invalid_request_error", "Your credit balance is too low to access the API", AUTH, True),
    (402, "", "Insufficient Balance", AUTH, True),
    (402, "", "", AUTH, True),
    (429, "RESOURCE_EXHAUSTED", "You exceeded your current quota. Please retry in 35s.", RATE, False),
    (401, "", "", AUTH, True),
    (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", AUTH, True),
    (401, "authentication_error", "invalid x-api-key", AUTH, True),
    (403, "", "", AUTH, False),
    (403, "permission_error", "Your API key does not have permission to use the model", AUTH, True),
    (403, "unsupported_country_region_territory", "Country, region, or territory not supported", AUTH, True),
    (403, "", "openai/x requires moderation; your input was flagged", POLICY, False),
    (400, "content_filter", "The response was filtered by our content management policy", POLICY, False),
    (400, "invalid_prompt", "Your prompt was flagged as potentially violating our usage policy", POLICY, False),
    (404, "model_not_found", "The model `gpt-9` does not exist or you do not have access to it.", BAD, True),
    (404, "NotFoundError", "The model `mine` does not exist.", BAD, True),
    (404, "", 'model "llama9" not found, try pulling it first', BAD, True),
    (400, "", "mistral/x is not a valid model ID", BAD, True),
    (404, "", "404 page not found", BAD, False),
    (
        400,
        "unsupported_parameter",
        "Unsupported parameter: 'temperature' is not supported with this model.",
        BAD,
        False,
    ),
    (422, "", "Field required", BAD, False),
    (307, "", "", BAD, True),
    (429, "", "", RATE, False),
    (400, "ThrottlingException", "Too many requests", RATE, False),
    (400, "", "bad value: 'too many requests'", BAD, False),
    (422, "", "rate limit must be an integer", BAD, False),
    (503, "", "too many requests", RATE, False),
    (400, "", "bad value: 'my card says insufficient funds'", BAD, False),
    (422, "string_type", "insufficient credits", BAD, False),
    (500, "", "insufficient funds", SERVER, False),
    (403, "", "You are unable to access example.com", AUTH, False),
    (403, "", "Forbidden. You don't have permission to access this resource.", AUTH, False),
    (403, "", "Generative Language API has not been used; check the region of your project", AUTH, True),
    (429, "engine_overloaded_error", "The engine is currently overloaded", RATE, False),
    (529, "overloaded_error", "Overloaded", SERVER, False),
    (503, "UNAVAILABLE", "The model is overloaded. Please try again later.", SERVER, False),
    (409, "", "", SERVER, False),
    (500, "internal_error", "model not found in cache", SERVER, False),
    (503, "", "", SERVER, False),
    (408, "", "", TIMEOUT, False),
    (504, "", "upstream request timeout", TIMEOUT, False),
    (524, "", "", TIMEOUT, False),
    (None, "server_error", "busy", SERVER, False),
    (None, "invalid_request_error", "no such field", BAD, False),
]


@pytest.mark.parametrize(("status", "code", "text", "kind", "lasting"), SAID)
def test_what_providers_say_is_understood(
    status: int | None, code: str, text: str, kind: LMErrorKind, lasting: bool
) -> None:
    assert (kind_of(status, code, text), is_lasting(status, code, text)) == (kind, lasting)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            '{"error": {"message": "m", "type": "t", "param": "p", "code": "c"}}',
            Said(code="c t", text="m", parameter="p"),
        ),
        ('[{"error": {"message": "m", "code": 429, "status": "S"}}]', Said(code="429 S", text="m", status=429)),
        ('{"error": "m"}', Said(text="m")),
        ('{"detail": "m"}', Said(text="m")),
        ('{"detail": [{"loc": ["body", "x"]}]}', Said(text="body.x")),
        (
            '{"detail": [{"type": "missing", "loc": ["body", 0], "msg": "Field required", "input": "of a customer"},'
            ' "odd", 7]}',
            Said(code="missing", text="body.0: Field required; odd"),
        ),
        ('{"object": "error", "message": "m", "type": "t"}', Said(code="t", text="m")),
        ('{"error": {"message": "m", "metadata": {"raw": "why"}}}', Said(text="m why")),
        ("m", Said(text="m")),
        ('{"what": 1}', Said(text='{"what": 1}')),
    ],
)
def test_the_words_of_an_error_are_found_in_every_shape(body: str, said: Said) -> None:
    assert read_words(body) == said


def test_a_page_is_read_without_its_tags() -> None:
    page = "<html><head><style>b {}</style></head><body><h1>502 Bad Gateway</h1><p>nginx</p></body></html>"
    assert words_of(read_words(page).text, ORIGIN) == "502 Bad Gateway nginx"


DATE = format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": DATE}, 90.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After-Ms": "250", "Retry-After": "7"}, 0.25),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-requests": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-reset-tokens": "12"}, 12.0),
        ({"x-ratelimit-reset-tokens": ""}, None),
        ({"x-ratelimit-reset-requests": "8s", "x-ratelimit-reset-tokens": "2s"}, 2.0),
        (
            {
                "x-ratelimit-reset-requests": "8s",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "2s",
                "x-ratelimit-remaining-tokens": "100",
            },
            8.0,
        ),
        ({"x-ratelimit-reset-requests": "6m0s", "Retry-After": "7"}, 7.0),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers, NOW, is_rate_limited=True) == seconds


def test_the_state_of_limits_is_no_request_to_wait_where_none_was_hit() -> None:
    assert retry_after_seconds({"x-ratelimit-reset-requests": "6m0s"}, NOW) is None


@pytest.mark.parametrize(
    ("words", "seconds"), [("Please try again in 6.2s.", 6.2), ("retry in 1m5s", 65.0), ("", None)]
)
def test_a_wait_that_is_told_in_words_is_heard(words: str, seconds: float | None) -> None:
    assert error_from_words(ORIGIN, Said(text=words), status=429).retry_after_seconds == seconds


@given(st.dictionaries(st.sampled_from(["Retry-After", "retry-after-ms", "x-ratelimit-reset-tokens"]), st.text()))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_whatever_the_headers_say_the_wait_is_a_number_of_seconds_or_nothing(headers: dict[str, str]) -> None:
    seconds = retry_after_seconds(headers, NOW, is_rate_limited=True)
    assert seconds is None or 0 <= seconds < float("inf")


STATUSES = st.none() | st.integers(300, 599)


@given(STATUSES, st.text(), st.text())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_whatever_a_server_says_becomes_an_error_that_holds_no_key(status: int | None, before: str, after: str) -> None:
    said = read_words(f"{before}{ORIGIN.key}{after}")
    error = error_from_words(ORIGIN, said, status=status)
    assert isinstance(error.kind, LMErrorKind)
    assert ORIGIN.key not in str(error)
    assert ORIGIN.key not in repr(ORIGIN)


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-abcdefgh1234",
        "sk-ant-api03-abcdefgh1234",
        "gsk_abcdefgh1234",
        "xai-abcdefgh1234",
        "hf_abcdefgh1234",
        "AIzaSyAbcdefgh12345678",
        "Bearer abc.def",
        "sk-proj-********************abcd",
        "my-own****ey",
    ],
)
def test_what_looks_like_a_key_is_not_shown(key: str) -> None:
    assert redacted(f"wrong key: {key}, sorry") == "wrong key: …, sorry"


@pytest.mark.parametrize("text", ["a task-oriented model", "none of these", "2 * 3 ** 4", "risk-assessment-tool"])
def test_what_does_not_look_like_a_key_is_shown(text: str) -> None:
    assert redacted(text, "none") == text


def test_no_value_under_the_name_of_a_key_is_shown_whoever_it_is_for() -> None:
    environ = {"MISTRAL_API_KEY": "q7Zt0aBv", "db_password": " hunter2hunter2\n", "X_KEY": "short", "HOME": "/home/me"}
    origin = replace(ORIGIN, secrets=secrets_in({**environ, "LONGER_TOKEN": "q7Zt0aBv-and-more"}))
    said = "q7Zt0aBv, q7Zt0aBv-and-more and hunter2hunter2 are not short or in /home/me"
    assert words_of(said, origin) == "…, … and … are not short or in /home/me"
    assert "q7Zt" not in repr(origin)


def test_a_provider_is_quoted_up_to_a_length() -> None:
    words = words_of("so " * 1000, ORIGIN)
    assert len(words) == MOST_CHARACTERS
    assert words.endswith("…")


def test_credentials_in_an_address_are_not_shown() -> None:
    origin = Origin(settings=ORIGIN.settings, address="https://me:secret@example.com/v1?token=secret")
    assert origin.name == "openai/gpt-4o-mini at https://example.com/v1"


@pytest.mark.parametrize(("status", "code"), list(product([None, 200, 418], ["", "teapot"])))
def test_what_nobody_has_seen_before_is_still_an_error(status: int | None, code: str) -> None:
    error = error_from_words(ORIGIN, Said(code=code), status=status)
    assert not error.is_lasting
    assert str(error).startswith("openai/gpt-4o-mini: ")
