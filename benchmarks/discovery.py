"""What ``pytest --prompt-list`` spends on searching the source: a first look, a second one, and one after an edit.

The tree is made up: a thousand modules of a size that applications have, one in ten of which speaks to a model. CPU
time of this process, which does nothing else; the medians of several rounds.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _measure import circumstances, print_table, say, write_json

from pytest_promptopt.prompts.discovery.findings import Discovery
from pytest_promptopt.prompts.discovery.search import discover

PLAIN = '''
class Handler{n}:
    """Keeps the books of shelf {n}."""

    def __init__(self, items, limit={n}):
        self.items = items
        self.limit = limit

    def total(self, rate=1.0, *, rounded=True):
        """The value of all items at ``rate``."""
        value = sum(item.price * rate for item in self.items if item.price is not None)
        return round(value, 2) if rounded else value

    def describe(self):
        return ", ".join(f"{{item.name}} ({{item.price}})" for item in self.items[: self.limit])
'''
ASKING = '''
import openai

SYSTEM_{n} = """You are a clerk who keeps the books of shelf {n}.
Answer in one sentence, and name the item that you speak of."""


def ask_{n}(question):
    messages = [{{"role": "system", "content": SYSTEM_{n}}}, {{"role": "user", "content": f"Answer this, please: {{question}}"}}]
    return openai.OpenAI().chat.completions.create(model="m", messages=messages)
'''  # noqa: E501 - as people write it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root, cache = Path(scratch) / "tree", Path(scratch) / "store" / "discovery.json"
        size_bytes = make_tree(root, options.files)
        seconds: dict[str, list[float]] = {"first look": [], "second look": [], "after an edit": []}
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            cache.unlink(missing_ok=True)
            found = take(seconds["first look"], lambda: discover(root, cache=cache))
            again = take(seconds["second look"], lambda: discover(root, cache=cache))
            assert (found.files_read, again.files_read) == (options.files, 0)
            assert again.unmanaged == found.unmanaged
            os.utime(next(root.rglob("*.py")))
            assert take(seconds["after an edit"], lambda: discover(root, cache=cache)).files_read == 1
        report(options, seconds, found, size_bytes=size_bytes, cache_bytes=cache.stat().st_size)


def make_tree(root: Path, files: int) -> int:
    """``files`` modules in packages of twenty; gives their size."""
    rng = random.Random(0)
    total = 0
    for number in range(files):
        path = root / f"package_{number // 20}" / f"module_{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = [PLAIN.format(n=number * 100 + part) for part in range(rng.randint(2, 25))]
        if number % 10 == 0:
            parts += [ASKING.format(n=number * 100 + part) for part in range(rng.randint(1, 3))]
        text = "".join(parts)
        path.write_text(text, encoding="utf-8")
        total += len(text)
    return total


def take(seconds: list[float], look: Callable[[], Discovery]) -> Discovery:
    """Look once; the CPU seconds go into the list."""
    start = time.process_time()
    found = look()
    seconds.append(time.process_time() - start)
    return found


def report(
    options: argparse.Namespace, seconds: dict[str, list[float]], found: Discovery, *, size_bytes: int, cache_bytes: int
) -> None:
    rows = [(name, f"{1000 * statistics.median(taken):.0f}") for name, taken in seconds.items()]
    print_table(rows, (f"{options.files} files, {size_bytes / 1e6:.1f} MB", "CPU ms, median"))
    print(f"\n{len(found.unmanaged)} texts found; {cache_bytes / 1e3:.0f} kB remembered")
    content = {"settings": {"files": options.files, "rounds": options.rounds}, "cpu_seconds": seconds}
    write_json(options.json, {**content, "found": len(found.unmanaged), "circumstances": circumstances()})


if __name__ == "__main__":
    main()
