"""What was read of each file, remembered between runs in a private file: names, lines and counts, never a text."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_promptopt.errors import UsageError
from pytest_promptopt.prompts.discovery.findings import FileFacts, Flow, FoundText

FORMAT = 1
"""Raised whenever the same file would be read otherwise than before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """One file as it was when it was read; with another time or size it is read anew."""

    modified_ns: int
    size_bytes: int
    facts: FileFacts


def read_cache(path: Path | None) -> dict[str, Remembered]:
    """What is remembered, by path; nothing where the file is missing, broken, or another version's."""
    if path is None:
        return {}
    try:
        content = json.loads(path.read_bytes())
        if content["reader"] != _reader():
            return {}
        return {name: _remembered(entry) for name, entry in content["files"].items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}


def write_cache(path: Path | None, files: Mapping[str, Remembered]) -> None:
    """Remember ``files``, all or nothing, readable for the owner alone; where that cannot be done, it is not done."""
    if path is None:
        return
    from pytest_promptopt.lms.store import prepare_folder

    content = {"reader": _reader(), "files": {name: _entry(one) for name, one in files.items()}}
    with suppress(OSError, UsageError, UnicodeEncodeError):
        prepare_folder(path.parent)
        handle, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".new", dir=path.parent)  # mode 0600
        draft = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(content, file, separators=(",", ":"))
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def _reader() -> list[int]:
    """Who read the files: another Python has another grammar."""
    return [FORMAT, *sys.version_info[:2]]


def _entry(one: Remembered) -> list[Any]:
    facts = one.facts
    if facts == FileFacts():
        return [one.modified_ns, one.size_bytes]
    texts = [
        [
            *(text.line, text.name, text.owner, text.kind, text.words, list(text.placeholders)),
            *(text.is_evident, text.has_own_name),
        ]
        for text in facts.texts
    ]
    nodes = list(dict.fromkeys(node for flow in facts.flows for node in (flow.source, flow.target)))
    place = {node: number for number, node in enumerate(nodes)}
    flows = [[place[flow.source], place[flow.target], flow.line] for flow in facts.flows]
    managed = [list(prompt) for prompt in facts.managed]
    return [one.modified_ns, one.size_bytes, managed, texts, nodes, flows, facts.fault]


def _remembered(entry: Any) -> Remembered:
    """Raises ``TypeError`` or ``ValueError`` for what this version does not write."""
    modified_ns, size_bytes, *rest = entry
    facts = FileFacts()
    if rest:
        managed, texts, nodes, flows, fault = rest
        facts = FileFacts(
            managed=tuple((_text(name), _number(line), _text(kind)) for name, line, kind in managed),
            texts=tuple(_found_text(*text) for text in texts),
            flows=tuple(
                Flow(source=_text(nodes[source]), target=_text(nodes[target]), line=_number(line))
                for source, target, line in flows
            ),
            fault=_text(fault),
        )
    return Remembered(modified_ns=_number(modified_ns), size_bytes=_number(size_bytes), facts=facts)


def _found_text(
    line: Any, name: Any, owner: Any, kind: Any, words: Any, placeholders: Any, is_evident: Any, has_own_name: Any
) -> FoundText:
    return FoundText(
        line=_number(line),
        name=_text(name),
        owner=_text(owner),
        kind=_text(kind),
        words=_number(words),
        placeholders=tuple(map(_text, placeholders)),
        is_evident=bool(is_evident),
        has_own_name=bool(has_own_name),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(value)
    return value
