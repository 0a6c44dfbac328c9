"""What several models in one run cost and bring, beside one run for each: time, calls, and scores on sealed rows.

The example project is searched and gated on all four simulators, once with a process for each model and once together,
where the winners of the models before are candidates too. Scores are those of what stands afterwards: the winner where
it was frozen, else the source. Times are wall seconds a model, both ways in turn; compare the ratio alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from _measure import plain_environment, run
from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("offline/keyword", "offline/neighbor", "offline/chatty", "offline/forgetful")
LEFT_OUT = shutil.ignore_patterns("__prompts__", "__pycache__", ".promptopt", ".pytest_cache")
CONFTEST = """import dataclasses
import json
from pathlib import Path


def pytest_promptopt_job_finished(config, report):
    if report.leads_group:
        with Path("jobs.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(report)) + "\\n")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One way to do it, all models over: seconds of searches and gates, calls, and what stands for each model.

    ``frozen`` are the scores of the winners that were frozen, ``sources`` those of the sources as far as any was asked.
    """

    search_seconds: float
    gate_seconds: float
    calls: int
    frozen: dict[str, float]
    sources: dict[str, float]
    taken: int


def optimize(folder: Path, models: Sequence[str], seed: int) -> Outcome:
    """Search and gate ``models`` in one process each."""
    desk = folder / "desk"
    shutil.copytree(ROOT / "example_project", desk, ignore=LEFT_OUT)
    (desk / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [word for model in models for word in ("--prompt-model", model)]
    environment = plain_environment(PYTHONPATH=str(ROOT))
    search = run([*command, "--optimize-prompts", "--prompt-seed", str(seed)], cwd=desk, environment=environment)
    gate = run(command, cwd=desk, environment=environment)
    lines = (desk / "jobs.jsonl").read_text(encoding="utf-8").splitlines()
    jobs = [json.loads(line) for line in lines]
    if {job["model"] for job in jobs} != set(models):
        raise SystemExit(f"a search failed:\n{search.output}")
    return Outcome(
        search_seconds=search.wall_seconds,
        gate_seconds=gate.wall_seconds,
        calls=sum(job["spending"]["calls"] for job in jobs),
        frozen={job["model"]: job["sealed_after"] for job in jobs if job["outcome"] == "frozen"},
        sources={job["model"]: job["sealed_before"] for job in jobs if job["sealed_before"] is not None},
        taken=sum(bool(job["taken_from"]) and job["outcome"] == "frozen" for job in jobs),
    )


def one_by_one(folder: Path, seed: int) -> Outcome:
    """All models, each in a process of its own that knows nothing of the others."""
    each = [optimize(folder / str(number), [model], seed) for number, model in enumerate(MODELS)]
    return Outcome(
        search_seconds=sum(one.search_seconds for one in each),
        gate_seconds=sum(one.gate_seconds for one in each),
        calls=sum(one.calls for one in each),
        frozen={model: score for one in each for model, score in one.frozen.items()},
        sources={model: score for one in each for model, score in one.sources.items()},
        taken=0,
    )


def standing(outcomes: Sequence[Outcome], sources: Mapping[str, float]) -> dict[str, float]:
    """The mean score of what stands for each model: the source's where nothing was frozen."""
    return {model: statistics.mean(one.frozen.get(model, sources[model]) for one in outcomes) for model in MODELS}


def report(alone: Sequence[Outcome], together: Sequence[Outcome]) -> str:
    """Two tables: what it costs a model, and what stands for each."""
    ways = {"one run a model": alone, "all in one run": together}
    costs = [
        (
            name,
            *(f"{statistics.median(getattr(one, field) for one in way) / len(MODELS):.2f}" for field in TIMES),
            f"{statistics.mean(one.calls for one in way) / len(MODELS):.0f}",
        )
        for name, way in ways.items()
    ]
    ratios = [
        f"{statistics.median(getattr(b, field) / getattr(a, field) for a, b in zip(alone, together, strict=True)):.2f}"
        for field in (*TIMES, "calls")
    ]
    sources = {model: score for one in (*alone, *together) for model, score in one.sources.items()}
    stand = {name: standing(way, sources) for name, way in ways.items()}
    stand = {"the source": sources, **stand}
    scores = [
        (
            name,
            *(f"{means[model]:.3f}" for model in MODELS),
            f"{statistics.mean(means.values()):.3f}",
        )
        for name, means in stand.items()
    ]
    headers = ("a model", "search, s", "gate, s", "calls of the search")
    return "\n\n".join(
        (
            tabulate([*costs, ("ratio", *ratios)], headers, tablefmt="github", disable_numparse=True),
            tabulate(scores, ("on sealed rows", *MODELS, "mean"), tablefmt="github", disable_numparse=True),
            f"{sum(one.taken for one in together)} of {len(together) * (len(MODELS) - 1)} winners that could be "
            "another model's were, and were frozen",
        )
    )


TIMES = ("search_seconds", "gate_seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="searches each way, with the seeds 0, 1, …")
    options = parser.parse_args()
    alone: list[Outcome] = []
    together: list[Outcome] = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            alone.append(one_by_one(Path(folder) / "alone", seed))
            together.append(optimize(Path(folder) / "together", MODELS, seed))
    print(report(alone, together))


if __name__ == "__main__":
    main()
