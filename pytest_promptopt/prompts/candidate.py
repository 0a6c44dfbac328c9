"""A candidate: one compiled prompt for each prompt that a search may change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from pytest_promptopt.prompts.compiled import CompiledPrompt, content_digest


class Candidate(Mapping[str, CompiledPrompt]):
    """Prompt name → compiled prompt, immutable; equal and hashed by content, not by identity."""

    __slots__ = ("_prompts", "digest")

    digest: str

    def __init__(self, prompts: Mapping[str, CompiledPrompt]) -> None:
        self._prompts = MappingProxyType(dict(sorted(prompts.items())))
        self.digest = content_digest({name: compiled.digest for name, compiled in self._prompts.items()})

    def __getitem__(self, name: str) -> CompiledPrompt:
        return self._prompts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._prompts)

    def __len__(self) -> int:
        return len(self._prompts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidate) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<Candidate {self.short_name}: {', '.join(self)}>"

    @property
    def short_name(self) -> str:
        """How reports call it, ``p-`` and four hex digits."""
        return f"p-{self.digest[:4]}"

    def replace(self, name: str, compiled: CompiledPrompt) -> Candidate:
        """The same candidate with another compiled prompt for ``name``. Raises ``KeyError`` for an unknown name."""
        if name not in self._prompts:
            raise KeyError(name)
        return Candidate({**self._prompts, name: compiled})
