"""Which prompts a test can reach, told by following names through the project's own functions; nothing is called.

It sees what is written: globals, attributes of modules, methods, closures, containers. What is looked up at run time
(a registry, a plugin, ``getattr``) it does not see, so it is asked last, after baselines and markers.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, GetSetDescriptorType, MethodType, ModuleType
from typing import Any

MAX_OBJECTS = 5_000
_MAX_ELEMENTS = 200


def reachable_prompts(
    start: Iterable[object], prompts: Iterable[object], *, is_own: Callable[[Path], bool]
) -> list[Any]:
    """Those of ``prompts`` that code can get at from ``start``; ``is_own`` says which files are worth following."""
    wanted = {id(prompt): prompt for prompt in prompts}
    found: dict[int, Any] = {}
    seen: set[int] = set()
    waiting = list(start)
    kept_alive: list[object] = []  # an id means an object only as long as the object lives
    while waiting and len(seen) < MAX_OBJECTS:
        here = waiting.pop()
        if id(here) in seen:
            continue
        seen.add(id(here))
        kept_alive.append(here)
        if id(here) in wanted:
            found[id(here)] = wanted[id(here)]
        else:
            waiting.extend(_next(here, is_own))
    return [prompt for key, prompt in wanted.items() if key in found]


def _next(here: Any, is_own: Callable[[Path], bool]) -> Iterator[object]:
    """What is one step away from ``here``. By its type alone: asking a lazy object for its class would wake it."""
    kind = type(here)
    if "__wrapped__" in (held := _dictionary(here)):
        yield held["__wrapped__"]
    if kind is FunctionType:
        yield from _used_by(here) if is_own(Path(here.__code__.co_filename)) else ()
    elif kind is MethodType:
        yield from (here.__func__, here.__self__)
    elif kind is functools.partial:
        yield from (here.func, *here.args, *here.keywords.values())
    elif kind in (staticmethod, classmethod):
        yield here.__func__
    elif kind is property:
        yield here.fget
    elif issubclass(kind, dict):
        yield from list(dict.values(here))[:_MAX_ELEMENTS]
    elif kind in (list, tuple, set, frozenset):
        yield from list(here)[:_MAX_ELEMENTS]
    elif issubclass(kind, type):
        yield from _members(here, is_own)
    elif _is_own_class(kind, is_own):
        yield kind
        yield from _attributes(here)


def _attributes(here: object) -> list[object]:
    return list(_dictionary(here).values())[:_MAX_ELEMENTS]


def _dictionary(here: object) -> dict[str, object]:
    """What an object holds, without asking the object: its class may answer for ``__dict__`` too."""
    found = next((vars(base)["__dict__"] for base in type(here).__mro__ if "__dict__" in vars(base)), None)
    own = found.__get__(here) if isinstance(found, GetSetDescriptorType) else None
    return own if isinstance(own, dict) else {}


def _members(here: type, is_own: Callable[[Path], bool]) -> Iterator[object]:
    for base in here.__mro__:
        if _is_own_class(base, is_own):
            yield from vars(base).values()


def _is_own_class(here: type, is_own: Callable[[Path], bool]) -> bool:
    file = getattr(sys.modules.get(here.__module__), "__file__", None)
    return file is not None and is_own(Path(file))


def _used_by(function: FunctionType) -> Iterator[object]:
    """The objects that the function's code names: its globals, what it imports, attributes of modules, its closure."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not bound yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    names = _names(function.__code__)
    known = {name: function.__globals__[name] for name in names if name in function.__globals__}
    imported = [sys.modules[name] for name in names if name in sys.modules and name not in known]
    for one in [*known.values(), *imported]:
        if issubclass(type(one), ModuleType):
            yield from _named_in(one, names)
        else:
            yield one


def _named_in(module: ModuleType, names: set[str], depth: int = 3) -> Iterator[object]:
    """What a module has under one of the ``names``, submodules followed; nothing is looked up that is not there."""
    for name in names & vars(module).keys():
        one = vars(module)[name]
        if not issubclass(type(one), ModuleType):
            yield one
        elif depth:
            yield from _named_in(one, names, depth - 1)


def _names(code: CodeType) -> set[str]:
    """The global and attribute names that the code uses, with those of the functions inside it."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names
