"""Read a compiled prompt from the file beside its owner, and say whether it still fits the code.

Production uses this module: it reads text, never writes, and needs the standard library alone.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from shlex import quote

from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo, Json
from pytest_promptopt.prompts.toml_file import Table, read_toml

FOLDER = "__prompts__"
FORMAT = 1
"""The format of compiled prompt files that this version reads and writes."""

_KEYS = ("format", "prompt", "model", "signature", "source", "content", "instruction", "demos", "provenance")
_DEMO_KEYS = ("row", "inputs", "inputs_json", "reasoning", "output", "output_json")
_MAX_STEM_CHARS = 100
_WINDOWS_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenPrompt:
    """A compiled prompt as its file tells it.

    ``prompt`` and ``model`` name its owner; the two digests are those of the code it was frozen for. ``content_digest``
    is that of what was frozen, so ``is_edited`` says that somebody changed the text since. ``provenance`` is for
    people; nothing is decided by it but whether a search tries again to confirm what was frozen on purpose.
    """

    prompt: str
    model: str
    signature_digest: str
    source_digest: str
    content_digest: str
    compiled: CompiledPrompt
    provenance: Mapping[str, Json]
    is_edited: bool

    @property
    def unconfirmed_reason(self) -> str:
        """Why nothing had proven it better when it was frozen, on purpose; empty where something had."""
        if self.provenance.get("unconfirmed") is not True:
            return ""
        return str(self.provenance.get("reason") or "for no known reason")


def file_stem(owner: str, model: str) -> str:
    """The file name, without suffix, for ``owner`` (a prompt or a metric) on ``model``; legal on every system.

    Names that would meet in one file are told apart by 8 hex digits of owner and model. Only ``/`` and ``-`` are not,
    so that ``provider/model`` stays readable; there the fields inside the file decide.
    """
    plain = f"{_plain(owner)}@{_plain(model)}"
    is_safe = plain[0] not in ".-@" and not _WINDOWS_DEVICE.match(plain)
    stem = plain if is_safe else f"_{plain}"
    if stem == f"{owner}@{model}".replace("/", "-") and len(stem) <= _MAX_STEM_CHARS:
        return stem
    told_apart = sha256(f"{owner}\0{model}".encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{stem[: _MAX_STEM_CHARS - 9]}~{told_apart}"


def read_frozen(text: str, *, path: Path, prompt: str | None = None, model: str | None = None) -> FrozenPrompt:
    """The compiled prompt in ``text``, the content of the file ``path``.

    ``prompt`` and ``model``, where given, are whose file the caller wants. Raises
    :class:`~pytest_promptopt.errors.SnapshotError` for whatever is wrong with it, with line and remedy.
    """
    renew = f"pytest --optimize-prompts --prompt {quote(prompt or named_owner(text) or path.stem.partition('@')[0])}"
    top = read_toml(text, path=path, renew=renew)
    top.require_format(FORMAT)
    top.require_only(_KEYS)
    require_owner(top, "prompt", prompt)
    require_owner(top, "model", model)
    require_file_name(top, top.text("prompt"), top.text("model"))
    return _frozen(top)


def snapshot_path(owner_file: Path, owner: str, model: str) -> Path:
    """Where the compiled prompt of ``owner`` on ``model`` (or a metric's baseline) stands: beside ``owner_file``."""
    return owner_file.parent / FOLDER / f"{file_stem(owner, model)}.toml"


def is_stale(frozen: FrozenPrompt, *, signature_digest: str, source_digest: str) -> bool:
    """Whether the code's signature or instruction changed since ``frozen`` was written; then it is not used."""
    return (frozen.signature_digest, frozen.source_digest) != (signature_digest, source_digest)


def named_owner(text: str) -> str | None:
    """The prompt or metric that a file of ours names at its top, even where the rest of the file is broken."""
    line = re.search(r"^(?:prompt|metric)\s*=.*", text, re.MULTILINE)
    owner = None if line is None else _value_of_line(line[0].strip())
    return owner if isinstance(owner, str) else None


def require_owner(top: Table, key: str, wanted: str | None) -> None:
    """Raise unless the file's ``key`` is ``wanted``; ``None`` wants nothing in particular."""
    found = top.text(key)
    if wanted is not None and found != wanted:
        raise top.fault(f"this file belongs to the {key} {found!r}, but its name is that of {wanted!r}", key=key)


def require_file_name(top: Table, owner: str, model: str) -> None:
    """Raise unless the file is named after the owner and model inside it."""
    right = f"{file_stem(owner, model)}{top.file.path.suffix}"
    if top.file.path.name != right:
        move = f"`git mv {top.file.shell_path()} {quote(str(top.file.path.with_name(right)))}`"
        what = f"this file belongs to {owner!r} on {model!r}, whose file is named {right}"
        raise top.fault(what, key="model", mend=f"rename it: {move}, or {top.file.delete_and_renew()}")


def _frozen(top: Table) -> FrozenPrompt:
    compiled = CompiledPrompt(
        instruction=top.text("instruction"), demos=tuple(_demo(table) for table in top.tables("demos"))
    )
    return FrozenPrompt(
        prompt=top.text("prompt"),
        model=top.text("model"),
        signature_digest=top.text("signature"),
        source_digest=top.text("source"),
        content_digest=top.text("content"),
        compiled=compiled,
        provenance=top.table("provenance").json_fields(),
        is_edited=top.text("content") != compiled.digest,
    )


def _demo(table: Table) -> Demo:
    table.require_only(_DEMO_KEYS)
    return Demo(
        inputs=_inputs(table),
        output=_output(table),
        reasoning=table.optional_text("reasoning"),
        row=table.optional_text("row"),
    )


def _inputs(table: Table) -> dict[str, Json]:
    as_json_text = table.table("inputs_json")
    if "inputs" not in table.values and not as_json_text.values:
        raise table.fault("the key 'inputs' is missing; it holds a table")
    from_json = {name: _loads(as_json_text, name) for name in as_json_text.values}
    return {**table.table("inputs").json_fields(), **from_json}


def _output(table: Table) -> Json:
    if "output_json" not in table.values:
        return table.json("output")
    if "output" in table.values:
        raise table.fault("'output' and 'output_json' stand side by side; keep one", key="output_json")
    return _loads(table, "output_json")


def _loads(table: Table, key: str) -> Json:
    """A value that TOML cannot hold, such as null, kept as JSON text."""
    try:
        value: Json = json.loads(table.text(key))
    except ValueError as error:
        raise table.fault(f"{key!r} must hold JSON: {error}", key=key) from None
    return value


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]", "-", name.casefold())


def _value_of_line(line: str) -> object:
    try:
        return next(iter(tomllib.loads(line).values()))
    except tomllib.TOMLDecodeError:
        return None
