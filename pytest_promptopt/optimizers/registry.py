"""Strategies by name, with settings read from the command line and the ini file."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from importlib import import_module
from math import isfinite
from types import MappingProxyType
from typing import Union, cast, get_args, get_origin, get_type_hints

from pytest_promptopt.errors import UsageError
from pytest_promptopt.optimizers.base import Optimizer

OPTIMIZERS: Mapping[str, str] = MappingProxyType(
    {
        "labeled-few-shot": "pytest_promptopt.optimizers.labeled_few_shot:LabeledFewShot",
        "bootstrap-few-shot": "pytest_promptopt.optimizers.bootstrap_few_shot:BootstrapFewShot",
        "bootstrap-random-search": "pytest_promptopt.optimizers.bootstrap_random_search:BootstrapRandomSearch",
        "bootstrap-optuna": "pytest_promptopt.optimizers.bootstrap_optuna:BootstrapOptuna",
        "copro": "pytest_promptopt.optimizers.copro:Copro",
        "mipro": "pytest_promptopt.optimizers.mipro:Mipro",
        "gepa": "pytest_promptopt.optimizers.gepa:Gepa",
        "reflect-race": "pytest_promptopt.optimizers.reflect_race:ReflectRace",
    }
)
"""Name → ``module:attribute`` of a dataclass of settings, imported when it is asked for."""

NO_STRATEGIES: Mapping[str, str] = MappingProxyType({})
TRUTHS = MappingProxyType({"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False})


def make_optimizer(
    name: str, settings: Mapping[str, object], *, extra: Mapping[str, str] = NO_STRATEGIES, typed: str = ""
) -> Optimizer:
    """The strategy ``name`` with ``settings``; strings are read as the setting's type.

    ``extra`` adds strategies of other packages as ``{name: "module:attribute"}``. ``typed`` is what the user called it,
    for messages about settings. Raises ``UsageError`` for an unknown name or setting and for a value of the wrong type
    or range.
    """
    known = {**OPTIMIZERS, **extra}
    if name not in known:
        raise UsageError(f"Unknown optimizer {name!r}.{_guess(name, known)} Known are: {', '.join(known)}.")
    strategy = _load(name, known[name])
    return cast(Optimizer, strategy(**read_settings(typed or name, strategy, settings)))


def read_settings(name: str, strategy: type, settings: Mapping[str, object]) -> dict[str, object]:
    """``settings`` of the class ``strategy``, read as their types. Raises ``UsageError`` as :func:`make_optimizer`."""
    _refuse_unknown_settings(name, strategy, settings)
    hints = get_type_hints(strategy)
    return {key: _read_value(f"{name}.{key}", value, hints[key]) for key, value in settings.items()}


def _guess(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _load(name: str, address: str) -> type:
    module, _, attribute = address.partition(":")
    try:
        strategy = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two for what names no module
        raise UsageError(f"Optimizer {name!r} cannot be loaded from {address!r}: {error}") from error
    if not (isinstance(strategy, type) and is_dataclass(strategy)):
        raise UsageError(f"Optimizer {name!r} cannot be loaded from {address!r}: that is no dataclass of settings")
    return strategy


def _refuse_unknown_settings(name: str, strategy: type, settings: Mapping[str, object]) -> None:
    known = {field.name: field.default for field in fields(strategy) if field.init}
    for key in settings:
        if key not in known:
            listed = ", ".join(f"{k}={'(required)' if v is MISSING else v}" for k, v in known.items()) or "none"
            raise UsageError(f"Optimizer {name!r} has no setting {key!r}.{_guess(key, known)} Its settings: {listed}.")


def _read_value(key: str, value: object, hint: object) -> object:
    """``value`` as the type of the setting ``key``: int, float, bool, str, Literal, or one of these or ``none``."""
    allowed = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if type(None) in allowed and (value is None or value in ("none", "None")):
        return None
    for kind in allowed:
        read = _read_as(kind, value)
        if read is not None:
            return read
    words = " or ".join(_type_words(kind) for kind in allowed)
    example = {int: "3", float: "0.5", bool: "true", str: "TEXT"}
    shown = next(example.get(kind) or str(get_args(kind)[0]) for kind in allowed if kind is not type(None))
    raise UsageError(f"{key} must be {words}, not {value!r}, such as --prompt-set {key}={shown}")


def _read_as(kind: object, value: object) -> object:
    """``value`` as ``kind``, or ``None`` when it is not one."""
    if kind is bool:
        return value if isinstance(value, bool) else TRUTHS.get(str(value).lower()) if isinstance(value, str) else None
    if isinstance(value, bool):
        return None
    if kind in (int, float):
        return _read_number(kind, value)
    if get_args(kind):
        return next((choice for choice in get_args(kind) if value == choice or value == str(choice)), None)
    return value if kind is str and isinstance(value, str) else None


def _read_number(kind: type[int] | type[float], value: object) -> int | float | None:
    if isinstance(value, float) and kind is int:
        return int(value) if value.is_integer() else None
    try:
        number = kind(value) if isinstance(value, int | float | str) else None
    except (ValueError, OverflowError):
        return None
    return number if number is not None and isfinite(number) else None


def _type_words(kind: object) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    return names.get(kind) or f"one of {', '.join(map(str, get_args(kind)))}"  # type: ignore[call-overload]
