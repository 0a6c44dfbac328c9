"""The split: which rows a search may learn from, choose by, and never see; by hash, so that adding rows moves none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from pytest_promptopt.errors import DatasetError
from pytest_promptopt.evaluation.dataset import Example

LABEL_ALIASES = ("expected", "expected_output", "target", "answer")
FEW_KEYS = 50
SMALLEST_SIDE = 5
SMALLEST_TESTSET = 10
SIDES = ("train", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """Shares of train, val and test (they add up to 1), the salt, and how many keys the sealed side reads at most."""

    train: float = 0.3
    val: float = 0.3
    salt: str = ""
    most_sealed_keys: int = 200

    def __str__(self) -> str:
        test = 1 - self.train - self.val
        shares = "/".join(f"{100 * share:.0f}" for share in (self.train, self.val, test))
        return f"{shares}, salt {self.salt}" if self.salt else shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The rows of one dataset on their sides. Small train and val sides are merged: then both hold the same rows."""

    train: tuple[Example, ...]
    val: tuple[Example, ...]
    test: tuple[Example, ...]
    is_merged: bool = False

    @property
    def searchable(self) -> tuple[Example, ...]:
        """Every row a search may see, once."""
        return self.train if self.is_merged else (*self.train, *self.val)


def split_key(example: Example, *, group: str | None, labels: Collection[str]) -> str:
    """What decides a row's side: its group when it has one, else its content without id and labels."""
    if group is not None and example.get(group) is not None:
        return f"group:{example[group]}"
    return f"content:{example.digest_without((*LABEL_ALIASES, *labels, 'split'))}"


def position(key: str, salt: str) -> float:
    """Where a key falls in [0, 1): uniform, and the same for ever."""
    return int.from_bytes(sha256(f"{salt}\0{key}".encode("utf-8", "surrogatepass")).digest()[:7], "big") / 2**56


def split_rows(examples: Sequence[Example], rule: SplitRule, *, key_of: Callable[[Example], str]) -> Split:
    """Put ``examples`` on their sides. A ``split`` field overrides; few keys are dealt by quota in hash order.

    Each side is in hash order, so that a search takes the same course however the dataset is sorted. Raises
    ``DatasetError`` for a ``split`` field that names no side.
    """
    keys = {example.id: key_of(example) for example in examples}
    free = {keys[example.id] for example in examples if "split" not in example}
    sides = _deal(free, rule)
    placed: dict[str, list[Example]] = {side: [] for side in SIDES}
    for example in sorted(examples, key=lambda example: (position(keys[example.id], rule.salt), example.id)):
        placed[_own_side(example) or sides[keys[example.id]]].append(example)
    train, val = tuple(placed["train"]), tuple(placed["val"])
    test = lowest_keys(placed["test"], rule, keys)
    if min(len(train), len(val)) < SMALLEST_SIDE:
        both = (*train, *val)
        return Split(train=both, val=both, test=test, is_merged=True)
    return Split(train=train, val=val, test=test)


def _deal(keys: Collection[str], rule: SplitRule) -> dict[str, str]:
    """Key → side."""
    positions = {key: position(key, rule.salt) for key in keys}
    if len(keys) >= FEW_KEYS:
        return {key: _side(place, rule) for key, place in positions.items()}
    ordered = sorted(keys, key=positions.__getitem__)
    return {key: _side(rank / len(ordered), rule) for rank, key in enumerate(ordered)}


def _side(place: float, rule: SplitRule) -> str:
    if place < rule.train:
        return "train"
    return "val" if place < rule.train + rule.val else "test"


def _own_side(example: Example) -> str | None:
    if "split" not in example:
        return None
    side = str(example["split"]).strip().lower()
    if side not in SIDES:
        raise DatasetError(f"row {example.id}: split={example['split']!r} is none of {', '.join(SIDES)}")
    return side


def lowest_keys(examples: Sequence[Example], rule: SplitRule, keys: dict[str, str]) -> tuple[Example, ...]:
    """The rows of the ``most_sealed_keys`` lowest keys, in their own order."""
    ranked = sorted({keys[example.id] for example in examples}, key=lambda key: position(key, rule.salt))
    kept = set(ranked[: rule.most_sealed_keys])
    return tuple(example for example in examples if keys[example.id] in kept)


def rows_after_freeze(
    examples: Sequence[Example],
    rule: SplitRule,
    *,
    key_of: Callable[[Example], str],
    sealed: Mapping[str, str],
    searched: Collection[str] = (),
) -> tuple[Example, ...]:
    """What a gate reads once a prompt was frozen on the rows ``sealed``: those, and new rows on their side.

    ``sealed`` maps the ids of those rows to the digests that they had, ``searched`` are the ids that the search saw:
    they are never new, whatever became of their content or of the rule that deals them. Any other row is new on the
    sealed side when it hashes at or above the lowest sealed one that was not edited since: every row that the search
    saw hashed below. Where none is left to tell, no other row is read. A ``split`` field decides for its own row.
    """
    keys = {example.id: key_of(example) for example in examples}
    old = [example for example in examples if example.id in sealed]
    telling = [row for row in old if "split" not in row and row.digest == sealed[row.id]]
    floor = min((position(keys[row.id], rule.salt) for row in telling), default=1.0)
    if len(set(keys.values())) >= FEW_KEYS:
        floor = max(floor, rule.train + rule.val)
    known = {*sealed, *searched}
    new = [
        example
        for example in examples
        if example.id not in known
        and (_own_side(example) == "test" if "split" in example else position(keys[example.id], rule.salt) >= floor)
    ]
    room = max(0, rule.most_sealed_keys - len({keys[example.id] for example in old}))
    ranked = sorted({keys[example.id] for example in new}, key=lambda key: position(key, rule.salt))
    kept = {example.id for example in old} | {example.id for example in new if keys[example.id] in set(ranked[:room])}
    return tuple(example for example in examples if example.id in kept)
