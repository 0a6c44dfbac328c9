"""Write a compiled prompt as the file that people review: the same content always gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo, Json
from pytest_promptopt.prompts.frozen import FORMAT, FrozenPrompt
from pytest_promptopt.snapshots.toml import Line, as_toml, field_lines, fill, value_lines

if TYPE_CHECKING:
    from tomlkit.items import AoT


def freeze(
    *,
    prompt: str,
    model: str,
    signature_digest: str,
    source_digest: str,
    compiled: CompiledPrompt,
    provenance: Mapping[str, Json],
) -> FrozenPrompt:
    """What a run hands on to be written: ``compiled`` as nobody has edited it yet."""
    return FrozenPrompt(
        prompt=prompt,
        model=model,
        signature_digest=signature_digest,
        source_digest=source_digest,
        content_digest=compiled.digest,
        compiled=compiled,
        provenance=provenance,
        is_edited=False,
    )


def dump_frozen(frozen: FrozenPrompt) -> str:
    """The text of the file; :func:`~pytest_promptopt.prompts.frozen.read_frozen` gives ``frozen`` back.

    Raises :class:`~pytest_promptopt.errors.UsageError` for a text that no file can hold (half a surrogate pair).
    """
    import tomlkit

    document = tomlkit.document()
    fill(document, _head(frozen))
    if frozen.compiled.demos:
        document.append("demos", _demos(frozen.compiled.demos))
    if frozen.provenance:
        document.append("provenance", fill(tomlkit.table(), _provenance(frozen.provenance)))
    return document.as_string()


def _head(frozen: FrozenPrompt) -> Iterator[Line]:
    yield ("format",), FORMAT
    yield ("prompt",), frozen.prompt
    yield ("model",), frozen.model
    yield ("signature",), frozen.signature_digest
    yield ("source",), frozen.source_digest
    yield ("content",), frozen.content_digest
    yield ("instruction",), frozen.compiled.instruction


def _demos(demos: Iterable[Demo]) -> AoT:
    import tomlkit

    tables = tomlkit.aot()
    for demo in demos:
        tables.append(fill(tomlkit.table(), _demo(demo)))
    return tables


def _demo(demo: Demo) -> Iterator[Line]:
    if demo.row is not None:
        yield ("row",), demo.row
    yield from field_lines("inputs", demo.inputs)
    if demo.reasoning is not None:
        yield ("reasoning",), demo.reasoning
    yield from value_lines("output", demo.output)


def _provenance(provenance: Mapping[str, Json]) -> Iterator[Line]:
    # What is not known is left out; it is told to people, who need no null.
    return (((key,), as_toml(value)) for key, value in provenance.items() if value is not None)
