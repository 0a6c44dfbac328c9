"""The most that an attempt may cost: above every bill that the price allows, and no guess below what was seen."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.lms.base import Reply, Request, Usage
from pytest_promptopt.lms.bounds import MOST_OUTPUT_TOKENS, Bound, Bounds, most_prompt_tokens
from pytest_promptopt.lms.models import Edge, ModelSettings, Price

PRICE = Price(input_usd=2.0, output_usd=8.0, cached_input_usd=0.5)


def ask(text: str = "hello", *, max_tokens: int | None = None, schema: str | None = None) -> Request:
    messages = ({"role": "user", "content": text},)
    return Request(model="remote/x", messages=messages, max_tokens=max_tokens, schema=schema)


def reply(completion_tokens: int) -> Reply:
    return Reply(text="yes", usage=Usage(prompt_tokens=5, completion_tokens=completion_tokens))


def output_tokens(bound: Bound, request: Request) -> float:
    """The completion that ``bound`` reckons with."""
    cost_usd = bound.cost_usd(request)
    assert cost_usd is not None
    return round((cost_usd * 1e6 - most_prompt_tokens(request) * PRICE.input_usd) / PRICE.output_usd, 6)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(max_size=60), st.none() | st.just('{"type":"string"}'), st.integers(1, 50), st.data())
def test_no_bill_passes_the_bound(text: str, schema: str | None, max_tokens: int, data: st.DataObject) -> None:
    request = ask(text, max_tokens=max_tokens, schema=schema)
    sent_bytes = len(text.encode("utf-8", "surrogatepass")) + len(schema or "")  # a token has a byte at least
    prompt_tokens = data.draw(st.integers(0, sent_bytes + 16))
    usage = Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=data.draw(st.integers(0, max_tokens)),
        cached_tokens=data.draw(st.integers(0, prompt_tokens)),
    )
    bound_usd = Bound(price=PRICE, most_output_tokens=None).cost_usd(request)
    assert bound_usd is not None
    assert bound_usd >= PRICE.cost_usd(usage)


@pytest.mark.parametrize(
    ("max_tokens", "most", "expected"),
    [(7, None, 7), (None, None, MOST_OUTPUT_TOKENS), (None, 100, 100), (None, 1_000_000, MOST_OUTPUT_TOKENS)],
)
def test_a_reply_is_as_long_as_allowed(max_tokens: int | None, most: int | None, expected: int) -> None:
    bound = Bound(price=PRICE, most_output_tokens=most)
    assert output_tokens(bound, ask(max_tokens=max_tokens)) == expected


def test_no_reply_is_reckoned_shorter_than_one_that_was_seen_under_the_same_limit() -> None:
    bound = Bound(price=PRICE, most_output_tokens=None)
    for tokens in (9_000, 30):
        bound.learn(ask(), reply(tokens))
    bound.learn(ask(max_tokens=10), reply(25))
    assert output_tokens(bound, ask()) == 9_000
    assert output_tokens(bound, ask(max_tokens=10)) == 25
    assert output_tokens(bound, ask(max_tokens=11)) == 11


def test_without_a_price_the_dearest_reply_so_far_stands_for_it() -> None:
    bound = Bound(price=None, most_output_tokens=None)
    assert bound.cost_usd(ask()) is None
    for cost_usd in (0.02, 0.01, None):
        bound.learn(ask(), Reply(text="yes", cost_usd=cost_usd))
    assert bound.cost_usd(ask()) == 0.02


def test_a_model_whose_replies_say_0_costs_nothing() -> None:
    bound = Bound(price=None, most_output_tokens=None)
    bound.learn(ask(), Reply(text="yes", cost_usd=0.0))
    assert bound.cost_usd(ask()) == 0.0


def test_a_model_in_this_process_is_free_until_it_is_not() -> None:
    bound = Bound(price=None, most_output_tokens=None, is_free=True)
    assert bound.cost_usd(ask()) == 0.0
    bound.learn(ask(), Reply(text="yes", cost_usd=0.5))
    assert bound.cost_usd(ask()) == 0.5


def test_probable_tokens_follow_the_replies_that_came() -> None:
    bound = Bound(price=None, most_output_tokens=None)
    assert bound.probable_tokens(ask("x" * 400)) == 100 + 256
    for tokens in (10, 30):
        bound.learn(ask(), reply(tokens))
    assert bound.probable_tokens(ask("x" * 400)) == 100 + 20
    assert bound.probable_tokens(ask("x" * 400, max_tokens=7)) == 100 + 7


def test_what_is_offline_is_not_looked_up() -> None:
    settings = ModelSettings(name="offline/x", model="offline/x", edge=Edge.LITELLM)
    bounds = Bounds(lambda _: pytest.fail("asked"), lambda _: pytest.fail("asked"))
    assert bounds.find(settings, is_offline=True).cost_usd(ask()) == 0.0
