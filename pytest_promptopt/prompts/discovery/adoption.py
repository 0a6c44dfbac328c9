"""The line to write so that an existing text becomes a prompt of ours, without a changed byte of what is sent."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Set
from dataclasses import replace
from pathlib import PurePosixPath

from pytest_promptopt.prompts.discovery.findings import UnmanagedPrompt

_FOLDERS_OF_TEMPLATES = frozenset({"templates", "template", "prompts", "prompt"})
_NOISE = re.compile(r"^prompt_|_(?:prompt|template|text)$")
_KEY = re.compile(r"^(\w+)\[(.+)\]$")


def with_adoptions(prompts: Iterable[UnmanagedPrompt], taken: Set[str]) -> tuple[UnmanagedPrompt, ...]:
    """``prompts`` with the line that adopts each, under a name that no other has and that is not ``taken``."""
    names = set(taken)
    adopted: list[UnmanagedPrompt] = []
    for prompt in prompts:
        name = next(name for name in _names(prompt) if name not in names)
        names.add(name)
        adopted.append(replace(prompt, adoption=_line(prompt, name)))
    return tuple(adopted)


def _names(prompt: UnmanagedPrompt) -> Iterable[str]:
    """Names for it: folder and own name, then with the module between them, then numbered."""
    path = PurePosixPath(prompt.file)
    parts = [part for part in path.parent.parts if part not in _FOLDERS_OF_TEMPLATES]
    folder = _word(parts[-1]) if parts else ""
    stem = folder if path.stem == "__init__" else _word(path.name.partition(".")[0])
    own = stem if prompt.kind == "file" else _own_name(prompt, stem)
    short = ".".join(dict.fromkeys(part for part in (folder or stem, own) if part))
    full = ".".join(dict.fromkeys(part for part in (folder, stem, own) if part))
    yield short
    yield full
    number = 2
    while True:
        yield f"{full}_{number}"
        number += 1


def _own_name(prompt: UnmanagedPrompt, stem: str) -> str:
    """What the code calls it, else the function it stands in."""
    keyed = _KEY.match(prompt.name)
    called = keyed[2].strip("\"'") if keyed and not keyed[2].isdecimal() else (keyed[1] if keyed else prompt.name)
    is_telling = called.lower() not in ("", "prompt", "messages", "template", "content", "text")
    if prompt.owner and not is_telling:
        called = prompt.owner.rpartition(".")[2]
    return _NOISE.sub("", _word(called)) or stem


def _word(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_").lower()


def _line(prompt: UnmanagedPrompt, name: str) -> str:
    constant = _word(name.rpartition(".")[2]).upper()
    if prompt.kind == "file":
        return f'{constant} = text_prompt("{name}", file="{_place_from_module(prompt)}"){_use(prompt, constant)}'
    if prompt.kind == "f-string":
        gaps = ", ".join(f"{_word(gap)}=…" for gap in prompt.placeholders[:3])
        return (
            f'{constant} = text_prompt("{name}", "…")  with the f-string as a plain one, then {constant}.format({gaps})'
        )
    if prompt.has_own_name:
        return f'{prompt.name} = text_prompt("{name}", {prompt.name}){_use(prompt, prompt.name)}'
    if prompt.kind not in ("string", "messages"):
        return f'{constant} = text_prompt("{name}", "…")  and {prompt.kind} made from str({constant}) where it is used'
    return f'{constant} = text_prompt("{name}", …)  with the text itself, at the top of the module'


def _use(prompt: UnmanagedPrompt, constant: str) -> str:
    """What remains to do: a text that nothing fills in is handed over as the string it was. A comment, for pasting."""
    is_sent_bare = prompt.kind != "messages" and not prompt.placeholders
    return f"   # and str({constant}) where it is sent" if is_sent_bare else ""


def _place_from_module(prompt: UnmanagedPrompt) -> str:
    """The file as the module spells it that uses it: the one that sends it, else one beside its templates folder."""
    path = PurePosixPath(prompt.file)
    if prompt.sending is not None:
        return posixpath.relpath(prompt.file, posixpath.dirname(prompt.sending.file) or ".")
    is_inside = path.parent.name in _FOLDERS_OF_TEMPLATES
    return f"{path.parent.name}/{path.name}" if is_inside else path.name
