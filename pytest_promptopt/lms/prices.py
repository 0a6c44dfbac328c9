"""What a model costs where its user says nothing: litellm's table, read as a file, because importing litellm is slow.

The table is flat here: what some models charge on top for prompts of more than 128,000 tokens is not in it. Where a
model charges by the request as well as by the token, its price counts as unknown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

from pytest_promptopt.lms.models import ModelSettings, Price

TABLE = "model_prices_and_context_window_backup.json"


def find_price(settings: ModelSettings) -> Price | None:
    """The price of a model: its user's, else litellm's; ``None`` where nobody knows.

    A table that says 0 for input and output is not believed: it has free trials, subscriptions and models at home in
    it, and a bill is a bad place to learn the difference. ``price = { input = 0, output = 0 }`` says it for sure.
    """
    if settings.price is not None:
        return settings.price
    entry = _entry_of(settings)
    return entry.price if entry else None


def most_output_tokens(settings: ModelSettings) -> int | None:
    """The longest completion that a model can write, in tokens, where the table has it."""
    entry = _entry_of(settings)
    return entry.most_output_tokens if entry else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    provider: str
    price: Price | None
    most_output_tokens: int | None


_reading = Lock()


def _entry_of(settings: ModelSettings) -> _Entry | None:
    """By the whole name, else by the model's where it is that provider's."""
    with _reading:  # a cached function may run twice at once
        table = _table()
    entry = table.get(settings.model)
    if entry is None:
        entry = table.get(settings.model_name)
        if entry is not None and not _is_of(entry.provider, settings.provider):
            return None
    return entry


def _is_of(owner: str, provider: str) -> bool:
    """Whether the table's ``owner`` is the provider: it has ``bedrock_converse``, ``vertex_ai-language-models``, …."""
    return owner in (provider, f"{provider}_converse", f"{provider}_chat") or owner.startswith(f"{provider}-")


@cache
def _table() -> Mapping[str, _Entry]:
    """Every chat model of the table. 20 ms, once a process."""
    found = find_spec("litellm")
    if found is None or found.origin is None:
        return {}
    try:
        content = json.loads(Path(found.origin).with_name(TABLE).read_bytes())
    except (OSError, ValueError):
        return {}
    return {
        name: _entry(row) for name, row in content.items() if row.get("mode") in ("chat", "responses", "completion")
    }


def _entry(row: Mapping[str, object]) -> _Entry:
    longest = row.get("max_output_tokens")
    return _Entry(
        provider=str(row.get("litellm_provider")),
        price=_price(row),
        most_output_tokens=longest if isinstance(longest, int) and longest > 0 else None,
    )


def _price(row: Mapping[str, object]) -> Price | None:
    """US dollars for a million tokens; reasoning counts as output, at the dearer of both rates."""
    input_usd, output_usd = _million(row, "input_cost_per_token"), _million(row, "output_cost_per_token")
    if input_usd is None or output_usd is None or not (input_usd or output_usd) or _charges_by_request(row):
        return None
    return Price(
        input_usd=input_usd,
        output_usd=max(output_usd, _million(row, "output_cost_per_reasoning_token") or 0.0),
        cached_input_usd=_million(row, "cache_read_input_token_cost"),
    )


def _charges_by_request(row: Mapping[str, object]) -> bool:
    """Perplexity's models search the web whether asked to or not; others charge for a search that nobody asks for."""
    searches = row.get("litellm_provider") == "perplexity" and bool(row.get("search_context_cost_per_query"))
    return searches or bool(row.get("input_cost_per_request"))


def _million(row: Mapping[str, object], key: str) -> float | None:
    value = row.get(key)
    return round(float(value) * 1e6, 9) if isinstance(value, int | float) else None
