"""A compiled prompt: the instruction and the demonstrations a model is sent in front of the inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | Mapping[str, Json] | None"


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def content_digest(value: Json) -> str:
    """16 hex digits of the SHA-256 of ``value`` as canonical JSON (sorted keys, no spaces, UTF-8)."""
    return sha256(_canonical(value).encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Demo:
    """One demonstration: inputs by name and the output as JSON values, ``row`` the id of the row it came from.

    Equal by what a model would read; the source row is not part of it.
    """

    inputs: Mapping[str, Json]
    output: Json
    reasoning: str | None = None
    row: str | None = None

    def as_json(self) -> dict[str, Json]:
        """What a model would read of it."""
        content: dict[str, Json] = {"inputs": dict(self.inputs), "output": self.output}
        return content if self.reasoning is None else {**content, "reasoning": self.reasoning}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompiledPrompt:
    """An instruction and its demos, immutable; equal and hashed by content."""

    instruction: str
    demos: tuple[Demo, ...] = ()
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        demos: list[Json] = [demo.as_json() for demo in self.demos]
        content: dict[str, Json] = {"instruction": self.instruction, "demos": demos}
        object.__setattr__(self, "digest", content_digest(content))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CompiledPrompt) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)
