"""The misbehaving server from a test's side: start one by its script, ask what it saw, and be sure that it is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.misbehaving.answers import refuse_unknown
from tests.misbehaving.script import Rule, Script

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request as the server saw it; ``seconds`` since it started, ``in_flight`` with this one."""

    number: int
    seconds: float
    path: str
    key: str
    behaviour: str
    in_flight: int
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """The last message."""
        return str(self.body["messages"][-1]["content"])

    @property
    def content(self) -> str:
        """The whole body as text that equals another's when the bodies do."""
        return json.dumps(self.body, sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A process under way at ``url``, which ends in ``/v1``."""

    url: str
    port: int
    log_path: Path
    process: subprocess.Popen[str]

    def log(self) -> list[Seen]:
        """Every request so far, in the order in which they came; it outlives the process."""
        lines = self.log_path.read_text(encoding="utf-8").splitlines()
        return [Seen(**json.loads(line)) for line in lines]

    def counts(self) -> Counter[str]:
        """How often it did what."""
        return Counter(seen.behaviour for seen in self.log())

    def follow(self, *rules: Rule, **settings: Any) -> None:
        """Let it follow another script from here on, at the same address; its log starts anew."""
        script = Script(rules=rules, **settings)
        refuse_unknown(script)
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        with closing(connection):
            connection.request("POST", "/script", script.to_json())
            connection.getresponse().read()
        os.truncate(self.log_path, 0)

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended by itself."""
        return self.process.poll() is not None


@contextmanager
def misbehaving(*rules: Rule, port: int = 0, **settings: Any) -> Iterator[Server]:
    """A server that follows ``rules``, until the end of the block; the first rule that holds for a request takes it.

    ``settings`` are the other fields of a :class:`~tests.misbehaving.script.Script`. A ``port`` is taken over from a
    server that is gone.
    """
    script = Script(rules=rules, **settings)
    refuse_unknown(script)
    with TemporaryDirectory(prefix="misbehaving-") as folder:
        log_path = Path(folder) / "log.jsonl"
        log_path.touch()
        with _process(script, log_path, port) as process:
            try:
                yield _ready(process, log_path)
            finally:
                process.kill()  # leaving the block waits for it


def _process(script: Script, log_path: Path, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.misbehaving.server", "--port", str(port), "--script", script.to_json()]
    command += ["--log", str(log_path), "--until-stdin-closes"]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _ready(process: subprocess.Popen[str], log_path: Path) -> Server:
    """Wait until it says its port, or ends without a word."""
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    if not port:
        raise RuntimeError("the misbehaving server did not start")
    return Server(url=f"http://127.0.0.1:{port}/v1", port=int(port), log_path=log_path, process=process)
