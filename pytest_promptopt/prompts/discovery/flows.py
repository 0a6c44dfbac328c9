"""Where texts go: which flows of a file are worth keeping, and the graph that those of all files make."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping

from pytest_promptopt.prompts.discovery.findings import FileFacts, Flow, FoundText, Sending

_MAX_PASSED_ON = 5
_CARRYING = re.compile(
    r"prompt|messages?\b|system|instruction|template|persona|preamble|:(?:text|content|contents|input|user|question)$|"
    r"(?-i:\.[A-Z][A-Z0-9_]+$)",
    re.IGNORECASE,
)
"""Nodes whose names say that a prompt may pass through them."""


def pruned(texts: list[FoundText], flows: list[Flow], module: str) -> tuple[tuple[FoundText, ...], tuple[Flow, ...]]:
    """Flows that lead from a text or from outside to a model, a prompt of ours or outside, with the texts they need."""
    own = f"{module}."
    kept = _useful(flows, own)
    needed = [
        place
        for place, text in enumerate(texts)
        if text.is_evident or any(flow.source == f"T:{place}" for flow in kept)
    ]
    names = {f"T:{old}": f"T:{new}" for new, old in enumerate(needed)}
    renamed = dict.fromkeys(
        Flow(source=names.get(flow.source, flow.source), target=flow.target, line=flow.line) for flow in kept
    )
    return tuple(texts[place] for place in needed), tuple(renamed)


def _useful(flows: list[Flow], own: str) -> list[Flow]:
    """What leads to a model is kept; what only passes through, where its name could be a prompt's or a wrapper's."""
    forward: dict[str, list[str]] = {}
    backward: dict[str, list[str]] = {}
    for flow in flows:
        forward.setdefault(flow.source, []).append(flow.target)
        backward.setdefault(flow.target, []).append(flow.source)
    beginnings = {node for node in forward if _is_beginning(node, own)}
    begun = _reached(beginnings, forward)
    well_named = _reached({node for node in beginnings if node[0] in "TF" or _CARRYING.search(node)}, forward)
    asking = _reached({node for node in backward if node[0] in "SM"}, backward)
    ended = _reached({node for node in backward if _is_end(node, own)}, backward)
    return [
        flow
        for flow in flows
        if (flow.source in begun and flow.target in asking)
        or (flow.source in well_named and flow.target in ended)
        or (flow.source[0] == flow.target[0] == "G" and not flow.line)
    ]


def _is_beginning(node: str, own: str) -> bool:
    kind, _, name = node.partition(":")
    if kind == "P":
        return name.startswith(own)
    is_foreign = not name.startswith(own) and name.partition(".")[0] not in sys.stdlib_module_names
    return kind in "TF" or (kind in "GR" and is_foreign)


def _is_end(node: str, own: str) -> bool:
    kind, _, name = node.partition(":")
    if kind == "P":
        return not name.startswith(own)
    return kind in "SMGR"


def _reached(start: set[str], edges: dict[str, list[str]]) -> set[str]:
    seen, waiting = set(start), list(start)
    while waiting:
        for node in edges.get(waiting.pop(), ()):
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return seen


class Graph:
    """All flows of all files, names brought to the file that defines them."""

    def __init__(self, facts: Mapping[str, FileFacts]) -> None:
        self._modules = _modules_by_suffix(facts)
        self._passed_on = {
            flow.target[2:]: flow.source[2:]
            for one in facts.values()
            for flow in one.flows
            if flow.source.startswith("G:") and not flow.line
        }
        self._edges: dict[str, list[tuple[str, str, int]]] = {}
        self._files: dict[str, list[str]] = {}
        for path, one in facts.items():
            for flow in one.flows:
                source = self._node(flow.source, path)
                self._edges.setdefault(source, []).append((self._node(flow.target, path), path, flow.line))
                if source.startswith("F:"):
                    self._files.setdefault(source.rpartition("/")[2].removeprefix("F:"), []).append(source)

    def follow(self, path: str, text: str, *, is_file: bool) -> tuple[Sending | None, bool]:
        """The nearest call that sends the text, and whether it is wrapped in a prompt of ours."""
        start = self._file_nodes(path) if is_file else [self._node(text, path)]
        waiting: list[tuple[str, tuple[str, int] | None]] = [(node, None) for node in start]
        seen = set(start)
        sending: Sending | None = None
        while waiting:
            node, place = waiting.pop(0)
            for target, file, line in self._edges.get(node, ()):
                at = place or ((file, line) if target[0] in "PS" and line else None)
                if target == "M:":
                    return None, True
                if target.startswith("S:") and at is not None:
                    sending = sending or Sending(file=at[0], line=at[1], sdk=target[2:])
                elif target not in seen:
                    seen.add(target)
                    waiting.append((target, at))
        return sending, False

    def _file_nodes(self, path: str) -> list[str]:
        """The spellings by which code speaks of the file: its path, or the end of it."""
        spelled = self._files.get(path.rpartition("/")[2], [])
        return list(dict.fromkeys(node for node in spelled if f"/{path}".endswith(f"/{node[2:]}")))

    def _node(self, node: str, path: str) -> str:
        kind, _, name = node.partition(":")
        if kind in "TL":
            return f"{kind}:{path}:{name}"
        if kind not in "GPR":
            return node
        name, colon, parameter = name.partition(":")
        return f"{kind}:{self._canonical(name)}{colon}{parameter}"

    def _canonical(self, name: str) -> str:
        """The dotted name from the root on, of the module that defines it rather than a package that passes it on."""
        found = self._from_root(name)
        for _ in range(_MAX_PASSED_ON):
            origin = self._passed_on.get(found)
            if origin is None:
                break
            found = self._from_root(origin)
        return found

    def _from_root(self, name: str) -> str:
        """The dotted name from the root on, whatever folder the project is imported from."""
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            module = self._modules.get(".".join(parts[:end]))
            if module is not None:
                return ".".join([module, *parts[end:]])
        return name


def _modules_by_suffix(facts: Iterable[str]) -> dict[str, str]:
    """Every end of a module's dotted name → the whole; the shortest wins where several end alike."""
    modules: dict[str, str] = {}
    names = [path[:-3].removesuffix("/__init__").replace("/", ".") for path in facts if path.endswith(".py")]
    for name in sorted(names, key=lambda name: (name.count("."), name)):
        parts = name.split(".")
        for start in range(len(parts)):
            modules.setdefault(".".join(parts[start:]), name)
    return modules | {name: name for name in names}
