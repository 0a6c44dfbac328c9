"""What the package exposes is what it says it exposes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pytest_promptopt


def test_the_public_names_are_sorted_and_each_is_there() -> None:
    assert pytest_promptopt.__all__ == sorted(pytest_promptopt.__all__)
    for name in pytest_promptopt.__all__:
        assert getattr(pytest_promptopt, name) is not None


def test_a_star_import_brings_the_public_names_and_no_others() -> None:
    names: dict[str, object] = {}
    exec("from pytest_promptopt import *", names)
    assert set(names) - {"__builtins__"} == set(pytest_promptopt.__all__)


def test_every_public_name_is_known_to_type_checkers_and_nothing_else_is() -> None:
    tree = ast.parse(Path(pytest_promptopt.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name for node in ast.walk(block) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == set(pytest_promptopt.__all__)


def test_every_public_name_stands_in_dir_and_has_words() -> None:
    assert set(pytest_promptopt.__all__) <= set(dir(pytest_promptopt))
    for name in pytest_promptopt.__all__:
        assert getattr(pytest_promptopt, name).__doc__


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'pytest_promptopt' has no attribute 'promt'"):
        _ = pytest_promptopt.promt  # type: ignore[attr-defined]  # the point of the test


def test_what_tests_may_use_is_public_too() -> None:
    from pytest_promptopt import testing

    assert testing.__all__ == sorted(testing.__all__)
    for name in testing.__all__:
        assert getattr(testing, name).__doc__
