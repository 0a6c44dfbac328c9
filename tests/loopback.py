"""A server on this machine that speaks OpenAI's chat protocol, and says what a test tells it to."""

from __future__ import annotations

import json
import socket
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One HTTP response; ``waits_for`` holds it back until the test sets the event, ``cut_after`` ends it too early."""

    body: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    waits_for: Event | None = None
    cut_after: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One request as it came in."""

    path: str
    headers: Mapping[str, str]
    content: bytes
    body: dict[str, Any]


def completion(text: str | None, *, model: str = "gpt-4o-mini", finish_reason: str = "stop", **changes: Any) -> Answer:
    """A chat completion with a usage of 7 and 3 tokens; ``changes`` replace fields of its body."""
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": usage}
    return Answer(body=json.dumps({**body, **changes}))


def refusal(status: int, message: str = "boom", *, code: str | None = None, **headers: str) -> Answer:
    """An error as OpenAI words it; ``retry_after="7"`` becomes the header ``Retry-After: 7``."""
    body = {"error": {"message": message, "type": "error", "code": code}}
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return Answer(status=status, headers={**JSON, **named}, body=json.dumps(body))


class Loopback:
    """Answers in the order it was told to; ``heard`` holds every request."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.heard: list[Heard] = []
        self.answers: deque[Answer] = deque()

    def will(self, *answers: Answer) -> Loopback:
        self.answers.extend(answers)
        return self


@contextmanager
def serving() -> Iterator[Loopback]:
    """A server on a free port, until the end of the block."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        server.loopback = Loopback(f"http://127.0.0.1:{server.server_port}/v1")  # type: ignore[attr-defined]
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.loopback  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def nobody_listens() -> Iterator[str]:
    """An address that refuses connections: its port is taken, and nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        loopback: Loopback = self.server.loopback  # type: ignore[attr-defined]
        content = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        loopback.heard.append(Heard(path=self.path, headers=headers, content=content, body=json.loads(content)))
        answer = loopback.answers.popleft()
        if answer.waits_for is not None:
            answer.waits_for.wait()
        with suppress(ConnectionError):  # who asked may have given up
            self._send(answer)

    def _send(self, answer: Answer) -> None:
        content = answer.body.encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: answer.cut_after])
        self.close_connection = answer.cut_after is not None

    def log_message(self, *_: object) -> None:
        """Keep quiet."""
