"""Runs the jobs of ``optimizers.py``: processes that take blocks as JSON lines and answer with results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Lock, Thread
from typing import IO, Any

from _measure import HERE, peer_python, plain_environment, say
from _optimizers_blocks import Block, as_json

SCRIPTS = {"ours": "_optimizers_ours.py", "peers": "peer_dspy_optimizers.py"}
Record = dict[str, Any]
Key = tuple[object, ...]
KEY = ("who", "strategy", "task", "model", "seed", "budget")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one process does in one go: some strategies on one block, each for some budgets."""

    who: str
    block: Block
    wanted: Mapping[str, Sequence[int]]


def key_of(record: Mapping[str, Any]) -> Key:
    """What a run is told apart by."""
    return tuple(record[name] for name in KEY)


def read_records(folder: Path) -> list[Record]:
    """Every run that is done, the first of each key; a line that a kill cut short is no run."""
    found: dict[Key, Record] = {}
    for path in sorted(folder.glob("runs-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            found.setdefault(key_of(record), record)
    return list(found.values())


def missing(jobs: Sequence[Job], done: set[Key]) -> list[Job]:
    """The jobs without what is done already."""
    left = []
    for job in jobs:
        block = (job.block.task, job.block.model, job.block.seed)
        wanted = {
            strategy: [budget for budget in budgets if (job.who, strategy, *block, budget) not in done]
            for strategy, budgets in job.wanted.items()
        }
        if wanted := {strategy: budgets for strategy, budgets in wanted.items() if budgets}:
            left.append(Job(who=job.who, block=job.block, wanted=wanted))
    return left


class Worker:
    """One process of ours or of the peers', started at its first job."""

    def __init__(self, who: str, log: IO[str]) -> None:
        python = sys.executable if who == "ours" else peer_python()
        path = os.pathsep.join([str(HERE), str(HERE.parent)])
        self.process = subprocess.Popen(
            [python, str(HERE / SCRIPTS[who])],
            env=plain_environment(PYTHONPATH=path, TQDM_DISABLE="1"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )

    def run(self, job: Job) -> Iterator[Record]:
        """The results of ``job``, as they come. Raises ``SystemExit`` when the process ends before it is done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"block": as_json(job.block), "wanted": job.wanted}), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            result = json.loads(line)
            if result is None:
                return
            block = {"task": job.block.task, "model": job.block.model, "seed": job.block.seed}
            yield {"who": job.who, **block, **result}
        raise SystemExit(f"{SCRIPTS[job.who]} ended with {self.process.wait()} at {job.block}; see its log")

    def close(self) -> None:
        """Let the process end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def run_jobs(jobs: Sequence[Job], *, folder: Path, lanes: int) -> None:
    """Do ``jobs`` in their order, ``lanes`` at a time; every result is appended to ``folder`` when it comes."""
    queue: Queue[Job] = Queue()
    for job in jobs:
        queue.put(job)
    lock, has_failed, done, errors = Lock(), Event(), [0], []

    def keep(record: Record) -> None:
        if "error" in record:
            errors.append(record)
            return
        with lock, (folder / f"runs-{record['who']}.jsonl").open("a", encoding="utf-8") as file:
            print(json.dumps(record, sort_keys=True), file=file)

    def report() -> None:
        with lock:
            done[0] += 1
            if done[0] % 8 == 0 or done[0] == len(jobs):
                say(f"{done[0]} of {len(jobs)} jobs")

    def lane() -> None:
        try:
            _work(queue, has_failed, folder, keep, report)
        except BaseException:
            has_failed.set()
            raise

    threads = [Thread(target=lane) for _ in range(min(lanes, len(jobs)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if has_failed.is_set():
        raise SystemExit(f"stopped; what is done stands in {folder}, and the next run goes on from there")
    for (strategy, error), count in Counter((str(each["strategy"]), str(each["error"])) for each in errors).items():
        say(f"{strategy} raised {count} times: {error}")


def _work(
    queue: Queue[Job], has_failed: Event, folder: Path, keep: Callable[[Record], None], report: Callable[[], None]
) -> None:
    workers: dict[str, Worker] = {}
    with (folder / "processes.log").open("a", encoding="utf-8") as log:
        try:
            while not has_failed.is_set():
                job = queue.get_nowait()
                worker = workers.get(job.who) or workers.setdefault(job.who, Worker(job.who, log))
                for record in worker.run(job):
                    keep(record)
                report()
        except Empty:
            pass
        finally:
            for worker in workers.values():
                worker.close()
