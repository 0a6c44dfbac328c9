"""What is known of a model before it is called: where it answers, with which key, at what price, and how fast.

``[tool.pytest-promptopt.models]`` names models; every other name is a ``provider/model`` string and stands for itself::

    [tool.pytest-promptopt.models.mini]
    model = "openai/gpt-4.1-mini"
    base_url = "https://gateway.example.com/v1"
    key_variable = "GATEWAY_KEY"
    price = { input = 0.40, output = 1.60, cached_input = 0.10 }    # US dollars for a million tokens
    requests_per_minute = 500
    tokens_per_minute = 200_000

A name that needs nothing else is written ``mini = "openai/gpt-4.1-mini"``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from pytest_promptopt.errors import ModelError
from pytest_promptopt.lms.base import Usage

T = TypeVar("T")

DEFAULT_TIMEOUT_SECONDS = 120.0


class Edge(StrEnum):
    """Which client library carries the requests."""

    OPENAI = "openai"  # OpenAI's chat protocol, spoken directly
    LITELLM = "litellm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A provider that speaks OpenAI's chat protocol. ``base_url`` is where it answers, if that is known."""

    base_url: str | None
    base_url_variables: tuple[str, ...]
    key_variable: str
    needs_key: bool


OPENAI_PROVIDERS: Mapping[str, Provider] = {
    "openai": Provider(
        base_url="https://api.openai.com/v1",
        base_url_variables=("OPENAI_BASE_URL", "OPENAI_API_BASE"),
        key_variable="OPENAI_API_KEY",
        needs_key=True,
    ),
    "hosted_vllm": Provider(
        base_url=None,
        base_url_variables=("HOSTED_VLLM_API_BASE",),
        key_variable="HOSTED_VLLM_API_KEY",
        needs_key=False,
    ),
    "lm_studio": Provider(
        base_url="http://localhost:1234/v1",
        base_url_variables=("LM_STUDIO_API_BASE",),
        key_variable="LM_STUDIO_API_KEY",
        needs_key=False,
    ),
    "litellm_proxy": Provider(
        base_url=None,
        base_url_variables=("LITELLM_PROXY_API_BASE",),
        key_variable="LITELLM_PROXY_API_KEY",
        needs_key=False,
    ),
}
"""Providers that are reached without litellm, by the names that litellm gives them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars for a million tokens. Cached input costs as much as other input where nothing else is said."""

    input_usd: float
    output_usd: float
    cached_input_usd: float | None = None

    def cost_usd(self, usage: Usage) -> float:
        """What a completion of that usage costs."""
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        cached_usd = self.input_usd if self.cached_input_usd is None else self.cached_input_usd
        fresh = usage.prompt_tokens - cached
        return (fresh * self.input_usd + cached * cached_usd + usage.completion_tokens * self.output_usd) / 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """One model as its user set it up.

    ``name`` is what the user calls it, which names snapshots; ``model`` the ``provider/model`` string behind it.
    ``base_url`` is where it answers when that is not the provider's own address, without a slash at the end; it is part
    of what replies are stored under. ``key_variable`` names the environment variable that holds the key (``None``: the
    provider's own), ``price`` is ``None`` where litellm's table decides.
    """

    name: str
    model: str
    edge: Edge
    base_url: str | None = None
    key_variable: str | None = None
    price: Price | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    has_structured_output: bool = True

    @property
    def provider(self) -> str:
        """The part of ``model`` before the first slash."""
        return self.model.partition("/")[0]

    @property
    def model_name(self) -> str:
        """The rest: what the provider calls the model."""
        return self.model.partition("/")[2]

    @property
    def table_name(self) -> str:
        """``name`` as the heading of its table in TOML has it."""
        return _quoted(self.name)

    @property
    def key_name(self) -> str | None:
        """The environment variable that holds the key; ``None`` where only litellm knows."""
        provider = OPENAI_PROVIDERS.get(self.provider)
        return self.key_variable or (provider.key_variable if provider else None)

    @property
    def needs_key(self) -> bool:
        """Whether no call can succeed without a key. A server at an address of one's own may ask for none."""
        provider = OPENAI_PROVIDERS.get(self.provider)
        return self.key_variable is not None or (provider is not None and provider.needs_key and self.base_url is None)

    @property
    def base_url_variables(self) -> tuple[str, ...]:
        """The environment variables that say where the provider answers, strongest first."""
        return _base_url_variables(self.provider)


class Catalog:
    """The models of a project: ``tables`` as TOML has them, and what the environment says about providers.

    This process is one of so many ``workers``, which share the limits of a minute. Raises
    :class:`~pytest_promptopt.errors.ModelError` for a table that cannot be meant, at once.
    """

    def __init__(
        self,
        tables: Mapping[str, object] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        workers: int = 1,
    ) -> None:
        self._environ = environ or {}
        self._workers = workers
        self._tables = {name: _Table(name, table) for name, table in (tables or {}).items()}
        self._found: dict[str, ModelSettings] = {}
        for name in self._tables:
            self.find(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The models that have a table of their own, in its order."""
        return tuple(self._tables)

    def find(self, name: str) -> ModelSettings:
        """The settings of ``name``, an alias or a ``provider/model`` string; the same object every time."""
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = self._read(name)
        return found

    def _read(self, name: str) -> ModelSettings:
        table = self._tables.get(name) or _Table(name, {})
        model = table.take("model", _text) or name
        provider = model.partition("/")[0]
        edge = table.take("edge", _edge) or (Edge.OPENAI if provider in OPENAI_PROVIDERS else Edge.LITELLM)
        settings = ModelSettings(
            name=name,
            model=model,
            edge=edge,
            base_url=_foreign(table.take("base_url", _url) or self._base_url_of(provider), provider),
            key_variable=table.take("key_variable", _variable),
            price=table.take("price", _price),
            requests_per_minute=self._shared(table.take("requests_per_minute", _count)),
            tokens_per_minute=self._shared(table.take("tokens_per_minute", _count)),
            timeout_seconds=table.take("timeout_seconds", _seconds) or DEFAULT_TIMEOUT_SECONDS,
            has_structured_output=_or(table.take("structured_output", _flag), True),
        )
        table.refuse_others()
        if name in self._tables and "/" not in model:
            raise table.fault("model", f"names {model!r}; it is written provider/model, such as openai/gpt-4.1-mini")
        return settings

    def _shared(self, most: int | None) -> int | None:
        """This process's share of what may go out in a minute."""
        return None if most is None else max(1, most // self._workers)

    def _base_url_of(self, provider: str) -> str | None:
        for variable in _base_url_variables(provider):
            written = self._environ.get(variable)
            if written and not _url(written):
                raise ModelError(f"{variable} = {_shown('base_url', written)}; it is {_MEANT['base_url']}")
            if written:
                return written
        return None


class _Table:
    """One model's table; every key is taken once, and what is left over nobody knows."""

    def __init__(self, name: str, values: object) -> None:
        self.name = name
        if isinstance(values, str):
            values = {"model": values}
        if not isinstance(values, Mapping):
            raise ModelError(
                f"[tool.pytest-promptopt.models] {name} must be a table, such as {name} = {{ {_EXAMPLE} }}"
            )
        self.values = dict(values)

    def take(self, key: str, read: Callable[[object], T | None]) -> T | None:
        if key not in self.values:
            return None
        value = read(self.values[key])
        if value is None:
            written = _shown(key, self.values[key])
            raise self.fault(key, f"= {written}; it is {_MEANT[key]}")
        return value

    def refuse_others(self) -> None:
        unknown = [key for key in self.values if key not in _MEANT]
        if unknown:
            raise self.fault(unknown[0], f"is not known; the keys are {', '.join(_MEANT)}")

    def fault(self, key: str, what: str) -> ModelError:
        return ModelError(f"[tool.pytest-promptopt.models.{_quoted(self.name)}] {key} {what}")


_EXAMPLE = 'model = "openai/gpt-4.1-mini"'
_MEANT: Mapping[str, str] = {
    "model": "a provider/model string such as openai/gpt-4.1-mini",
    "base_url": "an address such as https://gateway.example.com/v1",
    "key_variable": "the name of an environment variable such as OPENAI_API_KEY (the key itself stays out of files)",
    "price": "US dollars for a million tokens, such as { input = 0.40, output = 1.60 }, cached_input if it differs",
    "requests_per_minute": "a whole number, 1 or more",
    "tokens_per_minute": "a whole number, 1 or more",
    "timeout_seconds": "a number above 0",
    "edge": "openai (its protocol, spoken directly) or litellm",
    "structured_output": "true or false",
}


def _base_url_variables(provider: str) -> tuple[str, ...]:
    known = OPENAI_PROVIDERS.get(provider)
    return known.base_url_variables if known else (f"{provider.upper().replace('-', '_')}_API_BASE",)


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name) else f'"{name}"'


def _shown(key: str, written: object) -> str:
    """What was written, without what must not be shown: people paste the key itself for the name of its variable."""
    if key == "key_variable":
        return "…"
    return repr(without_credentials(written) if key == "base_url" and isinstance(written, str) else written)


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def without_credentials(address: str) -> str:
    """``address`` as it may be shown: neither who asks nor a query is in it, even where it is no address."""
    return _CREDENTIALS.sub(r"\1", address).partition("?")[0]


# A password may hold what no address may; "host:8000/v1/@team" has none.
_CREDENTIALS = re.compile(r"^((?>(?:[A-Za-z][\w+.-]*://)?))(?:[^/\s]*|[^/\s:@]+:(?!\d+/)[^\s@]*)@")


def _foreign(url: str | None, provider: str) -> str | None:
    """``url`` unless the provider answers there anyway."""
    plain = url.rstrip("/") if url else None
    known = OPENAI_PROVIDERS.get(provider)
    return None if known is not None and plain == known.base_url else plain


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _url(value: object) -> str | None:
    return value if isinstance(value, str) and re.match(r"https?://[^/\s]", value) else None


def _variable(value: object) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z_]\w*", value) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None


def _seconds(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value < float("inf") else None  # type: ignore[arg-type,operator]


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _edge(value: object) -> Edge | None:
    return Edge(value) if isinstance(value, str) and value in tuple(Edge) else None


def _price(value: object) -> Price | None:
    if not isinstance(value, Mapping) or not {"input", "output"} <= value.keys() <= {"input", "output", "cached_input"}:
        return None
    usd = {key: _usd(each) for key, each in value.items()}
    if any(each is None for each in usd.values()):
        return None
    return Price(
        input_usd=usd["input"] or 0.0, output_usd=usd["output"] or 0.0, cached_input_usd=usd.get("cached_input")
    )


def _usd(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < float("inf") else None  # type: ignore[arg-type,operator]
