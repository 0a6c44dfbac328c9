"""A server that speaks OpenAI's chat protocol and misbehaves by script.

``python -m tests.misbehaving.server --script '{"rules": [{"does": "429", "until": 20, "retry_after": "0.5"}]}'`` prints
its port when it listens. It is written on asyncio's streams, so that it may cut a connection at any byte.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from threading import Thread
from time import perf_counter
from typing import Any

from tests.misbehaving.answers import Plan, Way, error, plan, refuse_unknown
from tests.misbehaving.script import Judge, Judgement, Script

MAX_HEAD_BYTES = 64 * 1024
PIECES = 10  # of a body that drips


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One HTTP request, read to its end."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes

    @property
    def key(self) -> str:
        """The key that it came with, or nothing."""
        return self.headers.get("authorization", "").partition(" ")[2]

    @property
    def keeps_alive(self) -> bool:
        """Whether the client goes on with this connection."""
        return self.headers.get("connection", "").lower() != "close"

    def chat(self) -> dict[str, Any] | None:
        """The body, when this is a well-formed chat completion."""
        if self.method != "POST" or not self.path.partition("?")[0].endswith("/chat/completions"):
            return None
        with suppress(ValueError):
            body = json.loads(self.content)
            if isinstance(body, dict) and isinstance(body.get("model"), str) and _are_messages(body.get("messages")):
                return body
        return None


class Server:
    """Answers by ``script`` and writes each request, as it comes, into the file behind ``log``, one JSON line each.

    A script that is posted to ``/script`` takes the place of the one in force; counting starts anew.
    """

    def __init__(self, script: Script, log: int) -> None:
        self._follow(script)
        self._log = log
        self._in_flight = 0
        self._started = perf_counter()

    def _follow(self, script: Script) -> None:
        self._script = script
        self._judge = Judge(script)

    async def serve(self, port: int) -> None:
        """Listen on ``port`` (0: any that is free), print it, and answer for ever."""
        server = await asyncio.start_server(self._converse, "127.0.0.1", port, limit=MAX_HEAD_BYTES, backlog=1024)
        print(server.sockets[0].getsockname()[1], flush=True)
        async with server:
            await server.serve_forever()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, as long as client and script keep it."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while (asked := await _read(reader)) is not None:
                is_over = await self._answer(asked, reader, writer)
                if is_over or not asked.keeps_alive:
                    break
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def _answer(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer, or fail to; whether the connection is over."""
        if (asked.method, asked.path) == ("POST", "/script"):
            self._follow(Script.from_json(asked.content.decode()))
            return await _send(Plan(body=b"{}"), reader, writer)
        body = asked.chat()
        if body is None:
            return await _send(error(400, "This is no chat completion."), reader, writer)
        self._in_flight += 1
        try:
            return await self._misbehave(asked, body, reader, writer)
        finally:
            self._in_flight -= 1

    async def _misbehave(
        self, asked: Asked, body: Mapping[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        judgement = self._judge.judge(asked.key, body, in_flight=self._in_flight)
        self._note(asked, body, judgement)
        planned = plan(self._script, judgement.rule, judgement.number, asked.key, body)
        if judgement.delay_seconds:
            await asyncio.sleep(judgement.delay_seconds)
        return await _send(planned, reader, writer)

    def _note(self, asked: Asked, body: Mapping[str, Any], judgement: Judgement) -> None:
        """Written before anything is sent, so that whoever has an answer finds its request."""
        line = {
            "number": judgement.number,
            "seconds": perf_counter() - self._started,
            "path": asked.path,
            "key": asked.key,
            "behaviour": judgement.behaviour,
            "in_flight": self._in_flight,
            "body": body,
        }
        os.write(self._log, (json.dumps(line) + "\n").encode())


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    """The next request of a connection; ``None`` when the client has hung up, or speaks no HTTP."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, path, _ = first.split(" ", 2)
    except (asyncio.IncompleteReadError, ValueError):
        return None
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        content = await _read_chunks(reader)
    else:
        content = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method=method, path=path, headers=headers, content=content)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    chunks = []
    while size := int((await reader.readline()).partition(b";")[0], 16):
        chunks.append(await reader.readexactly(size))
        await reader.readline()
    while await reader.readline() not in (b"\r\n", b""):
        pass  # trailers
    return b"".join(chunks)


async def _send(planned: Plan, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Carry out a plan; whether the connection is over."""
    head = _head(planned)
    match planned.way:
        case Way.WHOLE:
            writer.write(head + planned.body)
            await writer.drain()
        case Way.DRIP:
            await _drip(head, planned, writer)
        case Way.CUT:
            middle = len(head) + len(planned.body) // 2
            writer.write((head + planned.body)[: middle if planned.cut_at is None else planned.cut_at])
            await writer.drain()
            _reset(writer)
        case Way.HANG:
            await reader.read()  # until the client gives up
        case Way.DIE:
            os._exit(1)
    return planned.way in (Way.CUT, Way.HANG)


def _head(planned: Plan) -> bytes:
    try:
        phrase = HTTPStatus(planned.status).phrase
    except ValueError:
        phrase = "Overloaded"
    lines = [f"HTTP/1.1 {planned.status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in planned.headers.items()]
    lines += [f"Content-Length: {len(planned.body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1")


async def _drip(head: bytes, planned: Plan, writer: asyncio.StreamWriter) -> None:
    writer.write(head)
    size = -(-len(planned.body) // PIECES)
    for start in range(0, len(planned.body), size):
        await asyncio.sleep(planned.pause_seconds)
        writer.write(planned.body[start : start + size])
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the client's system reports a reset, not an end."""
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if os.name == "nt" else "ii", 1, 0))
    writer.transport.abort()


def _are_messages(value: object) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(each, dict) and "content" in each for each in value)
    )


def _end_with_parent() -> None:
    """Whoever started this process holds its standard input: when it closes, nobody needs the server any more."""
    sys.stdin.buffer.read()
    os._exit(0)


def _read_script(text: str) -> Script:
    script = Script.from_json(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    refuse_unknown(script)
    return script


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes any free one")
    parser.add_argument("--script", default="{}", help="a JSON object, or a file that holds one")
    parser.add_argument("--log", default=os.devnull, help="file to which every request is appended as a JSON line")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when standard input does")
    options = parser.parse_args()
    if options.until_stdin_closes:
        Thread(target=_end_with_parent, daemon=True).start()
    log = os.open(options.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with suppress(KeyboardInterrupt):
        asyncio.run(Server(_read_script(options.script), log).serve(options.port))


if __name__ == "__main__":
    main()
