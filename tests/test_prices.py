"""What a model costs: its user's word, then litellm's table, and never a 0 that nobody said."""

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.lms.base import Usage
from pytest_promptopt.lms.models import Catalog, Price
from pytest_promptopt.lms.prices import find_price, most_output_tokens


def price_of(model: str) -> Price | None:
    return find_price(Catalog().find(model))


def test_a_model_is_found_by_its_name_under_its_provider() -> None:
    assert price_of("openai/gpt-4o-mini") == Price(input_usd=0.15, output_usd=0.6, cached_input_usd=0.075)
    assert price_of("deepseek/deepseek-chat") == Price(input_usd=0.28, output_usd=0.42, cached_input_usd=0.028)


@pytest.mark.parametrize("model", ["groq/gpt-4o-mini", "hosted_vllm/gpt-4o-mini", "anthropic/gpt-4o-mini"])
def test_a_model_of_the_same_name_elsewhere_has_another_price(model: str) -> None:
    assert price_of(model) is None


@pytest.mark.parametrize(
    "model",
    [
        "openai/of-my-own",
        "nonsense/x",
        "openai/text-embedding-3-small",  # no chat model
        "sample_spec",
        "openai/",
        "gigachat/GigaChat-2",  # 0 for both, as many that are not free
        "ollama/llama3",
        "perplexity/sonar",  # charges for the search as well
    ],
)
def test_what_nobody_knows_has_no_price(model: str) -> None:
    assert find_price(replace(Catalog().find("openai/gpt-4o-mini"), model=model)) is None


def test_the_users_price_is_stronger_than_the_table_and_may_be_0() -> None:
    catalog = Catalog({"mine": {"model": "openai/gpt-4o-mini", "price": {"input": 0, "output": 0}}})
    price = find_price(catalog.find("mine"))
    assert price == Price(input_usd=0.0, output_usd=0.0)
    assert price.cost_usd(Usage(prompt_tokens=7, completion_tokens=3)) == 0.0


@pytest.mark.parametrize("model", ["vertex_ai/gemini-2.5-pro", "bedrock/us.writer.palmyra-x5-v1:0"])
def test_a_provider_that_the_table_calls_otherwise_is_found(model: str) -> None:
    assert price_of(model) is not None


def test_reasoning_that_costs_more_than_other_output_is_paid_at_its_own_rate() -> None:
    price = price_of("dashscope/qwen-turbo")
    assert price is not None
    assert price.output_usd == 0.5


def test_the_longest_completion_is_known_where_the_table_has_it() -> None:
    assert most_output_tokens(Catalog().find("openai/gpt-4o-mini")) == 16_384
    assert most_output_tokens(Catalog().find("openai/of-my-own")) is None


def test_looking_up_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pytest_promptopt.lms.models import Catalog;"
        "from pytest_promptopt.lms.prices import find_price;"
        "assert find_price(Catalog().find('openai/gpt-4o-mini'));"
        "sys.exit(bool({'litellm', 'openai', 'aiohttp', 'pydantic'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


USD = st.floats(0, 1000)
TOKENS = st.integers(0, 10**7)


@given(USD, USD, USD, TOKENS, TOKENS, TOKENS)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_cost_is_never_below_0_and_no_more_than_without_a_cache(
    input_usd: float, output_usd: float, cached_usd: float, prompt: int, completion: int, cached: int
) -> None:
    price = Price(input_usd=input_usd, output_usd=output_usd, cached_input_usd=min(cached_usd, input_usd))
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached)
    assert 0 <= price.cost_usd(usage) <= price.cost_usd(replace(usage, cached_tokens=0)) * (1 + 1e-9) + 1e-12
