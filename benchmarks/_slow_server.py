"""A server that speaks OpenAI's chat protocol and takes its time over every answer. Standard library only.

``python _slow_server.py SECONDS`` prints its port. It is written against asyncio's protocols, not its streams, so that
it needs as little of a shared machine as it can: what is measured is the client.
"""

from __future__ import annotations

import asyncio
import json
import sys

from _workload import answer

HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length:"


class Connection(asyncio.Protocol):
    """One kept-alive connection; requests are answered in order, ``seconds`` after each came in."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, rest = self.received.partition(HEAD_END)
        lowered = head.lower()
        if not end or LENGTH not in lowered:
            return
        length = int(lowered.split(LENGTH, 1)[1].split(b"\r\n", 1)[0])
        if len(rest) >= length:
            self.received = rest[length:]
            asyncio.get_running_loop().call_later(self.seconds, self.send, reply(rest[:length]))

    def send(self, response: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(response)


def reply(body: bytes) -> bytes:
    asked = json.loads(body)["messages"][-1]["content"]
    said = answer(asked)
    if "[[ ##" in asked or b"[[ ## completed" in body:  # the form that DSPy asks for
        said = f"[[ ## label ## ]]\n{said}\n\n[[ ## completed ## ]]"
    choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    head = {"id": "x", "object": "chat.completion", "created": 1, "model": "slow"}
    content = json.dumps({**head, "choices": [choice], "usage": usage}).encode()
    start = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
    return start + str(len(content)).encode() + HEAD_END + content


async def main(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(seconds), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
