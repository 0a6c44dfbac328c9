"""What an installed but unused plugin costs ``pytest``, plugin on and off in the same environment, measured in turn.

CPU time of the process tree on a project with one plain test and no prompt. Beside it: the plugin off once more, which
shows how far equal things differ; pytest without any installed plugin, and with ours alone, where little noise covers a
small difference; and without the plugin of Hypothesis, which comes along because we depend on it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from _measure import (
    bootstrap_interval,
    circumstances,
    plain_environment,
    print_table,
    run,
    run_json,
    say,
    write_json,
)

ON = "plugin on"
OFF = "plugin off"
AGAIN = "plugin off, again"
NO_HYPOTHESIS = "plugin on, Hypothesis's plugin off"
BARE = "no installed plugin at all"
ALONE = "our plugin and no other"
ARGUMENTS: dict[str, tuple[str, ...]] = {
    ON: (),
    OFF: ("-p", "no:promptopt"),
    AGAIN: ("-p", "no:promptopt"),
    NO_HYPOTHESIS: ("-p", "no:hypothesispytest"),
    BARE: (),
    ALONE: ("-p", "pytest_promptopt.plugin"),
}
WITHOUT_AUTOLOAD = (BARE, ALONE)
HEAVY = ["litellm", "optuna", "hypothesis", "openai", "aiohttp", "numpy", "pydantic", "tabulate", "tomlkit"]
IMPORT = f"""import json, sys, time
import pytest
before, start = set(sys.modules), time.process_time()
import pytest_promptopt.plugin
spent = time.process_time() - start
brought = set(sys.modules) - before
print(json.dumps({{"ms": 1000 * spent, "modules": len(brought), "heavy": sorted(brought & set({HEAVY!r}))}}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        (folder / "test_one.py").write_text("def test_one():\n    assert True\n", encoding="utf-8")
        seconds = {name: list[float]() for name in ARGUMENTS}
        imports = []
        for number in range(-1, options.rounds):  # the first round warms the disk and is not counted
            say(f"round {number + 1} of {options.rounds}")
            for name in in_turn(number):
                spent = cpu_seconds(name, folder)
                if number >= 0:
                    seconds[name].append(spent)
            if number >= 0:
                command = [sys.executable, "-c", IMPORT]
                imports.append(run_json(command, cwd=folder, environment=plain_environment()))
    report(options, seconds, imports)


def in_turn(number: int) -> list[str]:
    """The variants, each time beginning with another one, so that none always runs after the same neighbour."""
    names = list(ARGUMENTS)
    first = number % len(names)
    return names[first:] + names[:first]


def cpu_seconds(name: str, folder: Path) -> float:
    more = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} if name in WITHOUT_AUTOLOAD else {}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *ARGUMENTS[name]]
    ended = run(command, cwd=folder, environment=plain_environment(**more))
    if ended.code:
        raise SystemExit(f"pytest ended with {ended.code}:\n{ended.output[-2000:]}")
    return ended.cpu_seconds


def report(options: argparse.Namespace, seconds: dict[str, list[float]], imports: list[dict[str, object]]) -> None:
    rows, ratios = [], {}
    for name, taken in seconds.items():
        ratios[name] = [one / off for one, off in zip(taken, seconds[OFF], strict=True)]
        low, high = bootstrap_interval(ratios[name], statistics.median)
        ratio = "1" if name == OFF else f"{statistics.median(ratios[name]):.3f}"
        interval = "" if name == OFF else f"{low:.3f} .. {high:.3f}"
        rows.append((name, f"{1000 * statistics.median(taken):.0f}", ratio, interval))
    print_table(rows, ("pytest on one plain test", "CPU ms, median", f"over {OFF!r}, median", "95 % interval"))
    added = [1000 * (alone - bare) for alone, bare in zip(seconds[ALONE], seconds[BARE], strict=True)]
    low, high = bootstrap_interval(added, statistics.median)
    share = statistics.median(added) / (1000 * statistics.median(seconds[OFF]))
    print(
        f"\nour plugin adds {statistics.median(added):.1f} ms of CPU to pytest without other plugins "
        f"(95 % interval {low:.1f} .. {high:.1f}), which is {share:.1%} of pytest with them"
    )
    milliseconds = statistics.median(float(str(one["ms"])) for one in imports)
    print(
        f"\nimporting pytest_promptopt.plugin after pytest: {milliseconds:.1f} ms of CPU, "
        f"{imports[-1]['modules']} modules, heavy ones among them: {imports[-1]['heavy'] or 'none'}"
    )
    content = {"settings": {"rounds": options.rounds}, "cpu_seconds": seconds, "ratios": ratios, "imports": imports}
    write_json(options.json, {**content, "circumstances": circumstances("hypothesis")})


if __name__ == "__main__":
    main()
