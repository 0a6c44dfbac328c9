"""What the benchmarks share: processes run in turn, medians, intervals, and what a result has to say about itself."""

from __future__ import annotations

import json
import math
import os
import platform
import random
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DSPY = "dspy==3.4.1"
DSPY_EXTRAS = ("optuna==5.0.0",)
"""What MIPROv2 needs besides; DSPy brings GEPA itself."""
BUILD_SERVERS = ("CI", "GITHUB_ACTIONS", "BUILD_NUMBER", "GITLAB_CI")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A process that ended: its exit code, output, and the CPU and wall seconds of its whole tree."""

    code: int
    output: str
    cpu_seconds: float
    wall_seconds: float


def plain_environment(**more: str) -> dict[str, str]:
    """This environment without what changes a run: no CI, none of our variables or pytest's, compiled modules kept."""
    drop = re.compile(rf"(?:{'|'.join(BUILD_SERVERS)}|PROMPTOPT_.*|PYTEST_.*|PYTHONWARNINGS|PYTHONDONTWRITEBYTECODE)$")
    kept = {name: value for name, value in os.environ.items() if not drop.match(name)}
    return {**kept, "PYTHONHASHSEED": "0", **more}


def run(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> Ended:
    """Run ``command`` to its end. One at a time: the CPU time of children is counted for this whole process."""
    before, start = _children_cpu_seconds(), time.perf_counter()
    ended = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    wall = time.perf_counter() - start
    cpu = _children_cpu_seconds() - before
    return Ended(code=ended.returncode, output=ended.stdout, cpu_seconds=cpu, wall_seconds=wall)


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_json(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """The JSON object on the last line that ``command`` prints; stops everything where it fails."""
    ended = run(command, cwd=cwd, environment=environment)
    if ended.code:
        raise SystemExit(f"{' '.join(command)} ended with {ended.code}:\n{ended.output[-2000:]}")
    result: dict[str, Any] = json.loads(ended.output.strip().splitlines()[-1])
    return result


def peer_python() -> str:
    """The Python of DSPy's environment, made on first use and ignored by git."""
    folder = HERE / ".peers" / "dspy"
    python = folder / "bin" / "python"
    if not python.exists():
        say(f"making an environment for {DSPY} in {folder.relative_to(HERE.parent)}")
        folder.parent.mkdir(exist_ok=True)
        (folder.parent / ".gitignore").write_text("*\n", encoding="utf-8")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", DSPY, *DSPY_EXTRAS], check=True)
    return str(python)


def bootstrap_interval(
    values: Sequence[float],
    statistic: Callable[[Sequence[float]], float] = statistics.fmean,
    *,
    level: float = 0.95,
    draws: int = 2_000,
) -> tuple[float, float]:
    """A percentile interval of ``statistic`` over ``values``, drawn with a fixed seed."""
    rng = random.Random(20_240_601)
    drawn = sorted(statistic(rng.choices(values, k=len(values))) for _ in range(draws))
    tail = (1 - level) / 2
    return drawn[int(tail * draws)], drawn[min(draws - 1, int((1 - tail) * draws))]


def package_digest() -> str:
    """12 hex digits over the package's source files: which code was measured, committed or not."""
    import pytest_promptopt

    root = Path(str(pytest_promptopt.__file__)).parent
    digest = sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def circumstances(*packages: str) -> dict[str, object]:
    """What a reader must know to read the numbers: Python, cores, versions and the digest of the sources."""
    named = ("pytest-promptopt", "pytest", *packages)
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": platform.system(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in named},
        "sources": package_digest(),
    }


def share_interval(hits: int, count: int, z: float = 1.96) -> str:
    """Wilson's interval of a share."""
    share, scale = hits / count, 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / scale
    return f"{max(0.0, middle - reach):.0%} .. {min(1.0, middle + reach):.0%}"


def grouped(records: Iterable[dict[str, Any]], *names: str) -> list[list[dict[str, Any]]]:
    """Records that agree in ``names``, together; groups in the order of their first records."""
    groups: dict[tuple[object, ...], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(tuple(record[name] for name in names), []).append(record)
    return list(groups.values())


def markdown_table(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """A table as Markdown; numbers stand as they were written."""
    from tabulate import tabulate

    return str(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))


def print_table(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> None:
    print(markdown_table(rows, headers))


def write_json(path: Path | None, content: object) -> None:
    if path is not None:
        path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def say(text: str) -> None:
    """Progress, beside the tables."""
    print(text, file=sys.stderr, flush=True)
