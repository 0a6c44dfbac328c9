"""The models of a project: what a table may say, and what the environment adds."""

from typing import Any

import pytest

from pytest_promptopt.errors import ModelError
from pytest_promptopt.lms.base import Usage
from pytest_promptopt.lms.litellm_edge import LiteLLM
from pytest_promptopt.lms.models import (
    DEFAULT_TIMEOUT_SECONDS,
    Catalog,
    Edge,
    ModelSettings,
    Price,
    without_credentials,
)
from pytest_promptopt.lms.offline import OfflineLM
from pytest_promptopt.lms.openai_edge import OpenAICompatible
from pytest_promptopt.lms.registry import Registry

MINI = "openai/gpt-4.1-mini"


def test_a_table_says_everything_about_a_model() -> None:
    table = {
        "model": MINI,
        "base_url": "https://gateway.example.com/v1/",
        "key_variable": "GATEWAY_KEY",
        "price": {"input": 0.40, "output": 1.60, "cached_input": 0.10},
        "requests_per_minute": 500,
        "tokens_per_minute": 200_000,
        "timeout_seconds": 30,
        "edge": "litellm",
        "structured_output": False,
    }
    catalog = Catalog({"mini": table})
    assert catalog.names == ("mini",)
    assert catalog.find("mini") == ModelSettings(
        name="mini",
        model=MINI,
        edge=Edge.LITELLM,
        base_url="https://gateway.example.com/v1",
        key_variable="GATEWAY_KEY",
        price=Price(input_usd=0.40, output_usd=1.60, cached_input_usd=0.10),
        requests_per_minute=500,
        tokens_per_minute=200_000,
        timeout_seconds=30.0,
        has_structured_output=False,
    )


def test_a_model_alone_may_stand_for_its_table() -> None:
    assert Catalog({"mini": MINI}).find("mini") == Catalog({"mini": {"model": MINI}}).find("mini")


def test_a_name_without_a_table_stands_for_itself() -> None:
    catalog = Catalog()
    settings = catalog.find(MINI)
    assert (settings.name, settings.model) == (MINI, MINI)
    assert (settings.provider, settings.model_name) == ("openai", "gpt-4.1-mini")
    assert settings.timeout_seconds == DEFAULT_TIMEOUT_SECONDS
    assert settings.has_structured_output
    assert catalog.find(MINI) is settings


@pytest.mark.parametrize(
    ("model", "edge"),
    [
        ("openai/gpt-4o-mini", Edge.OPENAI),
        ("hosted_vllm/mine", Edge.OPENAI),
        ("lm_studio/mine", Edge.OPENAI),
        ("litellm_proxy/mine", Edge.OPENAI),
        ("anthropic/claude-3-haiku-20240307", Edge.LITELLM),
        ("openrouter/openai/gpt-4o", Edge.LITELLM),
    ],
)
def test_who_speaks_openais_protocol_is_asked_directly(model: str, edge: Edge) -> None:
    assert Catalog().find(model).edge is edge


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (7, "mini must be a table"),
        ("gpt-4o", "it is written provider/model, such as"),
        ({}, "names 'mini'; it is written provider/model"),
        ({"modle": MINI}, "modle is not known; the keys are model, base_url"),
        ({"model": ""}, "model = ''; it is a provider/model string"),
        ({"model": "gpt-4.1-mini"}, "it is written provider/model, such as"),
        ({"base_url": "https://a.example"}, "names 'mini'; it is written provider/model"),
        ({"model": MINI, "base_url": "gateway.example.com"}, "it is an address such as https://"),
        ({"model": MINI, "base_url": "https://"}, "it is an address such as https://"),
        ({"model": MINI, "key_variable": "sk-0123-456"}, "the name of an environment variable"),
        ({"model": MINI, "price": 0.4}, "US dollars for a million tokens"),
        ({"model": MINI, "price": {"input": 0.4}}, "US dollars for a million tokens"),
        ({"model": MINI, "price": {"input": 0.4, "output": -1}}, "US dollars for a million tokens"),
        ({"model": MINI, "price": {"input": 0.4, "output": float("nan")}}, "US dollars for a million tokens"),
        ({"model": MINI, "price": {"input": 0.4, "output": True}}, "US dollars for a million tokens"),
        ({"model": MINI, "price": {"input": 0.4, "output": 1, "reasoning": 2}}, "US dollars for a million tokens"),
        ({"model": MINI, "requests_per_minute": 0}, "a whole number, 1 or more"),
        ({"model": MINI, "requests_per_minute": 1.5}, "a whole number, 1 or more"),
        ({"model": MINI, "tokens_per_minute": True}, "a whole number, 1 or more"),
        ({"model": MINI, "timeout_seconds": 0}, "a number above 0"),
        ({"model": MINI, "timeout_seconds": "30"}, "a number above 0"),
        ({"model": MINI, "timeout_seconds": float("inf")}, "a number above 0"),
        ({"model": MINI, "edge": "httpx"}, r"openai \(its protocol, spoken directly\) or litellm"),
        ({"model": MINI, "structured_output": "no"}, "true or false"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_at_once(table: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        Catalog({"mini": table})
    assert "[tool.pytest-promptopt.models" in str(caught.value)


def test_a_key_that_was_pasted_into_the_file_is_not_repeated() -> None:
    with pytest.raises(ModelError, match="key_variable") as caught:
        Catalog({"mini": {"model": MINI, "key_variable": "sk-proj-abcdefgh12345678"}})
    assert "abcdefgh12345678" not in str(caught.value)


def test_an_alias_that_needs_quotes_in_toml_is_shown_with_them() -> None:
    with pytest.raises(ModelError, match=r'models\."gpt 4"\] edge'):
        Catalog({"gpt 4": {"model": MINI, "edge": "x"}})


@pytest.mark.parametrize("variable", ["OPENAI_BASE_URL", "OPENAI_API_BASE"])
def test_the_environment_says_where_a_provider_answers(variable: str) -> None:
    environ = {variable: "http://127.0.0.1:8000/v1/"}
    assert Catalog(environ=environ).find(MINI).base_url == "http://127.0.0.1:8000/v1"
    assert Catalog(environ=environ).find("anthropic/claude-3-haiku-20240307").base_url is None


def test_the_table_is_stronger_than_the_environment() -> None:
    catalog = Catalog(
        {"mini": {"model": MINI, "base_url": "https://a.example/v1"}}, environ={"OPENAI_BASE_URL": "https://b.example"}
    )
    assert catalog.find("mini").base_url == "https://a.example/v1"


@pytest.mark.parametrize("url", ["https://api.openai.com/v1", "https://api.openai.com/v1/"])
def test_the_providers_own_address_changes_nothing(url: str) -> None:
    assert Catalog(environ={"OPENAI_BASE_URL": url}).find(MINI).base_url is None


def test_a_variable_that_holds_no_address_is_named() -> None:
    with pytest.raises(ModelError, match="OPENAI_BASE_URL = 'localhost:8000'; it is an address such as https://"):
        Catalog(environ={"OPENAI_BASE_URL": "localhost:8000"}).find(MINI)


@pytest.mark.parametrize(
    ("table", "needs_key", "key_name"),
    [
        ({"model": MINI}, True, "OPENAI_API_KEY"),
        ({"model": MINI, "base_url": "http://127.0.0.1:8000/v1"}, False, "OPENAI_API_KEY"),
        ({"model": MINI, "base_url": "http://127.0.0.1:8000/v1", "key_variable": "MINE"}, True, "MINE"),
        ({"model": "hosted_vllm/x"}, False, "HOSTED_VLLM_API_KEY"),
        ({"model": "anthropic/x"}, False, None),
        ({"model": "anthropic/x", "key_variable": "MINE"}, True, "MINE"),
    ],
)
def test_who_needs_a_key_and_from_where(table: dict[str, Any], needs_key: bool, key_name: str | None) -> None:
    settings = Catalog({"mini": table}).find("mini")
    assert (settings.needs_key, settings.key_name) == (needs_key, key_name)


def test_what_is_cached_costs_its_own_price() -> None:
    usage = Usage(prompt_tokens=1_000_000, completion_tokens=500_000, cached_tokens=400_000)
    assert Price(input_usd=1.0, output_usd=4.0).cost_usd(usage) == pytest.approx(3.0)
    assert Price(input_usd=1.0, output_usd=4.0, cached_input_usd=0.5).cost_usd(usage) == pytest.approx(2.8)


def test_an_alias_gets_the_edge_that_its_settings_ask_for() -> None:
    tables = {
        "direct": {"model": MINI},
        "indirect": {"model": MINI, "edge": "litellm"},
        "at home": {"model": "offline/keyword"},
    }
    registry = Registry(Catalog(tables), environ={})
    assert isinstance(registry.lm_for("direct"), OpenAICompatible)
    assert isinstance(registry.lm_for("indirect"), LiteLLM)
    assert isinstance(registry.lm_for("at home"), OfflineLM)
    assert isinstance(registry.lm_for(MINI), OpenAICompatible)
    assert registry.lm_for("direct") is registry.lm_for("direct") is not registry.lm_for(MINI)


def test_an_unknown_model_is_told_the_projects_own() -> None:
    registry = Registry(Catalog({"fast": {"model": MINI}, "slow": {"model": MINI}}), environ={})
    with pytest.raises(ModelError, match=r"Nobody knows the model 'fats'. Models of this project: fast, slow. Offline"):
        registry.lm_for("fats")


@pytest.mark.parametrize("url", ["me:s3cret@gateway:8000/v1", "ftp://me:s3cret@gateway", "me:s3/cret@gateway/v1"])
def test_an_address_that_is_refused_is_shown_without_its_credentials(url: str) -> None:
    for make in (lambda: Catalog({"mini": {"model": MINI, "base_url": url}}), lambda: in_environment(url)):
        with pytest.raises(ModelError, match="gateway") as caught:
            make()
        assert "cret" not in str(caught.value)


def in_environment(url: str) -> object:
    return Catalog(environ={"OPENAI_BASE_URL": url}).find(MINI)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:secret@example.com/v1?token=secret", "https://example.com/v1"),
        ("https://me:se@cret@example.com/v1", "https://example.com/v1"),
        ("https://me:se/cret@example.com/v1", "https://example.com/v1"),
        ("me:secret@example.com:8000/v1", "example.com:8000/v1"),
        ("example.com:8000/v1/@team", "example.com:8000/v1/@team"),
        ("https://example.com/v1/@team", "https://example.com/v1/@team"),
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
    ],
)
def test_of_an_address_everything_is_shown_but_credentials_and_query(address: str, shown: str) -> None:
    assert without_credentials(address) == shown
