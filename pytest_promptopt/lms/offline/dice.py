"""Chance without a generator: integers drawn from the SHA-256 of what they are about, the same on every platform."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TypeVar

Option = TypeVar("Option")


def digest_of(*parts: str) -> bytes:
    """32 bytes that depend on ``parts`` and nothing else."""
    return sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()


def lot(*parts: str) -> int:
    """A number below 1000 that belongs to ``parts`` for good."""
    return Dice(*parts).below(1000)


def ripple(digest: bytes, index: int, step: int, spread: int) -> int:
    """The ``index``-th deviation that ``digest`` holds: between ``-spread`` and ``spread``, mostly small."""
    return (digest[index % 32] + digest[(index * step + step - 2) % 32] - 255) * spread // 255


class Dice:
    """An endless stream of integers drawn from the digest of ``parts``."""

    __slots__ = ("_count", "digest")

    def __init__(self, *parts: str) -> None:
        self.digest = digest_of(*parts)
        self._count = 0

    def below(self, bound: int) -> int:
        """The next number, from 0 to ``bound - 1``."""
        self._count += 1
        drawn = sha256(self.digest + self._count.to_bytes(4, "big")).digest()
        return int.from_bytes(drawn[:8], "big") % bound

    def chance(self, per_mille: int) -> bool:
        """Whether the next throw falls among ``per_mille`` of 1000."""
        return self.below(1000) < per_mille

    def pick(self, options: Sequence[Option]) -> Option:
        """One of ``options``."""
        return options[self.below(len(options))]
