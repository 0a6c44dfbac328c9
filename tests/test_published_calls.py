"""Our calls beside those counted of DSPy 3.4.1 on 24 train and 24 val rows, as docs/optimizers.md tells them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_promptopt.optimizers.base import Sizes
from pytest_promptopt.optimizers.registry import make_optimizer

PAGE = Path(__file__).parent.parent / "docs/optimizers.md"
CASES = [  # strategy, its settings, prompts, our most calls, DSPy's
    ("labeled-few-shot", {}, 1, 24, 0),
    ("bootstrap-few-shot", {}, 1, 24, 4),
    ("bootstrap-random-search", {}, 1, 432, 500),
    ("bootstrap-optuna", {}, 1, 384, 388),
    ("copro", {}, 1, 773, 723),
    ("copro", {"breadth": 3, "depth": 2}, 1, 149, 146),
    ("copro", {"breadth": 3, "depth": 2}, 2, 634, 868),
    ("mipro", {"num_candidates": 6}, 1, 134, 291),
    ("mipro", {"num_candidates": 6}, 2, 523, 1058),
    ("gepa", {"max_evaluations": 21}, 1, 504, 506),
]


@pytest.mark.parametrize(("name", "settings", "prompts", "ours", "published"), CASES)
def test_the_most_calls_are_those_on_the_page(
    name: str, settings: dict[str, object], prompts: int, ours: int, published: int
) -> None:
    sizes = Sizes(train_rows=24, labelled_rows=24, val_rows=24, prompts=prompts, calls_per_row=prompts)
    assert make_optimizer(name, settings).expected_calls(sizes)[1] == ours
    words = ", ".join(f"{key}={value}" for key, value in settings.items())
    what = f"`{name}`" + (f", {words}" if words else "") + (f", {prompts} prompts" if prompts > 1 else "")
    assert f"| {what} | {ours:,} | {published:,} |" in PAGE.read_text(encoding="utf-8")
