"""The misbehaving server does what its script says, and no more: tests of faults stand on it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.lms.offline import reply
from tests.misbehaving.answers import ANSWERS, BEHAVIOURS, REFUSALS
from tests.misbehaving.client import ROOT, Server, misbehaving
from tests.misbehaving.script import Judge, Rule, Script, Told

MESSAGES = [
    {"role": "system", "content": "Decide which team should answer. Choose billing for: refund."},
    {"role": "user", "content": "a refund please"},
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """What a plain client holds in the end; ``ended`` is ``whole``, ``short`` or ``reset``."""

    status: int | None = None
    headers: http.client.HTTPMessage | None = None
    content: bytes = b""
    ended: str = "whole"

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def text(self) -> Any:
        return self.json["choices"][0]["message"]["content"]

    def header(self, name: str) -> str | None:
        return self.headers.get(name) if self.headers is not None else None


def ask(
    server: Server, text: str = "a refund please", *, key: str = "sk-one", timeout_seconds: float = 10.0, **body: Any
) -> Got:
    """One request over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout_seconds)
    whole = {"model": "gpt-4o-mini", "messages": [*MESSAGES[:1], {"role": "user", "content": text}], **body}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(whole), {"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
    except (http.client.RemoteDisconnected, ConnectionResetError):
        return Got(ended="reset")
    else:
        return _read(response)
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse) -> Got:
    try:
        content, ended = response.read(), "whole"
    except http.client.IncompleteRead as cut:
        content, ended = cut.partial, "short"
    except ConnectionResetError:
        content, ended = b"", "short"
    return Got(status=response.status, headers=response.headers, content=content, ended=ended)


def told(does: str) -> Rule:
    """A rule that holds for the model of that name."""
    return Rule(does=does, model=does, parameter="temperature" if does == "refuses" else None)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that does to each model what the model is called."""
    quick = tuple(told(does) for does in BEHAVIOURS if does != "die")
    with misbehaving(*quick) as running:
        yield running


# --- what it says -----------------------------------------------------------------------------------------------------


def test_a_request_is_answered_by_the_simulator_and_tokens_are_words(server: Server) -> None:
    got = ask(server)
    assert got.status == 200
    assert got.text == reply("offline/keyword", MESSAGES)
    assert got.json["usage"] == {
        "prompt_tokens": 12,
        "completion_tokens": len(got.text.split()),
        "total_tokens": 12 + len(got.text.split()),
    }


def test_a_script_may_say_the_answers() -> None:
    replies = (
        Told(says="billing", last="refund", earlier="Choose billing"),
        Told(says="bug", last="refund", earlier="Choose bug"),
        Told(says="account"),
    )
    with misbehaving(replies=replies) as server:
        assert ask(server, "a refund").text == "billing"  # of two that fit, the first
        assert ask(server, "a crash").text == "account"
        untaught = [{"role": "user", "content": "a refund. Choose billing."}]
        assert ask(server, messages=untaught).text == "account"


def test_nonsense_is_refused_and_not_counted(server: Server) -> None:
    before = len(server.log())
    assert ask(server, messages=[]).status == 400
    assert ask(server, messages=[{"role": "user"}]).status == 400
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        raw.sendall(b"Hello.\r\n\r\n")
        assert raw.recv(10) == b""
    assert len(server.log()) == before


STATUSES = {
    "429": (429, "rate_limit_exceeded"),
    "quota": (429, "insufficient_quota"),
    "500": (500, None),
    "502": (502, None),
    "503": (503, None),
    "529": (529, "overloaded_error"),
    "wrong key": (401, "invalid_api_key"),
    "unknown model": (404, "model_not_found"),
    "context length": (400, "context_length_exceeded"),
    "content policy": (400, "content_policy_violation"),
    "bad request": (400, None),
    "refuses": (400, "unsupported_value"),
    "error with 200": (200, None),
}


@pytest.mark.parametrize("does", STATUSES)
def test_an_error_has_its_status_and_code(server: Server, does: str) -> None:
    got = ask(server, model=does, temperature=0.0)
    assert (got.status, got.json["error"]["code"]) == STATUSES[does]
    assert got.json["error"]["message"]


def test_a_refused_key_is_repeated(server: Server) -> None:
    assert "sk-secret" in ask(server, model="wrong key", key="sk-secret").json["error"]["message"]


def _choice(got: Got) -> tuple[Any, Any]:
    choice = got.json["choices"][0]
    return choice["finish_reason"], choice["message"].get("content", "(none)")


def test_odd_completions_are_odd_in_the_way_they_are_called(server: Server) -> None:
    right = ask(server).text
    assert ask(server, model="no choices").json["choices"] == []
    several = ask(server, model="several choices").json["choices"]
    assert [choice["message"]["content"] for choice in several] == [right, "another choice"]
    assert _choice(ask(server, model="empty content")) == ("stop", "")
    assert _choice(ask(server, model="null content")) == ("stop", None)
    assert _choice(ask(server, model="length")) == ("length", "")
    assert _choice(ask(server, model="filtered")) == ("content_filter", "")
    assert ask(server, model="refusal").json["choices"][0]["message"]["refusal"]
    no_usage = ask(server, model="no usage")
    assert "usage" not in no_usage.json
    assert no_usage.text == right


def test_half_a_document_comes_with_the_length_of_a_half(server: Server) -> None:
    got = ask(server, model="truncated")
    assert (got.status, got.ended, len(got.content)) == (200, "whole", int(got.header("Content-Length") or 0))
    with pytest.raises(ValueError, match=r"delimiter|Expecting|Unterminated"):
        json.loads(got.content)


@pytest.mark.parametrize(("does", "status"), [("html", 200), ("html 502", 502)])
def test_a_page_is_a_page(server: Server, does: str, status: int) -> None:
    got = ask(server, model=does)
    assert (got.status, got.header("Content-Type")) == (status, "text/html")
    assert got.content.startswith(b"<!doctype html>")


def test_retry_after_comes_in_every_form() -> None:
    with misbehaving(
        Rule(does="429", numbers=(1,), retry_after="0.25"),
        Rule(does="429", numbers=(2,), retry_after_ms=250),
        Rule(does="503", numbers=(3,), retry_after_date_seconds=60),
        Rule(does="429", numbers=(4,)),
    ) as server:
        seconds, milliseconds, date, none = (ask(server) for _ in range(4))
    assert seconds.header("Retry-After") == "0.25"
    assert milliseconds.header("retry-after-ms") == "250"
    assert 50 < parsedate_to_datetime(date.header("Retry-After") or "").timestamp() - time.time() <= 60
    assert none.header("Retry-After") is None


# --- connections ------------------------------------------------------------------------------------------------------


def test_a_reset_leaves_nothing(server: Server) -> None:
    assert ask(server, model="reset") == Got(ended="reset")


def test_a_cut_leaves_half_a_body(server: Server) -> None:
    got = ask(server, model="cut")
    assert (got.status, got.ended) == (200, "short")


@pytest.mark.parametrize("at", [1, 17, 60])
def test_a_connection_is_cut_at_any_byte(at: int) -> None:
    with (
        misbehaving(Rule(does="cut", at=at)) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw,
    ):
        body = json.dumps({"model": "m", "messages": MESSAGES}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
        raw.sendall(head.encode() + body)
        received = _all_of(raw)
    assert received == b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 268"[:at]


def _all_of(raw: socket.socket) -> bytes:
    """Whatever comes before the reset, which must come."""
    received = b""
    try:
        while piece := raw.recv(1000):
            received += piece
    except ConnectionResetError:
        return received
    raise AssertionError("the connection ended without a reset")


def test_a_slow_body_comes_whole_in_the_end(server: Server) -> None:
    assert ask(server, model="drip").text == ask(server).text


def test_what_hangs_never_answers(server: Server) -> None:
    with pytest.raises(TimeoutError):
        ask(server, model="hang", timeout_seconds=0.1)
    assert ask(server).status == 200  # and the others are served


def test_one_connection_carries_many_requests(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    body = json.dumps({"model": "m", "messages": MESSAGES})
    connection.request("POST", "/v1/chat/completions", body)
    first = _read(connection.getresponse())
    own_port = connection.sock.getsockname()
    pieces = [body[:20].encode(), body[20:].encode()]
    connection.request("POST", "/v1/chat/completions", iter(pieces), encode_chunked=True)
    assert _read(connection.getresponse()).text == first.text
    assert connection.sock.getsockname() == own_port
    connection.close()


# --- the process ------------------------------------------------------------------------------------------------------


def test_a_server_that_dies_is_gone_and_its_log_is_not() -> None:
    with misbehaving(Rule(does="die", after=2)) as server:
        assert [ask(server).ended for _ in range(3)] == ["whole", "whole", "reset"]
        server.process.wait(10)
        with pytest.raises(ConnectionRefusedError):
            ask(server)
        assert server.is_gone
        assert server.counts() == {"answer": 2, "die": 1}


def test_the_next_server_takes_over_the_port_of_the_last() -> None:
    with misbehaving(Rule(does="die", after=1)) as first:
        ask(first)
        ask(first)
        first.process.wait(10)
        with misbehaving(port=first.port) as second:
            assert second.url == first.url
            assert ask(second).status == 200


def test_no_process_is_left_behind_even_when_the_test_fails() -> None:
    with pytest.raises(ZeroDivisionError), misbehaving() as server:
        raise ZeroDivisionError
    assert server.process.returncode is not None


def test_a_server_ends_with_whoever_started_it(tmp_path: Path) -> None:
    starter = (
        "import os, sys\n"
        "from tests.misbehaving.client import misbehaving\n"
        "with misbehaving() as server:\n"
        "    print(server.port, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", starter]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # nobody clears its temporary folder away
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            parent.kill()
            parent.wait(10)
            assert _end_of(raw) == b""


def _end_of(raw: socket.socket) -> bytes:
    try:
        return raw.recv(1)
    except ConnectionResetError:
        return b""


def test_the_command_line_takes_a_script_from_a_file(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('{"rules": [{"does": "500", "numbers": [1]}]}')
    command = [sys.executable, "-m", "tests.misbehaving.server", "--script", str(script), "--until-stdin-closes"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        port = int(process.stdout.readline())
        server = Server(url=f"http://127.0.0.1:{port}/v1", port=port, log_path=tmp_path / "log", process=process)
        assert [ask(server).status for _ in range(2)] == [500, 200]
        process.stdin.close()
        assert process.wait(10) == 0


def test_a_running_server_follows_another_script_and_counts_anew() -> None:
    with misbehaving(Rule(does="500", numbers=(2,))) as server:
        assert [ask(server).status for _ in range(2)] == [200, 500]
        server.follow(Rule(does="503", numbers=(2,)), replies=(Told(says="billing"),))
        assert server.log() == []
        assert ask(server).text == "billing"
        assert ask(server).status == 503
        assert [(seen.number, seen.behaviour) for seen in server.log()] == [(1, "answer"), (2, "503")]


# --- the log ----------------------------------------------------------------------------------------------------------


def test_the_log_has_every_request_with_key_and_body_in_order() -> None:
    with misbehaving(Rule(does="500", every=2)) as server:
        for text, key in (("one", "sk-a"), ("two", "sk-b"), ("three", "")):
            ask(server, text, key=key, temperature=0.5)
        log = server.log()
        assert [(seen.number, seen.text, seen.key, seen.behaviour) for seen in log] == [
            (1, "one", "sk-a", "answer"),
            (2, "two", "sk-b", "500"),
            (3, "three", "", "answer"),
        ]
        assert {seen.path for seen in log} == {"/v1/chat/completions"}
        assert all(seen.body["temperature"] == 0.5 for seen in log)
        assert [seen.seconds for seen in log] == sorted(seen.seconds for seen in log)


def test_a_storm_breaks_out_when_too_much_is_in_flight() -> None:
    with misbehaving(Rule(does="429", in_flight_above=3), latency_seconds=0.2) as server:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda number: ask(server, f"ticket {number}"), range(8)))
        assert all((seen.behaviour == "429") == (seen.in_flight > 3) for seen in server.log())
        assert server.counts()["429"] > 0


# --- who is meant -----------------------------------------------------------------------------------------------------


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def behaviours(script: Script, *bodies: dict[str, Any], key: str = "sk-a", in_flight: int = 1) -> list[str]:
    judge = Judge(script)
    return [judge.judge(key, body, in_flight=in_flight).behaviour for body in bodies]


def by(*rules: Rule, **settings: Any) -> Script:
    return Script(rules=rules, **settings)


def test_numbers_say_which_requests_are_meant() -> None:
    six = [chat()] * 6
    assert behaviours(by(Rule(does="500", numbers=(2, 5))), *six) == [
        "answer",
        "500",
        "answer",
        "answer",
        "500",
        "answer",
    ]
    assert behaviours(by(Rule(does="500", every=3)), *six) == ["answer", "answer", "500"] * 2
    assert behaviours(by(Rule(does="500", after=4)), *six) == ["answer"] * 4 + ["500"] * 2
    assert behaviours(by(Rule(does="500", until=4)), *six) == ["500"] * 4 + ["answer"] * 2


def test_conditions_hold_together_and_the_first_rule_that_holds_decides() -> None:
    script = by(Rule(does="429", after=1, until=2), Rule(does="500", every=2))
    assert behaviours(script, *[chat()] * 4) == ["answer", "429", "answer", "500"]


def test_a_rule_counts_only_the_requests_it_is_about() -> None:
    script = by(Rule(does="500", contains="crash", numbers=(2,)))
    texts = ["crash one", "refund", "crash two", "crash three"]
    assert behaviours(script, *map(chat, texts)) == ["answer", "answer", "500", "answer"]
    assert behaviours(by(Rule(does="500", model="other")), chat(), chat(model="other")) == ["answer", "500"]
    refuses = by(Rule(does="refuses", parameter="max_tokens"))
    assert behaviours(refuses, chat(), chat(max_tokens=3)) == ["answer", "refuses"]


def test_a_key_expires_after_its_own_requests() -> None:
    judge = Judge(by(Rule(does="wrong key", key="sk-a", after=2)))
    keys = ["sk-b", "sk-a", "sk-b", "sk-a", "sk-a", "sk-b"]
    assert [judge.judge(key, chat(), in_flight=1).behaviour for key in keys] == ["answer"] * 4 + ["wrong key", "answer"]


def test_tries_count_how_often_one_body_came() -> None:
    script = by(Rule(does="reset", tries=2))
    texts = ["one", "two", "one", "one", "two", "two"]
    assert behaviours(script, *map(chat, texts)) == ["reset", "reset", "reset", "answer", "reset", "answer"]


def test_a_share_meets_about_that_many_and_always_the_same() -> None:
    bodies = [chat(str(number)) for number in range(4000)]
    drawn = behaviours(by(Rule(does="500", share=0.05)), *bodies)
    assert 150 < drawn.count("500") < 250
    assert drawn == behaviours(by(Rule(does="500", share=0.05)), *reversed(bodies))  # numbers decide, not bodies
    assert drawn != behaviours(by(Rule(does="500", share=0.05), seed=1), *bodies)


def test_shares_of_different_rules_are_drawn_apart() -> None:
    drawn = behaviours(by(Rule(does="500", share=0.5), Rule(does="reset", share=0.5)), *[chat()] * 4000)
    assert 850 < drawn.count("reset") < 1150  # half of the other half
    assert 850 < drawn.count("answer") < 1150


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(), latency=st.floats(0, 5), spread=st.floats(0, 5), own=st.floats(0, 5))
def test_latency_stays_in_its_spread_and_comes_again_with_its_seed(
    seed: int, latency: float, spread: float, own: float
) -> None:
    script = by(
        Rule(does="500", every=2, latency_seconds=own), seed=seed, latency_seconds=latency, spread_seconds=spread
    )

    def delays() -> list[float]:
        judge = Judge(script)
        return [judge.judge("", chat(), in_flight=1).delay_seconds for _ in range(6)]

    drawn = delays()
    assert drawn == delays()
    for number, delay in enumerate(drawn, start=1):
        least = latency + (own if number % 2 == 0 else 0.0)
        assert least <= delay <= least + spread + 1e-9


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.builds(
        Script,
        rules=st.tuples(
            st.builds(
                Rule,
                does=st.sampled_from([*BEHAVIOURS]),
                numbers=st.none() | st.lists(st.integers()).map(tuple),
                share=st.none() | st.floats(0, 1),
                contains=st.none() | st.text(),
            )
        ),
        replies=st.lists(st.builds(Told, says=st.text(), last=st.text())).map(tuple),
        seed=st.integers(),
    )
)
def test_a_script_survives_its_journey_to_the_process(script: Script) -> None:
    assert Script.from_json(script.to_json()) == script


@pytest.mark.parametrize("text", ['{"rulez": []}', '{"rules": [{"does": "500", "evry": 2}]}'])
def test_a_misspelt_script_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="has no"):
        Script.from_json(text)


@pytest.mark.parametrize("rule", [Rule(does="dance"), Rule(does="refuses"), Rule(does="refuses", parameter="mood")])
def test_a_behaviour_that_nobody_knows_is_refused_before_the_process_starts(rule: Rule) -> None:
    with pytest.raises(ValueError, match=r"no server does|names its parameter"), misbehaving(rule):
        pass


def test_every_behaviour_is_shown_here() -> None:
    shown = {*STATUSES, *ANSWERS, "no choices", "empty content", "null content", "length", "filtered", "refusal"}
    shown |= {"truncated", "html", "html 502", "reset", "cut", "hang", "die"}
    assert shown == BEHAVIOURS.keys()
    assert REFUSALS.keys() == {"temperature", "max_tokens", "response_format"}
